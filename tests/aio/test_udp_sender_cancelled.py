"""Thousands of calls that are cancelled anywhere: nothing is lost, nothing is sent twice, none is torn."""

import asyncio
import random
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from awaiting import LOOPS, SMALL, run, turns, warm_up

import uringzc.aio
from uringzc import testing
from uringzc.aio.waiting import Turn, Waiting

pytestmark = testing.requires("net_admin")

TASKS, CALLS, PIECES = 6, 150, 60
HEAD = struct.Struct("<HII")


@dataclass
class Call:
    """One call of a task: datagrams that it was to send, and whether it has returned."""

    count: int
    returned: bool = False
    whole: bool = True  # it takes all of them or none


@dataclass
class Ledger:
    """What the tasks did."""

    calls: dict[tuple[int, int], Call] = field(default_factory=dict)

    def check(self, received: list[bytes]) -> None:
        """Each datagram of a call that returned came once; of one that was cancelled none, or the first."""
        came: dict[tuple[int, int], list[int]] = {key: [] for key in self.calls}
        order: dict[int, list[int]] = {task: [] for task in range(TASKS)}
        for data in received:
            task, number, index = HEAD.unpack_from(data)
            came[task, number].append(index)
            order[task].append(number)
        for numbers in order.values():
            assert numbers == sorted(numbers)
        for key, call in self.calls.items():
            expected = call.count if call.returned else 0 if call.whole else len(came[key])
            assert came[key] == [*range(expected)], (key, call)
            assert expected <= call.count


def datagrams(task: int, number: int, count: int, size: int) -> list[bytes]:
    return [HEAD.pack(task, number, index).ljust(size, b"\x5a") for index in range(count)]


async def cancelled_by_task(call: Callable[[], Awaitable[Any]], turns: int) -> bool:
    """Whether it returned, before it was cancelled after so many turns: as asyncio does."""

    async def body() -> None:
        await call()

    task = asyncio.create_task(body())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return False
    return True


async def cancelled_by_scope(call: Callable[[], Awaitable[Any]], turns: int) -> bool:
    """The same, as trio and anyio do: whatever it awaits from then on is cancelled too."""
    returned = False

    async def cancel_later(scope: anyio.CancelScope) -> None:
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        scope.cancel()

    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(cancel_later, scope)
            await call()
            returned = True
            group.cancel_scope.cancel()
    return returned


class Program:
    """Tasks that send through one sender, each call cancelled at some point or not at all."""

    def __init__(self, tx: uringzc.aio.UdpSender, to: Any, ledger: Ledger, once: Callable[..., Any]) -> None:
        self.tx, self.to, self.ledger, self.once = tx, to, ledger, once
        self.group = tx.group([to])

    async def task(self, task: int) -> None:
        random_of_task = random.Random(task)
        for number in range(CALLS):
            await self.call(task, number, random_of_task)

    async def call(self, task: int, number: int, rng: random.Random) -> None:
        how = rng.choice(["send", "send", "group", "lease", "many", "region", "fan_out", "flush", "drain"])
        count = PIECES if how in ("many", "region", "fan_out") else 0 if how in ("flush", "drain") else 1
        size = rng.choice([20, 1400, 20000])
        if how in ("many", "region", "fan_out"):
            size = 1400
        call = self.ledger.calls[task, number] = Call(count, whole=count <= 1)
        data = datagrams(task, number, count, size)
        calling = self.calling(how, data)
        if rng.random() < 0.2:
            await calling()
            call.returned = True
        else:
            call.returned = await self.once(calling, rng.randrange(6))

    def calling(self, how: str, data: list[bytes]) -> Callable[[], Awaitable[Any]]:
        tx = self.tx
        if how == "lease":
            return lambda: self.lease(data[0])
        return {
            "send": lambda: tx.send(data[0]),
            "group": lambda: self.group.send(data[0]),
            "many": lambda: tx.send_many(iter(data)),
            "region": lambda: tx.send_region(b"".join(data), segment=1400),
            "fan_out": lambda: tx.send_many(data, [self.to] * len(data)),
            "flush": tx.flush,
            "drain": tx.drain,
        }[how]

    async def lease(self, data: bytes) -> None:
        with await self.tx.lease(len(data)) as lease:
            lease.view[:] = data
            await lease.send()


async def stop_and_release(net: testing.Hold) -> None:
    """So that calls have to wait, however slow this machine is."""
    try:
        while True:
            net.stop()
            await turns(50)
            net.release()
            await turns(50)
    finally:
        net.release()


def cancellations(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> list[BaseException]:
    """What ends a method of all objects of a class, other than an Exception."""
    ended: list[BaseException] = []
    method = getattr(owner, name)

    async def observed(*args: Any) -> Any:
        try:
            return await method(*args)
        except Exception:
            raise
        except BaseException as error:
            ended.append(error)
            raise

    monkeypatch.setattr(owner, name, observed)
    return ended


@pytest.mark.engines("io_uring", "copy")
@pytest.mark.parametrize(
    ("loop", "by"),
    [*((loop, "scope") for loop in LOOPS), ("asyncio", "task"), ("uringzc", "task"), ("uvloop", "task")],
)
def test_calls_that_are_cancelled_anywhere(
    net: testing.Hold, loop: str, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_sleep = cancellations(monkeypatch, Waiting, "_sleep")
    in_queue = cancellations(monkeypatch, Turn, "__aenter__")
    ledger, taken = Ledger(), 0

    async def main() -> None:
        nonlocal taken
        once = cancelled_by_task if by == "task" else cancelled_by_scope
        with net.socket() as sock:
            async with uringzc.aio.UdpSender(net.address, sock=sock, arena=256 << 10) as tx:
                await warm_up(tx, rx)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
                program = Program(tx, net.address, ledger, once)
                async with anyio.create_task_group() as weather:
                    weather.start_soon(stop_and_release, net)
                    async with anyio.create_task_group() as group:
                        for task in range(TASKS):
                            group.start_soon(program.task, task)
                    weather.cancel_scope.cancel()
                await tx.drain()
                taken = tx.stats.datagrams

    with testing.receiver(sock=net.receiver_socket()) as rx:
        run(loop, main)
        received = rx.wait(taken)[1:]
    assert len(received) == taken - 1
    ledger.check(received)
    returned = sum(call.returned for call in ledger.calls.values())
    assert 100 < returned < len(ledger.calls)
    assert in_sleep  # some of them while they waited for the descriptor, hundreds on a fast machine
    assert in_queue  # and for their turn


@pytest.mark.engines
def test_control_what_is_lost_torn_doubled_or_swapped_is_found() -> None:
    ledger = Ledger({(0, 0): Call(2, True, False), (0, 1): Call(1), (0, 2): Call(3, False, False)})
    first, cancelled, torn = (datagrams(0, number, 3, 20) for number in range(3))
    ledger.check([*first[:2], *torn[:2]])
    for wrong in (
        [first[0], *torn[:1]],
        [*first[:2], first[1]],
        [first[1], first[0]],
        [*first[:2], cancelled[0]],
        [*first[:2], torn[1]],
        [torn[0], *first[:2]],
    ):
        with pytest.raises(AssertionError):
            ledger.check(wrong)
