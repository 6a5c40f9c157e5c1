"""A queue or a table of the library or of the kernel is full."""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from broken_networks import connected, scheduled
from cells import Cell
from held_memory import ring_fds
from marks import only_io_uring, zero_copy_engines
from processes import soon
from raising import raises_errno
from traffic import receive_exactly, received, stopped, tcp_connection
from watched_faces import Requests

import uringzc
from uringzc import testing
from uringzc.engines import io_uring as uring

COUNT = 100
#: datagrams of different sizes, which make no trains
DATAGRAMS = [b"x" * (100 + number) for number in range(COUNT)]


# -- CQ overflow


@pytest.fixture
def small_cq(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rings of 32 completions, in which notifications come by themselves, and overflow while nobody looks."""
    monkeypatch.setattr(uring, "_MAX_CQ_ENTRIES", 32)
    monkeypatch.setattr(uring, "SETUP", (uring.SETUP[-1],))


@contextmanager
def overflowing(box: testing.Hold) -> Iterator[None]:
    """The block has COUNT requests of the only ring in flight; after it, their notifications overflow."""
    with stopped(box):
        yield
    (fd,) = ring_fds()
    info = Path(f"/proc/self/fdinfo/{fd}")  # each look at it is a call that takes notifications in
    while "user_data" not in info.read_text().partition("CqOverflowList:")[2]:
        pass


@only_io_uring
@pytest.mark.usefixtures("small_cq")
@pytest.mark.cell("CQ overflow", "Scheduler")
def test_notifications_of_a_scheduler_overflow(cell: Cell, box: testing.Hold, rx: socket.socket) -> None:
    with connected(box, cell) as sock:
        s = uringzc.Scheduler()
        requests = cell.requests(s)
        with overflowing(box):
            for data in DATAGRAMS:
                requests.send(sock, cell.memory(data))
            assert requests.results() == [len(data) for data in DATAGRAMS]
        requests.reap(notifications=COUNT)
        assert received(rx, COUNT) == DATAGRAMS
        cell.next_works(lambda data: requests.send(sock, data) and requests.results(), rx)
        s.close()


@only_io_uring
@pytest.mark.usefixtures("small_cq")
@pytest.mark.cell("CQ overflow", "UdpSender")
def test_notifications_of_a_udp_sender_overflow(cell: Cell, box: testing.Hold, rx: socket.socket) -> None:
    with connected(box, cell) as sock:
        s = cell.udp_sender(sock=sock, max_delay=None, zero_copy="always", max_inflight=2 * COUNT)
        s.send(b"first")
        s.drain()
        assert received(rx, 1) == [b"first"]
        with overflowing(box):
            s.send_many(DATAGRAMS)
            s.flush()
            assert s.stats.in_flight == COUNT
        s.drain()
        assert received(rx, COUNT) == DATAGRAMS
        cell.next_works(lambda data: (s.send(data), s.flush()), rx)
        s.close()


@only_io_uring
@pytest.mark.usefixtures("small_cq")
@pytest.mark.cell("CQ overflow", "TcpSender")
def test_notifications_of_a_tcp_sender_overflow(cell: Cell, box: testing.Hold) -> None:
    with tcp_connection(box) as (tx, rx):
        s = cell.tcp_sender(tx, zero_copy="always")
        with overflowing(box):
            for data in DATAGRAMS:
                s.send(cell.immutable(data))
            assert s.stats.in_flight == COUNT
        s.drain()
        stream = b"".join(DATAGRAMS)
        assert receive_exactly(rx, len(stream)) == stream
        cell.next_works(s.send, rx)
        s.close()


# -- the submission queue is full: it is submitted


@pytest.mark.cell("SQ full", "Scheduler")
def test_more_requests_than_the_queue_has_entries(cell: Cell) -> None:
    tx, rx = cell.udp()
    with uringzc.Scheduler() as s:
        requests = cell.requests(s)
        for data in DATAGRAMS:
            requests.send(tx, cell.memory(data))
        assert requests.results() == [len(data) for data in DATAGRAMS]
        assert received(rx, COUNT) == DATAGRAMS
        cell.next_works(lambda data: requests.send(tx, data) and requests.results(), rx)


@pytest.mark.cell("SQ full", "UdpSender", "TcpSender")
def test_a_queue_that_others_have_filled(cell: Cell) -> None:
    """Of a Scheduler that they share."""
    (tx, rx), (udp, udp_rx), (tcp, tcp_rx) = cell.udp(), cell.udp(), cell.tcp()

    def fill(requests: Requests) -> None:
        for _ in range(32):
            requests.send(tx, cell.memory(100))

    with (
        uringzc.Scheduler() as s,
        cell.udp_sender(sock=udp, scheduler=s, max_delay=None, zero_copy="always") as datagrams,
        cell.tcp_sender(tcp, scheduler=s, zero_copy="always") as stream,
    ):
        requests = cell.requests(s)
        for _ in range(3):
            fill(requests)
            datagrams.send_many(DATAGRAMS)
            datagrams.flush()
            fill(requests)
            stream.send(cell.immutable(DATAGRAMS[0]))
        assert requests.results() == [100] * 192
        assert received(udp_rx, 3 * COUNT) == DATAGRAMS * 3
        assert receive_exactly(tcp_rx, 300) == b"x" * 300
        assert received(rx, 192) == [bytes(100)] * 192
        cell.next_works(lambda data: (datagrams.send(data), datagrams.flush()), udp_rx)
        cell.next_works(stream.send, tcp_rx)


# -- a table is full


@zero_copy_engines
@pytest.mark.cell("table full", "Scheduler")
def test_more_requests_than_max_inflight(cell: Cell, box: testing.Hold, rx: socket.socket) -> None:
    with connected(box, cell) as sock, scheduled(box, cell, max_inflight=4) as requests:
        with stopped(box):
            for data in DATAGRAMS[:4]:
                requests.send(sock, cell.memory(data))
            with raises_errno(errno.EAGAIN, "max_inflight requests are held"):
                requests.send(sock, cell.memory(5))
        requests.reap(completions=4, notifications=4)
        assert received(rx, 4) == DATAGRAMS[:4]
        cell.next_works(lambda data: requests.send(sock, data) and requests.results(), rx)


@pytest.mark.cell("table full", "Scheduler")
def test_more_slots_and_senders_than_there_can_be(cell: Cell) -> None:
    tx, rx = cell.udp()
    with raises_errno(errno.EINVAL, "slots"):
        uringzc.Scheduler(range(32769))
    with uringzc.Scheduler(range(32768)) as s:
        requests = cell.requests(s)
        with raises_errno(errno.EINVAL, "slot"):
            requests.send(tx, b"x", slot=32768)
        requests.send(tx, cell.memory(b"x"), slot=32767)
        assert requests.results() == [1]
        assert received(rx, 1) == [b"x"]
        cell.next_works(lambda data: requests.send(tx, data) and requests.results(), rx)


@zero_copy_engines
@pytest.mark.cell("table full", "UdpSender")
def test_a_udp_sender_waits_for_the_request_table(cell: Cell, box: testing.Hold, rx: socket.socket) -> None:
    with (
        connected(box, cell) as sock,
        cell.udp_sender(sock=sock, max_delay=None, zero_copy="always", max_inflight=4) as s,
    ):
        s.send(b"first")
        s.drain()
        with stopped(box), soon(box.release):
            s.send_many(DATAGRAMS)
            s.flush()
        assert received(rx, 1 + COUNT)[1:] == DATAGRAMS
        assert s.stats.waits
        cell.next_works(lambda data: (s.send(data), s.flush()), rx)


@zero_copy_engines
@pytest.mark.cell("table full", "TcpSender")
def test_a_tcp_sender_copies_where_the_request_table_is_full(
    cell: Cell, box: testing.Hold, rx: socket.socket
) -> None:
    tcp, tcp_rx = cell.tcp()
    with connected(box, cell) as sock, scheduled(box, cell, max_inflight=4) as requests:
        with stopped(box), cell.tcp_sender(tcp, scheduler=requests.scheduler, zero_copy="always") as s:
            for data in DATAGRAMS[:4]:
                requests.send(sock, cell.memory(data))
            s.send(cell.immutable(DATAGRAMS[0]))
            assert (s.stats.requests, s.stats.syscalls) == (0, 1)
            assert receive_exactly(tcp_rx, 100) == DATAGRAMS[0]
            cell.next_works(s.send, tcp_rx)
        requests.reap(notifications=4)
        assert received(rx, 4) == DATAGRAMS[:4]
