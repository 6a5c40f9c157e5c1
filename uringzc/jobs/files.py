"""Datagrams from a file, a pipe or standard input: mapped pieces, pieces that are read, or lines."""

import errno
import mmap
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np

from uringzc import UdpSender
from uringzc.address import Address
from uringzc.jobs import header
from uringzc.jobs.job import MOST, Job
from uringzc.jobs.sources import Block, Generated, Source, Turns, in_block

_READ = 1 << 16
_LINES = 1000  # in a block


def make_source(tx: UdpSender, job: Job, streams: list[int]) -> Source:
    """Opens the job's file, if it has one. OSError and ValueError."""
    if job.file is None:
        return Generated(tx, job, streams)
    if job.pcap:
        from uringzc.jobs.capture import Capture

        return Capture(tx, job, streams)
    if job.lines:
        return Lines(tx, job, streams)
    if job.numbered or job.file == "-" or not stat.S_ISREG(os.stat(job.file).st_mode):
        return Pieces(tx, job, streams)
    return Mapped(tx, job, streams)


class Mapped(Source):
    """The pieces of a regular file as they are, from where it is mapped."""

    def __init__(self, tx: UdpSender, job: Job, streams: list[int]) -> None:
        super().__init__(tx, job, streams)
        assert job.file is not None
        with open(job.file, "rb") as file:
            self._first, self._behind = share_of(os.fstat(file.fileno()).st_size, job)
            self._memory = (
                mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) if self._behind > self._first else None
            )
        self.total = -(-(self._behind - self._first) // job.size) * job.repeat or None

    def blocks(self, most: Callable[[], int]) -> Iterator[Block]:
        """The share of the file, as often as it is repeated."""
        size, per_block, done = self.job.size, in_block(self.job), 0
        memory = self._memory
        while memory is not None and (self.job.repeat == 0 or done < self.job.repeat):
            at = self._first
            while at < self._behind:
                length = min(size * min(per_block, most()), self._behind - at)

                def send(to: Address | None, at: int = at, length: int = length) -> None:
                    self.tx.send_region(memory, at, length, segment=size, to=to)

                yield Block(-(-length // size), length, send)
                at += length
            done += 1


def share_of(length: int, job: Job) -> tuple[int, int]:
    """The bytes of a file of `length` that the job sends: whole datagrams, but for the last of the file."""
    piece = job.size - header.SIZE if job.numbered else job.size
    pieces = -(-length // piece)
    part, parts = job.share
    return min(length, pieces * part // parts * piece), min(length, pieces * (part + 1) // parts * piece)


class Pieces(Source):
    """What is read from a file or a pipe, in pieces of one size; numbered ones behind their headers."""

    def __init__(self, tx: UdpSender, job: Job, streams: list[int]) -> None:
        super().__init__(tx, job, streams)
        self.numbered = job.numbered
        self._piece = job.size - header.SIZE if job.numbered else job.size
        self._count = in_block(job)
        self._turns = Turns(tx, job.size, self._count)
        self._read = Reader(job, self.on_exit)
        if self._read.length is not None and job.repeat:
            self.total = -(-self._read.length // self._piece) * job.repeat or None

    def blocks(self, most: Callable[[], int]) -> Iterator[Block]:
        """As much at a time as there is, in full pieces; the last piece is what is left."""
        done = 0
        while self.job.repeat == 0 or done < self.job.repeat:
            self._read.rewind()
            at, data = self._read.first, b""
            while True:
                turn = self._turns.next()
                room = min(self._count, most())
                data, ended = self._read.pieces(data, self._piece, room)
                if not data:
                    break
                count = min(room, -(-len(data) // self._piece) if ended else len(data) // self._piece)
                taken = min(len(data), count * self._piece)
                yield self._block(turn, count, data[:taken], at)
                at, data = at + taken, data[taken:]
            done += 1
            if at == self._read.first:
                break  # it is empty

    def _block(self, turn: int, count: int, data: bytes, at: int) -> Block:
        rows, gap = self._turns.rows[turn], self.job.size - self._piece
        whole, rest = divmod(len(data), self._piece)
        source = np.frombuffer(data, np.uint8)
        rows[:whole, gap:] = source[: whole * self._piece].reshape(whole, self._piece)
        nbytes = whole * self.job.size
        if rest:
            rows[whole, gap : gap + rest] = source[whole * self._piece :]
            nbytes += gap + rest
        if self.numbered:
            sums = [header.payload_sums(rows[:whole, gap:])]
            if rest:
                sums.append(header.payload_sums(rows[whole : whole + 1, gap : gap + rest]))
            numbers = np.arange(self.numbers[0], self.numbers[0] + count, dtype=np.uint64)
            offsets = np.arange(count, dtype=np.uint64) * np.uint64(self._piece) + np.uint64(at)
            header.fill(
                self._turns.headers[turn][:count],
                self.streams[0],
                numbers,
                time.time_ns(),
                offsets,
                np.concatenate(sums),
            )
            self.numbers[0] += count
            self.offsets[0] += len(data)
        return self._turns.block(turn, count, nbytes)


class Reader:
    """Bytes of a file's share, of a pipe, or of standard input."""

    def __init__(self, job: Job, on_exit: ExitStack) -> None:
        assert job.file is not None
        if job.file == "-":
            self._fd = sys.stdin.fileno()
        else:
            self._fd = os.open(job.file, os.O_RDONLY)
            on_exit.callback(os.close, self._fd)
            if stat.S_ISDIR(os.fstat(self._fd).st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), job.file)
        self.first, self.length = 0, None
        self._regular = job.file != "-" and stat.S_ISREG(os.fstat(self._fd).st_mode)
        if self._regular:
            self.first, behind = share_of(os.fstat(self._fd).st_size, job)
            self.length = behind - self.first
        elif job.share != (0, 1) or job.repeat != 1:
            raise ValueError(f"share and repeat need a regular file: {job.file} is none")
        self._left = self.length

    length: int | None  #: bytes; None: until its end

    def rewind(self) -> None:
        """Back to the beginning of the share."""
        if self._regular:
            os.lseek(self._fd, self.first, os.SEEK_SET)
            self._left = self.length

    def read(self, nbytes: int) -> bytes:
        """What is there, at most `nbytes`; b"" at the end. Waits for a pipe."""
        if self._left is None:
            return os.read(self._fd, nbytes)
        data = os.read(self._fd, min(nbytes, self._left))
        if self._left and not data:
            raise ValueError("the file became shorter while it was sent")
        self._left -= len(data)
        return data

    def pieces(self, data: bytes, piece: int, most: int) -> tuple[bytes, bool]:
        """`data` and what follows it: one full piece at least, up to `most`. Whether that was the end."""
        while len(data) < piece:
            more = self.read(max(piece * most, _READ) - len(data))
            if not more:
                return data, True
            data += more
        return data, False


class Lines(Source):
    """Each line a datagram, with its end. What is there is sent at once."""

    def __init__(self, tx: UdpSender, job: Job, streams: list[int]) -> None:
        super().__init__(tx, job, streams)
        self._read = Reader(job, self.on_exit)

    def blocks(self, most: Callable[[], int]) -> Iterator[Block]:
        """Lines as they come; at most a thousand in a block."""
        done = 0
        while self.job.repeat == 0 or done < self.job.repeat:
            self._read.rewind()
            rest, empty = b"", True
            while data := self._read.read(_READ):
                *ended, rest = (rest + data).split(b"\n")
                empty = False
                if len(rest) > MOST:
                    raise ValueError(f"a line has more than the {MOST} bytes of a datagram")
                lines = [line + b"\n" for line in ended]
                yield from self._of(lines, most)
            if rest:
                yield from self._of([rest], most)
            done += 1
            if empty:
                break

    def _of(self, lines: list[bytes], most: Callable[[], int]) -> Iterator[Block]:
        at = 0
        while at < len(lines):
            some = lines[at : at + min(_LINES, most())]

            def send(to: Address | None, some: list[bytes] = some) -> None:
                self.tx.send_many(some, to)

            yield Block(len(some), sum(map(len, some)), send)
            at += len(some)
