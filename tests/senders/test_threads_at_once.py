"""Threads that run at the same time: what they share is right, byte for byte.

With the GIL these hold by its switching seldom; on free-threaded CPython they are what can break.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pytest
from conftest import Pair
from traffic import datagram

import uringzc
from uringzc import UdpSender, testing
from uringzc.engines import lifetime
from uringzc.engines.attached import MIN_ARENA

OFTEN = pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.slow)], ids=["few", "many"])
SIZE = 200  # so that many go into a train, and the timer finds it open
REFUSED = (uringzc.WrongThreadError, uringzc.BusyError)


@pytest.fixture(autouse=True)
def switching() -> Iterator[None]:
    """Where there is a GIL, it is passed on all the time."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@contextmanager
def meanwhile(*calls: Callable[[], object]) -> Iterator[None]:
    """Each of them is called again and again, in a thread of its own, until the block ends."""
    end = threading.Event()

    def repeat(call: Callable[[], object]) -> int:
        done = 0
        while not end.is_set():
            call()
            done += 1
        return done

    with ThreadPoolExecutor(len(calls)) as pool:
        running = [pool.submit(repeat, call) for call in calls]
        try:
            yield
        finally:
            end.set()
        assert all(each.result() for each in running)


def together(*calls: Callable[[], Any]) -> list[Any]:
    """What they returned or raised: each in a thread of its own, all begun at the same moment."""
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        start.wait()
        try:
            return call()
        except uringzc.UringzcError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return [each.result() for each in [pool.submit(run, call) for call in calls]]


def send_numbered(tx: UdpSender, rx: testing.Receiver, count: int = 10_000) -> list[bytes]:
    """Sends so many, no faster than they are received, and returns them."""
    sent = [datagram(number, SIZE) for number in range(count)]
    for number, data in enumerate(sent):
        tx.send(data)
        if number % 256 == 255:
            try:
                rx.wait(number - 2000)
            except TimeoutError as error:  # where are the others?
                raise TimeoutError(f"{error}, of {number + 1} sent: {tx.stats}") from None
    return sent


# -- the owner and the timer


@OFTEN
def test_the_owner_sends_while_the_timer_does(times: int) -> None:
    """The timer takes the open train away while the owner appends to it.

    Seen to fail on free-threaded 3.14: without the wait of stop_fast_path() in three of four runs of this and
    the next two, and with the wait but without membarrier() in one of four.
    """
    for _ in range(times):
        with testing.receiver() as rx, UdpSender(rx.address, max_delay=1e-6) as tx:
            sent = send_numbered(tx, rx)
            assert rx.wait(len(sent)) == sent
            assert tx.stats.syscalls > 0  # the timer's


@OFTEN
def test_two_senders_in_two_threads(times: int) -> None:
    def run() -> None:
        with testing.receiver() as rx, UdpSender(rx.address, max_delay=1e-5) as tx:
            sent = send_numbered(tx, rx)
            assert rx.wait(len(sent)) == sent

    for _ in range(times):
        assert together(run, run) == [None, None]


@OFTEN
def test_statistics_are_read_by_another_thread(times: int) -> None:
    """What was taken is never less than before, nor more than was sent by then."""
    seen: list[tuple[int, int, int]] = []

    def read() -> None:
        stats = tx.stats
        tx.explain()
        seen.append((stats.datagrams, stats.nbytes, stats.waiting))

    for _ in range(1 + times // 3):  # a reader that wants the GIL all the time slows the sender down
        seen.clear()
        with testing.receiver() as rx, UdpSender(rx.address, max_delay=1e-6) as tx:
            with meanwhile(read):
                sent = send_numbered(tx, rx)
            assert rx.wait(len(sent)) == sent
        assert [taken for taken, _, _ in seen] == sorted(taken for taken, _, _ in seen)
        assert [nbytes for _, nbytes, _ in seen] == sorted(nbytes for _, nbytes, _ in seen)
        assert all(taken <= len(sent) and nbytes <= SIZE * len(sent) for taken, nbytes, _ in seen)
        assert all(0 <= waiting <= len(sent) for _, _, waiting in seen)


@OFTEN
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # they were not closed
def test_senders_are_dropped_by_another_thread_while_the_timer_sends(times: int) -> None:
    """What waits is sent, by the timer or by who drops them, and nothing twice."""
    sent = [datagram(number, SIZE) for number in range(100)]

    def send_and_drop(s: uringzc.Scheduler, rx: testing.Receiver, dropping: ThreadPoolExecutor) -> None:
        for data in sent:
            tx = [UdpSender(rx.address, scheduler=s, max_delay=1e-6)]
            tx[0].send(data)
            dropping.submit(tx.clear).result()

    for _ in range(times):
        with testing.receiver() as rx, uringzc.Scheduler() as s, ThreadPoolExecutor(1) as dropping:
            send_and_drop(s, rx, dropping)
            assert sorted(rx.wait(len(sent))) == sorted(sent)


# -- leases


@OFTEN
def test_leases_are_released_by_another_thread(times: int) -> None:
    """While the owner sends others out of the same blocks. Afterwards the whole arena is free."""
    count = 2000
    with (
        testing.receiver() as rx,
        ThreadPoolExecutor(1) as other,
        UdpSender(rx.address, arena=MIN_ARENA, max_delay=1e-5) as tx,
    ):
        before = tx._arena.free
        for turn in range(times):
            sent = []
            for number in range(count):
                released = other.submit(tx.lease(SIZE).release)
                lease = tx.lease(SIZE)
                lease.view[:] = datagram(number, SIZE)
                sent.append(bytes(lease.view))
                lease.send()
                if number % 32 == 31:
                    released.result()  # else they hold the whole arena
                    rx.wait(turn * count + number - 1000)
            assert rx.wait((turn + 1) * count)[-count:] == sent
        released.result()
        tx.drain()
        assert tx._arena.leases == 0
        tx._native.release_block()
        assert tx._arena.free == before


@OFTEN
def test_a_lease_is_sent_or_released_and_not_both(times: int) -> None:
    """By threads that try at the same moment; and a view that a third one has got is not of what is sent."""
    with testing.receiver() as rx, ThreadPoolExecutor(1) as owner, ThreadPoolExecutor(2) as others:
        tx = UdpSender(rx.address, max_delay=None)
        sent = 0
        for _ in range(100 * times):
            lease = owner.submit(tx.lease, SIZE).result()
            start = threading.Barrier(3)

            def run(call: Callable[[], Any], start: threading.Barrier = start) -> Any:
                start.wait()
                with suppress(ValueError, BufferError):  # sent or released; a view of it lives
                    return call()

            outcome = owner.submit(run, lease.send)
            released = others.submit(run, lease.release)
            view = others.submit(run, partial(getattr, lease, "view")).result()
            released.result()
            if outcome.result():
                sent += 1
                with pytest.raises(ValueError, match="released"):
                    lease.view  # noqa: B018
                with suppress(TypeError, ValueError):  # there is none, or it was released before
                    view[0] = 1
                    pytest.fail("what was sent can be written")
            elif view is not None:
                view.release()
            del view, lease
        owner.submit(tx.close).result()
        assert rx.wait(sent) == rx.datagrams
        assert rx.count == sent
        assert tx._arena.leases == 0


# -- what nobody owns yet


@OFTEN
def test_one_thread_becomes_the_owner_of_a_sender(times: int) -> None:
    """Two send for the first time at the same moment: the other is refused, and nothing of it is sent."""
    for _ in range(10 * times):
        with testing.receiver() as rx:
            tx, tried = UdpSender(rx.address), threading.Barrier(2)

            def first(name: bytes, tx: UdpSender = tx, tried: threading.Barrier = tried) -> bytes:
                try:
                    tx.send(name)
                finally:
                    tried.wait()
                tx.close()
                return name

            outcomes = together(lambda: first(b"one"), lambda: first(b"two"))
            refused = [each for each in outcomes if isinstance(each, Exception)]
            assert len(refused) == 1
            assert isinstance(refused[0], REFUSED)
            assert rx.wait(1) == [each for each in outcomes if isinstance(each, bytes)]


@OFTEN
def test_two_threads_use_a_scheduler_that_nobody_owns(times: int, udp_pair: Pair) -> None:
    """Each call of one does all it says, or is refused."""
    for _ in range(20 * times):
        s = uringzc.Scheduler(max_inflight=256)

        def use(name: bytes, s: uringzc.Scheduler = s) -> list[bytes]:
            taken = []
            for number in range(20):
                data = datagram(number, SIZE) + name
                with suppress(*REFUSED):
                    s.send(udp_pair.tx, data)
                    taken.append(data)
                with suppress(*REFUSED):
                    s.register(4096)
            with suppress(*REFUSED):
                s.submit()
            return taken

        first, second = together(lambda: use(b"one"), lambda: use(b"two"))
        with suppress(uringzc.WrongThreadError):  # the owner has ended, and so has the engine
            s.close()
        assert sorted(udp_pair.receive(len(first) + len(second))) == sorted(first + second)
        assert udp_pair.empty()


# -- parked engines, and records


@OFTEN
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # they were not closed
def test_engines_are_parked_by_threads_and_ended_by_others(times: int) -> None:
    """Each ends once, whoever finds it idle."""

    def drop() -> None:
        for _ in range(50):
            uringzc.Scheduler()

    for _ in range(times):
        assert together(drop, drop, lifetime.release_parked) == [None] * 3
    lifetime.release_parked()
    assert lifetime.parked() == []


def test_an_iterator_over_records_passes_to_another_thread(udp_pair: Pair) -> None:
    with uringzc.Scheduler(completions="all") as s:
        for number in range(100):
            s.send(udp_pair.tx, b"x", user_data=number, flush=True)
        s.drain()
        iterator = iter(s.reap_completions())
        first = [next(iterator).user_data]
        rest = together(
            lambda: [each.user_data for each in iterator], lambda: [each.user_data for each in iterator]
        )
        assert sorted(first + rest[0] + rest[1]) == list(range(100))
        s.reap_notifications()
