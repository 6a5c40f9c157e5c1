"""The event loops that datagram transports are tested on: stock ones as control, and ours."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import uvloop
from recorder import Recorder

import uringzc.aio

T = TypeVar("T")

LOCAL = ("127.0.0.1", 0)
#: seconds that a test may take, and one that is known to fail there
PATIENCE, SHORT = 20.0, 0.1


@dataclass(frozen=True)
class LoopKind:
    """A loop, and how an endpoint is made on it."""

    name: str
    new_loop: Callable[[], asyncio.AbstractEventLoop]
    engine: str = ""  # of ours
    function: bool = False  # by the plain function, not the loop's method

    @property
    def ours(self) -> bool:
        return bool(self.engine)

    def create(
        self, factory: Callable[[], Any], *args: Any, **options: Any
    ) -> Coroutine[Any, Any, tuple[Any, Any]]:
        """What `create_datagram_endpoint` of the running loop, or of the library, returns."""
        if self.function:
            return uringzc.aio.create_datagram_endpoint(factory, *args, **options)
        return asyncio.get_running_loop().create_datagram_endpoint(factory, *args, **options)


KINDS = (
    LoopKind("asyncio", asyncio.SelectorEventLoop),
    LoopKind("uvloop", uvloop.new_event_loop),
    LoopKind("uringzc", uringzc.aio.new_event_loop, "io_uring"),
    LoopKind("uringzc-msg_zerocopy", uringzc.aio.new_event_loop, "msg_zerocopy"),
    LoopKind("uringzc-uvloop", lambda: uringzc.aio.new_event_loop(uvloop.Loop), "copy"),
    LoopKind("function", asyncio.SelectorEventLoop, "auto", function=True),
)


class Endpoints:
    """Makes endpoints on one kind of loop, runs the test there, and closes what it left open."""

    def __init__(self, kind: LoopKind, patience: float = PATIENCE) -> None:
        self.kind = kind
        self.ours = kind.ours
        self.problems: list[dict[str, Any]] = []  # what the loop's exception handler was called with
        self.before_close: list[Callable[[], object]] = []  # called when the test has ended
        self._patience = patience
        self._transports: list[asyncio.DatagramTransport] = []

    async def open(self, factory: Callable[[], Any] = Recorder, **options: Any) -> tuple[Any, Any]:
        """An endpoint, on loopback if nothing else is said; closed after the test."""
        if not options.keys() & {"sock", "local_addr", "remote_addr", "family"}:
            options["local_addr"] = LOCAL
        transport, protocol = await self.kind.create(factory, **options)
        self._transports.append(transport)
        return transport, protocol

    def new_loop(self) -> asyncio.AbstractEventLoop:
        loop = self.kind.new_loop()
        loop.set_exception_handler(lambda _, context: self.problems.append(context))
        return loop

    def close(self, loop: asyncio.AbstractEventLoop) -> None:
        """Closes what `open` has made, and the loop."""
        try:
            for call in self.before_close:
                call()
            loop.run_until_complete(self._abort())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()

    def run(self, main: Awaitable[T]) -> T:
        """What the coroutine returns; what the loop's exception handler got is an error."""
        loop = self.new_loop()
        try:
            result = loop.run_until_complete(asyncio.wait_for(main, self._patience))
        finally:
            self.close(loop)
        assert self.problems == []
        return result

    def take_problem(self) -> BaseException:
        """The exception of the only problem so far, which is one no more."""
        (context,) = self.problems
        self.problems.clear()
        exception: BaseException = context["exception"]
        return exception

    async def _abort(self) -> None:
        for transport in self._transports:
            if not transport.is_closing():
                transport.abort()
        await turns(3)


async def turns(count: int = 1) -> None:
    """Lets the loop turn so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def settle() -> None:
    """Time for what should not come: ten times what the kernel would need on loopback."""
    for _ in range(5):
        await asyncio.sleep(0.001)


async def read_from(rx: socket.socket, count: int = 1) -> list[tuple[bytes, Any]]:
    """The next datagrams of a socket, with their senders; the loop runs meanwhile."""
    loop = asyncio.get_running_loop()
    found: list[tuple[bytes, Any]] = []
    while len(found) < count:
        try:
            found.append(rx.recvfrom(1 << 16, socket.MSG_DONTWAIT))
        except BlockingIOError:
            readable = asyncio.Event()
            loop.add_reader(rx, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(rx)
    return found


async def read(rx: socket.socket, count: int = 1) -> list[bytes]:
    """The next datagrams of a socket; the loop runs meanwhile."""
    return [data for data, _ in await read_from(rx, count)]


def arrived(rx: socket.socket) -> list[bytes]:
    """What waits in a socket now."""
    found = []
    while True:
        try:
            found.append(rx.recv(1 << 16, socket.MSG_DONTWAIT))
        except BlockingIOError:
            return found


def descriptors() -> dict[int, str]:
    """What this process has open, but for the pipe that uvloop keeps."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing itself
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return {fd: link for fd, link in found.items() if not link.startswith("pipe:")}
