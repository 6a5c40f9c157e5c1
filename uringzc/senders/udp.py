"""UdpSender: send() that is safe like a socket's, and several times faster.

Theory of operation
    ``send`` copies a datagram into registered memory, behind the one before it: datagrams of one size to one
    destination form a *train* (a GSO batch, which leaves as one request with UDP_SEGMENT, without another
    copy). Trains wait in a batch and are submitted together; each has its result when the submission returns,
    and what failed is sent again by a system call. All of that is compiled (``_native/udp/``); what is done
    once per submission, or less often, is UdpSlowPath's. ``send`` keeps no reference to memory that can
    change, so it may be reused at once; the calls that do not copy (``send_region``, a large ``bytes``, a
    lease) say what they hold and until when.

    What waits leaves with the next full batch, flush, drain or close, and after ``max_delay`` by a system
    call of the timer's thread (``timer.py``, one for all senders of the process), which does not touch the
    ring: only the owner's thread may enter that.

This file has the public methods. Defaults and limits of options are in ``udp_setup``, sending from the
program's own memory in ``udp_bulk``, sending the rest at the end in ``udp_close``, and what all senders share
in ``base``.
"""

import errno
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from uringzc import address
from uringzc._send import Arena, Lease, UdpBatcher, UdpGroup
from uringzc.address import Address
from uringzc.compiled import compiled
from uringzc.engines.contract import FrameOptions
from uringzc.engines.tables import MAX_PAYLOAD
from uringzc.errors import SendError, counted
from uringzc.kernel.error_queue import ErrorMessage
from uringzc.memory import Region
from uringzc.notif import Notification, Notifier
from uringzc.scheduler import Scheduler
from uringzc.senders import udp_bulk, udp_setup
from uringzc.senders.base import BaseSender, check_common_options
from uringzc.senders.pacing import Rate, make_pacing
from uringzc.senders.sockets import set_kernel_pacing
from uringzc.senders.stats import UdpStats, explain, udp_stats
from uringzc.senders.timestamps import TransmitTimestamp
from uringzc.senders.udp_bulk import Integers
from uringzc.senders.udp_close import flush_until
from uringzc.senders.udp_group import Group
from uringzc.senders.udp_slow_path import UdpSlowPath
from uringzc.senders.udp_socket import SocketOptions, check_udp, open_udp

if TYPE_CHECKING:
    from typing_extensions import Buffer


class UdpSender(BaseSender):
    """Sends datagrams. Data may be reused as soon as a call returns, except where the call says otherwise.

    `remote`: where ``send`` goes; without it each call names an address, or `sock` is connected. `sock`: an
    existing IPv4 or IPv6 UDP socket, which stays the program's; without it the sender has one of its own,
    `bind`: its own address, `family`: its address family (that of `remote`, else IPv4), `ttl`: of unicast and
    multicast, `interface`: the name or the address of the one that multicast leaves by, `tos`: IP_TOS or
    IPV6_TCLASS, `priority`: SO_PRIORITY, `multicast_loop`: whether this machine's members of a group receive
    it too, `device`: the only network device that it sends by (SO_BINDTODEVICE).

    `sndbuf`: "auto" raises SO_SNDBUF, of `sock` too, to what `arena` and `max_inflight` need, as far as this
    process may (8 MiB where it is privileged); an int is set as ``setsockopt`` would; None leaves it, and
    less is in flight at once.

    `rate`: bits of payload per second, `pps`: datagrams per second, one of them: a number, or a str like
    "2.5Gbit", "100MiB", "200kpps" (trafgen's units); `burst`: bytes or datagrams that may leave at once,
    None: 1 ms' worth after a pause, 10 to catch up. A call that finds enough waiting sleeps, or with
    `blocking=False` raises BlockingIOError. What waits in a sender that is dropped leaves at once.

    `scheduler`: use its engine, and with its other senders one arena and one charge for locked memory.
    `qdisc_bypass`: see Scheduler.
    `zero_copy`: "auto" decides for each destination, also by what `uringzc calibrate` has saved; "always",
    "never". `arena`: bytes of registered memory; less if the limit for locked memory is lower.
    `max_inflight`: requests whose memory is not free yet. `max_delay`: seconds after which what waits is
    sent, by a system call, even if the program does not call again; None: only at ``flush``, ``drain``,
    ``close``, and when a batch is full. `strict_order`: a request
    is submitted when the one before it has its result. `blocking`: False raises BlockingIOError where a call
    would wait for the network; ``fileno`` is readable when it may succeed. `on_error` is called with each
    SendError, `notify` with the Notification of each of the sender's notifiers, and `on_timestamp` with a
    TransmitTimestamp of each train that left (SO_TIMESTAMPING: nobody else may send through the socket then),
    at the end of a call on the sender; calls of the sender inside them raise BusyError. `on_waiting` is for
    event loops: called at the end of a call that has left datagrams waiting, once until the next ``flush``,
    which it may call, or schedule; trains then leave in batches of 64 KiB. What it raises, that call raises.
    `debug`: see Scheduler; only memory that is not copied is compared.

    Order: datagrams to one destination reach the device in the order of the calls, unless one fails and is
    sent again (``stats.reordered``). Nothing is lost inside; what the kernel reports becomes a SendError.

    It belongs to the thread that sends first; WrongThreadError in another. After fork: ClosedError in the
    child. io_uring, Linux 6.0; trains, Linux 4.18.
    """

    __slots__ = ("_arena", "_own_socket", "_pacing", "_sock")
    _name = "UdpSender"
    _native: UdpBatcher
    _slow_path: UdpSlowPath
    _arena: Arena

    def __init__(
        self,
        remote: Address | None = None,
        *,
        sock: socket.socket | None = None,
        bind: Address | None = None,
        family: int | None = None,
        ttl: int | None = None,
        interface: str | None = None,
        tos: int | None = None,
        priority: int | None = None,
        multicast_loop: bool | None = None,
        device: str | None = None,
        rate: Rate | None = None,
        pps: Rate | None = None,
        burst: int | None = None,
        sndbuf: int | str | None = "auto",
        scheduler: Scheduler | None = None,
        engine: str = "auto",
        qdisc_bypass: bool = False,
        zero_copy: str = "auto",
        arena: int = udp_setup.ARENA,
        max_inflight: int | None = None,
        max_delay: float | None = 0.001,
        strict_order: bool = False,
        blocking: bool = True,
        on_error: Callable[[SendError], object] | None = None,
        notify: Callable[[Notification], object] | None = None,
        on_timestamp: Callable[[TransmitTimestamp], object] | None = None,
        on_waiting: Callable[[], object] | None = None,
        debug: bool | None = None,
    ) -> None:
        self.closed = True  # for __del__, if the constructor fails
        check_common_options(
            zero_copy, on_error=on_error, notify=notify, on_timestamp=on_timestamp, on_waiting=on_waiting
        )
        udp_setup.check_udp_options(max_delay, sndbuf, arena, qdisc_bypass)
        self._pacing = make_pacing(rate, pps, burst)
        if scheduler is not None and (max_inflight is not None or debug is not None or engine != "auto"):
            raise ValueError("engine, max_inflight and debug are the scheduler's that is shared")
        if scheduler is not None and qdisc_bypass:
            raise ValueError("qdisc_bypass is the scheduler's that is shared")
        self._mode = zero_copy
        self._blocking = blocking
        self._own_socket = sock is None
        own = SocketOptions(bind, family, ttl, interface, tos, priority, multicast_loop, device)
        if sock is None:
            self._sock = open_udp(remote, own)
        else:
            own.refuse_with_sock()
            self._sock = check_udp(sock)
        try:
            requests = udp_setup.MAX_INFLIGHT if max_inflight is None else max_inflight
            frames = FrameOptions(arena, qdisc_bypass, zero_copy == "always")
            self._take_engine(scheduler, engine, requests, debug, udp_setup.BATCH, frames)
            udp_setup.check_timestamps(on_timestamp is not None, self._engine)
            self._slow_path = UdpSlowPath(
                self._sock, self._own_socket, zero_copy, self._engine, on_error, notify, on_timestamp
            )
            self._arena = self._engine.make_arena(arena)
            udp_setup.size_sndbuf(self._sock, sndbuf, arena, self._engine.slots.max_inflight)
            self._native = self._make_batcher(
                max_delay, strict_order, notify is not None, on_timestamp is not None, on_waiting
            )
            self._engine.attach(self, self._native)
            self._prepare_socket(remote)
            if not self._blocking and on_waiting is None:
                self.fileno()  # else it is made when an event loop asks for it: many senders never wait
            self._slow_path.start_timestamps()
        except BaseException:
            self._abort()
            raise
        self._delegate(self._native)
        self.closed = False

    def _make_batcher(
        self,
        max_delay: float | None,
        strict_order: bool,
        notify: bool,
        timestamps: bool,
        on_waiting: Callable[[], object] | None,
    ) -> UdpBatcher:
        """The compiled part, with `max_delay` in nanoseconds."""
        engine = self._engine
        return UdpBatcher(
            queue=engine.queue,
            arena=self._arena,
            sock=self._sock,
            slow_path=self._slow_path,
            own_socket=self._own_socket,
            blocking=self._blocking,
            strict_order=strict_order,
            always_zero_copy=self._mode == "always",
            notify=notify,
            timestamps=timestamps,
            engine_reads_queue=engine.reads_error_queues,
            max_payload=MAX_PAYLOAD[int(self._sock.family)],
            hold_threshold=udp_setup.HOLD_THRESHOLD,
            max_segments=engine.max_segments(),
            max_inflight=engine.slots.max_inflight,
            max_delay=-1 if max_delay is None else 0 if max_delay == 0 else max(1, int(max_delay * 1e9)),
            pacing=self._pacing and self._pacing.compiled,
            on_waiting=on_waiting,
        )

    def _prepare_socket(self, remote: Address | None) -> None:
        """Sets the default destination; the engine registers a socket of the sender's own."""
        engine, sock, native = self._engine, self._sock, self._native
        if self._own_socket:
            engine.own_socket(sock)
            set_kernel_pacing(sock, self._pacing)
        connected = remote is None or self._own_socket
        peer = sock.getpeername() if remote is not None and self._own_socket else remote
        native.set_default(None if peer is None else bytes(address.pack(int(sock.family), peer)), connected)
        if self._own_socket and self._own_engine:
            engine.register_socket(sock)

    def _release(self) -> None:
        if self._own_socket:
            self._sock.close()

    def _drop(self) -> None:
        self._native.drop()  # sends what waits, by system calls
        self._slow_path.stop_timestamps()

    def _discard(self) -> None:
        if self._native.closed and (lost := self._native.discard()):  # not if an interrupt has kept it open
            self._slow_path.report_discarded(lost)

    @compiled
    def send(self, data: "Buffer", to: Address | None = None) -> int:
        """Takes one datagram, and returns its size, as ``socket.send`` does. 0 bytes are a datagram too.

        `data` may be reused at once: it was copied. Only a ``bytes`` of 16 KiB or more, which cannot change,
        is held and sent from where it is. `to`: where to, if not to `remote` or where the socket is connected
        to; a name is resolved each time that it is given, in the call.

        Raises only errors of this datagram, which was not taken then: TypeError or BufferError for what is no
        contiguous buffer or no address, OSError EMSGSIZE for more than UDP carries,
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
        return self._native.send_many(datagrams, to)

    def group(self, addresses: Iterable[Address] = ()) -> Group:
        """A Group of receivers: each datagram sent to it is copied once, and goes to all of them."""
        group = Group(self, int(self._sock.family), UdpGroup(self._native))
        for one in addresses:
            group.add(one)
        return group

    def fan_out(self, data: "Buffer", addresses: Iterable[Address]) -> Notifier:
        """One payload, kept in one place, to many addresses; done when all of them are.

        An error ends it, as in ``send_many``.
        """
        some = list(addresses)
        taken = 0
        try:
            self.flush()  # so that the notifier is for this call only
            taken = self._native.fan_out(data, some)
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
        return udp_bulk.send_region(self._native, region, offset, length, segment, to, progress)

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
        return udp_bulk.send_slices(self._native, region, offsets, lengths, to, progress)

    def set_rate(self, rate: Rate | None = None, pps: Rate | None = None, burst: int | None = None) -> None:
        """Another pace from now on, for what waits too; see the options. With neither: no pacing."""
        pacing = make_pacing(rate, pps, burst)
        self._native.set_pacing(pacing and pacing.compiled)
        self._pacing = pacing
        if self._own_socket:
            set_kernel_pacing(self._sock, pacing)

    def flush(self) -> Notifier:
        """Submits everything that was taken; when it returns, each request has its result.

        The Notifier is done when the kernel holds none of the memory any more. Raises the first SendError
        that was not reported. BlockingIOError (``blocking=False``) where it would wait: the rest stays taken.
        """
        numbers = self._native.flush()
        if self._slow_path.errors:
            self._slow_path.raise_errors()
        return Notifier(self._engine, *numbers) if numbers else self._done

    def drain(self, timeout: float | None = None) -> None:
        """Flushes, and returns when the kernel holds no memory of this sender any more.

        TimeoutError says what it holds. With ``blocking=False`` and no `timeout` it does not wait, but raises
        BlockingIOError.
        """
        self._native.flush()
        self._drain(timeout)
        self._slow_path.raise_errors()

    def close(self, timeout: float = 5.0) -> None:
        """Refuses more, flushes, drains, and ends. May be repeated.

        What the kernel holds after `timeout`, or at an interrupt, is parked, see ``Scheduler.close``; what
        could not be sent in that time is lost, with a SendError. Closes a socket of the sender's own.
        BusyError inside a call.
        """
        if not self._may_close():
            return
        deadline, failure = time.monotonic() + timeout, None
        again, self.closed = self.closed, True  # again: an interrupt has ended the first call
        try:
            if not again:
                failure = self._send_rest(deadline)
        except BaseException:
            deadline = 0.0  # an interrupt is not kept waiting
            raise
        finally:
            self._slow_path.stop_timestamps()
            self._end(deadline)
        self._slow_path.report()
        self._slow_path.write_log()
        self._slow_path.raise_errors()
        if failure is not None:
            raise failure

    def _send_rest(self, deadline: float) -> OSError | None:
        """Sends what waits, and waits for memory, until the deadline. Returns why nothing can be sent."""
        failure = flush_until(deadline, self._native, self._sock, None if self._blocking else self.fileno)
        if failure is not None:  # without its traceback, which refers to this sender
            self._slow_path.failure = failure.errno or errno.EIO, failure.strerror or str(failure)
        with suppress(TimeoutError):
            self._wait_for_memory(max(0.0, deadline - time.monotonic()), "close")
        return failure

    def fileno(self) -> int:
        """A descriptor for poll and select.

        With ``blocking=False`` readable when a call that raised BlockingIOError is worth a try, until one
        like it has succeeded; otherwise when memory may be free. Where the scheduler is shared, then also
        while that has something to reap. With ``on_waiting`` and ``blocking=False`` it is made at the first
        call of this, and readable at once if something had to wait before.
        """
        if self._blocking:
            return self._engine.fileno()
        self._native.open_epoll(self._engine.fileno())
        return self._native.fileno()

    def errors(self) -> list[ErrorMessage]:
        """What the socket's error queue holds, oldest first, and is then forgotten: ICMP errors, timestamps.

        Among them what the sender has read for its own reports, of which it keeps up to 256 messages: an ICMP
        error to a socket of the sender's own becomes a SendError too, whoever reads it first. A socket of the
        program's has ICMP errors in its queue only with IP_RECVERR set; of those the sender reports the last,
        as the socket's pending error, without an address. What the engine reads itself (notifications) is
        not among them. OSError EBUSY where another engine of the process reads this socket's.
        Matches recvmsg(MSG_ERRQUEUE).
        """
        return self._native.take_error_queue()

    @property
    def sock(self) -> socket.socket:
        """The socket that it sends through: of its own, or the program's.

        It may be asked anything (``getsockname``), and options may be set in the owner's thread; the next
        submission has them. On a socket of the sender's own not UDP_SEGMENT, UDP_CORK, IP_RECVERR and
        SO_SNDBUF, which the sender sets and relies on; nor may that be connected elsewhere. It is closed by
        ``close``. Read its error queue with ``errors``. What the program sends through it itself may
        overtake what still waits in the sender, and on a socket of its own be cut up by UDP_SEGMENT.
        """
        return self._sock

    @property
    def stats(self) -> UdpStats:
        """A snapshot of what it has done."""
        return udp_stats(self._native, self._slow_path)

    def explain(self) -> str:
        """What is being done, and why, in a few sentences."""
        return explain(self._engine, self._native, self._slow_path, self._arena, self._pacing)

    def __repr__(self) -> str:
        state = ", closed" if self.closed else ""
        return f"<UdpSender, {self._engine.name}, {counted(self._native.datagrams, 'datagram')}{state}>"
