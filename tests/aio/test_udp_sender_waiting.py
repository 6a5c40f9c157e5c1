"""Tasks that wait for a UdpSender: for room in the socket, for memory, for their turn, and for its end."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
from awaiting import SMALL, each_loop, fill, numbered, run, turns, warm_up
from marks import only_io_uring, zero_copy_engines
from traffic import (
    enlarge_sndbuf,
    is_readable,
    stopped,
    tcp_connection,
    unsent_bytes,
    wait_readable,
    wait_until,
)

import uringzc.aio
from uringzc import ClosedError, Scheduler, SendError, testing

pytestmark = testing.requires("net_admin")


@asynccontextmanager
async def small(
    net: testing.Hold, rx: testing.Receiver, **options: Any
) -> AsyncIterator[uringzc.aio.UdpSender]:
    """A sender whose socket is soon full, and whose destination is known."""
    with net.socket() as sock:
        async with uringzc.aio.UdpSender(net.address, sock=sock, **{"zero_copy": "never", **options}) as tx:
            await warm_up(tx, rx)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
            yield tx


class Ended:
    """Tasks, and in what order they ended, with what."""

    def __init__(self, group: Any) -> None:
        self.group = group
        self.names: list[object] = []
        self.errors: list[Exception] = []

    def start(self, name: object, call: Callable[..., Any], *args: Any) -> anyio.CancelScope:
        scope = anyio.CancelScope()

        async def task() -> None:
            with scope:
                try:
                    await call(*args)
                except Exception as error:
                    self.errors.append(error)
                self.names.append(name)

        self.group.start_soon(task)
        return scope


@each_loop
def test_a_full_socket_suspends_the_task_and_no_other(net: testing.Hold, loop: str) -> None:
    """All arrive, in order, and a task that counts goes on meanwhile."""
    count, ticks = 3000, 0

    async def release_later() -> None:
        nonlocal ticks
        for _ in range(50):
            ticks += 1
            await anyio.sleep(0.001)
        net.release()

    async def main() -> None:
        async with small(net, rx) as tx, anyio.create_task_group() as group:
            net.stop()
            group.start_soon(release_later)
            for number in range(count):
                await tx.send(numbered(number))
            assert ticks == 50

    with testing.receiver(sock=net.receiver_socket()) as rx:
        run(loop, main)
        assert rx.wait(count + 1)[1:] == [*map(numbered, range(count))]


@only_io_uring
@each_loop
def test_tasks_that_wait_go_on_in_their_order(net: testing.Hold, loop: str) -> None:
    """Of senders of all kinds; each one's datagrams are together."""

    async def main() -> None:
        async with small(net, rx) as tx, anyio.create_task_group() as group:
            ended = Ended(group)
            net.stop()
            first = fill(tx)
            sent.append(first)
            members = tx.group([net.address])
            calls: list[tuple[Callable[..., Any], Any]] = [
                (tx.send, b"0"),
                (tx.send_many, iter([b"1", b"2"])),
                (members.send, b"3"),
                (members.send_many, [b"4", b"5"]),
                (tx.send_region, b"6"),
                (tx.send, b"7"),
            ]
            for name, (call, data) in enumerate(calls):
                ended.start(name, call, data)
                await turns(1)
            await turns()
            assert ended.names == []
            net.release()
            while len(ended.names) < len(calls):
                await anyio.sleep(0.001)
            assert ended.names == [*range(len(calls))]

    sent: list[int] = []
    with testing.receiver(sock=net.receiver_socket()) as rx:
        run(loop, main)
        got = rx.wait(1 + sent[0] + 8)[1:]
        assert got == [*map(numbered, range(sent[0])), *(b"%d" % n for n in range(8))]


@only_io_uring
@each_loop
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_cancelled_task_swallows_no_wake_up(net: testing.Hold, loop: str, which: int) -> None:
    """Neither of the one that waits for room, nor of one that waits for its turn."""

    async def main() -> None:
        async with small(net, rx) as tx, anyio.create_task_group() as group:
            ended = Ended(group)
            net.stop()
            sent.append(fill(tx))
            scopes = []
            for name in range(3):
                scopes.append(ended.start(name, tx.send, b"%d" % name))
                await turns(1)
            await turns()
            taken = tx.stats.datagrams
            scopes[which].cancel()
            await turns()
            assert tx.stats.datagrams == taken
            assert ended.names == []
            net.release()
            while len(ended.names) < 2:
                await anyio.sleep(0.001)

    sent: list[int] = []
    with testing.receiver(sock=net.receiver_socket()) as rx:
        run(loop, main)
        rest = [b"%d" % name for name in range(3) if name != which]
        assert rx.wait(1 + sent[0] + 2)[1 + sent[0] :] == rest


@only_io_uring
@each_loop
def test_those_that_wait_for_a_sender_that_is_closed(net: testing.Hold, loop: str) -> None:
    """They get ClosedError, and what was taken before is sent."""

    async def main() -> None:
        async with anyio.create_task_group() as group, small(net, rx) as tx:
            ended = Ended(group)
            net.stop()
            sent.append(fill(tx))
            for name in range(3):
                ended.start(name, tx.send, b"never")
                await turns(1)
            ended.start("drain", tx.drain)
            await turns()
            ended.start("close", tx.close)
            await turns()
            assert tx.closed
            assert sorted(map(str, ended.names)) == ["0", "1", "2", "drain"]
            assert {type(error) for error in ended.errors} == {ClosedError}
            for call in (lambda: tx.send(b"x"), tx.flush, tx.drain, lambda: tx.send_many([b"x"])):
                with pytest.raises(ClosedError):
                    await call()
            net.release()

    sent: list[int] = []
    with testing.receiver(sock=net.receiver_socket()) as rx:
        run(loop, main)
        assert rx.wait(1 + sent[0])[1:] == [*map(numbered, range(sent[0]))]


@each_loop
def test_what_finds_no_room_at_the_end_of_the_turn_leaves_later(net: testing.Hold, loop: str) -> None:
    """Without anybody who awaits it."""

    async def main() -> None:
        async with small(net, rx) as tx:
            net.stop()
            sent.append(fill(tx))
            await turns()
            assert tx.stats.waiting > 0
            net.release()
            while tx.stats.waiting:
                await anyio.sleep(0.001)
            rx.wait(1 + sent[0])

    sent: list[int] = []
    with testing.receiver(sock=net.receiver_socket()) as rx:
        run(loop, main)


@each_loop
def test_a_send_that_finds_room_ends_no_flush_that_waits(net: testing.Hold, loop: str) -> None:
    """What nobody awaits leaves all the same."""

    async def main() -> None:
        async with small(net, rx) as tx:
            net.stop()
            sent = fill(tx)
            await turns()
            async with anyio.create_task_group() as group:
                group.start_soon(tx.send_many, [b"more"] * 10)
                await turns()
                net.release()
            while tx.stats.waiting:
                await anyio.sleep(0.001)
            rx.wait(1 + sent + 10)

    with testing.receiver(sock=net.receiver_socket()) as rx:
        run(loop, main)


@zero_copy_engines
@each_loop
def test_drain_waits_for_memory_while_others_send(net: testing.Hold, loop: str) -> None:
    async def main() -> None:
        async with small(net, rx, zero_copy="always") as tx, anyio.create_task_group() as group:
            ended = Ended(group)
            net.stop()
            await tx.send(numbered(1))
            with pytest.raises(
                TimeoutError, match=r"drain is not done after 0\.01 s: 1 request is in flight"
            ):
                await tx.drain(0.01)
            ended.start("drain", tx.drain)
            await turns()
            await tx.send(numbered(2))  # takes what drain would
            await turns()
            assert ended.names == []
            net.release()
            while not ended.names:
                await tx.send(b"")
                await anyio.sleep(0.001)
            assert ended.errors == []

    with testing.receiver(sock=net.receiver_socket()) as rx:
        run(loop, main)


@zero_copy_engines
@each_loop
@pytest.mark.parametrize("how", ["drain", "a lease that is refused"])
def test_a_call_that_takes_what_drain_waits_for_wakes_it(net: testing.Hold, loop: str, how: str) -> None:
    """Before the loop has seen the event."""

    async def main() -> None:
        options: dict[str, Any] = {"zero_copy": "always", "arena": 256 << 10}
        async with small(net, rx, **options) as tx, anyio.create_task_group() as group:
            ended = Ended(group)
            leases = [await tx.lease(60000) for _ in range(4)]  # all of the arena
            net.stop()
            await tx.send_region(numbered(1))
            ended.start("drain", tx.drain)
            await turns()
            assert tx.stats.in_flight == 1
            net.release()
            wait_readable(tx._sender._engine.fileno())
            if how == "drain":
                await tx.drain()
            else:
                with pytest.raises(BlockingIOError, match="leases"):
                    await tx.lease(60000)
            assert tx.stats.in_flight == 0
            await turns()
            assert ended.names == ["drain"]
            for lease in leases:
                lease.release()

    with testing.receiver(sock=net.receiver_socket()) as rx:
        run(loop, main)


@each_loop
def test_a_flush_that_takes_the_event_of_a_send_wakes_it(net: testing.Hold, loop: str) -> None:
    """Before the loop has seen the event."""

    async def main() -> None:
        async with small(net, rx) as tx, anyio.create_task_group() as group:
            ended = Ended(group)
            net.stop()
            sent.append(fill(tx))
            ended.start("send", tx.send, b"last")
            await turns()
            net.release()
            while tx.stats.waiting:
                wait_readable(tx._sender.fileno())
                with suppress(BlockingIOError):
                    tx._waiting._try(tx._sender.flush)
            assert not is_readable(tx._sender.fileno())
            await turns()
            assert ended.names == ["send"]

    sent: list[int] = []
    with testing.receiver(sock=net.receiver_socket()) as rx:
        run(loop, main)
        assert rx.wait(2 + sent[0])[-1] == b"last"


@zero_copy_engines
@each_loop
def test_a_drain_that_takes_the_event_of_a_send_wakes_it(net: testing.Hold, loop: str) -> None:
    """It has flushed, and then memory was missing: that is no event any more for the send."""

    async def main() -> None:
        async with small(net, rx, zero_copy="always") as tx, anyio.create_task_group() as group:
            ended = Ended(group)
            net.stop()
            fill(tx)
            ended.start("send", tx.send, b"last")
            await turns()
            net.release()
            assert wait_until(lambda: not unsent_bytes(tx.sock))
            net.stop()
            enlarge_sndbuf(tx.sock)
            with pytest.raises(BlockingIOError, match="in flight"):
                tx._waiting.settle()
            assert not is_readable(tx._sender.fileno())
            await turns()
            assert ended.names == ["send"]
            net.release()

    with testing.receiver(sock=net.receiver_socket()) as rx:
        run(loop, main)


@zero_copy_engines
@each_loop
def test_drain_where_others_reap(net: testing.Hold, loop: str) -> None:
    """A scheduler that is shared: what one sender reaps is an event for no other."""

    async def main() -> None:
        with Scheduler() as shared:
            async with (
                small(net, rx, zero_copy="always", scheduler=shared) as tx,
                small(net, rx, scheduler=shared) as other,
            ):
                async with anyio.create_task_group() as group:
                    ended = Ended(group)
                    net.stop()
                    await tx.send(numbered(1))
                    await tx.flush()
                    ended.start("drain", tx.drain)
                    await turns()
                    assert ended.names == []
                    net.release()
                    while tx._sender._native.in_flight:
                        other._sender._native.poll()
                assert ended.names == ["drain"]

    with testing.receiver(sock=net.receiver_socket()) as rx:
        run(loop, main)


@only_io_uring
@each_loop
def test_a_scheduler_that_is_closed_under_those_that_wait(net: testing.Hold, loop: str) -> None:
    async def main(sock: socket.socket) -> None:
        shared = Scheduler()
        async with (
            anyio.create_task_group() as group,
            uringzc.aio.TcpSender(sock, scheduler=shared, zero_copy="never") as stream,
            small(net, rx, scheduler=shared) as tx,
        ):
            ended = Ended(group)
            net.stop()
            fill(tx)
            ended.start("send", tx.send, b"never")
            ended.start("stream", stream.send, bytes(64 << 20))
            await turns()
            with pytest.raises(SendError, match="could not be sent"):
                shared.close(timeout=0)
            while len(ended.names) < 2:
                await anyio.sleep(0.001)
            assert {type(error) for error in ended.errors} == {ClosedError}
            net.release()

    with testing.receiver(sock=net.receiver_socket()) as rx, tcp_connection(net) as (sock, _):
        run(loop, main, sock)


@zero_copy_engines
@each_loop
def test_a_full_arena_suspends_the_task(net: testing.Hold, loop: str) -> None:
    count = 1000

    async def release_later() -> None:
        await anyio.sleep(0.05)
        net.release()

    async def main() -> None:
        with net.socket() as sock:
            options: dict[str, Any] = {"zero_copy": "always", "arena": 256 << 10}
            async with uringzc.aio.UdpSender(net.address, sock=sock, **options) as tx:
                await warm_up(tx, rx)
                net.stop()
                async with anyio.create_task_group() as group:
                    group.start_soon(release_later)
                    for number in range(count):
                        lease = await tx.lease(1400)
                        lease.view[:] = numbered(number)
                        await lease.send()

    with testing.receiver(sock=net.receiver_socket()) as rx:
        run(loop, main)
        assert rx.wait(count + 1)[1:] == [*map(numbered, range(count))]


@only_io_uring
@each_loop
def test_leases_that_hold_the_whole_arena_are_no_reason_to_wait(net: testing.Hold, loop: str) -> None:
    async def main() -> None:
        async with uringzc.aio.UdpSender(rx.address, arena=256 << 10) as tx:
            leases = [await tx.lease(60000) for _ in range(4)]
            for call in (lambda: tx.lease(60000), lambda: tx.send(b"x" * 10000)):
                with pytest.raises(BlockingIOError, match="leases"):
                    await call()
            leases.pop().release()
            with await tx.lease(60000):
                pass
            for lease in leases:
                lease.release()

    with testing.receiver() as rx:
        run(loop, main)


@each_loop
def test_close_ends_at_its_timeout(net: testing.Hold, loop: str) -> None:
    """What could not be sent is lost, and reported; the loop runs meanwhile."""

    async def main() -> None:
        async with small(net, rx) as tx:
            with stopped(net):
                fill(tx)
                waiting = tx.stats.waiting
                with pytest.raises(uringzc.SendError, match="could not be sent before the sender was closed"):
                    await tx.close(0.01)
            assert tx.stats.lost == waiting

    with testing.receiver(sock=net.receiver_socket()) as rx:
        run(loop, main)


@each_loop
def test_a_cancelled_close_goes_on(net: testing.Hold, loop: str) -> None:
    """What was taken is sent, and the sender ended, without anybody who awaits it."""

    async def main() -> None:
        async with small(net, rx) as tx:
            net.stop()
            sent.append(fill(tx))
            with anyio.CancelScope() as scope:
                scope.cancel()
                await tx.close()
            assert scope.cancelled_caught
            assert tx.closed
            assert not tx._sender.closed
            net.release()
            while not tx._sender.closed:
                await anyio.sleep(0.001)

    sent: list[int] = []
    with testing.receiver(sock=net.receiver_socket()) as rx:
        run(loop, main)
        assert rx.wait(1 + sent[0])[1:] == [*map(numbered, range(sent[0]))]
