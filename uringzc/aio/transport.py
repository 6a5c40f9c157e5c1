"""DatagramTransport: asyncio's datagram transport over a UdpSender.

Theory of operation
    ``sendto`` is compiled (``_native/aio/writer.c``): it gives the datagram to a UdpSender that does not wait
    and has no timer. The first that waits there schedules a flush for the end of the loop's turn; full trains
    leave before. When the kernel takes no more, the transport is *blocked*: it flushes again when the
    sender's descriptor is readable, tells the protocol to pause when more than the high-water mark waits, and
    queues what the sender refuses. All ways out of that resume the protocol.

    Errors are the protocol's: ``error_received``, never an exception of ``sendto``.
"""

import asyncio
import logging
import socket
import warnings
from asyncio.trsock import TransportSocket
from collections import deque
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from uringzc._send import DatagramWriter
from uringzc.aio.flow_control import FlowControl
from uringzc.aio.loops import watch_descriptor
from uringzc.aio.receiving import Receiving
from uringzc.aio.shared import Shared
from uringzc.aio.turns import end_of_turn, weakly
from uringzc.engines import lifetime
from uringzc.errors import ClosedError
from uringzc.senders.stats import UdpStats
from uringzc.senders.udp import UdpSender

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: as asyncio: from so many calls of sendto() on a transport that is closed, the log says so
_LOG_AFTER = 5
log = logging.getLogger("asyncio")


class DatagramTransport(asyncio.DatagramTransport, asyncio.Transport):  # as asyncio's own is both
    """What ``create_datagram_endpoint`` makes: asyncio's, which sends and receives many datagrams at once.

    Everything of ``asyncio.DatagramTransport``. What differs: datagrams leave at the end of the loop's turn,
    those of one size to one address in one request (a GSO batch); the protocol gets errors of sending later,
    as SendError, which is also what ``socket.sendto`` would have raised; a protocol that has
    ``datagrams_received(list, addr)`` gets that instead of ``datagram_received(data, addr)``.

    Belongs to the loop's thread: ``sendto`` in another raises WrongThreadError. After fork: ClosedError in
    the child; what waits leaves once, from the parent.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        remote: Any = None,
        ready: "asyncio.Future[None] | None" = None,
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._remote = remote
        self._peer = _peer_of(sock)
        extra = {"socket": TransportSocket(sock), "sockname": sock.getsockname(), "peername": self._peer}
        super().__init__(extra)
        self._shared = Shared.of(loop)
        self._forks = lifetime.forks
        self._at_end_of_turn = end_of_turn(loop)
        self._sender: UdpSender | None = None  # made for the second datagram
        self._sent_one = False
        self._flow = FlowControl(loop, self)
        self._blocked = False
        self._descriptor = -1  # the sender's, while the loop watches it
        self._queue: deque[tuple[bytes, Any]] = deque()  # what the sender has refused
        self._queued_bytes = 0
        self._closing = False
        self._after_end = 0  # calls of sendto()
        self._writer = DatagramWriter(self._send, self._flush_failed)
        vars(self)["sendto"] = self._writer.sendto  # not a method, which would be a call more
        self._receiving = Receiving(loop, sock, protocol, self._reap)
        self._ended = False  # from here on it owns the socket
        self._shared.add(self)
        loop.call_soon(self._begin, ready)

    def _begin(self, ready: "asyncio.Future[None] | None") -> None:
        try:
            self._receiving.protocol.connection_made(self)
        finally:
            self._receiving.start()
            if ready is not None and not ready.done():
                ready.set_result(None)

    def __repr__(self) -> str:
        state = "closed" if self._ended else "closing" if self._closing else "open"
        fd = self._sock.fileno()
        return f"<{type(self).__name__} {state} fd={fd} waiting={self.get_write_buffer_size()} bytes>"

    def __del__(self) -> None:
        if not getattr(self, "_ended", True):
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self, stacklevel=2)
            self._sock.close()
            with suppress(Exception):  # in another thread: it ends with its owner's
                self._shared.remove(self)

    # -- sending

    def sendto(self, data: "Buffer", addr: Any = None) -> None:
        """Takes one datagram; `data` may be reused at once. It leaves at the end of the loop's turn.

        0 bytes are a datagram too. `addr`: where to, unless the transport has a remote address. TypeError for
        what is not bytes-like, ValueError for another address than the remote one.
        """
        self._writer.sendto(data, addr)

    def sendto_many(self, datagrams: "Iterable[Buffer]", addr: Any = None) -> None:
        """As ``sendto`` of each, in one call. An error of one of them does not stop the others."""
        rest = list(datagrams)
        while rest and self._writer.enabled and (addr is None) == self._is_connected():
            native = self._open()._native
            before = native.datagrams
            try:
                native.send_many(rest, addr)
                return
            except Exception as error:
                taken = native.datagrams - before
                if taken >= len(rest):
                    raise
                self._send(rest[taken], addr, error)
                del rest[: taken + 1]
        for data in rest:
            self._writer.sendto(data, addr)

    def _is_connected(self) -> bool:
        return self._remote is not None or self._peer is not None

    def _open(self) -> UdpSender:
        """The sender, made when it is needed."""
        if self._sender is None:
            self._check_process()
            self._sender = UdpSender(
                self._remote if self._peer is None else None,
                sock=self._sock,
                blocking=False,
                max_delay=None,
                sndbuf=None,
                scheduler=self._shared.scheduler(),
                on_error=weakly(self._on_error),
                on_waiting=weakly(self._flush_soon),
            )
            self._writer.open(self._sender._native, self._is_connected())
        return self._sender

    def _is_parents(self) -> bool:
        """Whether this process is the child of a fork, in whose parent the transport was made."""
        return self._forks != lifetime.forks

    def _check_process(self) -> None:
        if self._is_parents():
            raise ClosedError(
                "this transport belongs to the parent of this process, which forked: make an event loop here"
            )

    def _send(self, data: Any, addr: Any, error: BaseException | None) -> None:
        """What is not the usual case of sendto(). `error`: with which the sender has refused it."""
        self._check_process()
        self._shared.check_thread()
        if error is None:
            if not isinstance(data, (bytes, bytearray, memoryview)):
                kind = type(data).__name__
                raise TypeError(f"data argument must be a bytes-like object, not {kind!r}")
            if self._remote is not None and addr not in (None, self._remote):
                raise ValueError(f"Invalid address: must be None or {self._remote}")
            if self._ended or (self._closing and (self._blocked or self._is_connected())):
                self._warn_after_end()
                return
            if self._is_connected():
                addr = None
            error = self._try(data, addr)
        if isinstance(error, BlockingIOError) and not self._closing:
            self._queue.append((bytes(data), addr))
            self._queued_bytes += len(self._queue[-1][0])
            self._block()
        elif error is not None and not isinstance(error, BlockingIOError):
            self._fail(error)
        if self._blocked:
            self._flow.pause_if_above()

    def _try(self, data: Any, addr: Any) -> Exception | None:
        """Gives it to the sender, unless others wait before it. The exception with which that refuses it."""
        if self._queue:
            return BlockingIOError()
        try:
            if addr is None and not self._is_connected():
                raise TypeError("sendto() needs an address: the transport has no remote one")
            if self._sent_one and not self._closing:
                self._open().send(data, addr)
            else:
                self._send_now(data, addr)
        except Exception as error:
            return error
        return None

    def _send_now(self, data: bytes, addr: Any) -> None:
        """Without a sender: the first, of a client that asks one question; what comes after close()."""
        self._sent_one = True
        if self._peer is not None:
            self._sock.send(data)
        else:
            self._sock.sendto(data, self._remote if addr is None else addr)

    def _fail(self, error: BaseException) -> None:
        """A datagram was refused."""
        if not isinstance(error, Exception):
            raise error
        if isinstance(error, OSError):
            self._receiving.protocol.error_received(error)
        else:
            self._fatal_error(error)

    def _warn_after_end(self) -> None:
        if self._after_end >= _LOG_AFTER:
            log.warning("socket.send() raised exception.")
        self._after_end += 1

    # -- what leaves, and what waits

    def flush(self) -> bool:
        """Sends what waits, without waiting. The loop does that at the end of its turn.

        Returns whether callbacks of the loop may have been scheduled.
        """
        return self._writer.flush()

    def _flush_soon(self) -> None:
        self._at_end_of_turn(self._writer.flush)

    def _flush_failed(self, error: BaseException) -> None:
        if self._is_parents():
            return
        if isinstance(error, BlockingIOError):
            self._block()
            self._flow.pause_if_above()
        elif isinstance(error, OSError):
            self._on_error(error)
        elif isinstance(error, Exception):
            self._fatal_error(error)
        else:
            raise error

    def _block(self) -> None:
        """The kernel takes no more: waits until it may."""
        if self._blocked:
            return
        self._blocked = True
        self._writer.enabled = False
        if self._descriptor < 0:
            self._descriptor = self._open().fileno()
        watch_descriptor(self._loop, self._descriptor, self._on_room)

    def _on_room(self) -> None:
        """The sender's descriptor is readable: tries again."""
        native = self._open()._native
        try:
            while self._queue:
                self._send_queued(native)
            native.flush()
        except BlockingIOError:
            self._flow.resume_if_below()
            return
        except OSError as error:
            self._on_error(error)
        except Exception as error:
            self._fatal_error(error)
            return
        self._unblock()
        if self._closing:
            self._lose(None)

    def _send_queued(self, native: Any) -> None:
        data, addr = self._queue[0]
        try:
            native.send(data, addr)
        except BlockingIOError:
            raise
        except OSError as error:
            self._on_error(error)
        self._queue.popleft()
        self._queued_bytes -= len(data)

    def _unblock(self) -> None:
        if not self._blocked:
            return
        self._blocked = False
        self._loop.remove_reader(self._descriptor)
        self._writer.enabled = not self._closing
        self._flow.resume_if_below()

    def _on_error(self, error: OSError) -> None:
        """An error of what has left, or could not, inside a call of the sender."""
        if not self._closing:
            self._writer.scheduled = True
            self._loop.call_soon(self._error_received, error)

    def _error_received(self, error: OSError) -> None:
        if not self._ended:
            self._receiving.protocol.error_received(error)

    def get_write_buffer_size(self) -> int:
        """Bytes that have not left. They pause the protocol only when the kernel has taken no more."""
        waiting = 0 if self._sender is None or self._ended else self._sender._native.waiting_bytes
        return waiting + self._queued_bytes

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """The low and the high-water mark, in bytes."""
        return self._flow.low, self._flow.high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """As of any asyncio transport; 0 is to pause whenever the kernel takes no more."""
        self._flow.set_limits(high, low)
        if self._blocked:
            self._flow.pause_if_above()

    @property
    def stats(self) -> UdpStats:
        """What was sent after the first datagram; ``trains``: how many left together. See ``UdpSender``."""
        return self._open().stats

    def explain(self) -> str:
        """What is being done, and why: see ``UdpSender.explain``."""
        return self._open().explain()

    # -- receiving, and the protocol

    def _reap(self) -> None:
        """The socket has something, but no datagram: the engine's notifications, in the error queue."""
        if self._sender is not None and not self._ended:
            with suppress(OSError):
                self._sender._native.poll()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """The protocol from now on."""
        self._receiving.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The current protocol."""
        protocol: asyncio.BaseProtocol = self._receiving.protocol
        return protocol

    def pause_reading(self) -> None:
        """The protocol gets no more until ``resume_reading``; the kernel keeps what its buffer holds."""
        self._receiving.pause_reading()

    def resume_reading(self) -> None:
        """Undoes ``pause_reading``."""
        self._receiving.resume_reading()

    def is_reading(self) -> bool:
        """Whether the protocol gets datagrams."""
        return self._receiving.is_reading()

    # -- the end

    def is_closing(self) -> bool:
        """Whether ``close`` or ``abort`` was called, or a fatal error has closed it."""
        return self._closing

    def close(self) -> None:
        """Receives and takes no more; when what waits has left, calls ``connection_lost(None)``."""
        if self._closing:
            return
        self.flush()
        if not self._blocked:
            self._loop.call_soon(self._lose, None)  # first: an interrupt from here on does not keep it open
        self._start_closing()

    def abort(self) -> None:
        """As ``close``, but what the kernel does not take at once is dropped."""
        self._force_close(None)

    def end(self) -> None:
        """The loop is being closed: sends what waits, as far as the kernel takes it at once."""
        self._start_closing()  # what is sent from here on is dropped
        self._end_sender()

    def _start_closing(self) -> None:
        self._closing = True
        self._writer.enabled = False
        self._receiving.close()

    def _fatal_error(self, error: BaseException) -> None:
        self._loop.call_exception_handler(
            {
                "message": "Fatal write error on datagram transport",
                "exception": error,
                "transport": self,
                "protocol": self._receiving.protocol,
            }
        )
        self._force_close(error)

    def _force_close(self, error: BaseException | None) -> None:
        if self._ended:
            return
        self._loop.call_soon(self._lose, error)  # first, as in close()
        self._start_closing()
        self._queue.clear()
        self._queued_bytes = 0
        self._unblock()
        self._flow.resume()

    def _lose(self, error: BaseException | None) -> None:
        """The last thing: tells the protocol, and closes the socket."""
        if self._ended:
            return
        self._start_closing()
        self._unblock()
        self._ended = True
        with ExitStack() as stack:  # calls the last first, and all of them, whatever they raise
            stack.callback(self._shared.remove, self)
            stack.callback(self._sock.close)
            stack.callback(self._end_sender)
            self._receiving.protocol.connection_lost(error if isinstance(error, Exception) else None)

    def _end_sender(self) -> None:
        """What still waits is lost: where the socket was closed under the transport, for example."""
        if self._sender is not None:
            with suppress(OSError):
                self._sender.close(timeout=0)


def _peer_of(sock: socket.socket) -> Any:
    try:
        return sock.getpeername()
    except OSError:
        return None
