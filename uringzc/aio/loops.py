"""What the awaitable senders need of an event loop: of asyncio's (uvloop's too), or of trio.

``running_loop()`` finds out which one runs. trio is imported by whoever runs it, not here.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

from uringzc.aio.turns import Function, end_of_turn

#: seconds: the clock of a loop may be that coarse (uvloop's), and its timers early by as much
COARSEST = 0.001


class Event(Protocol):
    """asyncio.Event and trio.Event."""

    def set(self) -> object:
        """Wakes those that wait for it."""

    async def wait(self) -> object:
        """Returns when it is set."""


class Loop(Protocol):
    """One running event loop."""

    at_end_of_turn: Callable[[Function], object]  #: see turns.end_of_turn()
    event: Callable[[], Event]
    pause: Callable[[], Awaitable[object]]  #: lets other tasks run
    getaddrinfo: Callable[..., Awaitable[Any]]  #: the socket module's, in another thread

    def runs(self) -> bool:
        """Whether it is the one that runs the caller."""

    def watch(self, fd: int, ready: Callable[[], None], every: float | None) -> Callable[[], None]:
        """Calls `ready` while `fd` is readable, and after each `every` seconds. Returns what ends that."""

    async def wait(self, event: Event, deadline: float | None) -> None:
        """Returns when the event is set, or at the deadline (time.monotonic())."""


class AsyncioLoop:
    """A loop of asyncio, of any kind that has ``add_reader``."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.at_end_of_turn = end_of_turn(loop)
        self.event: Callable[[], Event] = asyncio.Event
        self.pause: Callable[[], Awaitable[object]] = partial(asyncio.sleep, 0)
        self.getaddrinfo: Callable[..., Awaitable[Any]] = loop.getaddrinfo

    def runs(self) -> bool:
        """See Loop."""
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    def watch(self, fd: int, ready: Callable[[], None], every: float | None) -> Callable[[], None]:
        """See Loop."""
        timer: asyncio.TimerHandle | None = None

        def again() -> None:
            nonlocal timer
            if every is not None:
                timer = self._loop.call_later(every, again)
            ready()

        def stop() -> None:
            if timer is not None:
                timer.cancel()
            if not self._loop.is_closed():
                self._loop.remove_reader(fd)

        watch_descriptor(self._loop, fd, ready)
        if every is not None:
            timer = self._loop.call_later(every, again)
        return stop

    async def wait(self, event: Event, deadline: float | None) -> None:
        """See Loop."""
        if deadline is None:
            await event.wait()
            return
        timer = self._loop.call_later(deadline - time.monotonic() + COARSEST, event.set)
        try:
            await event.wait()
        finally:
            timer.cancel()


class TrioLoop:
    """A run of trio."""

    def __init__(self) -> None:
        self._trio = _trio()
        self._token = self._trio.lowlevel.current_trio_token()
        self.at_end_of_turn: Callable[[Function], object] = self._token.run_sync_soon
        self.event: Callable[[], Event] = self._trio.Event
        self.pause: Callable[[], Awaitable[object]] = self._trio.lowlevel.checkpoint
        self.getaddrinfo: Callable[..., Awaitable[Any]] = self._trio.socket.getaddrinfo

    def runs(self) -> bool:
        """See Loop."""
        try:
            return self._trio.lowlevel.current_trio_token() is self._token
        except RuntimeError:
            return False

    def watch(self, fd: int, ready: Callable[[], None], every: float | None) -> Callable[[], None]:
        """See Loop. A system task, since nobody may be awaiting anything."""
        trio = self._trio
        scope = trio.CancelScope()

        async def watching() -> None:
            with scope:
                while not scope.cancel_called:  # by ready(), which may have closed `fd`
                    with trio.move_on_after(float("inf") if every is None else every):
                        await trio.lowlevel.wait_readable(fd)
                    if not scope.cancel_called:  # by a task that ran between the event and this
                        ready()

        trio.lowlevel.spawn_system_task(watching)
        stop: Callable[[], None] = scope.cancel
        return stop

    async def wait(self, event: Event, deadline: float | None) -> None:
        """See Loop."""
        with self._trio.move_on_after(float("inf") if deadline is None else deadline - time.monotonic()):
            await event.wait()


def _trio() -> Any:
    return sys.modules["trio"]


def watch_descriptor(loop: asyncio.AbstractEventLoop, fd: Any, ready: Callable[[], object]) -> None:
    """``loop.add_reader``, of a descriptor that nobody else watches.

    Where a program has closed a socket under its transport, the loop keeps the number: ``add_reader`` would
    take a new descriptor with that number for the old one, and the kernel would not watch it.
    """
    loop.remove_reader(fd)
    loop.add_reader(fd, ready)


def running_loop() -> Loop:
    """The one that runs the caller. RuntimeError if there is none."""
    if "trio" in sys.modules:  # first: a trio of guest mode runs inside of an asyncio loop
        try:
            _trio().lowlevel.current_task()
            return TrioLoop()
        except RuntimeError:
            pass
    try:
        return AsyncioLoop(asyncio.get_running_loop())
    except RuntimeError:
        raise RuntimeError("no event loop runs here: neither asyncio's nor trio's") from None
