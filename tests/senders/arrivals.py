"""When datagrams arrived, as the kernel has noted it, and whether a token bucket would have let them pass."""

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from traffic import wait_until

from uringzc.testing.receiving import make_room

SO_TIMESTAMPNS, UDP_GRO = 35, 104


class Arrival(NamedTuple):
    """A datagram, or a train (GSO batch) that was received as it was sent."""

    time: float  # seconds, CLOCK_REALTIME, in softirq: over loopback, while it is being sent
    datagrams: int
    nbytes: int


@contextmanager
def arrivals_socket() -> Iterator[socket.socket]:
    """Receives trains whole, with their time, and has room for a second of them: nobody has to read."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        make_room(sock)
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(20)
        assert wait_until(lambda: _is_noted(sock))
        yield sock


def _is_noted(sock: socket.socket) -> bool:
    """Whether times are of arrivals, not of recvmsg(), as until a worker of the kernel switches that on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tx:
        tx.sendto(b"x", sock.getsockname())
    sent = time.time()
    return read_arrivals(sock, 1)[0].time <= sent


def read_arrivals(sock: socket.socket, count: int) -> list[Arrival]:
    """The next datagrams, until there are `count`; TimeoutError if they do not come."""
    found = []
    buffer = bytearray(1 << 16)
    while count > 0:
        n, ancillary, _, _ = sock.recvmsg_into([buffer], 256)
        size, at = n, 0.0
        for _, kind, data in ancillary:
            if kind == SO_TIMESTAMPNS:
                seconds, ns = struct.unpack("qq", data[:16])
                at = seconds + ns / 1e9
            elif kind == UDP_GRO:
                size = struct.unpack("i", data)[0]
        datagrams = -(-n // size) if size else 1
        found.append(Arrival(at, datagrams, n))
        count -= datagrams
    return found


def largest_burst(arrivals: list[Arrival], per_second: float, counts_bytes: bool = False) -> float:
    """The most by which a window of any length has more than its time at this rate: of bytes or datagrams."""
    level = most = 0.0
    before = arrivals[0].time
    for arrival in sorted(arrivals):
        level = max(0.0, level - (arrival.time - before) * per_second)
        before = arrival.time
        level += arrival.nbytes if counts_bytes else arrival.datagrams
        most = max(most, level)
    return most


def mean_rate(arrivals: list[Arrival]) -> float:
    """Datagrams per second behind the first arrival."""
    span = arrivals[-1].time - arrivals[0].time
    return sum(arrival.datagrams for arrival in arrivals[1:]) / span if span else float("inf")
