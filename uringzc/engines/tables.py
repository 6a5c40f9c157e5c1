"""The tables of a ring: the entries of registered buffers, and of registered sockets (fixed files)."""

import _socket
import errno
import os
import resource
import socket
import sys
from collections import deque
from contextlib import suppress
from threading import RLock
from typing import TYPE_CHECKING, Any

from uringzc import memory
from uringzc._send import Memory
from uringzc._uring import lib
from uringzc.errors import check, refuse
from uringzc.kernel.reasons import memlock_hint
from uringzc.memory import Region

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: entries of each table; the kernel allows no more buffers
BUFFERS = 16384
FILES = 1024
_TCP_ULP = 31
#: bytes of a datagram, by address family
MAX_PAYLOAD: dict[int, int] = {socket.AF_INET: 65507, socket.AF_INET6: 65527}


def upper_protocol(sock: socket.socket) -> str:
    """The TCP_ULP of a socket ("tls": kernel TLS), which has no zero-copy sends; "" if it has none."""
    with suppress(OSError):  # the kernel has no such option
        return sock.getsockopt(socket.IPPROTO_TCP, _TCP_ULP, 16).rstrip(b"\0").decode()
    return ""


def require_socket(sock: object) -> None:
    """TypeError for anything but a socket."""
    if not isinstance(sock, socket.socket):
        raise TypeError(f"sock must be a socket.socket, not {type(sock).__name__}")


def new_region(size_or_buffer: "int | Buffer", retired: deque[tuple[int, int]]) -> Region:
    """A region that is not registered (yet). `retired`: see Engine."""
    view = memory.region_memory(size_or_buffer)
    held = Memory(view, memory.address_of(view), view.nbytes, retired)
    held.may_fault = not isinstance(size_or_buffer, (int, bytearray))
    return Region(held, view)


class Buffers:
    """A sparse table: a region fills entries, and they are emptied when its last use has ended."""

    def __init__(self, ring: Any, retired: deque[tuple[int, int]]) -> None:
        self.retired = retired
        self._ring = ring
        self._used = bytearray()  # a byte for each entry; empty: no table is registered
        self._lock = RLock()  # while no thread owns the engine, any may register

    def register(self, size_or_buffer: "int | Buffer") -> Region:
        """See Scheduler.register."""
        region = new_region(size_or_buffer, self.retired)
        assert region._memory is not None
        with self._lock:
            self._pin(region._memory, isinstance(size_or_buffer, int))
        return region

    def _pin(self, held: Memory, own: bool) -> None:
        limit, stride = lib.UZC_BUFFER_MAX, lib.UZC_BUFFER_STRIDE
        parts = 1 if held.length <= limit else 1 + -(-(held.length - limit) // stride)
        first = self._allocate(parts)
        code = 0
        for part in range(parts):
            start = part * stride
            size = min(limit, held.length - start)
            code = lib.uzc_ring_set_buffer(self._ring[0], first + part, held.address + start, size)
            if code:
                break
        if not code and (own or not memory.on_huge_pages(held.address, held.length)):
            held.buffers, held.buffer = parts, first
            return
        self.retired.append((first, parts))
        self.clear_retired()
        if code == -errno.ENOMEM:
            page = os.sysconf("SC_PAGE_SIZE")
            need = held.length + held.address % page + -(held.address + held.length) % page
            raise OSError(errno.ENOMEM, f"{held.length} bytes cannot be registered: {memlock_hint(need)}")
        if code and (own or code != -errno.EFAULT):  # EFAULT: memory that the kernel will not pin
            check(code, f"register {held.length} bytes")

    def _allocate(self, parts: int) -> int:
        """Takes so many consecutive free entries; returns the first."""
        self.clear_retired()
        if not self._used:
            check(lib.uzc_ring_buffers(self._ring[0], BUFFERS), "register a table of buffers")
            self._used = bytearray(BUFFERS)
        first = self._used.find(bytes(parts))
        if first < 0:
            row = f" with no {parts} free in a row" if parts > 1 else ""
            text = f"{BUFFERS - self._used.count(0)} buffers are registered{row}, the most of one ring"
            raise OSError(errno.ENOBUFS, f"{text}: close regions")
        self._used[first : first + parts] = b"\1" * parts
        return first

    def clear_retired(self) -> None:
        """Empties the entries of regions that were closed and are no longer in flight."""
        with self._lock:
            while self.retired:
                first, parts = self.retired.popleft()
                for index in range(first, first + parts):
                    lib.uzc_ring_set_buffer(self._ring[0], index, 0, 0)
                self._used[first : first + parts] = bytes(parts)


class Sockets:
    """Which sockets an engine can send through, and which are registered."""

    def __init__(self, raw: bool = False) -> None:
        self._raw = raw  # the program sees the kernel's error for a socket that cannot send zero-copy
        self.registered: dict[socket.socket, int] = {}  # fixed file; -1: only remembered
        self._free: list[int] | None = None
        self._entries = 0
        self._lock = RLock()  # as in Buffers
        self.refused = 0  #: errno of the refused table of files: requests use descriptors

    def describe_socket(self, sock: socket.socket) -> tuple[int, int, int, int, bool]:
        """Descriptor, fixed file or -1, family, largest datagram or 0, whether it can send zero-copy.

        TypeError for anything but a socket, OSError EBADF for a closed one.
        """
        require_socket(sock)
        ssl = sys.modules.get("ssl")
        if ssl is not None and isinstance(sock, ssl.SSLSocket):
            raise TypeError(
                "an SSLSocket encrypts what is sent through it, and nothing else: this would not be"
            )
        fd = sock.fileno()
        if fd < 0:
            refuse(-errno.EBADF)
        c_socket = _socket.socket  # its members are ints, where socket.socket makes enums
        family, kind = c_socket.family.__get__(sock), c_socket.type.__get__(sock)
        internet = family in MAX_PAYLOAD
        datagram = internet and kind == socket.SOCK_DGRAM
        stream = internet and kind == socket.SOCK_STREAM
        usual = c_socket.proto.__get__(sock) in (0, socket.IPPROTO_UDP if datagram else socket.IPPROTO_TCP)
        able = self._raw or (usual and (datagram or (stream and not upper_protocol(sock))))
        index = self.registered.get(sock, -1)
        return fd, index, family, MAX_PAYLOAD[family] if datagram else 0, able

    def register(self, sock: socket.socket, ring: Any = None) -> None:
        """See Scheduler.register_socket. Without a `ring` the socket is only remembered."""
        fd = self.describe_socket(sock)[0]
        with self._lock:
            if sock in self.registered:
                raise OSError(errno.EBUSY, "the socket is registered already")
            if ring is not None and self._free is None:
                self._free = self._make_table(ring)
            if not self._entries:
                self.registered[sock] = -1
                return
            if not self._free:
                raise OSError(errno.ENFILE, f"{self._entries} sockets are registered, the most of one ring")
            check(lib.uzc_ring_set_file(ring, self._free[-1], fd), "register a socket")
            self.registered[sock] = self._free.pop()

    def _make_table(self, ring: Any) -> list[int]:
        """Its free entries, at most RLIMIT_NOFILE; none where the kernel refuses the table."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        entries = FILES if soft == resource.RLIM_INFINITY else min(soft, FILES)
        code = lib.uzc_ring_files(ring, entries)
        if code < -4095:  # one of UZC_E_*: the table can be made later
            check(code)
        self.refused = -code
        self._entries = 0 if code else entries
        return list(range(self._entries - 1, -1, -1))

    def unregister(self, sock: socket.socket, ring: Any = None) -> None:
        """See Scheduler.unregister_socket."""
        with self._lock:
            if sock not in self.registered:
                raise OSError(errno.ENXIO, "the socket is not registered")
            index = self.registered.pop(sock)
            if index >= 0 and self._free is not None:
                check(lib.uzc_ring_set_file(ring, index, -1), "unregister a socket")
                self._free.append(index)
