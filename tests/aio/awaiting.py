"""Awaitable senders under every event loop, for tests: how one runs, and what its tasks do."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
import pytest
from anyio.lowlevel import checkpoint

import uringzc.aio
from uringzc import testing

T = TypeVar("T")

LOOPS = ("asyncio", "uringzc", "uvloop", "trio")
#: the test has an argument `loop`, for run()
each_loop = pytest.mark.parametrize("loop", LOOPS)

SIZE = 1400
#: bytes of SO_SNDBUF, which a few hundred datagrams fill
SMALL = 106_496


def run(loop: str, main: Callable[..., Awaitable[T]], *args: Any) -> T:
    """`main(*args)`, to its end, in a loop of that kind; anyio's primitives work in each."""
    if loop == "trio":
        return anyio.run(main, *args, backend="trio")
    if loop == "uvloop":
        factory = pytest.importorskip("uvloop").new_event_loop
    else:
        factory = uringzc.aio.new_event_loop if loop == "uringzc" else asyncio.SelectorEventLoop
    return anyio.run(main, *args, backend="asyncio", backend_options={"loop_factory": factory})


async def turns(count: int = 5) -> None:
    """So many turns of the loop: what can run has run."""
    for _ in range(count):
        await checkpoint()


def numbered(number: int, size: int = SIZE) -> bytes:
    """A datagram that no other is like."""
    return number.to_bytes(4, "little").ljust(size, b"\xa5")


def fill(tx: uringzc.aio.UdpSender, first: int = 0) -> int:
    """Datagrams until the sender takes no more, without waiting. The number of the next one."""
    while True:
        try:
            tx._sender.send(numbered(first))
        except BlockingIOError:
            return first
        first += 1


async def warm_up(tx: uringzc.aio.UdpSender, rx: testing.Receiver) -> None:
    """The first datagram, which has arrived: the destination is known from then on."""
    await tx.send(b"warm-up")
    await tx.flush()
    rx.wait(1)
