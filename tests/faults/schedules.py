"""Random schedules: programs for a Scheduler in which faults come between the calls, and what must hold.

Every request that was queued completes exactly once, with its size or with an error that was injected; every
notifier that was flushed posts exactly once, when all its requests have settled; what succeeded arrives, in
order, and nothing else; no reference is left.
"""

import errno
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from conftest import Pair
from hypothesis import Phase, settings
from hypothesis import strategies as st
from model import PENDING, Model, Request
from seam import NOTIFICATION, Plan, Seam

from uringzc import Scheduler

SLOTS = 3
Step = tuple[Any, ...]


def few(examples: int) -> settings:
    """So many examples; with --hypothesis-profile=explore twenty times as many."""
    return settings(max_examples=examples * settings().max_examples // 100, phases=[Phase.generate])


def was_injected(error: MemoryError | OSError, errors: set[int]) -> bool:
    """Whether the exception is one of these errors."""
    return (errno.ENOMEM if isinstance(error, MemoryError) else error.errno) in errors


def payload(user_data: int, size: int) -> bytes:
    """What a request sends."""
    return user_data.to_bytes(8, "little").ljust(size, b"%d" % (user_data % 10))


class Memory(bytearray):
    """A buffer of which one can see whether it is still held."""


#: of a request
ERRORS = st.sampled_from(
    [
        *(errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EINTR, errno.ECONNREFUSED, errno.EMSGSIZE),
        *(errno.EIO, errno.EINVAL, errno.EPERM, errno.EOPNOTSUPP, errno.ENETUNREACH, errno.EPIPE),
    ]
)
AFTER = st.integers(0, 6)
FEW = st.integers(1, 4)


def failing(*calls: str, errors: st.SearchStrategy[int] = ERRORS) -> st.SearchStrategy[Step]:
    return st.tuples(st.just("fail"), st.sampled_from(calls), errors, st.integers(0, 3), FEW)


def lists_of_steps(
    names: list[str],
    calls: dict[str, st.SearchStrategy[Step]],
    faults: st.SearchStrategy[Step],
    least: int,
    most: int,
) -> st.SearchStrategy[list[Step]]:
    """Programs of calls and faults. `names` weighs them: a name that is not among the calls is a fault."""
    step = st.sampled_from(names).flatmap(lambda name: calls.get(name, faults))
    return st.lists(step, min_size=least, max_size=most)


#: what a kernel may do to each engine
FAULTS: dict[str, st.SearchStrategy[Step]] = {
    "io_uring": st.one_of(
        st.tuples(st.just("result"), ERRORS, AFTER, FEW, st.booleans()),
        failing("submission", errors=st.sampled_from([errno.EAGAIN, errno.EBUSY])),
        failing("io_uring_enter", errors=st.just(errno.EINTR)),
        st.tuples(st.just("short"), st.just("io_uring_enter"), FEW, st.integers(0, 3)),
    ),
    "msg_zerocopy": st.one_of(
        failing("sendmmsg"),
        st.tuples(st.just("short"), st.just("sendmmsg"), FEW, st.integers(0, 3)),
        failing("epoll_ctl", errors=st.sampled_from([errno.ENOMEM, errno.ENOSPC])),
        failing("recvmmsg", "epoll_wait", "poll", errors=st.just(errno.EINTR)),
        failing("fcntl", errors=st.sampled_from([errno.EMFILE])),
        failing("malloc", "calloc", errors=st.just(errno.ENOMEM)),
    ),
    "packet": st.one_of(
        failing("sendto"),  # the call that has the kernel look at the ring
        failing("poll", "nanosleep", errors=st.just(errno.EINTR)),
    ),
    "copy": st.one_of(
        failing("sendmmsg"),
        st.tuples(st.just("short"), st.just("sendmmsg"), FEW, st.integers(0, 3)),
        failing("malloc", "epoll_ctl", errors=st.just(errno.ENOMEM)),
    ),
}
HOLD = st.tuples(st.just("hold"), st.booleans(), st.sampled_from([-1, 1, 3, 8]), st.integers(0, 99))
SEND = st.tuples(
    *(st.just("send"), st.integers(0, 1), st.integers(0, SLOTS - 1)),
    *(st.sampled_from([8, 100, 1400, 9000]), st.booleans(), st.integers(0, 3).map(lambda n: n == 0)),
)


CALLS: dict[str, st.SearchStrategy[Step]] = {
    "send": SEND,
    "send_run": st.tuples(
        *(st.just("send_run"), st.integers(0, 1), st.integers(0, SLOTS - 1)),
        *(st.sampled_from([8, 100]), st.integers(1, 40)),
    ),
    "flush": st.tuples(st.just("flush"), st.integers(0, SLOTS - 1)),
    "submit": st.just(("submit",)),
    "reap": st.just(("reap",)),
    "release": st.tuples(st.just("release"), st.integers(0, 2**16)),
    "hold": HOLD,
}
NAMES = [
    *["send"] * 8,
    *["send_run"] * 3,
    *["flush"] * 2,
    *["submit"] * 3,
    *["reap"] * 2,
    *["fault"] * 4,
    "release",
    "hold",
]


def programs(engine: str) -> st.SearchStrategy[list[Step]]:
    """Steps of a SchedulePlayer."""
    return lists_of_steps(NAMES, CALLS, FAULTS[engine], 20, 60)


class SchedulePlayer:
    """Plays a program on a Scheduler and on the model, and checks."""

    def __init__(self, seam: Seam, scheduler: Scheduler, pairs: list[Pair]) -> None:
        self.seam = seam
        self.real = scheduler
        self.pairs = pairs
        self.model = Model(1 << 20, tags=range(SLOTS))  # room is tested elsewhere
        self.requests: dict[int, tuple[Request, int, int]] = {}  # by user_data: socket, size
        self.memories: dict[int, weakref.ref[Memory]] = {}
        self.plans: list[Plan] = []
        self.errors = {errno.EAGAIN}  # that calls may raise: max_inflight is reached
        self.posted = 0

    def play(self, program: list[Step]) -> None:
        try:
            for name, *arguments in program:
                getattr(self, name)(*arguments)
                self.check_held()
        finally:
            self.end_faults()

    def attempt(self, call: Callable[[], object]) -> bool:
        """Whether it succeeded; else with an error that was injected, and nothing has happened."""
        try:
            call()
        except (MemoryError, OSError) as error:
            if not was_injected(error, self.errors):
                raise
            return False
        return True

    # -- the calls

    def send(self, which: int, slot: int, size: int, zero_copy: bool, flush: bool) -> None:
        user_data = len(self.memories)
        memory = Memory(payload(user_data, size))
        self.memories[user_data] = weakref.ref(memory)

        def send() -> None:
            self.real.send(
                self.pairs[which].tx, memory, slot=slot, user_data=user_data, zero_copy=zero_copy, flush=flush
            )

        if self.attempt(send):
            request = self.model.attach(slot, user_data)
            assert isinstance(request, Request)
            self.requests[user_data] = request, which, size
            if flush:
                self.model.flush(slot)

    def send_run(self, which: int, slot: int, size: int, count: int) -> None:
        """Requests of one memory, which share an entry of the request table."""
        first = len(self.memories)
        memory = Memory(b"".join(payload(first + i, size) for i in range(count)))
        for user_data in range(first, first + count):
            self.memories[user_data] = weakref.ref(memory)
        queued = []

        def send() -> None:
            queued.append(
                self.real.send_run(
                    self.pairs[which].tx, memory, size, count, slot=slot, user_data=first, zero_copy=True
                )
            )

        if self.attempt(send):
            for user_data in range(first, first + queued[0]):
                request = self.model.attach(slot, user_data)
                assert isinstance(request, Request)
                self.requests[user_data] = request, which, size

    def flush(self, slot: int) -> None:
        self.attempt(lambda: self.real.flush(slot))
        self.model.flush(slot)

    def submit(self) -> None:
        self.attempt(self.real.submit)

    def reap(self) -> None:
        self.attempt(self.reap_notifications)
        self.reap_completions()

    def reap_completions(self) -> None:
        with suppress(OSError):
            for user_data, result in self.real.reap_completions():
                request, _, size = self.requests[user_data]
                assert result == size or -result in self.errors
                before = self.model.stray
                self.model.result(request, result)
                assert self.model.stray == before, "completed twice"

    def reap_notifications(self) -> None:
        notifications = list(self.real.reap_notifications())
        self.posted += len(notifications)
        self.reap_completions()
        for each in notifications:
            [notifier] = [
                n for n in self.model.notifiers if (n.slot, n.sequence) == (each.slot, each.sequence)
            ]
            assert notifier.flushed
            assert not notifier.posted, "notified twice"
            for request in notifier.requests:
                assert request.state == PENDING
                self.model.settle(request, 0)
                assert self.memories[request.user_data]() is None, "notified, and still held"
            assert notifier.posted
            expected = notifier.notification()
            assert each._replace(copied=0) == expected._replace(copied=0)
        self.model.release()

    # -- the faults

    def fail(self, call: str, error: int, after: int, times: int) -> None:
        self.errors.add(error)
        self.plans.append(self.seam.fail(call, error, after=after, times=times))

    def short(self, call: str, amount: int, after: int) -> None:
        self.plans.append(self.seam.short(call, amount, after=after))

    def result(self, error: int, after: int, times: int, alone: bool) -> None:
        self.errors.add(error)
        self.plans.append(self.seam.result(-error, after=after, times=times, alone=alone))

    def hold(self, results: bool, most: int, seed: int) -> None:
        self.seam.hold(results=results, most=most, split=True, seed=seed)

    def release(self, seed: int) -> None:
        """Some of what is held, rotated; but each request's result before its notification."""
        held = self.seam.held()
        turned = held[seed % (len(held) or 1) :] + held[: seed % (len(held) or 1)]
        given = turned[: seed // 100 % (len(held) + 1)]
        results = {each.user_data for each in held if not each.flags & NOTIFICATION}
        self.seam.release(
            [each for each in given if each.user_data not in results or not each.flags & NOTIFICATION]
        )

    # -- what must hold

    def check_held(self) -> None:
        """While the kernel has not released their memory, requests are in flight, and hold it."""
        notifications = sum(
            (
                each.result - each.user_data + 1
                if each.flags == NOTIFICATION and self.real.engine != "io_uring"
                else 1
            )
            for each in self.seam.held()
            if each.flags & NOTIFICATION
        )
        assert self.real.stats.in_flight >= notifications
        for user_data, (request, _, _) in self.requests.items():
            if not request.notifier.flushed or request.state != PENDING:
                held = self.memories[user_data]() is not None
                assert held or request.notifier.posted or request.notifier.flushed

    def end_faults(self) -> None:
        for plan in self.plans:
            plan.end()
        self.seam.hold(results=False, notifications=False)
        self.seam.release()

    def end(self) -> None:
        """Without further faults everything comes to its end."""
        for slot in range(SLOTS):
            self.flush(slot)
        self.real.drain(timeout=20)
        self.reap()
        flushed = [n for n in self.model.notifiers if n.flushed]
        assert self.posted == len(flushed) == len(self.model.notifiers)
        assert all(notifier.posted for notifier in flushed)
        assert all(memory() is None for memory in self.memories.values())
        stats = self.real.stats
        assert (stats.in_flight, stats.held, stats.stray) == (0, 0, 0)
        for which, pair in enumerate(self.pairs):
            self.check_arrived(which, pair)

    def check_arrived(self, which: int, pair: Pair) -> None:
        sent = [
            payload(user_data, size)
            for user_data, (request, socket, size) in self.requests.items()
            if socket == which and request.result >= 0
        ]
        assert [pair.rx.recv(1 << 16) for _ in sent] == sent
        assert pair.empty()
