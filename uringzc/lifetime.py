"""Who keeps memory alive when a program does not: dropped engines, ended threads, forks, interpreter exit.

Closing a ring is no barrier: the kernel goes on reading memory that was sent from it, and says so only on
that ring. So an engine that can not be closed cleanly is *parked*: kept open, with everything that its
requests hold, until its owner's next call on any engine finds that the kernel is done. What requests hold
is held by C references in their entries, which interpreter shutdown does not drop.

Finalizers run in any thread and inside any call, so they never touch a ring: they park it.
"""

import atexit
import logging
import os
import threading
import weakref
from typing import Protocol

#: seconds that an ending thread, or the interpreter, waits for the kernel
DRAIN_AT_END = 2.0


class Engine(Protocol):
    """What parking needs of an engine."""

    closed: bool

    def mine(self) -> bool:
        """Whether this thread may use it."""

    def settle(self) -> bool:
        """Submits and takes what there is; ends, and leaves the parked, if nothing is in flight any more."""

    def close(self, timeout: float = 5.0) -> None:
        """Drains, or parks."""

    def rescue(self) -> None:
        """Sends what its senders have gathered, without the ring, in any thread."""

    def abandon(self) -> None:
        """In the child of a fork: forgets the parent's engine."""


_living: "weakref.WeakSet[Engine]" = weakref.WeakSet()
_parked: list[Engine] = []
_local = threading.local()


def born(engine: Engine) -> None:
    """Every engine is known here until it is collected."""
    _living.add(engine)


def park(engine: Engine) -> None:
    """Keeps `engine` until its owner finds it idle. Safe anywhere: appends to a list."""
    _parked.append(engine)


def unpark(engine: Engine) -> None:
    """It has ended."""
    if engine in _parked:
        _parked.remove(engine)


def parked() -> list[Engine]:
    """The engines that are kept, of all threads."""
    return list(_parked)


def sweep() -> None:
    """Lets go of this thread's parked engines that are idle; engines call it once per submit and reap."""
    if _parked:
        _sweep()


def _sweep() -> None:
    for engine in list(_parked):
        if engine.mine():
            engine.settle()


class _Guard:
    """Lives in a thread's local storage; its end is the thread's end, in that thread."""

    def __init__(self) -> None:
        self.engines: list[weakref.ref[Engine]] = []

    def __del__(self) -> None:
        end(self.engines)


def end(engines: "list[weakref.ref[Engine]]") -> None:
    """Closes what the ending thread still owns: nobody else can see these engines' notifications."""
    for reference in engines:
        engine = reference()
        if engine is not None and not engine.closed and engine.mine():  # at exit it may be another thread's
            _close(engine)


def _close(engine: Engine) -> None:
    try:
        engine.close(DRAIN_AT_END)
    except Exception:  # nobody is left to catch it, and the next engine is to be closed too
        logging.getLogger("uringzc").exception("an engine could not be closed")


def claimed(reference: "weakref.ref[Engine]") -> None:
    """The calling thread has become the owner of an engine."""
    guard = getattr(_local, "guard", None)
    if guard is None:
        guard = _local.guard = _Guard()
    guard.engines = [kept for kept in guard.engines if kept() is not None]
    guard.engines.append(reference)


def _at_exit() -> None:
    for engine in list(_living):
        if not engine.closed and engine.mine():
            _close(engine)
        elif not engine.closed:
            engine.rescue()
    sweep()


def _after_fork() -> None:
    for engine in list(_living):
        engine.abandon()
    _living.clear()
    _parked.clear()
    _local.__dict__.clear()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork)
