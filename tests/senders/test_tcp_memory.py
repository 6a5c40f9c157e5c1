"""Memory of a TcpSender: held until the notification, copied where it can change, parked at the end."""

import contextlib
import socket
import sys
from collections.abc import Iterator

import pytest
from held_memory import BareEngine, CountedBytes, is_held, wait_for_parked
from marks import only_io_uring, zero_copy_engines
from traffic import StreamReader, stopped, tcp_connection

import uringzc
from uringzc import Notification, TcpSender, testing
from uringzc.engines import lifetime
from uringzc.senders.tcp import MIN_ZERO_COPY

pytestmark = testing.requires("net_admin")
SIZE = 64 << 10
Stream = tuple[socket.socket, socket.socket]


@pytest.fixture
def stream(box: testing.Hold) -> Iterator[Stream]:
    with tcp_connection(box) as pair:
        yield pair


def receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := sock.recv(size - len(data))):
        data += more
    return data


@zero_copy_engines
@pytest.mark.parametrize("many", [False, True])
def test_bytes_are_held_until_the_notification(
    box: testing.Hold, stream: Stream, engine: str, many: bool
) -> None:
    tx, rx = stream
    first, second = bytes([1]) * SIZE, bytes([2]) * SIZE
    with TcpSender(tx, engine=engine, zero_copy="always") as s:
        before = sys.getrefcount(first), sys.getrefcount(tx)
        with stopped(box):
            if many:
                s.send_buffers([first, memoryview(second)])
            else:
                s.send(first)
                s.send(second)
            notifier = s.flush()
            assert not notifier.done
            assert s.stats.in_flight == (1 if many else 2)
            assert sys.getrefcount(first) > before[0]
            assert sys.getrefcount(tx) > before[1]
            with pytest.raises(TimeoutError, match=r"requests? (is|are) in flight"):
                s.drain(0.01)
        assert receive(rx, 2 * SIZE) == first + second
        notifier.wait(20)
        s.drain(20)
        assert (sys.getrefcount(first), sys.getrefcount(tx)) == before
        assert s.flush().done
        assert s.stats.zero_copy == s.stats.requests == (1 if many else 2)


@zero_copy_engines
def test_every_buffer_is_released_once(box: testing.Hold, stream: Stream, engine: str) -> None:
    tx, rx = stream
    reported: list[Notification] = []
    with (
        StreamReader(rx) as read,
        TcpSender(tx, engine=engine, zero_copy="always", notify=reported.append) as s,
    ):
        with stopped(box):
            for i in range(20):
                s.send(CountedBytes(bytes([i]) * MIN_ZERO_COPY))
            assert CountedBytes.living == s.stats.in_flight == 20
        s.drain(20)
        assert CountedBytes.living == 0
        s.send(b"")  # reported at the end of a call
        assert sum(each.requests for each in reported) == 20
        assert sum(each.nbytes for each in reported) == 20 * MIN_ZERO_COPY
        s.shutdown()
    assert read.end() == b"".join(bytes([i]) * MIN_ZERO_COPY for i in range(20))


@pytest.mark.parametrize("size", [100, SIZE])
def test_mutable_data_may_be_reused_at_once(
    box: testing.Hold, stream: Stream, engine: str, size: int
) -> None:
    tx, rx = stream
    data = bytearray(b"1") * size
    with TcpSender(tx, engine=engine, zero_copy="always") as s:
        with stopped(box):
            s.send(data)
            assert not is_held(data)
            data[:] = b"2" * size
            s.send_buffers([data, b"3"])
            data[:] = b"4" * size
        assert receive(rx, 2 * size + 1) == b"1" * size + b"2" * size + b"3"


@only_io_uring
def test_control_zero_copy_of_mutable_data_sends_what_is_there_later(
    box: testing.Hold, stream: Stream
) -> None:
    tx, rx = stream
    data = bytearray(b"1") * SIZE
    engine = BareEngine()
    with stopped(box):
        engine.send(tx, data)
        engine.submit(1)
        data[:] = b"2" * SIZE
    assert b"2" in receive(rx, SIZE)
    engine.exit()


@zero_copy_engines
def test_more_than_may_be_in_flight_is_copied(box: testing.Hold, stream: Stream, engine: str) -> None:
    tx, rx = stream
    with (
        uringzc.Scheduler(engine=engine, max_inflight=4) as scheduler,
        TcpSender(tx, scheduler=scheduler, zero_copy="always") as s,
    ):
        with stopped(box):
            for i in range(10):
                s.send(bytes([i]) * MIN_ZERO_COPY)
            assert (s.stats.requests, s.stats.syscalls) == (4, 6)
        assert receive(rx, 10 * MIN_ZERO_COPY) == b"".join(bytes([i]) * MIN_ZERO_COPY for i in range(10))
        s.drain(20)
        s.send(bytes(MIN_ZERO_COPY))
        assert s.stats.requests == 5


@zero_copy_engines
@pytest.mark.parametrize("shared", [False, True])
def test_a_dropped_sender_keeps_memory_that_is_in_flight(
    box: testing.Hold, stream: Stream, engine: str, shared: bool
) -> None:
    tx, rx = stream
    with uringzc.Scheduler(engine=engine) as other:
        options = {"scheduler": other} if shared else {"engine": engine}
        s = TcpSender(tx, zero_copy="always", **options)
        with stopped(box):
            s.send(CountedBytes(b"x" * SIZE))
            fileno = s.fileno()
            with pytest.warns(ResourceWarning, match="TcpSender was not closed"):
                del s
            assert CountedBytes.living == 1
        assert receive(rx, SIZE) == b"x" * SIZE
        if shared:
            other.drain(20)
        else:
            wait_for_parked(fileno, other)
        other.submit()
        assert CountedBytes.living == 0


@zero_copy_engines
def test_a_closed_sender_parks_what_is_in_flight(box: testing.Hold, stream: Stream, engine: str) -> None:
    tx, rx = stream
    with uringzc.Scheduler(engine=engine) as other:
        s = TcpSender(tx, engine=engine, zero_copy="always")
        with stopped(box):
            s.send(CountedBytes(b"x" * SIZE))
            fileno = s.fileno()
            with pytest.warns(ResourceWarning, match="is parked: 1 request is in flight"):
                s.close(0.01)
            s.close()
            assert (CountedBytes.living, len(lifetime.parked())) == (1, 1)
            assert tx.fileno() >= 0  # the program's
            with pytest.raises(uringzc.ClosedError):
                s.send(b"x")
        assert receive(rx, SIZE) == b"x" * SIZE
        wait_for_parked(fileno, other)
        assert CountedBytes.living == 0


@zero_copy_engines
def test_a_closed_sender_leaves_what_is_in_flight_to_a_shared_scheduler(
    box: testing.Hold, stream: Stream, engine: str
) -> None:
    tx, rx = stream
    with uringzc.Scheduler(engine=engine) as scheduler:
        with stopped(box):
            with TcpSender(tx, scheduler=scheduler, zero_copy="always") as s:
                s.send(CountedBytes(b"x" * SIZE))
                s.close(0.01)
            assert CountedBytes.living == 1
            s = TcpSender(tx, scheduler=scheduler, zero_copy="always")  # in a slot of its own
            s.send(b"y" * SIZE)
        assert receive(rx, 2 * SIZE) == b"x" * SIZE + b"y" * SIZE
        s.drain(20)
        s.close()
        scheduler.drain(20)
        scheduler.submit()
        assert CountedBytes.living == 0


@zero_copy_engines
def test_the_program_may_close_its_socket_with_data_in_flight(
    box: testing.Hold, stream: Stream, engine: str
) -> None:
    tx, rx = stream
    with TcpSender(tx, engine=engine, zero_copy="always") as s:
        with stopped(box):
            s.send(CountedBytes(b"x" * SIZE))
            tx.close()
            s.flush()
            assert CountedBytes.living == 1
        assert receive(rx, SIZE) == b"x" * SIZE
        s.drain(20)
        assert CountedBytes.living == 0
        assert receive(rx, 1) == b""  # nobody has it any more


@zero_copy_engines
def test_another_senders_stream_does_not_hold_up_the_arena(
    box: testing.Hold, stream: Stream, engine: str
) -> None:
    """An arena full of leases is said to be that, whatever a stream still has in flight."""
    tx, rx = stream
    with (
        uringzc.Scheduler(engine=engine) as scheduler,
        TcpSender(tx, scheduler=scheduler, zero_copy="always") as s,
        contextlib.ExitStack() as leases,
    ):
        options = {"scheduler": scheduler, "max_delay": None, "arena": 256 << 10}
        a = leases.enter_context(uringzc.UdpSender(("127.0.0.1", 9), **options))  # type: ignore[arg-type]
        b = leases.enter_context(uringzc.UdpSender(("127.0.0.1", 9), **options))  # type: ignore[arg-type]
        with stopped(box):
            s.send(b"x" * SIZE)
            with contextlib.suppress(BlockingIOError):
                while True:
                    leases.enter_context(a.lease(60000))
            with pytest.raises(BlockingIOError):
                b.send(b"no room")
        assert receive(rx, SIZE) == b"x" * SIZE
