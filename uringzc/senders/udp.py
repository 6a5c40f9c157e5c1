"""UdpSender: send() that is safe like a socket's, and several times faster.

Theory of operation
    ``send`` copies a datagram into registered memory, behind the one before it: datagrams of one size to one
    destination form a *train* (a GSO batch, which leaves as one request with UDP_SEGMENT, without another
    copy). Trains wait in a batch and are submitted together; each has its result when the submission returns,
    and what failed is sent again by a system call. All of that is compiled (``_native/udp/``) and calls
    UdpSlowPath for what is not fast. ``send`` never keeps a reference to memory that the program can change,
    so there are no lifetime rules; the calls that do not copy (``send_region``, a large ``bytes``, a lease)
    say what they hold and until when.

    What waits leaves with the next full batch, flush, drain or close, and after ``max_delay`` by a system
    call of the timer's thread (``timer.py``, one for all senders of the process), which does not touch the
    ring: only the owner's thread may enter that.

This file is the contract. Construction is in ``udp_setup``, sending from the program's own memory in
``udp_bulk``, and the end in ``udp_close``.
"""

import errno
import logging
import socket
import warnings
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from uringzc._send import Delegate, Lease
from uringzc.address import Address
from uringzc.compiled import compiled
from uringzc.errors import E_BUSY, E_THREAD, SendError, counted, in_flight
from uringzc.memory import Region
from uringzc.notif import Notification, Notifier
from uringzc.scheduler import Scheduler
from uringzc.senders import udp_bulk, udp_close
from uringzc.senders.integers import Integers
from uringzc.senders.stats import UdpStats, explain, snapshot
from uringzc.senders.udp_setup import ARENA, UdpParts, check_options, open_or_check

if TYPE_CHECKING:
    from typing_extensions import Buffer

log = logging.getLogger("uringzc")


class UdpSender(Delegate):
    """Sends datagrams. Data may be reused as soon as a call returns, except where the call says otherwise.

    `remote`: where ``send`` goes; without it each call names an address, or `sock` is connected. `sock`: an
    existing IPv4 or IPv6 UDP socket, which stays the program's; without it the sender has one of its own,
    `bind`: its own address, `family`: its address family (that of `remote`, else IPv4), `ttl`: of unicast and
    multicast, `interface`: the name or the address of the one that multicast leaves by. `sndbuf`: "auto"
    raises SO_SNDBUF, of `sock` too, to what `arena` and `max_inflight` need, as far as this process may (8
    MiB where it is privileged); an int is set as ``setsockopt`` would; None leaves it, and less is in flight
    at once.

    `scheduler`: share the ring, the arena and the charge for locked memory of another, in its thread.
    `zero_copy`: "auto" decides for each destination, "always", "never". `arena`: bytes of registered memory;
    less if the limit for locked memory is lower. `max_inflight`: requests whose memory is not free yet.
    `max_delay`: seconds after which what waits is sent, by a system call, even if the program does not call
    again; None: only at ``flush``, ``drain``, ``close``, and when a batch is full. `strict_order`: a request
    is submitted when the one before it has its result. `blocking`: False raises BlockingIOError where a call
    would wait for the network; ``fileno`` is readable when it is worth a try. `on_error` is called with each
    SendError, and `notify` with the Notification of each of the sender's notifiers, at the end of a call on
    the sender; what they call on it raises BusyError. `debug`: see Scheduler, of memory that is not copied.

    Order: datagrams to one destination reach the device in the order of the calls, unless one fails and is
    sent again (``stats.reordered``). Nothing is lost inside; what the kernel reports becomes a SendError.

    It belongs to the thread that sends first; WrongThreadError in another. After fork: ClosedError in the
    child. io_uring, Linux 6.0; trains, Linux 4.18.
    """

    __slots__ = ("__dict__", "__weakref__", "_batcher", "_engine", "_parts", "closed")

    def __init__(
        self,
        remote: Address | None = None,
        *,
        sock: socket.socket | None = None,
        bind: Address | None = None,
        family: int | None = None,
        ttl: int | None = None,
        interface: str | None = None,
        sndbuf: int | str | None = "auto",
        scheduler: Scheduler | None = None,
        engine: str = "auto",
        zero_copy: str = "auto",
        arena: int = ARENA,
        max_inflight: int | None = None,
        max_delay: float | None = 0.001,
        strict_order: bool = False,
        blocking: bool = True,
        on_error: Callable[[SendError], object] | None = None,
        notify: Callable[[Notification], object] | None = None,
        debug: bool | None = None,
    ) -> None:
        self.closed = True
        check_options(zero_copy, max_delay, on_error, notify, sndbuf, arena)
        if scheduler is not None and (max_inflight is not None or debug is not None or engine != "auto"):
            raise ValueError("engine, max_inflight and debug are the scheduler's that is shared")
        opened = open_or_check(sock, remote, bind, family, ttl, interface)
        parts = UdpParts(opened, sock is None, blocking, max_delay)
        try:
            parts.get_engine(scheduler, engine, max_inflight, debug)
            parts.make_batcher(zero_copy, arena, sndbuf, strict_order, on_error, notify)
            parts.engine.attach(self, parts.batcher)
            parts.prepare_socket(remote)
        except BaseException:
            parts.abort()
            raise
        self._parts, self._engine, self._batcher = parts, parts.engine, parts.batcher
        self._delegate(parts.batcher)
        self.closed = False

    # -- sending

    @compiled
    def send(self, data: "Buffer", to: Address | None = None) -> int:
        """Takes one datagram, and returns its size, as ``socket.send`` does. 0 bytes are a datagram too.

        `data` may be reused at once: it was copied. Only a ``bytes`` of 16 KiB or more, which cannot change,
        is held and sent from where it is. `to`: where to, if not to `remote` or where the socket is connected
        to; a name is resolved each time that it is given, in the call.

        Raises only what this datagram is the cause of, and has not taken it then: TypeError or BufferError
        for what is no contiguous buffer or no address, OSError EMSGSIZE for more than UDP carries,
        BlockingIOError (``blocking=False``) where it would wait. What becomes of it later is reported to
        ``on_error``, or raised by the next flush, drain or close: OSError EBADF, too, where the socket was
        closed under the sender.
        """
        raise NotImplementedError  # it is in _native/udp/send.c

    @compiled
    def sendto(self, data: "Buffer", *address: Any) -> int:
        """``sendto(data, address)``, or with flags between them, which must be 0: as ``send(data, to)``."""
        raise NotImplementedError  # it is in _native/udp/send.c

    def send_many(
        self, datagrams: "Iterable[Buffer]", to: "Address | Iterable[Address] | None" = None
    ) -> int:
        """As ``send`` of each, in one call. `to` is one address, or one for each datagram. Returns how many.

        An error ends it. What came before is sent; BlockingIOError says in ``characters_written`` how many.
        """
        return self._batcher.send_many(datagrams, to)

    def fan_out(self, data: "Buffer", addresses: Iterable[Address]) -> Notifier:
        """One payload, kept in one place, to many addresses; done when all of them are.

        An error ends it, as in ``send_many``.
        """
        some = list(addresses)
        taken = 0
        try:
            self.flush()  # so that the notifier is for this call only
            taken = self._batcher.fan_out(data, some)
            return self.flush()
        except BlockingIOError as error:
            error.characters_written = max(taken, getattr(error, "characters_written", 0))
            raise

    @compiled
    def lease(self, size: int, /) -> Lease:
        """`size` bytes of registered memory to fill, and to ``send`` without a copy.

        The memory is returned by ``Lease.send``, by leaving a ``with`` block, or by dropping the lease.
        BlockingIOError when leases that were not sent hold the whole arena. ValueError for more than a
        datagram carries.
        """
        raise NotImplementedError  # it is in _native/udp/lease.c

    def register(self, buffer: "int | Buffer") -> Region:
        """Memory for ``send_region`` and ``send_slices``: see ``Scheduler.register``."""
        return self._engine.register(buffer)

    def send_region(
        self,
        region: "Region | Buffer",
        offset: int = 0,
        length: int | None = None,
        segment: int | None = None,
        to: Address | None = None,
        *,
        progress: Callable[[int], object] | None = None,
    ) -> int:
        """`length` bytes of memory as datagrams of `segment` bytes each, without a copy. Returns how many.

        A registered ``Region``, or any buffer: a mapped file, an array. Without `segment` it is one datagram.
        The memory is held, and must not be written, until a ``flush`` after this is done. `progress` is
        called with the number of datagrams so far, after each batch; an exception of it, or Ctrl-C, ends the
        call, and what was taken until then is sent. No more than fits the socket's buffer is in flight.
        """
        return udp_bulk.send_region(self._batcher, region, offset, length, segment, to, progress)

    def send_slices(
        self,
        region: "Region | Buffer",
        offsets: Integers,
        lengths: Integers,
        to: Address | None = None,
        *,
        progress: Callable[[int], object] | None = None,
    ) -> int:
        """A datagram for each offset and length in the memory, in one call: a capture. Returns how many.

        Two arrays of 32 or 64 bits (numpy, array.array), or sequences of ints. Slices below 16 KiB are copied
        and joined to trains, which is faster than to send each from where it is; larger ones are not copied.
        Nothing is sent if one of them is not all in the memory (ValueError). Otherwise as ``send_region``.
        """
        return udp_bulk.send_slices(self._batcher, region, offsets, lengths, to, progress)

    # -- flushing and closing

    def flush(self) -> Notifier:
        """Submits everything that was taken; when it returns, each request has its result.

        The Notifier is done when the kernel holds none of the memory any more. Raises the first SendError
        that was not reported. BlockingIOError (``blocking=False``) where it would wait: the rest stays taken.
        """
        numbers = self._batcher.flush()
        self._parts.slow_path.raise_errors()
        return Notifier(self._engine, *numbers) if numbers else self._parts.nothing_in_flight

    def drain(self, timeout: float | None = None) -> None:
        """Flushes, and returns when the kernel holds no memory of this sender any more.

        TimeoutError says what it holds. With ``blocking=False`` and no `timeout` it does not wait, but raises
        BlockingIOError.
        """
        self._batcher.flush()
        if not self._parts.blocking and timeout is None and not self._batcher.poll():
            raise BlockingIOError(errno.EAGAIN, in_flight(self._batcher.in_flight))
        udp_close.wait_for_memory(self._parts, timeout, "drain")
        self._parts.slow_path.raise_errors()

    def close(self, timeout: float = 5.0) -> None:
        """Refuses more, flushes, drains, and ends. May be repeated.

        What the kernel holds after `timeout` is parked, see ``Scheduler.close``; what could not be sent in
        that time is lost, with a SendError. Closes a socket of the sender's own. BusyError inside a call.
        """
        if self.closed:
            return
        if self._engine.dead:  # in the child of a fork
            self.closed = True
            self._parts.close_socket()
            return
        if not self._engine.is_owner():
            self._parts.slow_path.refuse(E_THREAD)
        if self._batcher.busy:
            self._parts.slow_path.refuse(E_BUSY)
        self.closed = True
        udp_close.close(self._parts, timeout)

    def __enter__(self) -> "UdpSender":
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
        if getattr(self, "closed", True) or self._engine.dead:
            return
        self.closed = True
        self._batcher.drop()  # sends what waits, by system calls
        if self._parts.own_engine:
            self._engine.finalize(self)
        else:
            self._engine.senders.detach_later(self._batcher)
            warnings.warn("UdpSender was not closed", ResourceWarning, source=self, stacklevel=2)

    # -- what it does

    def fileno(self) -> int:
        """A descriptor for poll and select.

        With ``blocking=False`` readable when a call that raised BlockingIOError is worth a try, until one
        like it has succeeded; otherwise when memory may be free. Where the scheduler is shared, then also
        while that has something to reap.
        """
        return self._engine.fileno() if self._parts.blocking else self._batcher.fileno()

    @property
    def stats(self) -> UdpStats:
        """A snapshot of what it has done."""
        return snapshot(self._batcher, self._parts.slow_path)

    def explain(self) -> str:
        """What is being done, and why, in a few sentences."""
        return explain(self._engine, self._batcher, self._parts.slow_path, self._parts.arena)

    def __repr__(self) -> str:
        state = ", closed" if self.closed else ""
        return f"<UdpSender, {self._engine.name}, {counted(self._batcher.datagrams, 'datagram')}{state}>"
