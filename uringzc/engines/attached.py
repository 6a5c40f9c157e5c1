"""The senders that use one engine, and the arena in which its UDP senders collect datagrams."""

import threading
import time
import weakref
from contextlib import suppress
from typing import Protocol

from uringzc._send import Arena, TcpStream, UdpBatcher

#: bytes of the smallest arena
MIN_ARENA = 256 << 10


class Sender(Protocol):
    """What an engine needs of a sender."""

    def close(self, timeout: float = 5.0) -> None:
        """Sends what waits, drains, and ends."""


class AttachedSenders:
    """The senders of one engine. Senders are held weakly; their compiled parts while they have requests.

    Any thread may drop a sender, or build one while nobody owns the engine.
    """

    def __init__(self) -> None:
        self.arena: Arena | None = None  #: of all UDP senders of the engine
        self.making_arena = threading.RLock()  #: a signal handler may build a sender meanwhile
        self._senders: weakref.WeakSet[Sender] = weakref.WeakSet()
        self._parts: list[UdpBatcher | TcpStream] = []  # the listeners of the engine's internal slots
        self.to_detach: list[UdpBatcher | TcpStream] = []  #: closed, or dropped in any thread

    def add(self, sender: Sender, part: UdpBatcher | TcpStream) -> None:
        """A new sender, and its compiled part."""
        self._senders.add(sender)
        self._parts.append(part)

    def remove(self, sender: Sender) -> None:
        """It is being closed."""
        self._senders.discard(sender)

    def detach(self, part: UdpBatcher | TcpStream) -> None:
        """The sender is closed. While requests of it are in flight its compiled part stays."""
        if part.close_slot():
            with suppress(ValueError):  # its constructor failed before it was attached
                self._parts.remove(part)
        else:
            self.to_detach.append(part)

    def detach_closed(self) -> None:
        """Detaches those of `to_detach` that have no requests in flight any more."""
        for _ in range(len(self.to_detach)):  # in place: C has a reference to the list
            self.detach(self.to_detach.pop(0))

    def close(self, deadline: float) -> list[Exception]:
        """Closes all of them until `deadline` (time.monotonic()); returns what they raised."""
        errors: list[Exception] = []
        for sender in list(self._senders):
            try:
                sender.close(max(0.0, deadline - time.monotonic()))
            except Exception as error:  # the others, and the engine, are to be closed too
                errors.append(error)
        return errors

    def none_but(self, sender: object) -> bool:
        """Whether no other one is alive."""
        return {*self._senders} <= {sender}

    def send_at_exit(self) -> None:
        """UDP senders send what waits in the arena with sendmsg(), in any thread."""
        for batcher in self._batchers():
            batcher.send_at_exit()

    def abandon(self) -> None:
        """In the child of a fork: their requests are the parent's."""
        for part in self._parts:
            part.abandon()

    def clear(self) -> None:
        """The engine has ended: breaks the cycles between it, their compiled parts and the arena."""
        self.to_detach.clear()
        self._parts.clear()

    def _batchers(self) -> list[UdpBatcher]:
        parts = self._parts.copy()  # at exit another thread may change it
        return [part for part in parts if isinstance(part, UdpBatcher) and not part.closed]

    def release_blocks(self, batcher: UdpBatcher) -> list[UdpBatcher]:
        """UDP senders other than this one send what waits, and release the block they fill; returns them."""
        others = [each for each in self._batchers() if each is not batcher and not each.busy]
        for other in others:
            other.release_block()
        return others
