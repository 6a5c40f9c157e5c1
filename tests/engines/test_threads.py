"""An engine belongs to the thread that submits first: others, handlers and finalizers are refused."""

import ctypes
import errno
import gc
import socket
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import FrameType
from typing import Any

import pytest
from conftest import Pair
from held_memory import BareEngine, is_held, ring_count
from marks import only_io_uring, zero_copy_engines
from processes import Alarms, in_thread, run_program
from traffic import is_readable, stopped

import uringzc
from uringzc import testing

S = uringzc.Scheduler


CALLS: dict[str, Callable[[S, socket.socket, uringzc.Region], Any]] = {
    "send": lambda s, sock, region: s.send(sock, b"x"),
    "send region": lambda s, sock, region: s.send(sock, region, length=1),
    "send_run": lambda s, sock, region: s.send_run(sock, region, 1, 1),
    "flush": lambda s, sock, region: s.flush(0),
    "submit": lambda s, sock, region: s.submit(),
    "register": lambda s, sock, region: s.register(4096),
    "register_socket": lambda s, sock, region: s.register_socket(sock),
    "unregister_socket": lambda s, sock, region: s.unregister_socket(sock),
    "reap_completions": lambda s, sock, region: s.reap_completions(),
    "reap_notifications": lambda s, sock, region: s.reap_notifications(wait=1),
    "drain": lambda s, sock, region: s.drain(),
    "update": lambda s, sock, region: s.slots.update(0, 1),
    "unregister": lambda s, sock, region: s.slots.unregister(),
    "close": lambda s, sock, region: s.close(),
}
ANY_CALL = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@zero_copy_engines
@ANY_CALL
def test_another_thread_changes_nothing(
    call: Callable[[S, socket.socket, uringzc.Region], Any], box: testing.Hold
) -> None:
    with box.socket() as sock, box.receiver_socket(), S() as s, stopped(box):
        sock.connect(box.address)
        region = s.register(4096)
        data = bytearray(b"first")
        s.send(sock, data, flush=True)
        s.submit()
        s.send(sock, b"second")
        before = s.stats
        with pytest.raises(
            uringzc.WrongThreadError,
            match=r"Scheduler belongs to thread 'MainThread' \(id \d+\), the one that submitted first",
        ):
            in_thread(lambda: call(s, sock, region))
        after = s.stats
        changing = {"oldest": after.oldest, "unread_completions": after.unread_completions}
        assert after == type(before)(**{**before.__dict__, **changing})
        assert is_held(data)
        s.send(sock, b"third")  # and the owner goes on
        assert s.submit() == 2


def test_another_thread_is_refused_while_the_owner_waits(box: testing.Hold) -> None:
    with box.socket() as sock, box.receiver_socket(), S() as s:
        sock.connect(box.address)
        s.send(sock, b"held", flush=True)
        s.submit()
        s.reap_completions()
        errors: list[str] = []

        def others() -> None:
            for call in CALLS.values():
                try:
                    call(s, sock, region)
                except uringzc.UringzcError as error:
                    errors.append(type(error).__name__)
            box.release()

        region = s.register(4096)
        with stopped(box):
            s.send(sock, b"held", flush=True)
            s.submit()
            thread = threading.Thread(target=others)
            thread.start()
            assert len(s.reap_notifications(wait=2)) == 2
            thread.join()
        assert errors == ["WrongThreadError"] * len(CALLS)


def test_calls_of_another_thread_do_not_disturb_the_owner(udp_pair: Pair) -> None:
    end = threading.Event()
    refused: list[type[Exception]] = []

    def others() -> None:
        while not end.is_set():
            try:
                s.submit()
            except uringzc.UringzcError as error:
                refused.append(type(error))

    with S() as s:
        s.send(udp_pair.tx, b"x", flush=True)
        s.submit()
        thread = threading.Thread(target=others)
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        thread.start()
        try:
            for _ in range(1000):  # raises nothing
                s.send(udp_pair.tx, b"x", flush=True)
                s.submit()
                s.reap_completions()
                s.reap_notifications()
                udp_pair.rx.recv(1)
        finally:
            end.set()
            thread.join()
            sys.setswitchinterval(interval)
        assert set(refused) == {uringzc.WrongThreadError}


def test_an_engine_may_be_built_in_another_thread(udp_pair: Pair) -> None:
    s = S()
    region = s.register(4096)
    region.view[:5] = b"built"
    s.send(udp_pair.tx, b"queued", user_data=1)  # nobody owns it yet

    def work() -> list[int]:
        s.send(udp_pair.tx, region, length=5, user_data=2, flush=True)
        assert s.submit() == 2
        with pytest.raises(uringzc.WrongThreadError):
            ask_builder(lambda: s.send(udp_pair.tx, b"x"))
        ask_builder(region.close)  # a region may go anywhere
        own = s.register(1 << 16)
        s.send(udp_pair.tx, own, length=3, user_data=3, flush=True)
        results = [c.result for c in s.reap_completions(wait=3)]
        assert len(s.reap_notifications(wait=2)) == 2
        s.close()
        return results

    questions: list[tuple[Callable[[], Any], Future[Any]]] = []
    asked = threading.Semaphore(0)

    def ask_builder(call: Callable[[], Any]) -> Any:
        answer: Future[Any] = Future()
        questions.append((call, answer))
        asked.release()
        return answer.result(20)

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        for _ in range(2):
            asked.acquire()
            call, answer = questions.pop()
            try:
                answer.set_result(call())
            except Exception as error:
                answer.set_exception(error)
        assert working.result() == [6, 5, 3]
    assert udp_pair.receive(3) == [b"queued", b"built", bytes(3)]


def test_the_building_thread_may_end_before_the_first_use(udp_pair: Pair) -> None:
    s, region = in_thread(lambda: (s := S(), s.register(1 << 20)))
    with s:
        s.send(udp_pair.tx, region, length=10, flush=True)
        s.submit()
        assert [c.result for c in s.reap_completions(wait=1)] == [10]
        assert len(s.reap_notifications(wait=1)) == 1
        assert udp_pair.receive(1) == [bytes(10)]


def test_calls_that_submit_nothing_make_no_owner(udp_pair: Pair) -> None:
    with S() as s:
        for look in (s.reap_completions, s.reap_notifications, s.submit, s.drain):
            in_thread(look)
        in_thread(lambda: s.send(udp_pair.tx, b"by one"))
        in_thread(lambda: s.flush(0))
        assert s.submit() == 1
        assert [c.result for c in s.reap_completions(wait=1)] == [6]


# -- the owner ends


def test_memory_is_released_when_the_owner_thread_ends(udp_pair: Pair) -> None:
    before = ring_count()
    data = [bytearray(b"%d" % i) for i in range(4)]

    def own() -> list[S]:
        made = [S(max_inflight=8) for _ in range(4)]
        for i, s in enumerate(made):
            s.send(udp_pair.tx, data[i], user_data=i)
            s.submit()
        return made

    made = in_thread(own)
    assert ring_count() == before
    assert not any(map(is_held, data))
    for i, s in enumerate(made):
        with pytest.raises(uringzc.ClosedError):
            s.send(udp_pair.tx, b"x")
        s.close()  # from here, and nothing is left to do
        assert [c.user_data for c in s.reap_completions()] == [i]  # and what came can still be read
        assert [n.requests for n in s.reap_notifications()] == [1]
    assert sorted(udp_pair.receive(4)) == [b"0", b"1", b"2", b"3"]


@only_io_uring
@testing.requires("net_admin")
def test_an_engine_that_fails_at_thread_exit_does_not_stop_the_next() -> None:
    program = """
        import threading, uringzc, sys, socket
        from held_memory import ring_count
        from uringzc import testing
        from uringzc.engines import lifetime
        lifetime.DRAIN_AT_END = 0.01
        sys.unraisablehook = lambda unraisable: None
        with testing.hold() as box, box.socket() as held, box.receiver_socket() as rx:
            held.connect(box.address)
            box.stop()
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.connect(("127.0.0.1", 9))
            def own():
                global one, two
                one, two = uringzc.Scheduler(), uringzc.Scheduler()
                one.send(held, b"x"); one.submit()
                two.send(sock, b"x"); two.submit()
            import warnings
            warnings.simplefilter("error")
            thread = threading.Thread(target=own)
            thread.start()
            thread.join()
            print(len(lifetime.parked()), two._engine.closed, two.stats.in_flight, ring_count())
            box.release()
    """
    out, errors = run_program(program)
    assert out.splitlines() == ["1 True 0 1"], errors


def test_each_thread_may_have_its_own_engine(udp_pair: Pair) -> None:
    before = ring_count()

    def work(number: int) -> int:
        with S() as s:
            region = s.register(1 << 16)
            done = 0
            for _ in range(200):
                s.send(udp_pair.tx, region, offset=number, length=8, flush=True)
                s.send(udp_pair.tx, bytearray(8), flush=True)
                s.submit()
                done += sum(c.result == 8 for c in s.reap_completions())
                s.reap_notifications()
            return done + sum(c.result == 8 for c in s.reap_completions(wait=400 - done))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [400] * 4
    assert ring_count() == before


# -- what comes in between


@zero_copy_engines
def test_a_signal_handler_is_refused_while_a_call_waits(box: testing.Hold) -> None:
    import signal

    outcomes: dict[str, str] = {}
    with box.socket() as sock, box.receiver_socket(), S() as s, stopped(box):
        sock.connect(box.address)
        region = s.register(4096)
        s.send(sock, b"held", flush=True)
        s.submit()

        def handler(number: int, frame: FrameType | None) -> None:
            before = s.stats
            for name in ("send", "send region", "send_run", "flush", "submit", "drain", "close"):
                try:
                    CALLS[name](s, sock, region)
                except uringzc.BusyError as error:
                    outcomes[name] = str(error)
            assert s.stats.requests == before.requests
            box.release()

        old = signal.signal(signal.SIGALRM, handler)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            assert len(s.reap_notifications(wait=1)) == 1  # the handler does not end the wait
        finally:
            signal.signal(signal.SIGALRM, old)
        assert len(outcomes) == 7
        assert all("this Scheduler is inside another call" in text for text in outcomes.values())
        s.send(sock, b"usable", flush=True)


def test_a_finalizer_is_refused_while_memory_is_released(udp_pair: Pair) -> None:
    outcomes: list[object] = []

    class Noisy(bytearray):
        def __del__(self) -> None:
            for call in (lambda: s.send(udp_pair.tx, b"x"), s.submit, s.close, lambda: s.flush(0)):
                try:
                    call()
                    outcomes.append("went through")
                except uringzc.BusyError:
                    outcomes.append(uringzc.BusyError)

    with S() as s:
        s.send(udp_pair.tx, Noisy(b"noisy"), flush=True)
        s.submit()
        s.reap_notifications(wait=1)
        assert outcomes == [uringzc.BusyError] * 4
        assert s.stats.requests == 1
        assert udp_pair.receive(1) == [b"noisy"]


class Asked(socket.socket):
    """A socket whose owner wants to know when its descriptor is asked for: code in the middle of a send."""

    ask: Callable[[], object] | None = None

    def fileno(self) -> int:
        ask, Asked.ask = Asked.ask, None
        if ask:
            ask()
        return super().fileno()


def test_a_call_from_inside_a_send_is_refused(make_udp: Callable[..., Pair]) -> None:
    right, wrong = make_udp().rx, make_udp()
    outcomes: list[object] = []
    with Asked(socket.AF_INET, socket.SOCK_DGRAM) as sock, S() as s:
        # by name, so that nothing but the request keeps the packed address
        to = ("localhost", right.getsockname()[1])
        s.send(sock, b"first", to=to)

        def between() -> None:
            try:
                s.send(wrong.tx, b"between", to=("localhost", wrong.rx.getsockname()[1]))
            except uringzc.BusyError:
                outcomes.append("busy")

        Asked.ask = between
        s.send(sock, b"second", to=("localhost", right.getsockname()[1]))
        s.drain()
    assert outcomes == ["busy"]
    assert [right.recv(10), right.recv(10)] == [b"first", b"second"]
    assert not is_readable(wrong.rx.fileno())


@zero_copy_engines
def test_the_first_wait_can_be_interrupted(box: testing.Hold) -> None:
    # the very first call into the kernel is one that blocks
    with box.socket() as sock, box.receiver_socket(), S() as s, stopped(box):
        sock.connect(box.address)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        for _ in range(20):
            s.send(sock, bytes(1000), flush=True)
        with pytest.raises(KeyboardInterrupt), Alarms(0.05, repeat=False):
            s.reap_completions(wait=20, timeout=10)
        assert s.stats.in_flight == 20


def test_a_closed_engine_is_collected() -> None:
    s = S()
    engine = weakref.ref(s._engine)
    s.close()
    del s
    gc.collect()
    assert engine() is None


# -- the control: what the kernel says to a thread that is not the owner


@only_io_uring
def test_control_io_uring_enter_of_another_thread_fails(box: testing.Hold) -> None:
    with box.socket() as sock, box.receiver_socket() as rx:
        sock.connect(box.address)
        engine = BareEngine()
        with stopped(box):
            engine.send(sock, b"held")
            engine.submit()
        rx.recv(10)  # it left, its memory is free, and only the owner can see it
        assert in_thread(lambda: entered(engine)) == -errno.EEXIST
        assert engine.stats.in_flight == 1
        engine.exit()


def entered(engine: BareEngine) -> int:
    """io_uring_enter() with GETEVENTS, past every check of the library."""
    libc = ctypes.CDLL(None, use_errno=True)
    return 0 if libc.syscall(426, engine.fd, 0, 0, 1, None, 0) >= 0 else -ctypes.get_errno()
