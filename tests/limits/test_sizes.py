"""As much as there can be of each thing at once, one more, and that all of it comes back."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from held_memory import pinned_kib
from marks import only_io_uring, zero_copy_engines
from raising import raises_errno
from traffic import enlarge_sndbuf, is_readable, stopped

import uringzc
from uringzc import testing
from uringzc.engines.tables import BUFFERS, FILES
from uringzc.notif import MAX_SLOTS

ALL_ENGINES = pytest.mark.engines("io_uring", "msg_zerocopy", "copy", "packet", "af_xdp")
IN_FLIGHT = 65_536
SOCKETS = 1_000


@contextmanager
def scheduler(box: testing.Sandbox, **options: Any) -> Iterator[uringzc.Scheduler]:
    """A Scheduler of the test's engine, inside the sandbox."""
    with box.run(lambda: uringzc.Scheduler(**options)) as s:
        yield s


@contextmanager
def all_back() -> Iterator[None]:
    """Descriptors and pinned pages are after the block as they were before."""

    def have() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), pinned_kib()

    before = have()
    yield
    assert have() == before


def empty(rx: socket.socket) -> int:
    """Takes what has come, and says how much."""
    count = 0
    while is_readable(rx.fileno()):
        rx.recv(100)
        count += 1
    return count


# -- requests


@zero_copy_engines
@pytest.mark.slow
def test_65536_requests_are_in_flight(box: testing.Hold) -> None:
    """Of 512 sockets: net.core.optmem_max has room for little more than 128 MSG_ZEROCOPY sends of one."""
    with ExitStack() as stack:
        stack.enter_context(box.receiver_socket())
        with all_back(), uringzc.Scheduler(max_inflight=IN_FLIGHT) as s:
            sockets = box.run(lambda: [new() for _ in range(512)])
            region = s.register(4096)
            with stopped(box):
                for i, sock in enumerate(sockets):
                    enlarge_sndbuf(sock)
                    sock.connect(box.address)
                    assert s.send_run(sock, region, 16, 128, user_data=128 * i) == 128
                with pytest.raises(BlockingIOError, match="max_inflight requests are held"):
                    s.send(sockets[0], region, length=16)
                s.submit()
                completions = s.reap_completions(wait=IN_FLIGHT)
                assert [(c.user_data, c.result) for c in completions] == [(i, 16) for i in range(IN_FLIGHT)]
                assert s.stats.in_flight == s.stats.held == IN_FLIGHT
                s.flush(0)
            (notification,) = s.reap_notifications(wait=1)
            assert (notification.requests, notification.nbytes) == (IN_FLIGHT, 16 * IN_FLIGHT)
            assert (s.stats.in_flight, s.stats.stray) == (0, 0)
            for sock in sockets:
                sock.close()


def test_65536_notifications_are_unread(sink: testing.Sandbox) -> None:
    """Each of a notifier of its own, of a single request."""
    with sink.socket() as sock, all_back(), uringzc.Scheduler(max_inflight=IN_FLIGHT) as s:
        sock.connect(sink.address)
        data, queued = bytes(256), 0
        while queued < IN_FLIGHT:
            queued += s.send_run(sock, data, 1, 256, user_data=queued, flush=True)
        s.drain(60)
        with pytest.raises(BlockingIOError, match=r"max_inflight (completions|notifications) are unread"):
            s.send(sock, b"x")
        assert sorted(c.user_data for c in s.reap_completions()) == list(range(IN_FLIGHT))
        with pytest.raises(BlockingIOError, match="max_inflight notifications are unread"):
            s.send(sock, b"x")
        assert sorted(n.sequence for n in s.reap_notifications()) == list(range(IN_FLIGHT))
        s.send(sock, b"x", flush=True)
        assert [n.sequence for n in s.reap_notifications(wait=1)] == [IN_FLIGHT]


@pytest.mark.parametrize(("name", "most"), [("max_inflight", 1 << 20)])
def test_more_than_the_most_is_refused(name: str, most: int) -> None:
    with all_back():
        uringzc.Scheduler(**{name: most}).close()  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=str(most)):
            uringzc.Scheduler(**{name: most + 1})  # type: ignore[arg-type]


@only_io_uring
def test_the_largest_queues_of_a_ring(sink: testing.Sandbox) -> None:
    with sink.socket() as sock, all_back():
        sock.connect(sink.address)
        with uringzc.Ring(entries=32768, cq_entries=65536, max_inflight=32768) as ring:
            for i in range(32768):
                ring.send(sock, b"x", user_data=i)
            assert ring.submit(wait=32768) == 32768
            assert sorted(c.user_data for c in ring.reap()) == list(range(32768))
        for options in ({"entries": 32769}, {"cq_entries": 65537}):
            with pytest.raises(ValueError, match=r"32768|65536"):
                uringzc.Ring(**options)


# -- slots


@ALL_ENGINES
def test_32768_slots_have_a_notifier_each(sink: testing.Sandbox, engine: str) -> None:
    with (
        sink.socket() as sock,
        all_back(),
        scheduler(sink, tags=range(MAX_SLOTS), max_inflight=MAX_SLOTS) as s,
    ):
        sock.connect(sink.address)
        tags: dict[int, int] = {}
        for begin in range(0, MAX_SLOTS, 32):  # frames are free again when their notifiers have posted
            for slot in range(begin, begin + 32):
                s.send(sock, b"x", slot=slot, user_data=slot)
            s.slots.update(begin, 32, MAX_SLOTS)
            if engine in ("packet", "af_xdp"):
                s.submit()
                tags.update((n.slot, n.tag) for n in s.reap_notifications(wait=32))
        s.drain(60)
        tags.update((n.slot, n.tag) for n in s.reap_notifications())
        assert tags == {slot: slot for slot in range(MAX_SLOTS)}
        with raises_errno(errno.EINVAL, "slot"):
            s.flush(MAX_SLOTS)
        with raises_errno(errno.EINVAL, "slot"):
            s.send(sock, b"x", slot=MAX_SLOTS)
        s.reap_completions()
        s.send(sock, b"x", slot=MAX_SLOTS - 1, flush=True)
        (last,) = s.reap_notifications(wait=1)
        assert (last.slot, last.tag, last.sequence) == (MAX_SLOTS - 1, MAX_SLOTS, 1)


# -- memory and sockets


@only_io_uring
def test_16384_regions_are_registered(sink: testing.Sandbox) -> None:
    with sink.socket() as sock, all_back(), uringzc.Scheduler(max_inflight=BUFFERS) as s:
        sock.connect(sink.address)
        before = pinned_kib()
        regions = [s.register(64) for _ in range(BUFFERS)]
        assert all(region.registered for region in regions)
        assert pinned_kib() > before
        with raises_errno(errno.ENOBUFS, f"{BUFFERS} buffers are registered, the most of one ring"):
            s.register(64)
        for i, region in enumerate(regions):
            s.send(sock, region, user_data=i)
        s.flush(0)
        assert {c.result for c in s.reap_completions(wait=BUFFERS)} == {64}
        assert [n.requests for n in s.reap_notifications(wait=1)] == [BUFFERS]
        regions.pop().close()
        regions.append(s.register(64))
        assert regions[-1].registered
        for region in regions:
            region.close()
        s.submit()
        assert pinned_kib() == before


@ALL_ENGINES
def test_1000_sockets_of_one_scheduler(box: testing.Hold, rx: socket.socket) -> None:
    with ExitStack() as stack, all_back(), scheduler(box, max_inflight=2 * SOCKETS) as s:
        sockets = [stack.enter_context(sock) for sock in box.run(lambda: [new() for _ in range(SOCKETS)])]
        arrived: set[bytes] = set()
        for begin in range(0, SOCKETS, 50):
            for i, sock in enumerate(sockets[begin : begin + 50]):
                s.send(sock, b"%04d" % (begin + i), to=box.address, flush=True)
            s.drain(20)
            assert {c.result for c in s.reap_completions()} == {4}
            assert len(s.reap_notifications()) == 50
            arrived |= {rx.recv(100) for _ in range(50)}
        assert arrived == {b"%04d" % i for i in range(SOCKETS)}
        stack.close()


def new() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


@only_io_uring
def test_1024_sockets_are_registered() -> None:
    with ExitStack() as stack, all_back(), uringzc.Scheduler() as s:
        sockets = [stack.enter_context(new()) for _ in range(FILES + 1)]
        for sock in sockets[:-1]:
            s.register_socket(sock)
        with raises_errno(errno.ENFILE, f"{FILES} sockets are registered, the most of one ring"):
            s.register_socket(sockets[-1])
        s.unregister_socket(sockets[0])
        s.register_socket(sockets[-1])
        stack.close()


def test_1000_senders_share_a_scheduler(box: testing.Hold, rx: socket.socket) -> None:
    with all_back(), uringzc.Scheduler() as s, ExitStack() as stack:
        senders = box.run(
            lambda: [uringzc.UdpSender(box.address, scheduler=s, max_delay=None) for _ in range(SOCKETS)]
        )
        for sender in senders:
            stack.enter_context(sender)
        for i, sender in enumerate(senders):
            sender.send(b"%04d" % i)
        for sender in senders:
            sender.flush()
        assert {rx.recv(100) for _ in range(SOCKETS)} == {b"%04d" % i for i in range(SOCKETS)}
