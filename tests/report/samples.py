"""Results of bench, send and recv as they could have been measured, without measuring."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import bench_figures
from bench_figures import MACHINE

from uringzc.jobs import Job, Received, Result, StreamReport
from uringzc.jobs.bench_report import BenchReport, BenchRound, BenchRun, Limit, LimitTry
from uringzc.jobs.result import SECOND, Count

START = 1_795_372_200 * SECOND
INTERVAL = SECOND // 10
#: what a sender takes for a datagram, in ns, and for each byte of it
COSTS = {"io_uring": (110.0, 0.002), "msg_zerocopy": (120.0, 0.003), "copy": (130.0, 0.09)}


def counts(pps: float, seconds: float, size: int) -> tuple[Count, ...]:
    each = int(pps / 10)
    return tuple(Count(START // INTERVAL + at, each, each * size) for at in range(int(seconds * 10)))


def sent(engine: str = "io_uring", size: int = 1200, pps: float = 200_000.0, seconds: float = 2.0) -> Result:
    """A Result."""
    datagrams, train = int(pps * seconds), max(1, min(128, 64_000 // size))
    requests = -(-datagrams // train)
    return bench_figures.sent(
        start_ns=START,
        end_ns=START + int(seconds * SECOND),
        pps=pps,
        bits_per_second=8 * pps * size,
        datagrams=datagrams,
        nbytes=datagrams * size,
        counts=counts(pps, seconds, size),
        cpu_ns=int(datagrams * 1e9 / pps),
        trains={1 << (train.bit_length() - 1): requests - 3, 1: 3},
        mean_train=float(train),
        requests=requests,
        syscalls=0,
        zero_copy=0 if engine == "copy" else requests,
        copied=0,
        engine=engine,
    )


def came(result: Result, lost: int = 0, same_clock: bool = True) -> Received:
    """What came of it."""
    latency = {"min": 4e4, "p50": 9e4, "p90": 2e5, "p99": 1.5e6, "p99.9": 4e6, "max": 8e6}
    stream = StreamReport(
        stream=result.stream,
        address="192.0.2.1:40000",
        datagrams=result.datagrams - lost,
        nbytes=result.nbytes,
        expected=result.datagrams,
        lost=lost,
        head=0,
        duplicates=0,
        reordered=0,
        corrupt=0,
        ended=True,
        same_clock=same_clock,
        latency=latency,
    )
    return Received(
        bind="192.0.2.7:9000",
        start_ns=result.start_ns,
        end_ns=result.end_ns,
        pps=result.pps,
        bits_per_second=result.bits_per_second,
        datagrams=result.datagrams - lost,
        nbytes=result.nbytes,
        interval_ns=result.interval_ns,
        counts=result.counts,
        unnumbered=0,
        streams=(stream,),
        dropped=lost,
        rcvbuf=1 << 23,
        written=0,
        cpu_ns=result.cpu_ns,
        stopped="ended",
    )


def bench(
    sizes: tuple[int, ...] = (64, 512, 1200, 8000), rounds: int = 3, faster: float = 1.0, **fields: Any
) -> BenchReport:
    """A bench of each engine of COSTS; the rounds are 1 % from each other."""

    def run(engine: str, size: int) -> BenchRun:
        fixed, each = COSTS[engine]
        pps = faster * 1e9 / (fixed + each * size)
        results = [sent(engine, size, pps * (1 + 0.01 * at)) for at in range(rounds)]
        measured = tuple(BenchRound(result, came(result, lost=at)) for at, result in enumerate(results))
        return BenchRun(engine, "auto" if engine != "copy" else "never", size, None, measured)

    report = BenchReport(
        uringzc="0.1.0",
        at="2026-11-22T18:30:00+00:00",
        host="192.0.2.7",
        seconds=2.0,
        machine=MACHINE,
        peer=replace(MACHINE, cpu="Intel Xeon", kernel="6.1.0"),
        runs=tuple(run(engine, size) for engine in COSTS for size in sizes),
        limit=None,
        failed=(),
    )
    return replace(report, **fields)


def limit() -> Limit:
    """Of --find-limit."""
    tried = [(1e6, 0.2), (5e5, 0.0), (7.5e5, 0.03), (6.25e5, 0.0), (6.9e5, 0.002)]
    tries = tuple(LimitTry(pps, pps, lost, int(lost * 100), lost == 0) for pps, lost in tried)
    return Limit(1e-4, "io_uring", 1200, 6.25e5, "receiver", tries)


def write(folder: Path, name: str, report: BenchReport | Result | Received) -> str:
    """The JSON file that a command would print; its path."""
    if isinstance(report, BenchReport):
        values = report.as_dict()
    elif isinstance(report, Result):
        values = {"job": asdict(Job("192.0.2.7:9000", duration=2.0)), "result": report.as_dict()}
    else:
        values = {"received": report.as_dict(), "failed": []}
    path = folder / name
    path.write_text(json.dumps(values))
    return str(path)
