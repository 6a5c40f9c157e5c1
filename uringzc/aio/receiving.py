"""The receiving half of a datagram transport: what waits is read at once, and delivered in turns of the loop.

A wake-up reads up to 32 messages, each a datagram or a train of them that the kernel put together (UDP_GRO).
The protocol is called with what they hold for about a millisecond, then the loop has its turn, and the rest
follows. Nothing more is read before that.
"""

import asyncio
import contextlib
import itertools
import select
import socket
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import Any

from uringzc._send import DatagramReceiver
from uringzc.address import Address
from uringzc.aio.loops import watch_descriptor

UDP_GRO = 104  # of <linux/udp.h>
TURN = 0.001  #: seconds of delivery, then other callbacks of the loop run
CALLS = 8  #: of datagram_received between two looks at the clock


class Receiving:
    """Reads from `sock`, a non-blocking UDP socket, and calls the protocol, from start() to close().

    ``protocol.datagram_received(data, addr)`` is called for each datagram. A protocol that has a method
    ``datagrams_received(list, addr)`` gets those that came from one address in a row in one call instead.
    `addr` is what ``socket.recvfrom`` returns, and the same tuple for the same peer while that is remembered.
    OSErrors of the socket go to ``protocol.error_received``.

    What the protocol raises leaves the callback of the loop, which reports it; the rest is delivered then.

    `on_nothing` is called when the socket is readable, but has neither a datagram nor an error: because of
    what waits in its error queue, until that is read.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        on_nothing: Callable[[], None] | None = None,
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._joins = False  # UDP_GRO is set
        self._watched = _watchable(sock, loop)
        self._receiver = DatagramReceiver(sock.fileno())
        self._on_nothing = on_nothing
        self._started = self._paused = self._closed = False
        self._undelivered: Iterator[tuple[Any, Address]] | None = None
        self._grouped = False  # whether the protocol gets lists, and `_undelivered` has them
        self._interrupted = False  # by what the protocol called
        self._delivery: asyncio.Handle | None = None  # of the rest, in the loop's next turn
        self.set_protocol(protocol)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """The protocol that is called from now on, also with what was received before."""
        self.protocol: Any = protocol
        grouped = callable(getattr(protocol, "datagrams_received", None))
        if self._undelivered and grouped != self._grouped:
            self._undelivered = (_grouped if grouped else _separate)(self._undelivered)
        self._grouped = grouped
        self._method = "datagrams_received" if grouped else "datagram_received"
        self._interrupted = True

    def start(self) -> None:
        """To be called when the protocol's connection_made was."""
        if not self._started and not self._closed:
            self._started = True
            if not self._paused:
                watch_descriptor(self._loop, self._watched, self._read)

    def is_reading(self) -> bool:
        """Whether datagrams are delivered, if there are any."""
        return not self._paused and not self._closed

    def pause_reading(self) -> None:
        """The protocol gets nothing more, until resume_reading(). Without effect when paused or closed."""
        if self.is_reading():
            self._paused = True
            self._stop()

    def resume_reading(self) -> None:
        """Goes on with what was received before the pause. Without effect when not paused, or closed."""
        if self._paused and not self._closed:
            self._paused = False
            if self._started:
                watch_descriptor(self._loop, self._watched, self._read)
            self._deliver_soon()

    def close(self) -> None:
        """The protocol gets nothing more. To be called before the socket is closed."""
        if self.is_reading():
            self._stop()
        self._closed = True
        self._undelivered = None
        if isinstance(self._watched, select.epoll):
            self._watched.close()

    def _stop(self) -> None:
        self._interrupted = True
        if self._started:
            self._loop.remove_reader(self._watched)
        if self._delivery:
            self._delivery.cancel()
            self._delivery = None

    def _read(self) -> None:
        """The socket is readable."""
        if self._undelivered:
            return
        try:
            batch = self._receiver.receive(self._grouped)
        except OSError as error:
            self.protocol.error_received(error)
            return
        if not self._joins and (len(batch) > 1 or (self._grouped and batch and len(batch[0][0]) > 1)):
            self._join()
        if len(batch) == 1:  # nothing to leave for later
            getattr(self.protocol, self._method)(*batch[0])
        elif batch:
            self._undelivered = iter(batch)
            self._deliver()
        elif self._on_nothing:
            self._on_nothing()

    def _join(self) -> None:
        """Several have come at once: from now on the kernel may put those of one peer together.

        Not before: setting that, and closing the socket then, each take 70 us where no other socket of the
        machine has it, which is more than all else that a client with one question does.
        """
        self._joins = True
        with contextlib.suppress(OSError):  # Linux before 5.0 has none
            self._sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)

    def _deliver(self) -> None:
        """Calls the protocol until everything was delivered, something interrupts, or the time is over."""
        self._delivery = None
        self._interrupted = False
        received, every = getattr(self.protocol, self._method), 1 if self._grouped else CALLS
        until = monotonic() + TURN
        try:
            for calls, (data, addr) in enumerate(self._undelivered or (), 1):
                received(data, addr)
                if self._interrupted or (calls % every == 0 and monotonic() > until):
                    break
            else:
                self._undelivered = None
        finally:
            self._deliver_soon()

    def _deliver_soon(self) -> None:
        if self._undelivered and not self._paused and not self._delivery:
            self._delivery = self._loop.call_soon(self._deliver)


def _watchable(sock: socket.socket, loop: asyncio.AbstractEventLoop) -> int | select.epoll:
    """What the loop watches: an epoll of the socket, where the loop would give up a socket with an error.

    uvloop does: libuv takes POLLERR, of an ICMP error or an error queue, for a bad descriptor.
    """
    if isinstance(loop, asyncio.SelectorEventLoop):
        return sock.fileno()
    epoll = select.epoll()
    epoll.register(sock, select.EPOLLIN)
    return epoll


def _separate(groups: Iterable[tuple[list[bytes], Address]]) -> Iterator[tuple[bytes, Address]]:
    return itertools.chain.from_iterable(zip(group, itertools.repeat(addr)) for group, addr in groups)


def _grouped(datagrams: Iterable[tuple[bytes, Address]]) -> Iterator[tuple[list[bytes], Address]]:
    return (([data], addr) for data, addr in datagrams)
