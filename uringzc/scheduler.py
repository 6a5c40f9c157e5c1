"""Scheduler: attach requests to slots, flush, submit; reap results and notifications. Over any engine."""

import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from uringzc._send import Delegate
from uringzc.address import Address
from uringzc.compiled import compiled
from uringzc.engines.choose import choose
from uringzc.engines.contract import FrameOptions
from uringzc.engines.facade import Facade
from uringzc.kernel.error_queue import ErrorMessage
from uringzc.memory import Region
from uringzc.notif import COMPLETIONS, Batch, Completion, Notification, Notifier, Slots

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Scheduler(Facade, Delegate):
    """Zero-copy sends, with notifications through slots of when their memory is free.

    `tags`: a u64 for each slot. `engine`: "io_uring" (Linux 6.0), "msg_zerocopy" (4.14, UDP 5.0) or "copy";
    "auto" picks the first that works here. OSError says why one cannot be used, and what would change that.
    "packet" and "af_xdp" send Ethernet frames of their own, past the kernel's sockets and firewall: see
    docs/packet.md; they need CAP_NET_RAW and the extra "packet". `qdisc_bypass`: of "packet": past the qdisc.
    `max_inflight`: how many requests can be held at once, counting those of notifiers that were not flushed;
    also how many completions, and notifications, can be unread. `completions`: which results are kept for
    ``reap_completions``: "all", "failed" or "none". `debug`: a checksum of each request's memory is taken
    when it is queued and again at its notification, and BufferModifiedError raised where they differ
    (default: `python -X dev` or URINGZC_DEBUG=1).

    May be built in one thread and used in another: it belongs to the thread that submits first; a call from
    another raises WrongThreadError and changes nothing. After fork it is the parent's: ClosedError in the
    child. A call inside another (in a signal handler, or a finalizer) raises BusyError.
    """

    __slots__ = ("__dict__", "__weakref__", "_completions", "_engine")

    def __init__(
        self,
        tags: Iterable[int] = (0,),
        *,
        engine: str = "auto",
        max_inflight: int = 8192,
        completions: str = "all",
        debug: bool | None = None,
        qdisc_bypass: bool = False,
    ) -> None:
        if completions not in COMPLETIONS:
            raise ValueError(f"completions is 'all', 'failed' or 'none', not {completions!r}")
        self._completions = completions
        kept = COMPLETIONS[completions]
        self._engine = choose(
            engine, max_inflight, kept, debug, frames=FrameOptions(qdisc_bypass=qdisc_bypass)
        )
        self._engine.refuse.what = "Scheduler"
        try:
            self._engine.slots.register(tags)
        except BaseException:
            self._engine.close()
            raise
        self._delegate(self._engine.queue)

    @compiled
    def send(
        self,
        sock: socket.socket,
        data: "Buffer | Region",
        *,
        offset: int = 0,
        length: int | None = None,
        to: Address | None = None,
        segment: int = 0,
        zero_copy: bool = True,
        slot: int = 0,
        user_data: int = 0,
        flush: bool = False,
    ) -> None:
        """Queues one send and attaches it to the notifier active in `slot`. A full queue is submitted.

        `data` (or `length` bytes of it from `offset`) and `sock` are held until that notifier's notification,
        and must not be written before. `to`: (host, port) for a socket that is not connected. `segment`:
        UDP_SEGMENT, the data leaves as datagrams of so many bytes. `user_data`: a u64 that comes back with
        the result. `flush`: flush the slot right behind this request.

        Nothing is queued when it raises: TypeError or BufferError for data or sockets that cannot be sent
        (from), ValueError for bytes that are not there, OSError EINVAL for a slot that does not exist, EBADF
        for a closed socket, EMSGSIZE for more than a datagram can carry, BlockingIOError when too much is in
        flight or unread (it says which). A socket that cannot send zero-copy (AF_UNIX, raw, kernel TLS) is
        served by copying, on the same notifier.

        A stream takes one send at a time: check its result, which may be less than `length`, before the next
        one is queued, else the rest of the first is overtaken. Not for SSLSocket, which encrypts.

        A socket that is closed between this and the submit fails with EBADF and sends nothing. With a full
        SO_SNDBUF the kernel sends when there is room, and datagrams may then overtake each other.
        Matches io_uring_prep_send_zc(), _fixed and, with `segment`, sendmsg_zc(), without which (before Linux
        6.1) it is copied; io_uring_prep_send() with zero_copy=False.
        """
        raise NotImplementedError  # it is in _native/request/send.c

    @compiled
    def send_run(
        self,
        sock: socket.socket,
        region: "Region | Buffer",
        size: int,
        count: int,
        stride: int | None = None,
        *,
        offset: int = 0,
        to: Address | None = None,
        zero_copy: bool = True,
        slot: int = 0,
        user_data: int = 0,
        flush: bool = False,
    ) -> int:
        """Queues `count` sends of `size` bytes, each `stride` (default: size) behind the one before.

        As many calls of ``send``, in one: request i has user_data + i, and with `flush` each request has a
        notification of its own. A full queue is submitted on the way.

        Returns how many were queued, which a program has to check: fewer than `count` when no more can be in
        flight. Send the rest when notifications were reaped. BlockingIOError when none was queued.
        """
        raise NotImplementedError  # it is in _native/request/send.c

    @compiled
    def flush(self, slot: int) -> Notifier | None:
        """Detaches the slot's notifier: no more is attached to it, and it will post its notification.

        None if it has no request: it is skipped, and its sequence does not advance. Does not submit. The
        notification counts as unread until ``reap_notifications`` has returned it. OSError EINVAL for a slot
        that does not exist.
        """
        raise NotImplementedError  # this and the rest are in _native/request/batch_calls.c

    @compiled
    def submit(self) -> int:
        """Hands what is queued to the kernel, and takes every result there is.

        Returns how many requests were submitted since it was called before. A send that finds the queue full
        submits it; so do calls that wait, and senders that share the scheduler (theirs are counted too).
        Matches io_uring_submit_and_get_events().
        """
        raise NotImplementedError

    @compiled
    def reap_completions(self, wait: int = 0, timeout: float | None = None) -> Batch[Completion]:
        """The results of requests. Says nothing about their memory.

        With `wait`, submits and blocks until that many can be read, `timeout` seconds are over, or no more
        can come. Without, it polls and never blocks.
        """
        raise NotImplementedError

    @compiled
    def reap_notifications(self, wait: int = 0, timeout: float | None = None) -> Batch[Notification]:
        """Notifications: memory that is free again. `wait` and `timeout` as in reap_completions."""
        raise NotImplementedError

    def _wait_completions(self, wait: int, timeout: float | None) -> None:
        counts = self._engine.slots.counts

        def missing() -> int:
            now = counts()
            return max(0, min(wait - int(now.unread_completions), int(now.awaiting)))

        self._wait(missing if self._completions != "none" else lambda: 0, timeout)

    def _wait_notifications(self, wait: int, timeout: float | None) -> None:
        counts = self._engine.slots.counts

        def missing() -> int:
            now = counts()
            more = wait - now.unread_notifications
            # each request in flight owes a CQE at least: for all notifiers, wait for all of those at once
            return max(0, more if more < now.flushed else now.unsettled) if more > 0 else 0

        self._wait(missing, timeout)

    def _wait(self, missing: Callable[[], int], timeout: float | None) -> None:
        if missing():
            self._engine.wait_for(missing, timeout, None)
        else:
            self._engine.submit()

    def errors(self, sock: socket.socket) -> list[ErrorMessage]:
        """What the socket's error queue holds, oldest first, and is then forgotten: ICMP errors, timestamps.

        The engine "msg_zerocopy" reads the error queues of sockets that it sends through, in which its
        notifications come too, and keeps other messages for this, up to 256 of all sockets together.
        The other engines do not read them. OSError EBUSY where another engine of the process reads this
        socket's. ClosedError once the engine has ended: the program can read the queue then.
        Matches recvmsg(MSG_ERRQUEUE).
        """
        return self._engine.errors(sock)

    @property
    def slots(self) -> Slots:
        """The slots: ``register``, ``unregister``, ``update``, ``len``."""
        return self._engine.slots

    @property
    def engine(self) -> str:
        """The name of the engine that was chosen."""
        return self._engine.name

    def __repr__(self) -> str:
        engine = self._engine
        return f"<Scheduler, {engine.name}, {len(engine.slots)} slots{', closed' if engine.closed else ''}>"
