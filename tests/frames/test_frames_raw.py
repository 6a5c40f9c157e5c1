"""Frames of the program's own, sent on its AF_PACKET socket: every byte arrives, whatever they are."""

import errno
import socket
import struct
from collections.abc import Iterator

import pytest
from frame_tools import Capture, raw_frame, scheduler, send_all, udp_sender
from marks import frame_engines, only_packet
from raising import raises_errno
from traffic import datagram, received

import uringzc
from uringzc import testing

TYPES = (0x88B5, 0x0806, 0x0800, 0x88CC, 0x0026)  # experimental, ARP, IPv4, LLDP, IEEE 802.3 with a length
MARK = b"of the test"


@pytest.fixture
def raw(net: testing.Hold) -> Iterator[socket.socket]:
    """An AF_PACKET socket of the sender's device, which receives nothing."""
    with net.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        net.run(lambda: sock.bind((net.device, 0)))
        yield sock


def is_marked(frame: bytes) -> bool:
    return MARK in frame


@frame_engines
def test_every_byte_of_a_frame_arrives(net: testing.Hold, raw: socket.socket) -> None:
    frames = [
        raw_frame(kind, MARK + datagram(size, size)) for kind in TYPES for size in (0, 1, 46, 333, 1489)
    ]
    with Capture(net.peer) as capture, scheduler(net) as s:
        send_all(s, raw, frames)
        assert capture.take(len(frames), is_marked) == frames
        assert [done.result for done in s.reap_completions(wait=len(frames))] == [*map(len, frames)]
        assert sum(n.failed for n in s.reap_notifications(wait=len(frames))) == 0


@frame_engines
def test_vlan_tags_arrive(net: testing.Hold, raw: socket.socket) -> None:
    """With a tag a frame may be 4 bytes longer."""
    frames = [
        raw_frame(0x88B5, MARK + datagram(i, size), tag=0x6005) for i, size in enumerate((0, 100, 1489))
    ]
    with Capture(net.peer) as capture, scheduler(net) as s:
        send_all(s, raw, frames)
        assert capture.take(3, is_marked) == frames
        assert [done.result for done in s.reap_completions(wait=3)] == [*map(len, frames)]


@frame_engines
@pytest.mark.parametrize(
    ("size", "expected"),
    [(0, errno.EINVAL), (13, errno.EINVAL), (14 + 1500 + 5, errno.EMSGSIZE), (65_507, errno.EMSGSIZE)],
)
def test_what_is_no_frame_is_refused(net: testing.Hold, raw: socket.socket, size: int, expected: int) -> None:
    """The same datagrams' neighbours leave."""
    frame = raw_frame(0x88B5, MARK)
    with Capture(net.peer) as capture, scheduler(net) as s:
        send_all(s, raw, [frame, bytes(size), frame])
        assert [done.result for done in s.reap_completions(wait=3)] == [len(frame), -expected, len(frame)]
        assert [n.failed for n in s.reap_notifications(wait=3)].count(1) == 1
        assert capture.take(2, is_marked) == [frame, frame]


@frame_engines
def test_a_socket_without_a_device_sends_no_frame(net: testing.Hold) -> None:
    """A socket that is bound to no device has none, and `to` cannot name one."""
    with net.socket(socket.AF_PACKET, socket.SOCK_RAW) as unbound, scheduler(net) as s:
        s.send(unbound, raw_frame(0x88B5, MARK), flush=True)
        s.submit()
        (done,) = s.reap_completions(wait=1)
        assert done.result in (-errno.ENXIO, -errno.ENODEV, -errno.EDESTADDRREQ, -errno.ENOTCONN)
        with raises_errno(errno.EAFNOSUPPORT, "needs an IPv4 or IPv6 socket"):
            s.send(unbound, raw_frame(0x88B5, MARK), to=("10.0.0.2", 1))


@frame_engines
def test_frames_and_datagrams_of_one_scheduler_keep_their_order(
    net: testing.Hold, raw: socket.socket
) -> None:
    """One ring, one device: what was queued first arrives first."""
    with Capture(net.peer) as capture, net.socket() as udp, net.receiver_socket(), scheduler(net) as s:
        udp.connect(net.address)
        for i in range(30):
            if i % 3:
                s.send(udp, MARK + b"%3d" % i, flush=True)
            else:
                s.send(raw, raw_frame(0x88B5, MARK + b"%3d" % i), flush=True)
        s.submit()
        assert [int(frame[-3:]) for frame in capture.take(30, is_marked)] == list(range(30))
        s.drain()


@only_packet
def test_the_program_builds_a_whole_datagram(net: testing.Hold, raw: socket.socket) -> None:
    """The kernel at the far end takes it for what it says: IPv4 and UDP, with checksums of the program."""
    payload = MARK + datagram(1, 500)
    udp = struct.pack("!HHHH", 7, testing.PORT, 8 + len(payload), 0)  # 0: without a checksum
    ip = bytearray(struct.pack("!BBHHHBBH", 0x45, 0, 28 + len(payload), 9, 0, 3, 17, 0))
    ip += socket.inet_aton("10.0.0.1") + socket.inet_aton("10.0.0.2")
    total = sum(struct.unpack("!10H", ip))
    struct.pack_into("!H", ip, 10, ~(total + (total >> 16)) & 0xFFFF)
    with net.receiver_socket() as rx, scheduler(net) as s:
        rx.settimeout(10)
        send_all(s, raw, [raw_frame(0x0800, bytes(ip) + udp + payload)])
        assert rx.recvfrom(1000) == (payload, ("10.0.0.1", 7))
        s.drain()


@frame_engines
@pytest.mark.parametrize("qdisc_bypass", [False, True])
def test_qdisc_bypass_passes_a_gate(
    box: testing.Hold, rx: socket.socket, tx: socket.socket, qdisc_bypass: bool, engine: str
) -> None:
    """What passes the qdisc is held by it, what goes past it is not."""
    if engine == "af_xdp":
        if qdisc_bypass:
            with pytest.raises(ValueError, match="qdisc_bypass is for engine='packet'"):
                uringzc.Scheduler(qdisc_bypass=True)
            return
        qdisc_bypass = True  # it always does
        s = box.run(uringzc.Scheduler)
    else:
        s = box.run(lambda: uringzc.Scheduler(qdisc_bypass=qdisc_bypass))
    with s:
        box.stop()
        send_all(s, tx, [b"one"])
        if qdisc_bypass:
            assert received(rx, 1) == [b"one"]
            assert len(s.reap_notifications(wait=1)) == 1
        else:
            assert s.stats.in_flight == 1
            box.release()
            assert received(rx, 1) == [b"one"]
            s.drain()


@only_packet
def test_a_sender_goes_past_the_qdisc_too(box: testing.Hold, rx: socket.socket) -> None:
    with udp_sender(box, qdisc_bypass=True) as s:
        box.stop()
        s.send(b"one")
        s.flush().wait(10)
        assert received(rx, 1) == [b"one"]
