"""Random schedules for a TcpSender, and what must hold.

What the kernel accepted arrives in order and exactly once, whatever short sends and errors come; every call
says how much of its data that was, by its result or its error.
"""

import errno
import random
import select
import socket
from contextlib import suppress
from typing import Any

from hypothesis import strategies as st
from schedules import FEW, Step, failing, lists_of_steps, was_injected
from seam import Plan, Seam

from uringzc import SendError, TcpSender

SIZES = st.sampled_from([1, 100, 16 << 10, 40_000, 70_000])
KIND = st.sampled_from([bytes, bytes, bytearray])
AMOUNT = st.sampled_from([1, 2, 1000, 20_000, 65_536])
#: after which the stream goes on, in a program that takes care of it
STREAM_ERRORS = st.sampled_from(
    [errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EPIPE, errno.ECONNRESET, errno.EIO, errno.EOPNOTSUPP]
)
ALWAYS = [
    failing("send", "sendmsg", errors=STREAM_ERRORS),
    st.tuples(st.just("short"), st.sampled_from(["send", "sendmsg"]), AMOUNT, st.integers(0, 2)),
    failing("poll", "nanosleep", "epoll_wait", errors=st.just(errno.EINTR)),
    failing("allocation", errors=st.just(errno.ENOMEM)),
]
FAULTS: dict[str, st.SearchStrategy[Step]] = {
    "io_uring": st.one_of(
        st.tuples(st.just("result"), STREAM_ERRORS, st.integers(0, 2), FEW, st.booleans()),
        st.tuples(st.just("accept"), AMOUNT, st.integers(0, 2), FEW),
        failing("submission", errors=st.sampled_from([errno.EAGAIN, errno.EBUSY])),
        failing("io_uring_enter", errors=st.just(errno.EINTR)),
        *ALWAYS,
    ),
    "msg_zerocopy": st.one_of(
        *ALWAYS,
        failing("sendmmsg", errors=STREAM_ERRORS),
        failing("epoll_ctl", errors=st.sampled_from([errno.ENOMEM, errno.ENOSPC])),
        failing("fcntl", errors=st.sampled_from([errno.EMFILE])),
    ),
    "copy": st.one_of(*ALWAYS),
}
CALLS: dict[str, st.SearchStrategy[Step]] = {
    "send": st.tuples(st.just("send"), SIZES, KIND),
    "send_buffers": st.tuples(st.just("send_buffers"), st.lists(st.tuples(SIZES, KIND), max_size=6)),
    "flush": st.just(("flush",)),
    "drain": st.just(("drain",)),
    "hold": st.tuples(st.just("hold"), st.sampled_from([0, 3]), st.integers(0, 99)),
}
NAMES = [*["send"] * 5, *["send_buffers"] * 4, "flush", "drain", *["fault"] * 7, "hold"]


def programs(engine: str) -> st.SearchStrategy[list[Step]]:
    """Steps of a TcpPlayer."""
    return lists_of_steps(NAMES, CALLS, FAULTS[engine], 8, 30)


class TcpPlayer:
    """Plays a program and checks."""

    def __init__(self, seam: Seam, sender: TcpSender, rx: socket.socket, blocking: bool) -> None:
        self.seam = seam
        self.sender = sender
        self.rx = rx
        self.blocking = blocking
        self.random = random.Random(1)
        self.accepted, self.came = bytearray(), bytearray()
        self.plans: list[Plan] = []
        self.errors: set[int] = set()
        self.raised = 0

    def play(self, program: list[Step]) -> None:
        try:
            for name, *arguments in program:
                getattr(self, name)(*arguments)
                self.receive()
        finally:
            for plan in self.plans:
                plan.end()
            self.seam.hold(results=False, notifications=False)
            self.seam.release()

    def send(self, size: int, kind: type) -> None:
        data = self.random.randbytes(size)
        self.take(lambda: self.sender.send(kind(data)), data)

    def send_buffers(self, buffers: list[tuple[int, type]]) -> None:
        parts = [self.random.randbytes(size) for size, _ in buffers]
        given = [kind(part) for part, (_, kind) in zip(parts, buffers, strict=True)]
        self.take(lambda: self.sender.send_buffers(given), b"".join(parts))

    def take(self, call: Any, data: bytes) -> None:
        """A call says how much the kernel took, and so do the statistics."""
        before = self.nbytes
        try:
            took = call()
            assert took == len(data) or not self.blocking
        except (MemoryError, OSError) as error:
            took = self.taken_before(error, before)
            self.raised += 1
        assert took == self.nbytes - before
        assert took <= len(data)
        self.accepted += data[:took]

    def taken_before(self, error: MemoryError | OSError, before: int) -> int:
        """What a call that raised had sent. Only a lack of memory does not say it, but the statistics do."""
        if isinstance(error, SendError) and was_injected(error, self.errors):
            return error.accepted if error.total == self.nbytes else -1
        if isinstance(error, BlockingIOError):
            return 0
        if not isinstance(error, MemoryError) or errno.ENOMEM not in self.errors:
            raise error
        return self.nbytes - before

    @property
    def nbytes(self) -> int:
        with self.seam.paused():
            return self.sender.stats.nbytes

    def flush(self) -> None:
        self.attempt(self.sender.flush)

    def drain(self) -> None:
        self.receive()
        self.attempt(self.sender.drain)

    def attempt(self, call: Any) -> None:
        try:
            call()
        except (MemoryError, OSError) as error:
            if not was_injected(error, {*self.errors, errno.EAGAIN}):
                raise

    def fail(self, call: str, error: int, after: int, times: int) -> None:
        self.errors.add(error)
        self.plans.append(self.seam.fail(call, error, after=after, times=times))

    def short(self, call: str, amount: int, after: int) -> None:
        self.plans.append(self.seam.short(call, amount, after=after))

    def accept(self, amount: int, after: int, times: int) -> None:
        self.plans.append(self.seam.result(amount, after=after, times=times))

    def result(self, error: int, after: int, times: int, alone: bool) -> None:
        self.errors.add(error)
        self.plans.append(self.seam.result(-error, after=after, times=times, alone=alone))

    def hold(self, most: int, seed: int) -> None:
        self.seam.hold(most=most, split=True, seed=seed)

    # -- what must hold

    def receive(self) -> None:
        """All that is there, so that the sender never has to wait for room."""
        with suppress(BlockingIOError):
            while data := self.rx.recv(1 << 20):
                self.came += data

    def end(self) -> None:
        """Without further faults everything comes to its end."""
        self.sender.drain(timeout=20)
        while len(self.came) < len(self.accepted) and select.select([self.rx], [], [], 10)[0]:
            self.receive()
        assert self.came == self.accepted
        stats = self.sender.stats
        assert (stats.nbytes, stats.in_flight) == (len(self.accepted), 0)
