"""Plays a program: makes arguments, calls, judges what is raised, and keeps account of what is sent."""

import asyncio
import contextlib
import gc
import logging
import os
import random
import signal
import sys
import threading
import time
import traceback
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uringzc
import uringzc.aio
from proofs.fuzz import effects, faces
from proofs.fuzz.ledger import Ledger
from proofs.fuzz.leftovers import Before
from proofs.fuzz.memory import Memories, Memory, still_held
from proofs.fuzz.network import Network
from proofs.fuzz.programs import Program, Step
from proofs.fuzz.things import PlannedError, Things
from uringzc.engines import lifetime

#: what the library may raise, besides what BY_METHOD adds
ALLOWED = (uringzc.UringzcError, OSError, ValueError, TypeError, BufferError, MemoryError, OverflowError)
#: and what it must not, since no program does what they report
NEVER = (uringzc.PoisonedError, uringzc.BufferModifiedError)
BY_METHOD: dict[str, tuple[type[BaseException], ...]] = {
    "Group.remove": (KeyError,),
    "aio.Group.remove": (KeyError,),
    "Batch.__getitem__": (IndexError,),
    "aio.EventLoop.create_datagram_endpoint": (AttributeError,),  # as asyncio's, for what is no socket
}
IN_TASK = object()  # the result of a call that goes on
OBJECTS = 4  # of one class, that a program has at once
_SECONDS = 10.0  # that one call may take


class InterruptError(KeyboardInterrupt):
    """Out of a signal handler."""


class Player:
    """Of one program. `findings` is empty if all is well; `calls` counts calls and parameters."""

    def __init__(self, network: Network, program: Program, first: int) -> None:
        self.network = network
        self.program = program
        self.rnd = random.Random(program.seed)
        self.findings: list[str] = []
        self.calls: Counter[str] = Counter()
        self.memories = Memories(first)
        self.ledger = Ledger()
        self.objects: dict[str, list[Any]] = {face: [] for face in faces.CLASSES}
        self.regions: weakref.WeakKeyDictionary[Any, Memory] = weakref.WeakKeyDictionary()
        self.seen: list[weakref.ref[Any]] = []
        self.tasks: list[tuple[Any, Any]] = []
        self.inside: list[Any] = []  #: of the last iterator that was made
        self.things = Things(self)
        self.effects = effects.Effects(self)
        self.loop: asyncio.AbstractEventLoop | None = None
        self.depth = 0
        self.forked = False
        self.interruptible = False  #: inside a call of the library

    # -- a whole program

    def play(self) -> list[str]:
        """The findings."""
        os.environ["URINGZC_ENGINE"] = self.program.engine
        self.network.clear()
        before = Before()
        with self._listening(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for step in self.program.steps:
                self.step(step)
            self.end()
            self.forget()  # what was not closed sends the rest
        self.network.drain_streams(5)
        if not self.network.settle(10):
            self.findings.append("hang: the network does not deliver")
        self.findings += self.ledger.compare(self.network, self.memories.first)
        self.ledger = Ledger()
        self.network.end_connections()
        seen, self.seen = self.seen, []
        self.findings += before.compare(seen)
        self.findings += [f"leak: {one}" for one in still_held(self.memories.let_go())]
        return self.findings

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """To what nobody catches, and what is logged."""
        handler = _Handler(self)
        logger = logging.getLogger("uringzc")
        before = sys.unraisablehook, threading.excepthook
        sys.unraisablehook = lambda found: self.judge("unraisable", found.exc_value, str(found.object))
        threading.excepthook = lambda found: self.judge("in a thread", found.exc_value)
        logger.addHandler(handler)
        logging.getLogger("asyncio").addHandler(handler)
        try:
            yield
            gc.collect()
        finally:
            sys.unraisablehook, threading.excepthook = before
            logger.removeHandler(handler)
            logging.getLogger("asyncio").removeHandler(handler)

    def end(self) -> None:
        """Closes what is left, or drops it."""
        self.finish_tasks()
        orderly = self.rnd.random() < 0.7
        for face in reversed(list(self.objects)):
            for one in self.objects[face]:
                if orderly or face.startswith("aio."):
                    self.close(face, one)
                elif any(step.do == "world.stop" for step in self.program.steps):
                    self.effects.dropped(one)  # what waits for a network that is stopped may be lost then
        self.effects.at_the_end()
        if self.loop is not None:
            deadline = time.monotonic() + _SECONDS
            while not all(one._ended for one in self.objects["aio.DatagramTransport"]):
                self.guarded("loop", lambda: self.loop and self.loop.run_until_complete(asyncio.sleep(0.001)))
                if time.monotonic() > deadline:
                    self.findings.append("hang: a transport that was closed does not end")
                    break
            self.guarded("loop.close", self.loop.close)
            asyncio.set_event_loop(None)

    def close(self, face: str, one: Any) -> None:
        """One of its objects."""
        if hasattr(one, "close") and not isinstance(one, asyncio.AbstractEventLoop):
            self.call(Step(f"{face}.close"), one, {})

    def forget(self) -> None:
        """Nothing of the program is referred to any more; its sockets are closed behind what it has sent."""
        self.effects.forget()
        for memory in self.memories.all:
            memory.holds.clear()  # which have notifiers, and those their engine
        self.objects.clear()
        self.regions.clear()
        self.tasks.clear()
        self.inside = []
        self.loop = None
        self.effects = None  # type: ignore[assignment]
        gc.collect()
        lifetime.release_parked()
        self.things.close()
        self.things = None  # type: ignore[assignment]

    # -- steps

    def step(self, step: Step) -> None:
        """One step of the program itself."""
        self.memories.of.clear()
        if step.do.startswith("world."):
            getattr(self, f"_{step.do[6:]}")(step)
        elif step.how == "thread":
            self.in_thread(lambda: self.play_step(step))
        elif step.how == "fork":
            self.in_child(step)
        elif step.how == "signal":
            self.interrupted(lambda: self.play_step(step))
        else:
            self.play_step(step)

    def play_step(self, step: Step) -> None:
        """Makes the arguments, and calls."""
        method = faces.methods().get(step.do)
        if method is None:
            return  # of another version of the library
        try:
            self._play_step(step, method)
        except InterruptError:
            raise
        except Exception as error:
            text = "".join(traceback.format_exception(error)[-4:])
            self.findings.append(f"harness: {step.do}: {type(error).__name__}: {error}\n{text}")

    def _play_step(self, step: Step, method: faces.Method) -> None:
        target: list[Any] = []
        try:
            one = None if method.name == "(" else self.pick(method.face, step.on)
            if one is None and method.name != "(":
                return  # none can be made, of this engine for example
            if one is not None:
                target.append(one)
            given = {name: self.things.make(value, target) for name, value in step.give.items()}
        except (OSError, ValueError) as error:  # of a closed region, no socket
            self.calls[f"not made: {type(error).__name__}"] += 1
            return
        result = self.call(step, one, given)
        if method.name == "(" and result is not None:
            target.append(result)

    def pick(self, face: str, index: int) -> Any:
        """An object; a new one where there is none."""
        if face == "Slots":
            return getattr(self.pick("Scheduler", index), "slots", None)
        if face == "aio.EventLoop":
            return self.the_loop()
        if not self.objects[face] and self.depth < 5 and not self.forked:
            self.depth += 1
            try:
                self.effects.make_one(face)
            finally:
                self.depth -= 1
        return self.objects[face][index % len(self.objects[face])] if self.objects[face] else None

    def add(self, face: str, one: Any) -> Any:
        """A new object of the program. The oldest of many is dropped."""
        if face != "Slots":  # which are kept, to look at their numbers at the end
            with contextlib.suppress(TypeError):
                self.seen.append(weakref.ref(one))
        some = self.objects[face]
        some.append(one)
        if len(some) > OBJECTS:
            del some[0]
        return one

    def call(self, step: Step, one: Any, given: dict[str, Any]) -> Any:
        """Calls, counts, judges, and keeps account. None if it raised."""
        method = faces.methods()[step.do]
        self.calls[step.do] += 1
        for name in given:
            self.calls[f"{step.do} {name}"] += 1
        before = self.effects.before(method, one, given)
        positional = [
            given[name] for name in method.parameters if name in method.positional and name in given
        ]
        named = {name: value for name, value in given.items() if name not in method.positional}
        if method.name == "__exit__":
            positional = [None, None, None]
        result, error = None, None
        self.interruptible = True
        try:
            if method.is_property:
                result = getattr(one, method.name)
            elif method.name == "(":
                result = faces.CLASSES[method.face](*positional, **named)
            else:
                called = getattr(one, method.name)
                result = (
                    in_loop(called, positional, named)
                    if method.face[:4] == "aio."
                    else called(*positional, **named)
                )
            if asyncio.iscoroutine(result):
                result = self.run(step, result, method, one, before)
                if result is IN_TASK:
                    return None
            self.interruptible = False
            self.calls["calls that returned"] += 1
        except BaseException as raised:
            self.interruptible = False
            error = raised
            self.calls["calls that raised"] += 1
            self.judge(step.do, raised)
            if isinstance(error, InterruptError) and method.name in ("close", "__exit__"):
                self.effects.dropped(one)  # what still waited is lost
            error.__traceback__ = None
        self.effects.after(method, one, given, result, error, before)
        return result

    def inner_call(self, one: Any, what: str) -> None:
        """Of a callback: on the object that calls it."""
        if self.depth > 3:
            return
        self.depth += 1
        try:
            face = next((face for face, kind in faces.CLASSES.items() if type(one) is kind), "")
            name = f"{face}.{what}"
            if name in faces.methods() and not face.startswith("aio."):
                give = (
                    {"data": self.memories.make("bytes", 100)} if what == "send" and "Sender" in face else {}
                )
                self.call(Step(name), one, give)
        finally:
            self.depth -= 1

    def judge(self, where: str, error: BaseException | None, about: str = "") -> None:
        """A finding, if nobody is told to expect that."""
        if error is None or isinstance(error, (PlannedError, InterruptError, asyncio.CancelledError)):
            return
        asynchronous = where.startswith(("aio.", "loop", "task"))
        allowed = (*ALLOWED, *BY_METHOD.get(where, ()), *((RuntimeError,) if asynchronous else ()))
        if isinstance(error, allowed) and not isinstance(error, NEVER) and where != "unraisable":
            return
        if isinstance(error, RuntimeError) and isinstance(error.__cause__, PlannedError):
            return
        text = "".join(traceback.format_exception(error)[-6:])
        self.findings.append(f"exception: {where}: {type(error).__name__}: {error} {about}\n{text}")

    def guarded(self, where: str, call: Callable[[], Any]) -> Any:
        """What it returns; what it raises is judged."""
        try:
            return call()
        except BaseException as error:
            self.judge(where, error)
            return None

    # -- how else a call is made

    def in_thread(self, call: Callable[[], object]) -> None:
        """In a thread of its own, which ends."""
        thread = threading.Thread(target=lambda: self.guarded("in a thread", call), daemon=True)
        thread.start()
        thread.join(_SECONDS)
        if thread.is_alive():
            self.findings.append("hang: a call in another thread does not return")

    def interrupted(self, call: Callable[[], object]) -> None:
        """An exception comes out of a signal handler, at any moment of it."""
        armed = True

        def handler(number: int, frame: FrameType | None) -> None:
            nonlocal armed
            if armed and self.interruptible:
                armed = False
                raise InterruptError

        before = signal.signal(signal.SIGALRM, handler)
        gc.disable()  # an exception in a callback of the collector would be lost there
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, self.rnd.choice([0.00002, 0.0001, 0.0004, 0.002]))
                call()
            finally:
                armed = False
        except InterruptError:
            self.effects.uncertain()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            gc.enable()

    def in_child(self, step: Step) -> None:
        """In a child of fork(), where every object is the parent's; what is sent there must not arrive."""
        sys.stdout.flush()
        if (pid := os.fork()) == 0:
            code = 1
            try:
                self.findings.clear()
                self.forked = True
                signal.alarm(int(_SECONDS))
                for face, some in self.objects.items():
                    for one in some if face in ("Scheduler", "Ring", "UdpSender", "TcpSender") else ():
                        self.close(face, one)
                if not step.do.endswith("()"):  # a new one may be made, and used
                    self.play_step(step)
                self.objects.clear()
                gc.collect()
                code = 3 if self.findings else 0
                print(*self.findings, sep="\n", file=sys.stderr, flush=True)
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        if status:
            self.findings.append(f"fork: the child ended with status {status:#x}; see what it wrote")
        self.effects.forked(step)

    # -- coroutines

    def the_loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of the program."""
        if self.loop is None:
            self.loop = uringzc.aio.new_event_loop()
            self.loop.set_exception_handler(lambda _, context: self.judge("loop", context.get("exception")))
            if not any(step.how == "signal" for step in self.program.steps):  # which leave asyncio in pieces
                self.seen.append(weakref.ref(self.loop))
        return self.loop

    def run(self, step: Step, coroutine: Any, method: faces.Method, one: Any, before: effects.Before) -> Any:
        """Awaits it, or leaves that to a task."""
        loop = self.the_loop()
        if loop.is_running():
            coroutine.close()
            return None
        task = loop.create_task(coroutine)
        if step.how == "task":
            self.tasks.append((task, self.effects.of_task(method, one, before)))
            return IN_TASK
        try:
            done, _ = loop.run_until_complete(asyncio.wait([task], timeout=_SECONDS))
        except InterruptError:  # the task may go on
            self.tasks.append((task, self.effects.of_task(method, one, before)))
            return IN_TASK
        if not done:
            self.findings.append(f"hang: {step.do} is awaited for {_SECONDS:g} s")
            task.cancel()
            loop.run_until_complete(asyncio.wait([task], timeout=1))
            return None
        return task.result()

    def finish_tasks(self) -> None:
        """Of all that are left."""
        if self.tasks and self.loop is not None:
            _, late = self.loop.run_until_complete(asyncio.wait([t for t, _ in self.tasks], timeout=_SECONDS))
            if late:
                self.findings.append(
                    f"hang: {len(late)} tasks do not end: {[str(t.get_coro()) for t in late]}"
                )
            for task, after in self.tasks:
                if task.done():
                    after(task)
            self.tasks.clear()

    # -- what else happens

    def _write(self, _: Step) -> None:
        self.memories.overwrite()

    def _forget_holds(self, _: Step) -> None:
        """A control: from here on the program does what it must not."""
        for memory in self.memories.all:
            memory.holds.clear()

    def _stop(self, _: Step) -> None:
        self.network.stop()

    def _release(self, _: Step) -> None:
        self.network.release()

    def _wait(self, _: Step) -> None:
        time.sleep(0.002)

    def _collect(self, _: Step) -> None:
        gc.collect()

    def _threshold(self, _: Step) -> None:
        gc.set_threshold(self.rnd.choice([1, 10, 700]))

    def _drop(self, step: Step) -> None:
        self.drop(step.give.get("kind", "UdpSender"), step.on)

    def drop(self, face: str, index: int) -> None:
        """The program forgets an object."""
        if some := self.objects[face]:
            self.effects.dropped(some[index % len(some)])
            del some[index % len(some)]

    def _resize(self, step: Step) -> None:
        buffers = [one for one in self.memories.buffers if isinstance(one, bytearray)]
        if buffers:
            with contextlib.suppress(BufferError):
                buffers[step.on % len(buffers)].append(0)

    def _close_socket(self, step: Step) -> None:
        self.effects.socket_closed()
        self.things.close_socket(step.on)

    def _steal_descriptor(self, _: Step) -> None:
        self.things.steal_descriptor()

    def _stop_reading(self, step: Step) -> None:
        if some := self.network.connections:
            self.network.stop_reading(some[step.on % len(some)])

    def _reset(self, step: Step) -> None:
        if some := self.network.connections:
            self.network.reset(some[step.on % len(some)])

    def _turn(self, step: Step) -> None:
        if self.loop is not None:
            for _ in range(1 + step.on):
                self.guarded("loop", lambda: self.loop and self.loop.run_until_complete(asyncio.sleep(0)))

    def _cancel(self, step: Step) -> None:
        if self.tasks:
            self.tasks[step.on % len(self.tasks)][0].cancel()


async def in_loop(called: Callable[..., Any], positional: list[Any], named: dict[str, Any]) -> Any:
    """What belongs to an event loop is used inside of it."""
    result = called(*positional, **named)
    return await result if asyncio.iscoroutine(result) else result


class _Handler(logging.Handler):
    """Judges the exceptions that are logged."""

    def __init__(self, player: Player) -> None:
        super().__init__()
        self.player = player

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self.player.judge("loop, logged", record.exc_info[1])
