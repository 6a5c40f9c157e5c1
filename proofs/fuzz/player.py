"""Plays a program: makes arguments, calls, judges what is raised, and keeps account of what is sent."""

import asyncio
import contextlib
import gc
import logging
import os
import random
import re
import sys
import threading
import traceback
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import uringzc
import uringzc.aio
from proofs.fuzz import effects, faces
from proofs.fuzz.ledger import Ledger
from proofs.fuzz.leftovers import Before
from proofs.fuzz.memory import Memories, Memory, still_held
from proofs.fuzz.network import Network
from proofs.fuzz.programs import Program, Step, making
from proofs.fuzz.tasks import IN_TASK, Tasks, in_loop
from proofs.fuzz.things import PlannedError, Things
from proofs.fuzz.ways import InterruptError, Ways
from proofs.fuzz.world import World
from uringzc.engines import lifetime

#: what the library may raise, besides what BY_METHOD adds
ALLOWED = (uringzc.UringzcError, OSError, ValueError, TypeError, BufferError, MemoryError, OverflowError)
#: and what it must not, since no program does what these report
NEVER = (uringzc.PoisonedError, uringzc.BufferModifiedError)
BY_METHOD: dict[str, tuple[type[BaseException], ...]] = {
    "Group.remove": (KeyError,),
    "aio.Group.remove": (KeyError,),
    "Batch.__getitem__": (IndexError,),
    "aio.EventLoop.create_datagram_endpoint": (AttributeError,),  # as asyncio's, for what is no socket
}
OBJECTS = 4  # of one class, that a program has at once
_LOST = re.compile(r"(\d+) datagrams? of a UdpSender that was not closed could not be sent")


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
        self.inside: list[Any] = []  #: of the last iterator that was made
        self.things = Things(self)
        self.effects = effects.Effects(self)
        self.world = World(self)
        self.ways = Ways(self)
        self.tasks = Tasks(self)
        self.depth = 0
        self.forked = False
        self.interruptible = False  #: inside a call of the library

    # -- a whole program

    def play(self) -> list[str]:
        """The findings."""
        os.environ["URINGZC_ENGINE"] = self.program.engine
        self.network.clear()
        before = Before()
        with warnings.catch_warnings(), self._listening():
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
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", message=_LOST.pattern)
        warnings.showwarning = lambda message, *_, **__: self._warned(str(message))
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

    def _warned(self, message: str) -> None:
        """What a UdpSender that was dropped says that it has lost."""
        if found := _LOST.match(message):
            self.ledger.lost_by_dropped += int(found[1])

    def end(self) -> None:
        """Closes what is left, or drops it."""
        self.tasks.finish()
        orderly = self.rnd.random() < 0.7
        for face in reversed(list(self.objects)):
            for one in self.objects[face]:
                if orderly or face.startswith("aio."):
                    self.close(face, one)
        self.effects.at_the_end()
        self.tasks.end()

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
        self.inside = []
        self.tasks = self.effects = None  # type: ignore[assignment]
        gc.collect()
        lifetime.release_parked()
        self.things.close()
        self.things = None  # type: ignore[assignment]

    # -- steps

    def step(self, step: Step) -> None:
        """One step of the program itself."""
        self.memories.of.clear()
        if step.do.startswith("world."):
            getattr(self.world, step.do[6:])(step)
        elif step.how == "thread":
            self.ways.in_thread(lambda: self.play_step(step))
        elif step.how == "beside":
            self.ways.beside(step)
        elif step.how == "fork":
            self.ways.in_child(step)
        elif step.how == "signal":
            self.ways.interrupted(lambda: self.play_step(step))
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
            return self.tasks.the_loop()
        if not self.objects[face] and self.depth < 5 and not self.forked:
            self.depth += 1
            try:
                for step in making(face):
                    self.play_step(step)
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
            self.effects.dropped(some[0])
            del some[0]
        return one

    def drop(self, face: str, index: int) -> None:
        """The program forgets an object."""
        if some := self.objects[face]:
            self.effects.dropped(some[index % len(some)])
            del some[index % len(some)]

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
                result = self.tasks.run(step, result, method, one, before)
                if result is IN_TASK:
                    return None
            self.interruptible = False
            self.calls["calls that returned"] += 1
        except BaseException as raised:
            self.interruptible = False
            error = raised
            self.calls["calls that raised"] += 1
            self.judge(step.do, raised)
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
        """Makes a finding of an exception that the library must not raise there."""
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


class _Handler(logging.Handler):
    """Judges the exceptions that are logged."""

    def __init__(self, player: Player) -> None:
        super().__init__()
        self.player = player

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self.player.judge("loop, logged", record.exc_info[1])
