"""What the tests of lifetimes share: child programs, the unguarded engine of their controls, what is held."""

import contextlib
import ctypes
import fcntl
import gc
import mmap
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import uringzc
from uringzc import testing
from uringzc._uring import ffi, lib
from uringzc.engines import lifetime
from uringzc.engines.io_uring import SETUP
from uringzc.errors import check
from uringzc.notif import Notification

HERE = Path(__file__).parent

#: tests of what is io_uring's own, and of memory that the kernel holds: a plain copy is free at once
io_uring = pytest.mark.engines("io_uring")
holding = pytest.mark.engines("io_uring", "msg_zerocopy")
SO_SNDBUFFORCE = 32


class Unguarded:
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
        check(self.calls.queue(self.ring, send))

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


def usual_signals() -> None:
    """What is started from here has the usual signals, whatever this process was started with.

    `make test &` in a script ignores SIGINT, and what is ignored or blocked is inherited. What has a handler
    is not: the program that is started begins with the default. So what is ignored here gets a handler that
    does nothing, which is the same for this process. SIGCHLD is no such case: while it is ignored, the kernel
    keeps no child's exit status.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def children(pid: int | str = "self") -> set[int]:
    """The processes that this one, or another, has started and not waited for."""
    found = set()
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            found |= {int(child) for child in (thread / "children").read_text().split()}
    return found


def end_children(but: set[int]) -> list[str]:
    """Kills those that are not among `but`, and says what they were."""
    ended = []
    for pid in children() - but:
        with contextlib.suppress(OSError):
            ended.append(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return ended


@contextmanager
def ending(process: "subprocess.Popen[str]") -> Iterator["subprocess.Popen[str]"]:
    """The process, which does not outlive the block."""
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


class Child:
    """A program in another process: it prints lines, and reads lines."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def line(self) -> str:
        """The next line it prints; with none, an assertion that shows its errors."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.end(None)[1])
        return line.rstrip("\n")

    def tell(self, line: str = "") -> None:
        """Writes a line to it."""
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def end(self, code: int | None = 0) -> tuple[str, str]:
        """What else it printed, and its errors; it has to end with `code`."""
        out, errors = self.process.communicate(timeout=60)
        if code is not None:
            assert self.process.returncode == code, errors
        return out, errors


@contextmanager
def child(program: str, *args: object, box: testing.Sandbox | None = None) -> Iterator[Child]:
    """A Python program with these arguments, inside `box`; killed if the block leaves it running."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONWARNINGS", "PYTHONDEVMODE")}
    importable = [Path(uringzc.__file__).parents[1], HERE, *filter(Path.is_dir, HERE.iterdir())]
    environment["PYTHONPATH"] = os.pathsep.join(map(str, importable))

    def start() -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-W", "default", "-c", textwrap.dedent(program), *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        )

    with ending(box.run(start) if box else start()) as process:
        yield Child(process)


def run(program: str, *args: object, box: testing.Sandbox | None = None) -> tuple[str, str]:
    """What a program prints, to stdout and stderr. It has to end with 0."""
    with child(program, *args, box=box) as started:
        return started.end()


def datagram(sequence: int, size: int) -> bytes:
    """Bytes that no other datagram has, wherever in it one looks."""
    key = struct.pack("<IHH", sequence, size, sequence * 40503 & 0xFFFF)
    return (key * (size // 8 + 1))[:size]


def fork() -> int:
    """os.fork(), of which CPython warns while there is another thread: a timer, or one that is ending."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


@contextmanager
def stopped(box: testing.Hold) -> Iterator[None]:
    """Nothing is delivered in the block, and everything after it."""
    box.stop()
    try:
        yield
    finally:
        box.release()


def charged(sock: socket.socket) -> int:
    """Bytes of SO_SNDBUF that are in use (SIOCOUTQ)."""
    return int(struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0])


def room(sock: socket.socket, size: int = 16 << 20) -> None:
    """A large SO_SNDBUF."""
    sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, size)


@contextmanager
def one_processor() -> Iterator[None]:
    """For this thread and those it starts: what two send, a veth delivers in any order."""
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(processors)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, processors)


@contextmanager
def patient(rx: socket.socket, **options: Any) -> Iterator[uringzc.UdpSender]:
    """A sender to that receiver; what waits leaves only when it is told to."""
    with uringzc.UdpSender(rx.getsockname(), max_delay=None, **options) as s:
        yield s


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


def rings() -> int:
    """How many there are."""
    return len(ring_fds())


def pinned(pid: int | str = "self") -> int:
    """KiB that the kernel has pinned for a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmPin:")[2].split()[0])


def is_bound(protocol: str, port: int, pid: int | str = "self") -> bool:
    """Whether somebody in that process's network has the port: of TCP, whether somebody listens there."""
    for version in ("", "6"):
        with contextlib.suppress(FileNotFoundError):  # no IPv6 here
            for line in Path(f"/proc/{pid}/net/{protocol}{version}").read_text().splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                if local.endswith(f":{port:04X}") and (protocol == "udp" or state == "0A"):
                    return True
    return False


def until(condition: Callable[[], object], timeout: float = 20.0) -> bool:
    """Whether `condition` came true: for what the kernel does later and tells nobody."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.001)
    return True


def wait_readable(fd: int, timeout: float = 20.0) -> None:
    """Returns when a descriptor is readable."""
    assert select.select([fd], [], [], timeout)[0], "nothing to reap came"


def readable(fd: int) -> bool:
    """Whether a descriptor is readable now."""
    return bool(select.select([fd], [], [], 0)[0])


def is_held(data: bytearray) -> bool:
    """Whether somebody holds an export of it."""
    try:
        data.append(0)
    except BufferError:
        return True
    data.pop()
    return False


def let_go(fileno: int, other: uringzc.Scheduler) -> None:
    """Waits for what parked engines hold; `other` sweeps them. `fileno` is that of the last to be settled."""
    while lifetime.parked():
        wait_readable(fileno)
        other.submit()


def drop_a_completion() -> None:
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


class Alarms:
    """KeyboardInterrupt out of SIGALRM: again and again in `exhaust`, or once in the block."""

    def __init__(self, interval: float, repeat: bool = True) -> None:
        self.interval = interval
        self.repeat = repeat
        self.armed = False
        self.raised = 0

    def _alarm(self, number: int, frame: FrameType | None) -> None:
        if self.armed:
            self.armed = False
            self.raised += 1
            raise KeyboardInterrupt

    def __enter__(self) -> "Alarms":
        gc.disable()  # an interrupt in somebody's gc callback would be lost there
        self.before = signal.signal(signal.SIGALRM, self._alarm)
        self.armed = not self.repeat
        signal.setitimer(signal.ITIMER_REAL, self.interval, self.interval if self.repeat else 0)
        return self

    def __exit__(self, *_: object) -> None:
        self.armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.before)
        gc.enable()

    def exhaust(self, step: Callable[[], object], times: int) -> None:
        """`step()` so often, whatever comes in between."""
        done = 0

        def go() -> None:  # a call of its own: in 3.13 a loop's jump back lies outside of the try around it
            nonlocal done
            self.armed = True
            while done < times:
                done += 1
                step()
            self.armed = False

        while done < times:
            with contextlib.suppress(KeyboardInterrupt):
                go()


def all_copied(told: Notification) -> Notification:
    """On loopback what succeeded was copied, also where the kernel has merged what it tells."""
    if told.copied is None and os.environ.get("URINGZC_ENGINE") == "msg_zerocopy":
        return told._replace(copied=told.requests - told.failed)
    return told


class Reading:
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

    def __enter__(self) -> "Reading":
        self.thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:  # nobody ends the stream
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RD)
        self.thread.join()


class Tracked(bytes):
    """Bytes that tell when they are let go: `left` counts those that were not."""

    left = 0

    def __new__(cls, data: bytes) -> "Tracked":
        Tracked.left += 1
        return super().__new__(cls, data)

    def __del__(self) -> None:
        Tracked.left -= 1


class Garbage:
    """Finalized, it takes memory that has become free, and writes to it."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __del__(self) -> None:
        self.some = [bytearray(b"!" * self.size) for _ in range(200)]


@contextmanager
def stream_in(box: testing.Hold, window: int = 0) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection through the sandbox: the sender's end, and the receiver's, with that SO_RCVBUF."""
    with box.receiver_socket(type=socket.SOCK_STREAM, port=0) as listener:
        if window:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        listener.listen(1)
        with box.socket(type=socket.SOCK_STREAM) as tx:
            room(tx)  # for what nobody acknowledges
            tx.connect(listener.getsockname())
            rx, _ = listener.accept()
            with rx:
                rx.settimeout(20)
                yield tx, rx
