"""What is kept of the comparisons: results.json, a line for each case, from which everything is drawn.

The single runs are not kept; `make bench` writes them to benchmarks/build/, which git ignores.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import uringzc
from benchmarks.pairs import Comparison, Sample, Target, median_interval

T = TypeVar("T")
DIGITS = 4  # significant ones of all that is kept


@dataclass(frozen=True)
class Case:
    """One comparison. Of two figures the first is the library's, the second that of the other program."""

    topic: str
    case: str
    against: str
    target: Target | None  # what `ratio` should be
    pairs: int
    ratio: float  # of the rates: the median over the pairs
    interval: tuple[float, float]  # holds the true median with 95 %
    range: tuple[float, float]
    rates: tuple[float, float] | None  # datagrams, or writes, per second: medians
    cpu_ns: tuple[float, float] | None  # CPU time per datagram or write: medians
    copied: tuple[float | None, float | None]  # share of requests that the kernel copied

    @property
    def met(self) -> bool | None:
        """Whether the target is reached, None without one. A target of 1: whether the interval reaches it."""
        if self.target is None:
            return None
        if isinstance(self.target, tuple):
            return self.target[0] <= self.ratio <= self.target[1]
        return self.ratio >= self.target or (self.target == 1 and self.interval[1] >= 1)

    @property
    def verdict(self) -> str:
        """`met` in words, as table, picture and terminal show it."""
        return {True: "met", False: "missed", None: ""}[self.met]


@dataclass(frozen=True)
class Arrivals:
    """Numbered datagrams over one path: how many were sent and received, how many overtook another."""

    path: str
    sizes: tuple[int, int]  # smallest and largest, in bytes
    sent: int
    received: int
    reordered: int


@dataclass
class Results:
    """Everything that results.json has."""

    about: dict[str, str]
    cases: list[Case] = field(default_factory=list)
    by_size: dict[int, dict[str, float]] = field(default_factory=dict)  # bytes -> program -> requests/s
    #: bytes -> engine -> datagrams/s, and CPU time of one in nanoseconds
    frames: dict[int, dict[str, tuple[float, float]]] = field(default_factory=dict)
    arrivals: list[Arrivals] = field(default_factory=list)
    memory: dict[str, float] = field(default_factory=dict)  # bytes, by kind of request
    trains: dict[str, dict[str, int]] = field(default_factory=dict)  # case of "asyncio" -> length -> trains
    endpoints: dict[str, dict[str, int]] = field(default_factory=dict)  # loop -> how many -> bytes

    def find(self, topic: str, case: str, against: str) -> Case | None:
        """Return that case, if it was measured."""
        key = (topic, case, against)
        return next((one for one in self.cases if (one.topic, one.case, one.against) == key), None)


def updated(kept: Results, measured: Results) -> Results:
    """Return `kept` with what was measured in place of the same cases, and new cases behind their topic's."""
    cases = {(case.topic, case.case, case.against): case for case in kept.cases + measured.cases}
    topics = list(dict.fromkeys(case.topic for case in cases.values()))
    return Results(
        kept.about,
        sorted(cases.values(), key=lambda case: topics.index(case.topic)),
        kept.by_size | measured.by_size,
        kept.frames | measured.frames,
        list({arrivals.path: arrivals for arrivals in kept.arrivals + measured.arrivals}.values()),
        kept.memory | measured.memory,
        kept.trains | measured.trains,
        kept.endpoints | measured.endpoints,
    )


def summary(topic: str, comparison: Comparison) -> Case:
    """Return what is kept of a comparison."""
    ratios = comparison.ratios
    low, high = median_interval(ratios)
    samples, against = comparison.samples, comparison.against_samples

    def both(value: Callable[[Sequence[Sample]], T]) -> tuple[T, T]:
        return value(samples), value(against)

    return Case(
        topic,
        comparison.case,
        comparison.against,
        comparison.target,
        len(ratios),
        rounded(statistics.median(ratios)),
        (rounded(low), rounded(high)),
        (rounded(min(ratios)), rounded(max(ratios))),
        None if comparison.ratio_only else both(median_rate),
        None if comparison.ratio_only else both(median_cpu_ns),
        both(_copied),
    )


def median_rate(samples: Sequence[Sample]) -> float:
    """Return the median of the rates."""
    return rounded(statistics.median(taken.rate for taken in samples))


def median_cpu_ns(samples: Sequence[Sample]) -> float:
    """Return the median of the CPU times per datagram, in nanoseconds."""
    return rounded(statistics.median(taken.cpu_ns for taken in samples))


def _copied(samples: Sequence[Sample]) -> float | None:
    known = [taken.copied_share for taken in samples if taken.copied_share is not None]
    return rounded(statistics.fmean(known)) if known else None


def rounded(value: float) -> float:
    """Return the value with DIGITS significant digits, so that what is drawn is what is kept."""
    return float(f"{value:.{DIGITS}g}")


def about_here(runs: str) -> dict[str, str]:
    """Return what the figures depend on: the machine, and the versions."""
    with open("/proc/cpuinfo") as file:
        models = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    version = ["pkg-config", "--modversion", "liburing"]
    return {
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} x {models[0] if models else platform.machine()}",
        "kernel": f"Linux {platform.release()}",
        "python": platform.python_version(),
        "uringzc": uringzc.__version__,
        "liburing": subprocess.run(version, check=True, capture_output=True, text=True).stdout.strip(),
        "runs": runs,
    }


def measured_here(about: Mapping[str, str]) -> bool:
    """Whether results that say this `about` are of this machine and kernel."""
    here = about_here("")
    return all(about[name] == here[name] for name in ("machine", "kernel"))


def write(path: Path, results: Results) -> None:
    """Write results.json: one case (with all opponents), size or path a line, for people and `git diff`."""
    parts = ["{", f' "about": {json.dumps(results.about, indent=2)},']
    rows = [[*rows] for _, rows in groupby(results.cases, key=lambda row: (row.topic, row.case))]
    lists: dict[str, list[Any]] = {"cases": rows, "arrivals": [[path] for path in results.arrivals]}
    for name, groups in lists.items():
        lines = ",\n".join("  " + ", ".join(json.dumps(asdict(row)) for row in rows) for rows in groups)
        parts.append(f' "{name}": [\n{lines}\n ],')
    for name in ("by_size", "frames"):
        sizes = ",\n".join(f'  "{size}": {json.dumps(row)}' for size, row in getattr(results, name).items())
        parts.append(f' "{name}": {{\n{sizes}\n }},')
    parts += [f' "{name}": {json.dumps(getattr(results, name))},' for name in ("trains", "endpoints")]
    parts += [f' "memory": {json.dumps(results.memory)}', "}"]
    path.write_text("\n".join(parts) + "\n")


def read(path: Path) -> Results:
    """Return what `write` wrote."""
    kept = json.loads(path.read_text(), object_hook=_pairs_as_tuples)
    return Results(
        kept["about"],
        [Case(**case) for case in kept["cases"]],
        {int(size): rates for size, rates in kept["by_size"].items()},
        {int(size): engines for size, engines in kept["frames"].items()},
        [Arrivals(**arrivals) for arrivals in kept["arrivals"]],
        kept["memory"],
        kept["trains"],
        kept["endpoints"],
    )


def _pairs_as_tuples(record: dict[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(value) if isinstance(value, list) and len(value) == 2 else value
        for name, value in record.items()
    }


def write_runs(path: Path, comparisons: Sequence[Comparison]) -> None:
    """Write every single run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(comparison) for comparison in comparisons], indent=1) + "\n")
