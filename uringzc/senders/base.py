"""What all senders do in the same way: check their options, get an engine, wait for memory, and end.

A sender is a public object and a compiled part. The engine keeps the compiled part while requests of it are
in flight, even if the program has dropped the sender. Which function ends a sender, and who calls it:

- ``close()``: the program or its engine's close(), in the owner's thread. Sends what waits, waits for memory,
  and calls ``_end()``: ``_discard()`` reports what was not sent as lost, the engine parks what is in flight.
- ``_drop()``: ``__del__``, in any thread. Waits for nothing: what waits is sent by system calls; what
  the kernel does not take is lost, and a UdpSender warns of it.
- ``_abort()``: a constructor that fails, in its thread. Nothing waits yet.
- ``_release()``: close(), also in the child of a fork, and _abort(). Closes descriptors of the sender's own.

An interrupt may end any of them, but for the compiled parts, anywhere. What it leaves (``_has_ended()`` is
false) another close() ends, or ``__del__``.
"""

import errno
import logging
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, ClassVar, TypeVar

from uringzc._send import Delegate, TcpStream, UdpBatcher
from uringzc.engines import lifetime
from uringzc.engines.base import Engine
from uringzc.engines.choose import choose
from uringzc.engines.contract import FrameOptions
from uringzc.errors import E_BUSY, E_THREAD, in_flight
from uringzc.notif import COMPLETIONS, Notifier
from uringzc.scheduler import Scheduler
from uringzc.senders.policy import MODES

S = TypeVar("S", bound="BaseSender")
log = logging.getLogger("uringzc")


def check_common_options(zero_copy: str, **callbacks: Callable[..., object] | None) -> None:
    """ValueError or TypeError for what `zero_copy` or a callback cannot be."""
    if zero_copy not in MODES:
        raise ValueError(f"zero_copy is 'auto', 'always' or 'never', not {zero_copy!r}")
    for name, callback in callbacks.items():
        if callback is not None and not callable(callback):
            raise TypeError(f"{name} is a function or None, not {callback!r}")


class BaseSender(Delegate):
    """The base of public senders. ``__slots__`` are for speed, ``__dict__`` for the program's attributes."""

    __slots__ = (
        *("__dict__", "__weakref__", "closed"),
        *("_blocking", "_done", "_engine", "_mode", "_native", "_own_engine", "_slow_path"),
    )
    closed: bool
    _name: ClassVar[str]  #: of the public class
    _blocking: bool
    _mode: str  #: zero_copy: one of MODES
    _native: UdpBatcher | TcpStream  #: the compiled part
    _slow_path: Any  #: its Python part

    def _take_engine(
        self,
        scheduler: Scheduler | None,
        engine: str,
        max_inflight: int,
        debug: bool | None,
        batch: int,
        frames: FrameOptions | None = None,
    ) -> None:
        """The scheduler's engine, or one of its own. `batch`: requests of one submission."""
        self._own_engine = scheduler is None
        if scheduler is None:
            none = COMPLETIONS["none"]
            self._engine: Engine = choose(engine, max_inflight, none, debug, batch, frames)
            self._engine.refuse.what = self._name
        elif isinstance(scheduler, Scheduler):
            self._engine = scheduler._engine
        else:
            raise TypeError(f"scheduler is a Scheduler or None, not {scheduler!r}")
        self._done = Notifier(self._engine)  # what flush() returns where nothing is in flight

    def _abort(self) -> None:
        """Releases what a constructor made that failed."""
        native, engine = getattr(self, "_native", None), getattr(self, "_engine", None)
        if native is not None and engine is not None:
            engine.senders.remove(self)  # its engine's close() would close it
            engine.senders.to_detach.append(native)
            native.close()
            engine.senders.detach_closed()
        if engine is not None and self._own_engine:
            engine.close()
        self._release()

    def _drain(self, timeout: float | None) -> None:
        if not self._blocking and timeout is None and not self._native.poll():
            raise BlockingIOError(errno.EAGAIN, in_flight(self._native.in_flight))
        self._wait_for_memory(timeout, "drain")

    def _wait_for_memory(self, timeout: float | None, what: str) -> None:
        """Waits until none of its requests is in flight. TimeoutError, which names `what`."""
        native = self._native
        if not native.poll():
            self._engine.wait_for(lambda: native.in_flight, timeout, what)
            native.poll()

    def close(self, timeout: float = 5.0) -> None:
        """See UdpSender.close and TcpSender.close."""
        raise NotImplementedError

    def _may_close(self) -> bool:
        """False where there is nothing to end. WrongThreadError; BusyError inside a call."""
        if self.closed and self._has_ended():
            return False
        if self._engine.dead:  # this is the child of a fork, and the engine the parent's
            self.closed = True
            self._release()
            return False
        if not self._engine.is_owner():
            self._slow_path.refuse(E_THREAD)
        if self._native.busy:
            self._slow_path.refuse(E_BUSY)
        return True

    def _has_ended(self) -> bool:
        """Whether nothing of it is left to end: its own engine was closed, which it is last, or is parked."""
        if self._own_engine:
            return self._engine.closed
        native: UdpBatcher | TcpStream | None = getattr(self, "_native", None)
        return native is None or native.closed  # and is to be detached

    def _end(self, deadline: float) -> None:
        """The last part of close(): what is in flight after the deadline is parked."""
        senders = self._engine.senders
        senders.remove(self)  # else its engine's close() would call this again, after an interrupt
        senders.to_detach.append(self._native)
        self._native.close()
        with ExitStack() as stack:  # calls the last first, and all of them, whatever they raise
            stack.callback(self._release)
            if self._own_engine:
                stack.callback(self._engine.close, max(0.0, deadline - time.monotonic()))
            stack.callback(senders.detach_closed)
            stack.callback(self._discard)

    def _discard(self) -> None:
        """Discards what still waits, and reports it as lost."""

    def _release(self) -> None:
        """Closes descriptors of its own."""

    def _drop(self) -> None:
        """Ends the compiled part of a sender that was not closed; in any thread."""
        self._native.close()

    def __enter__(self: S) -> S:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Exception:
            if error is None:
                raise
            log.exception("while another exception was on its way")

    def __del__(self) -> None:
        engine: Engine | None = getattr(self, "_engine", None)
        if engine is None or engine.dead or self._has_ended():
            return
        self.closed = True
        if hasattr(self, "_native"):
            self._drop()
        if self._own_engine:
            lifetime.finalize(self._engine, self)
        else:
            self._engine.senders.to_detach.append(self._native)  # by the owner's next call
            warnings.warn(f"{self._name} was not closed", ResourceWarning, source=self, stacklevel=2)
