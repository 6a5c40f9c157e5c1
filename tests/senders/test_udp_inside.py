"""Code of the program that runs while a UdpSender is inside a call, or waits in it."""

import errno
import gc
import os
import signal
import socket
import weakref
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from conftest import Pair
from marks import zero_copy_engines
from processes import run_program
from traffic import sender_without_timer, stopped, warm_up

import uringzc
from uringzc import BusyError, SendError, UdpSender, testing
from uringzc.engines.attached import MIN_ARENA

SIZES = [1200 - number % 100 for number in range(1000)]


@contextmanager
def handler(call: Callable[[], object], after: float, every: float = 0.0) -> Iterator[None]:
    """`call` as a signal handler, that comes in between wherever it may."""
    before = signal.signal(signal.SIGALRM, lambda *_: call())
    signal.setitimer(signal.ITIMER_REAL, after, every)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def until_raised(call: Callable[[], object]) -> Exception:
    while True:
        try:
            call()
        except Exception as error:
            return error


def test_a_reused_descriptor_gets_no_datagrams(udp_pair: Pair) -> None:
    """Closed in the middle of a batch that waits for free requests, and its number taken at once."""
    with testing.receiver() as theirs, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as foreign:
        foreign.connect(theirs.address)
        for turn in range(10):
            tx = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            tx.connect(udp_pair.rx.getsockname())
            sender = UdpSender(sock=tx, max_delay=None, max_inflight=8)
            taken: list[int] = []

            def swap(tx: socket.socket = tx, taken: list[int] = taken) -> None:
                number = tx.fileno()
                tx.close()
                taken.append(os.dup2(foreign.fileno(), number))

            data = [bytes(size) for size in SIZES]
            with handler(swap, 0.01 + turn * 0.0003):
                error = until_raised(lambda s=sender, d=data: s.send_many(d))  # type: ignore[misc]
            assert isinstance(error, OSError)
            assert error.errno == errno.EBADF
            with suppress(OSError):
                sender.close()
            for number in taken:
                os.close(number)
        foreign.send(b"mine")
        assert theirs.wait(1) == [b"mine"]


@pytest.mark.parametrize("what", ["sender", "scheduler"])
def test_closing_from_inside_is_refused_and_changes_nothing(udp_pair: Pair, what: str) -> None:
    came: list[type] = []
    with uringzc.Scheduler() as s, sender_without_timer(udp_pair.rx, scheduler=s) as tx:

        def close() -> None:
            try:
                (tx if what == "sender" else s).close()
                came.append(type(None))
            except BusyError:
                came.append(BusyError)

        tx.fan_out(b"x", [udp_pair.rx.getsockname()])
        with handler(close, 0.0005, 0.0005), suppress(uringzc.ClosedError):
            while BusyError not in came and not tx.closed:
                tx.send_many([bytes(size) for size in SIZES])
        if not tx.closed:
            assert tx.send(b"still works") == 11
    assert tx.closed
    assert tx.stats.waiting == tx.stats.lost == tx.stats.in_flight == 0


def test_a_lease_released_while_a_name_is_resolved_is_not_sent(
    udp_pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo
    with UdpSender(udp_pair.rx.getsockname(), arena=MIN_ARENA, max_delay=None) as tx:
        lease = tx.lease(1000)

        def meanwhile(*args: Any) -> Any:
            lease.release()
            return real(*args)

        monkeypatch.setattr(socket, "getaddrinfo", meanwhile)
        with pytest.raises(ValueError, match="sent or released"):
            lease.send(to=("localhost", udp_pair.rx.getsockname()[1]))
        tx.flush()
    assert udp_pair.empty()


def test_arrays_that_change_during_the_call_are_refused(udp_pair: Pair) -> None:
    offsets, lengths = array("q", range(10_000)), array("q", [100] * 10_000)

    def change(_: int) -> None:
        lengths[-1] = 1 << 40

    with sender_without_timer(udp_pair.rx) as tx, pytest.raises(ValueError, match="changed"):
        tx.send_slices(bytearray(20_000), offsets, lengths, progress=change)


@pytest.mark.parametrize("kind", [int, "one of numpy's"])
def test_a_size_may_be_any_object_with_an_index(udp_pair: Pair, kind: object) -> None:
    number = pytest.importorskip("numpy").int64 if kind is not int else int
    with sender_without_timer(udp_pair.rx) as tx, tx.lease(number(10)) as lease:
        assert lease.send(number(3)) == 3


def test_an_iterator_of_addresses_may_be_slow_and_send() -> None:
    with testing.receiver() as rx, UdpSender() as tx:

        def slowly() -> Iterator[Any]:
            yield rx.address
            assert rx.wait(1) == [b"first"]
            tx.sendto(b"from inside", rx.address)
            yield rx.address

        assert tx.send_many([b"first", b"second"], slowly()) == 2
        tx.flush()
        assert rx.wait(3) == [b"first", b"from inside", b"second"]


@zero_copy_engines
@testing.requires("net_admin")
def test_close_reports_what_it_could_not_send(box: testing.Hold) -> None:
    reported: list[SendError] = []
    with box.socket() as sock, testing.receiver(sock=box.receiver_socket()) as rx:
        sock.connect(box.address)
        tx = UdpSender(sock=sock, max_delay=None, blocking=False, on_error=reported.append)
        warm_up(tx, rx)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
        with stopped(box):
            with suppress(BlockingIOError):
                while True:
                    tx.send(bytes(1400))
            with pytest.warns(ResourceWarning, match="parked"):
                tx.close(timeout=0.1)
            taken, lost = tx.stats.datagrams, tx.stats.lost
            assert lost > 0
            assert [error.errno for error in reported] == [errno.ETIMEDOUT]
            assert f" {lost} datagram{'' if lost == 1 else 's'} could not be sent" in str(reported[0])
        rx.wait(taken - lost)
    box.release()
    with uringzc.Scheduler() as s:
        while still_parked():
            s.submit()


def still_parked() -> int:
    from uringzc.engines import lifetime

    return len(lifetime.parked())


@zero_copy_engines
@testing.requires("net_admin")
def test_a_non_blocking_drain_raises_while_requests_are_in_flight(box: testing.Hold) -> None:
    with (
        box.socket() as sock,
        testing.receiver(sock=box.receiver_socket()) as rx,
        UdpSender(box.address, sock=sock, max_delay=None, blocking=False, zero_copy="always") as tx,
    ):
        warm_up(tx, rx)
        with stopped(box):
            tx.send(bytes(1400))
            tx.flush()
            with pytest.raises(BlockingIOError, match="in flight"):
                tx.drain()
            with pytest.raises(TimeoutError):
                tx.drain(0.01)
        rx.wait(2)
        tx.drain(5)


def test_a_callback_that_holds_its_sender_is_collected(udp_pair: Pair) -> None:
    class Program:
        def __init__(self) -> None:
            self.tx = UdpSender(udp_pair.rx.getsockname(), on_error=self.failed, notify=self.posted)
            self.tx.send(b"x")
            self.tx.drain()
            self.tx.close()

        def failed(self, error: SendError) -> None: ...
        def posted(self, notification: uringzc.Notification) -> None: ...

    program = Program()
    gone = weakref.ref(program), weakref.ref(program.tx)
    del program
    gc.collect()
    assert [each() for each in gone] == [None, None]


def test_a_send_that_raises_has_not_taken_it(udp_pair: Pair) -> None:
    """Also the one that fills a train, on the fast way."""
    with uringzc.Scheduler() as s, sender_without_timer(udp_pair.rx, scheduler=s) as tx:
        tx.send(bytes(1000))
        taken = 0

        def from_inside() -> None:  # as a signal handler does that comes while the engine is inside
            nonlocal taken
            with suppress(BusyError):
                while True:
                    tx.send(bytes(1000))
                    taken += 1

        s._engine.queue.exclusive(from_inside)
        assert tx.stats.datagrams == 1 + taken


@pytest.mark.slow
@testing.requires("net_admin")
def test_a_process_ends_while_a_daemon_thread_waits_in_send(box: testing.Hold) -> None:
    program = """
    import sys, threading, uringzc
    tx = uringzc.UdpSender((sys.argv[1], 9000))
    def work():
        while True:
            tx.send(b"x" * 1400)
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while not tx.stats.waits:
        pass
    print("stuck", flush=True)
    """
    with testing.receiver(sock=box.receiver_socket()) as rx, box.socket() as sock:
        sock.sendto(b"warm", box.address)
        rx.wait(1)
        with stopped(box):
            out, _ = run_program(program, box.address[0], box=box)
    assert out.split() == ["stuck"]
