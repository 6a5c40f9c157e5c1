"""UdpSender: threads, forks, callbacks, signals and interrupts, statistics and explain()."""

import select
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import pytest
from conftest import Pair
from marks import zero_copy_engines
from processes import Alarms, in_thread, run_program
from traffic import is_readable, raised_by, sender_without_timer, stopped

import uringzc
from uringzc import BusyError, ClosedError, Notification, UdpSender, WrongThreadError, testing
from uringzc.engines.attached import MIN_ARENA
from uringzc.senders.policy import TRIAL

# -- threads and forks


def calls(s: UdpSender, lease: uringzc.Lease) -> list[Callable[[], object]]:
    return [
        lambda: s.send(b"x" * 100),
        lambda: s.send(b"y"),
        lambda: s.sendto(b"x", ("127.0.0.1", 9)),
        lambda: s.send_many([b"x"]),
        lambda: s.fan_out(b"x", [("127.0.0.1", 9)]),
        lambda: s.lease(5),
        lambda: lease.send(),
        lambda: s.send_region(b"x"),
        lambda: s.send_slices(b"x", [0], [1]),
        lambda: s.register(5),
        s.flush,
        s.drain,
    ]


def refused(s: UdpSender, lease: uringzc.Lease, *, close: bool = True) -> list[type | None]:
    """What each call raises."""
    return raised_by(*calls(s, lease), *([s.close] if close else []))


def test_another_thread_is_refused(udp_pair: Pair) -> None:
    with sender_without_timer(udp_pair.rx) as s:
        s.send(b"x" * 100)
        lease = s.lease(100)
        before, found = s.stats, list[type | None]()
        in_thread(lambda: found.extend(refused(s, lease)))
        assert set(found) == {WrongThreadError}
        assert s.stats == before
        assert not s.closed
        lease.view[:] = b"y" * 100
        lease.send()
    assert udp_pair.receive(2) == [b"x" * 100, b"y" * 100]
    assert udp_pair.empty()


def test_a_closed_sender_refuses_every_call(udp_pair: Pair) -> None:
    with sender_without_timer(udp_pair.rx) as s:
        s.send(b"x" * 100)
        lease = s.lease(100)
    assert set(refused(s, lease, close=False)) == {ClosedError}
    assert s.stats.datagrams == 1
    assert "closed" in repr(s)
    assert udp_pair.receive(1) == [b"x" * 100]
    assert udp_pair.empty()


@pytest.mark.slow
@pytest.mark.parametrize("max_delay", [None, 0.01])
def test_a_forked_child_is_refused_and_nothing_is_sent_twice(max_delay: float | None) -> None:
    """The child can do nothing with it, and ends as any program; what waits is sent once."""
    out, _ = run_program(
        """
        import os, socket, sys, warnings
        import uringzc
        from test_udp_rules import refused
        warnings.simplefilter("ignore", DeprecationWarning)
        rx = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        rx.bind(("127.0.0.1", 0))
        rx.settimeout(10)
        s = uringzc.UdpSender(rx.getsockname(), max_delay=eval(sys.argv[1]))
        s.send(b"before")
        s.drain()
        for _ in range(3):
            s.send(b"x" * 1000)
        lease = s.lease(10)
        child = os.fork()
        if not child:
            names = {kind.__name__ if kind else "None" for kind in refused(s, lease, close=False)}
            s.close()
            print(*names, flush=True)
            del s, lease
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        s.send(b"y" * 1000)
        s.close()
        print([len(rx.recv(2000)) for _ in range(5)])
        rx.setblocking(False)
        try:
            print(rx.recv(2000))
        except BlockingIOError:
            print("no more")
        """,
        max_delay,
    )
    assert out.splitlines() == ["ClosedError", "[6, 1000, 1000, 1000, 1000]", "no more"]


# -- callbacks and interrupts


class CallsInside:
    """Calls the sender from where that is refused, and keeps what came of it."""

    def __init__(self) -> None:
        self.s: UdpSender | None = None
        self.raised: list[type | None] = []
        self.times = 0

    def __call__(self, *_: object) -> None:
        assert self.s
        self.times += 1
        if self.times > 2:  # it was not refused: each such call calls back again
            return
        s = self.s
        self.raised += raised_by(lambda: s.send(b"x" * 100), s.flush, lambda: s.drain(1))


def test_notify_may_not_call_the_sender(udp_pair: Pair) -> None:
    inside = CallsInside()
    with sender_without_timer(udp_pair.rx, notify=inside) as s:
        inside.s = s
        s.send_many([b"x" * 1200] * 100)
        s.drain()
    assert inside.raised
    assert set(inside.raised) == {BusyError}
    assert len(udp_pair.receive(100)) == 100
    assert udp_pair.empty()


def test_on_error_may_not_call_the_sender() -> None:
    inside = CallsInside()
    with UdpSender(max_delay=None, on_error=inside) as s:
        inside.s = s
        s.send(b"nowhere", to=("127.0.0.1", 0))
        s.drain()
    assert inside.raised
    assert set(inside.raised) == {BusyError}


def test_an_iterable_may_call_the_sender_that_takes_from_it(udp_pair: Pair) -> None:
    """Its code runs outside: so may that of a signal handler that comes meanwhile."""
    with sender_without_timer(udp_pair.rx) as s:

        def give() -> Iterator[bytes]:
            for i in range(10):
                if i == 5:
                    signal.raise_signal(signal.SIGUSR1)
                    s.send(b"from inside")
                    s.flush()
                yield b"%d" % i

        before = signal.signal(signal.SIGUSR1, lambda *_: s.send(b"from a handler"))
        try:
            assert s.send_many(give()) == 10
        finally:
            signal.signal(signal.SIGUSR1, before)
    assert udp_pair.receive(12) == [
        *(b"%d" % i for i in range(5)),
        *(b"from a handler", b"from inside"),
        *(b"%d" % i for i in range(5, 10)),
    ]


class EnoughError(Exception):
    """A progress callback wants no more."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", [EnoughError, KeyboardInterrupt])
@pytest.mark.parametrize("slices", [False, True])
def test_progress_counts_and_may_end_the_call(
    udp_pair: Pair, slices: bool, kind: type[BaseException]
) -> None:
    """It counts up to the end; its exception ends the call, and what was taken until then is sent."""
    memory = b"".join(struct.pack("=Q", i) * 12 for i in range(14000))
    seen: list[int] = []

    def enough(count: int) -> None:
        seen.append(count)
        if len(seen) == 2:
            raise kind

    with sender_without_timer(udp_pair.rx) as s:

        def go(progress: Callable[[int], object]) -> int:
            if slices:
                return s.send_slices(memory, range(0, len(memory), 96), [96] * 14000, progress=progress)
            return s.send_region(memory, segment=96, progress=progress)

        udp_pair.rx.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        with pytest.raises(kind):
            go(enough)
        s.drain()
        assert 0 < seen[0] < seen[1] < 14000
        assert s.stats.datagrams == seen[1]
        assert udp_pair.receive(seen[1]) == [memory[96 * i : 96 * i + 96] for i in range(seen[1])]
        assert udp_pair.empty()
        counts: list[int] = []
        assert go(counts.append) == 14000
        s.drain()
        assert counts == sorted(set(counts))
        assert counts[-1] == 14000
    assert udp_pair.receive(14000) == [memory[i : i + 96] for i in range(0, len(memory), 96)]


@zero_copy_engines
@testing.requires("net_admin")
def test_an_interrupt_while_it_waits_leaves_the_sender_usable(box: testing.Hold) -> None:
    """More than the socket takes while nothing leaves; afterwards the sender is as good as before."""
    with (
        closing(box.socket()) as tx,
        testing.receiver(sock=box.receiver_socket()) as rx,
        UdpSender(box.address, sock=tx, arena=MIN_ARENA, max_inflight=64) as s,
    ):
        s.send(b"first")
        s.drain()
        rx.wait(1)
        memory = b"".join(struct.pack("=Q", i) * 125 for i in range(20_000))
        with stopped(box):
            with Alarms(0.05, repeat=False), pytest.raises(KeyboardInterrupt):
                s.send_region(memory, segment=1000)
            assert s.stats.waits
            assert s.stats.in_flight
        s.send(b"last")
        s.drain()
        stats = s.stats
        came = rx.wait(stats.datagrams)
        assert 2 < len(came) < 20_000
        assert came == [
            b"first",
            *(memory[1000 * i : 1000 * i + 1000] for i in range(len(came) - 2)),
            b"last",
        ]
        assert (stats.waiting, stats.lost, stats.reordered) == (0, 0, 0)


# -- non-blocking, and what is reported


@testing.requires("net_admin")
def test_non_blocking_sends_take_a_part(box: testing.Hold) -> None:
    """BlockingIOError where it would wait; when its descriptor is readable, the call is worth a try."""
    with (
        closing(box.socket()) as tx,
        testing.receiver(sock=box.receiver_socket()) as rx,
        UdpSender(
            box.address, sock=tx, arena=MIN_ARENA, max_inflight=64, blocking=False, max_delay=None
        ) as s,
    ):
        s.send(b"first")
        s.flush()
        rx.wait(1)
        expected = [struct.pack("=Q", i) * 150 for i in range(5000)]
        with stopped(box):
            with pytest.raises(BlockingIOError) as caught:
                s.send_many(expected)
            done = caught.value.characters_written
            assert s.stats.datagrams == 1 + done
            with suppress(BlockingIOError):
                for data in expected[done:]:
                    s.send(data)
                    done += 1
            assert 0 < done < 5000
            assert s.stats.datagrams == 1 + done
            assert not is_readable(s.fileno())
        while done < 5000:
            try:
                s.send(expected[done])
                done += 1
            except BlockingIOError:
                assert select.select([s.fileno()], [], [], 10)[0]
        while s.stats.waiting:
            try:
                s.flush()
            except BlockingIOError:
                assert select.select([s.fileno()], [], [], 10)[0]
        assert rx.wait(5001)[1:] == expected


@testing.requires("net_admin")
def test_statistics_and_notifications_add_up(box: testing.Hold, engine: str) -> None:
    reported: list[Notification] = []
    with closing(box.socket()) as tx, testing.receiver(sock=box.receiver_socket()) as rx:
        with UdpSender(box.address, sock=tx, max_delay=None, notify=reported.append) as s:
            s.send(b"first")
            s.flush()
            plain = s.stats
            assert (plain.datagrams, plain.nbytes, plain.syscalls, plain.requests) == (1, 5, 1, 0)
            for _ in range(10):
                s.send_many([bytes(1200)] * 100)
                s.send(bytes(20_000))
                s.flush()
            s.send(bytes(1200))
            s.send(bytes(1200))
            assert s.stats.waiting == 2
            s.drain()
            stats = s.stats
            assert (stats.datagrams, stats.nbytes) == (1013, 5 + 10 * 140_000 + 2400)
            assert (stats.waiting, stats.in_flight, stats.lost, stats.resent) == (0, 0, 0, 0)
            assert 0 < stats.zero_copy <= stats.requests < 100
            if engine != "msg_zerocopy":  # which cannot report each
                assert stats.copied == stats.zero_copy  # what arrives was copied
            assert stats.unsegmented == 0
            assert sum(one.requests for one in reported) == stats.requests
            assert sum(one.nbytes for one in reported) == stats.nbytes - 5
            assert sum(one.failed for one in reported) == 0
            assert sorted(one.sequence for one in reported) == list(range(len(reported)))  # in any order
        assert len(rx.wait(1013)) == 1013


@zero_copy_engines
def test_explain_describes_engine_arena_and_copies(udp_pair: Pair, engine: str) -> None:
    with sender_without_timer(udp_pair.rx, arena=1 << 20) as s:
        text = s.explain()
        for part in (engine, "1024 KiB", "trains of up to", "SO_SNDBUF is", "zero-copy"):
            assert part in text
        for _ in range(5):
            s.send_many([bytes(1200)] * 200)
            s.drain()
            udp_pair.receive(200)
        assert "would copy what goes to 1 of 1 destination " in s.explain()  # loopback
        assert s.stats.copied
    assert "trains of up to" in s.explain()  # also when it is closed
    with sender_without_timer(udp_pair.rx, zero_copy="always") as s:
        assert "zero-copy, as asked" in s.explain()
    with sender_without_timer(udp_pair.rx, zero_copy="never") as s:
        s.send_many([bytes(1200)] * 200)
        s.drain()
        assert s.stats.zero_copy == 0
        assert "copied, as asked" in s.explain()


@pytest.mark.engines("copy")
def test_explain_of_the_copy_engine(udp_pair: Pair) -> None:
    with sender_without_timer(udp_pair.rx, arena=1 << 20) as s:
        for part in ("copy", "1024 KiB", "trains of up to", "SO_SNDBUF is", "Each request is copied"):
            assert part in s.explain()


@testing.requires("send_zc")
def test_only_a_few_requests_are_sent_to_learn_that_the_kernel_copies() -> None:
    with testing.receiver() as rx, sender_without_timer(rx.sock, engine="io_uring") as tx:
        for _ in range(48 * 54):  # as trains, the requests of one submission, were they not stopped
            tx.send(bytes(1200))
        tx.drain(5)
        assert 0 < tx.stats.zero_copy <= 3 * TRIAL
        assert tx.stats.copying == 1


# -- SO_SNDBUF


def sndbuf(sock: socket.socket) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


def test_sndbuf_of_the_programs_socket(udp_pair: Pair) -> None:
    """None leaves it, an int is set, and "auto" raises it."""
    udp_pair.tx.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 100_000)
    before = sndbuf(udp_pair.tx)
    with UdpSender(sock=udp_pair.tx, sndbuf=None) as tx:
        tx.send_many([bytes(1000)] * 1000)
        tx.drain()
        assert tx.stats.sndbuf == sndbuf(udp_pair.tx) == before
    udp_pair.receive(1000)
    with UdpSender(sock=udp_pair.tx, sndbuf=150_000):
        assert sndbuf(udp_pair.tx) == 300_000
    with UdpSender(sock=udp_pair.tx):
        assert sndbuf(udp_pair.tx) > 300_000
    for wrong in (0, -1, 1 << 30, "all", 1.5):
        with pytest.raises(ValueError, match="sndbuf is 'auto', None, or bytes"):
            UdpSender(sock=udp_pair.tx, sndbuf=wrong)  # type: ignore[arg-type]
