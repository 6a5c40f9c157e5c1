"""TcpSender: threads, forks, callbacks, signals and interrupts, and shared schedulers."""

import itertools
import os
import signal
import socket
import sys
from contextlib import suppress
from types import FrameType

import pytest
from conftest import MakePair, Pair
from held_memory import CountedBytes
from marks import zero_copy_engines
from processes import Alarms, in_thread, run_program
from traffic import StreamReader, raised_by, receive_exactly, tcp_connection

import uringzc
from uringzc import BusyError, ClosedError, TcpSender, UdpSender, WrongThreadError, testing
from uringzc.senders.tcp import MIN_ZERO_COPY

each_way = pytest.mark.parametrize("zero_copy", ["always", "never"])


def refused(s: TcpSender, *, close: bool = True) -> list[type | None]:
    """What each call raises."""
    return raised_by(
        lambda: s.send(b"x"),
        lambda: s.send(bytes(MIN_ZERO_COPY)),
        lambda: s.send_buffers([b"x"]),
        s.flush,
        s.drain,
        s.shutdown,
        *([s.close] if close else []),
    )


# -- threads and forks


def test_another_thread_is_refused(tcp_pair: Pair, engine: str) -> None:
    with TcpSender(tcp_pair.tx, engine=engine) as s:
        s.send(b"mine")
        before, found = s.stats, list[type | None]()
        in_thread(lambda: found.extend(refused(s)))
        assert set(found) == {WrongThreadError}
        assert s.stats == before
        s.send(b"too")
    assert receive_exactly(tcp_pair.rx, 7) == b"minetoo"


def test_a_sender_may_be_built_in_another_thread(tcp_pair: Pair, engine: str) -> None:
    s = TcpSender(tcp_pair.tx, engine=engine)

    def use() -> None:
        with s:
            s.send(b"from there")

    in_thread(use)
    assert s.closed
    assert tcp_pair.rx.recv(100) == b"from there"


def test_a_closed_sender_refuses_every_call(tcp_pair: Pair, engine: str) -> None:
    with TcpSender(tcp_pair.tx, engine=engine) as s:
        s.send(b"x")
    assert set(refused(s, close=False)) == {ClosedError}
    assert s.stats.nbytes == 1
    assert "closed" in repr(s)
    s.close()
    tcp_pair.tx.sendall(b"y")  # the socket is the program's
    assert receive_exactly(tcp_pair.rx, 2) == b"xy"


@pytest.mark.slow
def test_a_forked_child_is_refused_and_the_parent_goes_on(engine: str) -> None:
    out, _ = run_program(
        """
        import os, socket, sys, warnings
        import uringzc
        from test_tcp_rules import refused
        warnings.simplefilter("ignore", DeprecationWarning)
        tx, rx = socket.socket(), None
        with socket.create_server(("127.0.0.1", 0)) as listener:
            tx.connect(listener.getsockname())
            rx, _ = listener.accept()
        s = uringzc.TcpSender(tx, engine=sys.argv[1], zero_copy="always")
        s.send(b"x" * 100000)
        child = os.fork()
        if not child:
            print(*{kind.__name__ if kind else "None" for kind in refused(s, close=False)}, flush=True)
            s.close()
            del s
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        s.send(b"y")
        s.shutdown()
        got = b""
        while more := rx.recv(1 << 20):
            got += more
        s.close()
        print(got == b"x" * 100000 + b"y")
        """,
        engine,
    )
    assert out.split() == ["ClosedError", "True"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ends", "exits", "is dropped"])
def test_what_was_sent_arrives_without_close(how: str) -> None:
    """What was sent arrives."""
    out, errors = run_program(
        """
        import socket, sys, threading
        import uringzc
        rx, got = socket.create_server(("127.0.0.1", 0)), []
        def read():
            with rx.accept()[0] as sock:
                data = b""
                while more := sock.recv(1 << 20):
                    data += more
                print(len(data), flush=True)
        threading.Thread(target=read).start()
        tx = socket.create_connection(rx.getsockname())
        s = uringzc.TcpSender(tx, zero_copy="always")
        s.send(b"x" * (8 << 20))
        tx.shutdown(socket.SHUT_WR)
        if sys.argv[1] == "exits":
            sys.exit(0)
        if sys.argv[1] == "is dropped":
            del s
        """,
        how,
    )
    assert out.split() == [str(8 << 20)]
    assert "Traceback" not in errors


# -- callbacks and interrupts


class CallsInside:
    """Calls the sender from where that is refused, and keeps what came of it."""

    def __init__(self) -> None:
        self.s: TcpSender | None = None
        self.raised: list[type | None] = []

    def __call__(self, *_: object) -> None:
        assert self.s
        self.raised += refused(self.s)


def test_callbacks_may_not_call_the_sender(tcp_pair: Pair, engine: str) -> None:
    inside = CallsInside()
    with TcpSender(tcp_pair.tx, engine=engine, zero_copy="always", notify=inside, on_error=inside) as s:
        inside.s = s
        s.send(b"x" * 100)
        s.shutdown()
        with suppress(BrokenPipeError):
            s.send(b"y")
        s.flush()
    assert inside.raised
    assert set(inside.raised) == {BusyError}
    assert tcp_pair.rx.recv(1000) == b"x" * 100


@zero_copy_engines
def test_later_calls_report_the_rest_to_a_callback_that_raised(tcp_pair: Pair, engine: str) -> None:
    reported: list[int] = []

    def notify(n: uringzc.Notification) -> None:
        reported.append(n.sequence)
        raise ArithmeticError

    with (
        StreamReader(tcp_pair.rx),
        TcpSender(tcp_pair.tx, engine=engine, zero_copy="always", notify=notify) as s,
    ):
        for _ in range(5):
            with suppress(ArithmeticError):
                s.send(b"x" * MIN_ZERO_COPY)
        for _ in range(10):
            with suppress(ArithmeticError):
                s.drain(20)
        assert sorted(reported) == list(range(5))  # notifications come in any order
        s.shutdown()


def test_a_constructor_that_fails_leaves_nothing(
    tcp_pair: Pair, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What interrupted it is raised, and nothing in its place; the engine is closed."""
    before = len(os.listdir("/proc/self/fd"))

    def attach(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(uringzc.engines.base.Engine, "attach", attach)
        with pytest.raises(KeyboardInterrupt):
            TcpSender(tcp_pair.tx, engine=engine)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.slow
@each_way
@pytest.mark.parametrize("interrupt", [False, True])
def test_a_signal_handler_while_send_waits(
    engine: str, zero_copy: str, interrupt: bool, tcp_pair: Pair
) -> None:
    """A handler's calls are refused; what it raises ends the call, and the sender is as good as before."""
    data = os.urandom(16 << 20)
    found: list[type | None] = []
    with TcpSender(tcp_pair.tx, engine=engine, zero_copy=zero_copy) as s:

        def handler(number: int, frame: FrameType | None) -> None:
            found.extend(refused(s))
            if interrupt:
                raise KeyboardInterrupt
            read.__enter__()

        read = StreamReader(tcp_pair.rx)
        old = signal.signal(signal.SIGALRM, handler)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            if interrupt:
                with pytest.raises(KeyboardInterrupt):
                    s.send(data)
                read.__enter__()
            else:
                assert s.send(data) == len(data)
        finally:
            signal.signal(signal.SIGALRM, old)
        assert set(found) == {BusyError}
        accepted = s.stats.nbytes
        assert accepted > 0
        assert (accepted < len(data)) == interrupt
        s.send(b"after")
        s.shutdown()
        assert read.end() == data[:accepted] + b"after"


@pytest.mark.slow
@each_way
def test_interrupts_anywhere_send_nothing_twice(tcp_pair: Pair, engine: str, zero_copy: str) -> None:
    """What the stream has is what the statistics said, call by call, and all memory comes back."""
    marks: list[tuple[int, int]] = []  # bytes before each call, and its number
    sizes = [MIN_ZERO_COPY, 104, 200_000, 4000]
    blocks = [b"%07d " % i * (sizes[i % 4] // 8) for i in range(16)]
    held = [sys.getrefcount(block) for block in blocks]

    def block(number: int) -> bytes:
        return blocks[number % 16]

    with StreamReader(tcp_pair.rx) as read, TcpSender(tcp_pair.tx, engine=engine, zero_copy=zero_copy) as s:

        def step() -> None:
            number = len(marks)
            marks.append((s.stats.nbytes, number))
            if number % 2:
                s.send(block(number))
            else:
                s.send_buffers([block(number), memoryview(block(number)), bytearray(b"small")])

        with Alarms(0.0007) as alarms:
            alarms.exhaust(step, 1500)
        assert alarms.raised > 20
        marks.append((s.stats.nbytes, -1))
        s.shutdown()
        s.drain(20)
        assert s.stats.in_flight == 0
        assert [sys.getrefcount(block) for block in blocks] == held
        expected = b"".join(
            (block(number) if number % 2 else block(number) * 2 + b"small")[: after - before]
            for (before, number), (after, _) in itertools.pairwise(marks)
        )
        assert read.end() == expected
        assert len(expected) == s.stats.nbytes


class Interrupting(socket.socket):
    """A socket whose fileno() is interrupted, once, when it is called for the n-th time from now."""

    after = 0

    def fileno(self) -> int:
        self.after -= 1
        if self.after == 0:
            raise KeyboardInterrupt
        return super().fileno()


@zero_copy_engines
@pytest.mark.parametrize("after", range(1, 6))
def test_a_request_that_an_interrupt_leaves_is_not_sent(tcp_pair: Pair, engine: str, after: int) -> None:
    """Queued and not submitted, or with its result, it is what the statistics say."""
    data = os.urandom(200_000)
    with (
        Interrupting(fileno=tcp_pair.tx.detach()) as sock,
        StreamReader(tcp_pair.rx) as read,
        TcpSender(sock, engine=engine, zero_copy="always") as s,
    ):
        s.send(b"before")
        held = sys.getrefcount(data)
        sock.after = after
        with suppress(KeyboardInterrupt):
            s.send(data)
        sock.after = 0
        accepted = s.stats.nbytes - 6
        assert accepted in (0, len(data))
        s.send(b"after")
        s.shutdown()
        s.drain(20)
        assert sys.getrefcount(data) == held
        assert read.end() == b"before" + data[:accepted] + b"after"


# -- what is shared


def test_senders_may_share_a_scheduler(make_tcp: MakePair, udp_pair: Pair, engine: str) -> None:
    first, second = make_tcp(), make_tcp()
    with uringzc.Scheduler(engine=engine) as scheduler:
        with StreamReader(first.rx) as one, StreamReader(second.rx) as two:
            a = TcpSender(first.tx, scheduler=scheduler, zero_copy="always")
            b = TcpSender(second.tx, scheduler=scheduler, zero_copy="always")
            udp = UdpSender(udp_pair.rx.getsockname(), scheduler=scheduler, max_delay=None)
            for i in range(50):
                a.send(b"a%04d" % i * MIN_ZERO_COPY)
                b.send_buffers([b"b%04d" % i * MIN_ZERO_COPY, bytearray(b"m")])
                udp.send(b"u%04d" % i)
            scheduler.send(first.tx, b"not through the sender", user_data=5)
            scheduler.submit()
            # shutdown() waits for what the sender sent, and would end a request that waits for room
            assert [c.user_data for c in scheduler.reap_completions(wait=1)] == [5]
            a.shutdown()
            udp.close()
            a.close()
            b.send(b"on its own")
            assert all(s.stats.requests >= 50 or engine == "copy" for s in (a, b))
            b.shutdown()
        assert (
            one.end() == b"".join(b"a%04d" % i * MIN_ZERO_COPY for i in range(50)) + b"not through the sender"
        )
        assert two.end() == b"".join(b"b%04d" % i * MIN_ZERO_COPY + b"m" for i in range(50)) + b"on its own"
        scheduler.flush(0)
        assert [n.requests for n in scheduler.reap_notifications(wait=1)] == [1]
    assert b.closed  # with its scheduler
    assert udp_pair.receive(50) == [b"u%04d" % i for i in range(50)]


@testing.requires("net_admin")
@zero_copy_engines
def test_memory_is_released_when_the_owner_thread_ends(box: testing.Hold, engine: str) -> None:
    """Its thread drains what it has in flight."""
    with tcp_connection(box) as (tx, rx):
        box.stop()

        def work() -> None:
            s = TcpSender(tx, engine=engine, zero_copy="always")
            s.send(CountedBytes(b"x" * MIN_ZERO_COPY))
            kept.append(s)
            box.release()

        kept: list[TcpSender] = []
        in_thread(work)
        assert kept[0].closed
        assert CountedBytes.living == 0
        assert rx.recv(MIN_ZERO_COPY, socket.MSG_PEEK)


@pytest.mark.parametrize("data", [b"x", bytes(1 << 20)])
def test_a_sender_whose_scheduler_was_dropped_is_refused(tcp_pair: Pair, data: bytes) -> None:
    """Nothing is sent, not even what would need no engine."""
    scheduler = uringzc.Scheduler()
    sender = TcpSender(tcp_pair.tx, scheduler=scheduler)
    with pytest.warns(ResourceWarning, match="was not closed"):
        del scheduler
    with pytest.raises(uringzc.ClosedError):
        sender.send(data)
    with pytest.raises(uringzc.ClosedError):
        sender.send_buffers([b"x", data])
    assert tcp_pair.empty()
    sender.close()
