"""Members and destinations that are slow, refuse or vanish: the others have everything, and wait for nobody.

That they do not wait is seen without a clock: after one call of a sender that does not block, all that was
for the others arrives while the sender is not called again.
"""

import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple

import pytest
from marks import only_io_uring
from traffic import datagram, wait_until

from uringzc import SendError, UdpSender, testing
from uringzc.testing.devices import End, bring_up, delete_neighbours
from uringzc.testing.receiving import make_room

pytestmark = testing.requires("net_admin")

Address = tuple[str, int]
#: of the sandbox's network, and nobody has it: its neighbour entry does not resolve
NOBODY = ("10.0.0.77", 9)
COUNT = 60
SIZE = 1200


class Some(NamedTuple):
    """A sender, and receivers that are known to it: two behind the gate, two at its own loopback."""

    tx: UdpSender
    receivers: list[testing.Receiver]
    errors: list[SendError]

    @property
    def to(self) -> list[Address]:
        return [rx.address for rx in self.receivers]

    def have(self, expected: list[bytes]) -> None:
        """Everybody has it, and nobody had to call the sender for that."""
        for rx in self.receivers:
            assert rx.wait(2 + len(expected), 20)[2:] == expected


@contextmanager
def some(net: testing.Hold, **options: Any) -> Iterator[Some]:
    errors: list[SendError] = []
    net.release()
    with ExitStack() as stack:
        sockets = [net.receiver_socket(port=testing.PORT + i) for i in range(2)]
        for _ in range(2):
            near = net.socket()
            make_room(near)
            near.bind(("127.0.0.1", 0))
            sockets.append(near)
        receivers = [stack.enter_context(testing.receiver(sock=sock)) for sock in sockets]
        options = {"max_delay": None, "on_error": errors.append} | options
        tx = stack.enter_context(net.run(lambda: UdpSender(**options)))
        made = Some(tx, receivers, errors)
        for count in (1, 2):  # the second finds out that the first has arrived
            for address in made.to:
                tx.send(b"warm-up", address)
                with suppress(BlockingIOError):
                    tx.flush()
            for rx in receivers:
                rx.wait(count)
        settle(tx)
        yield made


def settle(tx: UdpSender) -> None:
    def flushed() -> bool:
        with suppress(BlockingIOError):
            tx.flush()
        return not tx.stats.waiting

    assert wait_until(flushed)


Way = Callable[[UdpSender, list[Address], list[bytes]], None]


def by_group(tx: UdpSender, to: list[Address], payloads: list[bytes]) -> None:
    group = tx.group(to)
    for data in payloads:
        group.send(data)


def by_group_many(tx: UdpSender, to: list[Address], payloads: list[bytes]) -> None:
    assert tx.group(to).send_many(payloads) == len(payloads)


def in_turn(tx: UdpSender, to: list[Address], payloads: list[bytes]) -> None:
    for data in payloads:
        for address in to:
            tx.send(data, address)


def paired(tx: UdpSender, to: list[Address], payloads: list[bytes]) -> None:
    tx.send_many([data for data in payloads for _ in to], to * len(payloads))


slow = pytest.mark.slow
ways = pytest.mark.parametrize(
    "way", [by_group, in_turn, pytest.param(by_group_many, marks=slow), pytest.param(paired, marks=slow)]
)


def some_payloads(start: int = 0) -> list[bytes]:
    """Several trains for each: the slow one's second has to wait for its first."""
    return [datagram(start + i, SIZE if i < COUNT // 2 else 700) for i in range(COUNT)]


# -- slow


@ways
@pytest.mark.parametrize("at", [0, pytest.param(4, marks=slow)])
def test_one_that_does_not_resolve_holds_up_nobody(net: testing.Hold, way: Way, at: int) -> None:
    with some(net, blocking=False) as s:
        to = [*s.to[:at], NOBODY, *s.to[at:]]
        expected: list[bytes] = []
        for turn in range(3):
            expected += some_payloads(100 * turn)
            way(s.tx, to, some_payloads(100 * turn))
            with suppress(BlockingIOError):
                s.tx.flush()
            s.have(expected)
        assert {error.to for error in s.errors} <= {NOBODY}
        settle(s.tx)
        net.run(lambda: forget(net))


@ways
def test_it_holds_up_nobody_where_the_sender_blocks(net: testing.Hold, way: Way) -> None:
    with some(net) as s:
        expected: list[bytes] = []
        for turn in range(3):
            expected += some_payloads(100 * turn)
            way(s.tx, [NOBODY, *s.to], some_payloads(100 * turn))
            s.tx.flush()
            s.have(expected)
        net.run(lambda: forget(net))


@ways
def test_it_holds_up_nobody_where_the_timer_sends(net: testing.Hold, way: Way) -> None:
    with some(net, max_delay=0.001) as s:
        way(s.tx, [NOBODY, *s.to], some_payloads())
        s.have(some_payloads())
        assert wait_until(lambda: not s.tx.stats.waiting)
        net.run(lambda: forget(net))


def forget(net: testing.Hold) -> None:
    """What waits for the neighbour is freed; else its memory comes back after three seconds."""
    delete_neighbours(net.device, End(NOBODY[0], "fd00::77", ""))


def test_one_that_is_slow_gets_everything_later(net: testing.Hold) -> None:
    """Its neighbour answers late; the order is kept, and the nearer members have everything before."""
    with some(net, blocking=False) as s:
        group = s.tx.group(s.to)
        net.stop()
        net.forget_neighbour()
        expected = some_payloads()
        for data in expected:
            group.send(data)
        with suppress(BlockingIOError):
            s.tx.flush()
        for rx in s.receivers[2:]:
            assert rx.wait(2 + COUNT)[2:] == expected
        assert [rx.count for rx in s.receivers[:2]] == [2, 2]
        net.release()
        settle(s.tx)
        came = [len(rx.wait(3)) for rx in s.receivers[:2]]
        assert min(came) > 2


@pytest.mark.slow
@only_io_uring
def test_one_that_is_never_resolved_is_named(net: testing.Hold) -> None:
    """After three seconds the kernel says so (EHOSTUNREACH)."""
    with some(net) as s:
        group = s.tx.group([s.to[0], NOBODY, s.to[2]])
        group.send(b"x")
        s.tx.flush()
        sent = 1

        def reported() -> bool:
            nonlocal sent
            group.send(b"x")
            s.tx.flush()
            sent += 1
            return bool(s.errors)

        assert wait_until(reported)
        assert {(error.errno, error.to) for error in s.errors} == {(errno.EHOSTUNREACH, NOBODY)}
        for i in (0, 2):
            assert s.receivers[i].wait(2 + sent)[2:] == [b"x"] * sent
        net.run(lambda: forget(net))


# -- refusing


@ways
@pytest.mark.parametrize("host", ["127.0.0.1", testing.Hold.address[0]])
def test_one_that_refuses_is_named(net: testing.Hold, way: Way, host: str) -> None:
    """Nobody listens at its port: ICMP errors, which the socket that all share gets."""
    refusing = (host, 9)
    with some(net) as s:
        expected: list[bytes] = []
        for turn in range(20):
            expected += some_payloads(100 * turn)
            way(s.tx, [s.to[0], refusing, *s.to[1:]], some_payloads(100 * turn))
            s.tx.flush()
            if s.errors:
                break
        assert wait_until(lambda: s.errors or (s.tx.flush() and False), 5)
        assert {error.errno for error in s.errors} == {errno.ECONNREFUSED}
        assert {error.to for error in s.errors} <= {refusing, None}
        assert s.tx.stats.lost == 0
        for rx in s.receivers:  # one that fails for another's error is sent again, perhaps behind others
            assert sorted(rx.wait(2 + len(expected), 20)[2:]) == sorted(expected)


# -- vanished


@contextmanager
def another_network(net: testing.Hold) -> Iterator[Address]:
    """An address behind a device of its own, which discards what it gets; deleted by `vanish`."""

    here, there = End("10.9.0.1", "fd09::1", ""), End("10.9.0.2", "fd09::2", "02:00:00:00:09:02")
    net.run(lambda: bring_up("gone0", here, there, kind="ifb"))
    yield there.ip, 9


def vanish(net: testing.Hold) -> None:
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        ip.link("del", index=socket.if_nametoindex("gone0"))


@ways
def test_one_whose_route_vanishes_is_named(net: testing.Hold, way: Way) -> None:
    """Before, between and while trains wait for it."""
    with some(net) as s, another_network(net) as gone:
        to = [s.to[0], gone, *s.to[1:]]
        expected = some_payloads()
        way(s.tx, to, some_payloads())
        s.tx.flush()
        s.have(expected)
        assert not s.errors
        before = s.tx.stats.datagrams
        way(s.tx, to, some_payloads(100))
        net.run(lambda: vanish(net))
        s.tx.flush()
        expected += some_payloads(100)
        s.have(expected)
        lost = [error for error in s.errors if error.index >= 0]
        assert {(error.to, error.errno) for error in lost} == {(gone, errno.ENETUNREACH)}
        assert len({error.index for error in lost}) == len(lost) == COUNT == s.tx.stats.lost
        assert all(before <= error.index < before + 5 * COUNT for error in lost)
        assert sorted(error.size for error in lost) == sorted(map(len, some_payloads()))
        way(s.tx, [to[1], *s.to], some_payloads(200))
        s.tx.flush()
        s.have(expected + some_payloads(200))
        assert s.tx.stats.lost == 2 * COUNT


def test_a_member_that_vanished_may_be_removed(net: testing.Hold) -> None:
    with some(net) as s, another_network(net) as gone:
        group = s.tx.group([*s.to, gone])
        group.send(b"one")
        net.run(lambda: vanish(net))
        group.remove(gone)
        group.send(b"two")
        s.tx.drain()
        s.have([b"one", b"two"])
        assert [error.size for error in s.errors if error.index >= 0] == [3]
