"""The options of `uringzc bench`: lists of sizes and engines, hosts, and what is taken if none are given."""

from collections.abc import Sequence

from uringzc import probe
from uringzc.engines.choose import ENGINES, FRAME_ENGINES
from uringzc.jobs.job import MOST, parse_address

SIZES = (64, 200, 512, 1200, 1472, 8900)  #: of these, those that fit the MTU
SOCKET = "socket"
_MOST_SIZES = 100


def parse_peer(text: str) -> tuple[str, int | None]:
    """ "HOST", "HOST:PORT", an IPv6 address with a port in brackets; a host may be empty. ValueError."""
    if text.count(":") > 1 and "]" not in text:
        return text, None
    if text[:1] == "[" and text[-1:] == "]":
        return text[1:-1], None
    return parse_address(text) if ":" in text else (text, None)


def parse_sizes(text: str) -> list[int]:
    """ "64,512,1200", or "100-1400:100" for steps of 100. ValueError."""
    sizes: list[int] = []
    for part in text.split(","):
        first, dash, rest = part.partition("-")
        last, colon, step = rest.partition(":")
        words = [first, *([last, step] if dash else [])]
        if not all(word.isascii() and word.isdigit() for word in words) or bool(dash) != bool(colon):
            raise ValueError(f"{part!r} is no size: 1200, or 100-1400:100 for a range in steps of 100")
        numbers = [int(word) for word in words]
        if dash and (numbers[2] == 0 or numbers[1] < numbers[0]):
            raise ValueError(f"{part!r} is no range: START-END:STEP, as in 100-1400:100")
        found = range(numbers[0], numbers[1] + 1, numbers[2]) if dash else numbers
        if len(found) + len(sizes) > _MOST_SIZES:
            raise ValueError(f"at most {_MOST_SIZES} sizes, not as many as in {text!r}")
        sizes += found
    for size in sizes:
        if not 1 <= size <= MOST:
            raise ValueError(f"a datagram has 1 to {MOST} bytes, not {size}")
    return sizes


def parse_engines(text: str) -> list[str]:
    """Names with commas between them. ValueError."""
    known = ("auto", *ENGINES, *FRAME_ENGINES, SOCKET)
    for name in text.split(","):
        if name not in known:
            raise ValueError(f"engine is one of {', '.join(known)}, not {name!r}")
    return text.split(",")


def working_engines() -> list[str]:
    """Those that need no privileges and work here, and plain sockets to compare with."""
    engines = probe().engines
    return [*(name for name in ENGINES if engines.get(name, "") is None), SOCKET]


def fitting_sizes(mtu: int, ipv6: bool) -> Sequence[int]:
    """Those that are not fragmented; if the MTU is not known, as on Ethernet."""
    payload = (mtu or 1500) - (48 if ipv6 else 28)
    return [size for size in SIZES if size <= payload] or [SIZES[0]]
