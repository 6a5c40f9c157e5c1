"""Counters of 32 bits, driven past their end for real.

Sequences of notifiers: 2^32 of them, in the slot accounting alone (``wraps.c``, which is linked with its
sources). The numbers of MSG_ZEROCOPY sends: the kernel's counter cannot be set, so 2^32 sends are made. They
are parts of datagrams that never leave: single bytes under MSG_MORE, each with its number, for a device
without scatter-gather, where they are copied. Then an engine sends through the same socket, while its counter
wraps.
"""

import ctypes
import shlex
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import uringzc
from proofs import page
from uringzc import testing

WRAP = 1 << 32
NEAR = 300  #: numbers before the wrap that are left for the engine
ROUNDS = 40
SO_ZEROCOPY, MSG_ZEROCOPY, MSG_MORE, MSG_DONTWAIT = 60, 0x4000000, 0x8000, 0x40
SO_SNDBUFFORCE = 32
BATCH = 1024  #: messages of one sendmmsg call
PART = 63  #: calls for each datagram
Progress = Callable[[float], None]  #: the share that is done


def wrap_sequences(progress: Progress, count: int = WRAP + 1000) -> None:
    """So many notifiers of one slot. AssertionError says what went wrong."""
    folder = page.ROOT / "build"
    folder.mkdir(exist_ok=True)
    native, program = page.ROOT / "uringzc" / "_native", folder / "wraps"
    sources = [Path(__file__).with_name("wraps.c"), *sorted((native / "slots").glob("*.c"))]
    ask = subprocess.run(["pkg-config", "--cflags", "liburing"], capture_output=True, text=True, check=True)
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{native}", *shlex.split(ask.stdout)]
    subprocess.run(["cc", *flags, *map(str, sources), "-o", str(program)], check=True)
    done = subprocess.run([str(program), str(count)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    progress(1.0)


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint),
        ("iov", ctypes.POINTER(_Iovec)),
        ("iov_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    _fields_ = (("header", _Header), ("sent", ctypes.c_uint))


class Numbers:
    """The MSG_ZEROCOPY numbers of a socket; `use` uses some up, without sending anything."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.used = 0
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._byte = ctypes.create_string_buffer(1)
        self._iov = _Iovec(ctypes.addressof(self._byte), 1)
        self._messages = (_Message * BATCH)()
        for message in self._messages:
            message.header.iov, message.header.iov_length = ctypes.pointer(self._iov), 1
        sock.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
        sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 8 << 20)

    def use(self, count: int, progress: Progress) -> None:
        """So many."""
        left, last = count, time.monotonic()
        while left:
            datagram = min(left, PART * BATCH)
            taken = 0
            while taken < datagram:
                some = min(BATCH, datagram - taken)
                sent = self._libc.sendmmsg(
                    self.sock.fileno(), self._messages, some, MSG_ZEROCOPY | MSG_MORE | MSG_DONTWAIT
                )
                assert sent == some, f"sendmmsg: {sent} of {some}, errno {ctypes.get_errno()}"
                taken += sent
            self._discard()
            left -= datagram
            if time.monotonic() > last + 1:
                last = time.monotonic()
                progress(1 - left / count)
        self.used += count
        assert self.reported() == (self.used - 1) % WRAP

    def _discard(self) -> None:
        """What is too long for a datagram fails, and all of it is dropped. It has no number."""
        try:
            self.sock.send(bytes(65_000), MSG_MORE | MSG_DONTWAIT)
        except OSError:
            return
        raise AssertionError("a datagram of more than 64 KiB was taken")

    def reported(self) -> int:
        """The highest number that the error queue has; reads all of it."""
        highest = -1
        while True:
            try:
                _, ancillary, _, _ = self.sock.recvmsg(1, 200, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
            except BlockingIOError:
                return highest
            for _, _, data in ancillary:
                highest = struct.unpack_from("=IBBBBII", data)[-1]


def wrap_zero_copy_numbers(progress: Progress, count: int = WRAP - NEAR) -> dict[str, int]:
    """An engine sends while the kernel's counter wraps. What it sent is compared, and overwritten at once.

    With a `count` of 0 it does not wrap. Returns the engine's numbers.
    """
    with testing.hold() as box, box.receiver_socket() as rx, box.socket() as tx:
        box.release()
        box.set_mtu(9000)
        rx.settimeout(20)
        tx.connect(box.address)
        box.offload(scatter_gather=False, checksum=False)
        numbers = Numbers(tx)
        if count:
            numbers.use(count, progress)
        box.offload(scatter_gather=True, checksum=True)
        seen = {"zero_copy": 0, "copied": 0, "requests": 0}
        with uringzc.Scheduler(engine="msg_zerocopy") as s:
            memory: dict[int, bytearray] = {}
            for number in range(ROUNDS * 20):
                data = memory[number] = bytearray(struct.pack("<I", number) * 2000)
                s.send(tx, data, flush=True, user_data=number)
                if number % 20 == 19:
                    _round(box, s, memory, seen)
                    for each in range(number - 19, number + 1):
                        assert rx.recv(9000) == struct.pack("<I", each) * 2000, f"datagram {each} was changed"
            stats = s.stats
            assert (stats.in_flight, stats.stray, stats.failed, memory) == (0, 0, 0, {})
            return {**seen, "requests": stats.requests}


def _round(
    box: testing.Hold, s: uringzc.Scheduler, memory: dict[int, bytearray], seen: dict[str, int]
) -> None:
    """Twenty are in flight while the gate is stopped; none of them is free before it opens."""
    box.stop()
    s.submit()
    held = s.stats.in_flight
    seen["zero_copy"] += held
    seen["copied"] += 20 - held
    for notification in s.reap_notifications():
        memory.pop(notification.sequence)[:] = b"\xff" * 8000
    assert len(memory) == held, "notified of what is in flight"
    box.release()
    for notification in s.reap_notifications(wait=held, timeout=20):
        memory.pop(notification.sequence)[:] = b"\xff" * 8000
    s.reap_completions()


def wrap_all(say: Callable[[str], None]) -> str:
    """Both, in turn; a sentence for the table of results."""
    for what, call in (
        ("notifiers", wrap_sequences),
        ("MSG_ZEROCOPY numbers of a socket", wrap_zero_copy_numbers),
    ):
        begun, shown = time.monotonic(), [0]

        def progress(share: float, what: str = what, shown: list[int] = shown) -> None:
            if int(share * 10) > shown[0]:
                shown[0] = int(share * 10)
                say(f"2^32 {what}: {share:.0%}")

        found = call(progress)
        say(f"2^32 {what}: {(time.monotonic() - begun) / 60:.1f} min {found or ''}")
    return "2^32 notifiers and 2^32 MSG_ZEROCOPY numbers: both wrap"
