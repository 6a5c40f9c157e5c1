"""UdpSender: send() that is safe like a socket's, and several times faster.

Theory of operation
    ``send`` copies a datagram into registered memory, behind the one before it: datagrams of one size to one
    destination form a *train*, which leaves as one request (UDP_SEGMENT) without another copy. Trains wait in
    a batch and are submitted together; each has its result when the submission returns, and what failed is
    sent again by a plain system call. All of that is compiled (``_native/udp/``) and calls
    UdpSlowPath for what is not fast. Nothing that the program still owns is ever referred to by ``send``, so
    there are no lifetime rules; the calls that do not copy (``send_region``, a large ``bytes``, a lease) say
    what they hold and until when.

    What waits leaves with the next full batch, flush, drain or close, and after ``max_delay`` by a plain send
    of the timer's thread (``timer.py``, one for all senders of the process), which does not touch the ring:
    that stays with the thread that it belongs to.
"""

import errno
import logging
import operator
import select
import socket
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from uringzc import address, memory
from uringzc._send import Delegate, Lease, UdpBatcher
from uringzc.address import Address
from uringzc.compiled import compiled
from uringzc.engines.attached import MIN_ARENA
from uringzc.engines.base import Engine
from uringzc.engines.choose import choose
from uringzc.engines.tables import MAX_PAYLOAD
from uringzc.errors import E_BUSY, E_THREAD, SendError, counted, in_flight
from uringzc.kernel.features import max_segments
from uringzc.memory import Region
from uringzc.notif import COMPLETIONS, Notification, Notifier
from uringzc.scheduler import Scheduler
from uringzc.senders.integers import Integers, in_memory
from uringzc.senders.policy import MODES
from uringzc.senders.sockets import check_udp, make_room, open_udp, room_for, set_sndbuf
from uringzc.senders.stats import UdpStats, explain, snapshot
from uringzc.senders.udp_slow_path import UdpSlowPath

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: from so many bytes on, what can not change is sent from where it is
LARGE = 16 << 10
ARENA = 4 << 20
MAX_INFLIGHT = 1024
#: requests of one submission: as many trains as a batch may have
_BATCH = 64
_SLICES = 4096  # datagrams of send_slices() between two looks at the world
log = logging.getLogger("uringzc")


class UdpSender(Delegate):
    """Sends datagrams. Any data may be reused as soon as the call returns, but for what the calls say.

    `remote`: where ``send`` goes; without it each call names an address, or `sock` is connected. `sock`: an
    existing IPv4 or IPv6 UDP socket, which stays the program's; without it the sender has one of its own,
    `bind`: its own address, `family`: its address family (that of `remote`, else IPv4), `ttl`: of unicast and
    multicast, `interface`: a name or the address of one, which multicast leaves by. `sndbuf`: "auto" raises
    SO_SNDBUF, of `sock` too, to what `arena` and `max_inflight` need, as far as this process may (8 MiB where
    it is privileged); an int is set as ``setsockopt`` would; None leaves it, and less is in flight at once.

    `scheduler`: share the ring, the arena and the charge for locked memory of another, in its thread.
    `zero_copy`: "auto" decides for each destination, "always", "never". `arena`: bytes of registered memory;
    less if the limit for locked memory is lower. `max_inflight`: requests whose memory is not free yet.
    `max_delay`: seconds after which what waits is sent, by a plain send, even if the program does not call
    again; None: only at ``flush``, ``drain``, ``close``, and when a batch is full. `strict_order`: a request
    is submitted when the one before it has its result. `blocking`: False raises BlockingIOError where a call
    would wait for the network; ``fileno`` is readable when it is worth a try. `on_error` is called with each
    SendError, and `notify` with the Notification of each of the sender's notifiers, at the end of a call on
    the sender; what they call on it raises BusyError. `debug`: see Scheduler, of memory that is not copied.

    Order: datagrams to one destination reach the device in the order of the calls, unless one fails and is
    sent again (``stats.reordered``). Nothing is lost inside; what the kernel reports is told: see SendError.

    It belongs to the thread that sends first; WrongThreadError in another. After fork: ClosedError in the
    child. io_uring, Linux 6.0; trains, Linux 4.18.
    """

    __slots__ = (
        *(
            "__dict__",
            "__weakref__",
            "closed",
            "_mode",
            "_own_socket",
            "_own_engine",
            "_blocking",
            "_max_delay",
        ),
        *("_sndbuf", "_sock", "_engine", "_slow_path", "_done", "_arena", "_batcher"),
    )

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
        if zero_copy not in MODES:
            raise ValueError(f"zero_copy is 'auto', 'always' or 'never', not {zero_copy!r}")
        if max_delay is not None and not isinstance(max_delay, (int, float)):
            raise TypeError(f"max_delay is seconds or None, not {max_delay!r}")
        if max_delay is not None and not 0 < max_delay <= 3600:
            raise ValueError(
                f"max_delay is seconds, more than 0 and at most 3600, or None; not {max_delay!r}"
            )
        for name, callback in (("on_error", on_error), ("notify", notify)):
            if callback is not None and not callable(callback):
                raise TypeError(f"{name} is a function or None, not {callback!r}")
        if not (sndbuf is None or sndbuf == "auto" or (isinstance(sndbuf, int) and 0 < sndbuf < 1 << 30)):
            raise ValueError(f"sndbuf is 'auto', None, or bytes from 1 to {(1 << 30) - 1}, not {sndbuf!r}")
        if not isinstance(arena, int) or not MIN_ARENA <= arena <= 1 << 30:
            raise ValueError(f"an arena is {MIN_ARENA} to {1 << 30} bytes, not {arena!r}")
        if scheduler is not None and (max_inflight is not None or debug is not None or engine != "auto"):
            raise ValueError("engine, max_inflight and debug are the scheduler's that is shared")
        self._mode = zero_copy
        self._own_socket = sock is None
        self._own_engine = scheduler is None
        self._blocking = blocking
        self._max_delay = max_delay
        self._sndbuf = sndbuf
        most = MAX_INFLIGHT if max_inflight is None else max_inflight
        if sock is None:
            sock = open_udp(remote, bind, family, ttl, interface)
        elif any(given is not None for given in (bind, family, ttl, interface)):
            raise ValueError("bind, family, ttl and interface are for a socket of the sender's own")
        check_udp(sock)
        self._sock = sock
        try:
            if scheduler is None:
                self._engine: Engine = choose(engine, most, COMPLETIONS["none"], debug, _BATCH)
                self._engine.refuse.what = "UdpSender"
            else:
                self._engine = scheduler._engine
                most = self._engine.slots.max_inflight
            self._build(remote, arena, most, strict_order, on_error, notify)
        except BaseException:
            self._abort()
            raise
        self._delegate(self._batcher)
        self.closed = False

    def _build(
        self,
        remote: Address | None,
        arena: int,
        most: int,
        strict_order: bool,
        on_error: Callable[[SendError], object] | None,
        notify: Callable[[Notification], object] | None,
    ) -> None:
        sock, engine = self._sock, self._engine
        family = int(sock.family)
        own = self._own_socket
        self._slow_path = UdpSlowPath(sock, family, own, self._mode, engine, on_error, notify)
        self._done = Notifier(engine)  # what flush() gives where nothing is in flight
        self._arena = engine.make_arena(arena)
        if self._sndbuf == "auto":
            make_room(sock, room_for(arena, most))
        elif self._sndbuf is not None:
            set_sndbuf(sock, int(self._sndbuf))
        self._batcher = UdpBatcher(
            queue=engine.queue,
            arena=self._arena,
            sock=sock,
            slow_path=self._slow_path,
            own_socket=self._own_socket,
            blocking=self._blocking,
            strict_order=strict_order,
            always_zero_copy=self._mode == "always",
            notify=notify is not None,
            max_payload=MAX_PAYLOAD[family],
            hold_threshold=LARGE,
            min_zero_copy=self._engine.min_zero_copy,
            max_segments=max_segments(),
            max_inflight=most,
            max_delay=0 if self._max_delay is None else max(1, int(self._max_delay * 1e9)),
        )
        engine.attach(self, self._batcher)
        if own:
            engine.own_socket(sock)
        self._batcher.set_default(b"" if remote is None or self._own_socket else address.pack(family, remote))
        if self._own_socket and self._own_engine:
            engine.register_socket(sock)
        if not self._blocking:
            self._batcher.open_epoll(engine.fileno())

    def _abort(self) -> None:
        """The constructor failed: what it made is given back."""
        batcher: UdpBatcher | None = getattr(self, "_batcher", None)
        engine: Engine | None = getattr(self, "_engine", None)
        if batcher is not None and engine is not None:
            batcher.close()
            engine.senders.detach(batcher)
        if engine is not None and self._own_engine:
            engine.close()
        if self._own_socket:
            self._sock.close()

    # -- sending

    @compiled
    def send(self, data: "Buffer", to: Address | None = None) -> int:
        """Takes one datagram, and returns its size, as ``socket.send`` does. 0 bytes are a datagram too.

        `data` may be reused at once: it was copied. But for a ``bytes`` of 16 KiB or more, which can not
        change: it is held, and sent from where it is. `to`: where to, if not to `remote` or where the socket
        is connected to; a name is resolved each time that it is given, in the call.

        Raises only what this datagram is the cause of, and has not taken it then: TypeError or BufferError
        for what is no contiguous buffer or no address, OSError EMSGSIZE for more than UDP carries,
        BlockingIOError (``blocking=False``) where it would wait. What becomes of it later is told by
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
            self.flush()  # so that the notifier is for this alone
            taken = self._batcher.fan_out(data, some)
            return self.flush()
        except BlockingIOError as error:
            error.characters_written = max(taken, getattr(error, "characters_written", 0))
            raise

    @compiled
    def lease(self, size: int, /) -> Lease:
        """`size` bytes of registered memory to fill, and to ``send`` without a copy.

        It is given back by ``Lease.send``, by leaving a ``with`` block, or by dropping it. BlockingIOError
        when leases that were not sent hold the whole arena. ValueError for more than a datagram carries.
        """
        raise NotImplementedError  # it is in _native/udp/send.c

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
        total = len(region) if isinstance(region, Region) else memoryview(region).nbytes
        offset = operator.index(offset)
        length = total - offset if length is None else operator.index(length)
        if segment is None and length == 0:
            self.send(b"", to)
            return 1
        if segment is None and length > 65535:
            raise ValueError(
                f"{length} bytes are more than a datagram: say in segments of how many to send them"
            )
        segment = length if segment is None else operator.index(segment)
        if offset < 0 or length < 0 or offset + length > total:
            raise ValueError(
                f"bytes {offset} to {offset + length} are not all in the {total} bytes of the memory"
            )
        if not 1 <= segment <= 65535:
            raise ValueError(f"a segment is a datagram, 1 to 65507 bytes over IPv4, not {segment}")

        def block(done: int) -> int:
            at = done * segment
            return -(-self._batcher.send_block(region, offset + at, length - at, segment, to) // segment)

        return self._in_blocks(-(-length // segment), block, progress)

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

        Two arrays of 32 or 64 bits (numpy, array.array), or sequences of ints. Pieces below 16 KiB are joined
        to trains, which is faster than to send each from where it is; the others are not copied. Nothing is
        sent if one of them is not all in the memory (ValueError). Otherwise as ``send_region``.
        """
        starts, start_kind = in_memory("offsets", offsets)
        sizes, size_kind = in_memory("lengths", lengths)
        count = len(starts)
        if len(sizes) != count:
            raise ValueError(f"{count} offsets and {len(sizes)} lengths")
        arrays = (
            memory.address_of(starts.cast("B")),
            start_kind,
            memory.address_of(sizes.cast("B")),
            size_kind,
        )
        whole = region if isinstance(region, Region) else memoryview(region)
        right = self._batcher.send_slices(whole, *arrays, 0, count) if count else 0
        if right < count:
            piece = f"piece {right}, {sizes[right]} bytes at {starts[right]}"
            raise ValueError(f"{piece}, is not all in the memory, or larger than a datagram")

        def block(done: int) -> int:
            return self._batcher.send_slices(whole, *arrays, done, min(count, done + _SLICES), to)

        return self._in_blocks(count, block, progress)

    def _in_blocks(
        self, count: int, block: Callable[[int], int], progress: Callable[[int], object] | None
    ) -> int:
        done = 0
        while done < count:
            try:
                done += block(done)
            except BlockingIOError as error:
                error.characters_written = done
                raise
            if progress is not None:
                progress(done)
        return done

    # -- the end of things

    def flush(self) -> Notifier:
        """Everything that was taken is on its way when it returns: each request has its result.

        The Notifier is done when the kernel holds none of the memory any more. Raises the first SendError
        that nobody was told. BlockingIOError (``blocking=False``) where it would wait: the rest stays taken.
        """
        numbers = self._batcher.flush()
        if self._slow_path.errors:
            self._raise()
        return Notifier(self._engine, *numbers) if numbers else self._done

    def _raise(self) -> None:
        error = self._slow_path.take_errors()
        if error is not None:
            raise error

    def drain(self, timeout: float | None = None) -> None:
        """Flushes, and returns when the kernel holds no memory of this sender any more.

        TimeoutError says what it holds. With ``blocking=False`` and no `timeout` it does not wait, but raises
        BlockingIOError.
        """
        self._batcher.flush()
        if not self._blocking and timeout is None and not self._batcher.poll():
            raise BlockingIOError(errno.EAGAIN, in_flight(self._batcher.in_flight))
        self._settle(timeout, "drain")
        self._raise()

    def _settle(self, timeout: float | None, what: str) -> None:
        """Waits for the memory of what was submitted."""
        batcher = self._batcher
        if not batcher.poll():
            self._engine.wait_for(lambda: batcher.in_flight, timeout, what)
            batcher.poll()

    def close(self, timeout: float = 5.0) -> None:
        """Takes no more, flushes, drains, and ends. May be repeated.

        What the kernel holds after `timeout` is parked, see ``Scheduler.close``; what could not be sent in
        that time is lost, with a SendError. Closes a socket of the sender's own. BusyError inside a call.
        """
        if self.closed:
            return
        if self._engine.dead:  # it is the parent's
            self.closed = True
            self._let_go()
            return
        if not self._engine.is_owner():
            self._slow_path.refuse(E_THREAD)
        if self._batcher.busy:
            self._slow_path.refuse(E_BUSY)
        deadline = time.monotonic() + timeout
        self.closed = True
        failure: OSError | None = None
        try:
            failure = self._send_rest(deadline)
        finally:
            self._end(max(0.0, deadline - time.monotonic()))
        self._slow_path.report()
        self._slow_path.write_log()
        self._raise()
        if failure is not None:
            raise failure

    def _send_rest(self, deadline: float) -> OSError | None:
        """What could not even be tried: the socket was closed."""
        batcher = self._batcher
        batcher.blocking = False  # or a socket that takes nothing is waited for without an end
        while True:
            try:
                batcher.flush()
                break
            except BlockingIOError:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._pause(left)
            except OSError as error:
                return error
        with suppress(TimeoutError):
            self._settle(max(0.0, deadline - time.monotonic()), "close")
        return None

    def _pause(self, most: float) -> None:
        """Until another flush is worth a try, or for so many seconds."""
        poll = select.poll()
        if self._blocking:  # it has no descriptor that says so
            poll.register(self._sock, select.POLLOUT)
            if poll.poll(10):  # it waits for what gives no event, a first request's arrival say
                time.sleep(0.001)
            return
        poll.register(self.fileno(), select.POLLIN)
        poll.poll(1000 * most)

    def _end(self, timeout: float) -> None:
        with ExitStack() as stack:  # in this order from the last to the first, whatever one of them raises
            stack.callback(self._let_go)
            if self._own_engine:
                stack.callback(self._engine.close, timeout)
            stack.callback(self._engine.senders.detach, self._batcher)
            stack.callback(self._discard)
            stack.callback(self._batcher.close)

    def _discard(self) -> None:
        lost = self._batcher.discard()
        if lost:
            self._slow_path.gave_up(lost)

    def _let_go(self) -> None:
        if self._own_socket:
            self._sock.close()

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
        self._batcher.drop()  # what it has taken it sends, by system calls
        if self._own_engine:
            self._engine.finalize(self)
        else:
            self._engine.senders.detach_later(self._batcher)
            warnings.warn("UdpSender was not closed", ResourceWarning, source=self, stacklevel=2)

    # -- what it does

    def fileno(self) -> int:
        """A descriptor for poll and select.

        With ``blocking=False`` readable when a call that raised BlockingIOError is worth a try, until one
        like it has succeeded; otherwise when memory may have come back. Where the scheduler is shared, then
        also while that has something to reap.
        """
        return self._engine.fileno() if self._blocking else self._batcher.fileno()

    @property
    def stats(self) -> UdpStats:
        """A snapshot of what it has done."""
        return snapshot(self._batcher, self._slow_path)

    def explain(self) -> str:
        """What is being done, and why, in a few sentences."""
        return explain(self._engine, self._batcher, self._slow_path, self._arena)

    def __repr__(self) -> str:
        state = ", closed" if self.closed else ""
        return f"<UdpSender, {self._engine.name}, {counted(self._batcher.datagrams, 'datagram')}{state}>"
