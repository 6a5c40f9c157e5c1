"""What programs send to: receivers behind a gate that holds datagrams, in a sandbox; else on loopback.

One thread receives everything, and opens the gate again soon after a program has closed it, so that what
waits for the network does not wait without end.
"""

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

from proofs.fuzz.values import PLACES
from uringzc import testing
from uringzc.testing.devices import FAR, NEAR
from uringzc.testing.receiving import make_room

HELD = 0.025  #: seconds that the gate stays closed
MARK = b"all before this has come"
SO_MEMINFO, _DROPS = 55, 8


class Connection:
    """A TCP connection: the program's end, and what has come at the other."""

    def __init__(self, sock: socket.socket, peer: socket.socket) -> None:
        self.sock, self.peer = sock, peer
        self.came = bytearray()
        self.expected = bytearray()  #: what a TcpSender says that the kernel has accepted
        self.order_known = True  #: nobody else sends through it
        self.broken = False  #: reset, or its socket closed, by the program
        self.ended = False


class Network:
    """The receivers. Made in the main thread, which is inside the sandbox from then on."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self.box: testing.Hold | None = None
        with contextlib.suppress(PermissionError):
            self.box = self._stack.enter_context(testing.hold())
        self._closed_at = 0.0
        if self.box:
            self.box.release()
            self.box._inside(lambda: None)  # this thread, and the processes and threads that it starts
            self.near, self.far, self.far6 = NEAR.ip, FAR.ip, FAR.ip6
        else:
            self.near = self.far = "127.0.0.1"
            self.far6 = "::1"
        self.receivers = [self._receiver(socket.AF_INET) for _ in range(PLACES)]
        self.receivers.append(self._receiver(socket.AF_INET6))
        self.trap = self._receiver(socket.AF_INET)  # of sockets that no program gives to the library
        self.listener = self._peer_socket(socket.AF_INET, socket.SOCK_STREAM)
        self.listener.bind((self.far, 0))
        self.listener.listen(64)
        self.addresses = [sock.getsockname()[:2] for sock in self.receivers]
        self.marker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.marker6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self.connections: list[Connection] = []
        self.clear()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK)
        self._epoll = select.epoll()
        self._reading: dict[int, Callable[[], None]] = {}
        for place, sock in enumerate([*self.receivers, self.trap]):
            self._watch(sock, self._read_datagrams(place, sock))
        self._epoll.register(self._wake, select.EPOLLIN)
        self._paused: list[tuple[float, Connection]] = []
        self._work = threading.Lock()
        threading.Thread(target=self._run, name="fuzz network", daemon=True).start()

    def _peer_socket(self, family: int, kind: int) -> socket.socket:
        return self.box.peer.socket(family, kind) if self.box else socket.socket(family, kind)

    def _receiver(self, family: int) -> socket.socket:
        sock = self._peer_socket(family, socket.SOCK_DGRAM)
        make_room(sock)
        sock.bind((self.far if family == socket.AF_INET else self.far6, 0))
        sock.setblocking(False)
        return sock

    # -- for programs

    def clear(self) -> None:
        """Another program begins."""
        self.came: list[list[bytes]] = [[] for _ in range(PLACES + 1)]
        self.trapped: list[bytes] = []
        self.marked = 0
        self.dropped = self._drops()

    def place_of(self, to: Any) -> int | None:
        """The receiver at an address; None: nobody receives there."""
        with contextlib.suppress(TypeError, ValueError):
            host, port = to[0], to[1]
            return self.addresses.index((host.removeprefix("::ffff:"), port))
        return None

    def stop(self) -> None:
        """What is sent from now on is held, for a moment."""
        if self.box:
            with self._work:
                self.box.stop()
                self._closed_at = time.monotonic()
            os.eventfd_write(self._wake, 1)

    def release(self) -> None:
        """Delivers."""
        if self.box and self._closed_at:
            with self._work:
                self.box.release()
                self._closed_at = 0.0

    def connect(self) -> Connection:
        """A new connection."""
        sock = socket.create_connection(self.listener.getsockname(), timeout=10)
        sock.settimeout(None)
        peer, address = self.listener.accept()
        while address != sock.getsockname():  # of a connect() that an interrupt has ended
            peer.close()
            peer, address = self.listener.accept()
        peer.setblocking(False)
        made = Connection(sock, peer)
        self.connections.append(made)
        self._watch(peer, lambda: self._read_stream(made))
        return made

    def stop_reading(self, connection: Connection) -> None:
        """Its peer does not read, for a moment."""
        if not connection.ended:
            with contextlib.suppress(OSError, ValueError):  # it was reset
                self._epoll.modify(connection.peer, 0)
                self._paused.append((time.monotonic(), connection))
                os.eventfd_write(self._wake, 1)

    def reset(self, connection: Connection) -> None:
        """Its peer is gone."""
        connection.broken = True
        if connection.peer.fileno() < 0:
            return
        self._forget(connection)
        connection.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.peer.close()

    def settle(self, timeout: float) -> bool:
        """Whether everything that has been sent has come: what is sent last has."""
        self.release()
        for address in self.addresses:
            sock = self.marker6 if ":" in address[0] else self.marker
            sock.sendto(MARK, address)
        deadline = time.monotonic() + timeout
        while self.marked < len(self.addresses):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.0005)
        return True

    def drain_streams(self, timeout: float) -> None:
        """Waits until each connection has delivered what was accepted, or has ended."""
        deadline = time.monotonic() + timeout
        for each in self.connections:
            while not each.ended and len(each.came) < len(each.expected) and time.monotonic() < deadline:
                time.sleep(0.0005)

    def end_connections(self) -> None:
        """Closes all."""
        for each in self.connections:
            self._forget(each)
            each.sock.close()
            each.peer.close()
        self.connections.clear()
        self._paused.clear()

    def lost_at_receivers(self) -> bool:
        """Whether the receivers had no room for something."""
        return self._drops() != self.dropped

    def _drops(self) -> int:
        def drops(sock: socket.socket) -> int:
            return int(
                struct.unpack_from("I", sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36), 4 * _DROPS)[0]
            )

        return sum(map(drops, self.receivers))

    # -- the thread

    def _watch(self, sock: socket.socket, read: Callable[[], None]) -> None:
        self._reading[sock.fileno()] = read
        self._epoll.register(sock, select.EPOLLIN)

    def _forget(self, connection: Connection) -> None:
        if (fd := connection.peer.fileno()) >= 0:
            with contextlib.suppress(OSError):
                self._epoll.unregister(fd)
            self._reading.pop(fd, None)

    def _read_datagrams(self, place: int, sock: socket.socket) -> Callable[[], None]:
        def read() -> None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    data = sock.recv(1 << 16)
                    if data == MARK:
                        self.marked += 1
                    elif place < len(self.came):
                        self.came[place].append(data)
                    else:
                        self.trapped.append(data)

        return read

    def _read_stream(self, connection: Connection) -> None:
        try:
            while data := connection.peer.recv(1 << 20):
                connection.came += data
        except BlockingIOError:
            return
        except OSError:
            connection.broken = True
        connection.ended = True
        self._forget(connection)

    def _run(self) -> None:
        while True:
            for fd, _ in self._epoll.poll(0.005 if self._closed_at or self._paused else 1):
                if fd == self._wake:
                    with contextlib.suppress(BlockingIOError):
                        os.eventfd_read(fd)
                elif read := self._reading.get(fd):
                    read()
            now = time.monotonic()
            if self._closed_at and now - self._closed_at > HELD:
                self.release()
            for at, connection in self._paused[:]:
                if now - at > HELD:
                    self._paused.remove((at, connection))
                    with contextlib.suppress(OSError, ValueError):
                        self._epoll.modify(connection.peer, select.EPOLLIN)
