"""TcpSender: send() on a stream, as safe as a socket's sendall, and without a copy where that pays.

Theory of operation
    A stream needs its bytes in order, so at most one request is without a result: the next one waits for the
    *result* of the one before, never for its notification, which on TCP comes with the peer's
    acknowledgement. Requests carry MSG_DONTWAIT and have their result when the submission returns; a call
    waits for a full socket with poll(), and continues where the kernel stopped. So a system call may be made
    whenever no request is without a result, and that is how small and mutable data is sent: the kernel copies
    it straight from the program's memory. What is large and immutable is sent by a zero-copy request, which
    holds it, and the socket, until the notification. The sender buffers no data. All of that is compiled
    (``_native/tcp/``).
"""

import os
import select
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from uringzc._send import TcpStream
from uringzc.compiled import compiled
from uringzc.errors import SendError, counted
from uringzc.notif import Notification, Notifier
from uringzc.scheduler import Scheduler
from uringzc.senders.base import BaseSender, check_common_options
from uringzc.senders.sockets import check_tcp
from uringzc.senders.stats import TcpStats, stream_explain, tcp_stats
from uringzc.senders.tcp_slow_path import TcpSlowPath

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: bytes from which on immutable data is sent from where it is
MIN_ZERO_COPY = 16 << 10
MAX_INFLIGHT = 1024
_BATCH = 8  # requests of one submission; a stream has one


class TcpSender(BaseSender):
    """Sends on a connected stream socket, which stays the program's: it receives, and closes it.

    Any data may be reused as soon as a call returns. Small data, and what can be written to, is copied by the
    kernel; a ``bytes`` of 16 KiB or more, which cannot change, is held and sent from where it is. A
    ``memoryview`` of a ``bytes`` counts as such. Everything that goes through the socket must go through one
    sender, or what two send may mix.

    `scheduler`: share the engine of another, in its thread. `zero_copy`: "auto" copies where the kernel
    copies anyway (loopback), and tries again from time to time; "always" copies only what can change;
    "never". `blocking`: see ``send``; the socket's timeout and O_NONBLOCK mean nothing here. `on_error` is
    called with each SendError, before a call raises it; `notify` with the Notification of each of the
    sender's notifiers, at the end of a call. What they call on the sender raises BusyError. `debug`: see
    Scheduler.

    Sockets that cannot send zero-copy (AF_UNIX, Multipath TCP, kernel TLS) are served by copying. TypeError
    or ValueError for what is no stream, and for SSLSocket, which encrypts.

    An interrupt (KeyboardInterrupt) ends a call where it is: ``stats.nbytes`` says how much the kernel has
    accepted since the start, the rest of the call is not sent, and nothing is sent twice.

    It belongs to the thread that sends first; WrongThreadError in another. After fork: ClosedError in the
    child. io_uring, Linux 6.0; MSG_ZEROCOPY, Linux 4.14; copying anywhere.
    """

    __slots__ = ("_poll", "_sock", "_why_copied")
    _name = "TcpSender"
    _native: TcpStream
    _slow_path: TcpSlowPath

    def __init__(
        self,
        sock: socket.socket,
        *,
        scheduler: Scheduler | None = None,
        engine: str = "auto",
        zero_copy: str = "auto",
        blocking: bool = True,
        on_error: Callable[[SendError], object] | None = None,
        notify: Callable[[Notification], object] | None = None,
        debug: bool | None = None,
    ) -> None:
        self.closed = True
        check_common_options(zero_copy, on_error=on_error, notify=notify)
        if scheduler is not None and (debug is not None or engine != "auto"):
            raise ValueError("engine and debug are the scheduler's that is shared")
        self._why_copied = check_tcp(sock)
        self._sock = sock
        self._mode = zero_copy
        self._blocking = blocking
        self._poll: select.epoll | None = None
        try:
            self._take_engine(scheduler, engine, MAX_INFLIGHT, debug, _BATCH)
            if self._engine.sends_frames:
                raise ValueError(
                    f"the engine {self._engine.name} sends datagrams: a stream needs another one"
                )
            if self._engine.name == "copy":
                self._why_copied = self._why_copied or "the engine has none"
            self._slow_path = TcpSlowPath(sock, zero_copy, self._engine, on_error, notify)
            self._native = TcpStream(
                queue=self._engine.queue,
                sock=sock,
                slow_path=self._slow_path,
                blocking=blocking,
                always=zero_copy == "always",
                notify=notify is not None,
                copy_only=bool(self._why_copied),
                min_zero_copy=MIN_ZERO_COPY,
            )
            self._engine.attach(self, self._native)
            if not blocking:
                self._poll = self._slow_path.epoll = select.epoll()
                self._poll.register(self._engine.fileno(), select.EPOLLIN)
                self._poll.register(sock, select.EPOLLOUT | select.EPOLLONESHOT)
        except BaseException:
            self._abort()
            raise
        self._delegate(self._native)
        self.closed = False

    def _release(self) -> None:
        if self._poll is not None:
            self._poll.close()

    @compiled
    def send(self, data: "Buffer", /) -> int:
        """Returns len(data) when the kernel has accepted all of it, as ``socket.sendall`` would.

        With ``blocking=False`` it returns how many bytes the kernel took without waiting, as ``socket.send``
        does, and BlockingIOError where it took none; the rest is the program's to send again, and ``fileno``
        is readable when that is worth a try. The sender keeps none of it.

        `data` may be reused at once: it was copied. But for a ``bytes`` of 16 KiB or more, which cannot
        change: it is held, and sent from where it is.

        TypeError or BufferError for what is no contiguous buffer: nothing was sent. SendError, which is also
        BrokenPipeError, ConnectionResetError or TimeoutError, where the stream has ended: ``accepted`` says
        how many bytes of this call the kernel took, ``total`` how many since the start. That is not what the
        peer has received.
        """
        raise NotImplementedError  # in _native/tcp/send.c

    @compiled
    def send_buffers(self, buffers: "Iterable[Buffer]", /) -> int:
        """As ``send`` of all of them, one after the other, in as few system calls as their kinds allow.

        Returns the bytes. All are examined before the first byte leaves: TypeError or BufferError for one of
        them, and nothing was sent.
        """
        raise NotImplementedError  # in _native/tcp/send.c

    def flush(self) -> Notifier:
        """Done when the kernel holds none of the memory any more that was sent so far.

        There is nothing to send: what ``send`` returned for is the kernel's. On TCP its memory is free when
        the peer has acknowledged it, or the connection has ended.
        """
        numbers = self._native.flush()
        return Notifier(self._engine, *numbers) if numbers else self._done

    def drain(self, timeout: float | None = None) -> None:
        """Returns when the kernel holds no memory of this sender any more; TimeoutError says what it holds.

        With ``blocking=False`` and no `timeout` it does not wait, but raises BlockingIOError. Says nothing
        about what became of the connection.
        """
        self._drain(timeout)

    def shutdown(self) -> None:
        """Ends the stream: the peer reads all that was accepted, and then the end. It may still send.

        Memory still comes back. Matches shutdown(SHUT_WR); OSError where that fails.
        """
        code = self._native.shutdown()
        if code:
            raise OSError(-code, f"shutdown: {os.strerror(-code)}")

    def close(self, timeout: float = 5.0) -> None:
        """Accepts no more, waits until the kernel holds no memory, and ends. May be repeated.

        What it holds after `timeout`, or at an interrupt, is parked, see ``Scheduler.close``: the kernel goes
        on sending it. The
        socket stays open, and is the program's to shut down and to close. BusyError inside a call.
        """
        if not self._may_close():
            return
        deadline = time.monotonic() + timeout
        again, self.closed = self.closed, True  # again: an interrupt has ended the first call
        try:
            if not again:
                with suppress(TimeoutError):
                    self._wait_for_memory(timeout, "close")
        except BaseException:
            deadline = 0.0  # an interrupt is not kept waiting
            raise
        finally:
            self._end(deadline)

    def fileno(self) -> int:
        """A descriptor for poll and select: with ``blocking=False`` readable when a call is worth a try.

        Otherwise readable when memory may have come back. Where the scheduler is shared, also while that has
        something to reap.
        """
        return self._engine.fileno() if self._poll is None else self._poll.fileno()

    @property
    def stats(self) -> TcpStats:
        """A snapshot of what it has done."""
        return tcp_stats(self._native, self._sock, self._slow_path.policy.copying)

    def explain(self) -> str:
        """What is being done, and why, in a sentence."""
        name, copying = self._engine.name, self._slow_path.policy.copying
        text = stream_explain(name, self._native, self._why_copied, self._mode, copying, MIN_ZERO_COPY)
        why = self._engine.why_copied(self._sock)
        return f"{text} Now those are copied too, because {why}." if why else text

    def __repr__(self) -> str:
        state = ", closed" if self.closed else ""
        return f"<TcpSender, {self._engine.name}, {counted(self._native.nbytes, 'byte')}{state}>"
