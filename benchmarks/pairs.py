"""Rates of programs that send, compared in pairs: runs in turn, the median ratio and its interval.

The rate of one program on a shared machine differs by 10 % from one minute to the next; the ratio of two
programs that run within a few seconds of each other differs much less. So programs run in rounds, each once
a round, in random order, since what ran just before may matter. Each round gives one ratio of two programs,
and the result is the median. Its interval is that of order statistics, which
assumes nothing about the distribution: a ratio is as likely to be above the true median as below it, so the
median lies between the k-th smallest and the k-th largest of n ratios as often as n tosses of a coin show
each side k times or more.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

FEWEST = 6  # pairs: fewer have no interval of 95 %
Target = float | tuple[float, float]  # what a ratio should be at least, or from and to


@dataclass(frozen=True)
class Sample:
    """What one run sent. `copied_share`: the share of requests that the kernel copied, None if unknown."""

    datagrams: int
    seconds: float
    cpu_seconds: float
    copied_share: float | None = None

    @property
    def rate(self) -> float:
        """Datagrams per second."""
        return self.datagrams / self.seconds

    @property
    def cpu_ns(self) -> float:
        """CPU time per datagram, user and system, in nanoseconds."""
        return self.cpu_seconds / self.datagrams * 1e9


@dataclass(frozen=True)
class Contender:
    """A program to measure: `run(seconds)` sends for about that long."""

    name: str
    run: Callable[[float], Sample]
    target: Target | None = None  # the ratio to this program that the first one should reach

    def wanting(self, target: Target | None) -> Contender:
        """Return the same program with that target."""
        return replace(self, target=target)


@dataclass(frozen=True)
class Comparison:
    """All runs of two programs; the i-th of each ran in the same round."""

    case: str
    against: str
    target: Target | None
    samples: tuple[Sample, ...]
    against_samples: tuple[Sample, ...]
    ratio_only: bool = False  # the samples are `relative`: their rates and CPU times say nothing

    @property
    def ratios(self) -> list[float]:
        """The rate as a multiple of the other program's, for each pair."""
        return [a.rate / b.rate for a, b in zip(self.samples, self.against_samples, strict=True)]


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the narrowest order-statistic interval that covers the median of FEWEST or more with 95 %."""
    ordered, n = sorted(values), len(values)
    outside, k = 2 * 0.5**n, 1  # the probability that the median is outside of the k-th values
    while 2 * (k + 1) <= n:
        outside += 2 * math.comb(n, k) * 0.5**n
        if outside > 0.05:
            break
        k += 1
    return ordered[k - 1], ordered[n - k]


def sample(
    seconds: float, chunk: Callable[[], object], datagrams: int, copied_share: float | None = None
) -> Sample:
    """Call `chunk()`, which sends `datagrams`, until `seconds` have passed.

    A chunk should take some milliseconds, since the clock is read after each.
    """
    chunks, cpu, start = 0, time.process_time(), time.perf_counter()
    now, until = start, start + seconds
    while now < until:
        chunk()
        chunks += 1
        now = time.perf_counter()
    return Sample(chunks * datagrams, now - start, time.process_time() - cpu, copied_share)


def compare(
    case: str, contenders: Sequence[Contender], *, pairs: int, seconds: float, progress: Progress
) -> list[Comparison]:
    """Run the contenders in `pairs` rounds, in random order, and compare the first one with every other."""
    if len(contenders) < 2 or pairs < FEWEST:
        raise ValueError(f"2 contenders and {FEWEST} pairs are needed, not {len(contenders)} and {pairs}")
    taken: list[list[Sample]] = [[] for _ in contenders]
    task = progress.add_task(case, total=pairs * len(contenders), name="warming up")
    for contender in contenders:
        contender.run(0.1)
    turns = list(zip(contenders, taken, strict=True))
    for _ in range(pairs):
        random.shuffle(turns)
        for contender, samples in turns:
            progress.update(task, name=contender.name)
            samples.append(_checked(contender, contender.run(seconds)))
            progress.advance(task)
    progress.remove_task(task)
    return [
        Comparison(case, other.name, other.target, tuple(taken[0]), tuple(samples))
        for other, samples in zip(contenders[1:], taken[1:], strict=True)
    ]


def relative(a: Sequence[Sample], b: Sequence[Sample]) -> tuple[Sample, ...]:
    """Return `a` with each rate as a multiple of the rate in `b`."""
    return tuple(replace(x, seconds=x.seconds * y.rate) for x, y in zip(a, b, strict=True))


def progress_bars() -> Progress:
    """Return the display of the progress, which all comparisons share."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[name]}"), transient=True)


def _checked(contender: Contender, taken: Sample) -> Sample:
    if taken.datagrams <= 0 or taken.seconds <= 0:
        raise RuntimeError(f"{contender.name} sent nothing: {taken}")
    return taken
