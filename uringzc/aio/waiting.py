"""The tasks that wait for one sender.

Theory of operation
    A plain sender with ``blocking=False`` raises BlockingIOError where it would wait, and its ``fileno()`` is
    readable when another try is worth it. Tasks that send take turns: the first one tries its call until it
    is done, the others wait behind it, in the order in which they came. What only waits for memory
    (``drain``) takes no turn. One reader watches the descriptor for all of them, and for what nobody awaits:
    the flush at the end of a turn of the loop, and the rest of a ``close`` that was cancelled.

    A call may take what another one waits for: a flush that succeeds ends the event of a send, and any call
    may take the completions that a drain waits for. So the others are woken then too, and try again.
"""

import errno
import logging
import time
from collections import deque
from collections.abc import Callable
from threading import get_ident
from typing import NoReturn, TypeVar

from uringzc.aio.loops import Event, Loop
from uringzc.errors import E_CLOSED, E_THREAD, ClosedError, in_flight
from uringzc.senders.tcp import TcpSender
from uringzc.senders.udp import UdpSender

T = TypeVar("T")
log = logging.getLogger("uringzc")

#: seconds between two tries where no event may come: others reap what shares a scheduler
RETRY = 0.01


class Waiting:
    """Those that wait for `sender`, in `loop`."""

    sender: UdpSender | TcpSender
    #: whether a call that was refused would wait without end
    hopeless: Callable[[], bool] = staticmethod(lambda: False)
    #: what makes the descriptor unreadable, until there is another event
    take_events: Callable[[], object] = staticmethod(lambda: None)

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        #: no task waits, and the loop was checked in this turn of it: calls need not begin()
        self.fast = False
        self.closed = False
        self._thread = get_ident()
        self.turns: deque[Event] = deque()  #: of the tasks that send: the first one's, and those behind it
        self._sleeping: set[Event] = set()  # of the tasks that wait for the descriptor
        self._unattended: Callable[[], object] | None = None  # what is tried again then, and nobody awaits
        self._stop_reader: Callable[[], None] | None = None
        self._failure: Exception | None = None  # of what nobody awaited

    def attach(self, sender: UdpSender | TcpSender) -> None:
        """The plain sender. From now on it is this thread's."""
        self.sender = sender
        self._every = None if sender._own_engine else RETRY
        sender.flush()

    def begin(self) -> bool:
        """Whether a call may be tried now, as no task waits. ClosedError; RuntimeError in another loop."""
        if self.closed:
            self._refuse(E_CLOSED)
        self.check()
        return not (self.turns or self._sleeping)

    def check(self) -> None:
        """RuntimeError in another loop, or thread."""
        if self.loop.runs():
            return
        if get_ident() != self._thread:
            self._refuse(E_THREAD)
        raise RuntimeError(
            f"this {self.sender._name} belongs to the event loop in which it was entered, which does not run "
            "here: enter one in this loop. Nothing was changed"
        )

    def _refuse(self, code: int) -> NoReturn:
        self.sender._slow_path.refuse(code)
        raise AssertionError

    # -- tasks

    def turn(self) -> "Turn":
        """For ``async with``: its block runs when the tasks before have left theirs."""
        return Turn(self)

    async def in_turn(self, call: Callable[[], T]) -> T:
        """What `call` returns, in turn and when it need not wait."""
        async with Turn(self):
            return await self.until_done(call)

    async def until_done(self, call: Callable[[], T], deadline: float | None = None) -> T:
        """What `call` returns when it need not wait: until then it is tried again. TimeoutError."""
        while True:
            if self.closed:
                self._refuse(E_CLOSED)
            try:
                return self._try(call)
            except BlockingIOError:
                if self.hopeless():
                    raise
            await self._sleep(deadline)

    async def take_all(
        self, count: int, take: Callable[[int], int], progress: Callable[[int], object] | None = None
    ) -> int:
        """`take(done)` until `count` were taken, and returns `count`. Other tasks run in between.

        It takes some behind `done`, and returns how many, or raises BlockingIOError that says so.
        """
        done = 0

        def more() -> None:
            nonlocal done
            try:
                done += take(done)
            except BlockingIOError as error:
                done += getattr(error, "characters_written", 0)
                error.characters_written = done
                raise

        while done < count:
            await self.until_done(more)
            if progress is not None:
                progress(done)
            if done < count:
                await self.loop.pause()
        return done

    def _try(self, call: Callable[[], T]) -> T:
        """Calls it. The others try again, too, unless it was refused and has freed no memory."""
        native = self.sender._native
        before, refused = native.in_flight, False
        try:
            return call()
        except BlockingIOError:
            refused = native.in_flight >= before
            raise
        finally:
            if not refused:
                self._wake()

    async def _sleep(self, deadline: float | None) -> None:
        """Until another try is worth it. TimeoutError at the deadline (time.monotonic())."""
        if deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError
        event = self.loop.event()
        self._sleeping.add(event)
        self.fast = False
        self._watch()
        try:
            await self.loop.wait(event, deadline)
        finally:
            self._sleeping.remove(event)
            self._unwatch()

    def _wake(self) -> None:
        for event in self._sleeping:
            event.set()

    # -- the reader of the descriptor

    def _watch(self) -> None:
        if self._stop_reader is None:
            self._stop_reader = self.loop.watch(self.sender.fileno(), self._readable, self._every)

    def _unwatch(self) -> None:
        if self._stop_reader is not None and not (self._sleeping or self._unattended):
            stop, self._stop_reader = self._stop_reader, None
            stop()

    def _end_reader(self) -> None:
        self._unattended = None
        if self._stop_reader is not None:
            self._stop_reader()
            self._stop_reader = None
        self._wake()

    def _readable(self) -> None:
        if self.sender.closed:  # by its scheduler, and so is the descriptor
            self._end_reader()
            return
        self.take_events()
        if self._unattended is not None:
            self._attempt(self._unattended)
        self._wake()

    def _attempt(self, call: Callable[[], object]) -> None:
        """`call()`, which nobody awaits: again when the descriptor is readable, if it would wait."""
        try:
            self._try(call)
        except BlockingIOError:
            self._unattended = call
            self._watch()
            return
        except ClosedError:
            pass
        except Exception as error:
            self._keep(error)
        self._unattended = None
        self._unwatch()

    def flush_soon(self) -> None:
        """Datagrams wait: they leave at the end of this turn of the loop."""
        self.loop.at_end_of_turn(self._flush)
        self.fast = not (self.closed or self.turns or self._sleeping)

    def _flush(self) -> bool:
        """Whether tasks were woken."""
        self.fast = False
        try:
            self._attempt(self._unattended or self.sender._native.flush)
        except BaseException:  # Ctrl-C: nothing else would flush what was taken
            self.loop.at_end_of_turn(self._flush)
            raise
        return bool(self._sleeping)

    # -- what was not reported, and the end

    def _keep(self, error: Exception) -> None:
        """For the next flush, drain or close."""
        self._failure = self._failure or error

    def raise_failure(self) -> None:
        """Raises what went wrong while nobody awaited it."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def settle(self) -> None:
        """Flushes. BlockingIOError while the kernel holds memory of the sender, too."""
        native = self.sender._native
        self._try(native.flush)
        if not native.poll():
            raise BlockingIOError(errno.EAGAIN, in_flight(native.in_flight))

    async def close(self, timeout: float) -> None:
        """Refuses more, and ends the sender when it has settled, or after `timeout`.

        A cancelled one goes on without anybody who awaits it.
        """
        if self.sender.closed:
            return
        self.check()
        self.closed, self.fast = True, False
        for turn in self.turns:
            turn.set()
        self._wake()
        deadline = time.monotonic() + timeout
        try:
            while not (self.sender.closed or self._settled()):
                await self._sleep(deadline)
        except TimeoutError:
            pass
        except Exception as error:
            self._keep(error)
        except BaseException:
            self._attempt(self._end_when_settled)
            raise
        self._end()

    def _settled(self) -> bool:
        try:
            self._try(self.settle)
        except BlockingIOError:
            return False
        return True

    def _end_when_settled(self) -> None:
        try:
            self.settle()
        except BlockingIOError:
            raise
        except Exception as error:
            self._keep(error)
        try:
            self._end()
        except Exception:  # nobody is left to raise it to
            log.exception("%r was closed, and nobody awaited it", self.sender)

    def _end(self) -> None:
        """Closes the plain sender, which does not wait: what is in flight is parked."""
        self._end_reader()
        self.sender.close(0)
        self.raise_failure()


class Turn:
    """One task's."""

    def __init__(self, waiting: Waiting) -> None:
        self._waiting = waiting

    async def __aenter__(self) -> None:
        waiting = self._waiting
        waiting.begin()
        waiting.fast = False
        self._event = waiting.loop.event()
        waiting.turns.append(self._event)
        if waiting.turns[0] is not self._event:
            try:
                await self._event.wait()
            except BaseException:
                self._leave()
                raise

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    def _leave(self) -> None:
        turns = self._waiting.turns
        turns.remove(self._event)
        if turns:
            turns[0].set()
