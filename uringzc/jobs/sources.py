"""Where a job's datagrams come from: each source gives blocks of them, which are sent one after the other.

A block is made when it is asked for, so its time stamps are as late as they can be. Generated payload and
numbered pieces are written into a few registered blocks that take turns, each when its notifier is done; a
file that is sent as it is, is sent from where it is mapped (``files.py``).
"""

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np

from uringzc import Notifier, UdpSender
from uringzc.address import Address
from uringzc.jobs import header
from uringzc.jobs.job import Job, parse_rate

BLOCK = 1 << 20  #: bytes
_DATAGRAMS = 2048  # of a block, at most
_TURNS = 4  # blocks
_TRAIN, _TRAIN_BYTES = 128, 65507  # of a train (GSO batch)
_PACED = 0.001  # seconds of a paced job that a block lasts


class Block(NamedTuple):
    """Datagrams that are sent together."""

    datagrams: int
    nbytes: int
    send: Callable[[Address | None], object]  #: to one destination
    sent: Callable[[Notifier], object] = lambda notifier: None  #: called with the flush's notifier
    stream: int = 0  #: of a job that spreads: the stream, and so the destination


class Source:
    """Blocks of a job's datagrams. A context manager, since it may have a file open."""

    #: datagrams in all, as far as that is known at the beginning
    total: int | None = None
    numbered = False

    def __init__(self, tx: UdpSender, job: Job, streams: list[int]) -> None:
        self.tx, self.job, self.streams = tx, job, streams
        self.on_exit = ExitStack()
        #: datagrams and bytes of payload that each stream has had
        self.numbers, self.offsets = [0] * len(streams), [0] * len(streams)

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *error: object) -> None:
        self.on_exit.close()

    def blocks(self, most: Callable[[], int]) -> Iterator[Block]:
        """Until there is no more. `most`: how many datagrams may follow, 1 or more; it waits for the rate."""
        raise NotImplementedError

    def last(self, stream: int) -> bytes:
        """The datagram that ends a stream."""
        return header.last_datagram(
            self.streams[stream], self.numbers[stream], self.offsets[stream], time.time_ns()
        )


def in_block(job: Job) -> int:
    """How many datagrams a block has: some full trains, or what may leave in a millisecond."""
    train = max(1, min(_TRAIN, _TRAIN_BYTES // job.size))
    count = train * max(1, min(_DATAGRAMS // train, BLOCK // (train * job.size)))
    if job.rate is not None:
        count = min(count, max(1, int(parse_rate(job.rate).pps(job.size) * _PACED)))
    return count


class Turns:
    """Registered blocks that take turns: one is written to when the kernel is done with it."""

    def __init__(self, tx: UdpSender, size: int, count: int) -> None:
        self.tx, self.size = tx, size
        self._blocks = [_memory(tx, size * count) for _ in range(_TURNS)]
        self._views = [memoryview(getattr(block, "view", block)) for block in self._blocks]
        self.headers = [header.words_of(view, count, size) for view in self._views if size >= header.SIZE]
        self.rows = [np.frombuffer(view, np.uint8).reshape(count, size) for view in self._views]
        self._notifiers: list[Notifier | None] = [None] * _TURNS
        self._turn = 0

    def next(self) -> int:
        """The index of the next block; waits until its memory is free."""
        self._turn = (self._turn + 1) % _TURNS
        if notifier := self._notifiers[self._turn]:
            notifier.wait()
        return self._turn

    def block(self, turn: int, datagrams: int, nbytes: int, stream: int = 0) -> Block:
        """The first `nbytes` of a block as datagrams."""
        memory, size = self._blocks[turn], self.size

        def send(to: Address | None) -> None:
            self.tx.send_region(memory, 0, nbytes, segment=size, to=to)

        def sent(notifier: Notifier) -> None:
            self._notifiers[turn] = notifier

        return Block(datagrams, nbytes, send, sent, stream)


def _memory(tx: UdpSender, nbytes: int) -> Any:
    """Registered memory; where too little may be locked, any."""
    try:
        return tx.register(nbytes)
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        return bytearray(nbytes)


class Generated(Source):
    """The same random bytes in each datagram, behind a header if there is room for it."""

    def __init__(self, tx: UdpSender, job: Job, streams: list[int]) -> None:
        super().__init__(tx, job, streams)
        self.numbered = job.size >= header.SIZE
        self._count = in_block(job)
        self._turns = Turns(tx, job.size, self._count)
        payload = np.frombuffer(np.random.default_rng(streams[0]).bytes(job.size), np.uint8)
        for rows in self._turns.rows:
            rows[:] = payload
        if self.numbered:
            self._sums = header.payload_sums(payload[None, header.SIZE :])[0]
            self._piece = job.size - header.SIZE
            self._range = np.arange(self._count, dtype=np.uint64)

    def blocks(self, most: Callable[[], int]) -> Iterator[Block]:
        """In turn for each of the streams."""
        size, stream = self.job.size, 0
        while True:
            turn = self._turns.next()
            count = min(self._count, most())
            if self.numbered:
                self._fill(self._turns.headers[turn][:count], stream)
            yield self._turns.block(turn, count, count * size, stream)
            stream = (stream + 1) % len(self.streams)

    def _fill(self, headers: header.Words, stream: int) -> None:
        count = len(headers)
        numbers = self._range[:count] + np.uint64(self.numbers[stream])
        offsets = numbers * np.uint64(self._piece)
        header.fill(headers, self.streams[stream], numbers, time.time_ns(), offsets, self._sums)
        self.numbers[stream] += count
        self.offsets[stream] += count * self._piece
