"""Schedulers and senders inside a sandbox, and what comes to its far end: frames as they were on the wire."""

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uringzc
from uringzc import testing
from uringzc.engines.frames import FrameEngine
from uringzc.testing.devices import FAR, NEAR

SO_RCVBUFFORCE = 33
_ETH_P_ALL = 3
_SOL_PACKET, _PACKET_AUXDATA = 263, 8
_TP_STATUS_VLAN_VALID = 0x10


@contextmanager
def scheduler(box: testing.Sandbox, **options: Any) -> Iterator[uringzc.Scheduler]:
    """A Scheduler of the test's engine."""
    with box.run(lambda: uringzc.Scheduler(**options)) as s:
        yield s


@contextmanager
def udp_sender(
    box: testing.Sandbox, to: tuple[str, int] | None = None, **options: Any
) -> Iterator[uringzc.UdpSender]:
    """A UdpSender of the test's engine; by default to the sandbox's receiver."""
    with box.run(lambda: uringzc.UdpSender(to or box.address, **options)) as s:
        yield s


def send_all(s: uringzc.Scheduler, sock: socket.socket, payloads: list[bytes], **options: Any) -> None:
    """A notifier for each, submitted."""
    for payload in payloads:
        s.send(sock, payload, flush=True, **options)
    s.submit()


def raw_frame(ethertype: int, payload: bytes, tag: int | None = None) -> bytes:
    """A frame from the sandbox's sender to its receiver, with the VLAN tag if one is given."""
    addresses = bytes.fromhex((FAR.mac + NEAR.mac).replace(":", ""))
    between = b"" if tag is None else struct.pack("!HH", 0x8100, tag)
    return addresses + between + struct.pack("!H", ethertype) + payload


def frames_of(s: uringzc.Scheduler) -> FrameEngine:
    """The engine of a Scheduler."""
    assert isinstance(s._engine, FrameEngine)
    return s._engine


def frames_in_use(s: uringzc.Scheduler) -> int:
    """Frames that hold copies, of a Scheduler without senders."""
    engine = frames_of(s)
    return sum(int(engine._refs[frame]) for frame in range(engine.frames))


def leaves_as_a_frame(s: uringzc.Scheduler, sock: socket.socket) -> bool:
    """Whether the engine knows how what a connected socket sends leaves as a frame."""
    return frames_of(s).find_path(sock, None, 0.0).why == ""


def follow(s: uringzc.Scheduler) -> None:
    """The engine has seen what changed: it looks in this call, and by itself every few milliseconds."""
    frames_of(s)._paths.follow()


class Capture:
    """The frames that come to a device, whole: a VLAN tag is where it was on the wire."""

    def __init__(self, box: testing.Sandbox, device: str | None = None) -> None:
        self.sock = box.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self.sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        self.sock.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        self.sock.settimeout(10)
        box.run(lambda: self.sock.bind((device or box.device, _ETH_P_ALL)))

    def take(self, count: int, wanted: Callable[[bytes], bool]) -> list[bytes]:
        """The next frames that are `wanted`."""
        taken: list[bytes] = []
        while len(taken) < count:
            data, ancillary, _, address = self.sock.recvmsg(1 << 17, 256)
            frame = _with_tag(data, ancillary)
            if address[2] != socket.PACKET_OUTGOING and wanted(frame):
                taken.append(frame)
        return taken

    def __enter__(self) -> "Capture":
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


def _with_tag(data: bytes, ancillary: list[tuple[int, int, bytes]]) -> bytes:
    """The kernel takes the tag out of the frame, and reports it beside it."""
    for level, kind, content in ancillary:
        if (level, kind) == (_SOL_PACKET, _PACKET_AUXDATA):
            status, _, _, _, _, tci, protocol = struct.unpack_from("=IIIHHHH", content)
            if status & _TP_STATUS_VLAN_VALID:
                return data[:12] + struct.pack("!HH", protocol or 0x8100, tci) + data[12:]
    return data


def is_udp_to(*ports: int) -> Callable[[bytes], bool]:
    """Whether a frame is a UDP datagram to one of the ports."""
    return lambda frame: udp_port(frame) in ports


def udp_port(frame: bytes) -> int | None:
    """The destination port of a UDP datagram, behind any VLAN tag; None of what is none."""
    at = 12
    while frame[at : at + 2] in (b"\x81\x00", b"\x88\xa8"):
        at += 4
    ethertype, at = frame[at : at + 2], at + 2
    if ethertype == b"\x08\x00" and frame[at + 9] == socket.IPPROTO_UDP:
        at += 4 * (frame[at] & 15)
    elif ethertype == b"\x86\xdd" and frame[at + 6] == socket.IPPROTO_UDP:
        at += 40
    else:
        return None
    return int(struct.unpack_from("!H", frame, at + 2)[0])
