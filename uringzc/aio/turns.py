"""The end of a loop's turn: after the callbacks that were ready, before it waits for events."""

import selectors
from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import Any
from weakref import ref

#: what is called; returns whether it may have scheduled callbacks of the loop
Function = Callable[[], object]


class TurnSelector(selectors.DefaultSelector):
    """Calls what was scheduled for the end of a turn before it waits: asyncio calls ``select`` in each."""

    def __init__(self) -> None:
        super().__init__()
        self._scheduled: list[Function] = []

    def at_end_of_turn(self, function: Function) -> None:
        """Calls `function` before the next ``select`` waits; see ``end_of_turn``."""
        if not self._scheduled:  # for once: in all other turns it costs nothing
            vars(self)["select"] = self._end_turn
        self._scheduled.append(function)

    def _end_turn(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        for function in self._scheduled:
            if function():
                timeout = 0  # the loop had decided before how long to wait
        self._scheduled.clear()
        del vars(self)["select"]
        return self.select(timeout)


def end_of_turn(loop: AbstractEventLoop) -> Callable[[Function], object]:
    """What schedules a function for the end of the loop's turn.

    That is before ``select`` on a loop of ``uringzc.aio.EventLoop``, and else ``call_soon``: in the next
    turn, which follows at once, behind what is ready already. The function returns whether it may have
    scheduled callbacks of the loop, and raises nothing.
    """
    schedule: Callable[[Function], object] = getattr(loop, "at_end_of_turn", loop.call_soon)
    return schedule


def weakly(method: Any) -> Callable[..., object]:
    """Calls a method of what may be gone: a plain sender does not keep what refers to it, or to its loop."""
    reference, function = ref(method.__self__), method.__func__  # WeakMethod is slower

    def call(*args: Any) -> object:
        found = reference()
        return None if found is None else function(found, *args)

    return call
