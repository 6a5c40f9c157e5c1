"""Coroutines: the event loop of a program, and tasks, which go on while it makes other calls."""

import asyncio
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import uringzc.aio
from proofs.fuzz import faces
from proofs.fuzz.programs import Step
from proofs.fuzz.requests import Before
from proofs.fuzz.ways import SECONDS, InterruptError

if TYPE_CHECKING:
    from proofs.fuzz.player import Player

IN_TASK = object()  #: the result of a call that goes on


class Tasks:
    """Of one program."""

    def __init__(self, player: "Player") -> None:
        self.player = player
        self.loop: asyncio.AbstractEventLoop | None = None
        self.left: list[tuple[Any, Any]] = []  #: a task, and what is to be done when it has ended
        #: asyncio then loses a callback that it was about to call, and what that refers to
        self._interrupted = any(step.how == "signal" for step in player.program.steps)

    def the_loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of the program."""
        if self.loop is None:
            self.loop = uringzc.aio.new_event_loop()
            self.loop.set_exception_handler(
                lambda _, context: self.player.judge("loop", context.get("exception"))
            )
            if not self._interrupted:
                self.player.seen.append(weakref.ref(self.loop))
        return self.loop

    def run(self, step: Step, coroutine: Any, method: faces.Method, one: Any, before: Before) -> Any:
        """Awaits it, or leaves that to a task."""
        loop = self.the_loop()
        if loop.is_running():
            coroutine.close()
            return None
        task = loop.create_task(coroutine)
        if step.how == "task":
            self.left.append((task, self.player.effects.of_task(method, one, before)))
            return IN_TASK
        try:
            done, _ = loop.run_until_complete(asyncio.wait([task], timeout=SECONDS))
        except InterruptError:  # the task may go on
            self.left.append((task, self.player.effects.of_task(method, one, before)))
            return IN_TASK
        if not done:
            self.player.findings.append(f"hang: {step.do} is awaited for {SECONDS:g} s")
            task.cancel()
            loop.run_until_complete(asyncio.wait([task], timeout=1))
            return None
        return task.result()

    def finish(self) -> None:
        """Of all that are left."""
        if self.left and self.loop is not None:
            _, late = self.loop.run_until_complete(asyncio.wait([t for t, _ in self.left], timeout=SECONDS))
            if late:
                self.player.findings.append(
                    f"hang: {len(late)} tasks do not end: {[str(t.get_coro()) for t in late]}"
                )
            for task, after in self.left:
                if task.done():
                    after(task)
            self.left.clear()

    def end(self) -> None:
        """When every transport has ended, closes the event loop."""
        if self.loop is None:
            return
        deadline = time.monotonic() + (1 if self._interrupted else SECONDS)
        while not all(one._ended for one in self.player.objects["aio.DatagramTransport"]):
            self.turn()
            if time.monotonic() > deadline:
                if not self._interrupted:
                    self.player.findings.append("hang: a transport that was closed does not end")
                break
        self.player.guarded("loop.close", self.loop.close)
        asyncio.set_event_loop(None)

    def turn(self, seconds: float = 0.001) -> None:
        """Runs the event loop, where there is one."""
        if self.loop is not None:
            loop = self.loop
            self.player.guarded("loop", lambda: loop.run_until_complete(asyncio.sleep(seconds)))


async def in_loop(called: Callable[..., Any], positional: list[Any], named: dict[str, Any]) -> Any:
    """What belongs to an event loop is used inside of it."""
    result = called(*positional, **named)
    return await result if asyncio.iscoroutine(result) else result
