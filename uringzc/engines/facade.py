"""What a Scheduler and a Ring have in common: everything but sends, and what they read of the results."""

import socket
from typing import TYPE_CHECKING, TypeVar

from uringzc.engines import lifetime
from uringzc.engines.base import Engine
from uringzc.memory import Region
from uringzc.notif import Stats

if TYPE_CHECKING:
    from typing_extensions import Buffer

F = TypeVar("F", bound="Facade")


class Facade:
    """The base of Scheduler and Ring."""

    __slots__ = ()
    _engine: Engine

    def register(self, size_or_buffer: "int | Buffer") -> Region:
        """Memory to send from, pinned once: `size` new bytes, or the caller's own writable buffer in place.

        A caller's buffer is exported (a bytearray cannot be resized) until ``Region.close`` and the last
        notification. Memory that the kernel will not pin (shared or read-only file mappings) or that lies on
        huge pages (or may: without /proc that is not known) makes a region that is sent unregistered
        (``region.registered``). OSError ENOMEM says the limit for locked memory, the need, and what raises
        it. TypeError for read-only memory. Matches io_uring_register_buffers_update_tag().
        """
        return self._engine.register(size_or_buffer)

    def register_socket(self, sock: socket.socket) -> None:
        """Registers a socket as a fixed file: each request on it costs the kernel a little less.

        The ring then holds the socket open: closing it frees neither its port nor its connection, and does
        not end sends through it, until ``unregister_socket``. OSError EBUSY when it is registered already,
        ENFILE for more than 1024, or than RLIMIT_NOFILE. Matches io_uring_register_files_update(). Where the
        kernel makes no table, and with the other engines, which have none, it changes nothing.
        """
        self._engine.register_socket(sock)

    def unregister_socket(self, sock: socket.socket) -> None:
        """Submits what is queued, and unregisters the socket. OSError ENXIO if it is not registered."""
        self._engine.unregister_socket(sock)

    def drain(self, timeout: float | None = None) -> None:
        """Submits, and returns when the kernel holds no memory any more. Flushes no slot.

        TimeoutError says what it still holds.
        """
        self._engine.drain(timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Refuses new work, flushes every slot, waits for the kernel, and ends the ring. May be repeated.

        What the kernel still holds after `timeout` is parked: it stays held, with a ResourceWarning that says
        how much, and the ring stays open until a later call of this thread, or its end, finds it idle. So
        does KeyboardInterrupt, at once. What was settled can still be reaped. `timeout` is for all senders
        that share it, too.
        """
        self._engine.close(timeout)

    def fileno(self) -> int:
        """A descriptor for poll and select: readable while there is something to reap."""
        return self._engine.fileno()

    @property
    def stats(self) -> Stats:
        """A snapshot of what it has done."""
        return self._engine.slots.stats()

    def __enter__(self: F) -> F:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        engine: Engine | None = getattr(self, "_engine", None)
        if engine is not None and not engine.closed:  # when the process ends, lifetime may be gone by now
            lifetime.finalize(engine, self)
