"""Memory stays valid when a program does not close an engine: finalizers, ended threads, forks, exit.

Closing a ring does not stop the kernel: it goes on reading memory that was sent, and notifies of it on that
ring alone. So an engine that can not be ended yet is *parked*: kept open, with everything that its requests
hold, until nothing is in flight. Its owner thread finds that out, in its next call on any engine or when it
ends. What requests hold is held by C references, which interpreter shutdown does not drop.

Finalizers run in any thread and inside any call, so they never touch a ring: they park it. An engine without
an owner, with nothing queued, has no requests, and may be ended by any thread.
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
    """What is needed of an engine here; see ``base.Engine``."""

    closed: bool
    refuse: Refuser

    def is_owner(self) -> bool:
        """Whether this thread may use it."""

    def try_claim(self) -> bool:
        """Whether this thread owns it; it does from now on if no thread did."""

    def exit_if_idle(self) -> bool:
        """Submits and polls once; ends, and is no longer parked, if nothing is in flight. Whether it did."""

    def finish(self, timeout: float) -> None:
        """The owner thread ends: closes it, and drains it where it is parked."""

    def send_by_syscall(self) -> None:
        """Sends what its senders have gathered, without the ring, in any thread."""

    def abandon(self) -> None:
        """In the child of a fork: the engine is the parent's."""


_living: "weakref.WeakSet[Engine]" = weakref.WeakSet()
_parked: list[Engine] = []
_orphaned: list[Engine] = []  # parked when their owner thread ended: no other thread can poll them
_local = threading.local()


def track(engine: Engine) -> None:
    """Every new engine: it is closed at exit, and abandoned in the child of a fork, if it is still alive."""
    _living.add(engine)


def park(engine: Engine) -> None:
    """Keeps `engine` until its owner, or this thread if it has none, finds it idle or ends. Safe anywhere."""
    _parked.append(engine)
    _thread_end()


def unpark(engine: Engine) -> None:
    """`engine` has ended."""
    for kept in (_parked, _orphaned):
        with suppress(ValueError):
            while True:
                kept.remove(engine)


def parked() -> list[Engine]:
    """The engines that are kept, of all threads."""
    return [*_parked, *_orphaned]


def release_parked() -> None:
    """Ends this thread's parked engines that are idle. Engines call it at each submit and poll."""
    if _parked:
        for engine in list(_parked):
            if engine.is_owner():
                engine.exit_if_idle()


class _ThreadEnd:
    """Lives in a thread's local storage: it is finalized in that thread, when the thread ends."""

    thread: int | None = None  #: None: it is not in the local storage yet; 0: the process ends

    def __init__(self) -> None:
        self.engines: list[weakref.ref[Engine]] = []  #: those that the thread owns

    def __del__(self) -> None:
        if threading.get_ident() == self.thread:  # not in the child of a fork, nor at exit
            living = [reference() for reference in self.engines]
            _close_owned([*_parked, *(engine for engine in living if engine is not None)])


def _thread_end() -> _ThreadEnd:
    """The calling thread's."""
    end: _ThreadEnd | None = getattr(_local, "end", None)
    if end is None:
        end = _local.end = _ThreadEnd()
    if end.thread is None:  # last: one that an interrupt keeps out of the local storage ends nothing
        end.thread = threading.get_ident()
    return end


def claimed(reference: "weakref.ref[Engine]") -> None:
    """The calling thread has become the owner of an engine."""
    end = _thread_end()
    end.engines = [kept for kept in end.engines if kept() is not None]
    end.engines.append(reference)


def _close_owned(engines: Iterable[Engine]) -> None:
    """Closes or drains those that the ending thread owns: no other thread can read their notifications."""
    deadline = time.monotonic() + DRAIN_AT_END
    for engine in engines:
        if (engine.closed and engine not in _parked) or not engine.try_claim():
            continue
        try:
            engine.finish(max(0.0, deadline - time.monotonic()))
        except Exception:  # no caller is left to catch it, and the next engine is to be closed too
            logging.getLogger("uringzc").exception("a %s could not be closed", engine.refuse.what)
        if engine in _parked:
            unpark(engine)
            _orphaned.append(engine)


def _at_exit() -> None:
    _close_owned([*_parked, *_living])
    for engine in list(_living):
        if not engine.closed:
            engine.send_by_syscall()
    _thread_end().thread = 0  # its work is done, and the modules that it needs are about to be cleared


def _after_fork() -> None:
    for engine in {*_living, *_parked, *_orphaned}:
        engine.abandon()
    _living.clear()
    _parked.clear()
    _orphaned.clear()
    _local.__dict__.clear()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork)
