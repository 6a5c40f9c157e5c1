"""The awaitable TcpSender: all of the data, in order, whoever waits, is cancelled, or closes meanwhile."""

import asyncio
import random
import socket
from typing import Any

import anyio
import pytest
from awaiting import each_loop, run, turns
from conftest import Pair
from marks import only_io_uring, zero_copy_engines
from processes import in_thread
from traffic import StreamReader, receive_exactly, stopped, tcp_connection

import uringzc.aio
from uringzc import ClosedError, Scheduler, SendError, WrongThreadError, testing

#: more than a connection over loopback takes without a reader
LARGE = bytes(range(256)) * (64 << 10)


@each_loop
def test_everything_arrives_in_order(tcp_pair: Pair, loop: str) -> None:
    pieces: list[Any] = [
        b"",
        b"small",
        LARGE,
        bytearray(LARGE[:100_000]),
        memoryview(LARGE)[3:70_000],
        memoryview(b"int32" * 4).cast("i"),
    ]
    buffers: list[Any] = [b"first", LARGE, b"", bytearray(b"last")]

    async def main() -> None:
        async with uringzc.aio.TcpSender(tcp_pair.tx) as tx:
            for piece in pieces:
                assert await tx.send(piece) == memoryview(piece).nbytes
            assert await tx.send_buffers(iter(buffers)) == sum(map(len, buffers))
            assert await tx.send_buffers([]) == 0
            assert "TcpSender" in repr(tx)
            assert tx.explain()
            await tx.shutdown()
            await tx.drain()
            assert (await tx.flush()).done
            assert tx.stats.nbytes == sum(memoryview(each).nbytes for each in [*pieces, *buffers])

    with StreamReader(tcp_pair.rx) as reader:
        run(loop, main)
        assert reader.end() == b"".join(bytes(each) for each in [*pieces, *buffers])
    assert tcp_pair.tx.fileno() >= 0


@zero_copy_engines
@each_loop
def test_the_rest_of_a_bytes_is_not_copied_either(box: testing.Hold, loop: str) -> None:
    async def main(sock: socket.socket) -> None:
        async with uringzc.aio.TcpSender(sock, zero_copy="always") as tx:
            await tx.send(LARGE)
            stats = tx.stats
            assert stats.sends > 1
            assert stats.requests > 1
            assert stats.syscalls == 0

    box.release()
    with tcp_connection(box, window=1 << 16) as (tx, rx), StreamReader(rx) as reader:
        tx.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
        run(loop, main, tx)
        tx.shutdown(socket.SHUT_WR)
        assert reader.end() == LARGE


@each_loop
def test_tasks_do_not_mix_their_bytes(tcp_pair: Pair, loop: str) -> None:
    """In the order of their calls; and the loop runs others meanwhile."""
    ticks = 0

    async def main() -> None:
        nonlocal ticks
        async with uringzc.aio.TcpSender(tcp_pair.tx) as tx, anyio.create_task_group() as group:
            for number in range(2):
                group.start_soon(tx.send, bytes([number]) * len(LARGE))
                await turns(1)
            group.start_soon(tx.send_buffers, [b"2" * 3, b"2"])
            await turns(1)
            group.start_soon(tx.shutdown)
            while ticks < 10:
                ticks += 1
                await turns(1)
            reader.thread.start()

    reader = StreamReader(tcp_pair.rx)
    run(loop, main)
    got = reader.end()
    assert ticks == 10
    assert got == b"".join(bytes([number]) * len(LARGE) for number in range(2)) + b"2222"


@only_io_uring
@each_loop
def test_a_call_that_is_cancelled_has_sent_a_beginning(tcp_pair: Pair, loop: str) -> None:
    """`stats.nbytes` says how much; one that waits for its turn has sent nothing."""

    async def main() -> None:
        async with uringzc.aio.TcpSender(tcp_pair.tx) as tx, anyio.create_task_group() as group:
            first, second = anyio.CancelScope(), anyio.CancelScope()

            async def send(scope: anyio.CancelScope, data: bytes) -> None:
                with scope:
                    await tx.send(data)
                begun.append(tx.stats.nbytes)

            group.start_soon(send, first, b"1" * len(LARGE))
            await turns()
            group.start_soon(send, second, b"2" * len(LARGE))
            group.start_soon(tx.send, b"3")
            await turns()
            second.cancel()
            first.cancel()
            await turns()
            assert begun[0] == begun[1]
            reader.thread.start()

    begun: list[int] = []
    reader = StreamReader(tcp_pair.rx)
    run(loop, main)
    tcp_pair.tx.shutdown(socket.SHUT_WR)
    got = reader.end()
    assert 0 < begun[0] < len(LARGE)
    assert got == b"1" * begun[0] + b"3"


@each_loop
def test_calls_that_are_cancelled_anywhere(tcp_pair: Pair, loop: str) -> None:
    """The stream is what `stats.nbytes` says after each call, in its order."""
    expected = bytearray()
    cancelled = 0
    tcp_pair.tx.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)

    async def main() -> None:
        nonlocal cancelled
        rng = random.Random(1)
        async with uringzc.aio.TcpSender(tcp_pair.tx) as tx:
            for number in range(200):
                data = bytes([number % 256]) * rng.choice([10, 30_000, 300_000])
                before = tx.stats.nbytes
                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as group:
                        group.start_soon(cancel, scope, rng.randrange(4))
                        await (tx.send(data) if number % 2 else tx.send_buffers([data[:9], data[9:]]))
                        group.cancel_scope.cancel()
                cancelled += scope.cancelled_caught
                took = tx.stats.nbytes - before
                assert took <= len(data)
                assert scope.cancelled_caught or took == len(data)
                expected.extend(data[:took])

    async def cancel(scope: anyio.CancelScope, after: int) -> None:
        await turns(after)
        scope.cancel()

    with StreamReader(tcp_pair.rx) as reader:
        run(loop, main)
        tcp_pair.tx.shutdown(socket.SHUT_WR)
        assert reader.end() == expected
    assert cancelled


@each_loop
def test_a_peer_that_is_gone(tcp_pair: Pair, loop: str) -> None:
    """The error counts the bytes of the whole call, also of those that went before it waited."""

    async def main() -> None:
        async with uringzc.aio.TcpSender(tcp_pair.tx) as tx:
            async with anyio.create_task_group() as group:
                group.start_soon(close_soon)
                with pytest.raises(SendError) as caught:
                    await tx.send(LARGE)
            error = caught.value
            assert isinstance(error, (BrokenPipeError, ConnectionResetError))
            assert error.size == len(LARGE)
            assert 0 < error.accepted == error.total == tx.stats.nbytes

    async def close_soon() -> None:
        await turns()
        tcp_pair.rx.close()

    run(loop, main)


@only_io_uring
@each_loop
def test_what_is_no_buffer(tcp_pair: Pair, loop: str) -> None:
    async def main() -> None:
        async with uringzc.aio.TcpSender(tcp_pair.tx) as tx:
            for wrong, kind in (("text", TypeError), (memoryview(b"gap" * 9)[::2], BufferError)):
                no_buffer: Any = wrong
                with pytest.raises(kind):
                    await tx.send(no_buffer)
                with pytest.raises(kind):
                    await tx.send_buffers([b"x", no_buffer])
            assert tx.stats.nbytes == 0
        with pytest.raises(ClosedError):
            await tx.send(b"x")

    run(loop, main)


@only_io_uring
@each_loop
def test_those_that_wait_for_a_sender_that_is_closed(tcp_pair: Pair, loop: str) -> None:
    found: list[type] = []

    async def main() -> None:
        async with anyio.create_task_group() as group, uringzc.aio.TcpSender(tcp_pair.tx) as tx:

            async def send(data: bytes) -> None:
                try:
                    await tx.send(data)
                except ClosedError as error:
                    found.append(type(error))

            for _ in range(3):
                group.start_soon(send, LARGE)
            await turns()
            tcp_pair.rx.close()  # nothing is held any more

    run(loop, main)
    assert found == [ClosedError] * 3


@zero_copy_engines
@each_loop
@pytest.mark.parametrize("shared", [False, True])
def test_drain_waits_for_the_acknowledgement(box: testing.Hold, loop: str, shared: bool) -> None:
    """And uses no processor meanwhile, though the socket is writable; with a shared scheduler, little."""
    data = LARGE[:100_000]

    async def main(sock: socket.socket, scheduler: Scheduler | None) -> None:
        async with uringzc.aio.TcpSender(sock, zero_copy="always", scheduler=scheduler) as tx:
            with stopped(box):
                await tx.send(data)
                polls = count_calls(tx._waiting, "settle")
                with pytest.raises(
                    TimeoutError, match=r"drain is not done after 0\.1 s: 1 request is in flight"
                ):
                    await tx.drain(0.1)
                assert shared or len(polls) < 20  # TCP's own timers wake it; else it would be thousands
            await tx.drain()
            assert tx.stats.in_flight == 0

    with tcp_connection(box) as (tx, rx):
        if shared:
            with Scheduler() as scheduler:
                run(loop, main, tx, scheduler)
        else:
            run(loop, main, tx, None)
        assert receive_exactly(rx, len(data)) == data


def count_calls(owner: Any, name: str) -> list[None]:
    calls: list[None] = []
    method = getattr(owner, name)

    def counted() -> Any:
        calls.append(None)
        return method()

    setattr(owner, name, counted)
    return calls


@only_io_uring
def test_another_thread_and_another_loop_are_refused(tcp_pair: Pair) -> None:
    async def refused(kind: type[Exception]) -> None:
        for call in (lambda: kept[0].send(b"x"), kept[0].shutdown, kept[0].drain, kept[0].close):
            with pytest.raises(kind):
                await call()

    async def main() -> None:
        kept.append(await uringzc.aio.TcpSender(tcp_pair.tx).__aenter__())
        await kept[0].send(b"mine")
        in_thread(lambda: asyncio.run(refused(WrongThreadError)))

    kept: list[uringzc.aio.TcpSender] = []
    run("asyncio", main)
    run("trio", refused, RuntimeError)
    kept[0]._sender.close()
    assert receive_exactly(tcp_pair.rx, 4) == b"mine"


@each_loop
def test_beside_a_reader_of_the_loop(tcp_pair: Pair, loop: str) -> None:
    """The socket is anyio's, or asyncio's, for receiving: both sides echo."""

    async def main() -> None:
        tcp_pair.tx.setblocking(False)
        async with uringzc.aio.TcpSender(tcp_pair.tx) as tx, anyio.create_task_group() as group:
            group.start_soon(tx.send, LARGE)
            got = 0
            while got < 1000:
                await anyio.wait_readable(tcp_pair.tx)
                got += len(tcp_pair.tx.recv(100))
            reader.thread.start()

    tcp_pair.rx.sendall(b"x" * 1000)
    reader = StreamReader(tcp_pair.rx)
    run(loop, main)
    tcp_pair.tx.shutdown(socket.SHUT_WR)
    assert reader.end() == LARGE
