"""The memory rule: overwritten after its notification a frame arrives unchanged, before it is changed.

The gate (tbf) holds frames that lie in the ring: the kernel has copied their headers, and refers to the rest.
"""

import random
import socket
import struct
from collections import deque

from frame_tools import Capture, frames_of, raw_frame, scheduler
from marks import frame_engines, only_packet
from test_guard_pages import Guarded, refuse_outside, send_inside
from traffic import datagram, received, stopped

import uringzc
from uringzc import testing


def overwrite(s: uringzc.Scheduler, payload: bytes, before: int = 0) -> None:
    """Breaks the rule: writes over a payload where it lies, and `before` bytes in front of it."""
    memory = frames_of(s)._memory
    start = bytes(memory).index(payload)
    end = start + len(payload)
    memory[start - before : end] = b"\xff" * (end - start + before)


@only_packet
def test_no_notification_comes_while_the_gate_holds_the_frame(
    box: testing.Hold, rx: socket.socket, tx: socket.socket
) -> None:
    with scheduler(box, tags=range(3)) as s:
        with stopped(box):
            for slot in range(3):
                s.send(tx, datagram(slot, 1200), slot=slot, flush=True)
                s.send(tx, datagram(8, 9000), segment=1000, slot=slot, flush=slot > 0)
            s.submit()
            assert [done.result for done in s.reap_completions()] == [1200, 9000] * 3
            assert not s.reap_notifications()
            assert s.stats.in_flight == 6
        came = s.reap_notifications(wait=5)
        assert sorted((n.tag, n.requests, n.nbytes) for n in came) == [
            (0, 1, 1200),
            *[(1, 1, 1200), (1, 1, 9000)],
            *[(2, 1, 1200), (2, 1, 9000)],
        ]
        s.flush(0)
        assert [n.nbytes for n in s.reap_notifications(wait=1)] == [9000]
        assert len(received(rx, 30)) == 30


@frame_engines
def test_frames_that_are_used_again_arrive_unchanged(net: testing.Hold) -> None:
    """Many times what the ring holds, over a network that delivers late, from memory that is overwritten."""
    chance = random.Random(5)
    memory = [bytearray(3000) for _ in range(60)]
    free, busy = deque(range(60)), deque[int]()
    expected: list[bytes] = []
    net.set_mtu(9000)
    with (
        testing.receiver(sock=net.receiver_socket(), limit=3000) as rx,
        net.socket() as sock,
        scheduler(net, tags=range(60), completions="none") as s,
    ):
        sock.connect(net.address)
        while len(expected) < 3000 or busy:
            while free and len(expected) < 3000:
                at, size = free.popleft(), chance.choice((16, 333, 1400, 3000))
                expected.append(datagram(len(expected), size))
                memory[at][:size] = expected[-1]
                s.send(sock, memory[at], length=size, slot=at, flush=True)
                busy.append(at)
            for notification in s.reap_notifications(wait=1):
                assert (notification.requests, notification.failed) == (1, 0)
                memory[notification.slot][:] = b"\xff" * 3000
                busy.remove(notification.slot)
                free.append(notification.slot)
        assert rx.wait(3000) == expected


@only_packet
def test_control_a_frame_overwritten_at_its_result_arrives_changed(
    box: testing.Hold, rx: socket.socket, tx: socket.socket
) -> None:
    one, train = datagram(1, 1200), datagram(2, 5000)
    with scheduler(box) as s, stopped(box):
        s.send(tx, one, flush=True)
        s.send(tx, train, segment=1000, flush=True)
        s.submit()
        assert [done.result for done in s.reap_completions(wait=2)] == [1200, 5000]
        overwrite(s, one)
        overwrite(s, train)
        box.release()
        assert received(rx, 6) == [b"\xff" * 1200, *[b"\xff" * 1000] * 5]


@only_packet
def test_a_frame_overwritten_at_its_notification_arrives_unchanged(
    box: testing.Hold, rx: socket.socket, tx: socket.socket
) -> None:
    one, train = datagram(1, 1200), datagram(2, 5000)
    with scheduler(box) as s:
        with stopped(box):
            s.send(tx, one, flush=True)
            s.send(tx, train, segment=1000, flush=True)
            s.submit()
        assert len(s.reap_notifications(wait=2)) == 2
        overwrite(s, one)
        overwrite(s, train)
        assert received(rx, 6) == [one, *(train[at : at + 1000] for at in range(0, 5000, 1000))]


@only_packet
def test_headers_are_copied_at_the_result(box: testing.Hold, rx: socket.socket, tx: socket.socket) -> None:
    """Overwritten with their payload, they arrive as they were: the payload alone is the kernel's to read."""
    with scheduler(box) as s, stopped(box):
        s.send(tx, datagram(1, 1200), flush=True)
        s.submit()
        overwrite(s, datagram(1, 1200), before=42)
        box.release()
        assert received(rx, 1) == [b"\xff" * 1200]


@only_packet
def test_control_headers_of_a_raw_frame_overwritten_at_its_result_arrive_changed(box: testing.Hold) -> None:
    """Those behind the Ethernet header: the kernel knows of no others in a frame of the program's."""
    payload = datagram(1, 1200)
    with (
        Capture(box.peer) as capture,
        box.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock,
        scheduler(box) as s,
    ):
        box.run(lambda: sock.bind((box.device, 0)))
        frame = raw_frame(0x88B5, payload)
        with stopped(box):
            s.send(sock, frame, flush=True)
            s.submit()
            overwrite(s, frame[14:])
        (came,) = capture.take(1, lambda came: came[12:14] == struct.pack("!H", 0x88B5))
        assert came == frame[:14] + b"\xff" * 1200


@frame_engines
def test_no_byte_beside_the_memory_that_was_given_is_read(
    box: testing.Hold, rx: socket.socket, tx: socket.socket
) -> None:
    """What is in frames is copied from it by this process, which a byte more would end."""
    guarded = Guarded()
    with scheduler(box) as s:
        sent = send_inside(s, tx, guarded.view(), largest=1400)
        refuse_outside(s, tx, guarded.view())
        s.flush(0)
        s.drain()
        assert s.stats.failed == 0
    assert received(rx, len(sent)) == [guarded.bytes[part] for part in sent]
