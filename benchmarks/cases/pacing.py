"""A given rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.bench import Bench, topic
from benchmarks.pairs import Comparison, Contender, Sample
from benchmarks.programs.process import Process

RATES = (1_000, 10_000, 100_000, 1_000_000)
BUSY_RATE, BUSY = 10_000, 0.03  # at which rate, the share of one CPU that may be used
BOUNDS = (0.99, 1.01)


@topic("UDP: a given rate")
def udp_pacing(bench: Bench) -> None:
    """`UdpSender(pps=...)` and a loop of `send`, in a process of its own: datagrams of 200 bytes per second,
    over a second, until the last one has left. Of the cases of CPU time the rate is that of datagrams per
    second of CPU time.

    - *asked for*: the rate that `pps` says.
    - *3 % of a CPU*: datagrams per second of CPU time, if a process used so much.
    - *sleeps*: a loop of `socket.send` and `time.sleep`, until the next datagram is due.
    """
    for pps in RATES:
        exact = Contender("asked for", lambda _, pps=pps: Sample(pps, 1.0, 0.0), BOUNDS)  # type: ignore[misc]
        with Process(bench.sink, "paced", pps) as process:
            contenders = [process.contender("sender", "pps"), exact, process.contender("sleep", "sleeps")]
            asked, sleeps = bench.compare(f"pps={pps:,}", contenders, keep=False)
        bench.keep(asked, sleeps)
        if pps == BUSY_RATE:
            _keep_cpu(bench, f"pps={pps:,}, CPU time", asked, sleeps)


def _keep_cpu(bench: Bench, case: str, asked: Comparison, sleeps: Comparison) -> None:
    ours = _per_cpu_second(asked.samples)
    allowed = (Sample(1, BUSY / BUSY_RATE, BUSY / BUSY_RATE),) * len(ours)
    bench.keep(Comparison(case, "3 % of a CPU", 1.0, ours, allowed))
    bench.keep(Comparison(case, "sleeps", None, ours, _per_cpu_second(sleeps.against_samples)))


def _per_cpu_second(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    return tuple(replace(each, seconds=each.cpu_seconds) for each in samples)
