"""Slot accounting without a kernel: every order of events, stale keys, bounds, registration and the end."""

import errno
import itertools
from collections.abc import Callable, Iterator, Sequence

import pytest
from model import Model, Request, SlotAccounting
from model_programs import SettlesAtResult
from processes import in_thread

from uringzc._uring import ffi, lib
from uringzc.errors import E_CLOSED, E_COMPLETIONS, E_NOTIFICATIONS, E_REQUESTS, E_THREAD
from uringzc.notif import Completion, Notification

pytestmark = pytest.mark.engines()
MORE, NOTIF = 1 << 1, 1 << 3


def orders(events: Sequence[tuple[str, int]]) -> Iterator[tuple[tuple[str, int], ...]]:
    """Every order of the events, each once."""
    return iter(set(itertools.permutations(events)))


def play(
    order: Sequence[tuple[str, int]],
    results: Sequence[int],
    slots: int = 1,
    real: type[SlotAccounting] = SlotAccounting,
) -> tuple[int, int]:
    """The same events to the model and to the C code, which must always agree. Returns posted, stray."""
    model, accounting = Model(8, tags=range(7, 7 + slots)), real(8, tags=range(7, 7 + slots))
    pairs: list[tuple[Request, int]] = []
    for index in range(len(results)):
        request = model.attach(index % slots, index)
        assert isinstance(request, Request)
        pairs.append((request, accounting.attach(index % slots, index)))
    for what, index in order:
        if what == "flush":
            assert (model.flush(index) is not None) == (accounting.flush(index) != 0)
        elif what == "result":
            before = model.stray
            model.result(pairs[index][0], results[index])
            code = accounting.result(pairs[index][1], results[index])
            assert code == (-errno.ENOENT if model.stray > before else 0)
        elif what == "settle":
            model.settle(pairs[index][0], index % 2)
            accounting.settle(pairs[index][1], index % 2)
        assert accounting.stats() == model.stats()
        assert sorted(accounting.release()) == sorted(model.release())
    assert accounting.take_completions() == model.take_completions()
    assert accounting.take_notifications() == model.take_notifications()
    return model.stats()["notifications"], model.stray


def test_every_order_of_two_requests_and_a_flush() -> None:
    """Also the orders that no kernel should produce: a notification before the result."""
    events = [("result", 0), ("settle", 0), ("result", 1), ("settle", 1), ("flush", 0), ("flush", 0)]
    seen = {play(order, (1400, -errno.EMSGSIZE)) for order in orders(events)}
    assert seen == {(1, 0), (1, 2), (1, 4)}  # an early notification, and then the result, are a stray each


@pytest.mark.slow
def test_every_order_of_three_requests_in_two_slots() -> None:
    events = [(what, index) for index in range(3) for what in ("result", "settle")]
    lawful = 0
    for order in orders([*events, ("flush", 0)]):
        posted, stray = play([*order, ("flush", 1)], (10, -errno.EPIPE, 0), slots=2)
        assert posted == 2
        lawful += stray == 0
    assert lawful == 5040 // 2**3  # all those in which every result came before its notification


def test_every_order_of_repeated_events() -> None:
    events = [("result", 0), ("result", 0), ("settle", 0), ("settle", 0), ("flush", 0), ("flush", 0)]
    for order in orders(events):
        posted, stray = play(order, (1,))
        assert posted == 1
        assert stray >= 2  # the second of each


def test_control_accounting_that_settles_at_the_result_is_found() -> None:
    """The control: accounting without the protection differ from the model."""
    lawful = [("flush", 0), ("result", 0), ("settle", 0)]
    assert play(lawful, (1,)) == (1, 0)
    with pytest.raises(AssertionError):
        play(lawful, (1,), real=SettlesAtResult)


def test_nothing_is_posted_before_the_flush() -> None:
    accounting = SlotAccounting(4)
    key = accounting.attach(0, 1)
    accounting.complete(key, 5)
    assert accounting.take_notifications() == []
    assert accounting.release() == []
    number = accounting.flush(0)
    assert accounting.unsettled(number) == 0
    assert accounting.take_notifications() == [Notification(0, 0, 0, 1, 5, 0, 0)]
    assert accounting.release() == [1]
    assert accounting.take_notifications() == []


def test_unsettled_counts_down_to_zero_for_good() -> None:
    accounting = SlotAccounting(4)
    keys = [accounting.attach(0, i) for i in range(3)]
    number = accounting.flush(0)
    left = [accounting.unsettled(number)]
    for key in keys:
        accounting.complete(key, 1)
        left.append(accounting.unsettled(number))
    assert left == [3, 2, 1, 0]
    accounting.release()
    accounting.take_notifications()
    again = accounting.attach(0, 9)  # the same entries again
    second = accounting.flush(0)
    assert second != number
    assert accounting.unsettled(number) == 0
    assert accounting.unsettled(second) == 1
    accounting.complete(again, 1)
    assert accounting.unsettled(second) == 0


@pytest.mark.parametrize("copied", list(itertools.product([0, 1, -1], repeat=2)))
def test_copied_is_unknown_if_one_is_and_ignores_failures(copied: tuple[int, int]) -> None:
    accounting = SlotAccounting(4)
    for result, word in [(10, copied[0]), (20, copied[1]), (-errno.EMSGSIZE, 1), (-errno.EFAULT, -1)]:
        key = accounting.attach(0, 0)
        accounting.result(key, result)
        accounting.settle(key, word)
    accounting.flush(0)
    expected = -1 if -1 in copied else sum(copied)
    assert accounting.take_notifications() == [Notification(0, 0, 0, 4, 30, expected, 2)]
    assert accounting.stats()["copied"] == 10 * (copied[0] == 1) + 20 * (copied[1] == 1)


# -- keys


def test_stale_keys_are_counted_and_change_nothing() -> None:
    accounting = SlotAccounting(1)
    stale: list[int] = []
    for turn in range(5):
        key = accounting.attach(0, turn)
        for old in stale:
            assert accounting.result(old, 99) == accounting.settle(old) == -errno.ENOENT
        assert accounting.result(key, turn) == 0
        assert accounting.settle(key) == 0
        assert accounting.result(key, 99) == accounting.settle(key) == -errno.ENOENT  # settled
        accounting.flush(0)
        assert accounting.result(key, 99) == accounting.settle(key) == -errno.ENOENT  # posted
        assert accounting.release() == [turn]
        assert accounting.result(key, 99) == accounting.settle(key) == -errno.ENOENT  # free
        assert accounting.take_completions() == [Completion(turn, turn)]
        assert accounting.take_notifications() == [Notification(0, turn, 0, 1, turn, 0, 0)]
        stale.append(key)
    assert len(set(stale)) == 5
    assert accounting.stats()["stray"] == 5 * 6 + 2 * (0 + 1 + 2 + 3 + 4)
    assert accounting.stats()["in_flight"] == 0


@pytest.mark.parametrize("index", [0, 1, 2, 3, 4, 1000, 0xFFFFFFFE, 0xFFFFFFFF])
@pytest.mark.parametrize("generation", [0, 1, 2, 0x7FFFFFFF, 0x80000001, 0xFFFFFFFF])
def test_invented_keys_are_counted(index: int, generation: int) -> None:
    accounting = SlotAccounting(4)
    real = [accounting.attach(0, i) for i in range(2)]
    invented = generation << 32 | index
    known = invented in real
    assert accounting.result(invented, 1) == (0 if known else -errno.ENOENT)
    assert accounting.settle(invented) == (0 if known else -errno.ENOENT)
    assert accounting.stats()["stray"] == (0 if known else 2)
    assert accounting.stats()["in_flight"] == 2 - known


def test_a_completion_of_an_entrys_previous_request_is_ignored() -> None:
    """Why keys have generations: the control is the same test without them."""

    def late(key: Callable[[int, int], int]) -> list[Notification]:
        accounting = SlotAccounting(1, "none")
        first = accounting.attach(0, 1)
        accounting.complete(first, -errno.ECANCELED)
        accounting.flush(0)
        accounting.release()
        accounting.take_notifications()
        second = accounting.attach(0, 2)
        accounting.result(second, 1400)
        accounting.flush(0)
        accounting.settle(key(first, second))  # an orphan: the kernel speaks of the first once more
        return accounting.take_notifications()

    assert late(lambda first, second: first) == []
    assert late(lambda first, second: first & 0xFFFFFFFF | second & ~0xFFFFFFFF) != []


# -- bounds


def test_the_table_is_full_until_references_are_released() -> None:
    accounting = SlotAccounting(3, completions="none")
    keys = [accounting.attach(0, i) for i in range(3)]
    assert accounting.attach(0, 9) == E_REQUESTS
    for key in keys:
        accounting.complete(key, 1)
        assert accounting.attach(0, 9) == E_REQUESTS  # settled, and held: its notifier was not posted
    accounting.flush(0)
    assert accounting.attach(0, 9) == E_REQUESTS  # posted, and its references are still here
    assert accounting.release() == [0, 1, 2]
    assert accounting.attach(0, 9) >= 0
    assert accounting.stats()["requests"] == 4


@pytest.mark.parametrize("mode", ["all", "failed"])
def test_unread_and_awaited_completions_are_bounded(mode: str) -> None:
    accounting = SlotAccounting(2, mode)

    def one(result: int) -> int:
        key = accounting.attach(0, 0)
        if key >= 0:
            accounting.complete(key, result)
            accounting.flush(0)
            accounting.release()
            accounting.take_notifications()
        return key

    assert one(-errno.EPIPE) >= 0
    assert one(-errno.EPIPE) >= 0
    assert one(0) == E_COMPLETIONS
    accounting.take_completions()
    for _ in range(2):
        assert one(0) >= 0
    assert one(0) == E_COMPLETIONS if mode == "all" else one(0) >= 0
    accounting.take_completions()
    assert accounting.attach(0, 0) >= 0
    assert accounting.attach(0, 0) >= 0  # two are to come
    assert accounting.attach(0, 0) == E_REQUESTS


def test_awaited_completions_count_with_unread_ones() -> None:
    accounting = SlotAccounting(2)
    done = accounting.attach(0, 0)
    accounting.complete(done, 1)
    accounting.flush(0)
    accounting.release()
    assert accounting.attach(0, 1) >= 0
    assert accounting.attach(0, 2) == E_COMPLETIONS
    accounting.take_completions()
    assert accounting.attach(0, 2) >= 0


def test_open_pending_and_unread_notifiers_are_bounded() -> None:
    accounting = SlotAccounting(3, "none", tags=range(4))
    first = accounting.attach(0, 0)
    accounting.complete(first, 1)
    accounting.flush(0)
    assert accounting.release() == [0]  # one unread
    accounting.attach(1, 1)
    accounting.flush(1)  # one pending
    accounting.attach(2, 2)  # one open
    assert accounting.stats()["unread_notifications"] == 1
    assert accounting.attach(3, 3) == E_NOTIFICATIONS
    assert accounting.attach(2, 3) >= 0  # into the open one
    assert accounting.stats()["open"] == 1
    assert len(accounting.take_notifications()) == 1
    assert accounting.attach(3, 3) == E_REQUESTS


def test_a_refused_request_takes_no_sequence_number() -> None:
    accounting = SlotAccounting(1)
    key = accounting.attach(0, 0)
    accounting.complete(key, 1)
    accounting.flush(0)
    assert accounting.attach(0, 1) == E_REQUESTS
    accounting.release()
    assert accounting.attach(0, 1) == E_COMPLETIONS
    accounting.take_completions()
    assert accounting.attach(0, 1) == E_NOTIFICATIONS
    assert accounting.attach(1, 1) == -errno.EINVAL
    accounting.take_notifications()
    key = accounting.attach(0, 1)
    accounting.complete(key, 1)
    accounting.flush(0)
    assert [n.sequence for n in accounting.take_notifications()] == [1]


@pytest.mark.parametrize("slots", [1, 32768])
def test_slot_indices_out_of_range_are_refused(slots: int) -> None:
    accounting = SlotAccounting(2, tags=range(slots))
    assert len(accounting.slots) == slots
    assert accounting.attach(slots - 1, 0) >= 0
    for wrong in (slots, 0x10000, 0xFFFFFFFE, 0xFFFFFFFF):
        assert accounting.attach(wrong, 0) == accounting.flush(wrong) == -errno.EINVAL
    assert accounting.stats()["requests"] == 1


def test_one_to_32768_slots_can_be_registered() -> None:
    accounting = SlotAccounting(1, tags=None)
    assert accounting.register([]) == accounting.register(range(32769)) == -errno.EINVAL
    assert accounting.attach(0, 0) == -errno.EINVAL
    assert accounting.unregister() == -errno.ENXIO
    assert accounting.register(range(32768)) == 0
    assert accounting.register([1]) == -errno.EBUSY
    assert SlotAccounting(1, "raw", tags=None).register([1]) == -errno.EINVAL


# -- registration and the end


def test_unregister_flushes_and_a_new_registration_starts_at_zero() -> None:
    accounting = SlotAccounting(8, tags=[10, 11, 12])
    first = [accounting.attach(slot, slot) for slot in (0, 2)]
    assert accounting.unregister() == 0
    assert len(accounting.slots) == 0
    assert accounting.attach(0, 9) == -errno.EINVAL
    assert accounting.register([20]) == 0
    second = accounting.attach(0, 3)
    accounting.flush(0)
    for key in [second, *reversed(first)]:
        accounting.complete(key, 1)
    assert [n[:3] for n in accounting.take_notifications()] == [(20, 0, 0), (12, 0, 2), (10, 0, 0)]


def test_update_flushes_slots_and_changes_tags() -> None:
    accounting = SlotAccounting(16, "none", tags=[10, 11, 12, 13, 14])

    def use(*slots: int) -> None:
        for slot in slots:
            accounting.settle(accounting.attach(slot, slot))

    def posted() -> list[tuple[int, ...]]:
        accounting.release()
        return [n[:3] for n in accounting.take_notifications()]  # tag, sequence, slot

    use(0, 2, 4)
    assert accounting.update(1, 3, 99) == 0
    assert posted() == [(12, 0, 2)]
    use(1, 2, 3)
    assert accounting.update(0, 5) == 0
    assert posted() == [(10, 0, 0), (11, 0, 1), (99, 1, 2), (13, 0, 3), (14, 0, 4)]  # 1 and 3 kept their tags
    for first, count, code in [
        (5, 1, errno.EINVAL),
        (0, 6, errno.EINVAL),
        (4, 2, errno.EINVAL),
        (6, 0, errno.EINVAL),
        (0xFFFFFFFF, 1, errno.EOVERFLOW),
        (1, 0xFFFFFFFF, errno.EOVERFLOW),
        (0xFFFFFFFE, 1, errno.EINVAL),
    ]:
        use(0)
        assert accounting.update(first, count, 7) == -code
        assert posted() == []
    assert accounting.update(5, 0, 7) == accounting.update(0, 0, 7) == 0
    assert posted() == []
    assert accounting.update(0, 1, 0) == 0
    use(0)
    accounting.flush(0)
    assert posted() == [(10, 1, 0), (0, 2, 0)]  # 0 is a tag like any other


def test_close_flushes_and_takes_no_more() -> None:
    accounting = SlotAccounting(4, tags=[1, 2])
    keys = [accounting.attach(slot, slot) for slot in (0, 1, 0)]
    lib.uzc_slots_close(accounting.pointer)
    lib.uzc_slots_close(accounting.pointer)
    assert lib.uzc_slots_check(accounting.pointer) == E_CLOSED
    assert accounting.flush(0) == accounting.update(0, 1) == accounting.unregister() == E_CLOSED
    for key in keys:
        accounting.complete(key, 1)
    assert [n[:4] for n in accounting.take_notifications()] == [(2, 0, 1, 1), (1, 0, 0, 2)]
    assert len(accounting.take_completions()) == 3
    assert sorted(accounting.release()) == [0, 0, 1]


def test_another_thread_is_refused_once_there_is_an_owner() -> None:
    accounting = SlotAccounting(4)
    codes: list[int] = []

    def elsewhere() -> None:
        codes.append(accounting.flush(0))
        codes.append(lib.uzc_slots_is_owner(accounting.pointer))
        codes.append(lib.uzc_slots_claim(accounting.pointer))
        codes.append(lib.uzc_slots_completions(accounting.pointer, ffi.NULL, 0))

    for expected in ([0, 1, 0, 0], [E_THREAD, 0, E_THREAD, E_THREAD]):
        in_thread(elsewhere)
        assert codes == expected
        codes.clear()
    assert accounting.flush(0) == E_THREAD


def test_the_age_of_the_oldest_request_in_flight() -> None:
    accounting = SlotAccounting(4)
    assert lib.uzc_slots_oldest(accounting.pointer, 1000) == 0
    keys = []
    for now in (0xFFFFFF00, 50):
        lib.uzc_slots_clock(accounting.pointer, now)
        keys.append(accounting.attach(0, 0))
    assert lib.uzc_slots_oldest(accounting.pointer, 100) == 356  # the clock has wrapped
    accounting.result(keys[0], 1)
    assert lib.uzc_slots_oldest(accounting.pointer, 100) == 356  # a result does not end it
    accounting.settle(keys[0])
    assert lib.uzc_slots_oldest(accounting.pointer, 100) == 50
    accounting.settle(keys[1])
    assert lib.uzc_slots_oldest(accounting.pointer, 100) == 0
