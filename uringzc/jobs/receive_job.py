"""ReceiveJob: what to receive, and Received: what came, both as plain data."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from uringzc.jobs.job import parse_address
from uringzc.jobs.result import SECOND, Count


@dataclass(frozen=True)
class ReceiveJob:
    """Where to receive and until when. ``receive`` does it.

    `bind`: "HOST:PORT" of this machine; without a host any address of IPv4; port 0: a free one. If it is a
    multicast group, that is joined, at `interface` (a name, or for IPv4 an address).

    `output`: a file for the payload, "-" for standard output. Numbered pieces are written where they belong,
    others one behind the other.

    The first of these ends it: `count` datagrams, `duration` seconds since it began, `idle` seconds without a
    datagram after the first. Without any, it ends when each numbered stream that came has ended.

    `interval`: seconds for which datagrams are counted together in the result, aligned as those of a Job.
    `rcvbuf`: bytes of SO_RCVBUF; None: as much as this process may have, up to 64 MiB.
    """

    bind: str
    interface: str | None = None
    output: str | None = None
    count: int | None = None
    duration: float | None = None
    idle: float | None = None
    interval: float = 0.1
    rcvbuf: int | None = None

    def __post_init__(self) -> None:
        parse_address(self.bind)
        for name in ("count", "duration", "idle", "rcvbuf"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is more than 0, not {value}")
        if self.interval < 0.001:
            raise ValueError(f"interval is a millisecond or more, not {self.interval} s")


@dataclass(frozen=True)
class StreamReport:
    """What came of one numbered stream. Latencies: ns from the time in a datagram to its reading here."""

    stream: int
    address: str  #: of its sender
    datagrams: int  #: that came and are intact, each once
    nbytes: int  #: of those, headers included
    expected: int  #: datagrams that were sent, as far as it is known
    lost: int  #: of these, those that did not come, or not intact
    head: int  #: of the lost, those before the first that came: perhaps sent before anybody received
    duplicates: int
    reordered: int  #: that came behind one that was sent later
    corrupt: int  #: whose checksum is wrong
    ended: bool  #: its sender has said that this was all
    same_clock: bool  #: the sender is this machine
    latency: dict[str, float]  #: "min", "p50", "p90", "p99", "p99.9", "max"

    @property
    def latency_above_min(self) -> dict[str, float]:
        """As if the fastest had taken no time: what can be said where the clocks differ."""
        least = self.latency.get("min", 0.0)
        return {name: value - least for name, value in self.latency.items() if name != "min"}


@dataclass(frozen=True)
class Received:
    """What came. Times are ns of CLOCK_REALTIME."""

    bind: str  #: where it was received
    start_ns: int  #: the first datagram came
    end_ns: int  #: the last datagram came
    pps: float  #: datagrams per second, between start and end
    bits_per_second: float  #: of payload
    datagrams: int  #: all of them, but those that end a stream
    nbytes: int  #: of payload, headers of numbered datagrams included
    interval_ns: int
    counts: tuple[Count, ...]  #: by interval; those with nothing are left out
    unnumbered: int  #: datagrams without a header
    streams: tuple[StreamReport, ...]
    dropped: int  #: by this socket, since its buffer was full
    rcvbuf: int  #: bytes of it, as the kernel counts them
    written: int  #: bytes, to the output
    cpu_ns: int  #: CPU time of the receiving thread
    stopped: str  #: by what: "count", "duration", "idle", "stop", "ended" or "interrupt"

    @property
    def seconds(self) -> float:
        """Between start and end."""
        return (self.end_ns - self.start_ns) / SECOND

    @property
    def lost(self) -> int:
        """Of all streams."""
        return sum(stream.lost for stream in self.streams)

    @property
    def lost_share(self) -> float:
        """Of the datagrams that were expected in all streams."""
        expected = sum(stream.expected for stream in self.streams)
        return self.lost / expected if expected else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with what follows from it; `from_dict` makes it again."""
        plain = asdict(self) | {"counts": [list(count) for count in self.counts]}
        plain["streams"] = [
            asdict(stream) | {"latency_above_min": stream.latency_above_min} for stream in self.streams
        ]
        return plain | {name: getattr(self, name) for name in ("seconds", "lost", "lost_share")}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Received":
        """What as_dict() gave, perhaps by way of JSON."""
        own = {each.name: values[each.name] for each in fields(cls)}
        own["counts"] = tuple(Count(*count) for count in own["counts"])
        names = [each.name for each in fields(StreamReport)]
        own["streams"] = tuple(
            StreamReport(**{name: stream[name] for name in names}) for stream in own["streams"]
        )
        return cls(**own)
