"""Random programs agree with the model: a Scheduler, with the real kernel.

The control runs the same programs with a wrong rule, and must find a difference.
"""

import errno
import gc
import os
import socket
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from model import QUEUED, SETTLED, Model, ModelNotifier, Request
from model_programs import (
    COMPLETIONS,
    COUNT,
    MANY,
    PICK,
    RARELY,
    SLOT,
    TAGS,
    U64,
    FailureKeepsItOpen,
    SkippedSlotsCount,
    TagOfTheFlush,
    differs,
    one_of,
    steps,
)
from traffic import all_copied

import uringzc
from uringzc.errors import _FULL
from uringzc.notif import Notification

T = TypeVar("T")


class Memory(bytearray):
    """A buffer of which one can see whether it is still held."""


ENTRIES = {1: 1, 5: 4, 24: 16, 80: 32}  # of the submission queue, by max_inflight
WAIT = st.sampled_from([0, 0, 1, 3, 1000])
SEND = st.sampled_from(["plain", "zc", "zc", "region", "nobody", "broadcast", "closed", "stream"])


class SchedulerMachine(RuleBasedStateMachine):
    """A Scheduler and the model get the same calls. The kernel answers only one of them.

    Results come with the submit, as the model has them. When memory is free only the kernel knows: the model
    calls a request settled when the Scheduler has said so, and `_agree` makes both wait for all of it.
    """

    model_type = Model

    def __init__(self) -> None:
        super().__init__()
        self.rx = self.receiver_socket()
        self.tx = self.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.tx.connect(self.rx.getsockname())
        self.unconnected = self.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.stream = self.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))

    def inside(self, call: Callable[[], T]) -> T:
        """What `call` returns in the sender's network."""
        return call()

    def receiver_socket(self) -> socket.socket:
        rx = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        rx.bind(("127.0.0.1", 0))
        return rx

    @initialize(max_inflight=st.sampled_from(list(ENTRIES)), completions=COMPLETIONS, tags=TAGS)
    def start(self, max_inflight: int, completions: str, tags: list[int]) -> None:
        self.real = self.inside(
            lambda: uringzc.Scheduler(tags, max_inflight=max_inflight, completions=completions)
        )
        self.model = self.model_type(max_inflight, completions, tags)
        self.entries = ENTRIES[max_inflight]
        self.region = self.real.register(1 << 16)
        self.knows = os.environ["URINGZC_ENGINE"] != "msg_zerocopy"  # of each request whether it was copied
        self.expected: list[tuple[Request, int]] = []  # queued and not submitted: what the kernel will say
        self.newly = 0  # submitted since submit() was called
        self.notifiers: list[tuple[uringzc.Notifier, ModelNotifier]] = []
        self.memories: list[tuple[Request, weakref.ref[Memory]]] = []

    # -- what the model knows of the kernel

    def _submitted(self) -> None:
        for request, result in self.expected:
            self.model.result(request, result)
        self.newly += len(self.expected)
        self.expected.clear()

    def _settled(self, notifier: ModelNotifier) -> None:
        for request in notifier.requests:
            if request.state != SETTLED:
                assert request.state != QUEUED, "said to be free, and was never submitted"
                self.model.settle(request, 1)  # loopback copies, always; and frames of an engine

    def _agree(self) -> None:
        self.real.drain(timeout=30)
        self.submit()
        for notifier in self.model.notifiers:
            self._settled(notifier)
        self.model.release()

    # -- what a program does

    def _refused(self, slot: int) -> AbstractContextManager[Any]:
        """What the next send for the slot is met with."""
        if len(self.expected) == self.entries:
            self._submitted()
        if self.model.refusal(slot):
            self._agree()
        code = self.model.refusal(slot)
        if code == -errno.EINVAL:
            return pytest.raises(OSError, match=r"Invalid argument|does not exist")
        return pytest.raises(BlockingIOError, match=_FULL[code].split(":")[0]) if code else nullcontext()

    def _attached(self, slot: int, user_data: int, result: int, flush: bool) -> Request | None:
        request = self.model.attach(slot, user_data)
        if isinstance(request, int):
            return None
        self.expected.append((request, result))
        if flush:
            self.model.flush(slot)
        return request

    @rule(
        step=steps(
            *[("send", SEND, SLOT, st.integers(0, 3000), U64, st.booleans())] * 4,
            ("send_run", SLOT, st.integers(1, 1400), st.integers(1, 8), st.integers(0, 99), st.booleans()),
            ("refused", st.sampled_from(["large", "closed", "text", "range", "address", "number"])),
            ("flush", SLOT),
            ("update", COUNT, COUNT, st.none() | U64),
            ("register", RARELY, TAGS),
            ("submit",),
            ("reap_completions", WAIT),
            ("reap_notifications", WAIT),
            ("notifier", PICK, st.booleans()),
            ("drain",),
        )
    )
    def step(self, step: tuple[Any, ...]) -> None:
        getattr(self, step[0])(*step[1:])

    def send(self, kind: str, slot: int, size: int, user_data: int, flush: bool) -> None:
        sock, to, memory, result = self.tx, None, Memory(size), size
        if kind == "nobody":
            sock, result = self.unconnected, -errno.EDESTADDRREQ
        elif kind == "broadcast":
            sock, to, result = self.unconnected, ("127.255.255.255", 9), -errno.EACCES
        elif kind == "stream":
            sock, result = self.stream, -errno.EPIPE
        elif kind == "closed":
            sock = self.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            result = -errno.EBADF
        options: dict[str, Any] = {"slot": slot, "user_data": user_data, "flush": flush, "to": to}
        with self._refused(slot):
            if kind == "region":
                self.real.send(sock, self.region, offset=100, length=size, **options)
            else:
                self.real.send(sock, memory, zero_copy=kind != "plain", **options)
        if kind == "closed":
            sock.close()
        request = self._attached(slot, user_data, result, flush)
        if request and kind != "region":
            self.memories.append((request, weakref.ref(memory)))

    @rule(
        slot=SLOT,
        size=st.integers(1, 1400),
        count=st.integers(1, 8),
        user_data=st.integers(0, 2**64 - 8),
        flush=st.booleans(),
    )
    def send_run(self, slot: int, size: int, count: int, user_data: int, flush: bool) -> None:
        self._agree()  # so that there is room for all of them, or for none
        room = self.model.max_inflight - max(
            len(self.model.held),
            len(self.model.unread_completions),
            len(self.model.unread_notifications) + sum(not n.flushed for n in self.model.notifiers),
        )
        if room < count and not self.model.refusal(slot):
            return
        with self._refused(slot):
            queued = self.real.send_run(
                self.tx, self.region, size, count, 64, slot=slot, user_data=user_data, flush=flush
            )
            assert queued == count
        for i in range(count):
            if len(self.expected) == self.entries:
                self._submitted()
            self._attached(slot, user_data + i, size, flush)

    def refused(self, what: str) -> None:
        unix = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        unix.close()
        attempts: dict[str, tuple[type[Exception], Callable[[], None]]] = {
            "large": (OSError, lambda: self.real.send(self.tx, bytes(65508))),
            "closed": (OSError, lambda: self.real.send(unix, b"x")),
            "text": (TypeError, lambda: self.real.send(self.tx, "text")),  # type: ignore[arg-type]
            "range": (ValueError, lambda: self.real.send(self.tx, self.region, offset=65536, length=1)),
            "address": (ValueError, lambda: self.real.send(self.tx, b"x", to=("127.0.0.1", 65536))),
            "number": (ValueError, lambda: self.real.send(self.tx, b"x", user_data=2**64)),
        }
        kind, attempt = attempts[what]
        with pytest.raises(kind):
            attempt()

    def flush(self, slot: int) -> None:
        expected = self.model.flush(slot)
        if isinstance(expected, int):
            with pytest.raises(OSError, match=r"Invalid argument|does not exist"):
                self.real.flush(slot)
            return
        notifier = self.real.flush(slot)
        assert (notifier is None) == (expected is None)
        if notifier and expected:
            self.notifiers.append((notifier, expected))

    def update(self, first: int, count: int, tag: int | None) -> None:
        self._same_errno(
            lambda: self.real.slots.update(first, count, tag), self.model.update(first, count, tag)
        )

    def register(self, unregister: bool, tags: list[int]) -> None:
        if unregister:
            self._same_errno(self.real.slots.unregister, self.model.unregister())
        self._same_errno(lambda: self.real.slots.register(tags), self.model.register(tags))

    def _same_errno(self, call: Callable[[], None], expected: int) -> None:
        if expected:
            with pytest.raises(OSError) as caught:  # noqa: PT011
                call()
            assert caught.value.errno == -expected
        else:
            call()

    def submit(self) -> None:
        self._submitted()
        assert self.real.submit() == self.newly
        self.newly = 0

    def reap_completions(self, wait: int) -> None:
        if wait:  # submits
            self._submitted()
        assert list(self.real.reap_completions(wait, timeout=30)) == self.model.take_completions()

    def reap_notifications(self, wait: int) -> None:
        self.submit()
        flushed = [n for n in self.model.notifiers if n.flushed and not n.posted]
        due = len(self.model.unread_notifications) + len(flushed)
        reaped = list(self.real.reap_notifications(wait, timeout=30))
        assert len(reaped) >= min(wait, due)
        for notification in map(all_copied, reaped):
            if notification in self.model.unread_notifications:
                self.model.unread_notifications.remove(notification)
                continue
            notifier = next(n for n in flushed if _would_be(n) == notification)
            flushed.remove(notifier)
            self._settled(notifier)
            assert notifier.posted
            self.model.unread_notifications.remove(notification)

    def notifier(self, pick: int, wait: bool) -> None:
        chosen = one_of(self.notifiers, pick)
        if chosen is None:
            return
        real, model = chosen
        if wait and not model.posted:
            real.wait(timeout=30)
            self.submit()
        done = real.done
        assert done or not wait
        assert done or not model.posted
        if done:
            self._settled(model)

    def drain(self) -> None:
        self._agree()
        real, model = self.real.slots.counts(), self.model.stats()
        assert {name: int(getattr(real, name)) for name in model if self.knows or name != "copied"} == {
            name: value for name, value in model.items() if self.knows or name != "copied"
        }
        for request, memory in self.memories:
            assert (memory() is None) == request.notifier.posted
        self.memories = [pair for pair in self.memories if not pair[0].notifier.posted]

    # -- what must hold after every step

    @invariant()
    def same(self) -> None:
        real, model = self.real.slots.counts(), self.model.stats()
        for name in ("requests", "nbytes", "completions", "failed", "awaiting", "open", "unread_completions"):
            assert getattr(real, name) == model[name], name
        for name in ("in_flight", "held", "flushed", "unsettled"):  # the kernel may be ahead of the model
            assert getattr(real, name) <= model[name], name
        assert real.notifications >= model["notifications"]
        assert real.stray == 0

    @invariant()
    def held(self) -> None:
        for request, memory in self.memories:
            if not request.notifier.flushed or request.state == QUEUED:
                assert memory() is not None

    def teardown(self) -> None:
        try:
            if hasattr(self, "real"):
                self._end()
        finally:
            for sock in (self.rx, self.tx, self.unconnected, self.stream):
                sock.close()

    def _end(self) -> None:
        self.region.close()
        self.real.close()
        self._submitted()
        self.model.unregister()
        for notifier in self.model.notifiers:
            self._settled(notifier)
        assert list(self.real.reap_completions()) == self.model.take_completions()
        rest = sorted(self.model.take_notifications())
        assert sorted(map(all_copied, self.real.reap_notifications())) == rest
        assert all(memory() is None for _, memory in self.memories)


def _would_be(notifier: ModelNotifier) -> Notification:
    """Its notification, if all its requests are settled, on loopback."""
    succeeded = sum(request.result >= 0 for request in notifier.requests)
    return notifier.notification()._replace(copied=succeeded)


@pytest.mark.slow
def test_a_scheduler_agrees_with_the_model() -> None:
    run_state_machine_as_test(
        SchedulerMachine, settings=settings(MANY, max_examples=50, stateful_step_count=50)
    )


@pytest.mark.slow
@pytest.mark.engines("copy")
@pytest.mark.parametrize("wrong", [SkippedSlotsCount, FailureKeepsItOpen, TagOfTheFlush])
def test_control_a_wrong_rule_is_found_with_the_kernel(wrong: type[Model]) -> None:
    assert differs(type("Wrong", (SchedulerMachine,), {"model_type": wrong}))
    gc.collect()  # what the example that failed has left
