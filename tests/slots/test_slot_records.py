"""Slot accounting without a kernel: which records are kept, how they are read, and counters that wrap."""

import errno
from typing import Any

import pytest
from model import SlotAccounting

from uringzc._uring import ffi, lib
from uringzc.errors import E_COMPLETIONS, E_REQUESTS
from uringzc.notif import Completion, Notification

pytestmark = pytest.mark.engines()
MORE, NOTIF = 1 << 1, 1 << 3

# -- which completions are kept

SENT = [(1, 100), (2, -errno.EMSGSIZE), (3, 0), (4, -errno.EAGAIN)]


@pytest.mark.parametrize(
    ("mode", "kept"), [("all", [1, 2, 3, 4]), ("failed", [2, 4]), ("none", [])], ids=["all", "failed", "none"]
)
def test_which_completions_are_kept(mode: str, kept: list[int]) -> None:
    accounting = SlotAccounting(4, mode)
    for user_data, result in SENT:
        key = accounting.attach(0, user_data)
        accounting.result(key, result, MORE)
        accounting.settle(key, 0, NOTIF)
    accounting.flush(0)
    assert accounting.take_completions() == [Completion(*sent) for sent in SENT if sent[0] in kept]
    assert accounting.take_notifications() == [Notification(0, 0, 0, 4, 100, 0, 2)]
    assert (accounting.stats()["completions"], accounting.stats()["failed"]) == (4, 2)


def raw(accounting: SlotAccounting) -> list[tuple[int, int, int]]:
    out = ffi.new("uzc_completion[16]")
    count = lib.uzc_slots_completions(accounting.pointer, out, 16)
    return [(out[i].user_data, out[i].result, out[i].flags) for i in range(count)]


def test_raw_keeps_every_cqe_as_it_came() -> None:
    accounting = SlotAccounting(4, "raw", tags=None)
    zero_copy = accounting.attach(0, 1)
    failed = accounting.attach(0, 2)
    alone = accounting.attach(0, 3)
    copying = accounting.attach(0, 4, zero_copy=False)
    assert accounting.attach(0, 5) == E_REQUESTS
    accounting.result(zero_copy, 10, MORE)
    accounting.result(failed, -errno.EPIPE, MORE)
    for key in (alone, copying):  # result without F_MORE: settled by it
        accounting.result(key, 30, 0)
        accounting.settle(key, 1)
    accounting.settle(failed, 0, NOTIF)
    accounting.settle(zero_copy, 1, NOTIF)
    assert raw(accounting) == [
        *((1, 10, MORE), (2, -errno.EPIPE, MORE), (3, 30, 0), (4, 30, 0)),
        *((2, 0, NOTIF), (1, -(2**31), NOTIF)),
    ]
    assert sorted(accounting.release()) == [1, 2, 3, 4]  # no notifier to wait for
    assert accounting.stats()["held"] == accounting.stats()["notifications"] == 0


def test_raw_has_room_for_two_cqes_of_each() -> None:
    accounting = SlotAccounting(2, "raw", tags=None)
    for turn in range(2):
        key = accounting.attach(0, turn)
        accounting.result(key, 1, MORE)
        accounting.settle(key, 0, NOTIF)
        accounting.release()
    assert accounting.attach(0, 9) == E_COMPLETIONS
    assert accounting.attach(0, 9, zero_copy=False) == E_COMPLETIONS
    assert len(raw(accounting)) == 4
    key = accounting.attach(0, 9)
    accounting.result(key, 1, 0)  # one CQE after all: the other's room is free again
    accounting.settle(key, 1)
    accounting.release()
    assert accounting.attach(0, 9, zero_copy=False) >= 0
    assert accounting.attach(0, 9) >= 0


def test_a_raw_notification_without_a_result() -> None:
    accounting = SlotAccounting(1, "raw", tags=None)
    accounting.settle(accounting.attach(0, 7), 0, NOTIF)
    assert raw(accounting) == [(7, -errno.ECANCELED, 0), (7, 0, NOTIF)]
    assert accounting.release() == [7]


@pytest.mark.parametrize("mode", ["all", "raw"])
def test_the_ring_of_completions_wraps_and_is_read_in_parts(mode: str) -> None:
    accounting = SlotAccounting(5, mode, tags=None if mode == "raw" else (0,))
    sent, read = 0, []
    out = ffi.new("uzc_completion[8]")
    for room in [3, 1, 2, 5, 0, 4, 1, 1, 3, 2, 5] * 4:
        for _ in range(room):
            key = accounting.attach(0, sent)
            if key < 0:
                break
            accounting.complete(key, sent)
            sent += 1
        if mode == "all":
            accounting.flush(0)
            accounting.take_notifications()
        accounting.release()
        count = lib.uzc_slots_completions(accounting.pointer, out, (room + 1) % 4)
        read += [(out[i].user_data, out[i].result) for i in range(count)]
    read += [(c.user_data, c.result) for c in accounting.take_completions()]
    assert read == [(i, i) for i in range(sent)]
    assert sent > 50


def test_notifications_are_read_in_parts() -> None:
    accounting = SlotAccounting(8, "none", tags=[5])
    for turn in range(8):
        accounting.settle(accounting.attach(0, turn))
        accounting.flush(0)
    accounting.release()
    out = ffi.new("uzc_notification[8]")
    sequences: list[int] = []
    for most in (0, 3, 1, 8, 8):
        count = lib.uzc_slots_notifications(accounting.pointer, out, most)
        sequences += [out[i].sequence for i in range(count)]
    assert sequences == list(range(8))
    assert accounting.stats()["unread_notifications"] == 0


# -- counters that wrap, set near their end where the layout of struct uzc_slots says


def entry(accounting: SlotAccounting, table: int, offset: int) -> Any:
    """A u32 field of the first entry of a table: 0 runs, 1 notifiers, 2 slots."""
    tables = ffi.cast("char **", accounting.pointer)
    return ffi.cast("uint32_t *", tables[table] + offset)


def test_sequences_wrap() -> None:
    accounting = SlotAccounting(8, tags=[0xABCDEF])
    for _ in range(3):
        accounting.settle(accounting.attach(0, 0))
        accounting.flush(0)
    accounting.release()
    sequence = entry(accounting, 2, 8)
    tag = entry(accounting, 2, 0)
    assert (sequence[0], tag[0]) == (3, 0xABCDEF)  # else the layout has changed
    sequence[0] = 0xFFFFFFFE
    for _ in range(4):
        accounting.settle(accounting.attach(0, 0))
        accounting.flush(0)
    sequences = [n.sequence for n in accounting.take_notifications()]
    assert sequences == [0, 1, 2, 0xFFFFFFFE, 0xFFFFFFFF, 0, 1]


def test_generations_of_requests_wrap() -> None:
    accounting = SlotAccounting(1, "none")

    def once() -> int:
        key = accounting.attach(0, 0)
        assert key >= 0
        accounting.complete(key, 1)
        accounting.flush(0)
        accounting.release()
        accounting.take_notifications()
        return key

    assert once() >> 32 == 1
    generation = entry(accounting, 0, 32)
    assert generation[0] == 1  # else the layout has changed
    generation[0] = 0x7FFFFFFE
    keys = [once() for _ in range(4)]
    assert [key >> 32 for key in keys] == [0x7FFFFFFF, 1, 2, 3]  # a key is not negative, nor 0
    assert accounting.stats()["stray"] == 0
    for key in keys:
        assert accounting.result(key, 1) == -errno.ENOENT


def test_generations_of_notifiers_wrap() -> None:
    accounting = SlotAccounting(1, "none")

    def once() -> int:
        key = accounting.attach(0, 0)
        number = accounting.flush(0)
        assert accounting.unsettled(number) == 1
        accounting.complete(key, 1)
        assert accounting.unsettled(number) == 0
        accounting.release()
        accounting.take_notifications()
        return number

    assert once() >> 32 == 1
    generation = entry(accounting, 1, 24)
    assert generation[0] == 2  # else the layout has changed
    generation[0] = 0x7FFFFFFC
    numbers = [once() for _ in range(4)]
    assert [number >> 32 for number in numbers] == [0x7FFFFFFD, 0x7FFFFFFF, 1, 3]
    assert [accounting.unsettled(number) for number in numbers] == [0] * 4
