"""The end of a thread ends its engines and senders, as far as the kernel has released their memory."""

import gc
import os
import signal
import socket
import threading
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress

import pytest
from conftest import Pair
from held_memory import pinned_kib, wait_for_parked
from marks import zero_copy_engines
from processes import child, in_thread, run_program
from traffic import stopped, wait_until

import uringzc
from uringzc import testing
from uringzc.engines import lifetime

NOT_CLOSED = pytest.mark.filterwarnings(
    "ignore:.* was not closed:ResourceWarning", "ignore:unclosed:ResourceWarning"
)
needs_ring = testing.requires("send_zc")
THREADS = 10


def descriptors() -> int:
    """How many this process has."""
    return len(os.listdir("/proc/self/fd"))


def udp(pair: Pair) -> None:
    sender = uringzc.UdpSender(pair.rx.getsockname())
    sender.send_many([bytes(1000)] * 3)
    sender.flush()


def udp_that_waits(pair: Pair) -> None:
    sender = uringzc.UdpSender(pair.rx.getsockname(), max_delay=None)
    sender.send(b"not flushed")


def udp_unused(pair: Pair) -> None:
    uringzc.UdpSender(pair.rx.getsockname())


def submitted(pair: Pair) -> None:
    s = uringzc.Scheduler()
    s.send(pair.tx, s.register(1 << 20), length=10)
    s.submit()


def queued(pair: Pair) -> None:
    s = uringzc.Scheduler()
    s.register(1 << 20)
    s.send(pair.tx, b"not submitted")


def unused(pair: Pair) -> None:
    uringzc.Scheduler().register(1 << 20)


def shared(pair: Pair) -> None:
    s = uringzc.Scheduler()
    sender = uringzc.UdpSender(pair.rx.getsockname(), scheduler=s)
    sender.send_many([bytes(1000)] * 3)
    sender.flush()


def udp_in_a_cycle(pair: Pair) -> None:
    class App:
        def __init__(self) -> None:
            self.me = self
            self.sender = uringzc.UdpSender(pair.rx.getsockname())

    App().sender.send_many([bytes(1000)] * 3)


def collected(pair: Pair) -> None:
    udp_in_a_cycle(pair)
    gc.collect()


def raw(pair: Pair) -> None:
    ring = uringzc.Ring()
    ring.send_zc(pair.tx, bytearray(10))
    ring.submit()


LEAVING = [
    udp,
    udp_that_waits,
    udp_unused,
    submitted,
    queued,
    unused,
    shared,
    collected,
    pytest.param(raw, marks=needs_ring),
]


@pytest.mark.slow
@NOT_CLOSED
@pytest.mark.parametrize("leave", LEAVING)
def test_what_a_thread_did_not_close_is_closed(leave: Callable[[Pair], None], udp_pair: Pair) -> None:
    in_thread(lambda: leave(udp_pair))  # modules, and what is kept for good
    before, locked = descriptors(), pinned_kib()
    for _ in range(THREADS):
        in_thread(lambda: leave(udp_pair))
    assert lifetime.parked() == []
    assert descriptors() == before
    assert wait_until(lambda: pinned_kib() <= locked)


@NOT_CLOSED
def test_an_engine_without_owner_ends_when_it_is_dropped(udp_pair: Pair) -> None:
    before, locked = descriptors(), pinned_kib()
    for _ in range(THREADS):
        with pytest.warns(ResourceWarning, match="was not closed"):
            unused(udp_pair)
        with pytest.warns(ResourceWarning, match="was not closed"):
            udp_unused(udp_pair)
        assert lifetime.parked() == []
    assert descriptors() == before
    assert wait_until(lambda: pinned_kib() <= locked)


@NOT_CLOSED
@pytest.mark.parametrize("leave", [submitted, udp_in_a_cycle])
def test_nothing_is_kept_of_threads_that_have_ended(udp_pair: Pair, leave: Callable[[Pair], object]) -> None:
    def kept() -> int:
        gc.collect()
        return sum(isinstance(each, lifetime._ThreadEnd) for each in gc.get_objects())

    before = kept()
    for _ in range(THREADS):
        in_thread(lambda: leave(udp_pair))
    assert kept() == before


@NOT_CLOSED
def test_an_engine_collected_by_another_thread_ends_with_its_own(udp_pair: Pair) -> None:
    made, collected = threading.Event(), threading.Event()
    before = descriptors()

    def own() -> None:
        udp_in_a_cycle(udp_pair)
        made.set()
        assert collected.wait(20)

    thread = threading.Thread(target=own)
    gc.disable()
    try:
        thread.start()
        assert made.wait(20)
        gc.collect()
        assert len(lifetime.parked()) == 1
    finally:
        gc.enable()
        collected.set()
        thread.join()
    assert lifetime.parked() == []
    assert descriptors() == before


def leave_held(kind: str, sock: socket.socket) -> None:
    """Sends, and closes before the kernel is done."""
    if kind == "Scheduler":
        s = uringzc.Scheduler()
        s.send(sock, bytearray(1000))
        s.close(0.01)
    else:
        sender = uringzc.UdpSender(sock=sock, zero_copy="always", max_delay=None)
        sender.send(bytes(1000))
        sender.close(0.01)


@zero_copy_engines
@pytest.mark.parametrize("kind", ["Scheduler", "UdpSender"])
def test_a_parked_engine_ends_with_its_thread(
    kind: str, box: testing.Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifetime, "DRAIN_AT_END", 60)  # it takes as long as the delivery
    with box.receiver_socket() as rx, box.socket() as sock:
        sock.connect(box.address)
        before = descriptors()
        said: list[str] = []

        def own() -> None:
            with stopped(box), warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                leave_held(kind, sock)
                said.extend(str(warning.message).partition(",")[0] for warning in caught)
                said.append(f"{len(lifetime.parked())} parked")

        in_thread(own)
        assert said == [f"a {kind} was closed and is parked: 1 request is in flight", "1 parked"]
        assert lifetime.parked() == []
        assert descriptors() == before
        assert rx.recv(2000) == bytes(1000)


# -- what is still held then

LEFT = """
    import sys, threading, warnings, uringzc
    from held_memory import is_held
    from uringzc import testing
    from uringzc.engines import lifetime
    lifetime.DRAIN_AT_END = 0.05
    data = bytearray(b"held")
    with testing.hold() as box, box.socket() as sock, testing.receiver(sock=box.receiver_socket()) as rx:
        sock.connect(box.address)
        box.stop()

        def own():
            s = uringzc.Scheduler()
            s.send(sock, data)
            s.submit()

        def state(what):
            print(what, "parked", len(lifetime.parked()), "held", is_held(data), flush=True)

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            thread = threading.Thread(target=own)
            thread.start()
            thread.join()
        for warning in caught:
            print(str(warning.message).partition(",")[0])
        state("ended")
        box.release()
        rx.wait(1)
        with uringzc.Scheduler() as other:
            other.send(sock, b"sweeps")
            other.drain()
        state("delivered")
"""


@pytest.mark.slow
@zero_copy_engines
@testing.requires("net_admin")
def test_memory_in_flight_at_the_threads_end_stays_parked() -> None:
    out, errors = run_program(LEFT)
    assert out.splitlines() == [
        "Scheduler was not closed",
        "a Scheduler was closed and is parked: 1 request is in flight",
        "ended parked 1 held True",
        "delivered parked 1 held True",  # nobody is left to see its notification
    ], errors


# -- the control: only what is open is closed at the end

OPEN_ONLY = """
    import os, socket, sys, threading, warnings, uringzc
    from uringzc.engines import lifetime
    warnings.simplefilter("ignore")
    if sys.argv[1] == "open only":
        end = lifetime._close_owned
        lifetime._close_owned = lambda engines: end([engine for engine in engines if not engine.closed])

    def own():
        sender = uringzc.UdpSender(("127.0.0.1", 9))
        sender.send(b"x")

    for turn in range(11):
        thread = threading.Thread(target=own)
        thread.start()
        thread.join()
        if not turn:
            before = len(os.listdir("/proc/self/fd"))
    print(len(lifetime.parked()), len(os.listdir("/proc/self/fd")) - before)
"""


@pytest.mark.slow
def test_control_parked_engines_stay_open_if_only_open_ones_are_ended() -> None:
    parked, more = map(int, run_program(OPEN_ONLY, "open only")[0].split())
    assert parked == 11
    assert more >= 20
    assert run_program(OPEN_ONLY, "all")[0] == "0 0\n"


# -- one deadline for all

DEADLINES = """
    import sys, threading, warnings, uringzc
    from uringzc import testing
    from uringzc.engines import lifetime
    warnings.simplefilter("ignore")
    lifetime.DRAIN_AT_END = 0.05
    end = lifetime.finish

    def recorded(engine, timeout):
        print("given", 0 if timeout == 0 else 1 if 0 < timeout <= 0.05 else timeout, flush=True)
        end(engine, timeout)

    lifetime.finish = recorded
    network = testing.hold()
    box = network.__enter__()  # to the very end
    receiver = box.receiver_socket()
    sockets = [box.socket() for _ in range(5)]  # one for each: MSG_ZEROCOPY's numbers are one engine's
    box.stop()

    def own():
        global made
        made = [uringzc.Scheduler(max_inflight=8) for _ in sockets]
        for s, sock in zip(made, sockets):
            sock.connect(box.address)
            s.send(sock, b"held")
            s.submit()
        made.pop().close(0)
        made.pop()

    if sys.argv[1] == "thread":
        thread = threading.Thread(target=own)
        thread.start()
        thread.join()
        print("ended", flush=True)
    else:
        own()
"""


@pytest.mark.slow
@zero_copy_engines
@testing.requires("net_admin")
@pytest.mark.parametrize("what", ["thread", "interpreter"])
def test_all_engines_share_one_deadline_at_exit(what: str) -> None:
    """Nothing ever comes back, so the first takes all of it."""
    out, errors = run_program(DEADLINES, what)
    given = ["given 1", *["given 0"] * 4]
    assert out.splitlines() == ([*given, "ended"] if what == "thread" else given), errors
    assert errors == ""


@zero_copy_engines
def test_all_senders_share_the_timeout_of_close(box: testing.Hold, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    close = uringzc.UdpSender.close

    def recorded(sender: uringzc.UdpSender, timeout: float = 5.0) -> None:
        given.append(timeout)
        close(sender, timeout)

    with box.receiver_socket(), ExitStack() as stack, uringzc.Scheduler() as other:
        s = uringzc.Scheduler()
        fileno = s.fileno()
        senders = []
        for _ in range(4):
            sock = stack.enter_context(box.socket())
            sock.connect(box.address)
            senders.append(uringzc.UdpSender(sock=sock, scheduler=s, zero_copy="always", max_delay=None))
        with stopped(box):
            for sender in senders:
                sender.send(bytes(1000))
                sender.flush()
            monkeypatch.setattr(uringzc.UdpSender, "close", recorded)
            with pytest.warns(ResourceWarning, match="parked: 4 requests"):
                s.close(0.05)
        assert 0 < given[0] <= 0.05
        assert given[1:] == [0.0] * 3
        wait_for_parked(fileno, other)


# -- forks

FORKED = """
    import gc, os, socket, sys, threading, warnings, uringzc
    from uringzc.engines import lifetime
    warnings.simplefilter("ignore")
    if sys.argv[1] == "anybody's":
        lifetime._ThreadEnd.thread = property(lambda self: threading.get_ident(), lambda self, thread: None)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tx:
        tx.connect(("127.0.0.1", int(sys.argv[2])))
        before = len(os.listdir("/proc/self/fd"))

        class App:
            def __init__(self):
                self.me = self
                self.scheduler = uringzc.Scheduler()
                self.scheduler.send(tx, b"by the parent")

        owned, forked = threading.Event(), threading.Event()

        def own():
            with uringzc.Scheduler() as s:
                s.send(tx, b"by a thread")
                s.submit()
                owned.set()
                forked.wait(20)

        thread = threading.Thread(target=own)
        thread.start()
        owned.wait(20)
        App()
        gc.collect()
        assert len(lifetime.parked()) == 1
        child = os.fork()
        if not child:
            print("in the child", len(os.listdir("/proc/self/fd")) - before, flush=True)
            os._exit(0)
        print("it ends with", os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
        forked.set()
        thread.join()
        lifetime.release_parked()
        print("parked", len(lifetime.parked()))
"""


def test_a_forked_child_leaves_parked_engines_to_the_parent(udp_pair: Pair) -> None:
    out, errors = run_program(FORKED, "its thread's", udp_pair.rx.getsockname()[1])
    assert out.splitlines() == ["in the child 0", "it ends with 0", "parked 0"], errors
    assert udp_pair.receive(2) == [b"by a thread", b"by the parent"]
    assert udp_pair.empty()


@pytest.mark.uninstrumented("crashes on purpose")
def test_control_a_guard_that_acts_in_any_thread(udp_pair: Pair) -> None:
    """The kernel gives the child no ring; elsewhere it sends what the parent had queued: twice, then."""
    with child(FORKED, "anybody's", udp_pair.rx.getsockname()[1]) as started:
        out, _ = started.end(None)
    came = udp_pair.receive(2)
    while not udp_pair.empty():
        came += udp_pair.receive(1)
    assert f"it ends with {-signal.SIGSEGV}" in out or came.count(b"by the parent") == 2


# -- a socket that takes nothing


@testing.requires("net_admin")
@pytest.mark.parametrize("many", [1, 3])
def test_close_ends_although_the_socket_stays_full(many: int, box: testing.Hold) -> None:
    """Also of a sender that waits for the network: what does not leave in time is lost, and it says so."""
    with box.receiver_socket(), box.socket() as sock:
        sock.connect(box.address)
        sender = uringzc.UdpSender(sock=sock, sndbuf=None, max_delay=None)
        sender.send(b"first")
        sender.drain()
        box.stop()
        with suppress(BlockingIOError):
            while True:
                sock.send(bytes(1400), socket.MSG_DONTWAIT)
        sender.send_many([bytes(100)] * many)
        with pytest.raises(
            uringzc.SendError, match=rf" {many} datagrams? could not be sent before the sender"
        ):
            sender.close(0.05)
        assert sender.closed


def test_senders_that_share_an_engine_are_remembered_as_one() -> None:
    """Each of them claims it. What the end of the thread goes through does not grow."""
    with testing.receiver() as rx, uringzc.Scheduler() as scheduler:
        for _ in range(50):
            with uringzc.UdpSender(rx.address, scheduler=scheduler) as tx:
                tx.send(b"x")
        owned = [reference() for reference in lifetime._thread_end().engines]
        assert owned.count(scheduler._engine) == 1
        assert len(owned) < 10
