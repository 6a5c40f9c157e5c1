"""BenchReport: what `uringzc bench` measured, as plain data, and as JSON."""

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from uringzc.jobs.receive_job import Received
from uringzc.jobs.result import Result

KIND = "bench"


class Spread(NamedTuple):
    """A figure of several rounds."""

    median: float
    least: float
    most: float


@dataclass(frozen=True)
class Machine:
    """What a measurement ran on."""

    cpu: str  #: the model
    cpus: int  #: that the process may use
    kernel: str
    python: str
    interface: str  #: by which it reaches the other end; "" if that is not known
    mtu: int  #: of the path to the other end


@dataclass(frozen=True)
class BenchRound:
    """One run: what was sent, and what came of it."""

    result: Result
    received: Received

    @property
    def came(self) -> int:
        """Datagrams of this run that came, intact and each once; of those without a number, all."""
        own = [stream.datagrams for stream in self.received.streams if stream.stream == self.result.stream]
        return own[0] if own else self.received.unnumbered

    @property
    def lost_share(self) -> float:
        """Of the datagrams that were sent, those that did not come."""
        sent = self.result.datagrams
        return max(0.0, 1 - self.came / sent) if sent else 0.0

    @property
    def copied_share(self) -> float | None:
        """Of all sends, those that were copied: never asked to be zero-copy, or copied after all.

        ``Result.copied_share`` is of the sends that were asked to be zero-copy, and with zero_copy="auto"
        those are few where the kernel copies. None if nothing was sent.
        """
        result = self.result
        sends = result.requests + result.syscalls
        return max(0.0, 1 - (result.zero_copy - result.copied) / sends) if sends else None


@dataclass(frozen=True)
class BenchRun:
    """An engine with datagrams of one size, in several rounds."""

    engine: str  #: as of a Job, or "socket": ``socket.send`` of Python, to compare with
    zero_copy: str
    size: int  #: bytes of a datagram
    rate: str | None  #: as of a Job
    rounds: tuple[BenchRound, ...]

    def spread(self, figure: Callable[[BenchRound], float]) -> Spread:
        """The median of a figure of each round, and its range. ValueError if there was no round."""
        values = [figure(each) for each in self.rounds]
        return Spread(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class LimitTry:
    """One rate that was tried."""

    pps: float  #: the rate that was asked for
    sent_pps: float  #: the rate at which was sent
    lost_share: float  #: of what was sent
    dropped: int  #: times that the buffer of the receiving socket was full
    held: bool  #: no more was lost than may be, and it was sent at the rate that was asked for


@dataclass(frozen=True)
class Limit:
    """The largest rate at which no more is lost than may be."""

    loss: float  #: the share that may be lost
    engine: str
    size: int  #: bytes of a datagram
    pps: float  #: the largest rate that held; 0.0: none did
    bound: str  #: by "loss" on the way, "receiver" (its buffer was full) or "sender" (it was not faster)
    tries: tuple[LimitTry, ...]  #: in the order in which they were made


@dataclass(frozen=True)
class BenchReport:
    """What a bench measured. Its JSON, ``as_dict()``, is an object of "kind" "bench"."""

    uringzc: str  #: the version
    at: str  #: when it began: a date and time of ISO 8601, with the offset from UTC
    host: str  #: the other end, as it was given
    seconds: float  #: that each run was to take
    machine: Machine
    peer: Machine  #: the other end
    runs: tuple[BenchRun, ...]
    limit: Limit | None  #: of --find-limit
    failed: tuple[str, ...]  #: what was asked for and did not hold, as sentences

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `from_dict` makes it again."""
        runs = [
            {"engine": run.engine, "zero_copy": run.zero_copy, "size": run.size, "rate": run.rate}
            | {"rounds": [_of_round(each) for each in run.rounds]}
            for run in self.runs
        ]
        limit = self.limit and asdict(self.limit) | {"tries": [asdict(one) for one in self.limit.tries]}
        return {
            "uringzc": self.uringzc,
            "kind": KIND,
            "at": self.at,
            "host": self.host,
            "seconds": self.seconds,
            "machine": asdict(self.machine),
            "peer": asdict(self.peer),
            "runs": runs,
            "limit": limit,
            "failed": list(self.failed),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "BenchReport":
        """What as_dict() gave, perhaps by way of JSON. ValueError says why it is no such report."""
        if not isinstance(values, dict) or values.get("kind") != KIND:
            raise ValueError("this is no report of uringzc bench")
        try:
            own = {name: value for name, value in values.items() if name != "kind"}
            own["machine"], own["peer"] = Machine(**own["machine"]), Machine(**own["peer"])
            own["runs"] = tuple(_run(run) for run in own["runs"])
            if own["limit"] is not None:
                tries = tuple(LimitTry(**one) for one in own["limit"]["tries"])
                own["limit"] = Limit(**own["limit"] | {"tries": tries})
            own["failed"] = tuple(own["failed"])
            return cls(**own)
        except (KeyError, TypeError, AttributeError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else error
            raise ValueError(
                f"this report of uringzc bench is not complete, or of another version: {why}"
            ) from error


def _of_round(each: BenchRound) -> dict[str, Any]:
    return {"result": each.result.as_dict(), "received": each.received.as_dict()}


def _run(values: dict[str, Any]) -> BenchRun:
    rounds = tuple(
        BenchRound(Result.from_dict(each["result"]), Received.from_dict(each["received"]))
        for each in values["rounds"]
    )
    return BenchRun(**values | {"rounds": rounds})
