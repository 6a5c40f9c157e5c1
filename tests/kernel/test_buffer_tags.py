"""No notification comes before the registered buffer's tag, which the kernel posts after the last use."""

import ctypes
import mmap
import os
import random
import socket
import struct
from typing import Any

import pytest
from held_memory import ring_fds
from marks import only_io_uring
from traffic import enlarge_sndbuf, stopped

import uringzc
from uringzc import testing

pytestmark = [only_io_uring, testing.requires("net_admin"), pytest.mark.strays]

TAG = 1 << 63  # no request of the library's has a user_data with the top bit
IO_URING_SETUP, IO_URING_REGISTER = 425, 427
REGISTER_BUFFERS_UPDATE = 16


def syscall(*arguments: object) -> int:
    """OSError if it fails."""
    result = int(ctypes.CDLL(None, use_errno=True).syscall(*arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def completion_ring() -> tuple[int, int, int]:
    """Where a ring's memory has the tail of its completion queue, the number of entries, and the entries."""
    params = ctypes.create_string_buffer(120)
    os.close(syscall(IO_URING_SETUP, 1, params))
    _, tail, _, entries, _, cqes = struct.unpack_from("=6I", params, 80)
    return tail, entries, cqes


class Oracle:
    """Tags on a scheduler's regions, set and read behind its back; the library counts them as strays."""

    def __init__(self, before: set[int], s: uringzc.Scheduler) -> None:
        self.engine: Any = s._engine
        self.seen: list[int] = []
        (self.fd,) = ring_fds() - before
        self.tail, entries, self.cqes = completion_ring()
        with mmap.mmap(self.fd, self.cqes, mmap.MAP_SHARED, mmap.PROT_READ) as ring:
            (self.entries,) = struct.unpack_from("=I", ring, entries)
        size = self.cqes + 16 * self.entries
        self.ring = mmap.mmap(self.fd, size, mmap.MAP_SHARED, mmap.PROT_READ)
        self.read = 0  # CQEs

    def __enter__(self) -> "Oracle":
        return self

    def __exit__(self, *_: object) -> None:
        self.ring.close()  # or it keeps the ring from ending
        assert self.engine.slots.stats().stray == len(self.seen)

    def update(self, region: uringzc.Region, address: int, length: int, tag: int) -> None:
        """Fills the region's entry in the table of buffers."""
        assert region._memory is not None
        iovec = ctypes.create_string_buffer(struct.pack("=QQ", address, length))
        tags = ctypes.c_uint64(tag)
        entry = region._memory.buffer, 0, ctypes.addressof(iovec), ctypes.addressof(tags), 1, 0
        update = ctypes.create_string_buffer(struct.pack("=IIQQII", *entry), 32)
        assert syscall(IO_URING_REGISTER, self.fd, REGISTER_BUFFERS_UPDATE, update, 32) == 1

    def arm(self, region: uringzc.Region, tag: int) -> None:
        """Registers the region once more, with a tag."""
        assert region._memory is not None
        self.update(region, region._memory.address, region._memory.length, tag | TAG)

    def ask(self, region: uringzc.Region) -> None:
        """What was submitted is the last use: empties the entry, so that the tag comes after it."""
        self.update(region, 0, 0, 0)

    def tags(self) -> list[int]:
        """The tags that were posted until now."""
        self.engine.poll()
        (tail,) = struct.unpack_from("=I", self.ring, self.tail)
        assert tail - self.read <= self.entries  # none was overwritten
        for at in range(self.read, tail):
            (user_data,) = struct.unpack_from("=Q", self.ring, self.cqes + 16 * (at % self.entries))
            if user_data & TAG:
                self.seen.append(user_data & ~TAG)
        self.read = tail
        return self.seen.copy()


@pytest.fixture
def sock(box: testing.Hold) -> Any:
    with box.socket() as sock:
        enlarge_sndbuf(sock)
        sock.connect(box.address)
        yield sock


def test_the_tag_of_an_unused_buffer_is_posted_at_once(sock: socket.socket) -> None:
    before = ring_fds()
    with uringzc.Scheduler() as s, Oracle(before, s) as oracle:
        s.send(sock, b"a ring that was never used is not looked at", flush=True)
        s.drain()
        region = s.register(4096)
        oracle.arm(region, 7)
        assert oracle.tags() == []
        oracle.ask(region)
        assert oracle.tags() == [7]


def test_the_tag_is_posted_with_the_notification_not_with_the_completions(
    box: testing.Hold, sock: socket.socket
) -> None:
    before = ring_fds()
    with uringzc.Scheduler() as s, Oracle(before, s) as oracle:
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
    before = ring_fds()
    with uringzc.Scheduler() as s, Oracle(before, s) as oracle:
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
    """Notifiers of one region each. What is reported of them is never ahead of the kernel."""
    chance = random.Random(seed)
    slots, notifiers = 3, 60
    regions: dict[tuple[int, int], int] = {}
    flushed = [0] * slots
    before = ring_fds()
    with uringzc.Scheduler(range(slots)) as s, Oracle(before, s) as oracle:
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
        reported = 0
        while reported < notifiers:
            batch = s.reap_notifications(wait=1)
            reported += len(batch)
            tags = oracle.tags()
            for done in batch:
                assert regions[done.slot, done.sequence] in tags
        assert sorted(oracle.tags()) == sorted(regions.values())
