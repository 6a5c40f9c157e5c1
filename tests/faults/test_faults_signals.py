"""Signals come while a call waits: their handlers return, or raise."""

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
from broken_networks import connected, scheduled
from cells import Cell
from marks import zero_copy_engines
from processes import Alarms
from traffic import receive_exactly, received, stopped, tcp_connection
from watched_faces import Requests, TcpSender, UdpSender

from uringzc import ClosedError, Notifier, testing

COUNT = 20  # requests of a Scheduler: more than its socket has room for
MANY = 600  # datagrams of a UdpSender: more than its arena has room for
STORM = 10  # signals
DATAGRAM = bytes(range(250)) * 4
STREAM = bytes(range(256)) * 4096


@contextmanager
def handlers_that_return(last: Callable[[], object] = lambda: None) -> Iterator[list[int]]:
    """Of SIGALRM, again and again; the third calls `last`. There were as many at least."""
    came: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) == 3:
            last()

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    try:
        yield came
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(came) >= 3, "the call did not wait"


@contextmanager
def a_handler_that_raises() -> Iterator[None]:
    """KeyboardInterrupt out of the block, which waits."""
    with pytest.raises(KeyboardInterrupt), Alarms(0.005, repeat=False):
        yield


# -- a Scheduler

OF_A_SCHEDULER: dict[str, Callable[[Requests, Notifier], object]] = {
    "reap_completions": lambda requests, _: requests.reap(completions=COUNT),
    "reap_notifications": lambda requests, _: requests.reap(notifications=1),
    "drain": lambda requests, _: requests.scheduler.drain(),
    "wait": lambda _, notifier: notifier.wait(),
}


def waiting_requests(requests: Requests, sock: socket.socket, cell: Cell) -> Notifier:
    """Most of them have no result before the gate opens."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    for _ in range(COUNT):
        requests.send(sock, cell.memory(DATAGRAM), flush=False)
    notifier = requests.flush()
    requests.scheduler.submit()
    assert notifier is not None
    return notifier


def all_came(requests: Requests, sock: socket.socket, rx: socket.socket, cell: Cell) -> None:
    assert requests.results() == [len(DATAGRAM)] * COUNT
    assert received(rx, COUNT) == [DATAGRAM] * COUNT
    cell.next_works(lambda data: requests.send(sock, data) and requests.results(), rx)


@pytest.mark.cell("EINTR", "Scheduler")
@pytest.mark.parametrize("call", OF_A_SCHEDULER)
def test_a_call_of_a_scheduler_goes_on(call: str, cell: Cell, box: testing.Hold, rx: socket.socket) -> None:
    with connected(box, cell) as sock, scheduled(box, cell) as requests:
        with stopped(box):
            notifier = waiting_requests(requests, sock, cell)
            with handlers_that_return(box.release):
                OF_A_SCHEDULER[call](requests, notifier)
        all_came(requests, sock, rx, cell)


@pytest.mark.cell("EINTR", "Scheduler")
def test_close_of_a_scheduler_goes_on(cell: Cell, box: testing.Hold, rx: socket.socket) -> None:
    with connected(box, cell) as sock, scheduled(box, cell) as requests:
        with stopped(box):
            waiting_requests(requests, sock, cell)
            with handlers_that_return(box.release):
                requests.scheduler.close(60)
        assert received(rx, COUNT) == [DATAGRAM] * COUNT
        cell.next_fails(lambda data: requests.scheduler.send(sock, data), ClosedError)


@pytest.mark.cell("signal storm", "Scheduler")
@pytest.mark.parametrize("call", OF_A_SCHEDULER)
def test_a_handler_ends_a_call_of_a_scheduler(
    call: str, cell: Cell, box: testing.Hold, rx: socket.socket
) -> None:
    with connected(box, cell) as sock, scheduled(box, cell) as requests:
        with stopped(box):
            notifier = waiting_requests(requests, sock, cell)
            for _ in range(3):
                with a_handler_that_raises():
                    OF_A_SCHEDULER[call](requests, notifier)
        all_came(requests, sock, rx, cell)


@pytest.mark.cell("signal storm", "Scheduler")
def test_a_storm_while_a_scheduler_sends(cell: Cell, box: testing.Hold, rx: socket.socket) -> None:
    with connected(box, cell) as sock, scheduled(box, cell) as requests:
        with handlers_that_return() as came:
            while len(came) < STORM:
                requests.send(sock, cell.memory(DATAGRAM))
                requests.reap(completions=1, notifications=1)
                assert received(rx, 1) == [DATAGRAM]
        cell.next_works(lambda data: requests.send(sock, data) and requests.results(), rx)


# -- a UdpSender


def lease_many(s: UdpSender) -> None:
    for _ in range(MANY - s.stats.datagrams):
        lease = s.lease(len(DATAGRAM))
        lease.view[:] = DATAGRAM
        lease.send()


def send_many(s: UdpSender) -> None:
    while s.stats.datagrams < MANY:
        s.send(DATAGRAM)


def send_and(call: str) -> Callable[[UdpSender], object]:
    """Datagrams that wait, and then a call that waits for them."""

    def use(s: UdpSender) -> object:
        if s.stats.datagrams < 100:
            s.send_many([DATAGRAM] * (100 - s.stats.datagrams))
        return getattr(s, call)()

    return use


def wait_for_notifier(s: UdpSender) -> None:
    send_and("flush")(s)
    s.flush().wait()


OF_A_UDP_SENDER: dict[str, Callable[[UdpSender], object]] = {
    "send": send_many,
    "send_many": lambda s: s.send_many([DATAGRAM] * (MANY - s.stats.datagrams)),
    "lease": lease_many,
    "flush": send_and("flush"),
    "drain": send_and("drain"),
    "wait": wait_for_notifier,
}


@contextmanager
def sender_without_room(cell: Cell, box: testing.Hold) -> Iterator[UdpSender]:
    """Its socket's buffer has room for a datagram, its arena for 256."""
    with (
        connected(box, cell) as sock,
        cell.udp_sender(sock=sock, max_delay=None, sndbuf=None, arena=256 << 10) as s,
    ):
        s.send(DATAGRAM)
        s.flush()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        yield s


@pytest.mark.cell("EINTR", "UdpSender")
@pytest.mark.parametrize("call", OF_A_UDP_SENDER)
def test_a_call_of_a_udp_sender_goes_on(call: str, cell: Cell, box: testing.Hold, rx: socket.socket) -> None:
    with sender_without_room(cell, box) as s:
        with stopped(box), handlers_that_return(box.release):
            OF_A_UDP_SENDER[call](s)
        s.flush()
        assert received(rx, s.stats.datagrams) == [DATAGRAM] * s.stats.datagrams
        cell.next_works(lambda data: (s.send(data), s.flush()), rx)


@pytest.mark.cell("EINTR", "UdpSender")
def test_close_of_a_udp_sender_goes_on(cell: Cell, box: testing.Hold, rx: socket.socket) -> None:
    with sender_without_room(cell, box) as s:
        with stopped(box), handlers_that_return(box.release):
            s.send_many([DATAGRAM] * 100)
            s.close(60)
        assert received(rx, 101) == [DATAGRAM] * 101
        cell.next_fails(s.send, ClosedError)


@pytest.mark.cell("EINTR", "UdpSender")
def test_a_flush_that_keeps_a_rate_goes_on(cell: Cell) -> None:
    tx, rx = cell.udp()
    with cell.udp_sender(sock=tx, max_delay=None, pps=1000, burst=1) as s:
        with handlers_that_return() as came:
            while len(came) < STORM:
                s.send_many([DATAGRAM] * 2)
                s.flush()
                assert received(rx, 2) == [DATAGRAM] * 2
        cell.next_works(lambda data: (s.send(data), s.flush()), rx)


@pytest.mark.cell("signal storm", "UdpSender")
@pytest.mark.parametrize("call", OF_A_UDP_SENDER)
def test_a_handler_ends_a_call_of_a_udp_sender(
    call: str, cell: Cell, box: testing.Hold, rx: socket.socket
) -> None:
    """What the call had taken is sent, and nothing twice."""
    with sender_without_room(cell, box) as s:
        with stopped(box):
            for _ in range(3):
                with a_handler_that_raises():
                    OF_A_UDP_SENDER[call](s)
        s.flush()
        assert received(rx, s.stats.datagrams) == [DATAGRAM] * s.stats.datagrams
        cell.next_works(lambda data: (s.send(data), s.flush()), rx)


@pytest.mark.cell("signal storm", "UdpSender")
def test_a_storm_while_a_udp_sender_sends(cell: Cell, box: testing.Hold, rx: socket.socket) -> None:
    with connected(box, cell) as sock, cell.udp_sender(sock=sock) as s:
        with handlers_that_return() as came:
            while len(came) < STORM:
                s.send(DATAGRAM)
                s.drain()
                assert received(rx, 1) == [DATAGRAM]
        cell.next_works(lambda data: (s.send(data), s.flush()), rx)


# -- a TcpSender

OF_A_TCP_SENDER: dict[str, Callable[[TcpSender, Any], object]] = {
    "send": lambda s, data: s.send(data),
    "send_buffers": lambda s, data: s.send_buffers([data, b""]),
}
FOR_MEMORY: dict[str, Callable[[TcpSender], object]] = {
    "drain": lambda s: s.drain(),
    "wait": lambda s: s.flush().wait(),
}


@contextmanager
def stream(cell: Cell, box: testing.Hold) -> Iterator[tuple[TcpSender, socket.socket]]:
    """The sender's socket takes less than STREAM."""
    with tcp_connection(box) as (tx, rx), cell.tcp_sender(tx, zero_copy="always") as s:
        tx.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        yield s, rx


@contextmanager
def reading(rx: socket.socket, data: bytes) -> Iterator[None]:
    """A thread reads as many bytes meanwhile: they are these."""
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(receive_exactly(rx, len(data))))
    thread.start()
    try:
        yield
    finally:
        thread.join()
    assert got == [data]


@pytest.mark.cell("EINTR", "TcpSender")
@pytest.mark.parametrize("call", OF_A_TCP_SENDER)
def test_a_stream_that_waits_for_room_goes_on(call: str, cell: Cell, box: testing.Hold) -> None:
    with stream(cell, box) as (s, rx):
        with reading(rx, STREAM), stopped(box), handlers_that_return(box.release):
            OF_A_TCP_SENDER[call](s, cell.immutable(STREAM))
        cell.next_works(s.send, rx)


@zero_copy_engines
@pytest.mark.cell("EINTR", "TcpSender")
@pytest.mark.parametrize("call", FOR_MEMORY)
def test_a_stream_that_waits_for_memory_goes_on(call: str, cell: Cell, box: testing.Hold) -> None:
    with stream(cell, box) as (s, rx):
        with stopped(box):
            s.send(cell.immutable(DATAGRAM))
            with handlers_that_return(box.release):
                FOR_MEMORY[call](s)
        assert receive_exactly(rx, len(DATAGRAM)) == DATAGRAM
        cell.next_works(s.send, rx)


@zero_copy_engines
@pytest.mark.cell("EINTR", "TcpSender")
def test_close_of_a_tcp_sender_goes_on(cell: Cell, box: testing.Hold) -> None:
    with stream(cell, box) as (s, rx):
        with stopped(box):
            s.send(cell.immutable(DATAGRAM))
            with handlers_that_return(box.release):
                s.close(60)
        assert receive_exactly(rx, len(DATAGRAM)) == DATAGRAM
        cell.next_fails(s.send, ClosedError)


@pytest.mark.cell("signal storm", "TcpSender")
@pytest.mark.parametrize("call", OF_A_TCP_SENDER)
def test_a_handler_ends_a_call_of_a_tcp_sender(call: str, cell: Cell, box: testing.Hold) -> None:
    """``stats.nbytes`` says what the kernel took, and the stream goes on there."""
    with stream(cell, box) as (s, rx):
        with stopped(box):
            for _ in range(3):
                with a_handler_that_raises():
                    OF_A_TCP_SENDER[call](s, cell.immutable(STREAM[s.stats.nbytes :]))
        s.taken = s.stats.nbytes
        assert s.taken < len(STREAM)
        with reading(rx, STREAM):
            s.send(STREAM[s.taken :])
        cell.next_works(s.send, rx)


@zero_copy_engines
@pytest.mark.cell("signal storm", "TcpSender")
@pytest.mark.parametrize("call", FOR_MEMORY)
def test_a_handler_ends_the_wait_for_a_streams_memory(call: str, cell: Cell, box: testing.Hold) -> None:
    with stream(cell, box) as (s, rx):
        with stopped(box):
            s.send(cell.immutable(DATAGRAM))
            for _ in range(3):
                with a_handler_that_raises():
                    FOR_MEMORY[call](s)
        assert receive_exactly(rx, len(DATAGRAM)) == DATAGRAM
        cell.next_works(s.send, rx)


@pytest.mark.cell("signal storm", "TcpSender")
def test_a_storm_while_a_tcp_sender_sends(cell: Cell) -> None:
    tx, rx = cell.tcp()
    with cell.tcp_sender(tx, zero_copy="always") as s:
        with handlers_that_return() as came:
            while len(came) < STORM:
                s.send(cell.immutable(DATAGRAM))
                assert receive_exactly(rx, len(DATAGRAM)) == DATAGRAM
        cell.next_works(s.send, rx)


# -- a signal that does not end the wait: it came just before, or the kernel gave it to another thread


@pytest.mark.timeout(20)
@pytest.mark.cell("EINTR", "Scheduler")
@pytest.mark.parametrize("call", OF_A_SCHEDULER)
def test_a_handler_runs_although_another_thread_got_the_signal(
    call: str, cell: Cell, box: testing.Hold, rx: socket.socket
) -> None:
    before = signal.signal(signal.SIGUSR1, lambda number, frame: box.release())
    try:
        with connected(box, cell) as sock, scheduled(box, cell) as requests:
            with stopped(box):
                notifier = waiting_requests(requests, sock, cell)
                other = threading.Timer(
                    0.01, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
                )
                other.start()
                OF_A_SCHEDULER[call](requests, notifier)
                other.join()
            all_came(requests, sock, rx, cell)
    finally:
        signal.signal(signal.SIGUSR1, before)
