"""A ring's tables of registered buffers and registered sockets: who has which entry."""

import _socket
import errno
import os
import resource
import socket
import sys
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from uringzc import memory
from uringzc._send import Memory
from uringzc._uring import lib
from uringzc.errors import check, refuse
from uringzc.kernel.reasons import memlock_hint
from uringzc.memory import Region

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: entries; the kernel allows no more buffers
BUFFERS = 16384
FILES = 1024
_TCP_ULP = 31
#: bytes of a datagram
DATAGRAM_MOST: dict[int, int] = {socket.AF_INET: 65507, socket.AF_INET6: 65527}


def upper_protocol(sock: socket.socket) -> str:
    """What lies between a TCP socket and its user, and has no zero-copy sends: TCP_ULP, kernel TLS say."""
    with suppress(OSError):  # a kernel that does not know the option has none
        return sock.getsockopt(socket.IPPROTO_TCP, _TCP_ULP, 16).rstrip(b"\0").decode()
    return ""


def require_socket(sock: object) -> None:
    """TypeError for what is no socket."""
    if not isinstance(sock, socket.socket):
        raise TypeError(f"sock must be a socket.socket, not {type(sock).__name__}")


class Buffers:
    """The buffers of one ring: a sparse table, filled by regions and emptied when the last use has ended."""

    def __init__(self, ring: Any) -> None:
        self.retired: deque[tuple[int, int]] = deque()  # (first, parts), from the end of a Memory, any thread
        self._ring = ring
        self._used = bytearray()  # a byte for each entry, once there is a table

    def register(self, size_or_buffer: "int | Buffer") -> Region:
        """See Scheduler.register."""
        own = isinstance(size_or_buffer, int)
        view = memory.region_memory(size_or_buffer)
        where = memory.address_of(view)
        held = Memory(view, where, view.nbytes, self.retired)
        self._pin(held, own)
        return Region(held, view)

    def unregistered(self, size: int) -> Region:
        """Memory as register(size) makes it, that the kernel would not lock."""
        view = memory.region_memory(size)
        return Region(Memory(view, memory.address_of(view), view.nbytes, self.retired), view)

    def _pin(self, held: Memory, own: bool) -> None:
        most, stride = lib.UZC_BUFFER_MAX, lib.UZC_BUFFER_STRIDE
        parts = 1 if held.length <= most else 1 + -(-(held.length - most) // stride)
        first = self._take(parts)
        code = 0
        for part in range(parts):
            start = part * stride
            size = min(most, held.length - start)
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
            raise OSError(errno.ENOMEM, f"{held.length} bytes can not be registered: {memlock_hint(need)}")
        if code and (own or code != -errno.EFAULT):  # EFAULT: memory that the kernel will not pin
            check(code, f"register {held.length} bytes")

    def _take(self, parts: int) -> int:
        """The first of so many free entries in a row, which are then in use."""
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
        """Empties the entries of regions that are closed and no longer in flight."""
        while self.retired:
            first, parts = self.retired.popleft()
            for index in range(first, first + parts):
                lib.uzc_ring_set_buffer(self._ring[0], index, 0, 0)
            self._used[first : first + parts] = bytes(parts)


class Sockets:
    """The sockets of one ring: which may be named, and which are registered as fixed files."""

    def __init__(self, raw: bool = False) -> None:
        self._raw = raw  # what the kernel says to a socket that can not is the program's to see
        self.registered: dict[socket.socket, int] = {}  # -1: only remembered
        self._free: list[int] | None = None
        self._entries = 0
        self.refused = 0  #: the errno for which there is no table: sockets go by their descriptors

    def admit(self, sock: socket.socket) -> tuple[int, int, int, int, bool]:
        """Descriptor, registered index or -1, family, most bytes of a datagram or 0, whether zero-copy works.

        TypeError for what is no socket, OSError EBADF for one that is closed.
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
        plain = _socket.socket  # its members are ints, where socket.socket makes enums
        family, kind = plain.family.__get__(sock), plain.type.__get__(sock)
        internet = family in DATAGRAM_MOST
        datagram = internet and kind == socket.SOCK_DGRAM
        stream = internet and kind == socket.SOCK_STREAM
        usual = plain.proto.__get__(sock) in (0, socket.IPPROTO_UDP if datagram else socket.IPPROTO_TCP)
        able = self._raw or (usual and (datagram or (stream and not upper_protocol(sock))))
        index = self.registered.get(sock, -1)
        return fd, index, family, DATAGRAM_MOST[family] if datagram else 0, able

    def register(self, ring: Any, sock: socket.socket) -> None:
        """See Scheduler.register_socket."""
        fd = self._check_new(sock)
        if self._free is None:
            self._free = self._make_table(ring)
        if not self._entries:
            self.registered[sock] = -1
            return
        if not self._free:
            raise OSError(errno.ENFILE, f"{self._entries} sockets are registered, the most of one ring")
        check(lib.uzc_ring_set_file(ring, self._free[-1], fd), "register a socket")
        self.registered[sock] = self._free.pop()

    def _make_table(self, ring: Any) -> list[int]:
        """Its entries: no more than the process may have descriptors; none where the kernel has no table."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        entries = FILES if soft == resource.RLIM_INFINITY else min(soft, FILES)
        code = lib.uzc_ring_files(ring, entries)
        if code < -4095:  # a refusal: the table can still be made
            check(code)
        self.refused = -code
        self._entries = 0 if code else entries
        return list(range(self._entries - 1, -1, -1))

    def unregister(self, ring: Any, sock: socket.socket) -> None:
        """See Scheduler.unregister_socket."""
        index = self.forget(sock)
        if index >= 0 and self._free is not None:
            check(lib.uzc_ring_set_file(ring, index, -1), "unregister a socket")
            self._free.append(index)

    def _check_new(self, sock: socket.socket) -> int:
        fd = self.admit(sock)[0]
        if sock in self.registered:
            raise OSError(errno.EBUSY, "the socket is registered already")
        return fd

    def remember(self, sock: socket.socket) -> None:
        """As register(), for an engine that has no table of files."""
        self._check_new(sock)
        self.registered[sock] = -1

    def forget(self, sock: socket.socket) -> int:
        """The entry that it had."""
        if sock not in self.registered:
            raise OSError(errno.ENXIO, "the socket is not registered")
        return self.registered.pop(sock)
