"""The harness of the fault matrix fails where something is wrong: a control for each thing that it checks."""

import contextlib
import ctypes
import errno
import mmap
import os
import re
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from cells import Cell, watched
from conftest import Pair
from marks import only_io_uring
from traffic import receive_exactly
from watched_faces import Requests, TcpSender, UdpSender

import uringzc
from uringzc import SendError
from uringzc._uring import lib

Test = Callable[[Cell, contextlib.ExitStack], object]
IMMUTABLE = bytes(64 << 10)


def found(test: Test) -> str:
    """What the harness says of it, "" if nothing. What the test opens on the stack is left behind."""
    with contextlib.ExitStack() as left_behind, watched(patience=0) as cell:
        try:
            test(cell, left_behind)
            cell.check()
        except AssertionError as error:
            return str(error)
    return ""


def scheduled(cell: Cell, pair: Pair | None = None) -> Requests:
    """Sends of a Scheduler, which has been closed."""
    pair = pair or cell.udp()
    with uringzc.Scheduler() as s:
        requests = cell.requests(s)
        for _ in range(2):
            requests.send(pair.tx, cell.memory(100))
        requests.send(pair.tx, cell.immutable(bytes(100)), flush=False)
        assert requests.results() == [100] * 3
        assert pair.receive(3) == [bytes(100)] * 3
        cell.next_works(lambda data: requests.send_now(pair.tx, data), pair.rx)
        s.drain()
    return requests


def sent_udp(cell: Cell) -> UdpSender:
    """Datagrams of a UdpSender, which has been closed."""
    pair = cell.udp()
    with cell.udp_sender(sock=pair.tx, zero_copy="always") as s:
        s.send_many([bytes(1000)] * 3)
        s.flush()
        assert pair.receive(3) == [bytes(1000)] * 3
        cell.next_works(lambda data: s.send(data) and s.flush(), pair.rx)
    return s


def sent_tcp(cell: Cell) -> TcpSender:
    """What a TcpSender has sent, which has been closed."""
    pair = cell.tcp()
    with cell.tcp_sender(pair.tx, zero_copy="always") as s:
        s.send(cell.immutable(IMMUTABLE))
        assert receive_exactly(pair.rx, len(IMMUTABLE)) == IMMUTABLE
        cell.next_works(s.send, pair.rx)
    return s


# -- nothing is wrong


def test_a_scheduler_passes(cell: Cell) -> None:
    scheduled(cell)


def test_a_udp_sender_passes(cell: Cell) -> None:
    sent_udp(cell)


def test_a_tcp_sender_passes(cell: Cell) -> None:
    sent_tcp(cell)


@only_io_uring
def test_a_ring_passes(cell: Cell) -> None:
    pair = cell.udp()
    with uringzc.Ring() as ring:
        requests = cell.raw_requests(ring)
        requests.send(pair.tx, cell.memory(100))
        assert requests.results() == [100]
        assert pair.receive(1) == [bytes(100)]
        cell.next_works(lambda data: requests.send_now(pair.tx, data), pair.rx)


# -- something is left behind


def descriptor(cell: Cell, left: contextlib.ExitStack) -> None:
    scheduled(cell)
    left.callback(os.close, os.eventfd(0))


def thread(cell: Cell, left: contextlib.ExitStack) -> None:
    scheduled(cell)
    end = threading.Event()
    waiting = threading.Thread(target=end.wait)
    waiting.start()
    left.callback(waiting.join)
    left.callback(end.set)


def mapping(cell: Cell, left: contextlib.ExitStack) -> None:
    scheduled(cell)
    fd = os.memfd_create("left")
    os.truncate(fd, 4096)
    left.enter_context(mmap.mmap(fd, 4096))
    os.close(fd)


def locked(cell: Cell, left: contextlib.ExitStack) -> None:
    scheduled(cell)
    pages = left.enter_context(mmap.mmap(-1, 4096))
    libc = ctypes.CDLL(None)
    assert not libc.mlock(ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(pages))), 4096)


def memory(cell: Cell, left: contextlib.ExitStack) -> None:
    scheduled(cell)
    left.callback(len, cell.memory(5))


def immutable(cell: Cell, left: contextlib.ExitStack) -> None:
    scheduled(cell)
    left.callback(len, cell.immutable(b"5"))


def sock(cell: Cell, left: contextlib.ExitStack) -> None:
    pair = cell.udp()
    scheduled(cell, pair)
    left.callback(pair.tx.close)


def engine(cell: Cell, left: contextlib.ExitStack) -> None:
    left.callback(scheduled(cell).scheduler.close)


def pinned(cell: Cell, left: contextlib.ExitStack) -> None:
    scheduled(cell)
    left.enter_context(uringzc.Scheduler()).register(1 << 20)


@pytest.mark.engines("copy")
@pytest.mark.parametrize(
    ("test", "what"),
    [
        (descriptor, r"descriptor \d+, anon_inode:.eventfd."),
        (thread, r"thread \d+, "),
        (mapping, r"mapping of /memfd:left"),
        pytest.param(
            locked, r"KiB of VmLck", marks=pytest.mark.uninstrumented("AddressSanitizer replaces mlock()")
        ),
        (memory, r"reference to Memory"),
        (immutable, r"1 bytes objects"),
        (sock, r"reference to <socket.socket"),
        (engine, r"left behind: engine copy$"),
    ],
)
def test_control_what_is_left_behind_is_found(test: Test, what: str) -> None:
    assert re.search(what, found(test))


@only_io_uring
def test_control_pinned_pages_and_an_open_ring_are_found() -> None:
    assert re.search(r"engine io_uring, .*mapping of anon_inode:\[io_uring\].*KiB of VmPin", found(pinned))


# -- something came too often, or not at all


def on_requests(change: Callable[[Requests], object]) -> Test:
    """After everything has come to a Scheduler."""
    return lambda cell, _: change(scheduled(cell))


def on_udp(change: Callable[[UdpSender], object]) -> Test:
    """After everything was sent."""
    return lambda cell, _: change(sent_udp(cell))


def on_tcp(change: Callable[[TcpSender], object]) -> Test:
    """After everything was sent."""
    return lambda cell, _: change(sent_tcp(cell))


def stray(requests: Requests) -> None:
    """A completion more than requests, which slot accounting does not believe."""
    lib.uzc_slots_result(requests.scheduler.slots.pointer, (1 << 63) | 1, 5, 0)


def no_result(cell: Cell, left: contextlib.ExitStack) -> None:
    """A request that is never submitted, of an engine that is not closed."""
    scheduled(cell)
    left.enter_context(s := uringzc.Scheduler()).send(left.enter_context(socket.socket()), b"never")
    assert s.stats.in_flight


def add_error(udp: UdpSender) -> None:
    """A datagram is reported that was not lost."""
    udp.reports.reported.append(SendError(errno.EPERM, "lost", 0, 5, None))


def add_twice(udp: UdpSender) -> None:
    add_error(udp)
    add_error(udp)


def take_bytes(tcp: TcpSender) -> None:
    """A byte more than the kernel has taken."""
    tcp.taken += 1


def notified_twice(sender: UdpSender | TcpSender) -> None:
    sender.reports.notified.append(sender.reports.notified[-1])


def not_notified(sender: UdpSender | TcpSender) -> None:
    sender.reports.notified.pop()


@pytest.mark.engines("copy")
@pytest.mark.parametrize(
    ("test", "what"),
    [
        (on_requests(lambda r: r.completions.pop()), r"completed: more than due {}, missing {3: 1}"),
        (on_requests(lambda r: r.completions.append(r.completions[0])), r"completed: more than due {0: 1}"),
        (on_requests(lambda r: r.notifications.pop(0)), r"notified: .* missing {\(0, 0\): 1}"),
        (
            on_requests(lambda r: r.notifications.append(r.notifications[0])),
            r"{\(0, 0\): 1}, missing",
        ),
        (
            on_requests(lambda r: r.notifications.append(r.notifications.pop(0)._replace(requests=2))),
            "requests without a notification, or with two",
        ),
        (
            on_requests(lambda r: r.notifications.append(r.notifications.pop(0)._replace(failed=1))),
            "failures that notifications do not count",
        ),
        (no_result, r"1 requests, 0 completions"),
        (on_udp(add_error), r"0 were lost, 1 reported"),
        (on_udp(add_twice), r"reported more than once: .*{0: 1}"),
        (on_udp(notified_twice), r"notified: more than due"),
        (on_udp(not_notified), r"notifiers that did not notify"),
        (on_tcp(take_bytes), r"bytes were reported"),
    ],
)
def test_control_what_came_twice_or_never_is_found(test: Test, what: str) -> None:
    assert re.search(what, found(test))


@only_io_uring
@pytest.mark.strays
def test_control_a_completion_of_no_request_is_found() -> None:
    assert "4 completions, 1 that matched none" in found(on_requests(stray))


@pytest.mark.engines("msg_zerocopy")
def test_control_notifiers_of_a_stream_are_counted() -> None:
    assert re.search("notified: more than due", found(on_tcp(notified_twice)))
    assert re.search("notifiers that did not notify", found(on_tcp(not_notified)))


@only_io_uring
@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda cqes: cqes.pop(0), r"completed: .* missing {0: 1}"),
        (lambda cqes: cqes.append(cqes[0]), r"completed: more than due {0: 1}"),
        (lambda cqes: cqes.pop(1), r"notified: .* missing {0: 1}"),
        (lambda cqes: cqes.append(cqes[1]), r"notified: more than due {0: 1}"),
    ],
)
def test_control_of_a_ring_each_cqe_is_counted(change: Callable[[Any], object], what: str) -> None:
    def ring(cell: Cell, _: object) -> None:
        pair = cell.udp()
        with uringzc.Ring() as ring:
            requests = cell.raw_requests(ring)
            requests.send(pair.tx, cell.memory(100))
            requests.results()
        change(requests.cqes)

    assert re.search(what, found(ring))


# -- the next send


def wrong_next(cell: Cell, _: object) -> None:
    pair = cell.udp()
    pair.tx.send(b"left over")
    cell.next_works(pair.tx.send, pair.rx)


def works_after_all(cell: Cell, _: object) -> None:
    cell.next_fails(cell.udp().tx.send, errno.EPIPE)


def another_error(cell: Cell, _: object) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unconnected:
        cell.next_fails(unconnected.send, errno.EPIPE)


def without_text(cell: Cell, _: object) -> None:
    def send(_: bytes) -> None:
        raise ValueError

    cell.next_fails(send, ValueError)


@pytest.mark.engines("copy")
@pytest.mark.parametrize(
    ("test", "what"),
    [
        (lambda *_: None, "does not say what the next send does"),
        (wrong_next, "b'left over' arrived"),
        (works_after_all, "the next send: "),
        (another_error, "Destination address required"),
        (without_text, "without a text"),
    ],
)
def test_control_the_next_send_is_looked_at(test: Test, what: str) -> None:
    assert what in found(test)


@only_io_uring
def test_what_fails_as_said_is_accepted(cell: Cell) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unconnected:
        cell.next_fails(unconnected.send, errno.EDESTADDRREQ)
    cell.next_fails(lambda _: -errno.EPIPE, errno.EPIPE)
    cell.next_fails(lambda data: int(data), ValueError)
