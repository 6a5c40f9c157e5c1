"""The acceptance list of the slot API of July 2022, as its own tests had it, against the real kernel.

Where uringzc's rules differ, uringzc's: a flushing send that fails flushes all the same, and is counted.
"""

import errno
import itertools
import random
import socket
from collections.abc import Iterator

import pytest
from conftest import MakePair, Pair
from marks import zero_copy_engines
from raising import raises_errno

import uringzc
from uringzc import testing
from uringzc.notif import MAX_SLOTS

TAGS = [10000 + i for i in range(5)]


@pytest.fixture
def s() -> Iterator[uringzc.Scheduler]:
    with uringzc.Scheduler(TAGS) as scheduler:
        yield scheduler


def sequences(batch: uringzc.Batch[uringzc.Notification], tag: int) -> list[int]:
    """The sequence numbers of one tag, in order of their size: notifications may come in any order."""
    return sorted(n.sequence for n in batch if n.tag == tag)


def test_slots_are_registered_once(s: uringzc.Scheduler) -> None:  # 1
    with raises_errno(errno.EBUSY, "slots"):
        s.slots.register(TAGS)
    s.slots.unregister()
    assert len(s.slots) == 0
    with raises_errno(errno.ENXIO, "slots"):
        s.slots.unregister()
    for tags in ([], list(range(32769))):
        with raises_errno(errno.EINVAL, "1 to 32768"):
            s.slots.register(tags)
    s.slots.register(range(32768))
    assert len(s.slots) == 32768


def test_close_flushes_open_slots(udp_pair: Pair) -> None:  # 1
    with uringzc.Scheduler(TAGS) as s:
        s.send(udp_pair.tx, b"x", slot=3)
    assert [(n.tag, n.sequence) for n in s.reap_notifications()] == [(TAGS[3], 0)]


def test_a_slot_out_of_range_is_refused(s: uringzc.Scheduler, udp_pair: Pair) -> None:  # 2
    for slot in (5, 6, 1 << 31):
        with raises_errno(errno.EINVAL, "slot does not exist"):
            s.send(udp_pair.tx, b"x", slot=slot)
    assert s.stats.requests == 0


def test_nothing_comes_before_a_flush(s: uringzc.Scheduler, udp_pair: Pair) -> None:  # 3
    s.send(udp_pair.tx, b"x", slot=1, user_data=7)
    s.drain()
    assert list(s.reap_completions()) == [(7, 1)]
    assert list(s.reap_notifications(wait=1)) == []  # and no wait: none can come
    s.flush(1)
    assert sequences(s.reap_notifications(wait=1), TAGS[1]) == [0]


def test_sequences_count_slots_not_requests(s: uringzc.Scheduler, udp_pair: Pair) -> None:  # 4
    chosen = [random.Random(4).randrange(5) for _ in range(25)]
    for slot in chosen:
        s.send(udp_pair.tx, b"x", slot=slot, flush=True)
    assert len(s.reap_completions(wait=25)) == 25
    got = s.reap_notifications(wait=25)
    for slot in range(5):
        assert sequences(got, TAGS[slot]) == list(range(chosen.count(slot)))
    s.drain()
    assert not s.reap_completions()
    assert not s.reap_notifications()


def test_many_requests_have_one_notification(udp_pair: Pair) -> None:  # 5
    with uringzc.Scheduler(TAGS, completions="failed") as s:
        for i in range(105):
            s.send(udp_pair.tx, b"x", slot=i % 5)
        s.drain()
        assert not s.reap_notifications()
        for slot in range(5):
            s.send(udp_pair.tx, b"x", slot=slot, flush=True)
        got = s.reap_notifications(wait=5)
        assert sorted((n.tag, n.sequence, n.requests, n.nbytes) for n in got) == [
            (tag, 0, 22, 22) for tag in TAGS
        ]
        assert not s.reap_completions()
        s.drain()
        assert not s.reap_notifications()
    assert len(udp_pair.receive(110)) == 110


def test_each_flush_of_a_slot_has_a_notification(udp_pair: Pair) -> None:  # 6
    with uringzc.Scheduler(TAGS, completions="none") as s:
        assert s.send_run(udp_pair.tx, bytearray(150), 1, 150, slot=2, flush=True) == 150
        assert sequences(s.reap_notifications(wait=150), TAGS[2]) == list(range(150))


@pytest.mark.parametrize(
    ("first", "count", "code"),
    [
        (5, 1, errno.EINVAL),
        (4, 2, errno.EINVAL),
        (0, 6, errno.EINVAL),
        (1 << 31, 1 << 31, errno.EOVERFLOW),
        (1, (1 << 32) - 1, errno.EOVERFLOW),
    ],
)
def test_an_update_out_of_range_flushes_nothing(
    s: uringzc.Scheduler, udp_pair: Pair, first: int, count: int, code: int
) -> None:  # 7
    s.send(udp_pair.tx, b"x", slot=4)
    with pytest.raises(OSError, match=r".") as error:
        s.slots.update(first, count, 1)
    assert error.value.errno == code
    s.drain()
    assert not s.reap_notifications()  # nothing was flushed


def test_update_flushes_slots_and_changes_tags(s: uringzc.Scheduler, udp_pair: Pair) -> None:  # 8
    def attach(*slots: int) -> None:
        for slot in slots:
            s.send(udp_pair.tx, b"x", slot=slot)

    attach(0, 4)
    s.slots.update(0, 1)  # the first
    s.slots.update(4, 1)  # the last
    assert sorted((n.tag, n.sequence) for n in s.reap_notifications(wait=2)) == [(TAGS[0], 0), (TAGS[4], 0)]
    s.slots.update(1, 1, 99)  # one without requests: skipped, and its tag stays
    assert not s.reap_notifications(wait=1)
    attach(1, 3)
    s.slots.update(1, 3, 77)  # a range, with a new tag for what comes next; 2 is skipped
    got = sorted((n.tag, n.sequence) for n in s.reap_notifications(wait=2))
    assert got == [(TAGS[1], 0), (TAGS[3], 0)]
    attach(1, 2, 3)
    s.slots.update(0, 5)
    last = sorted((n.tag, n.sequence, n.slot) for n in s.reap_notifications(wait=3))
    assert last == [(77, 1, 1), (77, 1, 3), (TAGS[2], 0, 2)]


def test_sequences_restart_with_a_new_registration(s: uringzc.Scheduler, udp_pair: Pair) -> None:  # 9
    for tags, flushes in (([1, 2], 3), ([3, 4], 2), ([5, 6], 5)):
        s.slots.unregister()
        s.slots.register(tags)
        for _ in range(flushes):
            s.send(udp_pair.tx, b"x", slot=1, flush=True)
        assert sequences(s.reap_notifications(wait=flushes), tags[1]) == list(range(flushes))
    s.send(udp_pair.tx, b"x", slot=0)
    s.slots.unregister()  # flushes, and returns at once; the notification still comes, with its tag
    assert [(n.tag, n.sequence) for n in s.reap_notifications(wait=1)] == [(5, 0)]


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize("so_zerocopy", [False, True])
def test_every_kind_of_udp_send_is_notified(
    make_udp: MakePair, family: int, connected: bool, so_zerocopy: bool
) -> None:  # 10
    pair = make_udp(family, connected)
    pair.tx.setsockopt(socket.SOL_SOCKET, 60, so_zerocopy)  # SO_ZEROCOPY, which nothing here needs
    sent = []
    with uringzc.Scheduler(TAGS) as s:
        region = s.register(4 * 4096)
        region.view[:] = random.Random(10).randbytes(len(region))
        own = bytearray(region.view)
        cases = itertools.product((True, False), (137, 4096), (0, 41), (True, False))
        for i, (fixed, size, offset, zero_copy) in enumerate(cases):
            s.send(
                *(pair.tx, region if fixed else own),
                offset=offset + 137 * i,
                length=size,
                to=None if connected else pair.rx.getsockname(),
                slot=i % 5,
                user_data=i,
                zero_copy=zero_copy,
            )
            sent.append(bytes(own[offset + 137 * i :][:size]))
        for slot in range(5):
            s.flush(slot)
        assert sorted(s.reap_completions(wait=16)) == [(i, len(data)) for i, data in enumerate(sent)]
        got = s.reap_notifications(wait=5)
        assert sum(n.requests for n in got) == 16
        assert sum(n.nbytes for n in got) == sum(map(len, sent))
        assert pair.receive(16) == sent


def test_a_flushing_send_that_fails_flushes_all_the_same(s: uringzc.Scheduler, make_udp: MakePair) -> None:
    nowhere, good = make_udp(connected=False), make_udp()
    s.send(good.tx, b"good", slot=1, user_data=1)
    s.send(nowhere.tx, b"no destination", slot=1, user_data=2, flush=True)
    s.send(good.tx, b"next", slot=1, user_data=3, flush=True)
    results = {c.user_data: c.result for c in s.reap_completions(wait=3)}
    assert results == {1: 4, 2: -errno.EDESTADDRREQ, 3: 4}
    got = sorted((n.sequence, n.requests, n.nbytes, n.failed) for n in s.reap_notifications(wait=2))
    assert got == [(0, 2, 4, 1), (1, 1, 4, 0)]


@zero_copy_engines
@testing.requires("net_admin")
def test_notifications_wait_for_the_memory(box: testing.Hold, s: uringzc.Scheduler) -> None:
    """Results are one thing and memory another: while the network holds the datagrams, none comes."""
    with box.socket() as sock, box.receiver_socket() as rx:
        sock.connect(box.address)
        box.stop()
        for slot in (0, 1, 0, 1):
            s.send(sock, b"held", slot=slot)
        notifiers = [s.flush(0), s.flush(1)]
        s.submit()
        assert len(s.reap_completions(wait=4)) == 4
        assert not s.reap_notifications()
        assert not any(n.done for n in notifiers if n)
        with pytest.raises(TimeoutError):
            s.drain(0)
        box.release()
        assert sorted((n.tag, n.requests) for n in s.reap_notifications(wait=2)) == [(10000, 2), (10001, 2)]
        assert all(n.done for n in notifiers if n)
        assert [rx.recv(10) for _ in range(4)] == [b"held"] * 4


def test_a_slot_that_is_not_registered_can_not_be_named(udp_pair: Pair) -> None:
    """Slots of senders are numbered from 32,768 on, and only theirs."""
    with uringzc.Scheduler() as s, uringzc.UdpSender(udp_pair.rx.getsockname(), scheduler=s) as tx:
        tx.send(b"x")
        tx.flush()
        before = s.stats
        for slot in (1, MAX_SLOTS - 1, MAX_SLOTS, MAX_SLOTS + 1, 0xFFFFFFFE, 0xFFFFFFFF, 1 << 32, -1):
            for name in (0, 0xFFFF0000FFFFFFFF):
                with pytest.raises(OSError, match="slot") as raised:
                    s.send(udp_pair.tx, b"y", slot=slot, user_data=name)
                assert raised.value.errno == errno.EINVAL
            with raises_errno(errno.EINVAL, "slot"):
                s.flush(slot)
        assert s.stats.requests == before.requests
    assert udp_pair.receive(1) == [b"x"]
    assert udp_pair.empty()
