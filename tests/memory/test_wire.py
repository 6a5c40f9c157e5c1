"""Every byte of 100,000 datagrams, from memory that is overwritten as soon as its notification is reaped."""

import os
import random
import socket
import struct
from collections import Counter
from contextlib import ExitStack, nullcontext
from typing import NamedTuple

import pytest
from marks import zero_copy_engines
from processes import Child, child
from traffic import datagram, enlarge_sndbuf, stopped

import uringzc
from uringzc import testing

COUNT = int(os.environ.get("DATAGRAMS", "12000"))  # of each kind, on each engine; `make kernels` sends fewer
PER_WINDOW = 50
WINDOWS = 8
SLOTS = 3
SIZES = (16, 333, 1400, 4099, 8000, 12000)  # the last is above the MTU
#: Zero-copy on every kernel: fragments are copied and, before Linux 6.0, what is as small as headers. So are
#: sends that net.core.optmem_max has no room for, above 25: so the control has to begin with such sizes.
NEVER_COPIED = SIZES[2:-1]
AREA = PER_WINDOW * SIZES[-1]
KINDS = ["region by send_run", "region by send", "bytearray by send"]


def receive(ip: str, port: str, count: str) -> None:
    """The receiver, in a process of its own: reads until an empty datagram, and prints what was wrong."""
    seen = bytearray(int(count))
    came = wrong = twice = 0
    buffer = memoryview(bytearray(1 << 16))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        sock.settimeout(20)
        sock.bind((ip, int(port)))
        print("ready", flush=True)
        while size := sock.recv_into(buffer):
            came += 1
            sequence, said = struct.unpack_from("<IH", buffer)
            data = bytes(buffer[:size])  # a memoryview compares byte by byte
            if size != said or sequence >= len(seen) or data != datagram(sequence, size):
                wrong += 1
            else:
                twice += seen[sequence]
                seen[sequence] = 1
            if came == len(seen):
                print("all", flush=True)  # what comes now, before the empty one, is too much
    print(came, wrong, twice, sum(seen))


class Window(NamedTuple):
    """Memory that one notifier sends."""

    number: int
    slot: int
    memory: uringzc.Region | bytearray
    view: memoryview
    base: int


def windows(s: uringzc.Scheduler, kind: str) -> list[Window]:
    made: list[Window] = []
    for number in range(0, WINDOWS, 2):
        memory = bytearray(2 * AREA) if kind.startswith("bytearray") else s.register(2 * AREA)
        view = memoryview(memory) if isinstance(memory, bytearray) else memory.view
        for half in (0, 1):
            base = half * AREA
            slot = (number + half) % SLOTS
            made.append(Window(number + half, slot, memory, view[base : base + AREA], base))
    return made


def fill(window: Window, first: int, sizes: list[int]) -> None:
    """Datagrams side by side: they share pages, and a byte too many is one of the next."""
    data = b"".join(datagram(first + i, size) for i, size in enumerate(sizes))
    window.view[: len(data)] = data


def send(s: uringzc.Scheduler, sock: socket.socket, window: Window, sizes: list[int], run: bool) -> None:
    """One notifier, flushed and submitted. The user data has the window's number."""
    user_data = window.number * PER_WINDOW
    memory, slot, offset = window.memory, window.slot, window.base
    if run:
        sent = s.send_run(sock, memory, sizes[0], PER_WINDOW, offset=offset, slot=slot, user_data=user_data)
        assert sent == PER_WINDOW
    else:
        for i, size in enumerate(sizes):
            s.send(sock, memory, offset=offset, length=size, slot=slot, user_data=user_data + i)
            offset += size
    assert s.flush(window.slot)
    s.submit()


def transmit(s: uringzc.Scheduler, sock: socket.socket, kind: str, count: int, early: bool) -> None:
    """Sends so many; what is done is overwritten at once. `early`: done is what has completed."""
    chance = random.Random(kind)
    choice = NEVER_COPIED if early else SIZES
    free = windows(s, kind)
    busy: dict[tuple[int, int], Window] = {}
    completed: Counter[int] = Counter()
    flushed: Counter[int] = Counter()
    sent = 0
    while sent < count or busy:
        while free and sent < count:
            window = free.pop()
            run = kind.endswith("send_run")
            size = chance.choice(choice)
            sizes = [size] * PER_WINDOW if run else chance.choices(choice, k=PER_WINDOW)
            fill(window, sent, sizes)
            send(s, sock, window, sizes, run)
            busy[window.slot, flushed[window.slot]] = window
            flushed[window.slot] += 1
            sent += PER_WINDOW
        if early:
            completed.update(done.user_data // PER_WINDOW for done in s.reap_completions(wait=1))
            finished = [at for at, window in busy.items() if completed[window.number] == PER_WINDOW]
        else:
            finished = []
            for notification in s.reap_notifications(wait=1):
                assert (notification.requests, notification.failed) == (PER_WINDOW, 0)
                finished.append((notification.slot, notification.sequence))
        for at in finished:
            window = busy.pop(at)
            window.view[:] = b"\xff" * AREA
            completed[window.number] = 0
            free.insert(0, window)


def run(kind: str, count: int, early: bool) -> tuple[int, int, int, int]:
    """What came, what of it was wrong or came twice, and how many different ones came whole."""
    with ExitStack() as stack:
        box = stack.enter_context(testing.hold(delay=0.001, mtu=9000))
        program = "import sys, test_wire; test_wire.receive(*sys.argv[1:])"
        receiver: Child = stack.enter_context(child(program, *box.address, count, box=box.peer))
        assert receiver.line() == "ready"
        sock = stack.enter_context(box.socket())
        enlarge_sndbuf(sock)
        sock.connect(box.address)
        with uringzc.Scheduler(range(SLOTS), completions="all" if early else "failed", debug=False) as s:
            with stopped(box) if early else nullcontext():  # early, and surely before it leaves
                transmit(s, sock, kind, count, early)
            s.drain()
            assert s.stats.unread_completions == 0
        assert receiver.line() == "all"
        sock.send(b"")
        came, wrong, twice, whole = map(int, receiver.end()[0].split())
        return came, wrong, twice, whole


@pytest.mark.slow
@testing.requires("net_admin")
@pytest.mark.parametrize("kind", KINDS)
def test_memory_overwritten_at_the_notification_arrives_unchanged(kind: str) -> None:
    assert run(kind, COUNT, early=False) == (COUNT, 0, 0, COUNT)


@pytest.mark.slow
@zero_copy_engines
@testing.requires("net_admin")
@pytest.mark.parametrize("kind", KINDS)
def test_control_memory_overwritten_at_the_completions_arrives_changed(kind: str) -> None:
    count = WINDOWS * PER_WINDOW
    came, wrong, _, _ = run(kind, count, early=True)
    assert came == count
    assert wrong > 0
