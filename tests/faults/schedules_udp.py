"""Random schedules for a UdpSender with several destinations, and what must hold.

Every datagram that was taken arrives exactly once, or is reported as lost; to each destination in the order
of the calls, but for those that are counted as reordered; the statistics add up; and nothing is held in the
end.
"""

import errno
import socket
import struct
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from schedules import ERRORS, FEW, Step, failing, lists_of_steps, was_injected
from seam import Plan, Seam

from uringzc import SendError, UdpSender

TO = st.integers(0, 2)
SIZES = st.sampled_from([8, 100, 1200, 1200, 1200, 9000, 20000])
SYSCALLS = failing("sendto", "sendmsg", "sendmmsg sendto sendmsg")
ALWAYS = [
    SYSCALLS,
    failing("sendmmsg"),
    st.tuples(st.just("short"), st.just("sendmmsg"), st.integers(1, 2), st.integers(0, 1)),
    failing("poll", "nanosleep", "epoll_wait", errors=st.just(errno.EINTR)),
    failing("ioctl", errors=st.just(errno.EINVAL)),
    failing("allocation", errors=st.just(errno.ENOMEM)),
]
FAULTS: dict[str, st.SearchStrategy[Step]] = {
    "io_uring": st.one_of(
        st.tuples(st.just("result"), ERRORS, st.integers(0, 2), FEW, st.booleans()),
        failing("submission", errors=st.sampled_from([errno.EAGAIN, errno.EBUSY])),
        failing("io_uring_enter", errors=st.just(errno.EINTR)),
        st.tuples(st.just("short"), st.just("io_uring_enter"), FEW, st.integers(0, 3)),
        *ALWAYS,
    ),
    "msg_zerocopy": st.one_of(
        *ALWAYS,
        failing("epoll_ctl", errors=st.sampled_from([errno.ENOMEM, errno.ENOSPC])),
        failing("recvmmsg", errors=st.just(errno.EINTR)),
        failing("fcntl", errors=st.sampled_from([errno.EMFILE])),
    ),
    "copy": st.one_of(*ALWAYS),
    "packet": st.one_of(
        failing("sendto"),  # the call that has the kernel look at the ring
        failing("poll", "nanosleep", errors=st.just(errno.EINTR)),
        failing("ioctl", errors=st.just(errno.EINVAL)),
        failing("allocation", errors=st.just(errno.ENOMEM)),
    ),
}
CALLS: dict[str, st.SearchStrategy[Step]] = {
    "send": st.tuples(st.just("send"), TO, SIZES, st.integers(1, 12)),
    "singles": st.tuples(st.just("singles"), st.sampled_from([8, 100, 1200]), st.integers(2, 6)),
    "turns": st.tuples(st.just("turns"), SIZES, st.integers(1, 12)),
    "lease": st.tuples(st.just("lease"), TO, SIZES),
    "flush": st.just(("flush",)),
    "drain": st.just(("drain",)),
    "hold": st.tuples(st.just("hold"), st.sampled_from([0, 1, 3, 8]), st.integers(0, 99)),
}
NAMES = [
    *["send"] * 5,
    *["turns"] * 2,
    *["singles"] * 3,
    "lease",
    *["flush"] * 4,
    "drain",
    *["fault"] * 6,
    "hold",
]


def programs(engine: str) -> st.SearchStrategy[list[Step]]:
    """Steps of a UdpPlayer."""
    return lists_of_steps(NAMES, CALLS, FAULTS[engine], 8, 30)


class UdpPlayer:
    """Plays a program and checks."""

    def __init__(
        self, seam: Seam, sender: UdpSender, receivers: list[socket.socket], reported: list[SendError]
    ) -> None:
        self.seam = seam
        self.sender = sender
        self.receivers = receivers
        self.to = [each.getsockname() for each in receivers]
        self.reported = reported  # by on_error
        self.taken: list[tuple[int, bytes]] = []  # destination and data, by number
        self.plans: list[Plan] = []
        self.errors = {errno.EAGAIN}
        self.raised = 0

    def play(self, program: list[Step]) -> None:
        try:
            for name, *arguments in program:
                getattr(self, name)(*arguments)
        finally:
            for plan in self.plans:
                plan.end()
            self.seam.hold(results=False, notifications=False)
            self.seam.release()

    def attempt(self, call: Callable[[], Any]) -> bool:
        try:
            call()
        except (MemoryError, OSError) as error:
            if not was_injected(error, self.errors):
                raise
            self.raised += 1
            return False
        return True

    def send(self, to: int, size: int, count: int) -> None:
        for _ in range(count):
            data = struct.pack("<II", len(self.taken), to).ljust(size, b"%d" % (size % 7))
            self.take(lambda: self.sender.send(data, self.to[to]), to, data)  # noqa: B023

    def turns(self, size: int, count: int) -> None:
        for i in range(count):
            self.send(i % len(self.to), size, 1)

    def singles(self, size: int, count: int) -> None:
        """Datagrams that are no trains, since each is larger than the one before: one system call for all."""
        for i in range(count):
            self.send(i % len(self.to), size + i, 1)
        self.flush()

    def lease(self, to: int, size: int) -> None:
        data = struct.pack("<II", len(self.taken), to).ljust(size, b"l")

        def send() -> None:
            with self.sender.lease(size) as lease:
                lease.view[:] = data
                lease.send(size, self.to[to])

        self.take(send, to, data)

    def take(self, call: Callable[[], Any], to: int, data: bytes) -> None:
        """A call that raises has taken the datagram, or not: the statistics say which."""
        before = self.datagrams
        returned = self.attempt(call)
        now = self.datagrams
        assert now - before == 1 or (not returned and now == before)
        if now != before:
            self.taken.append((to, data))

    @property
    def datagrams(self) -> int:
        with self.seam.paused():
            return self.sender.stats.datagrams

    def flush(self) -> None:
        self.attempt(self.sender.flush)

    def drain(self) -> None:
        self.attempt(self.sender.drain)

    def fail(self, call: str, error: int, after: int, times: int) -> None:
        self.errors.add(error)
        self.plans.append(self.seam.fail(call, error, after=after, times=times))

    def short(self, call: str, amount: int, after: int) -> None:
        self.plans.append(self.seam.short(call, amount, after=after))

    def result(self, error: int, after: int, times: int, alone: bool) -> None:
        self.errors.add(error)
        self.plans.append(self.seam.result(-error, after=after, times=times, alone=alone))

    def hold(self, most: int, seed: int) -> None:
        self.seam.hold(most=most, split=True, seed=seed)

    # -- what must hold

    def end(self) -> None:
        """Without further faults everything comes to its end."""
        self.sender.flush()
        self.sender.drain(timeout=20)
        stats = self.sender.stats
        assert (stats.waiting, stats.in_flight, stats.datagrams) == (0, 0, len(self.taken))
        assert stats.nbytes == sum(len(data) for _, data in self.taken)
        lost = [error.index for error in self.reported if error.index >= 0]
        assert all(error.errno in self.errors for error in self.reported)
        assert len(lost) == len(set(lost)) == stats.lost
        assert self.sender._arena.leases == 0
        overtaken = 0
        for to, rx in enumerate(self.receivers):
            came = self.receive(rx)
            expected = [
                (number, data)
                for number, (wanted, data) in enumerate(self.taken)
                if wanted == to and number not in lost
            ]
            assert sorted(came) == expected
            numbers = [number for number, _ in came]
            overtaken += sum(any(later < number for later in numbers[i:]) for i, number in enumerate(numbers))
        assert overtaken <= stats.reordered
        assert sum(stats.trains.values()) >= bool(len(self.taken) - len(lost))

    @staticmethod
    def receive(rx: socket.socket) -> list[tuple[int, bytes]]:
        came: list[tuple[int, bytes]] = []
        while True:
            try:
                data = rx.recv(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return came
            came.append((struct.unpack_from("<I", data)[0], data))
