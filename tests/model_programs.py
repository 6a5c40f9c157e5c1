"""Random programs for the model: their steps, wrong rules for controls, and whether a run differs."""

import errno
from collections.abc import Sequence
from typing import Any, TypeVar

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test
from model import SETTLED, Model, ModelNotifier, Request, SlotAccounting

T = TypeVar("T")
U64 = st.integers(0, 2**64 - 1)
TAGS = st.lists(U64, min_size=1, max_size=4)
SLOT = st.sampled_from([0, 0, 0, 0, 1, 1, 1, 2, 3, 4])
COUNT = st.integers(0, 3) | st.sampled_from([4, 5, 2**32 - 1, 2**32 - 2])
COMPLETIONS = st.sampled_from(["all", "failed", "none"])
RARELY = st.integers(0, 7).map(lambda number: number == 7)
PICK = st.integers(0, 99)
RESULTS = st.integers(0, 65507) | st.sampled_from(
    [-errno.EMSGSIZE, -errno.EAGAIN, -errno.ECANCELED, 2**31 - 1]
)


def steps(*kinds: tuple[Any, ...]) -> st.SearchStrategy[tuple[Any, ...]]:
    """One step of a program: a method's name, and strategies for its arguments.

    As one rule, because of several rules each example would use only some, and few that lead anywhere.
    """
    return st.one_of(*(st.tuples(st.just(name), *arguments) for name, *arguments in kinds))


def one_of(things: Sequence[T], pick: int) -> T | None:
    return things[pick % len(things)] if things else None


MANY = settings(max_examples=120, stateful_step_count=60, phases=[Phase.generate, Phase.shrink])


class SettlesAtResult(SlotAccounting):
    """Settles a request at its result, as a program without notifications would."""

    def result(self, key: int, result: int, flags: int = 0) -> int:
        code = super().result(key, result, flags)
        super().settle(key)
        return code


class SkippedSlotsCount(Model):
    """A flush of a slot without requests takes a sequence number."""

    def flush(self, slot: int) -> ModelNotifier | int | None:
        notifier = super().flush(slot)
        if notifier is None:
            self.slots[slot].sequence += 1
        return notifier


class UpdateTagsEmptySlots(Model):
    """An update gives its tag to skipped slots too."""

    def update(self, first: int, count: int, tag: int | None = None) -> int:
        code = super().update(first, count, tag)
        for slot in self.slots[first : first + count] if tag is not None and not code else []:
            slot.tag = tag or 0
        return code


class RefusedTakesASequence(Model):
    """A request that finds no room has made its notifier all the same."""

    def attach(
        self, slot: int, user_data: int, reference: int | None = None, nbytes: int | None = None
    ) -> Request | int:
        refusal = self.refusal(slot)
        if refusal and slot < len(self.slots) and self.slots[slot].active is None:
            self.slots[slot].sequence += 1
        return super().attach(slot, user_data, reference, nbytes)


class FailureKeepsItOpen(Model):
    """The withdrawn rule, as far as one can know it here: a failed request is not counted."""

    def _post(self, notifier: ModelNotifier) -> None:
        notifier.requests = [r for r in notifier.requests if r.state != SETTLED or r.result >= 0]
        if notifier.requests:
            super()._post(notifier)


class FreeAtTheNotification(Model):
    """Room is made by the notification, not when references have gone back."""

    def _post(self, notifier: ModelNotifier) -> None:
        super()._post(notifier)
        self.held = [request for request in self.held if request not in self.released]


class TagOfTheFlush(Model):
    """The notification carries the tag that the slot has at the end, not at the first request."""

    def update(self, first: int, count: int, tag: int | None = None) -> int:
        for slot in self.slots[first : first + count] if tag is not None else []:
            if slot.active:
                slot.active.tag = tag or 0
        return super().update(first, count, tag)


def differs(machine: type[RuleBasedStateMachine]) -> bool:
    find = settings(MANY, max_examples=1000, phases=[Phase.generate], report_multiple_bugs=False)
    try:
        run_state_machine_as_test(machine, settings=find)
    except (AssertionError, StopIteration, IndexError):
        return True
    return False
