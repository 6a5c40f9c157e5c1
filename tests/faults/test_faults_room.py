"""The kernel has no room or no memory for what is sent, or it is too large for the way."""

import errno
import select
import socket
import threading
from contextlib import suppress

import pytest
from broken_networks import connected, full_queue, scheduled, udp_sender
from cells import Cell
from marks import all_engines, only_packet, queued_engines
from raising import raises_errno
from traffic import received, stopped

from uringzc import testing

IP_MTU_DISCOVER, IP_PMTUDISC_DO, IP_RECVERR = 10, 2, 11
MTU = 1500
FITS = MTU - 28
BLOCK = bytes(range(256)) * 128


def not_fragmented(sock: socket.socket) -> socket.socket:
    """With DF: what is larger than the path's MTU is refused."""
    sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
    return sock


# -- larger than the path takes


@all_engines
@pytest.mark.cell("EMSGSIZE", "Scheduler")
def test_a_scheduler_and_datagrams_that_are_too_large(
    cell: Cell, box: testing.Hold, rx: socket.socket
) -> None:
    with not_fragmented(connected(box, cell)) as sock, scheduled(box, cell) as requests:
        for size in FITS, FITS + 1, 100:
            requests.send(sock, cell.memory(size))
        with raises_errno(errno.EMSGSIZE, "larger than"):
            requests.send(sock, cell.memory(65_508))
        assert requests.results() == [FITS, -errno.EMSGSIZE, 100]
        assert [len(data) for data in received(rx, 2)] == [FITS, 100]
        cell.next_works(lambda data: requests.send_now(sock, data), rx)


@all_engines
@pytest.mark.cell("EMSGSIZE", "UdpSender")
def test_a_udp_sender_and_datagrams_that_are_too_large(
    cell: Cell, box: testing.Hold, rx: socket.socket
) -> None:
    with udp_sender(box, cell) as s:
        not_fragmented(s.sock)
        for size in FITS, FITS + 1, 100:
            s.send(bytes(size))
            s.flush()
        s.send_many([bytes(FITS + 2)] * 5)
        s.flush()
        with raises_errno(errno.EMSGSIZE, "larger than"):
            s.send(bytes(65_508))
        errors = s.reports.reported
        assert [(error.errno, error.index) for error in errors] == [
            (errno.EMSGSIZE, index) for index in (1, 3, 4, 5, 6, 7)
        ]
        assert [error.size for error in errors] == [FITS + 1] + [FITS + 2] * 5
        assert [len(data) for data in received(rx, 2)] == [FITS, 100]
        cell.next_works(lambda data: (s.send(data), s.flush()), rx)


# -- the socket's send buffer is full


def fill(sock: socket.socket) -> int:
    """Sends until it takes no more; how many it took."""
    sent = 0
    with suppress(BlockingIOError):
        while sock.send(b"fills it", socket.MSG_DONTWAIT):
            sent += 1
    return sent


@pytest.mark.cell("EAGAIN", "Scheduler")
def test_a_request_waits_for_room(cell: Cell, box: testing.Hold, rx: socket.socket) -> None:
    with connected(box, cell) as sock, scheduled(box, cell) as requests:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the least there is
        with stopped(box):
            before = fill(sock)
            for _ in range(3):
                requests.send(sock, cell.memory(b"waits"))
            requests.scheduler.submit()
            requests.reap()
            assert requests.completions == []
        assert requests.results() == [5] * 3
        assert received(rx, before + 3)[before:] == [b"waits"] * 3
        cell.next_works(lambda data: requests.send_now(sock, data), rx)


@only_packet
@pytest.mark.cell("EAGAIN", "Scheduler")
def test_a_request_without_a_free_frame_is_refused(cell: Cell, box: testing.Hold, rx: socket.socket) -> None:
    with connected(box, cell) as sock, scheduled(box, cell) as requests:
        with stopped(box), raises_errno(errno.EAGAIN, "all frames are in use"):
            while True:
                requests.send(sock, cell.memory(b"frame"))
        assert set(requests.results()) == {5}
        assert set(received(rx, requests.sent)) == {b"frame"}
        cell.next_works(lambda data: requests.send_now(sock, data), rx)


@pytest.mark.cell("EAGAIN", "UdpSender")
def test_a_udp_sender_that_does_not_wait_says_that_there_is_no_room(
    cell: Cell, box: testing.Hold, rx: socket.socket
) -> None:
    """What it took before is kept, and leaves when ``fileno`` is readable."""
    with (
        connected(box, cell) as sock,
        cell.udp_sender(sock=sock, max_delay=None, blocking=False, sndbuf=None) as s,
    ):
        s.send(b"first")
        s.flush()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        with stopped(box):
            before = fill(sock)
            s.send(b"waits")
            with raises_errno(errno.EAGAIN, "the network takes no more at the moment"):
                s.flush()
            assert not select.select([s], [], [], 0)[0]
        assert select.select([s], [], [], 20)[0]
        s.flush()
        assert received(rx, before + 2)[-1] == b"waits"
        cell.next_works(lambda data: (s.send(data), s.flush()), rx)


@pytest.mark.cell("EAGAIN", "UdpSender")
def test_a_call_of_a_udp_sender_waits_for_room(cell: Cell, box: testing.Hold, rx: socket.socket) -> None:
    with connected(box, cell) as sock, cell.udp_sender(sock=sock, max_delay=None, sndbuf=None) as s:
        s.send(b"first")
        s.flush()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        with stopped(box):
            before = fill(sock)
            s.send(b"waits")
            opens = threading.Timer(0.02, box.release)
            opens.start()
            s.flush()
            opens.join()
        assert s.stats.waited_for["room"] > 0
        assert received(rx, before + 2)[-1] == b"waits"
        cell.next_works(lambda data: (s.send(data), s.flush()), rx)


# -- a queue on the way is full


@queued_engines
@pytest.mark.cell("ENOBUFS", "Scheduler")
def test_a_scheduler_and_a_full_queue_of_the_device(cell: Cell, box: testing.Hold, rx: socket.socket) -> None:
    """With IP_RECVERR, or frames; a socket without it drops in silence."""
    with connected(box, cell) as sock, scheduled(box, cell) as requests:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        with full_queue(box):
            requests.send(sock, cell.memory(b"lost"))
            assert requests.results() == [-errno.ENOBUFS]
        cell.next_works(lambda data: requests.send_now(sock, data), rx)


@queued_engines
@pytest.mark.cell("ENOBUFS", "UdpSender")
def test_a_udp_sender_and_a_full_queue_of_the_device(
    cell: Cell, box: testing.Hold, rx: socket.socket
) -> None:
    """Tried again for a while; then it is reported."""
    with udp_sender(box, cell) as s:
        with full_queue(box):
            s.send(b"lost")
            s.flush()
        assert [(error.errno, error.index) for error in s.reports.reported] == [(errno.ENOBUFS, 0)]
        cell.next_works(lambda data: (s.send(data), s.flush()), rx)


@pytest.mark.cell("ENOBUFS", "UdpSender")
def test_a_full_queue_drops_what_a_socket_without_recverr_sends(
    cell: Cell, box: testing.Hold, rx: socket.socket
) -> None:
    with connected(box, cell) as sock, cell.udp_sender(sock=sock, max_delay=None) as s:
        with full_queue(box):
            s.send(b"dropped")
            s.flush()
        assert (s.reports.reported, s.stats.lost) == ([], 0)
        cell.next_works(lambda data: (s.send(data), s.flush()), rx)
