"""A server that answers each datagram with the same one, in a process of its own, over loopback.

`python -m benchmarks.programs.server FD socket`, or `... FD sender [MAX_DELAY]`: by `socket.sendto`, or by
`UdpSender.send(data, to)`, with the default settings but for max_delay. Ends with its stdin.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uringzc
from benchmarks.paths import end_with_stdin

PATIENCE = 5  # seconds for a reply


@contextmanager
def server(*kind: object) -> Iterator[socket.socket]:
    """Start one, and return a socket that is connected to it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.connect(sock.getsockname())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", PATIENCE, 0))
        command = [sys.executable, "-m", "benchmarks.programs.server", sock.fileno(), *kind]
        process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, pass_fds=[sock.fileno()])
    try:
        with client:
            yield client
    finally:
        process.communicate()


def answer(sock: socket.socket, send: Callable[[bytes, Any], object]) -> None:
    """Answer each request, until the process is ended."""
    receive = sock.recvfrom
    while True:
        data, address = receive(2048)
        send(data, address)


def main() -> None:
    """Answer as the command line says."""
    threading.Thread(target=end_with_stdin, daemon=True).start()
    sock, kind = socket.socket(fileno=int(sys.argv[1])), sys.argv[2]
    if kind == "socket":
        answer(sock, sock.sendto)
    elif len(sys.argv) == 3:
        answer(sock, uringzc.UdpSender(sock=sock).send)
    else:
        answer(sock, uringzc.UdpSender(sock=sock, max_delay=float(sys.argv[3])).send)


if __name__ == "__main__":
    main()
