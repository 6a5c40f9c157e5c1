"""Memory that can be sent: regions, exports of ordinary buffers, and the checksums of debug mode.

A request holds a reference to its memory until its notifier is posted: a ``bytes`` object itself, a
memoryview (an export, so that a ``bytearray`` cannot be resized) or a region's ``Memory``. Nothing else
has to be kept by the program.

No huge pages under registered memory: for a fixed buffer the kernel charges the socket PAGE_ALIGN(length +
offset inside the page), so that 1,400 bytes at the end of a huge page cost 2 MB of SO_SNDBUF. Regions are
mapped with MADV_NOHUGEPAGE; a caller's memory that lies on huge pages is sent unregistered.
"""

import mmap
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

from uringzc._send import RegionBase
from uringzc._uring import ffi, lib
from uringzc.errors import BufferModifiedError, ClosedError

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from uringzc._send import Memory

#: in /proc/self/smaps: first and last address, permissions, fields; and one of the fields
_MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S+).*\n((?:\w+:.*\n)*)", re.MULTILINE)
_FIELD = re.compile(r"^(\w+): *(.*)$", re.MULTILINE)
_PART = 256 << 10  # bytes of one step of a checksum
#: of a request's memory: the object to hold, address, bytes, registration (or None), iovecs (0: no vector)
Pinned = tuple[Any, int, int, "Memory | None", int]


class Region(RegionBase):
    """Memory registered with one engine: made by ``register``, released by ``close``.

    ``view`` is its writable memoryview. It may be written while no notification is due for what was sent from
    it. ``registered`` is False where the kernel could not pin it (shared or read-only file mappings) or
    must not (huge pages): then it is sent as ordinary memory, correct and slower.
    """

    __slots__ = ("__weakref__", "_length", "_view")

    def __init__(self, memory: "Memory", view: memoryview) -> None:
        self._memory = memory
        self._view: memoryview | None = view
        self._length = view.nbytes

    @property
    def view(self) -> memoryview:
        """The memory, as bytes. ClosedError after close()."""
        view = self._view  # another thread may close it
        if view is None:
            raise ClosedError("the region is closed")
        return view

    @property
    def registered(self) -> bool:
        """Whether it is pinned for this engine."""
        memory = self._memory
        return memory is not None and memory.buffer >= 0

    def __len__(self) -> int:
        return self._length

    def close(self) -> None:
        """Takes no new sends, and returns at once. May be repeated.

        The registration and the hold on a caller's buffer end with the last notification for what was sent.
        """
        self._memory = self._view = None

    def __enter__(self) -> "Region":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._view is None else "registered" if self.registered else "not registered"
        return f"<Region of {self._length} bytes, {state}>"


def export(buffer: "Buffer") -> memoryview:
    """The caller's buffer as bytes. TypeError for what has no buffer, BufferError if it is not contiguous."""
    view = memoryview(buffer)
    if not view.c_contiguous:
        raise BufferError("memory to be sent must be contiguous")
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def region_memory(size_or_buffer: "int | Buffer") -> memoryview:
    """The bytes of a new region: `size` new ones, or the caller's, which can be written to or are a mapping.

    ValueError for no bytes at all, TypeError for read-only memory. Without /proc, a read-only buffer that is
    no bytes object is taken for a mapping.
    """
    if isinstance(size_or_buffer, int):
        if not 0 < size_or_buffer <= 1 << 46:
            raise ValueError(f"a region has at least a byte, and fits memory: not {size_or_buffer}")
        pages = mmap.mmap(-1, size_or_buffer, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(OSError):  # a kernel without huge pages refuses the advice
            pages.madvise(mmap.MADV_NOHUGEPAGE)
        return memoryview(pages)
    view = export(size_or_buffer)
    if not view.nbytes:
        raise ValueError("a region has at least a byte")
    if view.readonly and (isinstance(view.obj, bytes) or not is_read_only_mapping(view)):
        raise TypeError("register() takes writable memory or a mapped file; bytes are sent as they are")
    return view


def address_of(view: memoryview) -> int:
    """Where the view's bytes are."""
    return int(ffi.cast("uintptr_t", ffi.from_buffer("char[]", view))) if view.nbytes else 0


class Vector:
    """Buffers that leave as one message: their exports, and the iovecs that name them."""

    __slots__ = ("count", "iovecs", "views")

    def __init__(self, buffers: "Sequence[Buffer]") -> None:
        self.views = [export(buffer) for buffer in buffers]
        self.count = len(self.views)
        if not 1 <= self.count <= 1024:
            raise ValueError(f"a message has 1 to 1024 buffers, not {self.count}")
        pairs = [number for view in self.views for number in (address_of(view), view.nbytes)]
        self.iovecs = ffi.new("size_t[]", pairs)  # struct iovec is an address and a size


def pin(data: "Buffer | Vector") -> Pinned:
    """Holds `data` where it is: the export ends with the request."""
    if isinstance(data, Vector):
        return data, int(ffi.cast("uintptr_t", data.iovecs)), data.count, None, data.count
    view = export(data)
    return view, address_of(view), view.nbytes, None, 0


def checksum(view: memoryview) -> int | None:
    """CRC-32 of the bytes; None where there is no memory, as in a mapped file that was truncated."""
    found, start = 0, address_of(view)
    part = ffi.new("char[]", min(view.nbytes, _PART) or 1)
    for at in range(0, view.nbytes, _PART):
        size = min(_PART, view.nbytes - at)
        if lib.uzc_read_memory(start + at, part, size) < 0:
            return None
        found = zlib.crc32(ffi.buffer(part, size), found)
    return found


class Checked:
    """debug=True: the memory of a request, and its checksum when it was queued."""

    __slots__ = ("checksum", "holder", "place", "view")

    def __init__(self, holder: Any, view: memoryview) -> None:
        self.holder = holder
        self.view = view
        self.checksum = checksum(view)
        frame: FrameType | None = sys._getframe(1)
        while frame and str(frame.f_globals.get("__name__", "")).partition(".")[0] == "uringzc":
            frame = frame.f_back
        self.place = f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "?"


def verify(held: Any) -> None:
    """Called before a request's memory is released: BufferModifiedError if it was changed."""
    if not isinstance(held, Checked):
        return
    now = checksum(held.view)
    if None not in (now, held.checksum) and now != held.checksum:  # without memory the result says EFAULT
        raise BufferModifiedError(
            f"{held.view.nbytes} bytes queued at {held.place} were changed while the kernel owned them: "
            "wait for the notification before memory is written again"
        )


def pin_checked(data: Any, offset: int, length: int) -> Pinned:
    """As pin(), for regions and bytes too, with a checksum of the part that is sent."""
    if isinstance(data, Region):
        memory, view = data._memory, data.view
    else:
        memory, view = None, export(data)
    return Checked(memory or view, view[offset : offset + length]), address_of(view), view.nbytes, memory, 0


def on_huge_pages(address: int, length: int) -> bool:
    """Whether a mapping that holds part of this memory has huge pages; True where /proc cannot be read."""
    wanted = ("AnonHugePages", "ShmemPmdMapped", "FilePmdMapped", "Shared_Hugetlb", "Private_Hugetlb")
    try:
        return any(
            int(fields.get(name, "0 kB").split()[0])
            for _, fields in _mappings(address, length)
            for name in wanted
        )
    except OSError:
        return True


def is_read_only_mapping(view: memoryview) -> bool:
    """Whether all of this memory is mapped without PROT_WRITE, as files opened for reading are.

    True where /proc cannot be read.
    """
    try:
        return all("w" not in permissions for permissions, _ in _mappings(address_of(view), view.nbytes))
    except OSError:
        return True


def _mappings(address: int, length: int) -> Iterator[tuple[str, dict[str, str]]]:
    """Permissions and fields of each mapping in /proc/self/smaps that overlaps the memory.

    OSError where that cannot be read: /proc is not mounted.
    """
    with open("/proc/self/smaps") as file:
        for mapping in _MAPPING.finditer(file.read()):
            start, end, permissions, fields = mapping.groups()
            if int(start, 16) < address + length and address < int(end, 16):
                yield permissions, dict(_FIELD.findall(fields))
