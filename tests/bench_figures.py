"""What a bench may have measured, made up."""

from dataclasses import replace
from typing import Any

from uringzc.jobs import Machine, Received, Result, StreamReport

MACHINE = Machine("a processor", 2, "6.18.0", "3.11.2", "eth0", 1500)


def sent(**changed: Any) -> Result:
    made = Result(
        *(0, 1_000_000_000, 100.0, 8e5, 100, 100_000, 10**8, ()),
        lost=0,
        errors={},
        cpu_ns=50_000,
        trains={1: 4, 32: 3},
        mean_train=14.0,
        requests=8,
        syscalls=2,
        zero_copy=4,
        copied=1,
        engine="io_uring",
        explain="",
        stream=7,
        stopped="duration",
        failed=(),
    )
    return replace(made, **changed)


def stream(number: int, datagrams: int) -> StreamReport:
    return StreamReport(number, "192.0.2.7:9", datagrams, 0, 100, 0, 0, 0, 0, 0, True, False, {"min": 1.0})


def came(*streams: StreamReport, unnumbered: int = 0) -> Received:
    return Received("", 0, 1, 9.0, 1.0, 99, 1, 10**8, (), unnumbered, streams, 0, 1 << 20, 0, 5, "stop")
