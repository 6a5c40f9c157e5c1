"""What came of a numbered stream: loss, duplicates, order and latency, for many datagrams at once."""

import numpy as np

from uringzc.jobs.header import Words
from uringzc.jobs.receive_job import StreamReport

WINDOW = 1 << 20  #: numbers behind the highest that are remembered: of older ones none is a duplicate
_SAMPLES = 1 << 18  # latencies that are kept
_PERCENTILES = (50, 90, 99, 99.9)


class Samples:
    """Evenly spaced samples of a long series, and its smallest and largest value."""

    def __init__(self) -> None:
        self._kept = np.empty(_SAMPLES, np.int64)
        self._count, self._step, self._skip = 0, 1, 0
        self.least, self.most = 1 << 62, -(1 << 62)

    def add(self, values: Words) -> None:
        """`values`: int64."""
        self.least, self.most = min(self.least, int(values.min())), max(self.most, int(values.max()))
        some = values[self._skip :: self._step]
        self._skip = (self._skip - len(values)) % self._step
        while self._count + len(some) > _SAMPLES:
            half = self._kept[: self._count : 2].copy()  # every second of those kept, and from now on
            self._kept[: len(half)] = half
            odd = self._count % 2
            self._count = len(half)
            some = some[odd::2]
            self._step *= 2
        self._kept[self._count : self._count + len(some)] = some
        self._count += len(some)

    def percentiles(self) -> dict[str, float]:
        """With "min" and "max"; {} of nothing."""
        if not self._count:
            return {}
        found = np.percentile(self._kept[: self._count], _PERCENTILES)
        named = {f"p{percent:g}": float(value) for percent, value in zip(_PERCENTILES, found, strict=True)}
        return {"min": float(self.least), **named, "max": float(self.most)}


class Stream:
    """One stream, from its first datagram that came."""

    def __init__(self, stream: int, address: str, same_clock: bool) -> None:
        self.stream, self.address, self.same_clock = stream, address, same_clock
        self.datagrams = self.nbytes = self.duplicates = self.reordered = self.corrupt = 0
        self.end: int | None = None
        self._first: int | None = None
        self._highest = -1
        self._seen = np.zeros(WINDOW, bool)
        self._latency = Samples()

    @property
    def expected(self) -> int:
        """Datagrams that were sent, as far as that is known."""
        return self._highest + 1 if self.end is None else max(self.end, self._highest + 1)

    @property
    def lost(self) -> int:
        """Those that did not come, so far."""
        return self.expected - self.datagrams

    def take(self, numbers: Words, nbytes: Words, came: Words, made: Words) -> None:
        """Datagrams in the order in which they came, intact: their numbers, sizes and times."""
        self._latency.add(came.view(np.int64) - made.view(np.int64))
        count = len(numbers)
        first, last = int(numbers[0]), int(numbers[-1])
        least = int(numbers.min())
        self._first = least if self._first is None else min(least, self._first)
        if (
            first == self._highest + 1
            and last - first == count - 1
            and bool((numbers[1:] - numbers[:-1] == 1).all())
        ):
            self._forget(last)
            self._mark(first, count)
            self._count(count, int(nbytes.sum()))
        else:
            self._take_unordered(numbers, nbytes)

    def _take_unordered(self, numbers: Words, nbytes: Words) -> None:
        behind = np.empty(len(numbers), np.int64)  # the highest number before each
        signed = numbers.astype(np.int64)
        behind[0] = self._highest
        np.maximum.accumulate(signed[:-1], out=behind[1:])
        np.maximum(behind, self._highest, out=behind)
        each, firsts = np.unique(signed, return_index=True)
        known = (each > self._highest - WINDOW) & (each <= self._highest)
        new = firsts[~(known & self._seen[each % WINDOW])]
        self._forget(int(each[-1]))
        self._seen[each[each > self._highest - WINDOW] % WINDOW] = True
        self.duplicates += len(numbers) - len(new)
        self.reordered += int((signed[new] < behind[new]).sum())
        self._count(len(new), int(nbytes[new].sum()))

    def _count(self, datagrams: int, nbytes: int) -> None:
        self.datagrams += datagrams
        self.nbytes += nbytes

    def _forget(self, highest: int) -> None:
        """The window goes on to `highest`: what is new in it was not seen."""
        if highest <= self._highest:
            return
        if highest - self._highest >= WINDOW:
            self._seen[:] = False
        else:
            self._mark(self._highest + 1, highest - self._highest, False)
        self._highest = highest

    def _mark(self, first: int, count: int, seen: bool = True) -> None:
        at = first % WINDOW
        if count > WINDOW:
            self._seen[:] = seen
            return
        self._seen[at : at + count] = seen
        self._seen[: max(0, at + count - WINDOW)] = seen

    def report(self) -> StreamReport:
        """As it is now."""
        return StreamReport(
            stream=self.stream,
            address=self.address,
            datagrams=self.datagrams,
            nbytes=self.nbytes,
            expected=self.expected,
            lost=self.lost,
            head=self.expected if self._first is None else self._first,
            duplicates=self.duplicates,
            reordered=self.reordered,
            corrupt=self.corrupt,
            ended=self.end is not None,
            same_clock=self.same_clock,
            latency=self._latency.percentiles(),
        )
