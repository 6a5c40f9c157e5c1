"""A receiver of datagrams, for tests of programs that send."""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

Address = tuple[str, int]
Socket = socket.socket
_SO_RCVBUFFORCE = 33
_SO_MEMINFO, _DROPS = 55, 8  # <linux/sock_diag.h>: SK_MEMINFO_DROPS, of u32


class Receiver:
    """What `receiver` gives: `count` datagrams came to `address`, and the first of them are `datagrams`."""

    def __init__(self, sock: Socket, limit: int) -> None:
        self.sock = sock
        self.address = sock.getsockname()
        self.count = 0
        self._limit = limit
        self._kept: list[bytes] = []
        self._buffer = memoryview(bytearray(1 << 16))
        self._arrived = threading.Condition()
        self._thread: threading.Thread | None = None

    @property
    def datagrams(self) -> list[bytes]:
        """What has been received so far, a copy."""
        with self._arrived:
            return self._kept.copy()

    def wait(self, count: int, timeout: float = 5.0) -> list[bytes]:
        """`datagrams`, as soon as `count` have come since the start.

        TimeoutError says how many did, and how many the kernel dropped since the socket's buffer was full.
        """
        deadline = time.monotonic() + timeout
        while self.count < count:
            left = deadline - time.monotonic()
            if left <= 0:
                came = f"{self.count} of {count} datagrams came to {self.address} in {timeout} s"
                raise TimeoutError(came + self._dropped())
            if self._thread:
                with self._arrived:
                    self._arrived.wait_for(lambda: self.count >= count, left)
            elif select.select([self.sock], [], [], left)[0]:
                self.read()
        return self.datagrams

    def _dropped(self) -> str:
        """How many the kernel has dropped since the socket's buffer was full, for an error."""
        with suppress(OSError):  # it is closed
            memory = self.sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * _DROPS + 4)
            if dropped := int.from_bytes(memory[4 * _DROPS :], sys.byteorder):
                return f", {dropped} were dropped: its buffer was full"
        return ""

    def read(self) -> None:
        """Take what is there, without waiting: at most 1024. The thread does this, if there is one."""
        batch: list[bytes] = []
        came, room = 0, self._limit - len(self._kept)
        with suppress(BlockingIOError):
            while came < 1024:
                size = self.sock.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)
                came += 1
                if came <= room:
                    batch.append(bytes(self._buffer[:size]))
        with self._arrived:
            self._kept += batch
            self.count += came
            self._arrived.notify_all()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        wake = os.eventfd(0)
        self._thread = threading.Thread(target=self._read_until, args=(wake,), name="uringzc receiver")
        self._thread.start()
        try:
            yield
        finally:
            os.eventfd_write(wake, 1)
            self._thread.join()
            os.close(wake)

    def _read_until(self, wake: int) -> None:
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        poll.register(wake, select.POLLIN)
        while all(fd != wake for fd, _ in poll.poll()):
            self.read()


@contextmanager
def receiver(
    address: Address | None = None, *, sock: Socket | None = None, limit: int = 100_000, thread: bool = True
) -> Iterator[Receiver]:
    """Receive at `address`, by default a free port of 127.0.0.1, or on `sock`, which is closed at the end.

    A thread takes datagrams as they come; with thread=False the caller's `wait` and `read` do. The first
    `limit` are kept, the others counted.
    """
    if sock is None:
        address = address or ("127.0.0.1", 0)
        sock = Socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_DGRAM)
        make_room(sock)
    with sock, ExitStack() as stack:
        if address:
            sock.bind(address)
        rx = Receiver(sock, limit)
        if thread:
            stack.enter_context(rx._reading())
        yield rx


def make_room(sock: Socket) -> None:
    """A receive buffer of 64 MiB, or as much as net.core.rmem_max allows."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
