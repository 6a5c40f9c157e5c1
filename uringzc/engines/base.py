"""What every engine is: accounts, a per-request path, senders, waiting, and a life that ends cleanly.

An engine feeds the accounts (``Slots``) and serves the per-request path (``_send.Queue``) through a table of
C functions. Which kernel interface it speaks is its subclass's: io_uring (``io_uring.py``), or sendmmsg with
and without MSG_ZEROCOPY (``msg_zerocopy.py``).
"""

import errno
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from socket import socket
from typing import TYPE_CHECKING, Any, Protocol

from uringzc import address, memory
from uringzc._send import Arena, Queue, TcpStream, UdpBatcher
from uringzc._uring import ffi, lib
from uringzc.engines import lifetime
from uringzc.engines.tables import require_socket
from uringzc.errors import E_BUSY, E_CLOSED, E_THREAD, BufferModifiedError, Refuser, UringzcError, in_flight
from uringzc.kernel import error_queue
from uringzc.kernel.error_queue import ErrorMessage
from uringzc.kernel.features import Reason
from uringzc.memory import Region
from uringzc.notif import Slots

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAX_INFLIGHT = 1 << 20
#: the smallest arena
ARENA_LEAST = 256 << 10
_BATCH = 32
_WAIT_MOST = 32768  # results that one call waits for


class Sender(Protocol):
    """What an engine needs of a sender."""

    def close(self, timeout: float = 5.0) -> None:
        """Sends what waits, drains, and ends."""


class Engine:
    """One engine. A subclass makes its native part, and calls ``_start`` with it."""

    name: str
    least = 1024  #: bytes of a datagram request from which on zero-copy pays
    passed_over: Mapping[str, Reason] = {}  #: better engines that "auto" could not choose, and why

    def __init__(self, max_inflight: int, completions: int, debug: bool) -> None:
        self.closed, self.dead = True, False
        in_range("max_inflight", max_inflight, MAX_INFLIGHT)
        self.refuse = Refuser("engine")  # who makes an engine says what it is part of
        self.slots = Slots(max_inflight, completions, self.refuse)
        self.debug = debug
        self.arena: Arena | None = None
        self.senders: weakref.WeakSet[Sender] = weakref.WeakSet()
        self._parts: list[UdpBatcher | TcpStream] = []  # listeners of internal slots
        self._lost: list[UdpBatcher | TcpStream] = []
        self._submitted = 0  # when newly_submitted() was called last
        self._out: Any = None  # a pointer to the native part, which is NULL when that has ended

    def _start(
        self,
        calls: Any,
        admit: Callable[[socket], tuple[int, int, int, int, bool]],
        retired: deque[tuple[int, int]],
    ) -> None:
        self.closed = False
        self.slots.posted = partial(_after_posting, weakref.ref(self))
        self.queue = Queue(
            int(ffi.cast("uintptr_t", self._native)),
            int(ffi.cast("uintptr_t", calls)),
            admit,
            memory.pin_checked if self.debug else memory.pin,
            address.pack,
            self.refuse,
            Region,
            retired,
            partial(_claimed, weakref.ref(self), self.refuse),
            memory.verify if self.debug else None,
        )
        lifetime.born(self)

    @property
    def _native(self) -> Any:
        """The native part, to be passed to C. ClosedError when it has ended: C never sees NULL."""
        pointer = self._out[0]
        if not pointer:
            self.refuse(E_CLOSED)
        return pointer

    @property
    def exists(self) -> bool:
        """Whether the native part has not ended: an engine that was closed may be parked."""
        return bool(self._out[0])

    # -- what a subclass has

    def register(self, size_or_buffer: "int | Buffer") -> Region:
        """Memory to send from, pinned once where the engine can."""
        raise NotImplementedError

    def unregistered(self, size: int) -> Region:
        """Memory to send from that is not pinned."""
        raise NotImplementedError

    def register_socket(self, sock: socket) -> None:
        """A socket that the engine may hold open."""
        raise NotImplementedError

    def unregister_socket(self, sock: socket) -> None:
        """Takes it back."""
        raise NotImplementedError

    def own_socket(self, sock: socket) -> None:
        """A sender has opened it: nobody has sent through it."""

    def why_copied(self, sock: socket) -> str:
        """Why zero-copy requests on the socket are copied, where that is the socket's history; else ""."""
        return ""

    def errors(self, sock: socket) -> list[ErrorMessage]:
        """What the socket's error queue holds, besides notifications."""
        require_socket(sock)
        if not self.exists:
            self.refuse(E_CLOSED)
        if lib.uzc_msg_zerocopy_taken(sock.fileno()):
            text = "another Scheduler or sender reads the socket's error queue: ask that one"
            raise OSError(errno.EBUSY, text)
        return error_queue.read(sock)

    def _fileno(self) -> int:
        raise NotImplementedError

    def _signal(self) -> None:
        raise NotImplementedError

    def _retire(self) -> None:
        """Lets go of memory that regions held and nothing sends from any more."""

    def _exit(self) -> None:
        """Ends the native part, and leaves NULL."""
        raise NotImplementedError

    def _leave(self) -> None:
        """In the child of a fork: drops descriptors, and leaves NULL."""
        raise NotImplementedError

    @property
    def lacks(self) -> str:
        """What is done without here, and would be faster with; "" if nothing."""
        return ""

    # -- whose it is

    def check(self) -> None:
        """Raises what a new request would be refused with."""
        self.refuse.check(lib.uzc_slots_check(self.slots.pointer))

    def is_owner(self) -> bool:
        """Whether this thread may use the engine."""
        return bool(lib.uzc_slots_is_owner(self.slots.pointer))

    def take(self) -> bool:
        """Whether it is this thread's: from now on, if it was nobody's."""
        return lib.uzc_slots_claim(self.slots.pointer) == 0

    # -- senders

    def claim(self) -> None:
        """This thread becomes the owner, before it has submitted anything."""
        self.refuse.check(lib.uzc_slots_claim(self.slots.pointer))
        _claimed(weakref.ref(self), self.refuse)

    def make_arena(self, size: int) -> Arena:
        """The memory that all senders of this engine gather in. Halved while it can not be locked."""
        if self.arena is None:
            region = None
            while region is None:
                try:
                    region = self.register(size)
                except OSError as error:
                    if error.errno != errno.ENOMEM:
                        raise
                    if size <= ARENA_LEAST:
                        region = self.unregistered(size)
                    size = max(size // 2, ARENA_LEAST)
            assert region._memory is not None
            self.arena = Arena(region._memory)
        return self.arena

    def attach(self, sender: "Sender", part: UdpBatcher | TcpStream) -> None:
        """Closing the engine closes the sender; its compiled part is kept while requests are in flight."""
        if self.is_owner() and not self.queue.busy:
            self.tidy()  # senders that were dropped give back what they held
        self.senders.add(sender)
        self._parts.append(part)

    def detach(self, part: UdpBatcher | TcpStream) -> None:
        """The sender is closed. While requests of it are in flight its compiled part stays."""
        if part.close_slot():
            with suppress(ValueError):  # its constructor failed before it was attached
                self._parts.remove(part)
        else:
            self._lost.append(part)

    def _batchers(self) -> list[UdpBatcher]:
        """Those that gather in the arena."""
        return [part for part in self._parts if isinstance(part, UdpBatcher) and not part.closed]

    def reclaim_arena(self, batcher: UdpBatcher, wait: bool) -> bool:
        """Other senders than this one give back what they can of the arena; whether any of it is free."""
        arena = self.arena
        others = [each for each in self._batchers() if each is not batcher and not each.busy]
        for other in others:
            other.release_block()
        if arena is None:
            return False

        def held() -> int:
            return int(not arena.free and any(other.in_flight for other in others))

        self.wait_for(held, None if wait else 0.0, None)
        return arena.free > 0

    def lost(self, part: UdpBatcher | TcpStream) -> None:
        """The sender was dropped, in any thread: a later call of the owner detaches it."""
        self._lost.append(part)

    # -- the kernel

    def submit(self) -> None:
        """Hands what is queued to the kernel, and takes every result there is."""
        self.queue.exclusive(self._enter, 1, 0, 0)

    def newly_submitted(self) -> int:
        """Requests that were submitted since this was called before: a full queue, and a wait, submit too."""
        before, self._submitted = self._submitted, self.queue.submitted
        return self._submitted - before

    def poll(self) -> None:
        """Takes every result there is."""
        self.queue.exclusive(self._enter, 0, 0, 0)

    def _enter(self, submit: int, wait: int, timeout_ns: int) -> int:
        lifetime.sweep()
        try:
            return self.queue.enter(submit, wait, timeout_ns)
        finally:
            self.tidy()

    def tidy(self) -> None:
        """After whatever may have posted notifiers: drops what they held.

        BufferModifiedError, in debug mode, where some of it was changed while the kernel owned it.
        """
        self.queue.release()
        if self._lost and self.is_owner():
            lost, self._lost = self._lost, []
            for part in lost:
                self.detach(part)
        if self.is_owner() and not self.closed:
            self._retire()
        self.queue.raise_modified()

    def wait_for(self, missing: Callable[[], int], timeout: float | None, what: str | None) -> None:
        """Submits, and waits until `missing()`, a lower bound of the CQEs that are needed, is 0.

        At the end of `timeout` it raises TimeoutError that names `what`, or returns if that is None.
        """
        if not self.queue.exclusive(self._wait, missing, timeout) and what is not None:
            raise TimeoutError(f"{what} is not done after {timeout} s: {self.describe()}")

    def _wait(self, missing: Callable[[], int], timeout: float | None) -> bool:
        deadline = None if timeout is None else time.monotonic() + timeout
        while need := missing():
            left = -1 if deadline is None else int(min(max(0, deadline - time.monotonic()), 1e9) * 1e9)
            # wait for all of them at once: a DEFER ring then sleeps once
            self._enter(1, min(need, _WAIT_MOST) if left else 0, left)
            if left == 0 and missing():
                return False
        return True

    def describe(self) -> str:
        """What the kernel still holds."""
        stats = self.slots.stats()
        return f"{in_flight(stats.in_flight)}, the oldest for {stats.oldest:.3f} s"

    def drain(self, timeout: float | None = None) -> None:
        """Waits until nothing is in flight, else TimeoutError."""
        self.wait_for(lambda: int(self.slots.counts().in_flight), timeout, "drain")

    def fileno(self) -> int:
        """A descriptor that is readable while there is something to reap."""
        self.check()
        return self._fileno()

    def signal(self) -> None:
        """Brings fileno() up to date after records were read."""
        if not self.closed:
            self._signal()

    # -- the end

    def close(self, timeout: float = 5.0) -> None:
        """Takes no more work, flushes, drains and exits; parks what is in flight after `timeout`."""
        if not self.closed:
            self._close(timeout)

    def end(self, timeout: float) -> None:
        """The owner ends: as close(), and what is parked already is drained too."""
        if self.closed:
            self._finish(timeout)
        else:
            self._close(timeout)

    def _close(self, timeout: float) -> None:
        if not self.is_owner():
            self.refuse(E_THREAD)
        if self.queue.busy or self.queue.inside:
            self.refuse(E_BUSY)
        deadline = time.monotonic() + timeout
        errors: list[Exception] = []
        for sender in list(self.senders):
            try:
                sender.close(max(0.0, deadline - time.monotonic()))
            except Exception as error:  # the others, and the engine, are to be closed too
                errors.append(error)
        if not self.closed:
            lifetime.park(self)  # first, and until it has ended: an interrupt from here on leaves it parked
            self.closed = True
            self._finish(max(0.0, deadline - time.monotonic()))
        if errors:
            raise errors[0]

    def _finish(self, timeout: float) -> None:
        lib.uzc_slots_close(self.slots.pointer)
        try:
            self.drain(timeout)
            self.tidy()
        except TimeoutError:
            pass
        finally:
            if not self.settle():
                self._warn()

    def _warn(self) -> None:
        message = f"a {self.refuse.what} was closed and is parked: {self.describe()}, the memory stays held"
        warnings.warn(message, ResourceWarning, stacklevel=5)

    def drop(self, lost: object) -> None:
        """The program lost it without close(): what it holds stays held, its owner's next call closes it.

        One that nobody owns, nor sends with, and that holds nothing, ends here.
        """
        if not self.closed:
            lifetime.park(self)
            self.closed = True
            lib.uzc_slots_set_closed(self.slots.pointer)
            used = lib.uzc_slots_has_owner(self.slots.pointer) or self.slots.counts().in_flight
            if not used and {*self.senders} <= {lost}:
                self.settle()
            warnings.warn(f"{type(lost).__name__} was not closed", ResourceWarning, source=lost, stacklevel=3)

    def settle(self) -> bool:
        """Of a parked engine: submits, takes what there is, and ends if nothing is in flight any more."""
        if self.exists and not self.queue.busy and not self.queue.inside and self.take():
            self.closed = True
            lib.uzc_slots_close(self.slots.pointer)
            with suppress(UringzcError, OSError):
                self.queue.enter(1, 0, 0)
            idle = not self.slots.counts().in_flight
            if idle:
                self.queue.release()
            with suppress(BufferModifiedError):  # nobody asked this engine for anything
                self.queue.raise_modified()
            if idle:
                self.queue.detach()
                self._exit()
                self._lost.clear()
                self._parts.clear()  # through which they, and so their arena, held each other
        if not self.exists:
            lifetime.unpark(self)
        return not self.exists

    def send_by_syscall(self) -> None:
        """The process ends, and the owner does not come back: senders send what waits without the ring."""
        for batcher in self._batchers():
            batcher.send_by_syscall()

    def abandon(self) -> None:
        """In the child of a fork: the ring is the parent's."""
        self.refuse.forked = not self.closed
        self.closed = self.dead = True
        for part in self._parts:
            part.abandon()
        if self.exists:
            lib.uzc_slots_close(self.slots.pointer)
            self.queue.detach()
            self._leave()


def _claimed(reference: "weakref.ref[lifetime.Engine]", refuse: Refuser) -> None:
    """The calling thread has become the owner of the engine."""
    refuse.claimed()
    lifetime.claimed(reference)


def _after_posting(reference: "weakref.ref[Engine]") -> None:
    """Slots were flushed: what notifiers held is dropped, and fileno() told."""
    engine = reference()
    if engine is not None and engine.exists:
        engine.tidy()
        engine.signal()


def batch_of(max_inflight: int) -> int:
    """Requests of one submission: a power of 2, as the entries of a ring are.

    Small batches keep the kernel's memory for requests in the cache: 32 took 0.9 of the time of 512.
    """
    return 1 << min(_BATCH, max_inflight).bit_length() - 1


def in_range(name: str, value: object, most: int) -> None:
    """TypeError or ValueError for what is no number of something."""
    if not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not 1 <= value <= most:
        raise ValueError(f"{name} must be from 1 to {most}, not {value}")
