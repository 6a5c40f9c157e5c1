"""No room, in the ring or the qdisc: each request completes once, each notifier once, and sending goes on."""

import errno
import socket
import threading
from contextlib import suppress

import pytest
from frame_tools import frames_in_use, scheduler, send_all, udp_sender
from marks import frame_engines, only_packet
from processes import Alarms
from traffic import datagram, received, stopped, wait_readable, wait_until

import uringzc
from uringzc import testing


def fill(s: uringzc.Scheduler, tx: socket.socket) -> int:
    """Sends until there is no frame left; how many it has sent."""
    sent = 0

    def send_more() -> None:
        nonlocal sent
        while True:
            s.send(tx, datagram(sent, 1200), user_data=sent, flush=True)
            sent += 1

    with pytest.raises(BlockingIOError, match="all frames are in use"):
        send_more()
    return sent


def completed_once(s: uringzc.Scheduler, count: int) -> list[int]:
    """The results, in the order of the requests: each came once, and each notifier has notified once."""
    done = sorted(s.reap_completions(wait=count))
    assert [each.user_data for each in done] == list(range(count))
    assert sorted(n.sequence for n in s.reap_notifications(wait=count)) == list(range(count))
    assert (s.stats.in_flight, s.stats.held, s.stats.stray, frames_in_use(s)) == (0, 0, 0, 0)
    return [each.result for each in done]


@only_packet
def test_a_full_ring_refuses_until_the_gate_opens(
    box: testing.Hold, rx: socket.socket, tx: socket.socket
) -> None:
    with scheduler(box) as s:
        with stopped(box):
            count = fill(s, tx)
            assert count >= 64
            assert fill(s, tx) == 0  # nothing was queued by the call that was refused
            assert s.stats.in_flight == count
        assert completed_once(s, count) == [1200] * count
        assert received(rx, count) == [datagram(i, 1200) for i in range(count)]
        send_all(s, tx, [b"next"])
        assert received(rx, 1) == [b"next"]
        assert s.reap_notifications(wait=1)[0].failed == 0


@only_packet
def test_a_full_ring_has_room_for_what_is_released(
    box: testing.Hold, rx: socket.socket, tx: socket.socket
) -> None:
    """Three times the ring, in steps: its frames are used in turns."""
    with scheduler(box) as s:
        for _ in range(3):
            with stopped(box):
                count = fill(s, tx)
            assert count >= 64
            assert received(rx, count) == [datagram(i, 1200) for i in range(count)]
            assert len(s.reap_notifications(wait=count)) == count
            assert len(s.reap_completions()) == count


@only_packet
@pytest.mark.parametrize("leased", [False, True])
def test_a_sender_that_does_not_block_says_when_there_is_no_frame(
    box: testing.Hold, rx: socket.socket, leased: bool
) -> None:
    with udp_sender(box, blocking=False, max_delay=None) as s:
        expected: list[bytes] = []

        def send_more() -> None:
            while True:
                data = datagram(len(expected), 1200)
                if leased:
                    lease = s.lease(1200)
                    lease.view[:] = data
                    lease.send()
                else:
                    s.send(data)
                expected.append(data)

        with stopped(box), pytest.raises(BlockingIOError):
            send_more()
        assert len(expected) >= 48
        flushed(s)
        assert received(rx, len(expected)) == expected
        s.send(b"next")
        flushed(s)
        assert received(rx, 1) == [b"next"]
        assert (s.stats.lost, s.stats.in_flight) == (0, 0)


def flushed(s: uringzc.UdpSender) -> None:
    """What waits leaves, and its memory is free."""
    for call in (s.flush, s.drain):
        while True:
            try:
                call()
                break
            except BlockingIOError:
                wait_readable(s.fileno())


@only_packet
def test_a_sender_that_blocks_waits_for_the_gate(box: testing.Hold) -> None:
    """In its thread; another one opens the gate when nothing moves any more."""
    ready, sent = threading.Event(), [0]
    expected = [datagram(i, 1200) for i in range(9000)]

    def send() -> None:
        with udp_sender(box, max_delay=None) as s:
            ready.set()
            for data in expected:
                s.send(data)
                sent[0] += 1
            s.flush().wait(10)
            assert s.stats.lost == 0

    with testing.receiver(sock=box.receiver_socket(), limit=9000) as rx:
        thread = threading.Thread(target=send)
        with stopped(box):
            thread.start()
            assert ready.wait(10)
            assert wait_until(lambda: sent[0] > 3000)  # 72 frames of 54 datagrams
        assert rx.wait(9000, 20) == expected
        thread.join()


@only_packet
def test_a_signal_interrupts_the_wait_for_a_notification(
    box: testing.Hold, rx: socket.socket, tx: socket.socket
) -> None:
    with scheduler(box) as s:
        with stopped(box):
            s.send(tx, b"held", flush=True)
            with pytest.raises(KeyboardInterrupt), Alarms(0.05, repeat=False):
                s.reap_notifications(wait=1)
            assert s.stats.in_flight == 1
        assert completed_once(s, 1) == [4]
        assert received(rx, 1) == [b"held"]


@only_packet
def test_a_signal_interrupts_a_sender_that_waits_for_frames(box: testing.Hold, rx: socket.socket) -> None:
    with udp_sender(box, max_delay=None) as s:
        taken = 0

        def send_more() -> None:
            nonlocal taken
            while True:
                s.send(datagram(taken, 1200))
                taken += 1

        with stopped(box), pytest.raises(KeyboardInterrupt), Alarms(0.5, repeat=False):
            send_more()
        s.flush().wait(10)
        assert received(rx, taken) == [datagram(i, 1200) for i in range(taken)]
        rest = s.stats.datagrams - taken  # the call that was interrupted has taken it, or not
        assert rest in (0, 1)
        assert received(rx, rest) == [datagram(taken, 1200)] * rest


@only_packet
def test_a_full_qdisc_is_reported(box: testing.Hold, rx: socket.socket, tx: socket.socket) -> None:
    with scheduler(box) as s:
        with stopped(box):
            box.limit(20_000)
            for i in range(40):
                s.send(tx, datagram(i, 1200), user_data=i, flush=True)
            s.submit()
            box.limit()
        results = completed_once(s, 40)
        assert set(results) == {1200, -errno.ENOBUFS}
        fit = [i for i, result in enumerate(results) if result == 1200]
        assert received(rx, len(fit)) == [datagram(i, 1200) for i in fit]
        send_all(s, tx, [b"next"])
        assert received(rx, 1) == [b"next"]


@only_packet
def test_a_sender_reports_a_full_qdisc(box: testing.Hold, rx: socket.socket) -> None:
    """Each datagram arrives, or is reported."""
    reported: list[uringzc.SendError] = []
    with udp_sender(box, max_delay=None, on_error=reported.append) as s:
        s.send(b"first")
        s.flush()
        assert received(rx, 1) == [b"first"]
        with stopped(box):
            box.limit(10_000)
            for i in range(20):
                s.send(datagram(i, 1200))
                s.flush()
            box.limit()
        s.drain()
        arrived = 20 - s.stats.lost
        assert reported
        assert {error.errno for error in reported} == {errno.ENOBUFS}
        came = received(rx, arrived)
        assert came == [data for data in (datagram(i, 1200) for i in range(20)) if data in came]
        s.send(b"next")
        s.flush()
        assert received(rx, 1) == [b"next"]


@frame_engines
def test_many_more_than_the_frames_arrive(box: testing.Hold, rx: socket.socket, tx: socket.socket) -> None:
    with scheduler(box, completions="failed") as s:
        for i in range(2000):
            try:
                s.send(tx, datagram(i, 1200), flush=True)
            except BlockingIOError:
                s.reap_notifications(wait=1)
                s.send(tx, datagram(i, 1200), flush=True)
            if i % 100 == 99:
                s.submit()
                assert received(rx, 100) == [datagram(j, 1200) for j in range(i - 99, i + 1)]
        s.drain()
        assert s.stats.notifications == 2000
        assert not s.reap_completions()


@only_packet
@pytest.mark.parametrize("copies", [True, False])
def test_a_sender_waits_for_frames_that_another_one_of_the_engine_uses(
    box: testing.Hold, rx: socket.socket, copies: bool
) -> None:
    """Copies of the program's memory fill the ring, while the gate holds them. Another one needs a frame."""
    payload = bytes(1200)
    with (
        scheduler(box) as s,
        box.run(lambda: uringzc.UdpSender(box.address, scheduler=s, blocking=False)) as first,
        box.run(lambda: uringzc.UdpSender(box.address, scheduler=s)) as second,
    ):
        for sender in (first, second):
            sender.send(b"the neighbour is known")
            sender.flush()
        assert len(received(rx, 2)) == 2
        box.stop()
        sent = 0
        with suppress(BlockingIOError):
            while sent < 1000:
                first.send_region(payload)
                sent += 1
        assert sent < 1000
        opens = threading.Timer(0.3, box.release)
        opens.start()
        try:
            if copies:
                second.send_region(payload)
            else:
                second.send(payload)
            second.drain(10)
        finally:
            opens.join()
        first.drain(10)
        arrived = received(rx, sent + 1)
        assert set(arrived) == {payload}
