"""Pacing: what `rate`, `pps` and `burst` may be, and the times they stand for. Pure.

The bucket is kept in nanoseconds (``_native/udp/pacing.c``): a byte, or a datagram, costs the time that the
rate gives it. Credit for what was not sent is limited: to `burst`, by default 1 ms; and to 9 ms more, by
default, while something waits, since a process that sleeps until it may send wakes up late.

A train is at most 1 ms' worth, so that it is no burst. Two of them are gathered, and leave together, since to
wake up costs more than to send a train; datagrams that are a train each leave one by one.
"""

import re
from typing import NamedTuple

Rate = int | float | str

MS = 1_000_000  # ns
LATENESS = 9 * MS  # which is made up for, where the program does not say what a burst may be
FRAME = 1500  # bytes
LONGEST = 1 << 60  # ns, so that a sum of two is no overflow

#: the units of trafgen's --rate, and its pps with a prefix
_DECIMAL = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
BITS = {
    **{f"{prefix}bit": size for prefix, size in _DECIMAL.items()},
    **{f"{prefix}B": 8 * size for prefix, size in _DECIMAL.items()},
    "KiB": 8 << 10,
    "MiB": 8 << 20,
    "GiB": 8 << 30,
}
DATAGRAMS = {"pps": 1, "kpps": 10**3, "Mpps": 10**6}
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)([A-Za-z]+)", re.ASCII)


class Pacing(NamedTuple):
    """A rate, as it is kept."""

    per_second: float  #: bytes or datagrams of the payload
    counts_bytes: bool
    burst: int  #: ns: credit that a pause gives
    lateness: int  #: ns: credit above that while something waits
    most: int  #: bytes or datagrams of a train (GSO batch)
    gather: int  #: bytes or datagrams that wait, at most, before some of them have to leave

    @property
    def ns(self) -> float:
        """What a byte or a datagram costs."""
        return 1e9 / self.per_second

    @property
    def compiled(self) -> tuple[float, bool, int, int, int, int]:
        """For UdpBatcher."""
        return self.ns, self.counts_bytes, self.burst, self.lateness, self.most, self.gather

    def __str__(self) -> str:
        unit = "bytes" if self.counts_bytes else "datagrams"
        rate = f"{_short(8 * self.per_second)}bit/s" if self.counts_bytes else f"{_short(self.per_second)}pps"
        burst = (self.burst + self.lateness) / self.ns
        return (
            f"{rate} of payload: trains of at most {self.most} {unit}, and bursts of at most "
            f"{max(1, int(burst))}, or one datagram"
        )


def make_pacing(rate: Rate | None, pps: Rate | None, burst: int | None) -> Pacing | None:
    """The options of a UdpSender; None: no pacing. TypeError or ValueError says what is accepted."""
    if rate is not None and pps is not None:
        raise ValueError("rate is bits per second and pps datagrams per second: give one of them")
    if burst is not None and (isinstance(burst, bool) or not isinstance(burst, int)):
        raise TypeError(f"burst is bytes with rate, datagrams with pps, or None; not {burst!r}")
    if rate is None and pps is None:
        if burst is not None:
            raise ValueError("burst needs a rate or pps")
        return None
    if rate is not None:
        per_second = _parse("rate", rate, BITS, (1, 1e12)) / 8
    else:
        assert pps is not None
        per_second = _parse("pps", pps, DATAGRAMS, (0.001, 1e9))
    if burst is not None and burst < 1:
        raise ValueError(f"burst is 1 or more bytes with rate, datagrams with pps; not {burst}")
    ns = 1e9 / per_second
    credit = MS if burst is None else min(int(burst * ns), LONGEST)
    # a burst has room for two: what is on time, and what is late
    most = max(1, int(min(MS, credit if burst is None else credit // 2) / ns))
    several = burst is None and most > (FRAME if rate is not None else 1)
    lateness = LATENESS if burst is None else 0
    return Pacing(per_second, rate is not None, credit, lateness, most, 2 * most if several else most)


def _parse(name: str, value: Rate, units: dict[str, int], limits: tuple[float, float]) -> float:
    what = {"rate": "bits of payload", "pps": "datagrams"}[name]
    accepted = f"{name} is {what} per second, a number or a str like {_EXAMPLES[name]}"
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError(f"{accepted}; not {value!r}")
    if isinstance(value, str):
        match = _NUMBER.fullmatch(value)
        if not match or match[2] not in units:
            others = DATAGRAMS if units is BITS else BITS
            hint = f" (give that as {_OTHER[name]}=)" if match and match[2] in others else ""
            raise ValueError(f"{accepted}, with one of the units {', '.join(units)}; not {value!r}{hint}")
        number = float(match[1]) * units[match[2]]
    else:
        number = value
    if not limits[0] <= number <= limits[1]:
        raise ValueError(f"{name} is {limits[0]:g} to {limits[1]:g} {what} per second, not {value!r}")
    return float(number)


_EXAMPLES = {"rate": "'2.5Gbit' or '100MiB'", "pps": "'200kpps'"}
_OTHER = {"rate": "pps", "pps": "rate"}


def _short(number: float) -> str:
    """With a decimal prefix: '2.5 G'."""
    for prefix, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:g} {prefix}"
    return f"{number:g} "
