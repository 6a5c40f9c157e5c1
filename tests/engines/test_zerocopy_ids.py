"""Zero-copy ids are matched to the sends that have them: the accounting alone, without a socket."""

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import Phase, given, settings

from uringzc._uring import ffi, lib

pytestmark = pytest.mark.engines()
WRAP = 2**32
Step = tuple[str, int, int]


class Ids:
    """One socket's numbers. Freed at the end of the block."""

    def __init__(self, start: int | None = 0, pointer: Any = None) -> None:
        self.pointer = pointer or lib.uzc_ids_new()
        if start is not None:
            self.set(start)

    def __enter__(self) -> "Ids":
        return self

    def __exit__(self, *_: object) -> None:
        lib.uzc_ids_free(self.pointer)

    @property
    def next(self) -> int | None:
        """What the next send has, None while nobody knows."""
        out = ffi.new("uint32_t *")
        return int(out[0]) if lib.uzc_ids_next(self.pointer, out) else None

    @property
    def outstanding(self) -> int:
        return int(lib.uzc_ids_outstanding(self.pointer))

    def set(self, number: int) -> None:
        lib.uzc_ids_set(self.pointer, number % WRAP)

    def guess(self) -> None:
        lib.uzc_ids_guess(self.pointer)

    @property
    def disbelieved(self) -> bool:
        return bool(lib.uzc_ids_untrusted(self.pointer))

    def take_all(self) -> list[int]:
        """The kernel holds nothing any more."""
        return list(iter(lambda: int(lib.uzc_ids_take_any(self.pointer)), 0))

    def doubt(self) -> None:
        lib.uzc_ids_invalidate(self.pointer)

    def own(self, *keys: int) -> None:
        """So many sends have succeeded."""
        assert lib.uzc_ids_reserve(self.pointer, len(keys)) == 0
        for key in keys:
            lib.uzc_ids_assign(self.pointer, key)

    def clip(self, first: int, last: int) -> tuple[int, int] | None:
        """The part of a range that is worth looking at."""
        begin, end = ffi.new("uint32_t *", first % WRAP), ffi.new("uint32_t *", last % WRAP)
        return (int(begin[0]), int(end[0])) if lib.uzc_ids_clip(self.pointer, begin, end) else None

    def take(self, number: int) -> int:
        return int(lib.uzc_ids_take(self.pointer, number % WRAP))

    def report(self, first: int, last: int) -> list[int]:
        """The keys of a range that the kernel reports."""
        part = self.clip(first, last)
        if part is None:
            return []
        length = (part[1] - part[0]) % WRAP + 1
        return [key for i in range(length) if (key := self.take(part[0] + i))]


starts = pytest.mark.parametrize("start", [0, 1000, WRAP - 3, 2**31 - 2])


@starts
def test_ids_are_released_in_order(start: int) -> None:
    with Ids(start) as ids:
        ids.own(*range(1, 7))
        assert ids.next == (start + 6) % WRAP
        for i in range(6):
            assert ids.report(start + i, start + i) == [i + 1]
        assert ids.outstanding == 0
        assert ids.report(start, start + 5) == []


@starts
def test_ids_are_released_out_of_order_and_in_ranges(start: int) -> None:
    with Ids(start) as ids:
        ids.own(*range(1, 9))
        assert ids.report(start + 4, start + 6) == [5, 6, 7]
        assert ids.outstanding == 5
        assert ids.report(start, start + 3) == [1, 2, 3, 4]
        assert ids.report(start, start + 7) == [8]
        assert ids.outstanding == 0


@starts
def test_ids_that_failed_sends_used_up_release_nothing(start: int) -> None:
    with Ids(start) as ids:
        ids.own(1)
        ids.doubt()
        assert ids.next is None
        assert (
            ids.report(start + 1, start + 1) == []
        )  # the failed one's, and it is no reason to doubt everything
        ids.set(start + 2)
        ids.own(2)
        assert ids.report(start + 1, start + 1) == []
        assert ids.report(start, start + 2) == [1, 2]


@starts
def test_an_id_that_was_never_given_invalidates_the_counter(start: int) -> None:
    with Ids(start) as ids:
        ids.own(1, 2)
        assert ids.report(start, start + 2) == []
        assert ids.next is None
        assert ids.outstanding == 2
        assert ids.report(start, start + 1) == []  # nothing is believed any more
        ids.set(start + 3)
        assert ids.next is None


def test_an_id_reported_before_any_send_invalidates_the_counter() -> None:
    with Ids(0) as ids:
        assert ids.report(0, 0) == []
        assert ids.next is None


def test_an_id_in_use_is_not_the_next_one() -> None:
    with Ids(10) as ids:
        ids.own(1, 2, 3)
        ids.doubt()
        ids.set(11)
        assert (
            ids.next is None
        )  # still unknown: its answer would be an entry that is taken, in a table of any size
        ids.set(14)
        ids.own(4)
        assert ids.report(10, 14) == [1, 2, 3, 4]
        ids.set(7)  # nothing is outstanding: whatever was found out
        assert ids.next == 7


@starts
def test_ids_that_are_far_from_each_other_do_not_collide(start: int) -> None:
    """The oldest is reported last, and would share entries with many."""
    with Ids(start) as ids:
        ids.own(1)
        for i in range(1, 1000):
            ids.own(i + 1)
            if i % 3:
                assert ids.report(start + i, start + i) == [i + 1]
        assert ids.outstanding == 334
        assert ids.report(start, start + 999) == [i + 1 for i in range(0, 1000, 3)]


@starts
def test_the_table_of_ids_grows(start: int) -> None:
    with Ids(start) as ids:
        ids.own(1, 2)
        ids.own(*range(3, 503))
        assert ids.report(start, start + 501) == list(range(1, 503))


@starts
def test_a_range_is_clipped_to_outstanding_ids(start: int) -> None:
    with Ids(start) as ids:
        ids.own(1, 2, 3)
        assert ids.clip(start - 2**31 + 10, start + 1) == (start % WRAP, (start + 1) % WRAP)
        assert ids.report(start, start + 1) == [1, 2]
        assert ids.clip(start - 2**30, start + 2) == ((start + 2) % WRAP,) * 2
        assert ids.report(start + 2, start + 2) == [3]
        assert ids.clip(start - 2**30, start + 2) is None
        ids.doubt()
        assert ids.clip(start, start + 2**30) is None  # of failed sends, as far as anybody knows


# -- against a model


def play(steps: list[Step], start: int, found: Callable[[int], int] = lambda number: number) -> None:
    """A kernel that gives numbers, and reports each once. `found`: what is learned of its counter."""
    owners: dict[int, int] = {}
    unreported: list[int] = []
    following, key = start, 0
    with Ids(start) as ids:
        for step, a, b in steps:
            if step == "send":
                keys = range(key + 1, key + 1 + a)
                ids.own(*keys)
                owners.update(zip(range(following, following + a), keys, strict=True))
                unreported += range(following, following + a)
                key, following = key + a, following + a
            elif step == "fail":
                ids.doubt()
                unreported += range(following, following + a)
                following += a
                ids.set(found(following))
            elif unreported:
                first = last = unreported[a % len(unreported)]
                while last + 1 in unreported and last - first < b:
                    last += 1
                unreported = [number for number in unreported if not first <= number <= last]
                settled = [owners.pop(i) for i in range(first, last + 1) if i in owners]
                assert ids.report(first, last) == settled
            assert ids.outstanding == len(owners)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 40), st.just(0)),
        st.tuples(st.just("fail"), st.integers(0, 3), st.just(0)),
        st.tuples(st.just("report"), st.integers(0, 200), st.integers(0, 100)),
    ),
    max_size=60,
)


@given(steps, st.sampled_from([0, 77, WRAP - 1, WRAP - 100, 2**31 - 50]))
def test_ids_agree_with_a_model(steps: list[Step], start: int) -> None:
    play(steps, start)


@pytest.mark.parametrize("fault", [-1, 1])
def test_control_a_counter_off_by_one_differs_from_the_model(fault: int) -> None:
    @settings(phases=[Phase.generate])
    @given(steps)
    def search(steps: list[Step]) -> None:
        play(steps, 0, lambda number: number + fault)

    with pytest.raises(AssertionError):
        search()


# -- guesses


@starts
def test_a_right_guess_is_confirmed_by_the_first_report(start: int) -> None:
    with Ids(start) as ids:
        for _ in range(2):
            number = ids.next
            assert number is not None
            ids.guess()
            ids.own(1, 2, 3)
            assert ids.report(number, number) == [1]
            assert ids.report(number + 2, number + 2) == [3]  # in any order, after that
            assert not ids.disbelieved
            assert ids.report(number + 1, number + 1) == [2]


@starts
@pytest.mark.parametrize("more", [1, 3, 2**31])
def test_a_wrong_guess_releases_nothing(start: int, more: int) -> None:
    with Ids(start) as ids:
        ids.guess()
        ids.own(*range(1, 6))
        right = start + more
        assert ids.report(right, right) == []
        assert ids.disbelieved
        assert ids.next is None  # no more zero-copy sends, so that it comes to an end
        assert ids.report(right + 1, right + 3) == ids.report(right + 4, right + 4) == []
        assert ids.take_all() == [1, 2, 3, 4, 5]
        assert not ids.disbelieved
        ids.guess()
        assert ids.next == (right + 5) % WRAP
        ids.own(6)
        assert ids.report(right + 5, right + 5) == [6]


def test_a_guess_that_the_order_contradicts_is_wrong() -> None:
    with Ids(0) as ids:
        ids.guess()
        ids.own(1, 2)
        assert ids.report(1, 1) == ids.report(0, 0) == []
        assert ids.take_all() == [1, 2]
        assert ids.next == 2


def test_reports_of_others_sends_improve_the_guess() -> None:
    with Ids(0) as ids:
        ids.guess()
        assert ids.report(0, 6) == []
        ids.guess()
        assert ids.next == 7
        ids.own(1)
        ids.guess()  # too late
        assert ids.report(7, 7) == [1]


def test_all_ids_are_released_when_the_kernel_holds_nothing() -> None:
    with Ids(0) as ids:
        ids.own(1, 2)
        assert not ids.disbelieved
        ids.report(0, 5)
        assert ids.disbelieved
        assert ids.take_all() == [1, 2]
        ids.guess()
        assert ids.next is None


def play_guesses(steps: list[Step], begin: Callable[[Ids], None]) -> None:
    """Others send while nothing is outstanding; what is reported may be late, and in any order."""
    owners: dict[int, int] = {}
    reported: set[int] = set()
    unreported: list[int] = []
    following, key = 0, 0
    with Ids(0) as ids:
        for step, a, b in steps:
            if step == "send":
                if not unreported and not ids.outstanding:
                    begin(ids)
                for _ in range(a if ids.next is not None else 0):
                    key += 1
                    ids.own(key)
                    owners[following] = key
                    unreported.append(following)
                    following += 1
            elif step == "others" and not ids.outstanding:
                following += a
            elif unreported:
                first = last = unreported[a % len(unreported) if a > 150 else 0]
                while last + 1 in unreported and last - first < b:
                    last += 1
                unreported = [number for number in unreported if not first <= number <= last]
                reported |= {owners[number] for number in range(first, last + 1)}
                assert set(ids.report(first, last)) <= reported
                if ids.disbelieved and not unreported:
                    assert set(ids.take_all()) <= reported
            assert ids.outstanding == 0 or unreported


guesses = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 9), st.just(0)),
        st.tuples(st.just("others"), st.integers(1, 9), st.just(0)),
        st.tuples(st.just("report"), st.integers(0, 200), st.integers(0, 100)),
    ),
    max_size=60,
)


@given(guesses)
def test_guesses_agree_with_a_model(steps: list[Step]) -> None:
    play_guesses(steps, Ids.guess)


def test_control_an_unverified_guess_differs_from_the_model() -> None:
    @settings(phases=[Phase.generate], max_examples=1000)
    @given(guesses)
    def search(steps: list[Step]) -> None:
        play_guesses(steps, lambda ids: None)

    with pytest.raises(AssertionError):
        search()
