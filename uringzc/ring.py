"""io_uring: the engine under a Scheduler, and Ring, the same without slots.

The ring is created disabled and enabled by the first submit, whose thread owns it from then on
(SINGLE_ISSUER, DEFER_TASKRUN). Results are taken out of the completion queue at every submit and look, so
nothing depends on its size. The per-request path is ``_native/send.c``.
"""

import errno
import socket
import time
import warnings
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from uringzc import address, lifetime, memory
from uringzc._send import Queue
from uringzc._uring import ffi, lib
from uringzc.errors import E_BUSY, E_THREAD, ClosedError, UringzcError, check, refuse
from uringzc.memory import Region
from uringzc.notif import COMPLETION_FIELDS, NOTIFICATION_UNKNOWN, RAW, Batch, Record, Slots, Stats
from uringzc.probe import features, memlock_hint
from uringzc.tables import Buffers, Sockets

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined,unused-ignore]

_SUBMIT_ALL, _COOP_TASKRUN, _SINGLE_ISSUER, _DEFER_TASKRUN = 1 << 7, 1 << 8, 1 << 12, 1 << 13
#: IORING_SETUP_* sets, best first; a kernel that does not know one says EINVAL
SETUP = (
    _SINGLE_ISSUER | _DEFER_TASKRUN | _SUBMIT_ALL,  # Linux 6.1
    _SINGLE_ISSUER | _COOP_TASKRUN | _SUBMIT_ALL,  # 6.0
    _COOP_TASKRUN | _SUBMIT_ALL,  # 5.19
    _SUBMIT_ALL,  # 5.18
)
MAX_INFLIGHT = 1 << 20
_CQ_MOST = 65536
_CQE_F_MORE, _CQE_F_NOTIF, _COPIED = 1 << 1, 1 << 3, 1 << 31


class RingEngine:
    """One ring, its accounts, its registered memory and sockets."""

    name = "io_uring"

    def __init__(
        self,
        max_inflight: int,
        completions: int,
        entries: int = 512,
        cq_entries: int | None = None,
        debug: bool = False,
    ) -> None:
        self.closed = True
        for name, value, most in (
            ("max_inflight", max_inflight, MAX_INFLIGHT),
            ("entries", entries, 32768),
            ("cq_entries", cq_entries or 1, _CQ_MOST),
        ):
            if not 1 <= value <= most:
                raise ValueError(f"{name} must be from 1 to {most}, not {value}")
        offered = features()
        if not offered.send_zc:
            raise OSError(errno.EOPNOTSUPP, "this kernel has no IORING_OP_SEND_ZC (Linux 6.0)")
        self.slots = Slots(max_inflight, completions)
        if not offered.report_usage:
            self.slots.notification = NOTIFICATION_UNKNOWN
        self._ring = self._create(entries, cq_entries or min(2 * max(max_inflight, entries), _CQ_MOST))
        lib.uzc_ring_features(self._ring, offered.report_usage, offered.fixed_message)
        self.closed = False
        self.debug = debug
        self.sockets = Sockets()
        self._buffers = Buffers(self._ring)
        self.queue = Queue(
            int(ffi.cast("uintptr_t", self._ring)),
            int(ffi.cast("uintptr_t", lib.uzc_ring_calls())),
            self.sockets.admit,
            memory.pin_checked if debug else memory.pin,
            address.pack,
            refuse,
            Region,
            self._buffers.retired,
            partial(lifetime.claimed, weakref.ref(self)),
            debug,
        )
        lifetime.born(self)

    def _create(self, entries: int, cq_entries: int) -> Any:
        out = ffi.new("uzc_ring **")
        code = -errno.EINVAL
        for self.setup in SETUP:
            code = lib.uzc_ring_new(out, entries, max(cq_entries, entries), self.setup, self.slots.pointer)
            if code != -errno.EINVAL:
                break
        if code == -errno.ENOMEM:
            raise OSError(errno.ENOMEM, f"no memory for a ring of {cq_entries} completions: {memlock_hint(0)}")
        check(code, "io_uring_setup")
        return out[0]

    def check(self) -> None:
        """Raises what a new request would be refused with."""
        check(lib.uzc_slots_check(self.slots.pointer))

    def mine(self) -> bool:
        """Whether this thread may use the engine."""
        return bool(lib.uzc_slots_mine(self.slots.pointer))

    def register(self, size_or_buffer: "int | Buffer") -> Region:
        """See Scheduler.register."""
        self.check()
        return self._buffers.register(size_or_buffer)

    def register_socket(self, sock: socket.socket) -> None:
        """See Scheduler.register_socket."""
        self.check()
        self.submit()  # what is queued goes by the descriptor
        self.sockets.register(self._ring, sock)

    def unregister_socket(self, sock: socket.socket) -> None:
        """See Scheduler.unregister_socket."""
        self.check()
        self.submit()
        self.sockets.unregister(self._ring, sock)

    # -- the kernel

    def submit(self) -> int:
        """Hands what is queued to the kernel, and takes every result there is."""
        with self.queue:
            return self._enter(1, 0, 0)

    def look(self) -> None:
        """Takes every result there is."""
        with self.queue:
            self._enter(0, 0, 0)

    def _enter(self, submit: int, wait: int, timeout_ns: int) -> int:
        lifetime.sweep()
        try:
            return self.queue.enter(submit, wait, timeout_ns)
        finally:
            self.tidy()

    def tidy(self) -> None:
        """After whatever may have posted notifiers: drops what they held, verifies it in debug mode."""
        self.queue.release()
        if self._buffers.retired and self.mine() and not self.closed:
            self._buffers.clear_retired()
        released = self.queue.released
        while released:
            held = released.pop()
            if isinstance(held, memory.Checked):
                held.verify()

    def wait_for(self, missing: Callable[[], int], timeout: float | None, what: str | None) -> None:
        """Submits, and waits until `missing()`, a lower bound of the CQEs that are needed, is 0.

        At the end of `timeout` it raises TimeoutError that names `what`, or returns if that is None.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self.queue:
            while need := missing():
                left = -1 if deadline is None else max(0, int((deadline - time.monotonic()) * 1e9))
                # wait for all of them at once: a DEFER ring then sleeps once
                self._enter(1, min(need, _CQ_MOST // 2) if left else 0, left)
                if left == 0 and missing():
                    if what is None:
                        return
                    raise TimeoutError(f"{what} is not done after {timeout} s: {self.describe()}")

    def describe(self) -> str:
        """What the kernel still holds."""
        stats = self.slots.stats()
        return f"{stats.in_flight} requests are in flight, the oldest for {stats.oldest:.3f} s"

    def drain(self, timeout: float | None = None) -> None:
        """Waits until nothing is in flight, else TimeoutError."""
        self.wait_for(lambda: int(self.slots.counts().in_flight), timeout, "drain")

    def fileno(self) -> int:
        """A descriptor that is readable while there is something to reap."""
        if self.closed:
            raise ClosedError("the engine is closed")
        return check(lib.uzc_ring_fileno(self._ring), "a descriptor to wait on")

    def signal(self) -> None:
        """Brings fileno() up to date after records were read."""
        if not self.closed:
            lib.uzc_ring_signal(self._ring)

    # -- the end

    def close(self, timeout: float = 5.0) -> None:
        """Takes no more work, flushes, drains and exits; parks what is in flight after `timeout`."""
        if self.closed:
            return
        if not self.mine():
            refuse(E_THREAD)
        if self.queue.busy:
            refuse(E_BUSY)
        self.closed = True
        lib.uzc_slots_close(self.slots.pointer)
        try:
            self.drain(timeout)
        except TimeoutError:
            self._park()
        except BaseException:
            self._park()
            raise
        else:
            self._exit()

    def _park(self) -> None:
        lifetime.park(self)
        message = f"an engine was closed and is parked: {self.describe()}, their memory stays held"
        warnings.warn(message, ResourceWarning, stacklevel=4)

    def drop(self, lost: object) -> None:
        """The program lost it without close(): what it holds stays held, its owner's next call closes it."""
        if not self.closed:
            self.closed = True
            lib.uzc_slots_shut(self.slots.pointer)
            warnings.warn(f"{type(lost).__name__} was not closed", ResourceWarning, source=lost, stacklevel=3)
            lifetime.park(self)

    def settle(self) -> bool:
        """Of a parked engine: whether it could be let go."""
        if self._ring is not None and not self.queue.busy:
            lib.uzc_slots_close(self.slots.pointer)
            with suppress(UringzcError, OSError):
                self.queue.enter(1, 0, 0)
            if not self.slots.counts().in_flight:
                self._exit()
        return self._ring is None

    def _exit(self) -> None:
        ring, self._ring = self._ring, None
        if ring is not None:
            self.queue.release()
            self.queue.detach()
            self.sockets.registered.clear()
            lib.uzc_ring_exit(ring)

    def abandon(self) -> None:
        """In the child of a fork: the ring is the parent's."""
        self.closed = True
        ring, self._ring = self._ring, None
        if ring is not None:
            lib.uzc_slots_close(self.slots.pointer)
            self.queue.detach()
            lib.uzc_ring_abandon(ring)


class RawCompletion(NamedTuple):
    """One CQE, copied out. Matches struct io_uring_cqe, with the caller's user_data."""

    user_data: int
    res: int  #: bytes or -errno; of a notification, what the kernel says of copying
    flags: int

    @property
    def more(self) -> bool:
        """IORING_CQE_F_MORE: a notification for this request follows."""
        return bool(self.flags & _CQE_F_MORE)

    @property
    def notif(self) -> bool:
        """IORING_CQE_F_NOTIF: the kernel is done with the request's memory."""
        return bool(self.flags & _CQE_F_NOTIF)

    @property
    def copied(self) -> bool:
        """Of a notification: the kernel copied the data, wholly or in part."""
        return self.notif and bool(self.res & _COPIED)


_RAW: Record[RawCompletion] = Record(COMPLETION_FIELDS, partial(tuple.__new__, RawCompletion))


class Ring:
    """io_uring without slots: what a liburing program does, with memory that is held until it is free.

    Each request posts the CQEs that the kernel posts for it: SEND one, SEND_ZC and SENDMSG_ZC two (the result
    with ``more``, then the ``notif``). Buffer and socket are held until the last of them. The thread that
    submits first owns the ring. Needs Linux 6.0. Matches io_uring_queue_init().
    """

    def __init__(
        self, entries: int = 512, *, cq_entries: int | None = None, max_inflight: int | None = None
    ) -> None:
        self._engine = RingEngine(max_inflight or 8192, RAW, entries, cq_entries)
        self._engine.slots.completion = _RAW

    def register(self, size_or_buffer: "int | Buffer") -> Region:
        """Registers memory; see Scheduler.register. Matches io_uring_register_buffers_update_tag()."""
        return self._engine.register(size_or_buffer)

    def register_socket(self, sock: socket.socket) -> None:
        """Registers a socket as a fixed file; see Scheduler.register_socket."""
        self._engine.register_socket(sock)

    def unregister_socket(self, sock: socket.socket) -> None:
        """Takes a registered socket back."""
        self._engine.unregister_socket(sock)

    def send(
        self,
        sock: socket.socket,
        data: "Buffer | Region",
        *,
        offset: int = 0,
        length: int | None = None,
        to: address.Address | None = None,
        segment: int = 0,
        msg_flags: int = 0,
        user_data: int = 0,
    ) -> None:
        """Queues a copying send. Matches io_uring_prep_send()."""
        self._engine.queue.send(
            *(sock, data),
            offset=offset,
            length=length,
            to=to,
            segment=segment,
            zero_copy=False,
            user_data=user_data,
            msg_flags=msg_flags,
        )

    def send_zc(
        self,
        sock: socket.socket,
        data: "Buffer | Region",
        *,
        offset: int = 0,
        length: int | None = None,
        to: address.Address | None = None,
        segment: int = 0,
        msg_flags: int = 0,
        user_data: int = 0,
    ) -> None:
        """Queues a zero-copy send, from registered memory if `data` is a region.

        `segment` sends it as datagrams of that many bytes (UDP_SEGMENT). Matches io_uring_prep_send_zc(),
        io_uring_prep_send_zc_fixed() and io_uring_prep_send_set_addr(). Linux 6.0.
        """
        self._engine.queue.send(
            *(sock, data),
            offset=offset,
            length=length,
            to=to,
            segment=segment,
            user_data=user_data,
            msg_flags=msg_flags,
        )

    def sendmsg_zc(
        self,
        sock: socket.socket,
        buffers: "Sequence[Buffer]",
        *,
        to: address.Address | None = None,
        segment: int = 0,
        msg_flags: int = 0,
        user_data: int = 0,
    ) -> None:
        """Queues one zero-copy send of several buffers, in order.

        A datagram may touch 17 pages that do not adjoin; with more the result is -EMSGSIZE. Matches
        io_uring_prep_sendmsg_zc(). Linux 6.1.
        """
        vector = memory.Vector(buffers)
        self._engine.queue.send(
            sock, vector, to=to, segment=segment, user_data=user_data, msg_flags=msg_flags
        )

    def submit(self, wait: int = 0, timeout: float | None = None) -> int:
        """Hands what is queued to the kernel; returns how many.

        With `wait`, returns when that many CQEs can be reaped, `timeout` seconds are over, or nothing is in
        flight. Matches io_uring_submit_and_wait_timeout().
        """
        submitted = self._engine.submit()
        if wait:
            counts = self._engine.slots.counts

            def missing() -> int:
                now = counts()
                return max(0, wait - now.unread_completions) if now.in_flight else 0

            self._engine.wait_for(missing, timeout, None)
        return submitted

    def reap(self) -> "Batch[RawCompletion]":
        """All CQEs there are, without waiting. Matches io_uring_for_each_cqe() and io_uring_cq_advance()."""
        engine = self._engine
        if not engine.closed:
            engine.look()
        batch: Batch[RawCompletion] = engine.slots.take_completions()
        engine.signal()
        return batch

    def drain(self, timeout: float | None = None) -> None:
        """Returns when nothing is in flight; TimeoutError says what is."""
        self._engine.drain(timeout)

    def fileno(self) -> int:
        """A descriptor for poll and select: readable while there is something to reap."""
        return self._engine.fileno()

    @property
    def stats(self) -> Stats:
        """A snapshot of what the ring has done."""
        return self._engine.slots.stats()

    def close(self, timeout: float = 5.0) -> None:
        """Waits up to `timeout` for the kernel, then lets the ring go; see Scheduler.close."""
        self._engine.close(timeout)

    def __enter__(self) -> "Ring":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        engine = getattr(self, "_engine", None)
        if engine is not None:
            engine.drop(self)
