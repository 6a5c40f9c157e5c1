"""What changed between two results: by how much, and whether that is more than the rounds differ anyway."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from uringzc.jobs.bench_report import BenchReport
from uringzc.report.files import File, FileError, SendReport
from uringzc.report.runs import METRICS, Key, Metric, Run, Spread, limits, runs, spread

#: of a Job: where it sent to is no difference
_NO_SETTING = ("to", "start_at", "bind")


class Difference(NamedTuple):
    """Something that both files say, and that is not the same."""

    what: str
    a: Any
    b: Any


@dataclass(frozen=True)
class Change:
    """A figure of a run in both files; None: a file has not got it."""

    name: str  #: of METRICS
    a: Spread | None
    b: Spread | None

    @property
    def metric(self) -> Metric:
        """What it is."""
        return METRICS[self.name]

    @property
    def change(self) -> float | None:
        """As a share of A's, infinite where that is 0; of shares the difference. None if one is missing."""
        if self.a is None or self.b is None:
            return None
        if self.metric.is_share or self.a.median == self.b.median:
            return self.b.median - self.a.median
        return self.b.median / self.a.median - 1 if self.a.median else math.inf

    @property
    def overlap(self) -> bool | None:
        """Whether the ranges of the rounds have a value in common; None with one round, or none."""
        if self.a is None or self.b is None or min(self.a.rounds, self.b.rounds) < 2:
            return None
        return max(self.a.low, self.b.low) <= min(self.a.high, self.b.high)

    @property
    def verdict(self) -> str:
        """ "better", "worse", "within the noise", "same", or "" if one file has not got it."""
        if self.a is None or self.b is None:
            return ""
        if self.a.median == self.b.median:
            return "same"
        if self.overlap:
            return "within the noise"
        return "better" if (self.b.median > self.a.median) == self.metric.more_is_better else "worse"

    def worse_than(self, share: float) -> bool:
        """Whether it is worse by more than that, and not by noise alone."""
        return self.verdict == "worse" and abs(self.change or 0.0) > share

    def as_dict(self) -> dict[str, Any]:
        """For JSON; an infinite change is None there."""
        change = self.change if self.change is None or math.isfinite(self.change) else None
        ends = {"a": self.a and self.a._asdict(), "b": self.b and self.b._asdict()}
        found = {"change": change, "overlap": self.overlap, "verdict": self.verdict}
        return {"metric": self.name} | ends | found


@dataclass(frozen=True)
class Pair:
    """A run that is in both files, and its figures."""

    key: Key
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Comparison:
    """Two files, B after A."""

    kind: str
    differences: tuple[Difference, ...]  #: of the machines and the settings
    pairs: tuple[Pair, ...]
    only_a: tuple[Key, ...]
    only_b: tuple[Key, ...]

    @property
    def one_round(self) -> bool:
        """Whether there is a figure of which nothing is known about the noise."""
        changes = [change for pair in self.pairs for change in pair.changes]
        return any(change.overlap is None and change.change is not None for change in changes)

    def worse(self, share: float) -> Iterator[tuple[Pair, Change]]:
        """What is worse by more than that, and not by noise alone."""
        for pair in self.pairs:
            for change in pair.changes:
                if change.worse_than(share):
                    yield pair, change

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "kind": self.kind,
            "differences": [difference._asdict() for difference in self.differences],
            "runs": [
                pair.key._asdict() | {"metrics": [change.as_dict() for change in pair.changes]}
                for pair in self.pairs
            ],
            "only_a": [key._asdict() for key in self.only_a],
            "only_b": [key._asdict() for key in self.only_b],
        }


def compare(a: File, b: File) -> Comparison:
    """Runs of a bench by engine, zero-copy, size and rate; send and recv have one in a file. FileError."""
    if a.kind != b.kind:
        raise FileError(f"{a.name} is of uringzc {a.kind} and {b.name} of uringzc {b.kind}: that is no pair")
    in_a, in_b = ({run.key: run for run in (*runs(file), *limits(file))} for file in (a, b))
    if a.kind != "bench":
        (key, one), (_, other) = *in_a.items(), *in_b.items()
        pairs = [_pair(key, one, other)]
        only_a: list[Key] = []
        only_b: list[Key] = []
    else:
        pairs = [_pair(key, run, in_b[key]) for key, run in in_a.items() if key in in_b]
        only_a = [key for key in in_a if key not in in_b]
        only_b = [key for key in in_b if key not in in_a]
    return Comparison(a.kind, tuple(_differences(a, b)), tuple(pairs), tuple(only_a), tuple(only_b))


def _pair(key: Key, a: Run, b: Run) -> Pair:
    changes = [Change(name, spread(a.values(name)), spread(b.values(name))) for name in METRICS]
    return Pair(key, tuple(change for change in changes if change.a or change.b))


def _differences(a: File, b: File) -> Iterator[Difference]:
    first, second = _said(a), _said(b)
    for what in first:
        if first[what] != second[what]:
            yield Difference(what, first[what], second[what])


def _said(file: File) -> dict[str, Any]:
    """What the result depends on, as far as the file says it."""
    report = file.report
    said: dict[str, Any] = {"uringzc": report.uringzc or None}
    if isinstance(report, BenchReport):
        said |= {"host": report.host, "seconds": report.seconds}
        for end, machine in (("", report.machine), ("other end's ", report.peer)):
            said |= {f"{end}{name}": value for name, value in asdict(machine).items()}
    elif isinstance(report, SendReport):
        job = report.job
        said |= {"engine": report.result.engine, "destinations": len(job.to)}
        names = [each.name for each in fields(job) if each.name not in (*_NO_SETTING, "engine")]
        said |= {name: getattr(job, name) for name in names}
    else:
        said |= {"rcvbuf": report.received.rcvbuf, "streams": len(report.received.streams)}
    return said
