"""Memory that programs send: what is in each datagram is known, and seen if it was written to too early."""

import itertools
import mmap
import struct
import sys
from array import array
from collections.abc import Callable
from typing import Any

_ODD = 2654435761
_INVERSE = pow(_ODD, -1, 1 << 32)
WRITTEN = 0xEE  #: what programs write into memory that is theirs again
POOL, POOL_SIZE = 3, 70_000


def content(number: int, size: int) -> bytes:
    """Different bytes for each number, from 4 on."""
    return (struct.pack("<I", number * _ODD & 0xFFFFFFFF) * (size // 4 + 1))[:size]


def number_of(data: bytes) -> int:
    """Which content it begins with."""
    return int(struct.unpack_from("<I", data)[0]) * _INVERSE & 0xFFFFFFFF


class Held:
    """That something may be sent from memory still. `is_free()` asks the library."""

    def __init__(self, is_free: Callable[[], bool]) -> None:
        self.is_free = is_free


class Memory:
    """Writable memory of the program, and who may send from it."""

    def __init__(self, view: memoryview, keep: Any = None) -> None:
        self.view = view
        self.keep = keep
        self.holds: list[Held] = []

    def fill(self, number: int) -> None:
        """Writes a new content, if nobody sends from it."""
        if self.is_free():
            self.view[:] = content(number, self.view.nbytes)

    def overwrite(self) -> None:
        """Writes what must never arrive, if nobody sends from it: the program may."""
        if self.is_free():
            self.view[:] = bytes([WRITTEN]) * self.view.nbytes

    def is_free(self) -> bool:
        """Whether the library has said of all of it that it may be written."""
        self.holds = [hold for hold in self.holds if not hold.is_free()]
        return not self.holds and not self.view.readonly


class Memories:
    """All that a program has."""

    def __init__(self, first: int) -> None:
        self.first = first
        self._numbers = itertools.count(first + 1)
        self.all: list[Memory] = []
        self.buffers: list[Any] = []  #: objects that were given to the library
        self._pool: list[Memory] = []
        self.of: dict[int, Memory] = {}  #: by id() of the object that a call is given

    def next(self) -> int:
        """A number that was not used."""
        return next(self._numbers)

    def make(self, kind: str, size: int) -> Any:
        """A buffer of a kind, with a new content."""
        number = self.next()
        data = content(number, size)
        if kind == "bytes":
            self.buffers.append(data)
            return data
        if kind == "readonly":
            return memoryview(data)
        if kind == "pool":
            return self._pooled(number, size)
        made: Any
        if kind == "mapping":
            made = mmap.mmap(-1, max(size, 1))
            made[:size] = data
            found: Any = memoryview(made)[:size] if size else memoryview(made)
        elif kind == "array":
            made = found = array("B", data)
        elif kind == "slice":
            made = bytearray(7) + data + bytearray(7)
            found = memoryview(made)[7 : 7 + size]
        else:
            made = bytearray(data)
            found = made if kind == "bytearray" else memoryview(made)
        self.buffers.append(made)
        return self.track(found, Memory(memoryview(found).cast("B") if size else memoryview(bytearray())))

    def track(self, given: Any, memory: Memory) -> Any:
        """`given` is sent from this memory."""
        self.all.append(memory)
        self.of[id(given)] = memory
        return given

    def _pooled(self, number: int, size: int) -> Any:
        while len(self._pool) < POOL:
            made = bytearray(POOL_SIZE)
            self.buffers.append(made)
            self._pool.append(Memory(memoryview(made)))
            self.all.append(self._pool[-1])
        memory = self._pool[number % POOL]
        memory.fill(number)
        view = memory.view[:size]
        self.of[id(view)] = memory
        return view

    def overwrite(self) -> None:
        """Everything that is free."""
        for memory in self.all:
            memory.overwrite()

    def let_go(self) -> list[Any]:
        """The buffers, without views of them; nothing else of the program refers to them."""
        for memory in self.all:
            memory.view.release()
        for memory in self._pool:
            memory.view.release()
        self.all.clear()
        self._pool.clear()
        self.of.clear()
        found, self.buffers = self.buffers, []
        return found


def still_held(buffers: list[Any]) -> list[str]:
    """Those that somebody else has a reference to, or an export of."""
    found = []
    while buffers:
        one = buffers.pop()
        if isinstance(one, bytearray):
            try:
                one.append(0)
            except BufferError:
                found.append(f"a bytearray of {len(one)} bytes is exported")
        elif isinstance(one, array):
            try:
                one.append(0)
            except BufferError:
                found.append(f"an array of {len(one)} bytes is exported")
        elif isinstance(one, mmap.mmap):
            try:
                one.close()
            except BufferError:
                found.append("a mapping is exported")
        if len(one if not isinstance(one, mmap.mmap) else b"") > 1 and sys.getrefcount(one) > 2:
            found.append(
                f"{type(one).__name__} of {len(one)} bytes has {sys.getrefcount(one) - 2} references"
            )
    return found
