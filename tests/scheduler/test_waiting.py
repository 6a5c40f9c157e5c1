"""Waiting for results, for notifications, for everything: when it ends, and what can be read then."""

import errno
import select
import socket
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import Pair
from marks import only_io_uring, zero_copy_engines
from processes import Alarms
from traffic import is_readable, stopped, wait_readable

import uringzc
from uringzc import Completion, Notification, testing
from uringzc.engines import io_uring as uring

S = uringzc.Scheduler


# -- reap


def test_reap_without_wait_does_not_submit(udp_pair: Pair) -> None:
    with S() as s:
        assert len(s.reap_completions()) == len(s.reap_notifications()) == 0
        s.send(udp_pair.tx, b"x", flush=True)
        assert len(s.reap_completions()) == len(s.reap_notifications()) == 0
        assert s.submit() == 1
        assert list(s.reap_completions()) == [Completion(0, 1)]
        assert len(s.reap_completions()) == 0
        assert s.submit() == 0


@zero_copy_engines
def test_reap_without_wait_enters_the_kernel(box: testing.Hold, sock: socket.socket) -> None:
    # a DEFER_TASKRUN ring shows nothing until it is entered
    with S() as s:
        fd = s.fileno()
        with stopped(box):
            s.send(sock, b"x", flush=True)
            s.submit()
            assert len(s.reap_completions()) == 1
            assert len(s.reap_notifications()) == 0
        wait_readable(fd)
        assert len(s.reap_notifications()) == 1


def test_reap_with_wait_submits(udp_pair: Pair) -> None:
    with S() as s:
        s.send(udp_pair.tx, b"1", user_data=1, flush=True)
        assert [c.user_data for c in s.reap_completions(wait=1)] == [1]
        s.send(udp_pair.tx, b"2", user_data=2, flush=True)
        assert [n.sequence for n in s.reap_notifications(wait=2)] == [0, 1]


@pytest.mark.timeout(20)
def test_wait_ends_when_no_more_can_come(udp_pair: Pair) -> None:
    with S() as s:
        assert len(s.reap_completions(wait=5)) == len(s.reap_notifications(wait=5)) == 0
        for i in range(3):
            s.send(udp_pair.tx, b"x", flush=i < 2)
        assert len(s.reap_completions(wait=100)) == 3
        assert len(s.reap_notifications(wait=100)) == 2  # the third was not flushed
        s.flush(0)
        assert len(s.reap_notifications(wait=100)) == 1


def test_wait_returns_all_there_is(udp_pair: Pair) -> None:
    with S() as s:
        for _ in range(10):
            s.send(udp_pair.tx, b"x", flush=True)
        s.drain()
        assert len(s.reap_completions(wait=1)) == 10
        assert len(s.reap_notifications(wait=1)) == 10


@zero_copy_engines
@pytest.mark.parametrize("wait", [1, 2, 3])
def test_a_wait_for_some_does_not_wait_for_all(
    box: testing.Hold, sock: socket.socket, wait: int, udp_pair: Pair
) -> None:
    with S() as s, stopped(box):
        s.send(sock, b"held", flush=True)
        for _ in range(wait):
            s.send(udp_pair.tx, b"delivered", flush=True)
        assert len(s.reap_notifications(wait=wait)) == wait
        assert s.stats.in_flight == 1


@zero_copy_engines
@pytest.mark.parametrize("timeout", [0, 0.0, 0.02, -1])
def test_timeout_returns_what_there_is(
    box: testing.Hold, sock: socket.socket, timeout: float, udp_pair: Pair
) -> None:
    with S() as s, stopped(box):
        s.send(sock, b"held", user_data=1, flush=True)
        s.send(udp_pair.tx, b"delivered", user_data=2, flush=True)
        s.submit()
        assert udp_pair.rx.recv(100) == b"delivered"  # the kernel copied it then
        assert len(s.reap_notifications(wait=2, timeout=timeout)) == 1
        assert len(s.reap_notifications(wait=1, timeout=timeout)) == 0
        assert [c.user_data for c in s.reap_completions(wait=9, timeout=timeout)] == [1, 2]
        assert s.stats.in_flight == 1


def test_a_wait_ends_when_the_last_notification_comes(box: testing.Hold, sock: socket.socket) -> None:
    with S() as s, stopped(box):
        for i in range(5):
            s.send(sock, b"held", user_data=i, flush=True)
        s.submit()
        later = threading.Timer(0.02, box.release)
        later.start()
        assert len(s.reap_notifications(wait=5, timeout=20)) == 5
        later.join()


def test_a_wait_for_late_results(box: testing.Hold, sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # most of them wait for room
    with S() as s, stopped(box):
        for i in range(20):
            s.send(sock, bytes(1000), user_data=i)
        came = s.reap_completions(wait=20, timeout=0.02)
        assert 0 < len(came) < 20
        later = threading.Timer(0.02, box.release)
        later.start()
        left = 20 - len(came)
        assert len(s.reap_completions(wait=left, timeout=20)) == left
        later.join()


def test_a_wait_for_more_than_the_queue_has_entries(udp_pair: Pair) -> None:
    with S(max_inflight=2000) as s:
        udp_pair.tx.setsockopt(socket.SOL_SOCKET, 32, 8 << 20)
        for i in range(2000):
            s.send(udp_pair.tx, b"x", user_data=i, flush=True)
        assert [c.user_data for c in s.reap_completions(wait=2000)] == list(range(2000))
        assert len(s.reap_notifications(wait=2000)) == 2000


@pytest.mark.parametrize(("completions", "expected"), [("all", [1, -97]), ("failed", [-97]), ("none", [])])
def test_completions_keeps_all_failed_ones_or_none(
    udp_pair: Pair, completions: str, expected: list[int]
) -> None:
    with S(completions=completions) as s:
        s.send(udp_pair.tx, b"x", user_data=1)
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six:
            six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            s.send(six, b"xx", to=("::ffff:127.0.0.1", 9), user_data=2)
            s.submit()
            results = sorted((c.result for c in s.reap_completions(wait=2)), reverse=True)
        assert results[:1] == expected[:1] if completions == "all" else len(results) == len(expected)
        assert len(results) == len(expected)
        assert all(r < 0 for r in results[-1:]) or completions == "none"
        s.flush(0)
        (note,) = s.reap_notifications(wait=1)
        assert (note.requests, note.failed, note.nbytes) == (2, 1, 1)
        assert s.stats.failed == 1


def test_error_of_a_completion() -> None:
    assert Completion(1, 5).error is None
    assert Completion(1, 0).error is None
    error = Completion(1, -errno.ECONNREFUSED).error
    assert isinstance(error, ConnectionRefusedError)
    assert error.errno == errno.ECONNREFUSED


# -- batches


def test_a_batch_is_a_sequence_and_a_numpy_array(udp_pair: Pair) -> None:
    with S(tags=[5, 6]) as s:
        for i in range(10):
            s.send(udp_pair.tx, bytes(i), user_data=(1 << 64) - 1 - i, slot=i % 2, flush=True)
        s.drain()
        batch = s.reap_completions()
        expected = [Completion((1 << 64) - 1 - i, i) for i in range(10)]
        assert list(batch) == expected == [batch[i] for i in range(10)]
        assert (batch[-1], batch[-10]) == (expected[9], expected[0])
        for index in (10, -11):
            with pytest.raises(IndexError):
                _ = batch[index]
        for part in (slice(2, 5), slice(None, None, -1), slice(0, 0), slice(-3, None), slice(None, None, 4)):
            assert list(batch[part]) == expected[part]
            assert isinstance(batch[part], uringzc.Batch)
        assert expected[3] in batch
        assert batch.index(expected[3]) == 3
        assert list(reversed(batch)) == expected[::-1]
        assert repr(batch).startswith("<10 records: Completion(user_data=18446744073709551615, result=0), ")
        assert repr(batch).endswith(", ...>")

        records = np.asarray(batch)
        assert records.dtype.names == ("user_data", "result", "flags")
        assert records["result"].tolist() == list(range(10))
        assert records["user_data"].dtype == np.uint64
        assert np.array_equal(records, np.frombuffer(batch.view, batch.dtype))
        assert len(batch.view) == 160
        assert np.asarray(batch[3:5])["result"].tolist() == [3, 4]

        notes = s.reap_notifications()
        assert all(isinstance(n, Notification) for n in notes)
        table = np.asarray(notes)
        names = ("tag", "sequence", "slot", "requests", "nbytes", "copied", "failed")
        assert table.dtype.names == names
        numbers = [tuple(-1 if each is None else each for each in n) for n in notes]
        assert [tuple(row) for row in table.tolist()] == numbers
        assert sorted(table["tag"].tolist()) == [5] * 5 + [6] * 5
        empty = s.reap_completions()
        assert (len(empty), list(empty), np.asarray(empty).shape) == (0, [], (0,))
        assert not empty


def test_a_batch_owns_its_records(udp_pair: Pair) -> None:
    with S() as s:
        s.send(udp_pair.tx, b"first", user_data=1)
        batch = s.reap_completions(wait=1)
        records = np.asarray(batch)
        for i in range(100):
            s.send(udp_pair.tx, b"x", user_data=2 + i)
            s.reap_completions(wait=1)
    assert list(batch) == [Completion(1, 5)]
    del batch
    assert records["user_data"].tolist() == [1]


# -- notifiers and drain


@zero_copy_engines
def test_a_notifier_waits_and_is_done(box: testing.Hold, sock: socket.socket) -> None:
    with S() as s:
        with stopped(box):
            assert s.flush(0) is None
            s.send(sock, b"x")
            s.send(sock, b"x")
            notifier = s.flush(0)
            assert notifier is not None
            assert s.flush(0) is None
            assert not notifier.done
            with pytest.raises(TimeoutError, match=r"the notifier is not done after 0.01 s: 2 requests"):
                notifier.wait(0.01)
            with pytest.raises(TimeoutError, match=r"after 0 s: 2 requests are in flight, the oldest for \d"):
                notifier.wait(timeout=0)
            assert "2 requests in flight" in repr(notifier)
        notifier.wait()
        notifier.wait(0)
        assert notifier.done
        assert "done" in repr(notifier)
        assert len(s.reap_notifications()) == 1
        s.send(sock, b"next")
        later = s.flush(0)
        assert notifier.done  # of its own, whatever took its place
        assert later is not None
        later.wait(5)
    assert later.done


def test_done_enters_the_kernel(box: testing.Hold, sock: socket.socket) -> None:
    with S() as s:
        fd = s.fileno()
        with stopped(box):
            s.send(sock, b"x")
            notifier = s.flush(0)
            assert notifier is not None
            s.submit()
            s.reap_completions()
        wait_readable(fd)
        assert notifier.done


@zero_copy_engines
def test_drain_waits_and_flushes_nothing(box: testing.Hold, sock: socket.socket) -> None:
    with S() as s:
        s.drain()
        with stopped(box):
            for _ in range(3):
                s.send(sock, b"x")
            with pytest.raises(
                TimeoutError, match=r"drain is not done after 0.01 s: 3 requests are in flight, the oldest"
            ):
                s.drain(0.01)
            with pytest.raises(TimeoutError, match="drain is not done after 0 s"):
                s.drain(timeout=0)
        s.drain()
        assert (s.stats.in_flight, s.stats.open, s.stats.held) == (0, 1, 3)  # it flushes nothing
        assert len(s.reap_notifications()) == 0
        s.flush(0)


# -- a run that does not fit


@pytest.mark.parametrize(("room", "first", "second"), [(10, 10, None), (64, 40, 24), (600, 40, 560)])
def test_send_run_returns_how_many_were_queued(
    box: testing.Hold, sock: socket.socket, room: int, first: int, second: int | None
) -> None:
    sock.setsockopt(socket.SOL_SOCKET, 32, 8 << 20)
    with S(max_inflight=room) as s, stopped(box):
        region = s.register(40_000)
        assert s.send_run(sock, region, 10, 40) == first
        if second is not None:
            assert s.send_run(sock, region, 10, 4000, user_data=first) == second
        with pytest.raises(BlockingIOError):
            s.send_run(sock, region, 10, 1)
        assert s.stats.requests == room
        assert [c.user_data for c in s.reap_completions(wait=room)] == list(range(room))


# -- fileno


SETUPS = pytest.mark.parametrize("setup", [None, *uring.SETUP], ids=["usual", *map(hex, uring.SETUP)])


@zero_copy_engines
@SETUPS
def test_fileno_is_readable_while_there_is_something_to_reap(
    box: testing.Hold, sock: socket.socket, setup: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if setup is not None:
        monkeypatch.setattr(uring, "SETUP", (setup,))
    with S() as s:
        fd = s.fileno()
        assert fd == s.fileno()
        assert not is_readable(fd)
        for _ in range(3):
            with stopped(box):
                s.send(sock, b"x", flush=True)
                assert not is_readable(fd)  # only queued
                s.submit()
                assert is_readable(fd)  # submit took the result in
                assert len(s.reap_completions()) == 1
                assert not is_readable(fd)
                s.submit()
                assert not is_readable(fd)
            wait_readable(fd)  # the notification wakes up whoever waits
            s.submit()
            assert is_readable(fd)
            assert len(s.reap_notifications()) == 1
            assert not is_readable(fd)


@zero_copy_engines
@SETUPS
def test_fileno_wakes_an_epoll_that_waits(
    box: testing.Hold, sock: socket.socket, setup: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if setup is not None:
        monkeypatch.setattr(uring, "SETUP", (setup,))
    with S(completions="none") as s, select.epoll() as poll, stopped(box):
        for _ in range(5):
            s.send(sock, b"x", flush=True)
        s.submit()
        poll.register(s.fileno(), select.EPOLLIN)
        assert poll.poll(0) == []
        later = threading.Timer(0.02, box.release)
        later.start()
        got = 0
        while got < 5:
            assert poll.poll(20) != []
            got += len(s.reap_notifications())
        later.join()
        assert poll.poll(0) == []


def test_fileno_may_be_asked_for_late(box: testing.Hold, sock: socket.socket, udp_pair: Pair) -> None:
    with S() as s:
        s.send(udp_pair.tx, b"x", flush=True)
        s.submit()
        assert is_readable(s.fileno())
    with S(completions="none") as s:
        with stopped(box):
            s.send(sock, b"x", flush=True)
            s.submit()
        udp_pair.tx.send(b"anything")
        wait_readable(s.fileno())
        assert len(s.reap_notifications(wait=1)) == 1
    with pytest.raises(uringzc.ClosedError, match="closed"):
        s.fileno()


def test_fileno_is_readable_after_a_flush_that_posts(udp_pair: Pair) -> None:
    # the flush itself is what posts the notification of a notifier that is settled
    flushes: list[Callable[[S], object]] = [
        lambda s: s.flush(0),
        lambda s: s.slots.update(0, 1),
        lambda s: s.slots.unregister(),
    ]
    for flush in flushes:
        with S() as s:
            fd = s.fileno()
            s.send(udp_pair.tx, b"x")
            s.drain()
            s.reap_completions()
            assert not is_readable(fd)
            flush(s)
            assert is_readable(fd)
            assert len(s.reap_notifications()) == 1
            assert not is_readable(fd)


@only_io_uring
def test_fileno_of_a_ring_is_readable_while_there_is_something_to_reap(
    box: testing.Hold, sock: socket.socket
) -> None:
    with uringzc.Ring() as ring:
        fd = ring.fileno()
        with stopped(box):
            ring.send_zc(sock, b"x")
            ring.submit()
            assert is_readable(fd)
            assert [c.more for c in ring.reap()] == [True]
            assert not is_readable(fd)
        wait_readable(fd)
        assert [c.notif for c in ring.reap()] == [True]
        assert not is_readable(fd)


# -- interrupts


INTERRUPTED: list[tuple[str, Callable[[S, Any], object]]] = [
    ("reap_notifications", lambda s, notifier: s.reap_notifications(wait=2)),
    ("with a timeout", lambda s, notifier: s.reap_notifications(wait=2, timeout=60)),
    ("reap_completions", lambda s, notifier: s.reap_completions(wait=100)),
    ("drain", lambda s, notifier: s.drain()),
    ("notifier", lambda s, notifier: notifier.wait()),
]


@zero_copy_engines
@pytest.mark.parametrize("call", [row[1] for row in INTERRUPTED], ids=[row[0] for row in INTERRUPTED])
def test_interrupts_leave_the_scheduler_usable(
    box: testing.Hold, sock: socket.socket, call: Callable[[S, Any], object], udp_pair: Pair
) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with S() as s:
        with stopped(box):
            for i in range(20):  # most of them have no result either
                s.send(sock, bytes(1000), user_data=i)
            notifier = s.flush(0)
            for _ in range(3):
                with pytest.raises(KeyboardInterrupt), Alarms(0.01, repeat=False):
                    call(s, notifier)
            assert s.stats.in_flight == 20
            s.send(udp_pair.tx, b"usable", user_data=20, flush=True)
            s.submit()
            assert udp_pair.receive(1) == [b"usable"]
        assert len(s.reap_notifications(wait=2, timeout=20)) == 2
        s.reap_completions(wait=21)
        assert s.stats.completions == 21
        assert s.stats.in_flight == 0


@zero_copy_engines
def test_a_handler_that_returns_does_not_end_the_wait(box: testing.Hold, sock: socket.socket) -> None:
    import signal

    handled: list[int] = []

    def handler(number: int, frame: object) -> None:
        handled.append(number)
        if len(handled) == 5:
            box.release()

    old = signal.signal(signal.SIGALRM, handler)
    try:
        with S() as s, stopped(box):
            s.send(sock, b"x", flush=True)
            signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
            assert len(s.reap_notifications(wait=1)) == 1
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert len(handled) >= 5
