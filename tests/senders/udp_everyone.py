"""One socket that receives for thousands of addresses, 127.0.0.0/8, and says which datagram came to which."""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from traffic import is_readable

from uringzc.testing.receiving import make_room

IP_PKTINFO = 8
Address = tuple[str, int]


class Everyone(NamedTuple):
    sock: socket.socket
    port: int

    def address(self, i: int) -> Address:
        return f"127.1.{i >> 8}.{i & 255}", self.port

    def addresses(self, count: int) -> list[Address]:
        return [self.address(i) for i in range(count)]

    def receive(self, count: int) -> dict[int, list[bytes]]:
        """The next datagrams, by the number of the address; TimeoutError if they do not come."""
        came: dict[int, list[bytes]] = {}
        for _ in range(count):
            data, ancillary, _, _ = self.sock.recvmsg(1 << 16, 64)
            ((_, _, info),) = ancillary
            (address,) = struct.unpack_from("!8xI", info)
            came.setdefault(address & 0xFFFF, []).append(data)
        return came

    def empty(self) -> bool:
        """Whether nothing else has come."""
        return not is_readable(self.sock.fileno())


@contextmanager
def everyone() -> Iterator[Everyone]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        make_room(sock)
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        sock.bind(("0.0.0.0", 0))
        sock.settimeout(10)
        yield Everyone(sock, sock.getsockname()[1])


def at_each(count: int, datagrams: list[bytes]) -> dict[int, list[bytes]]:
    """The same came to each of so many addresses."""
    return dict.fromkeys(range(count), datagrams)
