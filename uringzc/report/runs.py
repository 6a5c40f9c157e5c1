"""The figures of each run in a file: of every round, by name, with what is better."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from uringzc.jobs.bench_report import BenchReport, BenchRound
from uringzc.jobs.receive_job import Received, StreamReport
from uringzc.jobs.result import Result
from uringzc.report.files import File, ReceiveReport, SendReport
from uringzc.report.numbers import bits, duration, per_second, percent


class Metric(NamedTuple):
    """What is measured."""

    label: str
    show: Callable[[float], str]
    more_is_better: bool = False
    is_share: bool = False  #: differences are percentage points


METRICS = {
    "limit_pps": Metric("largest rate", per_second, more_is_better=True),
    "sent_pps": Metric("sent", per_second, more_is_better=True),
    "received_pps": Metric("received", per_second, more_is_better=True),
    "bits_per_second": Metric("payload", bits, more_is_better=True),
    "cpu_ns_per_datagram": Metric("CPU", duration),
    "copied_share": Metric("copied", percent, is_share=True),
    "lost_share": Metric("lost", percent, is_share=True),
    "latency_p50_ns": Metric("latency p50", duration),
    "latency_p99_ns": Metric("latency p99", duration),
    "latency_above_min_p50_ns": Metric("latency p50 above min", duration),
    "latency_above_min_p99_ns": Metric("latency p99 above min", duration),
}

Figures = dict[str, float]


class Key(NamedTuple):
    """What a run was of; None: it does not say."""

    engine: str | None
    zero_copy: str | None
    size: int | None
    rate: str | None
    loss: float | None = None  #: of --find-limit: what may be lost

    def __str__(self) -> str:
        zero_copy = None if self.zero_copy is None else f"zero-copy {self.zero_copy}"
        size = None if self.size is None else f"{self.size:,} bytes"
        loss = None if self.loss is None else f"with at most {percent(self.loss)} lost"
        parts = (self.engine, zero_copy, size, self.rate, loss)
        return ", ".join(part for part in parts if part is not None)


@dataclass(frozen=True)
class Run:
    """One run of one or more rounds."""

    key: Key
    rounds: tuple[Figures, ...]
    trains: tuple[dict[int, int], ...]  #: of each round: trains by length
    mean_trains: tuple[float, ...]

    def values(self, metric: str) -> tuple[float, ...]:
        """Of the rounds that have it."""
        return tuple(each[metric] for each in self.rounds if metric in each)


class Spread(NamedTuple):
    """The median of a figure's rounds, and their range."""

    median: float
    low: float
    high: float
    rounds: int


def spread(values: Sequence[float]) -> Spread | None:
    """None of nothing."""
    if not values:
        return None
    return Spread(statistics.median(values), min(values), max(values), len(values))


def runs(file: File) -> list[Run]:
    """Of a file, in its order; those of a bench with the same key are one."""
    report = file.report
    if isinstance(report, SendReport):
        job, result = report.job, report.result
        size = None if job.lines or job.pcap else job.size
        key = Key(result.engine, job.zero_copy, size, None if job.rate is None else str(job.rate))
        return [Run(key, (_sent(result),), (result.trains,), (result.mean_train,))]
    if isinstance(report, ReceiveReport):
        return [Run(Key(None, None, None, None), (_received(report.received),), (), ())]
    return _of_bench(report)


def limits(file: File) -> list[Run]:
    """What --find-limit found, if a bench was to look for it."""
    limit = file.report.limit if isinstance(file.report, BenchReport) else None
    if limit is None:
        return []
    return [Run(Key(limit.engine, None, limit.size, None, limit.loss), ({"limit_pps": limit.pps},), (), ())]


def _of_bench(report: BenchReport) -> list[Run]:
    rounds: dict[Key, list[BenchRound]] = {}
    for run in report.runs:
        rounds.setdefault(Key(run.engine, run.zero_copy, run.size, run.rate), []).extend(run.rounds)
    return [
        Run(
            key,
            tuple(_of_round(each) for each in some),
            tuple(each.result.trains for each in some),
            tuple(each.result.mean_train for each in some),
        )
        for key, some in rounds.items()
    ]


def _sent(result: Result) -> Figures:
    figures = {
        "sent_pps": result.pps,
        "bits_per_second": result.bits_per_second,
        "cpu_ns_per_datagram": result.cpu_ns_per_datagram,
    }
    return figures | ({} if result.copied_share is None else {"copied_share": result.copied_share})


def _of_round(each: BenchRound) -> Figures:
    copied = each.copied_share
    return (
        _sent(each.result)
        | {"received_pps": each.received.pps, "lost_share": each.lost_share}
        | ({} if copied is None else {"copied_share": copied})
        | _latency(stream for stream in each.received.streams if stream.stream == each.result.stream)
    )


def _received(received: Received) -> Figures:
    cpu = received.cpu_ns / received.datagrams if received.datagrams else 0.0
    figures = {
        "received_pps": received.pps,
        "bits_per_second": received.bits_per_second,
        "cpu_ns_per_datagram": cpu,
    }
    return (
        figures
        | ({"lost_share": received.lost_share} if received.streams else {})
        | _latency(received.streams)
    )


def _latency(streams: Iterable[StreamReport]) -> Figures:
    """Of the slowest stream; above the fastest datagram, unless all have been sent on the same machine."""
    known = [stream for stream in streams if stream.latency]
    if not known:
        return {}
    same = all(stream.same_clock for stream in known)
    name = "latency_{}_ns" if same else "latency_above_min_{}_ns"
    found = [stream.latency if same else stream.latency_above_min for stream in known]
    return {
        name.format(percentile): max(each[percentile] for each in found)
        for percentile in ("p50", "p99")
        if all(percentile in each for each in found)
    }
