"""How the engines packet and af_xdp, which send Ethernet frames, would send to a host."""

import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, cast

from uringzc.doctor.route import DISCARD, Route
from uringzc.engines.base import Engine
from uringzc.kernel.reasons import reason_of
from uringzc.records import explained

if TYPE_CHECKING:
    from uringzc.engines.frames import FrameEngine


@dataclass(frozen=True)
@explained
class FramePath:
    """How an engine that sends Ethernet frames would send to a host, as it finds it for a sender."""

    framed: Annotated[bool, "datagrams leave as frames; False: through the socket, or not at all"]
    why: Annotated[str, 'why they do not, as part of a sentence; "" if they do']
    device: Annotated[str, 'the interface that the frames leave by, "" without frames']
    mac: Annotated[str, 'the Ethernet address that they go to, that of the next hop; "" without frames']
    mtu: Annotated[int, "bytes of the largest IP packet in a frame; 0 without frames"]
    zero_copy: Annotated[
        bool | None,
        "of af_xdp: the driver sends from the frames; False: the kernel copies them. The doctor does not try "
        "zero-copy, which takes the queue from the kernel",
    ]


def find_frame_path(engine: Engine, route: Route) -> FramePath:
    """How the engine, which sends frames, would send to that host. Nothing is sent there.

    The engine af_xdp takes a queue of the device for as long as it is open.
    """
    frames = cast("FrameEngine", engine)
    six = ":" in route.address
    to = (route.address, DISCARD, 0, socket.if_nametoindex(route.device)) if six else (route.address, DISCARD)
    with socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.connect(to)
        try:
            path = frames.find_path(sock, None, 0.0)
        except OSError as error:  # af_xdp, of the device
            return FramePath(False, str(reason_of(error)), "", "", 0, None)
    if not path.header:
        return FramePath(False, path.why, "", "", 0, None)
    device = ""
    with suppress(OSError):
        device = socket.if_indextoname(path.device)
    mac = path.header[:6].hex(":")
    return FramePath(True, "", device, mac, path.mtu, getattr(frames, "zero_copy", None))
