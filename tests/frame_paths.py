"""Paths of packet rings, for tests: found in a sandbox, compared with the kernel's, and forgotten."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TypeVar

import pytest

from uringzc import testing
from uringzc.address import pack
from uringzc.engines.paths import Path, Paths
from uringzc.testing.devices import FAR
from uringzc.testing.sandboxes import Hold, Sandbox

T = TypeVar("T")
FRAME, SOCKET, ERROR, RAW = 1, 2, 3, 4
PORT = 9
RTMGRP_LINK = 1
MARK = b"a datagram whose headers are compared"


class Finder:
    """The Paths of a sandbox, and what they have forgotten: (fd, sockaddr), or None for everything."""

    def __init__(self, box: Sandbox) -> None:
        self.box = box
        self.forgotten: list[tuple[int, bytes | None] | None] = []
        self._open = ExitStack()
        self.paths = box.run(
            lambda: Paths(lambda fd, to: self.forgotten.append((fd, to)), lambda: self.forgotten.append(None))
        )
        self._open.callback(self.paths.close)

    def new_socket(
        self, family: int = socket.AF_INET, type: int = socket.SOCK_DGRAM, proto: int = 0
    ) -> socket.socket:
        """One of the sandbox, closed with this."""
        return self._open.enter_context(self.box.run(lambda: socket.socket(family, type, proto)))

    def find(self, sock: socket.socket, to: Any = None, wait: float = 0.0) -> Path:
        """`to`: as sendto takes it."""
        return self.paths.find(sock, to and pack(sock.family, to), wait)

    def take_forgotten(self) -> list[tuple[int, bytes | None] | None]:
        """What is forgotten since the last call."""
        self.paths.follow()
        found, self.forgotten[:] = self.forgotten[:], []
        return found

    @property
    def requests(self) -> int:
        """The netlink requests that were made."""
        return self.paths._netlink.requests

    def close(self) -> None:
        self._open.close()


@pytest.fixture
def finder(box: Hold) -> Iterator[Finder]:
    """Of the test's sandbox."""
    finder = Finder(box)
    yield finder
    finder.close()


def link(box: Sandbox, call: Callable[[Any], T]) -> T:
    """What `call` does with an IPRoute of the sandbox."""

    def inside() -> T:
        from pyroute2 import IPRoute

        with IPRoute() as ip:
            return call(ip)

    return box.run(inside)


def index(box: Sandbox, name: str = "") -> int:
    """Of the sandbox's device, or the one with this name."""
    return box.run(lambda: socket.if_nametoindex(name or box.device))


def add_route(box: Sandbox, **what: Any) -> None:
    """Through the sandbox's device."""
    link(box, lambda ip: ip.route("add", oif=index(box), **what))


def set_neighbour(box: Sandbox, address: str, mac: str = FAR.mac, state: str = "permanent") -> None:
    """`ip neigh replace` on the sandbox's device."""
    what = {"ifindex": index(box), "dst": address, "lladdr": mac, "state": state}
    link(box, lambda ip: ip.neigh("replace", **what))


@contextmanager
def quiet_hold() -> Iterator[Hold]:
    """Nothing changes by itself any more: the device has its carrier, and gets no link-local address."""
    with testing.hold() as box:
        box.run(lambda: _settle(box.device))
        yield box


def _settle(device: str) -> None:
    with open(f"/proc/sys/net/ipv6/conf/{device}/addr_gen_mode", "w") as mode:
        mode.write("1")  # IN6_ADDR_GEN_MODE_NONE
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        ip.flush_addr(index=socket.if_nametoindex(device), scope=253)
    wait_for_carrier(device)


def wait_for_carrier(device: str) -> None:
    """Returns when the kernel has done all that a carrier brings: before, the device drops what it gets."""
    from pyroute2 import IPRoute

    with IPRoute() as ip, socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as events:
        here = socket.if_nametoindex(device)
        events.bind((0, RTMGRP_LINK))
        events.settimeout(10)
        while ip.get_links(here)[0].get_attr("IFLA_OPERSTATE") != "UP":
            events.recv(1 << 16)
        ip.link("set", index=here, state="up")  # after the rest of it: they share a lock


@contextmanager
def capture(box: Sandbox, device: str = "") -> Iterator[socket.socket]:
    """A packet socket that gets what arrives on a device."""
    with box.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))) as tap:
        tap.bind((device or box.device, 3))
        tap.settimeout(10)
        yield tap


def captured(tap: socket.socket) -> bytes:
    """The next frame with MARK."""
    while MARK not in (frame := tap.recv(1 << 16)):
        pass
    return frame


def kernels_header(box: Hold, sock: socket.socket, to: Any) -> bytes:
    """What the kernel writes in front of a datagram, without what `Path.header` leaves out."""
    with capture(box.peer) as tap:
        with suppress(BlockingIOError):
            sock.sendto(MARK, to) if to else sock.send(MARK)
        return without_lengths(captured(tap))


def without_lengths(frame: bytes) -> bytes:
    """The headers: no lengths, no IPv4 id, no checksums, no flow label."""
    header = bytearray(frame[: frame.index(MARK)])
    is_ip4 = header[12:14] == b"\x08\x00"
    for start, end in ((16, 20), (24, 26), (38, 42)) if is_ip4 else ((16, 20), (58, 62)):
        header[start:end] = bytes(end - start)
    if not is_ip4:
        header[15:16] = bytes([header[15] & 0xF0])  # the upper bits of the label
    return bytes(header)
