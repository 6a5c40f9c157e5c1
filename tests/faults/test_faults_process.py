"""Another thread closes the socket; the owner's thread ends; a mapped file is truncated."""

import errno
import mmap
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from broken_networks import connected, scheduled, udp_sender
from cells import Cell
from marks import all_engines, queued_engines, zero_copy_engines
from processes import in_thread, soon
from traffic import receive_exactly, received, stopped, tcp_connection

import uringzc
from uringzc import ClosedError, SendError, testing
from uringzc.engines import lifetime

DATAGRAM = bytes(range(250)) * 4
STREAM = bytes(range(256)) * 4096
NOT_CLOSED = pytest.mark.filterwarnings("ignore:.* was not closed:ResourceWarning")


# -- the socket is closed by another thread


@queued_engines
@pytest.mark.cell("socket closed by another thread", "Scheduler")
def test_a_socket_that_is_closed_while_a_scheduler_waits(
    cell: Cell, box: testing.Hold, rx: socket.socket
) -> None:
    """What was submitted leaves; what was queued, and what is sent then, fails."""
    sock = connected(box, cell)
    with scheduled(box, cell) as requests:
        with stopped(box):
            requests.send(sock, cell.memory(DATAGRAM))
            requests.scheduler.submit()
            requests.send(sock, cell.memory(b"queued"))
            in_thread(sock.close)
            assert requests.results() == [len(DATAGRAM), -errno.EBADF]
        assert received(rx, 1) == [DATAGRAM]
        requests.reap(notifications=2 - len(requests.notifications))
        cell.next_fails(lambda data: requests.scheduler.send(sock, data), errno.EBADF)


@pytest.mark.cell("socket closed by another thread", "UdpSender")
def test_a_socket_that_is_closed_while_a_udp_sender_waits(
    cell: Cell, box: testing.Hold, rx: socket.socket
) -> None:
    """The call that waits for room raises, and close() reports what was lost."""
    sock = connected(box, cell)
    s = cell.udp_sender(sock=sock, max_delay=None, sndbuf=None)
    s.send(DATAGRAM)
    s.flush()
    assert received(rx, 1) == [DATAGRAM]
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    with stopped(box):
        s.send_many([DATAGRAM] * 100)
        with soon(sock.close), pytest.raises(OSError, match="closed") as caught:
            s.flush()
        assert caught.value.errno == errno.EBADF
        cell.next_fails(lambda data: (s.send(data), s.flush()), errno.EBADF)
    with pytest.raises(OSError, match="closed"):
        s.close(60)
    assert s.stats.lost > 0
    assert s.stats.waiting == 0


@pytest.mark.parametrize("zero_copy", ["always", "never"])
@pytest.mark.cell("socket closed by another thread", "TcpSender")
def test_a_socket_that_is_closed_while_a_tcp_sender_waits(
    zero_copy: str, cell: Cell, box: testing.Hold
) -> None:
    with tcp_connection(box) as (tx, rx), cell.tcp_sender(tx, zero_copy=zero_copy) as s:
        tx.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        with stopped(box), soon(tx.close), pytest.raises(SendError, match="Bad file descriptor") as caught:
            s.send(cell.immutable(STREAM))
        assert caught.value.errno == errno.EBADF
        assert 0 < caught.value.accepted < len(STREAM)
        assert receive_exactly(rx, caught.value.accepted) == STREAM[: caught.value.accepted]
        cell.next_fails(s.send, errno.EBADF)


# -- the owner's thread ends


@NOT_CLOSED
@queued_engines
@pytest.mark.cell("thread exit", "Scheduler")
def test_the_thread_of_a_scheduler_ends(
    cell: Cell, box: testing.Hold, rx: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in flight is waited for, at most so long, and what is queued is sent."""
    monkeypatch.setattr(lifetime, "DRAIN_AT_END", 60)
    made: list[uringzc.Scheduler] = []
    with connected(box, cell) as sock:

        def own() -> None:
            with stopped(box):
                s = box.run(uringzc.Scheduler)
                requests = cell.requests(s)
                requests.send(sock, cell.memory(DATAGRAM))
                s.submit()
                requests.send(sock, cell.memory(b"queued"))
            made.append(s)

        in_thread(own)
        assert received(rx, 2) == [DATAGRAM, b"queued"]
        s = made.pop()
        cell.next_fails(lambda data: s.send(sock, data), ClosedError)


@NOT_CLOSED
@queued_engines
@pytest.mark.cell("thread exit", "UdpSender")
def test_the_thread_of_a_udp_sender_ends(
    cell: Cell, box: testing.Hold, rx: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifetime, "DRAIN_AT_END", 60)
    made: list[uringzc.UdpSender] = []
    with connected(box, cell) as sock:

        def own() -> None:
            with stopped(box):
                s = box.run(lambda: cell.udp_sender(sock=sock, max_delay=None, zero_copy="always"))
                s.send(DATAGRAM)
                s.flush()
                s.send(b"waits")
            made.append(s)

        in_thread(own)
        assert received(rx, 2) == [DATAGRAM, b"waits"]
        s = made.pop()
        cell.next_fails(s.send, ClosedError)


@NOT_CLOSED
@pytest.mark.cell("thread exit", "TcpSender")
def test_the_thread_of_a_tcp_sender_ends(
    cell: Cell, box: testing.Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifetime, "DRAIN_AT_END", 60)
    made: list[uringzc.TcpSender] = []
    with tcp_connection(box) as (tx, rx):

        def own() -> None:
            with stopped(box):
                s = cell.tcp_sender(tx, zero_copy="always")
                s.send(cell.immutable(DATAGRAM))
            made.append(s)

        in_thread(own)
        assert receive_exactly(rx, len(DATAGRAM)) == DATAGRAM
        s = made.pop()
        cell.next_fails(s.send, ClosedError)


# -- a mapped file is truncated


@contextmanager
def mapped_file(cell: Cell) -> Iterator[tuple[mmap.mmap, Callable[[], None]]]:
    """Its memory, and what truncates it."""
    fd = os.memfd_create("truncated")
    try:
        os.write(fd, STREAM)
        yield cell.watch(mmap.mmap(fd, len(STREAM))), lambda: os.truncate(fd, 0)
    finally:
        os.close(fd)


@all_engines
@pytest.mark.cell("mapped file truncated", "Scheduler")
def test_a_scheduler_and_a_truncated_file(cell: Cell, box: testing.Hold, rx: socket.socket) -> None:
    with connected(box, cell) as sock, scheduled(box, cell) as requests, mapped_file(cell) as (data, cut):
        requests.send(sock, data, length=1000)
        assert requests.results() == [1000]
        cut()
        requests.send(sock, data, length=1000)
        requests.send(sock, data, length=1000, offset=8192)
        assert requests.results()[1:] == [-errno.EFAULT] * 2
        assert received(rx, 1) == [STREAM[:1000]]
        cell.next_works(lambda data: requests.send(sock, data) and requests.results(), rx)


@zero_copy_engines
@pytest.mark.cell("mapped file truncated", "Scheduler")
def test_a_file_that_is_truncated_in_flight(cell: Cell, box: testing.Hold, rx: socket.socket) -> None:
    """The kernel has its pages, until they have left."""
    with connected(box, cell) as sock, scheduled(box, cell) as requests, mapped_file(cell) as (data, cut):
        with stopped(box):
            requests.send(sock, data, length=1000)
            requests.scheduler.submit()
            cut()
            requests.reap()
            assert requests.notifications == []
        assert requests.results() == [1000]
        assert received(rx, 1) == [STREAM[:1000]]
        cell.next_works(lambda data: requests.send(sock, data) and requests.results(), rx)


@all_engines
@pytest.mark.parametrize("by", ["region", "slices"])
@pytest.mark.cell("mapped file truncated", "UdpSender")
def test_a_udp_sender_and_a_truncated_file(by: str, cell: Cell, box: testing.Hold, rx: socket.socket) -> None:
    with udp_sender(box, cell) as s, mapped_file(cell) as (data, cut):
        s.send_region(data, length=2000, segment=1000)
        s.flush()
        assert received(rx, 2) == [STREAM[:1000], STREAM[1000:2000]]
        cut()
        if by == "region":
            s.send_region(data, length=2000, segment=1000)
            s.flush()
            assert [(error.errno, error.index) for error in s.reports.reported] == [
                (errno.EFAULT, 2),
                (errno.EFAULT, 3),
            ]
        else:
            with pytest.raises(OSError, match="truncated") as caught:
                s.send_slices(data, [0, 1000], [1000, 1000])
            assert caught.value.errno == errno.EFAULT
        cell.next_works(lambda data: (s.send(data), s.flush()), rx)


@pytest.mark.cell("mapped file truncated", "TcpSender")
def test_a_tcp_sender_and_a_truncated_file(cell: Cell) -> None:
    tx, rx = cell.tcp()
    with cell.tcp_sender(tx, zero_copy="always") as s, mapped_file(cell) as (data, cut):
        s.send(memoryview(data)[:1000])
        assert receive_exactly(rx, 1000) == STREAM[:1000]
        cut()
        with pytest.raises(SendError, match="Bad address") as caught:
            s.send(data)
        assert (caught.value.errno, caught.value.accepted) == (errno.EFAULT, 0)
        cell.next_works(s.send, rx)
