"""Memory of trains to many destinations and of groups: unchanged until the last request that uses it is done.

The same as test_udp_wire.py has for one train at a time. A payload of a group is in one place for all of its
members: that place is used again when all of them are done, which the last tests are about, with a control
that takes the uses away.
"""

import ctypes
import os
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import Any, NamedTuple

import pytest
from held_memory import block_refs
from marks import zero_copy_engines
from traffic import datagram, stopped

from uringzc import SendError, UdpSender, testing
from uringzc.engines.attached import MIN_ARENA
from uringzc.testing.receiving import make_room

pytestmark = testing.requires("net_admin")

PLACES = 6
LARGE = 20_000  # sent from where it is, if it cannot change
WARM_UP = 2  # datagrams to each destination before a test
Address = tuple[str, int]
Sent = list[list[bytes]]
Path = Callable[[UdpSender, list[Address]], Sent]


def scribble(memory: bytearray) -> None:
    memory[:] = b"\xff" * len(memory)


def in_turn(s: UdpSender, to: list[Address]) -> Sent:
    """Each destination has an open train; all of them grow."""
    sent: Sent = [[] for _ in to]
    for i in range(600):
        data = datagram(i, 1200)
        mutable = bytearray(data)
        s.send(mutable, to[i % len(to)])
        sent[i % len(to)].append(data)
        scribble(mutable)
    return sent


def at_random(s: UdpSender, to: list[Address]) -> Sent:
    """Sizes and destinations change: trains end, grow, and lie anywhere."""
    sent: Sent = [[] for _ in to]
    chance = random.Random(4)
    for i in range(800):
        where = chance.choice((0, 0, 1, 1, 2, 3, 4, 5))
        data = datagram(i, chance.choice((200, 700, 700, 1200, 1200, 1200, LARGE if i % 50 == 0 else 64)))
        mutable = bytearray(data)
        s.sendto(mutable, to[where])
        sent[where].append(data)
        scribble(mutable)
    return sent


def paired(s: UdpSender, to: list[Address]) -> Sent:
    """By send_many, with an address for each."""
    mutable = [bytearray(datagram(i, 1000)) for i in range(400)]
    where = [i * 5 % 7 % len(to) for i in range(400)]
    assert s.send_many(mutable, [to[i] for i in where]) == 400
    for data in mutable:
        scribble(data)
    sent: Sent = [[] for _ in to]
    for i in range(400):
        sent[where[i]].append(datagram(i, 1000))
    return sent


def among_leases(s: UdpSender, to: list[Address]) -> Sent:
    """Leases are filled while trains grow beside them."""
    sent: Sent = [[] for _ in to]
    for i in range(300):
        data, other = datagram(i, 1100), datagram(1000 + i, 1100)
        lease = s.lease(1200)
        s.send(other, to[i % 3])
        lease.view[:1100] = data
        lease.send(1100, to[i % len(to)])
        sent[i % 3].append(other)
        sent[i % len(to)].append(data)
    return sent


def to_a_group(s: UdpSender, to: list[Address]) -> Sent:
    group = s.group(to)
    expected = [datagram(i, 1200 if i < 250 else 333) for i in range(300)]
    for data in expected:
        mutable = bytearray(data)
        assert group.send(mutable) == len(data)
        scribble(mutable)
    return [expected for _ in to]


def many_to_a_group(s: UdpSender, to: list[Address]) -> Sent:
    def give() -> Iterator[bytearray]:
        mutable = bytearray(1100)
        for i in range(300):
            mutable[:] = datagram(i, 1100)
            yield mutable
            scribble(mutable)

    assert s.group(to).send_many(give()) == 300
    return [[datagram(i, 1100) for i in range(300)] for _ in to]


def to_overlapping_groups(s: UdpSender, to: list[Address]) -> Sent:
    """Three groups, and single datagrams to members among them; a few times each, so that trains form."""
    sent: Sent = [[] for _ in to]
    members = [[0, 1, 2, 3], [2, 3, 4, 5], [0, 5]]
    groups = [s.group([to[i] for i in each]) for each in members]
    for i in range(400):
        data = datagram(i, 1200 if i % 40 else 500)
        mutable = bytearray(data)
        turn = i // 10 % 4
        if turn == 3:
            where = [i // 40 % len(to)]
            s.send(mutable, to[where[0]])
        else:
            where = members[turn]
            groups[turn].send(mutable)
        for each in where:
            sent[each].append(data)
        scribble(mutable)
    return sent


def large_to_a_group(s: UdpSender, to: list[Address]) -> Sent:
    """From where it is: the sender alone keeps it. What can change is copied, once."""
    group = s.group(to)
    mutable = bytearray(LARGE)
    for i in range(5):
        group.send(datagram(i, LARGE))
        mutable[:] = datagram(100 + i, LARGE)
        group.send(mutable)
        scribble(mutable)
    return [[datagram(100 * (i % 2) + i // 2, LARGE) for i in range(10)] for _ in to]


def to_a_group_that_is_dropped(s: UdpSender, to: list[Address]) -> Sent:
    group = s.group(to)
    for i in range(100):
        group.send(bytearray(datagram(i, 1000)))
    del group
    return [[datagram(i, 1000) for i in range(100)] for _ in to]


def to_members_that_come_and_go(s: UdpSender, to: list[Address]) -> Sent:
    """What was sent to a member arrives, also when it has left the group."""
    sent: Sent = [[] for _ in to]
    group = s.group(to[:3])
    members = {0, 1, 2}
    for i in range(120):
        data = datagram(i, 900)
        group.send(data)
        for each in members:
            sent[each].append(data)
        if i % 10 == 5:
            group.remove(to[i // 10 % len(to)]) if i // 10 % len(to) in members else None
            members.discard(i // 10 % len(to))
        if i % 10 == 9:
            group.add(to[i // 5 % len(to)])
            members.add(i // 5 % len(to))
    return sent


PATHS: list[Path] = [
    in_turn,
    at_random,
    paired,
    among_leases,
    to_a_group,
    many_to_a_group,
    to_overlapping_groups,
    large_to_a_group,
    to_a_group_that_is_dropped,
    to_members_that_come_and_go,
]


class Wire(NamedTuple):
    """A sender whose destinations are known, and their receivers."""

    s: UdpSender
    to: list[Address]
    receivers: list[testing.Receiver]

    def arrived(self, sent: Sent, before: int = 0) -> None:
        """All of it, in order, and nothing else."""
        for rx, expected in zip(self.receivers, sent, strict=True):
            came = rx.wait(WARM_UP + before + len(expected), 20)[WARM_UP + before :]
            assert list(map(len, came)) == list(map(len, expected))
            assert [i for i in range(len(came)) if came[i] != expected[i]] == []

    def warm_up(self) -> None:
        """The second time it is found that the first datagram has arrived."""
        for count in range(1, WARM_UP + 1):
            for address in self.to:
                self.s.send(b"warm-up", address)
            self.s.drain()
            for rx in self.receivers:
                rx.wait(count)


@contextmanager
def wire(box: testing.Hold, mtu: int = 1500, arena: int = 4 << 20, **options: Any) -> Iterator[Wire]:
    if os.environ["URINGZC_ENGINE"] == "msg_zerocopy":  # or "auto" would copy most of this
        options["zero_copy"] = "always"
    with ExitStack() as stack:
        box.set_mtu(mtu)
        stack.callback(box.set_mtu, 1500)
        sockets = [box.receiver_socket(port=testing.PORT + i) for i in range(PLACES)]
        receivers = [stack.enter_context(testing.receiver(sock=sock)) for sock in sockets]
        sock = stack.enter_context(closing(box.socket()))
        make = partial(UdpSender, sock=sock, arena=arena, debug=False, max_delay=None, **options)
        s = stack.enter_context(box.run(make))
        made = Wire(s, [rx.address for rx in receivers], receivers)
        made.warm_up()
        yield made


@pytest.mark.parametrize("path", PATHS)
def test_nothing_changes_while_nothing_is_delivered(box: testing.Hold, path: Path, engine: str) -> None:
    with wire(box, mtu=50_000) as w:
        with stopped(box):
            sent = path(w.s, w.to)
            notifier = w.s.flush()
            held = engine != "copy"
            assert notifier.done is not held
            assert bool(w.s.stats.in_flight) is held
            assert {rx.count for rx in w.receivers} == {WARM_UP}
        w.arrived(sent)
        w.s.drain()
        assert notifier.done
        assert (w.s.stats.lost, w.s.stats.reordered, w.s.stats.waiting) == (0, 0, 0)
        assert w.s._arena.free >= w.s._arena.memory.length - (64 << 10)


def test_all_of_it_through_one_small_arena(box: testing.Hold) -> None:
    """Over a network that delivers late: blocks come back one by one, and are filled again."""
    with wire(box, arena=MIN_ARENA) as w:
        expected: Sent = [[] for _ in w.to]
        for _ in range(3):
            for path in PATHS:
                for all_of_it, sent in zip(expected, path(w.s, w.to), strict=True):
                    all_of_it.extend(sent)
        w.s.flush()
        w.arrived(expected)
        w.s.drain()
        assert w.s.stats.nbytes > 8 * MIN_ARENA


@zero_copy_engines
@pytest.mark.parametrize("path", [in_turn, to_a_group, to_overlapping_groups])
def test_control_their_memory_is_read_late(box: testing.Hold, path: Path) -> None:
    """Were it filled again too early, the tests above would see it, at each destination."""
    with wire(box) as w:
        with stopped(box):
            sent = path(w.s, w.to)
            w.s.flush()
            memory = w.s._arena.memory
            ctypes.memset(memory.address, 0xFF, memory.length)
        for rx, expected in zip(w.receivers, sent, strict=True):
            came = rx.wait(WARM_UP + len(expected))[WARM_UP:]
            assert list(map(len, came)) == list(map(len, expected))
            assert b"\xff" * 1200 in came


# -- one place, several uses


@contextmanager
def near_and_far(
    net: testing.Hold, **options: Any
) -> Iterator[tuple[UdpSender, testing.Receiver, testing.Receiver]]:
    """A sender, a receiver at its own loopback, whose requests are done at once, and one behind the gate."""
    with ExitStack() as stack:
        sock = stack.enter_context(closing(net.socket()))
        here = stack.enter_context(closing(net.socket()))
        make_room(here)
        here.bind(("127.0.0.1", 0))
        near = stack.enter_context(testing.receiver(sock=here))
        far = stack.enter_context(testing.receiver(sock=net.receiver_socket()))
        s = stack.enter_context(
            UdpSender(sock=sock, arena=MIN_ARENA, zero_copy="always", debug=False, max_delay=None, **options)
        )
        for count in range(1, WARM_UP + 1):
            for rx in (near, far):
                s.send(b"warm-up", rx.address)
            s.drain()
            near.wait(count)
            far.wait(count)
        yield s, near, far


def fill_the_arena_again(s: UdpSender, rx: testing.Receiver) -> None:
    """Four times as much as it holds, to where it is done at once."""
    count = rx.count
    for _ in range(4 * MIN_ARENA // 1200):
        s.send(b"\xff" * 1200, rx.address)
    s.flush()
    rx.wait(count + 4 * MIN_ARENA // 1200)


@zero_copy_engines
@pytest.mark.parametrize("uses", ["all", pytest.param("none", id="control")])
@pytest.mark.parametrize("far_first", [False, True])
def test_the_place_of_a_group_is_used_again_when_every_member_is_done(
    box: testing.Hold, uses: str, far_first: bool
) -> None:
    """One member's request is done, the other's is not; the sender goes on, in an arena of four blocks."""
    expected = [datagram(i, 1200) for i in range(40)]
    with near_and_far(box) as (s, near, far):
        group = s.group([far.address, near.address] if far_first else [near.address, far.address])
        with stopped(box):
            assert group.send_many(expected) == 40
            s.flush()
            assert near.wait(WARM_UP + 40)[WARM_UP:] == expected
            assert s.stats.in_flight
            if uses != "all":
                ctypes.memset(block_refs(s), 0, ctypes.sizeof(block_refs(s)))
            fill_the_arena_again(s, near)
        came = far.wait(WARM_UP + 40)[WARM_UP:]
        assert (came == expected) is (uses == "all")
        s.drain()


@zero_copy_engines
@pytest.mark.parametrize("uses", ["all", pytest.param("none", id="control")])
def test_the_place_of_one_train_among_several_is_its_own_until_it_is_done(
    box: testing.Hold, uses: str
) -> None:
    """Trains of two destinations grow side by side in one block; one is done, the other is not."""
    expected = [datagram(i, 1200) for i in range(20)]
    with near_and_far(box) as (s, near, far):
        with stopped(box):
            for data in expected:
                s.send(data, far.address)
                s.send(data, near.address)
            s.flush()
            near.wait(WARM_UP + 20)
            if uses != "all":
                ctypes.memset(block_refs(s), 0, ctypes.sizeof(block_refs(s)))
            fill_the_arena_again(s, near)
        came = far.wait(WARM_UP + 20)[WARM_UP:]
        assert (came == expected) is (uses == "all")
        s.drain()


def delete_device(net: testing.Hold) -> None:
    from pyroute2 import IPRoute

    def delete() -> None:
        with IPRoute() as ip:
            ip.link("del", index=socket.if_nametoindex(net.device))

    net.run(delete)


@zero_copy_engines
def test_memory_of_a_group_comes_back_when_a_device_goes_away(net: testing.Hold) -> None:
    """What waits behind the gate is freed by the kernel; the other member has everything."""
    errors: list[SendError] = []
    expected = [datagram(i, 1200) for i in range(60)]
    net.release()
    with near_and_far(net, on_error=errors.append) as (s, near, far):
        group = s.group([near.address, far.address])
        net.stop()
        group.send_many(expected[:30])
        s.flush()
        assert s.stats.in_flight
        delete_device(net)
        s.drain(20)
        assert not errors
        group.send_many(expected[30:])
        s.flush()
        assert near.wait(WARM_UP + 60)[WARM_UP:] == expected
        s.drain(20)
        assert {error.to for error in errors if error.index >= 0} == {far.address}
        assert s.stats.lost == 30
