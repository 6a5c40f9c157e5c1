"""Counters of 32 bits wrap: sequences on every engine, from near the end on.

``make soak ARGS=--limits`` counts all of the 2^32, and those of MSG_ZEROCOPY, which only the kernel counts.
"""

from typing import Any

import pytest
from test_sizes import ALL_ENGINES, scheduler

from proofs.soak import wraps
from uringzc import testing
from uringzc._uring import ffi

pytestmark = testing.requires("net_admin")
WRAP = 1 << 32


def set_sequence(slots: Any, sequence: int, slot: int = 0) -> None:
    """The next one of a slot, where the layout of struct uzc_slots says."""
    entry = ffi.cast("char **", slots.pointer)[2] + 16 * slot
    assert ffi.cast("uint64_t *", entry)[0] == 0xABCDEF  # the tag, else the layout has changed
    ffi.cast("uint32_t *", entry + 8)[0] = sequence


@ALL_ENGINES
def test_sequences_wrap(sink: testing.Sandbox) -> None:
    with sink.socket() as sock, scheduler(sink, tags=[0xABCDEF]) as s:
        sock.connect(sink.address)
        set_sequence(s.slots, WRAP - 3)
        notifiers = []
        for _ in range(6):
            s.send(sock, b"x")
            notifiers.append(s.flush(0))
        assert s.send_run(sock, bytes(6), 1, 6, flush=True) == 6
        s.drain(20)
        expected = [(WRAP - 3 + i) % WRAP for i in range(12)]
        assert sorted(n.sequence for n in s.reap_notifications()) == sorted(expected)
        assert all(notifier is not None and notifier.done for notifier in notifiers)


@pytest.mark.engines
@testing.requires("msg_zerocopy")
@pytest.mark.parametrize("used", [0, 70_000])
def test_an_engine_finds_the_counter_wherever_it_stands(used: int) -> None:
    """What --limits does with nearly 2^32, here with few."""
    seen = wraps.wrap_zero_copy_numbers(lambda _: None, used)
    assert seen == {"zero_copy": 800, "copied": 0, "requests": 800}


@pytest.mark.engines
def test_control_numbers_are_counted(sink: testing.Sandbox) -> None:
    with sink.socket() as tx:
        tx.connect(sink.address)
        sink.offload(scatter_gather=False, checksum=False)
        try:
            numbers = wraps.Numbers(tx)
            numbers.use(1000, lambda _: None)
            tx.sendmsg([b"one more"], [], wraps.MSG_ZEROCOPY)
            with pytest.raises(AssertionError):
                numbers.use(1000, lambda _: None)
        finally:
            sink.offload(scatter_gather=True, checksum=True)


@pytest.mark.engines
@pytest.mark.slow
def test_notifiers_are_counted_as_in_the_proof() -> None:
    wraps.wrap_sequences(lambda _: None, 100_000)


def test_the_layout_is_that_of_a_slot_behind_others(sink: testing.Sandbox) -> None:
    with sink.socket() as sock, scheduler(sink, tags=[1, 0xABCDEF]) as s:
        sock.connect(sink.address)
        set_sequence(s.slots, 77, slot=1)
        s.send(sock, b"x", slot=1, flush=True)
        assert [n.sequence for n in s.reap_notifications(wait=1)] == [77]
