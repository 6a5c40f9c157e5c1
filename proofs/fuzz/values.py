"""Arguments as programs write them: JSON, in which a list is a thing to make, ["bytes", 1200] for example.

``draw`` makes one for a parameter, by its name: mostly what it should be, sometimes anything.
"""

import random
from collections.abc import Callable
from typing import Any

Value = Any  # None, bool, int, float, str, or ["what", ...]

PLACES = 4  # receivers
EDGES = [
    0,
    1,
    2,
    16,
    63,
    64,
    511,
    512,
    1200,
    1400,
    1472,
    1473,
    4096,
    16383,
    16384,
    32753,
    32754,
    65506,
    65507,
]
BUFFERS = ["bytes", "bytearray", "view", "array", "readonly", "slice", "pool", "mapping"]
INTS = [
    0,
    1,
    -1,
    2,
    7,
    255,
    4096,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**63,
    2**64 - 1,
    2**64,
    2**70,
]
HOLDING = 262_144  # the smallest arena


def size(rnd: random.Random) -> int:
    """Of a datagram: small ones are the common case."""
    kind = rnd.random()
    if kind < 0.45:
        return rnd.choice([16, 64, 200, 512, 1200])
    if kind < 0.7:
        return rnd.choice(EDGES)
    return rnd.randrange(2000) if kind < 0.9 else rnd.randrange(65508)


def wrong(rnd: random.Random) -> Value:
    """Anything."""
    return rnd.choice(
        [
            *(None, True, False, 1.5, -1.0, ["float", "nan"], ["float", "inf"], "text", "", "\ud800", "a\0b"),
            *(["object"], ["function"], ["list", []], ["list", [None]], ["tuple", []], ["dict"], ["type"]),
            *(["bytes", 5], ["released", 40], ["strided", 40], ["text", 70], ["socket", "closed", 0]),
            *(["socket", "unix", 0], ["socket", "raw", 0], ["descriptor"], ["index", 3], ["index", -1]),
            *(["iterator", [["bytes", 9], None]], ["endless"], ["raises", "index"], ["raises", "iter"]),
            *(["raises", "len"], ["raises", "buffer"], ["region", rnd.randrange(4)], ["subclass", "int", 3]),
            rnd.choice(INTS),
            -rnd.choice(INTS),
        ]
    )


def data(rnd: random.Random) -> Value:
    """A buffer."""
    return [rnd.choice(BUFFERS), size(rnd)]


def several(rnd: random.Random) -> Value:
    """An iterable of buffers: a list, or one that runs the program's code."""
    count, of = rnd.choice([0, 1, 2, 5, 40, 130]), size(rnd)
    count = max(1, min(count, 150_000 // max(of, 1))) if count else 0
    items: list[Value] = [
        [rnd.choice(BUFFERS), of if rnd.random() < 0.8 else size(rnd) % 2000] for _ in range(count)
    ]
    return [rnd.choice(["list", "list", "tuple", "iterator"]), items]


def place(rnd: random.Random) -> Value:
    """An address: of a receiver, or of nobody."""
    kind = rnd.random()
    if kind < 0.85:
        return ["place", rnd.randrange(PLACES)]
    return rnd.choice([["nobody"], ["place6", 0], ["here"], ["broadcast"], ["list", ["10.0.0.2", 9000]]])


def places(rnd: random.Random) -> Value:
    """Several addresses."""
    return ["list", [place(rnd) for _ in range(rnd.choice([0, 1, 2, 3, 3, 4]))]]


def bad_place(rnd: random.Random) -> Value:
    """No address, or one that cannot be sent to."""
    return rnd.choice(
        [
            *(
                ["tuple", ["10.0.0.2", 65536]],
                ["tuple", ["10.0.0.2", -1]],
                ["tuple", ["10.0.0.2"]],
                "10.0.0.2",
            ),
            *(
                ["tuple", [1, 2]],
                ["tuple", ["10.0.0.2", "9000"]],
                ["tuple", ["no host", 9]],
                ["tuple", ["", 9]],
            ),
            *(["tuple", ["::1", 9, 0, 2**40]], ["tuple", ["fe80::1", 9]], ["tuple", ["10.9.9.9", 9]]),
            *(["tuple", ["10.0.0.2", 0]], ["tuple", ["10.0.0.2", True]], ["tuple", ["a" * 300, 9]]),
            *(["tuple", ["10.0.0.2\0", 9]], ["tuple", ["\ud800", 9]]),
        ]
    )


def region(rnd: random.Random) -> Value:
    """Memory that is sent without a copy."""
    return (
        ["region", rnd.randrange(3)]
        if rnd.random() < 0.6
        else [rnd.choice(BUFFERS), rnd.choice([4096, 70_000])]
    )


def integers(rnd: random.Random) -> Value:
    """Offsets or lengths; those of one program have the same count."""
    kind = rnd.choice(["list", "list", "q", "Q", "i", "I", "h"])
    return [
        "integers",
        kind,
        [rnd.choice([0, 1, 100, 1200, 1400]) for _ in range(rnd.choice([3, 3, 3, 0, 40]))],
    ]


def callback(rnd: random.Random) -> Value:
    """A function that does nothing, raises, or calls the object that calls it."""
    return [
        "callback",
        rnd.choice(["note", "note", "note", "raise", "close", "send", "flush", "collect", "drop"]),
    ]


def one_of(*choices: Value) -> Callable[[random.Random], Value]:
    """One of these."""
    return lambda rnd: rnd.choice(choices)


TIMEOUT = one_of(None, 0, 0.001, 0.02, 1, 3600, 10**12, -1)
COUNT = one_of(0, 0, 1, 1, 2, 3, 10)
FLAG = one_of(True, False)

GOOD: dict[str, Callable[[random.Random], Value]] = {
    "data": data,
    "datagrams": several,
    "buffers": several,
    "to": place,
    "addr": place,
    "address": place,
    "remote": place,
    "addresses": places,
    "region": region,
    "size_or_buffer": lambda rnd: rnd.choice(
        [1, 4096, 65536, 100_000, ["bytearray", 70_000], ["mapping", 8192]]
    ),
    "buffer": lambda rnd: rnd.choice([1, 4096, 65536, 100_000, ["bytearray", 70_000], ["mapping", 8192]]),
    "sock": lambda rnd: [
        "socket",
        rnd.choice(["udp", "udp", "udp", "unconnected", "tcp", "six"]),
        rnd.randrange(3),
    ],
    "scheduler": lambda rnd: ["an", "Scheduler", rnd.randrange(3)],
    "timeout": TIMEOUT,
    "wait": one_of(0, 0, 1, 2, 5),
    "offset": one_of(0, 0, 0, 1, 4, 1000),
    "length": one_of(None, None, 0, 1, 16, 100, 1200),
    "segment": one_of(0, 100, 512, 1200, 1400),
    "size": one_of(1, 64, 512, 1200, 1400, 65507),
    "count": one_of(0, 1, 2, 5, 30),
    "stride": one_of(None, None, 0, 64, 1400),
    "slot": one_of(0, 0, 0, 1, 2),
    "user_data": one_of(0, 1, 2**64 - 1),
    "flush": FLAG,
    "zero_copy": FLAG,
    "msg_flags": one_of(0, 0, 0x40, 0x800),  # MSG_DONTWAIT, MSG_CONFIRM; MSG_MORE, which joins datagrams: TCP
    "tags": lambda rnd: [
        "list",
        [rnd.choice([0, 10, 2**64 - 1]) for _ in range(rnd.choice([1, 2, 3, 3, 300]))],
    ],
    "tag": one_of(None, 0, 5, 2**64 - 1),
    "first": one_of(0, 0, 1, 2),
    "engine": one_of("auto", "auto", "auto", "io_uring", "msg_zerocopy", "copy"),
    "max_inflight": one_of(None, 1, 4, 64, 1024),
    "completions": one_of("all", "all", "failed", "none"),
    "debug": one_of(None, True, False),
    "qdisc_bypass": one_of(False, False, True),
    "entries": one_of(1, 4, 64),
    "cq_entries": one_of(None, 2, 8, 128),
    "bind": lambda rnd: rnd.choice([["here"], ["tuple", ["0.0.0.0", 0]]]),
    "family": one_of(None, 2, 2, 10),
    "ttl": one_of(None, 1, 64, 255),
    "interface": one_of(None, "lo", "10.0.0.1"),
    "tos": one_of(None, 0, 0x20, 255),
    "priority": one_of(None, 0, 6),
    "multicast_loop": one_of(None, True, False),
    "device": one_of(None, "veth0", "lo"),
    "rate": one_of(None, "1Gbit", "500Mbit", 10**9, 1e9),
    "pps": one_of(None, None, "200kpps", 50_000),
    "burst": one_of(None, None, 1500, 64_000),
    "sndbuf": one_of("auto", "auto", None, 4608, 212_992),
    "arena": one_of(HOLDING, 1 << 20, 4 << 20),
    "max_delay": one_of(None, 0.001, 0, 0.02, 3600),
    "strict_order": FLAG,
    "blocking": FLAG,
    "on_error": callback,
    "notify": callback,
    "on_timestamp": callback,
    "on_waiting": callback,
    "progress": callback,
    "offsets": integers,
    "lengths": integers,
    "index": one_of(0, 0, 1, -1, ["range", 0, 2], ["range", None, None]),
    "value": one_of(0, ["tuple", [0, 0]]),
    "start": one_of(0, 1),
    "stop": one_of(None, 1),
    "protocol_factory": one_of(
        ["protocol", ""], ["protocol", ""], ["protocol", "many"], ["protocol", "raises"]
    ),
    "protocol": one_of(["a protocol", ""], ["a protocol", "many"], ["a protocol", "raises"]),
    "local_addr": lambda rnd: rnd.choice([["here"], ["tuple", ["0.0.0.0", 0]]]),
    "remote_addr": place,
    "proto": one_of(0, 17),
    "flags": one_of(0),
    "reuse_port": one_of(None, True),
    "allow_broadcast": one_of(None, True, False),
    "high": one_of(None, 0, 1000, 10**6),
    "low": one_of(None, 0, 100),
    "name": one_of("socket", "sockname", "peername", "nothing"),
    "default": one_of(None, 1),
}
#: where a name means something else
BY_METHOD: dict[str, Callable[[random.Random], Value]] = {
    "zero_copy of a sender": one_of("auto", "always", "always", "never"),
    "Lease.send length": one_of(None, None, 0, 1),
    "UdpSender.lease size": one_of(1, 64, 1200, 16384, 65507),
    "Slots.update count": one_of(0, 1, 2, 3),
    "UdpSender.send_region segment": one_of(None, 100, 512, 1200, 1400, 40_000),
    "UdpSender.send_region length": one_of(None, None, 1200, 4096),
    "TcpSender( sock": lambda rnd: ["socket", "tcp", rnd.randrange(3)],
    "UdpSender( sock": lambda rnd: [
        "socket",
        rnd.choice(["udp", "udp", "unconnected", "six"]),
        rnd.randrange(3),
    ],
    "aio.EventLoop.create_datagram_endpoint sock": one_of(["socket", "udp", 0], ["socket", "unconnected", 1]),
}
#: what would make the machine slow, or a program wait for hours, is not drawn by accident
_ONLY_GOOD = {
    "size_or_buffer",
    "buffer",
    "arena",
    "max_inflight",
    "rate",
    "pps",
    "entries",
    "cq_entries",
    "msg_flags",
}
_HARMLESS_WRONG = [
    None,
    -1,
    0,
    "text",
    2**63,
    2**64,
    1.5,
    ["float", "nan"],
    ["object"],
    ["bytes", 5],
    ["list", []],
    True,
]


def draw(rnd: random.Random, face: str, method: str, parameter: str, wrongness: float) -> Value:
    """An argument."""
    if rnd.random() < wrongness and parameter != "protocol":  # asyncio's too fails with what is none
        if parameter in _ONLY_GOOD:
            harmful = (0, True, 1.5) if parameter in ("rate", "pps") else ()
            return rnd.choice([one for one in _HARMLESS_WRONG if one not in harmful])
        if parameter in ("to", "addr", "address", "remote") and rnd.random() < 0.7:
            return bad_place(rnd)
        return wrong(rnd)
    plain = face.removeprefix("aio.")
    for key in (
        f"{face}.{method} {parameter}",
        f"{plain}.{method} {parameter}",
        f"{plain}{method} {parameter}",
    ):
        if key in BY_METHOD:
            return BY_METHOD[key](rnd)
    if parameter == "zero_copy" and method == "(":
        return BY_METHOD["zero_copy of a sender"](rnd)
    return GOOD[parameter](rnd)
