"""The Python part of a stream's sender: buffers that are not bytes, decisions, errors, and callbacks.

The compiled part of a TcpSender (``_native/tcp/``) calls these methods inside a call of the program, and none
of them where a system call sends a ``bytes``.
"""

import select
import socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from uringzc import memory
from uringzc.errors import SendError, stream_error
from uringzc.notif import Notification, notification
from uringzc.senders.policy import Policy

if TYPE_CHECKING:
    from uringzc.engines.base import Engine


class TcpSlowPath:
    """The Python part of one stream. Has no reference to the TcpSender, which would be a cycle."""

    def __init__(
        self,
        sock: socket.socket,
        mode: str,
        engine: "Engine",
        on_error: Callable[[SendError], object] | None,
        notify: Callable[[Notification], object] | None,
    ) -> None:
        self.mode = mode
        self.epoll: select.epoll | None = None
        self._sock = sock
        self.refuse = partial(engine.refuse, what="TcpSender")
        self.claim = engine.claim  # the first call: this thread is the owner from now on
        self._on_error = on_error
        self._notify = notify
        self.policy = Policy(mode)
        self.start, self.observe = self.policy.start, self.policy.observe
        self._notifications: list[Notification] = []

    def blocked(self) -> None:
        """The socket is full: the sender's fileno() becomes readable when it is writable again."""
        if self.epoll is not None:
            self.epoll.modify(self._sock, select.EPOLLOUT | select.EPOLLONESHOT)

    @staticmethod
    def examine(data: Any) -> tuple[memoryview, int, int, bool]:
        """What keeps a buffer where it is, its address, its bytes, and whether it is immutable.

        Only a bytes object is immutable: what is read-only here, a mapped file say, may be written elsewhere.
        TypeError for what has no buffer, BufferError if it is not contiguous.
        """
        view = memoryview(data)
        if view.nbytes:
            view = memory.export(view)
        return view, memory.address_of(view), view.nbytes, view.readonly and isinstance(view.obj, bytes)

    def failed(self, number: int, size: int, accepted: int, total: int) -> None:
        """Raises the SendError of a call of `size` bytes. `number`: errno."""
        error = stream_error(number, size, accepted, total)
        if self._on_error is not None:
            self._on_error(error)
        raise error

    def posted(self, sequence: int, requests: int, nbytes: int, copied: int, failed: int) -> None:
        """A notifier of the stream has posted its notification."""
        self._notifications.append(notification((0, sequence, 0, requests, nbytes, copied, failed)))

    def report(self) -> None:
        """Calls the program's callback, at the end of a call, which raises what the callback raises."""
        while self._notify and self._notifications:
            self._notify(self._notifications.pop(0))
