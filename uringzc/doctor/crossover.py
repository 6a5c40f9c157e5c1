"""Where copying and zero-copy cross: from measurements to a threshold. Pure.

A size is decided by the median, over the rounds, of what zero-copy saves; the copy and the zero-copy of one
round were measured one after the other, so what slows the machine down meanwhile slows both. Noise decides
nothing: a size counts only if the median is at least MARGIN and most rounds agree about the sign. The
threshold is the size from which on the sizes that count save the most together, so one size that was
disturbed does not hide the others.
"""

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

MARGIN = 0.03  # of the CPU time
AGREE = 0.85  # of the rounds, of which there are 9 or more: chance does that in less than 4 of 100 cases
FIRST = 256  # bytes
LARGEST = 65507  # bytes of a UDP datagram over IPv4, and of a train
_STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


class Shape(NamedTuple):
    """A request: `datagrams` of `size` bytes, sent as a train if there are several."""

    datagrams: int
    size: int

    @property
    def nbytes(self) -> int:
        """Of the request."""
        return self.datagrams * self.size


class Measured(NamedTuple):
    """CPU time in ns for a request, in each round."""

    nbytes: int
    copy: Sequence[float]
    zero_copy: Sequence[float]

    @property
    def saved(self) -> float:
        """The share of the CPU time that zero-copy saves, a median; below 0: it costs more."""
        return median(self._savings()) if self.copy else 0.0

    @property
    def better(self) -> str:
        """ "copy" or "zero-copy"; "same" if it makes no difference, "unclear" if the rounds do not agree."""
        saved = self.saved
        if abs(saved) < MARGIN:
            return "same"
        if sum((one > 0) == (saved > 0) for one in self._savings()) < AGREE * len(self.copy):
            return "unclear"
        return "zero-copy" if saved > 0 else "copy"

    def _savings(self) -> list[float]:
        return [1 - zero / copy for copy, zero in zip(self.copy, self.zero_copy, strict=True)]


def shapes(payload: int, segments: int) -> list[Shape]:
    """The requests to measure: single datagrams up to `payload` bytes, then trains of such datagrams.

    `payload`: bytes of the largest datagram that is not fragmented; `segments`: datagrams of a train, 1 for
    no trains. Each is up to half as large again as the one before, or twice as large.
    """
    payload = min(payload, LARGEST)
    singles = [size << shift for shift in range(8) for size in (FIRST, FIRST * 3 // 2)]
    found = [Shape(1, size) for size in singles if size * 5 // 4 < payload]
    most = min(segments, LARGEST // payload)
    counts = [count for count in _STEPS if count * 5 // 4 < most or count == 1]
    return found + [Shape(count, payload) for count in dict.fromkeys([*counts, most])]


def threshold(measured: Sequence[Measured]) -> int | None:
    """Bytes of a request from which on zero-copy costs less; None: it does not."""
    best, total, found = 0.0, 0.0, None
    for one in sorted(measured, reverse=True):
        total += one.saved if one.better in ("copy", "zero-copy") else 0.0
        if total > best:
            best, found = total, one.nbytes
    return found
