"""What breaks the network of a sandbox, and mends it again; and what sends in it."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cells import Cell
from conftest import SO_SNDBUFFORCE, force
from frame_paths import RTMGRP_LINK, index, link
from watched_faces import Requests, UdpSender

import uringzc
from uringzc import testing
from uringzc.engines.frames import FrameEngine
from uringzc.testing.devices import NEAR

_LINK_SCOPE = 253
TCP_USER_TIMEOUT = 100  # ms


def link_down(box: testing.Sandbox) -> None:
    """`ip link set veth0 down`: its routes and neighbours go too."""
    link(box, lambda ip: ip.link("set", index=index(box), state="down"))


def link_up(box: testing.Sandbox) -> None:
    """`ip link set veth0 up`; IPv4 routes come back."""
    link(box, lambda ip: ip.link("set", index=index(box), state="up"))


def delete_route(box: testing.Sandbox) -> None:
    """`ip route del 10.0.0.0/24`: there is no other."""
    _route(box, "del")


def add_route(box: testing.Sandbox) -> None:
    """`ip route add 10.0.0.0/24`, as it was."""
    _route(box, "add")


def _route(box: testing.Sandbox, command: str) -> None:
    what = {"dst": "10.0.0.0/24", "prefsrc": NEAR.ip, "scope": _LINK_SCOPE}
    link(box, lambda ip: ip.route(command, oif=index(box), **what))


def delete_device(box: testing.Sandbox) -> None:
    """`ip link del veth0`."""
    link(box, lambda ip: ip.link("del", index=index(box)))


def follow(sends: uringzc.Scheduler | uringzc.UdpSender) -> None:
    """An engine of frames has seen what changed: by itself it looks once in some milliseconds."""
    if isinstance(sends._engine, FrameEngine):
        sends._engine._paths.follow()


@contextmanager
def full_queue(box: testing.Hold) -> Iterator[None]:
    """The device's queue has no room in the block, and delivers after it."""
    box.stop()
    box.limit(1)
    try:
        yield
    finally:
        box.limit()
        box.release()


@contextmanager
def device_changes(box: testing.Sandbox) -> Iterator[Callable[[], bytes]]:
    """What waits for the next change of a device in the sandbox."""
    with box.run(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)) as events:
        events.bind((0, RTMGRP_LINK))
        events.settimeout(20)
        yield lambda: events.recv(1 << 16)


@contextmanager
def scheduled(box: testing.Sandbox, cell: Cell, **options: Any) -> Iterator[Requests]:
    """The sends of a Scheduler that was made in the sandbox."""
    with box.run(lambda: uringzc.Scheduler(**options)) as s:
        yield cell.requests(s)


@contextmanager
def udp_sender(box: testing.Sandbox, cell: Cell, **options: Any) -> Iterator[UdpSender]:
    """A sender to the sandbox's receiver, without a timer."""
    options = {"max_delay": None, **options}
    with box.run(lambda: cell.udp_sender(box.address, **options)) as s:
        yield s


def connected(box: testing.Sandbox, cell: Cell) -> socket.socket:
    """A watched socket that sends to the sandbox's receiver, with room for what a test stops."""
    sock = cell.watch(box.socket())
    force(sock, SO_SNDBUFFORCE, 8 << 20)
    sock.connect(box.address)
    return sock
