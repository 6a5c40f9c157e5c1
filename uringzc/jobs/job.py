"""Job: what to send, as plain data that can be pickled. Pure: nothing is opened or resolved here."""

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from types import UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from uringzc.senders.pacing import BITS, DATAGRAMS

#: bytes of a datagram: that fit every network, as QUIC assumes
SIZE = 1200
MOST = 65507  # over IPv4
_RATE = re.compile(r"(\d+(?:\.\d+)?)([A-Za-z]+)", re.ASCII)


class Rate(NamedTuple):
    """A rate: `value` bits of payload per second, or datagrams per second."""

    value: float
    unit: str  #: "bit" or "pps"

    def pps(self, size: int) -> float:
        """Datagrams of `size` bytes per second."""
        return self.value if self.unit == "pps" else self.value / 8 / size


def parse_rate(text: str) -> Rate:
    """ "200kpps" is datagrams per second, "2.5Gbit" or "300MB" payload per second. ValueError for others.

    Payload is what the datagrams carry, without the headers of UDP, IP and Ethernet; the header of a numbered
    datagram is payload too. The units are those of a UdpSender's `rate` and `pps`.
    """
    match = _RATE.fullmatch(text)
    units = {**DATAGRAMS, **BITS}
    if not match or match[2] not in units:
        raise ValueError(f"{text!r} is no rate: a number and one of {', '.join(units)}, as in 200kpps")
    value = float(match[1]) * units[match[2]]
    unit, least, most = ("pps", 0.001, 1e9) if match[2] in DATAGRAMS else ("bit", 1, 1e12)
    if not least <= value <= most:
        raise ValueError(f"{text!r} is no rate that can be kept: {least:g} to {most:g} {unit} per second")
    return Rate(value, unit)


def parse_address(text: str) -> tuple[str, int]:
    """ "HOST:PORT" or "[IPv6]:PORT". A host may be empty. ValueError for others."""
    host, colon, port = text.rpartition(":")
    bracketed = host[:1] == "[" and host[-1:] == "]"
    if not colon or (":" in host and not bracketed) or not (port.isascii() and port.isdigit()):
        raise ValueError(f"{text!r} is not HOST:PORT (an IPv6 address in brackets: [::1]:9000)")
    if int(port) > 0xFFFF:
        raise ValueError(f"a port is 0 to 65535, not {port}")
    return host[1:-1] if bracketed else host, int(port)


@dataclass(frozen=True)
class Job:
    """What to send, to whom, how fast and how long. ``run`` does it.

    `to`: one "HOST:PORT" or several. Each gets the whole stream, and so the rate, the count and the bytes
    that the job names; with `spread` they share these, in turn, each in a stream of its own. It is kept as a
    tuple.

    `file`: a path, "-" for standard input; None: generated payload. `size`: bytes of a datagram; the last one
    of a file is shorter. `numbered`: the file's datagrams begin with the header of ``uringzc.jobs.header``,
    by which a receiver finds losses and puts the pieces where they belong; generated ones of 40 bytes and
    more have it always. `share`: (i, n) sends the i-th of n equal parts of the file, counted from 0.
    `repeat`: how often the file is sent, 0: until a limit. `lines`: each line, with its end, is a datagram.
    `pcap`: the file is a capture, of which the UDP payloads are sent, at `speed` times the capture's own
    pace (0: at once), or at `rate`. It needs dpkt.

    Limits, of which the first ends the job: `count` datagrams, `nbytes` in whole datagrams, `duration` in
    seconds. Generated payload needs one. `rate`: see parse_rate; None: as fast as it goes.

    `start_at`: when to begin, in seconds of CLOCK_REALTIME (``time.time()``), so that jobs on many machines
    begin together; their clocks should agree (NTP, PTP). `stream`: 0 to 2**32 - 1, how receivers tell streams
    apart; None: a random one. `interval`: seconds for which datagrams are counted together in the result.

    `engine`, `zero_copy`, `bind`, `ttl`, `interface` (of multicast), `multicast_loop`: as of UdpSender.

    ValueError for what cannot be.
    """

    to: Sequence[str]
    file: str | None = None
    size: int = SIZE
    count: int | None = None
    nbytes: int | None = None
    duration: float | None = None
    rate: str | None = None
    spread: bool = False
    numbered: bool = False
    share: tuple[int, int] = (0, 1)
    repeat: int = 1
    lines: bool = False
    pcap: bool = False
    speed: float = 1.0
    start_at: float | None = None
    stream: int | None = None
    interval: float = 0.1
    engine: str = "auto"
    zero_copy: str = "auto"
    bind: str | None = None
    ttl: int | None = None
    interface: str | None = None
    multicast_loop: bool | None = None

    def __post_init__(self) -> None:
        to = (self.to,) if isinstance(self.to, str) else tuple(dict.fromkeys(self.to))
        object.__setattr__(self, "to", to)
        object.__setattr__(self, "share", tuple(self.share))
        for problem in self._problems():
            raise ValueError(problem)

    def _problems(self) -> Any:
        """Why it cannot be run, as sentences."""
        if not self.to:
            yield "a job needs a destination, HOST:PORT"
        for text in self.to:
            host, port = parse_address(text)
            if not host or port == 0:
                yield f"{text!r} is no destination: HOST:PORT, the port not 0"
        if self.rate is not None:
            parse_rate(self.rate)
        if self.bind is not None:
            parse_address(self.bind)
        if not 1 <= self.size <= MOST:
            yield f"a datagram has 1 to {MOST} bytes, not {self.size}"
        for name in ("count", "nbytes", "duration"):
            limit = getattr(self, name)
            if limit is not None and not limit > 0:
                yield f"{name} is more than 0, not {limit}"
        if not 0.001 <= self.interval < math.inf:
            yield f"interval is a millisecond or more, not {self.interval} s"
        if self.start_at is not None and not math.isfinite(self.start_at):
            yield f"start_at is seconds since 1970, not {self.start_at}"
        if self.stream is not None and not 0 <= self.stream < 2**32:
            yield f"stream is 0 to 2**32 - 1, not {self.stream}"
        part, parts = self.share
        if not 0 <= part < parts:
            yield f"share {part} of {parts}: they are counted from 0 to {parts - 1}"
        if self.spread and len(self.to) < 2:
            yield "spread shares a stream among several destinations"
        yield from self._problems_with_file()

    def _problems_with_file(self) -> Any:
        limited = self.count or self.nbytes or self.duration
        if self.file is None:
            for name in ("numbered", "lines", "pcap"):
                if getattr(self, name):
                    yield f"{name} is for a file"
            if self.share != (0, 1) or self.repeat != 1:
                yield "share and repeat are for a file"
            if not limited:
                yield "generated payload has no end: give a count, nbytes or a duration"
            return
        if self.spread:
            yield "spread is for generated payload: for a file give each destination a job with its share"
        if self.repeat < 0 or (self.repeat == 0 and not limited):
            yield "repeat is 1 or more, or 0 with a count, nbytes or a duration"
        if self.numbered and (self.lines or self.pcap):
            yield "numbered is for the pieces of a file, not for lines or a capture"
        if self.numbered and self.size <= 40:
            yield f"the header has 40 bytes: a numbered datagram needs more than {self.size}"
        if self.nbytes and (self.lines or self.pcap):
            yield "nbytes is for datagrams of one size, not for lines or a capture"
        if self.lines and self.pcap:
            yield "a file is lines or a capture, not both"
        if self.file == "-" and (self.pcap or self.share != (0, 1) or self.repeat != 1):
            yield "pcap, share and repeat need a file that can be read again, not standard input"
        if self.share != (0, 1) and (self.lines or self.pcap):
            yield "share is for the pieces of a file, not for lines or a capture"
        if not 0 <= self.speed < 1e9:
            yield f"speed is a factor, or 0 for at once, not {self.speed}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `from_dict` makes it again."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Job":
        """What as_dict() gave, perhaps by way of JSON, or some of it.

        ValueError for what a Job does not have, and for values of another type.
        """
        return cls(**checked(cls, {"to": (), **values}))


def checked(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    """The values for a dataclass. ValueError for what it does not have, and for those of another type."""
    kinds = get_type_hints(kind)
    for name, value in values.items():
        if name not in kinds:
            raise ValueError(f"a {kind.__name__} has no {name!r}")
        if not _fits(value, kinds[name]):
            raise ValueError(f"{name} of a {kind.__name__} cannot be {value!r}")
    return values


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value that JSON may have is of that type."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is tuple:
        return isinstance(value, (list, tuple)) and len(value) == len(parts) and all(map(_fits, value, parts))
    if origin:  # a sequence, or one string
        return isinstance(value, (list, tuple, str)) and all(_fits(each, parts[0]) for each in value)
    return isinstance(value, (int, float) if kind is float else kind)
