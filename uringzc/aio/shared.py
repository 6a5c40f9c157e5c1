"""What the transports of one event loop share: an engine, with its arena."""

import asyncio
import weakref
from typing import Protocol

from uringzc.engines import lifetime
from uringzc.errors import WrongThreadError
from uringzc.scheduler import Scheduler


class Member(Protocol):
    """What it needs of a transport."""

    def flush(self) -> object:
        """Sends what waits, without waiting."""

    def end(self) -> None:
        """The loop is being closed: sends what waits, without waiting, and ends the sender."""


class Shared:
    """One for each loop. Belongs to the loop's thread."""

    def __init__(self, kept: bool) -> None:
        self._kept = kept
        self._scheduler: Scheduler | None = None
        self._members: weakref.WeakSet[Member] = weakref.WeakSet()

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> "Shared":
        """The loop's. Where nothing calls end(), it has an engine only while it has transports."""
        found = _all.get(loop)
        if found is None:
            found = _all[loop] = cls(kept=getattr(loop, "ends_engine", False))
        return found

    @staticmethod
    def end(loop: asyncio.AbstractEventLoop) -> None:
        """The loop is being closed. What the kernel still holds is parked."""
        found = _all.pop(loop, None)
        if found is not None:
            found._end()

    def scheduler(self) -> Scheduler:
        """The one of all transports; made at the first call. OSError where no engine can be made.

        It belongs to the thread of that call.
        """
        if self._scheduler is None:
            self._scheduler = Scheduler(completions="none", max_inflight=1024)
            self._scheduler._engine.claim()
        return self._scheduler

    def check_thread(self) -> None:
        """WrongThreadError in another thread than the loop's."""
        if self._scheduler is not None and not self._scheduler._engine.is_owner():
            raise WrongThreadError(
                "a transport belongs to the thread of its event loop: in another one, call "
                "loop.call_soon_threadsafe(transport.sendto, data, addr). Nothing was sent"
            )

    def add(self, member: Member) -> None:
        """A new transport. It is not kept."""
        self._members.add(member)

    def remove(self, member: Member) -> None:
        """A transport has ended."""
        self._members.discard(member)
        self.end_if_unused()

    def end_if_unused(self) -> None:
        """Ends the engine, if there is no transport and the loop would not."""
        if self._scheduler is not None and not self._kept and not self._members:
            self._end_engine(timeout=0.0)

    def flush(self) -> None:
        """Sends what waits in any transport."""
        for member in list(self._members):
            member.flush()

    def _end(self) -> None:
        for member in list(self._members):
            member.end()
        self._end_engine(timeout=0.1)

    def _end_engine(self, timeout: float) -> None:
        if self._scheduler is not None:
            lifetime.close(self._scheduler._engine, timeout, quiet=True)  # what the kernel holds is parked
            self._scheduler = None


_all: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Shared] = weakref.WeakKeyDictionary()
