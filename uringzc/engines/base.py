"""Engine: what is common to all engines. Requests, submitting, waiting, and the thread that owns it.

An engine accounts for its requests in ``Slots``, and has a per-request path, ``_send.Queue``, that calls the
kernel interface through a table of C functions. ``contract.py`` lists what a subclass adds. The senders of an
engine are in ``attached.py``, and how it ends in ``lifetime.py``.
"""

import errno
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from socket import socket
from typing import Any

from uringzc import address, memory
from uringzc._send import Arena, Queue, TcpStream, UdpBatcher
from uringzc._uring import ffi, lib
from uringzc.engines import lifetime
from uringzc.engines.attached import MIN_ARENA, AttachedSenders, Sender
from uringzc.engines.contract import KernelInterface
from uringzc.engines.tables import Sockets, new_region, require_socket
from uringzc.errors import E_CLOSED, Refuser, in_flight
from uringzc.kernel import error_queue
from uringzc.kernel.error_queue import ErrorMessage
from uringzc.kernel.reasons import Reason
from uringzc.memory import Region
from uringzc.notif import RAW, Batch, Notifier, Slots

MAX_INFLIGHT = 1 << 20
_BATCH = 32
UNHELD = "engine"  # `what` of one that no Scheduler, Ring or sender has yet, which would end it
_MAX_WAIT = 32768  # CQEs that one call of the kernel waits for


class Engine(KernelInterface):
    """One engine: its slots, its queue and its senders. It belongs to the thread that submits first."""

    closed, dead = True, False  #: dead: the parent's, in the child of a fork
    passed_over: Mapping[str, Reason] = {}  #: better engines that "auto" could not choose, and why

    def __init__(self, max_inflight: int, completions: int, debug: bool) -> None:
        in_range("max_inflight", max_inflight, MAX_INFLIGHT)
        self.refuse = Refuser(UNHELD)  # whoever makes an engine sets its `what`
        self.slots = Slots(max_inflight, completions, self.refuse)
        self.debug = debug
        self.senders = AttachedSenders()
        self.sockets = Sockets(raw=completions == RAW)
        #: (first, parts) of closed regions that were registered: any thread adds, ``_clear_retired`` takes
        self.retired: deque[tuple[int, int]] = deque()

    def _start(self, calls: Any) -> None:
        """The last step of making an engine. `calls`: its ``uzc_calls``."""
        self.slots.posted = partial(_after_posting, weakref.ref(self))
        self.queue = Queue(
            int(ffi.cast("uintptr_t", self._native)),
            int(ffi.cast("uintptr_t", calls)),
            self.slots.allocation,
            self._describe_socket(),
            memory.pin_checked if self.debug else memory.pin,
            address.pack,
            self.refuse,
            self._path_finder(),
            partial(_claimed, weakref.ref(self), self.refuse),
            partial(_tidy, weakref.ref(self)),
            memory.verify if self.debug else None,
            Region,
            Notifier,
            Batch,
            self.slots,
            self.retired,
            lifetime.parked_list(),
            self.senders.to_detach,
        )
        self.closed = False
        lifetime.track(self)

    def _describe_socket(self) -> Callable[[socket], tuple[int, int, int, int, bool]]:
        """What describes a socket to the per-request path: see ``Sockets.describe_socket``."""
        return self.sockets.describe_socket

    def _path_finder(self) -> Callable[[socket, bytes | None, bool], None] | None:
        """What finds the path of a request after UZC_E_PATH; without references to the engine."""
        return None

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

    def unregistered(self, size: int) -> Region:
        """Memory to send from that is not pinned: for senders, where locked memory is short."""
        return new_region(size, self.retired)

    def register_socket(self, sock: socket) -> None:
        """See Scheduler.register_socket. Without a table of files the socket is only remembered."""
        self.check()
        self.sockets.register(sock)

    def unregister_socket(self, sock: socket) -> None:
        """See Scheduler.unregister_socket."""
        self.check()
        self.submit()
        self.sockets.unregister(sock)

    def errors(self, sock: socket) -> list[ErrorMessage]:
        """What the socket's error queue holds, besides notifications."""
        require_socket(sock)
        if not self.exists:
            self.refuse(E_CLOSED)
        if lib.uzc_msg_zerocopy_taken(sock.fileno()):
            text = "another Scheduler or sender reads the socket's error queue: call its errors()"
            raise OSError(errno.EBUSY, text)
        return error_queue.read(sock)

    def check(self) -> None:
        """Raises what a new request would be refused with."""
        self.refuse.check(lib.uzc_slots_check(self.slots.pointer))

    def is_owner(self) -> bool:
        """Whether this thread may use the engine."""
        return bool(lib.uzc_slots_is_owner(self.slots.pointer))

    def try_claim(self) -> bool:
        """Whether this thread owns the engine; it does from now on if no thread did."""
        return lib.uzc_slots_claim(self.slots.pointer) == 0

    def claim(self) -> None:
        """This thread becomes the owner, before it has submitted anything."""
        self.refuse.check(lib.uzc_slots_claim(self.slots.pointer))
        _claimed(weakref.ref(self), self.refuse)

    def attach(self, sender: Sender, part: UdpBatcher | TcpStream) -> None:
        """A new sender: closing the engine closes it. `part`: its compiled part."""
        if self.is_owner() and not self.queue.busy:
            self.queue.tidy()  # also what senders held that were dropped
        self.senders.add(sender, part)

    def make_arena(self, size: int) -> Arena:
        """The arena of all UDP senders of this engine. `size`: of a new one.

        Its memory is halved while it cannot be locked, and not registered where MIN_ARENA cannot be.
        """
        with self.senders.making_arena:
            while self.senders.arena is None:
                try:
                    region = self.register(size)
                except OSError as error:
                    if error.errno != errno.ENOMEM:
                        raise
                    if size > MIN_ARENA:
                        size = max(size // 2, MIN_ARENA)
                        continue
                    region = self.unregistered(size)
                assert region._memory is not None
                self.senders.arena = Arena(region._memory)
            return self.senders.arena

    def reclaim_arena(self, batcher: UdpBatcher) -> bool:
        """Has the other UDP senders release what they can of the arena; whether any of it is free."""
        others = self.senders.release_blocks(batcher)
        arena = self.senders.arena
        if arena is None:
            return False

        def held() -> int:
            return int(not arena.free and any(other.in_flight for other in others))

        self.wait_for(held, None if batcher.blocking else 0.0, None)
        return arena.free > 0

    def submit(self) -> None:
        """Hands what is queued to the kernel, and takes every result there is."""
        self.queue.poll(True)

    def poll(self) -> None:
        """Takes every result there is, without waiting."""
        self.queue.poll(False)

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
            # wait for all of them at once: a DEFER_TASKRUN ring then sleeps once
            self._enter(1, min(need, _MAX_WAIT) if left else 0, left)
            if left == 0 and missing():
                return False
        return True

    def _enter(self, submit: int, wait: int, timeout_ns: int) -> int:
        try:
            return self.queue.enter(submit, wait, timeout_ns)
        finally:
            self.queue.tidy()

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

    def close(self, timeout: float = 5.0) -> None:
        """Takes no more work, flushes, drains and exits; parks what is in flight after `timeout`."""
        if not self.closed:
            lifetime.close(self, timeout)

    def __del__(self) -> None:
        """Ends one that has no holder: its constructor failed, or an interrupt came before it was stored."""
        out = getattr(self, "_out", None)
        if out and out[0] and self.refuse.what == UNHELD:
            self._exit()


def _claimed(reference: "weakref.ref[lifetime.Engine]", refuse: Refuser) -> None:
    """The calling thread has become the owner of the engine."""
    refuse.claimed()
    lifetime.claimed(reference)


def _tidy(reference: "weakref.ref[Engine]") -> None:
    """What was left for a call of the owner's, in any of this thread's engines or in this one."""
    lifetime.release_parked()
    engine = reference()
    if engine is not None:
        engine.senders.detach_closed()
        if not engine.closed:
            engine._clear_retired()


def _after_posting(reference: "weakref.ref[Engine]") -> None:
    """Slots were flushed, which may have posted notifiers: drops what they held, and updates fileno()."""
    engine = reference()
    if engine is not None and engine.exists:
        engine.queue.tidy()
        engine.queue.signal()


def batch_of(max_inflight: int, most: int = _BATCH) -> int:
    """Requests of one submission: a power of 2, as the entries of a ring are.

    Small batches keep the kernel's memory for requests in the cache: 32 took 0.9 of the time of 512.
    """
    return 1 << min(most, max_inflight).bit_length() - 1


def in_range(name: str, value: object, maximum: int) -> None:
    """TypeError or ValueError for what is not an int from 1 to `maximum`."""
    if not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not 1 <= value <= maximum:
        raise ValueError(f"{name} must be from 1 to {maximum}, not {value}")
