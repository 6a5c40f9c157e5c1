"""Random programs agree with the model: the slot accounting, with a kernel that completes in any order.

The controls run the same programs with a wrong rule, and must find a difference.
"""

import errno
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from model import QUEUED, SETTLED, Model, ModelNotifier, Request, SlotAccounting
from model_programs import (
    COMPLETIONS,
    COUNT,
    MANY,
    PICK,
    RARELY,
    RESULTS,
    SLOT,
    TAGS,
    U64,
    FailureKeepsItOpen,
    FreeAtTheNotification,
    RefusedTakesASequence,
    SettlesAtResult,
    SkippedSlotsCount,
    TagOfTheFlush,
    UpdateTagsEmptySlots,
    differs,
    one_of,
    steps,
)

from uringzc._uring import lib


def place(key: int) -> int:
    """The bit of the request's place in its run."""
    return 1 << (key & 0xFFFFFFFF) // lib.UZC_KEY_STEP


class SlotsMachine(RuleBasedStateMachine):
    """The slot accounting and the model get the same calls, and completions in any order."""

    model_type = Model
    accounting_type = SlotAccounting

    @initialize(max_inflight=st.sampled_from([1, 2, 3, 8, 30]), completions=COMPLETIONS, tags=TAGS)
    def start(self, max_inflight: int, completions: str, tags: list[int]) -> None:
        self.model = self.model_type(max_inflight, completions, tags)
        self.accounting = self.accounting_type(max_inflight, completions, tags)
        self.in_flight: list[tuple[Request, int]] = []
        self.runs: list[list[tuple[Request, int]]] = []  # what one call attached
        self.settled_keys: list[int] = []
        self.flushed: list[tuple[ModelNotifier, int]] = []

    @rule(
        step=steps(
            *[("send", SLOT, st.integers(0, 2**63), st.booleans())] * 4,
            *[("send_run", SLOT, st.integers(0, 2**62), st.integers(1, 40), st.integers(1, 40))] * 2,
            ("flush", SLOT),
            ("update", COUNT, COUNT, st.none() | U64),
            ("register", RARELY, TAGS),
            *[("kernel", PICK, RESULTS, st.sampled_from([0, 1, -1]), RARELY)] * 4,
            *[("kernel_run", PICK, RESULTS, st.sampled_from([0, 1, -1]), st.integers(1, 2**32 - 1))] * 3,
            ("stale_key", PICK, st.booleans()),
            ("release",),
            ("read",),
        )
    )
    def step(self, step: tuple[Any, ...]) -> None:
        getattr(self, step[0])(*step[1:])

    def send(self, slot: int, user_data: int, flush: bool) -> None:
        request, key = self.model.attach(slot, user_data), self.accounting.attach(slot, user_data)
        if isinstance(request, int):
            assert key == request
            return
        assert key >= 0
        self.in_flight.append((request, key))
        if flush:
            self.flush(slot)

    def send_run(self, slot: int, user_data: int, count: int, each: int) -> None:
        """Datagrams from one memory, in calls of `each`; runs of the same memory may join."""
        reference, nbytes = user_data % 3, 1000 + user_data % 2
        while count > 0:
            wanted = min(count, each)
            keys = self.accounting.attach_run(slot, user_data, wanted, reference, nbytes)
            assert 1 <= len(keys) <= wanted
            pairs = []
            for i, key in enumerate(keys):
                request = self.model.attach(slot, user_data + i, reference, nbytes)
                if isinstance(request, int):
                    assert key == request
                    return
                assert key >= 0
                pairs.append((request, key))
            assert len({key for _, key in [*self.in_flight, *pairs]}) == len(self.in_flight) + len(pairs)
            self.in_flight += pairs
            self.runs.append(pairs)
            user_data, count = user_data + len(keys), count - len(keys)

    def flush(self, slot: int) -> None:
        notifier, number = self.model.flush(slot), self.accounting.flush(slot)
        if isinstance(notifier, ModelNotifier):
            assert number > 0
            self.flushed.append((notifier, number))
        else:
            assert number == (notifier or 0)

    def update(self, first: int, count: int, tag: int | None) -> None:
        assert self.accounting.update(first, count, tag) == self.model.update(first, count, tag)

    def register(self, unregister: bool, tags: list[int]) -> None:
        if unregister:
            assert self.accounting.unregister() == self.model.unregister()
        assert self.accounting.register(tags) == self.model.register(tags)

    def kernel(self, pick: int, result: int, copied: int, strange: bool) -> None:
        """A result, or the notification after it; strange: a notification alone, or a result alone."""
        chosen = one_of(self.in_flight, pick)
        if chosen is None:
            return
        request, key = chosen
        if request.nbytes is not None and result >= 0:
            result = request.nbytes
        alone = request.state == QUEUED and strange and result < 0
        if request.state == QUEUED and not alone:
            self.model.result(request, result)
            assert self.accounting.result(key, result) == 0
            if not strange:
                return
        self.model.settle(request, copied)
        assert self.accounting.settle(key, copied) == 0
        self.in_flight.remove(chosen)
        self.settled_keys.append(key)

    def kernel_run(self, pick: int, result: int, copied: int, places: int) -> None:
        """The same result, or notification, for several requests of a run; what had it before is stray."""
        run = one_of(self.runs, pick)
        if run is None:
            return
        first = run[0][0]
        if first.nbytes is not None and result >= 0:
            result = first.nbytes
        chosen = [pair for pair in run if places & place(pair[1])]
        places = sum(place(key) for _, key in chosen)
        settling = first.state != QUEUED
        took = sum(
            place(key)
            for request, key in chosen
            if request.state == QUEUED or (settling and request.state != SETTLED)
        )
        for request, key in chosen:
            if settling:
                self.settled_keys += [key] if request.state != SETTLED else []
                self.model.settle(request, copied)
            else:
                self.model.result(request, result)
        if settling:
            assert self.accounting.settle_all(run[0][1], places, copied) == took
        else:
            assert self.accounting.results(run[0][1], places, result) == took
        self.in_flight = [pair for pair in self.in_flight if pair[0].state != SETTLED]

    def stale_key(self, pick: int, result: bool) -> None:
        key = one_of(self.settled_keys, pick)
        if key is not None:
            assert (
                self.accounting.result(key, 1) if result else self.accounting.settle(key)
            ) == -errno.ENOENT
            self.model.stray += 1

    def release(self) -> None:
        assert sorted(self.accounting.release()) == sorted(self.model.release())

    def read(self) -> None:
        assert self.accounting.take_completions() == self.model.take_completions()
        assert self.accounting.take_notifications() == self.model.take_notifications()

    @invariant()
    def same(self) -> None:
        assert self.accounting.stats() == self.model.stats()
        for notifier, number in self.flushed[-8:]:
            left = sum(request.state != SETTLED for request in notifier.requests)
            assert self.accounting.unsettled(number) == left

    def teardown(self) -> None:
        if not hasattr(self, "model"):
            return
        self.model.unregister()
        lib.uzc_slots_close(self.accounting.pointer)
        while self.in_flight:
            self.kernel(len(self.in_flight), 1, 0, strange=False)
        self.release()
        self.read()
        stats = self.accounting.stats()
        assert stats == self.model.stats()
        assert (stats["held"], stats["in_flight"], stats["awaiting"], stats["flushed"]) == (0, 0, 0, 0)
        assert self.accounting.references == 0


@pytest.mark.slow
@pytest.mark.engines
def test_slot_accounting_agrees_with_the_model() -> None:
    run_state_machine_as_test(SlotsMachine, settings=MANY)


# -- controls

WRONG = [
    *(SkippedSlotsCount, UpdateTagsEmptySlots, RefusedTakesASequence),
    *(FailureKeepsItOpen, FreeAtTheNotification, TagOfTheFlush),
]


@pytest.mark.slow
@pytest.mark.engines
@pytest.mark.parametrize("wrong", WRONG)
def test_control_a_wrong_rule_is_found(wrong: type[Model]) -> None:
    assert differs(type("Wrong", (SlotsMachine,), {"model_type": wrong}))


class TakesTheNextPlace(SlotAccounting):
    """A wrong rule: results of a run are taken for the requests behind them."""

    def results(self, key: int, places: int, result: int) -> int:
        return super().results(key, places << 1 & 0xFFFFFFFF, result) >> 1


class SettlesTheRun(SlotAccounting):
    """A wrong rule: with one request all of its run has settled."""

    def settle_all(self, key: int, places: int, copied: int) -> int:
        return super().settle_all(key, 0xFFFFFFFF, copied) & places


@pytest.mark.engines
@pytest.mark.parametrize("wrong", [SettlesAtResult, TakesTheNextPlace, SettlesTheRun])
def test_control_wrong_accounting_is_found(wrong: type[SlotAccounting]) -> None:
    assert differs(type("Wrong", (SlotsMachine,), {"accounting_type": wrong}))
