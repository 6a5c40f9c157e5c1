"""TcpSender: a stream of an event loop. ``await send()`` returns when the kernel has accepted everything.

Theory of operation
    Everything goes through a plain ``uringzc.TcpSender`` that never waits: it sends what the socket takes,
    and says how much that is. The rest is sent when there is room, from where it is: the memoryview of a
    ``bytes`` is as immutable as that. Tasks take turns, so their bytes never mix.
"""

import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from uringzc.aio.loops import Loop
from uringzc.aio.sender import AwaitableSender
from uringzc.aio.waiting import Waiting
from uringzc.errors import SendError, stream_error
from uringzc.senders import tcp
from uringzc.senders.stats import TcpStats

if TYPE_CHECKING:
    from typing_extensions import Buffer


class TcpSender(AwaitableSender):
    """Sends on a connected stream socket, from the tasks of one event loop: as UdpSender's, of any kind.

    Used as ``async with TcpSender(sock) as tx``. `sock` stays the program's, and the options are those of
    uringzc.TcpSender, which also says what holds of memory and errors; `blocking` is none here. Whatever has
    the socket for receiving, a StreamReader say, goes on.

    Tasks that send at once send one after the other, in the order of their calls. A call that is cancelled
    before its turn has sent nothing. One that is cancelled while it waits for room has sent the beginning of
    its data: ``stats.nbytes`` says how much the kernel has accepted since the start, and the next call goes
    on behind that.

    It belongs to the loop in which it was entered: RuntimeError in another, WrongThreadError in another
    thread.
    """

    _sender: tcp.TcpSender

    def __init__(self, sock: socket.socket, **options: Any) -> None:
        super().__init__(**options)
        self._sock = sock

    async def _open(self, loop: Loop, waiting: Waiting) -> tcp.TcpSender:
        sender = tcp.TcpSender(self._sock, blocking=False, **self._options)
        assert sender._poll is not None
        waiting.take_events = partial(sender._poll.poll, 0)  # that the socket is writable, once
        return sender

    async def send(self, data: "Buffer", /) -> int:
        """Returns len(data) when the kernel has accepted all of it.

        `data` must not be changed until then, and may be after that: it was copied, but for a ``bytes`` of
        16 KiB or more, which is held. SendError, which is also BrokenPipeError, ConnectionResetError or
        TimeoutError, where the stream has ended: ``accepted`` says how many bytes of this call the kernel
        took. TypeError or BufferError for what is no contiguous buffer: nothing was sent.
        """
        size = len(data) if type(data) is bytes else memoryview(data).nbytes
        return await self._send_all(self._sender.send, size, lambda done: _behind(data, done))

    async def send_buffers(self, buffers: "Iterable[Buffer]", /) -> int:
        """As ``send`` of all of them, one after the other. Returns the bytes. All are examined first."""
        every = list(buffers)
        sizes = [memoryview(each).nbytes for each in every]

        def rest(done: int) -> "list[Buffer]":
            first = 0
            while first < len(every) and done >= sizes[first]:
                done -= sizes[first]
                first += 1
            return [_behind(every[first], done), *every[first + 1 :]] if done else every[first:]

        return await self._send_all(self._sender.send_buffers, sum(sizes), rest)

    async def _send_all(self, send: Callable[[Any], int], size: int, rest: Callable[[int], Any]) -> int:
        """`rest(done)`: what is behind so many bytes."""
        waiting, native, done = self._waiting, self._sender._native, 0
        if waiting.begin():
            with suppress(BlockingIOError):
                done = send(rest(0))
            if done == size:
                return size
        async with waiting.turn():
            start = native.nbytes - done
            try:
                return done + await waiting.take_all(size - done, lambda more: send(rest(done + more)))
            except SendError as error:
                accepted = native.nbytes - start
                raise stream_error(error.errno or 0, size, accepted, native.nbytes) from error

    async def shutdown(self) -> None:
        """Ends the stream, in turn: behind what tasks send already. See uringzc.TcpSender.shutdown."""
        await self._waiting.in_turn(self._sender.shutdown)

    @property
    def stats(self) -> TcpStats:
        """A snapshot of what it has done."""
        return self._sender.stats


def _behind(data: Any, done: int) -> Any:
    """What is behind so many bytes of a buffer. The memoryview of a ``bytes`` is immutable too."""
    return memoryview(data).cast("B")[done:] if done else data
