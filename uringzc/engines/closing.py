"""How one engine ends: ``Engine.close`` and the like, which call these functions.

An engine that is closed takes no new requests. Its native part (the ring) is freed when nothing is in flight;
until then the engine is parked (``lifetime.py``).
"""

import time
import warnings
from contextlib import suppress
from typing import Protocol

from uringzc._send import Queue
from uringzc._uring import lib
from uringzc.engines import lifetime
from uringzc.engines.attached import AttachedSenders
from uringzc.errors import E_BUSY, E_THREAD, BufferModifiedError, UringzcError
from uringzc.notif import Slots


class Engine(lifetime.Engine, Protocol):
    """What closing needs of an engine; see ``base.Engine``."""

    dead: bool
    slots: Slots
    queue: Queue
    senders: AttachedSenders

    @property
    def exists(self) -> bool:
        """Whether the native part was not freed."""

    def describe(self) -> str:
        """What the kernel still holds."""

    def drain(self, timeout: float | None = None) -> None:
        """Waits until nothing is in flight, else TimeoutError."""

    def release_settled(self) -> None:
        """Drops the references that posted notifiers held."""

    def _exit(self) -> None: ...
    def _abandon(self) -> None: ...


def close(engine: Engine, timeout: float) -> None:
    """See Scheduler.close. `timeout` is for the senders and the engine together."""
    if not engine.is_owner():
        engine.refuse(E_THREAD)
    if engine.queue.busy or engine.queue.inside:
        engine.refuse(E_BUSY)
    deadline = time.monotonic() + timeout
    errors = engine.senders.close(deadline)
    if not engine.closed:
        lifetime.park(engine)  # first, and until it has ended: an interrupt from here on leaves it parked
        engine.closed = True
        drain_and_exit(engine, max(0.0, deadline - time.monotonic()))
    if errors:
        raise errors[0]


def drain_and_exit(engine: Engine, timeout: float) -> None:
    """Of a parked engine: waits for what is in flight, and ends it. ResourceWarning at the timeout."""
    lib.uzc_slots_close(engine.slots.pointer)
    try:
        engine.drain(timeout)
        engine.release_settled()
    except TimeoutError:
        pass
    finally:
        if not exit_if_idle(engine):
            held = f"{engine.describe()}, the memory stays held"
            message = f"a {engine.refuse.what} was closed and is parked: {held}"
            warnings.warn(message, ResourceWarning, stacklevel=4)


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
            engine._exit()
            engine.senders.clear()
    if not engine.exists:
        lifetime.unpark(engine)
    return not engine.exists


def finalize(engine: Engine, holder: object) -> None:
    """`holder` (a Scheduler, Ring or sender) is being finalized, in any thread, and was not closed.

    The engine is parked, and its owner's next call ends it. One that nobody owns or shares, and that has
    nothing in flight, ends here.
    """
    lifetime.park(engine)
    engine.closed = True
    lib.uzc_slots_set_closed(engine.slots.pointer)
    used = lib.uzc_slots_has_owner(engine.slots.pointer) or engine.slots.counts().in_flight
    if not used and engine.senders.none_but(holder):
        exit_if_idle(engine)
    warnings.warn(f"{type(holder).__name__} was not closed", ResourceWarning, source=holder, stacklevel=4)


def abandon(engine: Engine) -> None:
    """In the child of a fork: the ring, and what is in flight, are the parent's."""
    engine.refuse.forked = not engine.closed
    engine.closed = engine.dead = True
    engine.senders.abandon()
    if engine.exists:
        lib.uzc_slots_close(engine.slots.pointer)
        engine.queue.detach()
        engine._abandon()
