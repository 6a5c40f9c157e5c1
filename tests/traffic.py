"""Sockets and what goes through them, for tests: datagrams, streams, stopped networks, and waiting."""

import contextlib
import fcntl
import itertools
import os
import select
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sharing import WORKER

import uringzc
from uringzc import testing
from uringzc.notif import Notification

SO_SNDBUFFORCE = 32
#: below those that the kernel gives to sockets (ip_local_port_range), and in each test process other ones
_ports = itertools.count(10_000 + os.getpid() % 110 * 200)


def datagram(sequence: int, size: int) -> bytes:
    """Bytes that no other datagram has, wherever in it one looks."""
    key = struct.pack("<IHH", sequence, size, sequence * 40503 & 0xFFFF)
    return (key * (size // 8 + 1))[:size]


def send_until_one_waits(sender: uringzc.UdpSender, data: bytes = b"x") -> int:
    """Returns how many it has sent. After a pause, a sender with a max_delay sends the first at once."""
    time.sleep(0.002)  # or the sender takes the program for one that waits for each datagram
    for count in range(1, 200_000):
        sender.send(data)
        if sender._native.waiting:  # quickly: what comes later than a pause leaves at once too
            return count
    raise AssertionError("none of 200,000 datagrams waited")


@contextmanager
def stopped(box: testing.Hold) -> Iterator[None]:
    """Nothing is delivered in the block, and everything after it."""
    box.stop()
    try:
        yield
    finally:
        box.release()


def unsent_bytes(sock: socket.socket) -> int:
    """Bytes of SO_SNDBUF that are in use (SIOCOUTQ)."""
    return int(struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0])


def received(rx: socket.socket, count: int) -> list[bytes]:
    """The next datagrams."""
    return [rx.recv(65536) for _ in range(count)]


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    """The next bytes of a stream. A socket with a timeout does not wait for all of them by MSG_WAITALL."""
    got = b""
    while len(got) < size and (more := sock.recv(size - len(got))):
        got += more
    return got


def raised_by(*calls: Callable[[], object]) -> list[type | None]:
    """The type of what each call raises."""
    found: list[type | None] = []
    for call in calls:
        try:
            call()
            found.append(None)
        except Exception as error:
            found.append(type(error))
    return found


def warm_up(tx: uringzc.UdpSender, rx: testing.Receiver) -> None:
    """The first datagram, which has arrived: the destination is known from then on."""
    tx.send(b"warm-up")
    tx.flush()
    rx.wait(1)


def enlarge_sndbuf(sock: socket.socket, size: int = 16 << 20) -> None:
    """A large SO_SNDBUF."""
    sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, size)


@contextmanager
def one_processor() -> Iterator[None]:
    """For this thread and those it starts: what two send, a veth delivers in any order.

    Test processes at the same time take different ones.
    """
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(processors)[WORKER % len(processors)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, processors)


@contextmanager
def sender_without_timer(rx: socket.socket, **options: Any) -> Iterator[uringzc.UdpSender]:
    """A sender to that receiver; without a timer: what waits is sent by flush()."""
    with uringzc.UdpSender(rx.getsockname(), max_delay=None, **options) as s:
        yield s


def free_port(host: str = "127.0.0.1", kind: int = socket.SOCK_DGRAM) -> int:
    """A port that nobody has, and that no socket gets by chance."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        port = next(_ports)
        with socket.socket(family, kind) as sock, contextlib.suppress(OSError):  # somebody has it
            sock.bind((host, port))
            return port


def is_bound(protocol: str, port: int, pid: int | str = "self") -> bool:
    """Whether somebody in that process's network has the port: of TCP, whether somebody listens there."""
    for version in ("", "6"):
        with contextlib.suppress(FileNotFoundError):  # no IPv6 here
            for line in Path(f"/proc/{pid}/net/{protocol}{version}").read_text().splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                if local.endswith(f":{port:04X}") and (protocol == "udp" or state == "0A"):
                    return True
    return False


def wait_until(condition: Callable[[], object], timeout: float = 20.0) -> bool:
    """Whether `condition` came true: for what the kernel does later, without an event."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.001)
    return True


def wait_readable(fd: int, timeout: float = 20.0) -> None:
    """Returns when a descriptor is readable."""
    assert select.select([fd], [], [], timeout)[0], "nothing to reap came"


def is_readable(fd: int) -> bool:
    """Whether a descriptor is readable now."""
    return bool(select.select([fd], [], [], 0)[0])


def all_copied(notification: Notification) -> Notification:
    """On loopback what succeeded was copied, also where the kernel has merged its notifications."""
    if notification.copied is None and os.environ.get("URINGZC_ENGINE") == "msg_zerocopy":
        return notification._replace(copied=notification.requests - notification.failed)
    return notification


class StreamReader:
    """Reads a stream to its end in a thread: everything in `data`, once the block is left or `end` called."""

    def __init__(self, sock: socket.socket, piece: int = 1 << 20) -> None:
        self.data = bytearray()
        self.sock = sock
        self.piece = piece
        self.thread = threading.Thread(target=self._read)

    def _read(self) -> None:
        with contextlib.suppress(ConnectionError):
            while got := self.sock.recv(self.piece):
                self.data += got

    def end(self) -> bytearray:
        """All of it: the sender has ended the stream."""
        self.thread.join()
        return self.data

    def __enter__(self) -> "StreamReader":
        self.thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:  # nobody ends the stream
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RD)
        self.thread.join()


@contextmanager
def tcp_connection(box: testing.Hold, window: int = 0) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection through the sandbox: the sender's end, and the receiver's, with that SO_RCVBUF."""
    with box.receiver_socket(type=socket.SOCK_STREAM, port=0) as listener:
        if window:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        listener.listen(1)
        with box.socket(type=socket.SOCK_STREAM) as tx:
            enlarge_sndbuf(tx)  # for what nobody acknowledges
            tx.connect(listener.getsockname())
            rx, _ = listener.accept()
            with rx:
                rx.settimeout(20)
                yield tx, rx
