"""Limits of an engine: requests, completions and notifications by max_inflight, and locked memory."""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Pair
from held_memory import is_held, ring_fds
from marks import only_io_uring, zero_copy_engines
from processes import run_program
from traffic import stopped, wait_readable

import uringzc
from uringzc import testing
from uringzc.engines import io_uring as uring

# -- bounds


@only_io_uring
def test_completions_that_overflow_the_queue_are_reaped(
    box: testing.Hold, sock: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    # without DEFER_TASKRUN notifications come by themselves, and overflow while nobody looks
    monkeypatch.setattr(uring, "SETUP", (uring.SETUP[-1],))
    sock.setsockopt(socket.SOL_SOCKET, 32, 8 << 20)
    before = ring_fds()
    with uringzc.Ring(entries=8, cq_entries=8, max_inflight=256) as r:
        (fd,) = ring_fds() - before
        info = Path(f"/proc/self/fdinfo/{fd}")
        with stopped(box):
            for i in range(200):
                r.send_zc(sock, b"%03d" % i, user_data=i)
            r.submit()
            assert len(r.reap()) == 200
        wait_readable(r.fileno())
        while (
            overflowed(info) < 192
        ):  # all but what the queue holds; each look at the file is a call that takes notifications in
            pass
        notifications = r.reap()  # one look takes in all of them
        assert sorted(c.user_data for c in notifications) == list(range(200))
        assert all(c.notif for c in notifications)
        assert r.stats.stray == 0
        assert r.stats.in_flight == 0


def overflowed(info: Path) -> int:
    return info.read_text().partition("CqOverflowList:")[2].count("user_data")


@only_io_uring
def test_notifications_that_overflow_the_queue_are_reaped(box: testing.Hold, sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, 32, 8 << 20)
    with uringzc.Ring(entries=4, cq_entries=4, max_inflight=1024) as r:
        with stopped(box):
            for i in range(1000):
                r.send_zc(sock, b"%03d" % i, user_data=i)
            r.submit(wait=1000)
            assert [c.user_data for c in r.reap()] == list(range(1000))
        r.submit(wait=1000)
        assert sorted(c.user_data for c in r.reap()) == list(range(1000))


@contextmanager
def refused(s: uringzc.Scheduler, text: str) -> Iterator[None]:
    """The block raises BlockingIOError that says `text`, and queues nothing."""
    before = s.stats.requests
    with pytest.raises(BlockingIOError, match=text) as caught:
        yield
    assert caught.value.errno == errno.EAGAIN
    assert s.stats.requests == before


@zero_copy_engines
def test_requests_beyond_max_inflight_are_refused(box: testing.Hold, sock: socket.socket) -> None:
    with uringzc.Scheduler(max_inflight=4) as s:
        with stopped(box):
            for i in range(4):
                s.send(sock, b"x", user_data=i, flush=True)
            data = bytearray(1)
            with refused(s, "max_inflight requests are held: wait for notifications"):
                s.send(sock, data)
            with refused(s, "max_inflight requests are held"):
                s.send_run(sock, data, 1, 1)
            assert not is_held(data)
            s.reap_completions()
            with refused(s, "max_inflight requests are held"):  # results do not help
                s.send(sock, data)
        s.reap_notifications(wait=4)
        assert s.send_run(sock, b"x", 1, 4, 0, flush=True) == 4


def test_requests_of_open_notifiers_count_towards_max_inflight(udp_pair: Pair) -> None:
    with uringzc.Scheduler(max_inflight=4, completions="none") as s:
        for _ in range(4):
            s.send(udp_pair.tx, b"x")
        s.drain()
        assert s.stats.in_flight == 0
        with refused(s, "max_inflight requests are held: .* flush"):
            s.send(udp_pair.tx, b"x")
        s.flush(0)
        s.send(udp_pair.tx, b"x")


def test_unread_completions_count_towards_max_inflight(udp_pair: Pair) -> None:
    with uringzc.Scheduler(max_inflight=4) as s:
        for i in range(4):
            s.send(udp_pair.tx, b"x", user_data=i)
        s.flush(0)
        s.drain()
        s.reap_notifications()
        with refused(s, r"max_inflight completions are unread or to come: call reap_completions\(\)"):
            s.send(udp_pair.tx, b"x")
        assert [c.user_data for c in s.reap_completions()] == [0, 1, 2, 3]
        s.send(udp_pair.tx, b"x")


def test_unread_notifications_count_towards_max_inflight(udp_pair: Pair) -> None:
    with uringzc.Scheduler(max_inflight=4, completions="none") as s:
        for _ in range(4):
            s.send(udp_pair.tx, b"x", flush=True)
            s.drain()
        with refused(s, r"max_inflight notifications are unread or to come: call reap_notifications\(\)"):
            s.send(udp_pair.tx, b"x")
        assert [n.sequence for n in s.reap_notifications()] == [0, 1, 2, 3]
        s.send(udp_pair.tx, b"x", flush=True)
        assert [n.sequence for n in s.reap_notifications(wait=1)] == [4]


def test_send_run_returns_how_many_fit(box: testing.Hold, sock: socket.socket) -> None:
    with uringzc.Scheduler(max_inflight=10) as s:
        region = s.register(4096)
        with stopped(box):
            assert s.send_run(sock, region, 100, 4) == 4
            assert s.send_run(sock, region, 100, 40, user_data=4) == 6
            with refused(s, "max_inflight requests are held"):
                s.send_run(sock, region, 100, 40)
            assert s.stats.requests == 10
        assert sorted(c.user_data for c in s.reap_completions(wait=10)) == list(range(10))


# -- little memory to lock

LITTLE = """
    import encodings.idna, socket, sys, uringzc
    from refusals import become_nobody
    become_nobody(int(sys.argv[1]) << 10)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(("127.0.0.1", int(sys.argv[2])))
    try:
        s = uringzc.Scheduler(engine="io_uring", max_inflight=64)
    except OSError as error:
        print("scheduler", error.errno, error.strerror)
        sys.exit()
    try:
        s.register(1 << 20)
    except OSError as error:
        print("region", error.errno, error.strerror)
    small = s.register(4096)
    print(small.registered)
    s.send(sock, small, length=4, flush=True)
    s.send(sock, b"plain", flush=True)
    s.submit()
    print([c.result for c in s.reap_completions(wait=2)])
    s.close()
"""


@only_io_uring
@testing.requires("unprivileged")
def test_a_region_above_the_memlock_limit_is_refused(udp_pair: Pair) -> None:
    out, errors = run_program(LITTLE, 256, udp_pair.rx.getsockname()[1])
    region, registered, results = out.splitlines()
    assert region.startswith("region 12 1048576 bytes cannot be registered: the limit for locked memory")
    assert "(RLIMIT_MEMLOCK) is 256 KiB per user, 1024 KiB are needed; raise it with `ulimit -l`" in region
    assert "LimitMEMLOCK=" in region
    assert (registered, results) == ("True", "[4, 5]"), errors
    assert sorted(udp_pair.receive(2)) == [bytes(4), b"plain"]


@only_io_uring
@testing.requires("unprivileged")
def test_a_ring_above_the_memlock_limit_is_refused(udp_pair: Pair) -> None:
    out, errors = run_program(LITTLE, 4, udp_pair.rx.getsockname()[1])
    assert "RLIMIT_MEMLOCK) is 4 KiB per user, more is needed; raise it with `ulimit -l`" in out, errors
    assert "Traceback" not in errors


@only_io_uring
@testing.requires("unprivileged")
def test_control_a_large_memlock_limit_is_enough(udp_pair: Pair) -> None:
    out, errors = run_program(LITTLE, 8192, udp_pair.rx.getsockname()[1])
    assert out.splitlines() == ["True", "[4, 5]"], errors
