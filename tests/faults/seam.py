"""The seam between the two compiled modules and the kernel, where tests inject faults.

Addresses of calls (to the kernel, libc, liburing, CPython's allocators) in the loaded modules are replaced
by those of wrappers, so what is tested is the binary as it was built. ``seam.c`` has the wrappers; it is
compiled at first use. What is injected is counted: a test asserts that its fault has happened. The fixture
`seam` puts everything back after the test.
"""

import ctypes
import hashlib
import os
import shlex
import subprocess
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from uringzc import _send, _uring

SOURCE = Path(__file__).with_name("seam.c")
BUILD = Path(__file__).parents[2] / "build" / "faults"
NOTIFICATION = 1 << 3  # IORING_CQE_F_NOTIF
_MOST_HELD = 8192

#: names that stand for several calls
GROUPS = {
    "io_uring_enter": (
        *("io_uring_submit", "io_uring_submit_and_wait", "io_uring_submit_and_wait_timeout"),
        *("io_uring_get_events", "io_uring_enter2"),
    ),
    "descriptor": (
        *("socket", "socketpair", "fcntl", "eventfd", "epoll_create1", "timerfd_create", "opendir"),
        *("io_uring_queue_init", "io_uring_queue_init_params"),
    ),
    "allocation": (
        *("malloc", "calloc", "realloc", "mmap", "PyMem_Malloc", "PyMem_Calloc", "PyMem_Realloc"),
        *("PyThread_allocate_lock", "PyType_GenericAlloc", "PyBytes_FromStringAndSize"),
        *("PyByteArray_FromStringAndSize", "PyByteArray_Resize", "PyList_New", "PyList_Append"),
        *("PyTuple_New", "PyTuple_GetSlice", "PyDict_New", "PyDict_SetItem", "PySequence_List"),
        *("PyLong_FromLongLong", "PyLong_FromUnsignedLong", "PyLong_FromUnsignedLongLong"),
        *("PyMemoryView_FromObject", "PyWeakref_NewRef", "PyCapsule_New"),
    ),
}


def _compile() -> Path:
    """The shared object, made anew only when a source has changed."""
    sources = sorted(SOURCE.parent.glob("seam*.[ch]"))
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    ask = ["pkg-config", "--cflags", "liburing"]
    include = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.split()
    flags = ["-std=gnu11", "-O1", "-g", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
    command = [compiler, *flags, *include, str(SOURCE)]
    digest = hashlib.sha256(repr(command).encode() + b"".join(file.read_bytes() for file in sources))
    made = BUILD / f"seam-{digest.hexdigest()[:16]}.so"
    if not made.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        unfinished = made.with_suffix(f".{os.getpid()}")
        subprocess.run([*command, "-o", str(unfinished)], check=True)
        unfinished.replace(made)
    return made


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(_compile()))
    for name in ("seam_calls", "seam_injected", "seam_held_ever", "seam_allocated"):
        getattr(library, name).restype = ctypes.c_int64
    return library


class Held(NamedTuple):
    """What is held back: a CQE; or a range of zero-copy ids, from `user_data` to `result`."""

    ticket: int
    user_data: int
    result: int
    flags: int


class Plan:
    """A fault that was asked for."""

    def __init__(self, library: ctypes.CDLL, number: int) -> None:
        self._library = library
        self._number = number

    @property
    def injected(self) -> int:
        """How often it has happened."""
        return int(self._library.seam_injected(self._number))

    def end(self) -> None:
        """It happens no more."""
        self._library.seam_end_plan(self._number)

    def __enter__(self) -> "Plan":
        return self

    def __exit__(self, *error: object) -> None:
        self.end()


class Seam:
    """What tests do with it. A call is named as in C, or by one of ``GROUPS``; several by spaces between.

    Besides: "io_uring_register", made by syscall(); "sqe", see ``result``; "submission", a call that has SQEs
    to submit: only such a one can fail with EAGAIN.
    """

    def __init__(self) -> None:
        self._library = _library()
        for module in (_uring, _send):
            assert self._library.seam_install(os.fsencode(str(module.__file__))) > 0
        self.reset()
        self._held_before = int(self._library.seam_held_ever())
        self._allocated_before = int(self._library.seam_allocated())

    def close(self) -> None:
        """Everything is as it was before, and what is held is given."""
        self.reset()
        self.release()
        self._library.seam_uninstall()

    def reset(self) -> None:
        """Ends all plans, sets the counts to 0, and holds nothing more back."""
        self._library.seam_reset()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Calls pass, and no plan sees them: for what a test does to look."""
        self._library.seam_pause(True)
        try:
            yield
        finally:
            self._library.seam_pause(False)

    def has(self, call: str) -> bool:
        """Whether a module makes the call: not liburing's if that was linked statically."""
        return bool(self._library.seam_has(call.encode()))

    def calls(self, call: str) -> int:
        """How often it was made, or has failed here. "sqe": SQEs that were submitted."""
        names = GROUPS.get(call, (call,))
        counts = [int(self._library.seam_calls(name.encode())) for name in names]
        assert min(counts) >= 0, f"no call {call}"
        return sum(counts)

    @property
    def allocated(self) -> int:
        """Blocks of memory and mappings that the modules have made and not freed, since the seam is there."""
        return int(self._library.seam_allocated()) - self._allocated_before

    def fail(
        self, call: str, errno: int, *, times: int = 1, after: int = 0, fd: int = -1, signal: int = 0
    ) -> Plan:
        """The next `times` calls, after `after` that pass, fail without being made.

        `fd`: of this socket alone, by any descriptor of it. `signal`: is raised in the thread that calls, as
        if it had interrupted the call. Allocations return NULL whatever `errno` is.
        """
        return self._plan(call, 0, errno, times, after, fd, signal)

    def short(self, call: str, amount: int, *, times: int = 1, after: int = 0, fd: int = -1) -> Plan:
        """The next calls do no more than `amount`: messages of sendmmsg, bytes of send, SQEs of io_uring.

        Calls that do only one are not counted.
        """
        return self._plan(call, 1, amount, times, after, fd)

    def result(
        self, result: int, *, times: int = 1, after: int = 0, fd: int = -1, alone: bool = False
    ) -> Plan:
        """The next SQEs complete with `result`: -errno, and nothing is sent; or so many bytes, of a stream.

        `alone`: a zero-copy request that fails has no notification.
        """
        return self._plan("sqe", int(result > 0), abs(result), times, after, fd, alone=alone)

    def _plan(
        self,
        call: str,
        kind: int,
        value: int,
        times: int,
        after: int,
        fd: int,
        signal: int = 0,
        alone: bool = False,
    ) -> Plan:
        names = " ".join(" ".join(GROUPS.get(name, (name,))) for name in call.split())
        number = self._library.seam_plan(
            names.encode(), kind, value, ctypes.c_int64(after), ctypes.c_int64(times), fd, signal, alone
        )
        assert number >= 0, f"no call {call}, or no descriptor {fd}, or too many plans"
        return Plan(self._library, number)

    def hold(
        self,
        *,
        results: bool = True,
        notifications: bool = True,
        most: int = -1,
        split: bool = False,
        seed: int = 1,
    ) -> None:
        """From now on holds back CQEs of io_uring, and notifications in the error queues of sockets.

        Until ``release()``, or until a call would wait for them without a limit of time; with `most` each for
        0 to so many calls of the engine, which puts them in another order. The result of a request always
        comes before its notification. `split`: ranges of zero-copy ids are given in parts. Without `most`,
        `results` is for a Scheduler: a sender enters the engine until it has the results of its batch.
        """
        self._library.seam_hold(results, notifications, most, split, ctypes.c_uint64(seed))

    def held(self) -> list[Held]:
        """What is held, in the order in which it came."""
        most = _MOST_HELD
        tickets, user_data = (ctypes.c_int64 * most)(), (ctypes.c_uint64 * most)()
        results, flags = (ctypes.c_int64 * most)(), (ctypes.c_uint32 * most)()
        count = min(most, self._library.seam_held(tickets, user_data, results, flags, most))
        columns = (tickets[:count], user_data[:count], results[:count], flags[:count])
        return sorted(Held(*row) for row in zip(*columns, strict=True))

    @property
    def held_ever(self) -> int:
        """How many were held so far."""
        return int(self._library.seam_held_ever()) - self._held_before

    def release(self, order: Sequence[Held] | None = None) -> int:
        """Gives what is held, or only what is in `order`, in that order; the engine's next call takes it."""
        return sum(
            self._library.seam_give(ctypes.c_int64(each.ticket)) == 0
            for each in (self.held() if order is None else order)
        )


@pytest.fixture
def seam() -> Iterator[Seam]:
    """Faults at the boundary of the compiled modules, until the end of the test."""
    made = Seam()
    yield made
    made.close()
