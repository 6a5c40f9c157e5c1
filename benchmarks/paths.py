"""Ways to a receiver, and processes that read there everything that comes: loopback, veth, a slow link.

All of them copy at delivery, so zero-copy gains nothing there: what they show is that nothing is lost by it.

`python -m benchmarks.paths FD` reads a socket, datagrams or a stream, until its stdin ends.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from uringzc import testing

T = TypeVar("T")
DELAY = 0.001  # of the slow link: 213 MB/s, as `testing.hold` counts
ROOM = 64 << 20
LITTLE = 1 << 20  # of a receiver's buffer, so that it stays in the cache
SO_RCVBUFFORCE = 33


class Path:
    """This machine's loopback, or that of a sandbox with two ends."""

    def __init__(
        self, name: str, box: testing.Hold | None = None, cold: bool = False, fast: bool = True
    ) -> None:
        self.name, self._box, self.cold, self.fast = name, box, cold, fast

    def run(self, call: Callable[[], T]) -> T:
        """What `call` returns on the sender's side."""
        return self._box.run(call) if self._box else call()

    def bound(self, kind: socket.SocketKind = socket.SOCK_DGRAM) -> socket.socket:
        """A socket on the receiver's side, of a port of its own; for datagrams, with room for many."""
        if self._box:
            return self._box.receiver_socket(type=kind, port=0)
        sock = socket.socket(socket.AF_INET, kind)
        if kind == socket.SOCK_DGRAM:
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM)
        sock.bind(("127.0.0.1", 0))
        return sock

    def connected(self) -> tuple[socket.socket, socket.socket]:
        """Two ends of a TCP connection, the sender's first."""
        with self.bound(socket.SOCK_STREAM) as listening:
            listening.listen(1)
            near = self.run(socket.socket)
            near.connect(listening.getsockname())
            return near, listening.accept()[0]

    def forget(self) -> None:
        """The neighbour is forgotten, where that is what the path is about."""
        if self.cold and self._box:
            self._box.forget_neighbour()


@contextmanager
def paths() -> Iterator[list[Path]]:
    """All of them."""
    with ExitStack() as stack:
        veth = stack.enter_context(testing.hold(mtu=65535))
        near = stack.enter_context(testing.hold(mtu=1500))
        slow = stack.enter_context(testing.hold(DELAY, mtu=1500))
        for box in (veth, near):
            box.run(lambda box=box: _open_gate(box.device))  # type: ignore[misc]
        yield [
            Path("loopback"),
            Path("veth", veth),
            Path("hold", slow, fast=False),
            Path("cold neighbour", near, cold=True),
        ]


def _open_gate(device: str) -> None:
    """Take the qdisc that `hold` slows down with off: what is left is a veth pair."""
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        ip.tc("del", index=socket.if_nametoindex(device), root=True)


@contextmanager
def reading(sock: socket.socket) -> Iterator[None]:
    """A process of its own reads `sock`, which it takes."""
    with sock:
        command = [sys.executable, "-m", "benchmarks.paths", str(sock.fileno())]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[sock.fileno()])
    try:
        yield
    finally:
        process.communicate()


def until_sent(sock: socket.socket) -> None:
    """Return when nothing of the socket waits on this side: TCP, nothing that is not acknowledged."""
    while struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0]:
        time.sleep(20e-6)


def main() -> None:
    """Read."""
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    sock, into = socket.socket(fileno=int(sys.argv[1])), bytearray(1 << 20)
    stream = sock.type == socket.SOCK_STREAM
    if not stream:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LITTLE)
    take: Any = sock.recv_into
    while take(into) or not stream:
        pass
    threading.Event().wait()  # a stream has ended, stdin not yet


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
