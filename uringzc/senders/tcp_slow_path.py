"""What a stream calls Python for: what it is given to send, decisions, errors, and telling the program.

The compiled part of a TcpSender (``_native/stream.c``, ``steps.c``, ``flow.c``) calls these methods from
inside a call of the program, and none of them where a plain send of a ``bytes`` succeeds.
"""

import select
import socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from uringzc import memory
from uringzc.errors import SendError, stream_error
from uringzc.notif import Notification
from uringzc.senders.policy import Decision, Policy

if TYPE_CHECKING:
    from uringzc.engines.base import Engine


class TcpSlowPath:
    """The Python part of one stream. Knows nothing of the TcpSender, so that no cycle keeps either alive."""

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
        self._engine = engine
        self.refuse = partial(engine.refuse, what="TcpSender")
        self._on_error = on_error
        self._notify = notify
        self._policy = Policy(mode)
        self._notifications: list[Notification] = []

    def claim(self) -> None:
        """The first call: this thread is the owner from now on."""
        self._engine.claim()

    def blocked(self) -> None:
        """The socket takes no more: the program's poll is told when it does."""
        if self.epoll is not None:
            self.epoll.modify(self._sock, select.EPOLLOUT | select.EPOLLONESHOT)

    @staticmethod
    def examine(data: Any) -> tuple[memoryview, int, int, bool]:
        """What holds a buffer, where it is, its bytes, and whether they can not change.

        They can not if it is a bytes object: what is only read-only, such as a mapped file, somebody else may
        write. TypeError for what has no buffer, BufferError if it is not contiguous.
        """
        view = memoryview(data)
        if view.nbytes:
            view = memory.export(view)
        return view, memory.address_of(view), view.nbytes, view.readonly and isinstance(view.obj, bytes)

    # -- the policy

    def start(self) -> Decision:
        """Its first decision."""
        return self._policy.start()

    def observe(self, settled: int, copied: int) -> Decision:
        """Its next one."""
        return self._policy.observe(settled, copied)

    @property
    def copying(self) -> bool:
        """Everything is copied."""
        return self._policy.copying

    # -- telling

    def failed(self, number: int, size: int, accepted: int, total: int) -> None:
        """Raises that a call of `size` bytes has ended so."""
        error = stream_error(number, size, accepted, total)
        if self._on_error is not None:
            self._on_error(error)
        raise error

    def posted(self, sequence: int, requests: int, nbytes: int, copied: int, failed: int) -> None:
        """A notifier of the stream has posted."""
        known = None if copied < 0 else copied
        self._notifications.append(Notification(0, sequence, 0, requests, nbytes, known, failed))

    def report(self) -> None:
        """Calls the program's callback. What it raises goes to the program, through its call."""
        while self._notify and self._notifications:
            self._notify(self._notifications.pop(0))
