"""The kernel's own word on when memory is free: a registered buffer's tag is posted after its last use."""

import random
import socket
from typing import Any

import pytest
from helpers import io_uring, room, stopped

import uringzc
from uringzc import testing
from uringzc._uring import ffi, lib
from uringzc.errors import check

pytestmark = [io_uring, testing.requires("net_admin")]


class Oracle:
    """Tags on a scheduler's regions, set and read behind its back."""

    def __init__(self, s: uringzc.Scheduler) -> None:
        self.engine: Any = s._engine
        self.seen: list[int] = []

    def arm(self, region: uringzc.Region, tag: int) -> None:
        """Registers the region once more, with a tag."""
        assert region._memory is not None
        memory = region._memory
        check(lib.uzc_ring_set_buffer(self.engine._native, memory.buffer, memory.address, memory.length, tag))

    def ask(self, region: uringzc.Region) -> None:
        """What was submitted is the last use: empties the entry, so that the tag comes after it."""
        assert region._memory is not None
        check(lib.uzc_ring_set_buffer(self.engine._native, region._memory.buffer, 0, 0, 0))

    def tags(self) -> list[int]:
        """The tags that were posted until now."""
        self.engine.poll()
        out = ffi.new("uint64_t[64]")
        count = lib.uzc_ring_tags(self.engine._native, out, 64)
        self.seen += [out[i] for i in range(count)]
        return self.seen.copy()


@pytest.fixture
def sock(box: testing.Hold) -> Any:
    with box.socket() as sock:
        room(sock)
        sock.connect(box.address)
        yield sock


def test_tag_without_a_use_comes_at_once(sock: socket.socket) -> None:
    with uringzc.Scheduler() as s:
        oracle = Oracle(s)
        s.send(sock, b"a ring that was never used is not looked at", flush=True)
        s.drain()
        region = s.register(4096)
        oracle.arm(region, 7)
        assert oracle.tags() == []
        oracle.ask(region)
        assert oracle.tags() == [7]


def test_tag_comes_with_the_notification_not_with_the_completions(
    box: testing.Hold, sock: socket.socket
) -> None:
    with uringzc.Scheduler() as s:
        oracle = Oracle(s)
        region = s.register(8 * 1400)
        with stopped(box):
            oracle.arm(region, 7)
            assert s.send_run(sock, region, 1400, 8) == 8
            s.flush(0)
            s.submit()
            oracle.ask(region)
            assert [done.result for done in s.reap_completions(wait=8)] == [1400] * 8
            # The control: whoever takes these for the end is wrong, says the kernel.
            assert oracle.tags() == []
            assert len(s.reap_notifications()) == 0
        assert len(s.reap_notifications(wait=1)) == 1
        assert oracle.tags() == [7]


def test_no_tag_while_one_of_many_is_held(box: testing.Hold, sock: socket.socket) -> None:
    """A notifier of two regions: the one that was delivered is free, and the notification waits for both."""
    with uringzc.Scheduler() as s:
        oracle = Oracle(s)
        early, late = s.register(1400), s.register(1400)
        oracle.arm(early, 1)
        oracle.arm(late, 2)
        s.send(sock, early)
        s.submit()
        oracle.ask(early)
        s.drain()
        assert oracle.tags() == [1]
        with stopped(box):
            s.send(sock, late, flush=True)
            s.submit()
            oracle.ask(late)
            assert len(s.reap_completions(wait=2)) == 2
            assert oracle.tags() == [1]
            assert len(s.reap_notifications()) == 0
        assert [done.requests for done in s.reap_notifications(wait=1)] == [2]
        assert oracle.tags() == [1, 2]


@pytest.mark.parametrize("seed", range(5))
def test_no_notification_before_its_tag(box: testing.Hold, sock: socket.socket, seed: int) -> None:
    """Notifiers of one region each. What is told of them is never ahead of the kernel."""
    chance = random.Random(seed)
    slots, notifiers = 3, 60  # the library keeps 64 tags
    regions: dict[tuple[int, int], int] = {}
    flushed = [0] * slots
    with uringzc.Scheduler(range(slots)) as s:
        oracle = Oracle(s)
        made = []
        requests = 0
        with stopped(box):
            for tag in range(1, notifiers + 1):
                size, count = chance.randint(1, 1400), chance.randint(1, 10)
                slot = chance.randrange(slots)
                region = s.register(size * count)
                made.append(region)
                oracle.arm(region, tag)
                assert s.send_run(sock, region, size, count, slot=slot) == count
                s.flush(slot)
                regions[slot, flushed[slot]] = tag
                flushed[slot] += 1
                requests += count
            s.submit()
            for region in made:
                oracle.ask(region)
            assert len(s.reap_completions(wait=requests)) == requests
            assert oracle.tags() == []
            assert len(s.reap_notifications()) == 0
        told = 0
        while told < notifiers:
            batch = s.reap_notifications(wait=1)
            told += len(batch)
            tags = oracle.tags()
            for done in batch:
                assert regions[done.slot, done.sequence] in tags
        assert sorted(oracle.tags()) == sorted(regions.values())
