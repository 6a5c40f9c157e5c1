"""Who keeps memory alive when a program does not: dropped engines, ended threads, forks, interpreter exit.

Closing a ring is no barrier: the kernel goes on reading memory that was sent from it, and says so only on
that ring. So an engine that can not be closed cleanly is *parked*: kept open, with everything that its
requests hold, until its owner's next call on any engine, or the owner's end, finds that the kernel is done.
What requests hold is held by C references in their entries, which interpreter shutdown does not drop.

Finalizers run in any thread and inside any call, so they never touch a ring: they park it. One that nobody
owns, with nothing queued, has no requests, and may be ended anywhere.
"""

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

from uringzc.errors import Refuser

#: seconds that an ending thread, or the interpreter, waits for the kernel, for all its engines together
DRAIN_AT_END = 2.0


class Engine(Protocol):
    """What parking needs of an engine."""

    closed: bool
    refuse: Refuser

    def is_owner(self) -> bool:
        """Whether this thread may use it."""

    def take(self) -> bool:
        """Whether it is this thread's: from now on, if it was nobody's."""

    def settle(self) -> bool:
        """Submits and takes what there is; ends, and leaves the parked, if nothing is in flight any more."""

    def end(self, timeout: float) -> None:
        """The owner ends: closes it, and drains it where it is parked."""

    def send_by_syscall(self) -> None:
        """Sends what its senders have gathered, without the ring, in any thread."""

    def abandon(self) -> None:
        """In the child of a fork: forgets the parent's engine."""


_living: "weakref.WeakSet[Engine]" = weakref.WeakSet()
_parked: list[Engine] = []
_left: list[Engine] = []  # parked when their owner ended: nobody can see what becomes of them
_local = threading.local()


def born(engine: Engine) -> None:
    """Every engine is known here until it is collected."""
    _living.add(engine)


def park(engine: Engine) -> None:
    """Keeps `engine` until its owner, or this thread if it has none, finds it idle or ends. Safe anywhere."""
    _parked.append(engine)
    _guard()


def unpark(engine: Engine) -> None:
    """It has ended."""
    for kept in (_parked, _left):
        with suppress(ValueError):
            while True:
                kept.remove(engine)


def parked() -> list[Engine]:
    """The engines that are kept, of all threads."""
    return [*_parked, *_left]


def sweep() -> None:
    """Lets go of this thread's parked engines that are idle; engines call it once per submit and reap."""
    if _parked:
        _sweep()


def _sweep() -> None:
    for engine in list(_parked):
        if engine.is_owner():
            engine.settle()


class _Guard:
    """Lives in a thread's local storage; its end is the thread's end, in that thread."""

    thread: int | None = None  #: None: it is not in its place; 0: the process ends

    def __init__(self) -> None:
        self.engines: list[weakref.ref[Engine]] = []

    def __del__(self) -> None:
        if threading.get_ident() == self.thread:  # in the child of a fork, and at exit, it is another's
            living = [reference() for reference in self.engines]
            _end([*_parked, *(engine for engine in living if engine is not None)])


def _guard() -> _Guard:
    """The calling thread's."""
    guard: _Guard | None = getattr(_local, "guard", None)
    if guard is None:
        guard = _local.guard = _Guard()
    if guard.thread is None:  # last: one that an interrupt keeps from its place ends nothing
        guard.thread = threading.get_ident()
    return guard


def claimed(reference: "weakref.ref[Engine]") -> None:
    """The calling thread has become the owner of an engine."""
    guard = _guard()
    guard.engines = [kept for kept in guard.engines if kept() is not None]
    guard.engines.append(reference)


def _end(engines: Iterable[Engine]) -> None:
    """Closes or drains those that are the ending thread's: nobody else can see their notifications."""
    deadline = time.monotonic() + DRAIN_AT_END
    for engine in engines:
        if (engine.closed and engine not in _parked) or not engine.take():
            continue
        try:
            engine.end(max(0.0, deadline - time.monotonic()))
        except Exception:  # nobody is left to catch it, and the next engine is to be closed too
            logging.getLogger("uringzc").exception("a %s could not be closed", engine.refuse.what)
        if engine in _parked:
            unpark(engine)
            _left.append(engine)


def _at_exit() -> None:
    _end([*_parked, *_living])
    for engine in list(_living):
        if not engine.closed:
            engine.send_by_syscall()
    _guard().thread = 0  # all that it is for is done, and what it needs is taken down now


def _after_fork() -> None:
    for engine in {*_living, *_parked, *_left}:
        engine.abandon()
    _living.clear()
    _parked.clear()
    _left.clear()
    _local.__dict__.clear()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork)
