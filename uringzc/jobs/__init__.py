"""Load for one machine or many: a Job says what to send, a ReceiveJob what to receive, both as plain data.

    from uringzc.jobs import Job, run, total

    job = Job(to="192.0.2.7:9000", rate="200kpps", duration=10, start_at=time.time() + 5)
    results = [future.result() for future in [pool.submit(run, job) for _ in range(4)]]
    print(total(results).pps)

Jobs and results can be pickled, and results are plain data for JSON (``as_dict``): a job can run in a
process, by ssh, or on a cluster's worker. Nothing here starts processes. It needs numpy (extra `jobs`).
"""

from typing import TYPE_CHECKING, Any

from uringzc.jobs.bench_report import BenchReport, BenchRound, BenchRun, Limit, LimitTry, Machine, Spread
from uringzc.jobs.job import Job, Rate, parse_address, parse_rate
from uringzc.jobs.receive_job import Received, ReceiveJob, StreamReport
from uringzc.jobs.result import Count, Interrupted, Progress, Result, total

if TYPE_CHECKING:
    from uringzc.jobs.receiving import receive
    from uringzc.jobs.sending import run

__all__ = [
    "BenchReport",
    "BenchRound",
    "BenchRun",
    "Count",
    "Interrupted",
    "Job",
    "Limit",
    "LimitTry",
    "Machine",
    "Progress",
    "Rate",
    "ReceiveJob",
    "Received",
    "Result",
    "Spread",
    "StreamReport",
    "parse_address",
    "parse_rate",
    "receive",
    "run",
    "total",
]


def __getattr__(name: str) -> Any:
    """run and receive when they are needed: numpy takes as long to import as all else that a command does."""
    if name == "run":
        from uringzc.jobs.sending import run

        return run
    if name == "receive":
        from uringzc.jobs.receiving import receive

        return receive
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
