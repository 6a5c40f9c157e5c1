"""Networks with a receiver, in a process of its own: loopback, veth, a slow link.

All of them copy at delivery, so zero-copy gains nothing there; what is measured is that it loses nothing.

`python -m benchmarks.paths FD` reads a socket, of datagrams or a stream, until its stdin ends.
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
DELAY = 0.001  # of the slow link, which makes it 213 MB/s: see `testing.hold`
LARGE = 64 << 20
SMALL = 1 << 20  # a receive buffer that stays in the cache
SO_RCVBUFFORCE = 33


class Path:
    """Loopback, or the network of a sandbox with two ends. `cold`: `forget` empties the neighbour table."""

    def __init__(
        self, name: str, box: testing.Hold | None = None, cold: bool = False, fast: bool = True
    ) -> None:
        self.name, self.box, self.cold, self.fast = name, box, cold, fast

    def run(self, call: Callable[[], T]) -> T:
        """Return what `call` returns on the sender's side."""
        return self.box.run(call) if self.box else call()

    def receiver_socket(self, kind: socket.SocketKind = socket.SOCK_DGRAM) -> socket.socket:
        """Return a socket on the receiver's side, bound to a free port; for datagrams with a large buffer."""
        if self.box:
            return self.box.receiver_socket(type=kind, port=0)
        sock = socket.socket(socket.AF_INET, kind)
        if kind == socket.SOCK_DGRAM:
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, LARGE)
        sock.bind(("127.0.0.1", 0))
        return sock

    def connected(self) -> tuple[socket.socket, socket.socket]:
        """Return the two ends of a TCP connection, the sender's first."""
        with self.receiver_socket(socket.SOCK_STREAM) as listening:
            listening.listen(1)
            near = self.run(socket.socket)
            near.connect(listening.getsockname())
            return near, listening.accept()[0]

    def forget(self) -> None:
        """Remove the receiver from the neighbour table, if the path is `cold`."""
        if self.cold and self.box:
            self.box.forget_neighbour()


@contextmanager
def paths() -> Iterator[list[Path]]:
    """Make all of them."""
    with ExitStack() as stack:
        veth = stack.enter_context(testing.hold(mtu=65535))
        near = stack.enter_context(testing.hold(mtu=1500))
        slow = stack.enter_context(testing.hold(DELAY, mtu=1500))
        for box in (veth, near):
            box.run(lambda box=box: _remove_tbf(box.device))  # type: ignore[misc]
        yield [
            Path("loopback"),
            Path("veth", veth),
            Path("slow link", slow, fast=False),
            Path("unresolved neighbour", near, cold=True),
        ]


def _remove_tbf(device: str) -> None:
    """Remove the qdisc that makes `hold` slow: a veth pair is left."""
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        ip.tc("del", index=socket.if_nametoindex(device), root=True)


@contextmanager
def read_in_process(sock: socket.socket) -> Iterator[None]:
    """Read `sock` in another process, and close it here."""
    with sock:
        command = [sys.executable, "-m", "benchmarks.paths", str(sock.fileno())]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[sock.fileno()])
    try:
        yield
    finally:
        process.communicate()


def wait_until_sent(sock: socket.socket) -> None:
    """Return when the send buffer is empty: for TCP, when all is acknowledged."""
    while struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0]:
        time.sleep(20e-6)


def main() -> None:
    """Read, and ignore what comes."""
    threading.Thread(target=end_with_stdin, daemon=True).start()
    sock, into = socket.socket(fileno=int(sys.argv[1])), bytearray(1 << 20)
    stream = sock.type == socket.SOCK_STREAM
    if not stream:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
    receive: Any = sock.recv_into
    while receive(into) or not stream:
        pass
    threading.Event().wait()  # the stream has ended, stdin has not


def end_with_stdin() -> None:
    """End the process when stdin does; for a thread."""
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
