"""What an engine holds, for tests: memory, rings, references; and the bare C engine, which holds nothing."""

import ctypes
import mmap
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

from traffic import wait_readable, wait_until

import uringzc
from uringzc._uring import ffi, lib
from uringzc.engines import lifetime
from uringzc.engines.io_uring import SETUP
from uringzc.errors import check


class BareEngine:
    """The C engine alone, as a plain binding has it: nothing keeps memory or sockets. For controls."""

    def __init__(self, max_inflight: int = 512) -> None:
        self.slots = lib.uzc_slots_new(max_inflight, 2)
        check(lib.uzc_slots_register(self.slots, [0], 1))
        before = ring_fds()
        self.pointer = ffi.new("uzc_ring **")
        check(lib.uzc_ring_new(self.pointer, 512, 2 * max(512, max_inflight), SETUP[0], self.slots))
        self.ring = self.pointer[0]
        (self.fd,) = ring_fds() - before
        self.calls = lib.uzc_ring_calls()

    def send(self, sock: socket.socket, data: Any, buffer: int = -1) -> None:
        """Queues a send of all of `data`, and forgets about it."""
        memory = ffi.from_buffer("char[]", data)
        send = ffi.new("uzc_send *")
        send.data = send.base = memory
        send.length = send.stride = len(memory)
        send.count = send.zero_copy = 1
        send.fd = sock.fileno()
        send.buffer, send.buffers = buffer, 1
        check(self.calls.queue(self.ring, send, ffi.new("uint32_t *")))

    def submit(self, wait: int = 0) -> int:
        """Submits, waits for as many CQEs, takes what there is."""
        return check(self.calls.enter(self.ring, 1, wait, -1))

    @property
    def stats(self) -> Any:
        """The C struct."""
        out = ffi.new("uzc_stats *")
        lib.uzc_slots_stats(self.slots, out)
        return out

    def completions(self) -> list[tuple[int, int]]:
        """User data and result of each unread completion."""
        out = ffi.new("uzc_completion[]", 1024)
        return [
            (out[i].user_data, out[i].result)
            for i in range(check(lib.uzc_slots_completions(self.slots, out, 1024)))
        ]

    def exit(self) -> None:
        """Waits for the kernel, and ends the ring."""
        while self.stats.in_flight:
            self.submit(1)
        lib.uzc_ring_exit(ffi.new("uzc_ring **", self.ring))
        lib.uzc_slots_free(self.slots)


def descriptors() -> list[str]:
    """Those of this process that are no files, each with what it is; without standard input and output.

    Libraries have files open: libffi itself, for its trampolines.
    """
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # that of listdir() itself
            found.append(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
    return [each for each in found if int(each.split()[0]) > 2 and " /" not in each]


def ring_fds() -> set[int]:
    """The io_uring descriptors that this process has."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            if "io_uring" in os.readlink(f"/proc/self/fd/{fd}"):
                found.add(int(fd))
        except OSError:
            pass
    return found


def ring_count() -> int:
    """How many there are."""
    return len(ring_fds())


def pinned_kib(pid: int | str = "self") -> int:
    """KiB that the kernel has pinned for a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmPin:")[2].split()[0])


def is_held(data: bytearray) -> bool:
    """Whether somebody holds an export of it."""
    try:
        data.append(0)
    except BufferError:
        return True
    data.pop()
    return False


def none_parked(other: uringzc.Scheduler) -> bool:
    """Whether all parked engines have ended, as calls of another one see; a busy kernel is late."""
    return wait_until(lambda: [other.submit()] and not lifetime.parked())


def wait_for_parked(fileno: int, other: uringzc.Scheduler) -> None:
    """Waits for what parked engines hold; `other` sweeps them. `fileno` is that of the last to be settled."""
    while lifetime.parked():
        wait_readable(fileno)
        other.submit()


def drop_completion() -> None:
    """Counts a dropped completion in the only ring of this process, where the kernel counts them."""
    libc = ctypes.CDLL(None, use_errno=True)
    parameters = (ctypes.c_uint32 * 30)()
    other = libc.syscall(425, 1, parameters)  # io_uring_setup: says where things are
    assert other >= 0
    os.close(other)
    (fd,) = ring_fds()
    with mmap.mmap(fd, mmap.PAGESIZE) as shared:  # IORING_OFF_SQ_RING
        overflow = parameters[24]  # cq_off.overflow
        shared[overflow : overflow + 4] = struct.pack("I", 1)


class CountedBytes(bytes):
    """Bytes whose living objects are counted."""

    living = 0

    def __new__(cls, data: bytes) -> "CountedBytes":
        CountedBytes.living += 1
        return super().__new__(cls, data)

    def __del__(self) -> None:
        CountedBytes.living -= 1


class Garbage:
    """Finalized, it takes memory that has become free, and writes to it."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __del__(self) -> None:
        self.some = [bytearray(b"!" * self.size) for _ in range(200)]


class _Arena(ctypes.Structure):
    """The beginning of the C struct, behind the object's head."""

    _fields_ = (
        ("memory", ctypes.c_void_p),
        ("base", ctypes.c_void_p),
        ("blocks", ctypes.c_uint32),
        ("refs", ctypes.POINTER(ctypes.c_uint32)),
    )


def block_refs(sender: uringzc.UdpSender) -> Any:
    """How often each block of its arena is in use: an array that a control may write to."""
    arena = sender._arena
    c_struct = _Arena.from_address(id(arena) + object.__basicsize__)
    assert (c_struct.base, c_struct.blocks << 16) == (arena.memory.address, arena.memory.length)
    return ctypes.cast(c_struct.refs, ctypes.POINTER(ctypes.c_uint32 * c_struct.blocks)).contents
