"""How an engine ends: it is closed, or its holder is finalized, or its thread ends, or the process; forks.

Closing a ring does not stop the kernel: it goes on reading memory that was sent, and notifies of it on that
ring alone. So an engine that is closed takes no new requests, and one that cannot be ended yet is *parked*:
kept open, with everything that its requests hold, until nothing is in flight. Its owner thread finds that
out, in its next call on any engine or when it ends. What requests hold is held by C references, which
interpreter shutdown does not drop.

Finalizers run in any thread and inside any call, so they never touch a ring: they park it. An engine without
an owner, with nothing queued, has no requests, and may be ended by any thread.
"""

import atexit
import logging
import os
import threading
import time
import warnings
import weakref
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

from uringzc._send import Queue
from uringzc._uring import lib
from uringzc.engines.attached import AttachedSenders
from uringzc.engines.tables import Sockets
from uringzc.errors import E_BUSY, E_THREAD, BufferModifiedError, Refuser, UringzcError
from uringzc.notif import Slots

#: seconds that an ending thread, or the interpreter, waits for the kernel, for all its engines together
DRAIN_AT_END = 2.0


# ruff: noqa: D102 - base.Engine documents the methods
class Engine(Protocol):
    """What ends here: the part of ``base.Engine`` that this needs."""

    closed: bool
    dead: bool
    refuse: Refuser
    slots: Slots
    queue: Queue
    senders: AttachedSenders
    sockets: Sockets

    @property
    def exists(self) -> bool: ...
    def is_owner(self) -> bool: ...
    def try_claim(self) -> bool: ...
    def drain(self, timeout: float | None = None) -> None: ...
    def describe(self) -> str: ...
    def _exit(self) -> None: ...
    def _abandon(self) -> None: ...


_living: weakref.WeakSet[Engine] = weakref.WeakSet()
_parked: list[Engine] = []  # C has a reference to it
_orphaned: list[Engine] = []  # parked when their owner thread ended: no other thread can poll them
_local = threading.local()
_ending: set[int] = set()  # threads that are ending
forks = 0  #: between the first process and this one


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
    for engine in list(_parked):
        if engine.is_owner():
            exit_if_idle(engine)


def parked_list() -> list[Engine]:
    """The list itself, for C to see whether it is empty."""
    return _parked


def close(engine: Engine, timeout: float, quiet: bool = False) -> None:
    """See Scheduler.close. `timeout` is for the senders and the engine together. `quiet`: no warning."""
    if not engine.is_owner():
        engine.refuse(E_THREAD)
    if engine.queue.busy or engine.queue.inside:
        engine.refuse(E_BUSY)
    deadline = time.monotonic() + timeout
    errors = engine.senders.close(deadline)
    if not engine.closed:
        park(engine)  # first, and until it has ended: an interrupt from here on leaves it parked
        engine.closed = True
        drain_and_exit(engine, max(0.0, deadline - time.monotonic()), quiet)
    if errors:
        raise errors[0]


def drain_and_exit(engine: Engine, timeout: float, quiet: bool = False) -> None:
    """Of a parked engine: waits for what is in flight, and ends it. ResourceWarning at the timeout."""
    lib.uzc_slots_close(engine.slots.pointer)
    try:
        engine.drain(timeout)
        engine.queue.exclusive(engine.queue.tidy)  # which does not end it meanwhile
    except TimeoutError:
        pass
    finally:
        if not exit_if_idle(engine) and not quiet:
            held = f"{engine.describe()}, the memory stays held"
            message = f"a {engine.refuse.what} was closed and is parked: {held}"
            warnings.warn(message, ResourceWarning, stacklevel=4)


def finish(engine: Engine, timeout: float) -> None:
    """The owner thread ends: as close(), and drains an engine that is parked already."""
    if engine.closed:
        drain_and_exit(engine, timeout)
    else:
        close(engine, timeout)


def exit_if_idle(engine: Engine) -> bool:
    """Of a parked engine: submits and polls once, and frees the native part if nothing is in flight.

    Returns whether it has ended; then it is no longer parked.
    """
    if engine.exists and not engine.queue.busy and not engine.queue.inside and engine.try_claim():
        engine.closed = True
        lib.uzc_slots_close(engine.slots.pointer)
        with suppress(UringzcError, OSError):
            engine.queue.enter(1, 0, 0)
        idle = not engine.slots.counts().in_flight
        if idle:
            engine.queue.release()
        with suppress(BufferModifiedError):  # the call that brought us here is about another engine
            engine.queue.raise_modified()
        if idle:
            engine.queue.detach()
            engine.sockets.registered.clear()
            engine._exit()
            engine.senders.clear()
    if not engine.exists:
        unpark(engine)
    return not engine.exists


def finalize(engine: Engine, holder: object) -> None:
    """`holder` (a Scheduler, Ring or sender) is being finalized, in any thread; it should have been closed.

    An open engine is parked, and its owner's next call ends it. One that nobody owns or shares, and that has
    nothing in flight, ends here.
    """
    if engine.closed:
        return
    park(engine)
    engine.closed = True
    lib.uzc_slots_set_closed(engine.slots.pointer)
    used = lib.uzc_slots_has_owner(engine.slots.pointer) or engine.slots.counts().in_flight
    if not used and engine.senders.none_but(holder):
        exit_if_idle(engine)
    warnings.warn(f"{type(holder).__name__} was not closed", ResourceWarning, source=holder, stacklevel=3)


def abandon(engine: Engine) -> None:
    """In the child of a fork: the ring, and what is in flight, are the parent's."""
    engine.refuse.forked = not engine.closed
    engine.closed = engine.dead = True
    engine.senders.abandon()
    engine.queue.abandon()
    if engine.exists:
        lib.uzc_slots_close(engine.slots.pointer)
        engine._abandon()


class _ThreadEnd:
    """Lives in a thread's local storage: it is finalized in that thread, when the thread ends."""

    thread: int | None = None  #: None: it is not in the local storage yet; 0: the process ends

    def __init__(self) -> None:
        self.engines: list[weakref.ref[Engine]] = []  #: those that the thread owns

    def __del__(self) -> None:
        thread = threading.get_ident()
        if thread != self.thread:  # in the child of a fork, or at exit
            return
        living = [reference() for reference in self.engines]
        _ending.add(thread)
        try:
            _close_owned([*_parked, *(engine for engine in living if engine is not None)])
        finally:
            _ending.discard(thread)


def _thread_end() -> _ThreadEnd:
    """The calling thread's. While that ends, one that is not kept: its local storage is not freed again."""
    if threading.get_ident() in _ending:
        return _ThreadEnd()
    end: _ThreadEnd | None = getattr(_local, "end", None)
    if end is None:
        end = _local.end = _ThreadEnd()
    if end.thread is None:  # last: one that an interrupt keeps out of the local storage ends nothing
        end.thread = threading.get_ident()
    return end


def claimed(reference: "weakref.ref[Engine]") -> None:
    """The calling thread has become the owner of an engine, or is it: each sender that shares one says so."""
    end = _thread_end()
    if reference in end.engines[-1:]:
        return
    end.engines = [kept for kept in end.engines if kept() is not None and kept != reference]
    end.engines.append(reference)


def _close_owned(engines: Iterable[Engine]) -> None:
    """Closes or drains those that the ending thread owns: no other thread can read their notifications."""
    deadline = time.monotonic() + DRAIN_AT_END
    for engine in engines:
        if (engine.closed and engine not in _parked) or not engine.try_claim():
            continue
        try:
            finish(engine, max(0.0, deadline - time.monotonic()))
        except Exception:  # no caller is left to catch it, and the next engine is to be closed too
            logging.getLogger("uringzc").exception("a %s could not be closed", engine.refuse.what)
        if engine in _parked:
            unpark(engine)
            _orphaned.append(engine)


def _at_exit() -> None:
    _close_owned([*_parked, *_living])
    for engine in list(_living):
        if not engine.closed:
            engine.senders.send_at_exit()  # the owner does not come back
    _thread_end().thread = 0  # its work is done, and the modules that it needs are about to be cleared


def _after_fork() -> None:
    global forks
    forks += 1
    for engine in {*_living, *_parked, *_orphaned}:
        abandon(engine)
    _living.clear()
    _parked.clear()
    _orphaned.clear()
    _local.__dict__.clear()
    _ending.clear()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork)
