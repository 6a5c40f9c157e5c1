"""What has to hold in every cell of the fault matrix (docs/faults.md), whatever the fault was.

A test of a cell has a mark, ``@pytest.mark.cell("a row of the page", "UdpSender")`` with all its columns, and
takes the fixture `cell`. With that it makes what sends (``requests``, ``raw_requests``, ``udp_sender``,
``tcp_sender``: see watched_faces.py), memory and sockets (``memory``, ``immutable``, ``udp``, ``tcp``,
``watch``), and says what the next send does (``next_works``, ``next_fails``). When the test has ended, and
its variables are gone, ``check()`` asserts that

- every request completed exactly once, and every flushed notifier notified exactly once: of each engine by
  its accounts, of a Scheduler and a Ring by what the program reaps, of senders by what they report;
- nothing is left: no engine, memory or socket that somebody refers to, no descriptor, thread or mapping, and
  no pinned or locked page;
- the test has seen the next send work, or an error that says why not.

Engines that are made otherwise, by an asyncio transport for example, are found too. A Scheduler or a sender
is the test's to close.
"""

import contextlib
import gc
import itertools
import os
import re
import socket
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from conftest import Pair, _tcp, _udp
from traffic import wait_until
from watched_faces import RawRequests, Requests, TcpSender, UdpSender

import uringzc
from uringzc.engines import lifetime
from uringzc.engines.base import Engine
from uringzc.notif import Slots
from uringzc.senders import timer

T = TypeVar("T")
F = TypeVar("F", Requests, RawRequests, UdpSender, TcpSender)


# -- what a process has


def _descriptors() -> Counter[str]:
    found: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the folder
            found[f"descriptor {name}, {os.readlink(f'/proc/self/fd/{name}')}"] += 1
    return found


def _threads() -> Counter[str]:
    """Not the timer, one for the process, nor io_uring's workers, which the kernel ends when it likes."""
    found: Counter[str] = Counter()
    timers = timer._thread and timer._thread.native_id
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # it has ended
            name = Path(f"/proc/self/task/{task}/comm").read_text().strip()
            if int(task) != timers and not name.startswith("iou-"):
                found[f"thread {task}, {name}"] += 1
    return found


#: a line of /proc/self/maps whose memory has a name: no heap, no stack; not a library, which stays
_NAMED = re.compile(r"^\S+ \S+ \S+ \S+ \S+ +(?!\[|/usr/|\S+\.so)(\S.*)$", re.MULTILINE)


def _mappings() -> Counter[str]:
    maps = Path("/proc/self/maps").read_text()
    return Counter(f"mapping of {name}" for name in _NAMED.findall(maps))


def _pages() -> Counter[str]:
    status = Path("/proc/self/status").read_text()
    found = re.findall(r"^(VmPin|VmLck):\s*(\d+) kB", status, re.MULTILINE)
    return Counter({f"KiB of {name}": int(size) for name, size in found})


def resources() -> Counter[str]:
    """Descriptors, threads, mappings with a name, pinned and locked memory of this process."""
    return _descriptors() + _threads() + _mappings() + _pages()


# -- what it sends


class Memory(bytearray):
    """Memory that can be written to. It can be referred to weakly."""


class Immutable(bytes):
    """Its living objects are counted: bytes cannot be referred to weakly."""

    living = 0

    def __new__(cls, data: bytes) -> "Immutable":
        Immutable.living += 1
        return super().__new__(cls, data)

    def __del__(self) -> None:
        Immutable.living -= 1


class _Accounts(NamedTuple):
    """Of an engine, which they outlive."""

    name: str
    slots: Slots
    engine: "weakref.ref[Any]"

    def check(self) -> None:
        stats = self.slots.counts()
        about = f"{self.name}: {stats.requests} requests, {stats.completions} completions"
        assert stats.requests == stats.completions, about
        assert stats.stray == 0, f"{about}, {stats.stray} that matched none"
        assert (stats.in_flight, stats.held, stats.open, stats.flushed) == (0, 0, 0, 0), about


class Cell:
    """Everything of one test of the matrix that is looked at when it has ended."""

    def __init__(self, patience: float = 20.0) -> None:
        self._patience = patience  # seconds for what the kernel does later
        self._faces: list[Requests | RawRequests | UdpSender | TcpSender] = []
        self._accounts: list[_Accounts] = []
        self._watched: list[tuple[str, weakref.ref[Any]]] = []
        self._open = ExitStack()
        self._next_send_seen = False
        self._number = itertools.count()
        self._immutable = Immutable.living
        self._before = resources()

    # what sends

    def requests(self, scheduler: uringzc.Scheduler) -> Requests:
        """All sends of the Scheduler are made through this."""
        return self._face(Requests(scheduler))

    def raw_requests(self, ring: uringzc.Ring) -> RawRequests:
        """All sends of the Ring are made through this."""
        return self._face(RawRequests(ring))

    def udp_sender(self, *args: Any, **options: Any) -> UdpSender:
        """Its `reports` have what it says; it stays the test's to close."""
        return self._face(UdpSender(*args, **options))

    def tcp_sender(self, *args: Any, **options: Any) -> TcpSender:
        """Its `reports` have what it says; it stays the test's to close."""
        return self._face(TcpSender(*args, **options))

    def _face(self, face: F) -> F:
        self._faces.append(face)
        return face

    # what it sends, and through what

    def memory(self, data: bytes | int) -> Memory:
        """Memory that nobody may refer to when the test has ended."""
        return self.watch(Memory(data))

    def immutable(self, data: bytes) -> Immutable:
        """A bytes object that nobody may refer to when the test has ended."""
        return Immutable(data)

    def watch(self, thing: T) -> T:
        """Something that nobody may refer to when the test has ended: no socket of a fixture."""
        self._watched.append((repr(thing)[:100], weakref.ref(thing)))
        return thing

    def udp(self, *args: Any, **options: Any) -> Pair:
        """As make_udp() of conftest.py, and the sender's socket is watched. Closed after the test."""
        return self._pair(_udp(*args, **options))

    def tcp(self, *args: Any, **options: Any) -> Pair:
        """As make_tcp() of conftest.py, and the sender's socket is watched. Closed after the test."""
        return self._pair(_tcp(*args, **options))

    def _pair(self, made: Any) -> Pair:
        pair: Pair = self._open.enter_context(made)
        self.watch(pair.tx)
        return pair

    # the next send

    def next_works(self, send: Callable[[bytes], object], rx: socket.socket) -> None:
        """What is sent next arrives at `rx`, which has read everything before. `send` sends and flushes."""
        data = b"after the fault, send %d" % next(self._number)
        send(data)
        received = rx.recv(100)
        assert received == data, f"the next send did not work: {received!r} arrived"
        self._next_send_seen = True

    def next_fails(self, send: Callable[[bytes], object], number: int | type[Exception]) -> None:
        """What is sent next is refused, with a text: an errno (also as a result), or a class."""
        try:
            result = send(b"after the fault")
        except Exception as error:
            found = error.errno if isinstance(error, OSError) else type(error)
            text = str(error)
        else:
            assert isinstance(result, int), f"the next send returned {result!r}"
            found, text = -result, os.strerror(-result)
        assert found == number, f"the next send: {text}"
        assert text.strip(), f"{found} without a text"
        self._next_send_seen = True

    # the end

    def check(self) -> None:
        """Asserts what this module says. The variables of the test are gone."""
        self._open.close()
        while self._faces:
            self._faces.pop(0).check()
        for accounts in self._accounts:
            accounts.check()
        assert self._next_send_seen, "the test does not say what the next send does"
        left = self._left()

        def nothing_is_left() -> bool:
            gc.collect()  # exceptions that were caught refer to their frames
            left[:] = self._left()
            return not left

        assert not left or wait_until(nothing_is_left, self._patience), f"left behind: {', '.join(left)}"

    def _left(self) -> list[str]:
        engines = [f"engine {a.name}" for a in self._accounts if a.engine() is not None]
        things = [f"reference to {name}" for name, reference in self._watched if reference() is not None]
        immutable = Immutable.living - self._immutable
        bytes_objects = [f"{immutable} bytes objects"] if immutable > 0 else []
        return engines + things + bytes_objects + [*(resources() - self._before)]

    def _track(self, engine: Engine) -> None:
        self._accounts.append(_Accounts(engine.name, engine.slots, weakref.ref(engine)))


@contextmanager
def watched(patience: float = 20.0) -> Iterator[Cell]:
    """A cell, for a block; the fixture `cell` is the same for a test.

    At its end nothing is checked: ``check()`` is to be called when the variables of the test are gone.
    """
    cell, track = Cell(patience), lifetime.track

    def track_here(engine: Any) -> None:
        cell._track(engine)
        track(engine)

    lifetime.track = track_here
    try:
        yield cell
    finally:
        lifetime.track = track
        cell._open.close()
