"""Awaitable senders under every event loop, for tests: how one runs, and what its tasks do."""

import asyncio
import warnings
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
import pytest
from anyio.lowlevel import checkpoint

import uringzc.aio
from uringzc import testing

T = TypeVar("T")

LOOPS = ("asyncio", "uvloop", "trio")
#: the test has an argument `loop`, for run()
each_loop = pytest.mark.parametrize("loop", LOOPS)

SIZE = 1400
#: bytes of SO_SNDBUF, which a few hundred datagrams fill
SMALL = 106_496


def run(loop: str, main: Callable[..., Awaitable[T]], *args: Any) -> T:
    """`main(*args)`, to its end. anyio runs the loop, and no anyio is around a task of `main` itself."""
    name = "trio" if loop == "trio" else "asyncio"
    pytest.importorskip(loop)
    options = {"use_uvloop": loop == "uvloop"} if name == "asyncio" else {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="anyio|uvloop")
        return anyio.run(main, *args, backend=name, backend_options=options)


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


def raised_in(backend: str, make: Callable[[], Awaitable[Any]]) -> type | None:
    """What awaiting it in a loop of its own raises."""
    try:
        run(backend, lambda: make())
    except Exception as error:
        return type(error)
    return None


def cancelled_by_asyncio(task: "asyncio.Task[Any]") -> None:
    task.cancel()
