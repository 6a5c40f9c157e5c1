"""Datagrams as they came, taken apart: those of numbered streams, and the others."""

from collections.abc import Callable

import numpy as np

from uringzc.address import Address, is_own, joined
from uringzc.jobs import header
from uringzc.jobs.header import Bytes, Words
from uringzc.jobs.reader import Batch
from uringzc.jobs.streams import Stream

STREAMS = 1024  #: of more, nothing is said: they count as datagrams without a number

#: takes offsets in what a stream carries, and the payload that belongs there, a row for each datagram
Write = Callable[[Words, Bytes], None]


class Arrivals:
    """Everything that came. `write`: payload of numbered datagrams; `append`: a datagram without a header."""

    def __init__(self, write: Write | None, append: Callable[[bytes], None] | None) -> None:
        self._write, self._append = write, append
        self.streams: dict[int, Stream] = {}
        self.datagrams = self.nbytes = self.unnumbered = 0

    def take(self, batch: Batch) -> tuple[int, int]:
        """Counts them. Returns how many, and their bytes: without those that end a stream."""
        sizes, joined, starts, came = batch.sizes, batch.memory, batch.starts, batch.came
        numbered = np.flatnonzero(sizes >= header.SIZE)
        headers = _headers(joined, starts[numbered])
        known = self._of_streams(headers, lambda at: batch.addresses[batch.train[numbered[at]]])
        if not known.all():
            headers, numbered = headers[known], numbered[known]
        ends = (headers[:, 4] >> np.uint64(32) & np.uint64(header.END)) != 0
        good = self._intact(joined, starts[numbered], sizes[numbered], headers, ends)
        self._count_streams(headers, sizes[numbered], came[numbered], good, ends)
        others = np.ones(len(batch), bool)
        others[numbered] = False
        self.unnumbered += int(others.sum())
        if self._append:
            for i in np.flatnonzero(others):
                self._append(joined[starts[i] : starts[i] + sizes[i]].tobytes())
        count = len(batch) - int(ends.sum())
        nbytes = int(sizes.sum()) - int(ends.sum()) * header.SIZE
        self.datagrams += count
        self.nbytes += nbytes
        return count, nbytes

    def _of_streams(self, headers: Words, address: Callable[[int], Address]) -> Words:
        """Which have the header of a stream that there is, or may be, now."""
        magic = headers[:, 0] & np.uint64(0xFFFFFFFF) == np.uint64(header.MAGIC)
        ids = headers[:, 0] >> np.uint64(32)
        if len(ids) and bool(magic.all()) and bool((ids == ids[0]).all()) and int(ids[0]) in self.streams:
            return magic
        for stream, first in zip(*np.unique(ids[magic], return_index=True), strict=True):
            if int(stream) in self.streams:
                continue
            at = int(np.flatnonzero(magic)[first])
            if len(self.streams) == STREAMS:
                magic &= ids != stream
            else:
                host, port = address(at)[:2]
                self.streams[int(stream)] = Stream(int(stream), joined(host, port), is_own(host))
        return magic

    def _intact(self, joined: Bytes, starts: Words, sizes: Words, headers: Words, ends: Words) -> Words:
        """Which have the right checksum. Payload of those is written."""
        good = np.zeros(len(sizes), bool)
        for size in _distinct(sizes):
            some = slice(None) if _all_same(sizes) else sizes == size
            rows = _rows(joined, starts[some], int(size))[:, header.SIZE :]
            fine = header.intact(headers[some], header.payload_sums(rows))
            good[some] = fine
            fine = fine & ~ends[some]
            if self._write and bool(fine.any()):
                self._write(headers[some, 3][fine].astype(np.int64), rows[fine])
        return good

    def _count_streams(self, headers: Words, sizes: Words, came: Words, good: Words, ends: Words) -> None:
        ids = headers[:, 0] >> np.uint64(32)
        fine = good & ~ends
        for number in _distinct(ids):
            stream = self.streams[int(number)]
            if _all_same(ids) and fine.all():
                stream.take(headers[:, 1], sizes, came, headers[:, 2])
                continue
            own = ids == number
            some = own & fine
            stream.corrupt += int((own & ~good).sum())
            if some.any():
                stream.take(headers[some, 1], sizes[some], came[some], headers[some, 2])
            for at in np.flatnonzero(own & good & ends):
                stream.end = int(headers[at, 1])


def _all_same(values: Words) -> bool:
    return bool((values == values[0]).all())


def _distinct(values: Words) -> Words:
    """As np.unique(), which sorts, and is needed seldom."""
    return values[:1] if len(values) and _all_same(values) else np.unique(values)


def _headers(joined: Bytes, starts: Words) -> Words:
    """The headers that begin there, a row of words each."""
    return _rows(joined, starts, header.SIZE).view(np.dtype("<u8"))


def _rows(joined: Bytes, starts: Words, size: int) -> Bytes:
    """`size` bytes from each start on: without a copy where the starts are evenly spaced."""
    count = len(starts)
    if count == 0:
        return np.empty((0, size), np.uint8)
    step = int(starts[1] - starts[0]) if count > 1 else size
    if count == 1 or (step >= size and bool((np.diff(starts) == step).all())):
        return np.ndarray((count, size), np.uint8, joined, int(starts[0]), (step, 1))
    return np.ndarray((len(joined) - size + 1, size), np.uint8, joined, 0, (1, 1))[starts]
