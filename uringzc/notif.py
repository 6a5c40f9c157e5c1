"""Slots, notifiers and notifications: when memory that was sent is the program's again.

The rules
    - A *slot* holds one active *notifier*. A request that names the slot is attached to that notifier.
    - ``flush`` detaches the active notifier, which takes no more requests; the slot's next request starts the
      next one. A slot without a request since its last flush is skipped: its sequence does not advance.
    - A flushed notifier posts exactly one notification, when every request attached to it has completed and
      the kernel no longer needs their memory. It has the slot's tag, the notifier's sequence number, and how
      many requests, bytes, copies and failures there were.
    - A notifier takes its slot's tag and next sequence number (u32, wraps) with its first request.
    - Notifications of one slot may come out of order, and up to ``max_inflight`` may be outstanding, of all
      slots together. A notifier never posts before its flush, never twice, and never while the kernel can
      still read a byte of its memory.

These slots are this library's; the kernel API of that name was withdrawn before Linux 6.0.

Theory of operation
    The kernel reports on single requests. io_uring posts two CQEs for a zero-copy request: its result, with
    IORING_CQE_F_MORE, and a second one with IORING_CQE_F_NOTIF when its memory is free. A request that is
    copied, or refused at once, has a result without F_MORE and no second CQE. The other engines report the
    same two events. The request table (``_native/slots/``) turns them into notifications of slots; it does no
    I/O, and engines set its time. A request goes through these states:

    ======== =============== ============== ======================
    state    result, F_MORE  result alone   F_NOTIF
    ======== =============== ============== ======================
    FREE     stray           stray          stray
    QUEUED   PENDING         SETTLED        SETTLED (ECANCELED)
    PENDING  stray           stray          SETTLED
    SETTLED  stray           stray          stray
    ======== =============== ============== ======================

    The flags decide, never the sign of the result: a request that failed may be PENDING too. *Stray* events
    are counted (``stats.stray``) and change nothing. The user_data of an SQE is the request's index in the
    table with a generation, so that an event of an earlier request with the same index is stray.

    A notifier is ACTIVE until it is flushed, FLUSHED while a request of it is QUEUED or PENDING, then DONE.
    At DONE its notification is queued for ``reap_notifications()``, and the references that its requests
    held (memory and socket) are dropped by the engine's next call.
"""

import errno
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, Protocol

from uringzc._send import NotifierBase, owner
from uringzc._uring import ffi, lib
from uringzc.errors import Refuser, counted, refuse
from uringzc.records import Batch as Batch
from uringzc.records import Record as Record
from uringzc.records import explained, renamed, snapshot

MAX_SLOTS = 32768
COMPLETIONS = {"none": 0, "failed": 1, "all": 2}
RAW = 3
_U32 = 0xFFFFFFFF
_U64 = 0xFFFFFFFFFFFFFFFF


@explained
class Completion(NamedTuple):
    """A request's result. Says nothing about its memory: that is the notification's."""

    user_data: Annotated[int, "the u64 that the request was given"]
    result: Annotated[int, "bytes accepted by the kernel, or -errno"]

    @property
    def error(self) -> OSError | None:
        """The failure as an exception (not raised), or None."""
        return OSError(-self.result, os.strerror(-self.result)) if self.result < 0 else None


@explained
class Notification(NamedTuple):
    """The memory of every request of one notifier is the program's again."""

    tag: Annotated[int, "the slot's u64 when the notifier's first request was queued"]
    sequence: Annotated[int, "counts the slot's notifiers from 0; a u32 that wraps"]
    slot: Annotated[int, "the number of the slot; 0 of a sender's notifiers"]
    requests: Annotated[int, "requests that were attached, those that failed too"]
    nbytes: Annotated[int, "bytes of them that the kernel accepted"]
    copied: Annotated[int | None, "requests that the kernel copied after all; None where it cannot tell"]
    failed: Annotated[int, "requests that ended with an error"]


def notification(fields: tuple[int, ...]) -> Notification:
    """A Notification as C has it: -1 copied requests stand for None."""
    tag, sequence, slot, requests, nbytes, copied, failed = fields
    return Notification(tag, sequence, slot, requests, nbytes, None if copied < 0 else copied, failed)


_NOTIFICATION_FIELDS = [
    *(("tag", "u8"), ("sequence", "u4"), ("slot", "u4"), ("requests", "u8")),
    *(("nbytes", "u8"), ("copied", "i8"), ("failed", "u8")),
]
COMPLETION_FIELDS = [("user_data", "u8"), ("result", "i4"), ("flags", "u4")]
COMPLETION = Record(COMPLETION_FIELDS, Completion)
NOTIFICATION = Record(_NOTIFICATION_FIELDS, Notification)
#: where the kernel cannot say what it copied
NOTIFICATION_UNKNOWN = Record(_NOTIFICATION_FIELDS, Notification, unknown="copied")


@dataclass(frozen=True)
@explained
class Stats:
    """What a Scheduler or a Ring has done up to a moment."""

    requests: Annotated[int, "requests that were queued"]
    nbytes: Annotated[int, "bytes accepted by the kernel"]
    completions: Annotated[int, "results seen"]
    failed: Annotated[int, "of those, errors"]
    notifications: Annotated[int, "notifications posted"]
    nbytes_copied: Annotated[int, "bytes that the kernel copied, as far as it tells"]
    in_flight: Annotated[int, "requests whose memory the kernel may still read, or that are not submitted"]
    oldest: Annotated[float, "seconds since the oldest of those was queued; 0.0 if there is none"]
    stray: Annotated[int, "completions that matched no request; always 0 if kernel and library agree"]
    held: Annotated[int, "requests whose notifier has not posted its notification"]
    open: Annotated[int, "notifiers with requests that were not flushed"]
    unread_completions: Annotated[int, "results that reap_completions() has not returned yet"]
    unread_notifications: Annotated[int, "notifications that reap_notifications() has not returned yet"]

    bytes = renamed("bytes", "nbytes")
    copied = renamed("copied", "nbytes_copied")


class Slots:
    """The slots of one engine: ``register`` and ``unregister`` them, ``update`` a range of them."""

    def __init__(self, max_inflight: int, completions: int, refuse: Refuser = refuse) -> None:
        pointer = lib.uzc_slots_new(max_inflight, completions)
        if pointer == ffi.NULL:
            raise MemoryError(f"no memory for a table of {max_inflight} requests")
        self.pointer = pointer
        self.max_inflight = max_inflight
        self._check = refuse.check
        # not ffi.gc: the collector would run its destructor on a cycle that a finalizer then brings back
        free = ffi.cast("uintptr_t", ffi.addressof(lib, "uzc_slots_free"))
        #: frees them with its last reference; C code that uses them has one
        self.allocation = owner(int(ffi.cast("uintptr_t", pointer)), int(free))
        self.completion: Record[Any] = COMPLETION
        self.notification = NOTIFICATION
        self._stats = ffi.new("uzc_stats *")
        self.posted: Callable[[], None] = lambda: None  #: set by the engine; notifiers may have posted

    def __len__(self) -> int:
        return int(lib.uzc_slots_count(self.pointer))

    def register(self, tags: Iterable[int]) -> None:
        """Makes slots with these u64 tags, numbered from 0; their sequences start at 0.

        OSError EBUSY when slots are registered already, EINVAL for none or more than 32,768 tags.
        """
        tags = list(tags)
        if not 1 <= len(tags) <= MAX_SLOTS:
            raise OSError(errno.EINVAL, f"slots are 1 to {MAX_SLOTS}, not {len(tags)}")
        for tag in tags:
            _u64("tag", tag)
        self._check(lib.uzc_slots_register(self.pointer, tags, len(tags)), "register slots")

    def unregister(self) -> None:
        """Flushes every slot that has requests, and returns at once; the notifications still come.

        OSError ENXIO when no slots are registered.
        """
        self._check(lib.uzc_slots_unregister(self.pointer), "unregister slots")
        self.posted()

    def update(self, first: int, count: int, tag: int | None = None) -> None:
        """Flushes `count` slots from `first`, and gives them `tag` for what comes next (None keeps theirs).

        A slot without requests is skipped and keeps its tag. OSError EINVAL for a range that is not all
        there, EOVERFLOW where first + count passes a u32; nothing was changed then.
        """
        if first < 0 or count < 0:
            raise OSError(errno.EINVAL, f"no slots {first} to {first + count}")
        if first + count > _U32:
            raise OSError(errno.EOVERFLOW, "first + count passes a u32")
        if tag is not None:
            _u64("tag", tag)
        code = lib.uzc_slots_update(self.pointer, first, count, tag or 0, tag is None)
        self._check(code, f"slots {first}+{count}")
        self.posted()

    def flush(self, slot: int) -> int:
        """The number of the notifier that was flushed, 0 if the slot had none with requests."""
        if not 0 <= slot <= _U32:
            raise OSError(errno.EINVAL, f"no slot {slot}")
        number = int(self._check(lib.uzc_slots_flush(self.pointer, slot), f"slot {slot}"))
        self.posted()
        return number

    def unsettled(self, number: int) -> int:
        """Requests of a flushed notifier that the kernel still holds; 0 when its notification was posted."""
        return int(lib.uzc_slots_unsettled(self.pointer, number))

    def counts(self) -> Any:
        """The C struct uzc_stats, updated: for the loops of engines."""
        lib.uzc_slots_stats(self.pointer, self._stats)
        return self._stats

    def stats(self) -> Stats:
        """A snapshot."""
        c = ffi.new("uzc_stats *")  # of this call alone: any thread may ask
        lib.uzc_slots_stats(self.pointer, c)
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000_000 & _U32
        oldest = lib.uzc_slots_oldest(self.pointer, now) / 1000
        return snapshot(Stats, c, nbytes_copied=c.copied, oldest=oldest)


def _u64(name: str, value: int) -> None:
    if not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not 0 <= value <= _U64:
        raise ValueError(f"{name} must fit a u64, not {value}")


class Waiter(Protocol):
    """What a Notifier needs of the engine that will post it."""

    slots: Slots

    def poll(self) -> None:
        """Takes every result there is, without waiting."""

    def wait_for(self, missing: Callable[[], int], timeout: float | None, what: str) -> None:
        """Waits until `missing()`, the least number of CQEs still to come, is 0; TimeoutError."""


class Notifier(NotifierBase):
    """Handle of a flushed notifier: whether its notification has been posted.

    The notification has to be read all the same, with ``reap_notifications()``: unread ones count against
    ``max_inflight``. One that a sender returned covers every request that the sender had flushed until then;
    the sender reads the notifications itself.
    """

    __slots__ = ()
    _engine: Waiter
    _numbers: int | tuple[int, ...]

    def __init__(self, engine: Waiter, *numbers: int) -> None:
        self._engine = engine
        self._numbers = numbers

    def _unsettled(self) -> int:
        unsettled, numbers = self._engine.slots.unsettled, self._numbers
        return unsettled(numbers) if isinstance(numbers, int) else sum(map(unsettled, numbers))

    @property
    def done(self) -> bool:
        """True once the memory of all its requests is the program's again. Polls the kernel, never blocks."""
        if self._unsettled():
            self._engine.poll()
        return not self._unsettled()

    def wait(self, timeout: float | None = None) -> None:
        """Submits what is queued, and returns when `done` is True; TimeoutError after `timeout` seconds."""
        if self._unsettled():
            self._engine.wait_for(self._unsettled, timeout, "the notifier")

    def __repr__(self) -> str:
        left = self._unsettled()
        return f"<Notifier, {counted(left, 'request')} in flight>" if left else "<Notifier, done>"
