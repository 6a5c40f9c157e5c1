"""Memory is held until the kernel has released it, however an engine ends: closed, dropped, poisoned."""

# ruff: noqa: PT012, PT031 - what is to be raised or warned of comes at the end of what leads to it

import gc
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator

import pytest
from conftest import Pair
from held_memory import is_held, none_parked, ring_count, wait_for_parked
from marks import only_io_uring, zero_copy_engines
from processes import Alarms, run_program
from traffic import all_copied, stopped, wait_readable

import uringzc
from uringzc import Completion, Notification, testing
from uringzc.engines import lifetime

needs_ring = testing.requires("send_zc")
EITHER = pytest.mark.parametrize(
    "make", [uringzc.Scheduler, pytest.param(uringzc.Ring, marks=needs_ring, id="Ring")]
)


@pytest.fixture
def other() -> Iterator[uringzc.Scheduler]:
    """Another engine of this thread, whose calls sweep the parked ones."""
    with uringzc.Scheduler(max_inflight=8) as other:
        yield other


def queue(engine: uringzc.Scheduler | uringzc.Ring, sock: socket.socket, data: bytearray) -> None:
    if isinstance(engine, uringzc.Ring):
        engine.send_zc(sock, data)
    else:
        engine.send(sock, data)


# -- close


@EITHER
def test_close_waits_for_the_kernel(
    make: Callable[[], uringzc.Scheduler | uringzc.Ring], udp_pair: Pair
) -> None:
    before = ring_count()
    engine = make()
    data = bytearray(b"last")
    queue(engine, udp_pair.tx, data)
    assert is_held(data)
    engine.close()
    assert not is_held(data)
    assert ring_count() == before
    assert udp_pair.receive(1) == [b"last"]  # what was queued, too, was sent
    engine.close()
    engine.close(0)
    with pytest.raises(uringzc.ClosedError, match="closed"):
        queue(engine, udp_pair.tx, data)
    assert not is_held(data)


def test_what_was_settled_can_be_reaped_after_close(udp_pair: Pair) -> None:
    s = uringzc.Scheduler(tags=[5, 6])
    s.send(udp_pair.tx, b"one", user_data=1, slot=1)
    s.send(udp_pair.tx, b"three", user_data=2, slot=1)
    s.close()
    assert list(s.reap_completions(wait=5)) == [Completion(1, 3), Completion(2, 5)]
    assert [all_copied(n) for n in s.reap_notifications(wait=5)] == [Notification(6, 0, 1, 2, 8, 2, 0)]
    assert len(s.reap_completions()) == len(s.reap_notifications()) == 0
    assert "closed" in repr(s)


@zero_copy_engines
@EITHER
def test_close_parks_what_is_in_flight(
    make: Callable[[], uringzc.Scheduler | uringzc.Ring],
    box: testing.Hold,
    sock: socket.socket,
    other: uringzc.Scheduler,
) -> None:
    before = ring_count()
    engine = make()
    data = bytearray(b"held")
    fileno = engine.fileno()
    references = sys.getrefcount(sock)
    with stopped(box):
        queue(engine, sock, data)
        with pytest.warns(ResourceWarning, match="closed and is parked: 1 request is in flight, the"):
            engine.close(timeout=0.01)
        engine.close()  # again: nothing more to do, and no wait
        assert len(lifetime.parked()) == 1
        assert is_held(data)
        assert sys.getrefcount(sock) > references
        with pytest.raises(uringzc.ClosedError):
            queue(engine, sock, bytearray(1))
        other.submit()  # sweeps, and finds that the kernel is not done
        assert len(lifetime.parked()) == 1
        assert is_held(data)
    wait_for_parked(fileno, other)
    assert not is_held(data)
    assert sys.getrefcount(sock) == references
    assert ring_count() == before
    engine.close()


@zero_copy_engines
@pytest.mark.parametrize("call", ["submit", "reap_completions", "reap_notifications", "drain", "close"])
def test_any_call_of_another_engine_of_the_thread_ends_parked_ones(
    box: testing.Hold, sock: socket.socket, call: str
) -> None:
    with uringzc.Scheduler(max_inflight=8) as other:
        s = uringzc.Scheduler(completions="none")
        fileno = s.fileno()
        with stopped(box), pytest.warns(ResourceWarning, match="parked"):
            s.send(sock, b"held", user_data=1)
            s.close(0)
        wait_readable(fileno)
        other.send(sock, b"for drain to have something to wait for")
        while lifetime.parked():
            getattr(other, call)()
            if call in ("drain", "close"):
                break
        other.submit() if call == "drain" else None
        assert lifetime.parked() == []
    assert len(s.reap_notifications()) == 1


@zero_copy_engines
def test_close_flushes_and_parks_everything_open(
    box: testing.Hold, sock: socket.socket, other: uringzc.Scheduler
) -> None:
    s = uringzc.Scheduler(tags=[1, 2, 3])
    data = [bytearray(b"slot%d" % i) for i in range(3)]
    fileno = s.fileno()
    with stopped(box), pytest.warns(ResourceWarning, match="3 requests are in flight"):
        for i in range(3):
            s.send(sock, data[i], slot=i)
        s.close(0.01)
    wait_for_parked(fileno, other)
    assert not any(map(is_held, data))
    assert sorted(n.tag for n in s.reap_notifications()) == [1, 2, 3]


# -- dropped


@zero_copy_engines
@EITHER
@pytest.mark.parametrize("held", [True, False])
def test_an_engine_dropped_without_close_is_parked(
    make: Callable[[], uringzc.Scheduler | uringzc.Ring],
    held: bool,
    box: testing.Hold,
    sock: socket.socket,
    other: uringzc.Scheduler,
) -> None:
    before = ring_count()
    data = bytearray(b"lost")
    with stopped(box):
        engine = make()
        fileno = engine.fileno()
        queue(engine, sock, data)
        if held:
            engine.submit()
        with pytest.warns(ResourceWarning, match=f"{make.__name__} was not closed"):
            del engine
            gc.collect()
        assert len(lifetime.parked()) == 1
        assert is_held(data)
        other.submit()  # what was only queued is submitted by the sweep
        assert len(lifetime.parked()) == 1
        assert is_held(data)
    wait_for_parked(fileno, other)
    assert not is_held(data)
    assert ring_count() == before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_engine_can_be_dropped_where_warnings_are_errors(udp_pair: Pair, other: uringzc.Scheduler) -> None:
    before = ring_count()
    data = bytearray(b"lost")
    s = uringzc.Scheduler()
    s.send(udp_pair.tx, data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del s
        gc.collect()
    assert len(lifetime.parked()) == 1
    assert none_parked(other)
    assert ring_count() == before
    assert not is_held(data)


def test_an_engine_in_a_cycle_with_its_slots_is_collected() -> None:
    # in a process of its own: what failed was a use of freed memory
    program = """
        import gc, socket, warnings, uringzc
        from held_memory import none_parked
        from uringzc.engines import lifetime
        warnings.simplefilter("ignore")
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        class App:
            def __init__(self):
                self.scheduler = uringzc.Scheduler()
                self.scheduler.send(sock, b"x", to=("127.0.0.1", 9))
                self.callback = self.run
            def run(self): pass
        for _ in range(20):
            App()
        gc.collect()
        assert len(lifetime.parked()) == 20
        with uringzc.Scheduler() as other:
            print(none_parked(other))
    """
    out, errors = run_program(program)
    assert out == "True\n", errors


def test_an_engine_in_a_cycle_is_collected(udp_pair: Pair, other: uringzc.Scheduler) -> None:
    class Owner:
        def __init__(self) -> None:
            self.me = self
            self.scheduler = uringzc.Scheduler()

    owner = Owner()
    data = bytearray(b"round")
    owner.scheduler.send(udp_pair.tx, data)
    del owner
    with pytest.warns(ResourceWarning, match="Scheduler was not closed"):
        gc.collect()
    assert none_parked(other)
    assert udp_pair.receive(1) == [b"round"]
    assert not is_held(data)


@only_io_uring
def test_a_closed_engine_is_dropped_without_a_warning() -> None:
    with uringzc.Scheduler() as s, uringzc.Ring() as r:
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del s, r
        gc.collect()


# -- exceptions


def test_an_exception_in_the_with_block_closes_the_engine(udp_pair: Pair) -> None:
    before = ring_count()
    data = bytearray(b"sent")
    with pytest.raises(ZeroDivisionError), uringzc.Scheduler() as s:
        s.send(udp_pair.tx, data)
        raise ZeroDivisionError
    assert not is_held(data)
    assert ring_count() == before
    assert udp_pair.receive(1) == [b"sent"]


@zero_copy_engines
def test_an_exception_in_the_with_block_parks_what_is_in_flight(
    box: testing.Hold, sock: socket.socket, other: uringzc.Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytearray(b"held")
    close = uringzc.Scheduler.close
    monkeypatch.setattr(uringzc.Scheduler, "close", lambda self, timeout=0.01: close(self, timeout))
    with stopped(box):
        with (
            pytest.warns(ResourceWarning, match="parked"),
            pytest.raises(ZeroDivisionError),
            uringzc.Scheduler() as s,
        ):
            fileno = s.fileno()
            s.send(sock, data)
            raise ZeroDivisionError
        assert is_held(data)
    wait_for_parked(fileno, other)
    assert not is_held(data)


@zero_copy_engines
def test_an_interrupt_in_drain_leaves_the_engine_usable(box: testing.Hold, sock: socket.socket) -> None:
    data = bytearray(b"held")
    with uringzc.Scheduler() as s:
        with stopped(box):
            s.send(sock, data, flush=True)
            for _ in range(3):
                with pytest.raises(KeyboardInterrupt), Alarms(0.01, repeat=False):
                    s.drain()
                assert is_held(data)
                assert s.stats.in_flight == 1
        s.drain()
        assert not is_held(data)
        assert len(s.reap_notifications()) == 1
    assert lifetime.parked() == []


@zero_copy_engines
def test_an_interrupt_in_close_parks_at_once(
    box: testing.Hold, sock: socket.socket, other: uringzc.Scheduler
) -> None:
    data = bytearray(b"held")
    s = uringzc.Scheduler()
    fileno = s.fileno()
    with stopped(box):
        s.send(sock, data)
        s.submit()
        with (
            pytest.warns(ResourceWarning, match="parked: 1 request"),
            pytest.raises(KeyboardInterrupt),
            Alarms(0.01, repeat=False),
        ):
            s.close(timeout=60)
        assert len(lifetime.parked()) == 1
        assert is_held(data)
    wait_for_parked(fileno, other)
    assert not is_held(data)


@zero_copy_engines
def test_an_unfinished_guard_of_a_thread_ends_no_engine(
    box: testing.Hold, sock: socket.socket, other: uringzc.Scheduler
) -> None:
    s = uringzc.Scheduler()
    fileno = s.fileno()
    with stopped(box), pytest.warns(ResourceWarning, match="parked: 1 request"):
        s.send(sock, b"held")
        s.close(0.01)
        lifetime._ThreadEnd.__new__(lifetime._ThreadEnd)  # dropped: interrupted before its __init__,
        lifetime._ThreadEnd()  # and after it
        assert lifetime._orphaned == []
    wait_for_parked(fileno, other)


@zero_copy_engines
def test_close_can_be_interrupted_in_its_first_submission(
    box: testing.Hold, sock: socket.socket, other: uringzc.Scheduler
) -> None:
    # the results, too, are not there yet: the first entry into the kernel is the one that blocks
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    s = uringzc.Scheduler()
    fileno = s.fileno()
    with stopped(box):
        for _ in range(20):
            s.send(sock, bytes(1000))
        with (
            pytest.warns(ResourceWarning, match="parked: 20 requests"),
            pytest.raises(KeyboardInterrupt),
            Alarms(0.05, repeat=False),
        ):
            s.close(timeout=10)
    wait_for_parked(fileno, other)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:a Scheduler was closed:ResourceWarning")
def test_interrupts_anywhere_in_close_lose_no_ring(udp_pair: Pair, other: uringzc.Scheduler) -> None:
    before, interrupted = ring_count(), 0
    for turn in range(3000):
        s = uringzc.Scheduler(max_inflight=8)
        s.send(udp_pair.tx, b"x")
        s.submit()
        try:
            with Alarms(1e-6 * (1 + turn % 60), repeat=False):
                s.close()
        except KeyboardInterrupt:
            interrupted += 1
        # closed and gone, or open and to be closed, or parked
        s.close()
        assert none_parked(other)
    assert interrupted > 100
    assert ring_count() == before


# -- interpreter exit, the quiet ways; with sends held: tests/memory/test_wire_controls.py


#: LeakSanitizer looks for leaks once more at the end, may fail there, and decides the exit code
with_its_exit_code = pytest.mark.uninstrumented("the exit code is that of LeakSanitizer")


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        *("closed", "settled", "queued"),
        pytest.param("ring", marks=needs_ring),
        pytest.param("exception", marks=with_its_exit_code),
        pytest.param("exit", marks=with_its_exit_code),
    ],
)
def test_what_was_sent_arrives_although_the_interpreter_exits(how: str, udp_pair: Pair) -> None:
    program = """
        import socket, sys, uringzc
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.connect(("127.0.0.1", int(sys.argv[2])))
        s = uringzc.Ring() if sys.argv[1] == "ring" else uringzc.Scheduler()
        send = s.send_zc if sys.argv[1] == "ring" else s.send
        region = s.register(4096)
        send(sock, region, length=10)
        send(sock, bytearray(10))
        if sys.argv[1] != "queued":
            s.submit()
        if sys.argv[1] == "closed":
            s.close()
        if sys.argv[1] == "exception":
            raise ZeroDivisionError
        if sys.argv[1] == "exit":
            sys.exit(3)
    """
    port = udp_pair.rx.getsockname()[1]
    if how in ("exception", "exit"):
        program = program.replace("import socket", "import atexit, os, socket", 1)
        program = program.replace(
            "sock = socket", "atexit.register(lambda: print('after'))\n        sock = socket", 1
        )
        from processes import child

        with child(program, how, port) as started:
            out, errors = started.end(1 if how == "exception" else 3)
        assert out == "after\n"
        assert ("ZeroDivisionError" in errors) == (how == "exception")
    else:
        out, errors = run_program(program, how, port)
    assert "parked" not in errors
    assert "Exception ignored" not in errors
    assert udp_pair.receive(2) == [bytes(10)] * 2


# -- a completion that the kernel dropped


@only_io_uring
@testing.requires("net_admin")
def test_a_dropped_completion_poisons_the_engine() -> None:
    program = """
        import uringzc
        from held_memory import drop_completion, is_held
        from uringzc import testing
        from uringzc.engines import lifetime
        lifetime.DRAIN_AT_END = 0.01
        with testing.hold() as box, box.socket() as sock, box.receiver_socket() as rx:
            sock.connect(box.address)
            box.stop()
            s = uringzc.Scheduler()
            data = bytearray(b"for ever")
            s.send(sock, data)
            s.submit()
            drop_completion()
            for call in (
                lambda: s.submit(),
                lambda: s.send(sock, b"x"),
                lambda: s.send_run(sock, b"x", 1, 1),
                lambda: s.reap_notifications(wait=1),
                lambda: s.register(4096),
                lambda: s.flush(0),
                lambda: s.slots.update(0, 1),
                lambda: s.drain(),
            ):
                try:
                    call()
                except uringzc.PoisonedError as error:
                    print(error)
            print(is_held(data))
            try:
                s.close(0.01)
            except uringzc.PoisonedError:
                pass
            print(len(lifetime.parked()), is_held(data))
            box.release()
            rx.recv(10)
            other = uringzc.Scheduler()
            other.submit()
            print(len(lifetime.parked()), is_held(data))
            other.close()
    """
    out, errors = run_program(program)
    lines = out.splitlines()
    refusal = (
        "the kernel dropped a completion: what is in flight is never released, and this Scheduler takes no "
        "more; make a new one"
    )
    assert lines[:-3] == [refusal] * 8, errors
    assert lines[-3:] == ["True", "1 True", "1 True"]
    assert "parked" in errors


def test_control_without_a_dropped_completion_memory_is_released(udp_pair: Pair) -> None:
    data = bytearray(b"for now")
    with uringzc.Scheduler() as s:
        s.send(udp_pair.tx, data, flush=True)
        s.drain()
        assert not is_held(data)


def test_close_releases_descriptors_and_memory(udp_pair: Pair) -> None:
    before, open_rings = len(os.listdir("/proc/self/fd")), ring_count()
    for _ in range(50):
        with uringzc.Scheduler() as s:
            s.fileno()
            s.register_socket(udp_pair.tx)
            region = s.register(1 << 16)
            s.send(udp_pair.tx, region, length=100, flush=True)
            s.submit()
    assert len(os.listdir("/proc/self/fd")) == before
    assert ring_count() == open_rings


# -- the collector


def test_what_c_uses_outlives_slots_that_the_collector_has_cleared() -> None:
    """It clears what is in a cycle in any order, and a sender there uses the slots until it is gone."""
    with uringzc.Scheduler(max_inflight=8) as engine:
        slots, queue = engine._engine.slots, engine._engine.queue
        kept = [held for held in gc.get_referents(queue) if isinstance(held, tuple)]
        assert any(one is slots.allocation for held in kept for one in held)
