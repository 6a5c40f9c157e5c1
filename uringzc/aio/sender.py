"""What both awaitable senders are made of: a plain one that never waits, and the tasks that wait for it."""

import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn, TypeVar

from uringzc.aio.loops import Loop, running_loop
from uringzc.aio.waiting import Waiting
from uringzc.notif import Notifier
from uringzc.senders.tcp import TcpSender
from uringzc.senders.udp import UdpSender

S = TypeVar("S", bound="AwaitableSender")
log = logging.getLogger("uringzc")

_OURS = ("blocking", "max_delay", "on_waiting")
_CALLBACKS = ("on_error", "notify", "on_timestamp")


class NotEntered:
    """What a sender is before ``async with``: every use is refused."""

    def __init__(self, name: str) -> None:
        self.__dict__["name"] = name

    def __getattr__(self, _: str) -> NoReturn:
        raise RuntimeError(f"this {self.__dict__['name']} was not entered: use it in `async with`")


class AwaitableSender:
    """The base of UdpSender and TcpSender."""

    _sender: UdpSender | TcpSender
    _waiting: Waiting

    def __init__(self, **options: Any) -> None:
        for name in _OURS:
            if name in options:
                raise TypeError(f"{name} is no option here: the event loop waits, and flushes")
        self._options: dict[str, Any] = {
            name: _callback(value) if name in _CALLBACKS and callable(value) else value
            for name, value in options.items()
        }
        self._entered = False
        self._waiting = self._sender = NotEntered(type(self).__name__)  # type: ignore[assignment]

    async def _open(self, loop: Loop, waiting: Waiting) -> UdpSender | TcpSender:
        """Makes the plain sender."""
        raise NotImplementedError

    async def __aenter__(self: S) -> S:
        if self._entered:
            raise RuntimeError(f"this {type(self).__name__} was entered before: make another one")
        self._entered = True
        waiting = Waiting(running_loop())
        sender = await self._open(waiting.loop, waiting)
        waiting.attach(sender)
        self._waiting, self._sender = waiting, sender
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except Exception:
            if error is None:
                raise
            log.exception("while another exception was on its way")

    async def flush(self) -> Notifier:
        """Submits everything that was taken; when it returns, each request has its result.

        Needed only where that cannot wait for the end of the loop's turn. The Notifier is done when the
        kernel holds none of the memory any more; its ``wait`` would block the loop, ``drain`` does not.
        Raises the first SendError that was not reported.
        """
        self._waiting.begin()
        notifier = await self._waiting.until_done(self._sender.flush)
        self._waiting.raise_failure()
        return notifier

    async def drain(self, timeout: float | None = None) -> None:
        """Flushes, and returns when the kernel holds no memory of this sender any more.

        TimeoutError says what it holds. Others may send meanwhile.
        """
        waiting = self._waiting
        waiting.begin()
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            await waiting.until_done(waiting.settle, deadline)
        except TimeoutError:
            held = self._sender._engine.describe()
            raise TimeoutError(f"drain is not done after {timeout} s: {held}") from None
        self._raise_errors()

    def _raise_errors(self) -> None:
        """Raises what nobody has awaited, or was told."""
        self._waiting.raise_failure()

    async def close(self, timeout: float = 5.0) -> None:
        """Refuses more, flushes, drains, and ends. May be repeated. Other tasks that wait get ClosedError.

        What the kernel holds after `timeout` is parked, see ``Scheduler.close``; what could not be sent in
        that time is lost, with a SendError. A cancelled one refuses more, too, and the rest is done while the
        loop runs: what was taken is sent.
        """
        if self._entered:
            await self._waiting.close(timeout)

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._entered and self._waiting.closed

    def explain(self) -> str:
        """What is being done, and why, in a few sentences."""
        return self._sender.explain()

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"<uringzc.aio.{name}, {self._sender!r}>" if self._entered else f"<uringzc.aio.{name}>"


def _callback(callback: Callable[[Any], object]) -> Callable[[Any], None]:
    """The program's, whose BlockingIOError is not taken for the sender's: that call would be repeated."""

    def call(value: Any) -> None:
        try:
            callback(value)
        except BlockingIOError as error:
            raise RuntimeError(f"{callback!r} raised BlockingIOError") from error

    return call
