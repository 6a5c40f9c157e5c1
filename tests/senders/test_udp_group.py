"""Group: one payload for many receivers, in one place; and the rules that its calls have."""

import errno
import socket
from array import array
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import MakePair
from raising import raises_errno
from traffic import datagram, wait_until
from udp_everyone import at_each, everyone

from uringzc import UdpSender, address, testing
from uringzc.engines.attached import MIN_ARENA

FORBIDDEN = ("255.255.255.255", 9)


def made(tx: UdpSender) -> int:
    """Requests and system calls so far."""
    stats = tx.stats
    return stats.requests + stats.syscalls


# -- one payload, many receivers


def test_every_member_gets_every_payload() -> None:
    kinds: list[Any] = [
        b"bytes",
        bytearray(b"bytearray"),
        memoryview(b"a view")[2:],
        array("I", [1, 2, 3]),
        b"",
    ]
    with everyone() as all_of_them, UdpSender(max_delay=None) as tx:
        group = tx.group(all_of_them.addresses(5))
        assert [group.send(data) for data in kinds] == [5, 9, 4, 12, 0]
        kinds[1][:] = b"x" * 9
        assert group.send_many([b"one", bytearray(b"two")]) == 2
        assert group.send_many([]) == 0
        assert tx.stats.waiting
        tx.flush()
        tx.drain()
        expected = [b"bytes", b"bytearray", b"view", array("I", [1, 2, 3]).tobytes(), b"", b"one", b"two"]
        assert all_of_them.receive(35) == at_each(5, expected)
        stats = tx.stats
        assert (stats.datagrams, stats.nbytes) == (35, 5 * sum(map(len, expected)))
        assert (stats.waiting, stats.in_flight) == (0, 0)
        assert all_of_them.empty()


@pytest.mark.parametrize("count", [8, 32])
@pytest.mark.parametrize("many", [False, True])
def test_each_member_gets_one_train(count: int, many: bool) -> None:
    """M requests for N times M datagrams."""
    with everyone() as all_of_them, UdpSender(max_delay=None) as tx:
        group = tx.group(all_of_them.addresses(16))
        for _ in range(2):
            group.send(bytes(1200))
            tx.drain()
        all_of_them.receive(32)
        payloads = [datagram(i, 1200) for i in range(count)]
        for _ in range(3):
            before = made(tx)
            if many:
                group.send_many(payloads)
            else:
                for data in payloads:
                    group.send(data)
            tx.flush()
            assert made(tx) - before <= 16 + 1  # and one that may be tried alone, for its size
            assert all_of_them.receive(16 * count) == at_each(16, payloads)


def test_a_payload_is_in_one_place() -> None:
    """A megabyte for fifty members; it is kept once, in an arena that is smaller."""
    with everyone() as all_of_them, UdpSender(max_delay=None, arena=MIN_ARENA) as tx:
        group = tx.group(all_of_them.addresses(50))
        group.send(b"first")
        tx.drain()
        payloads = [datagram(i, 1000) for i in range(20)]
        group.send_many(payloads)
        assert tx._arena.free >= MIN_ARENA - 2 * (64 << 10)
        tx.drain()
        assert all_of_them.receive(50 * 21) == at_each(50, [b"first", *payloads])


def test_more_members_than_trains_may_be_open() -> None:
    count = 1500
    with everyone() as all_of_them, UdpSender(max_delay=None) as tx:
        group = tx.group(all_of_them.addresses(count))
        assert len(group) == count
        payloads = [datagram(i, 100) for i in range(5)]
        for data in payloads:
            group.send(data)
        tx.drain()
        assert tx.stats.datagrams == 5 * count
        assert all_of_them.receive(5 * count) == at_each(count, payloads)
        assert all_of_them.empty()


def test_an_empty_group_sends_nothing() -> None:
    with UdpSender(max_delay=None) as tx:
        group = tx.group()
        assert group.send(b"data") == 4
        assert group.send_many([b"data"] * 3) == 3
        tx.drain()
        assert (tx.stats.datagrams, tx.stats.waiting, tx.stats.nbytes) == (0, 0, 0)


def test_order_at_a_member_is_that_of_the_calls() -> None:
    """Two groups share a member, and there are single datagrams to it."""
    with everyone() as all_of_them, UdpSender(max_delay=None) as tx:
        to = all_of_them.addresses(3)
        first, second = tx.group(to[:2]), tx.group(to[1:])
        expected: dict[int, list[bytes]] = {0: [], 1: [], 2: []}
        for i in range(300):
            data = datagram(i, 500 if i % 7 else 200)
            way: int = (i * i) % 5 % 3
            if way == 0:
                first.send(data)
            elif way == 1:
                second.send(data)
            else:
                tx.send(data, to[1])
            for j in ([0, 1], [1, 2], [1])[way]:
                expected[j].append(data)
            if i % 100 == 50:
                tx.flush()
        tx.drain()
        assert all_of_them.receive(sum(map(len, expected.values()))) == expected


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_where_the_socket_is_connected_to_may_be_a_member(make_udp: MakePair, family: int) -> None:
    pair = make_udp(family)
    with UdpSender(pair.rx.getsockname(), max_delay=None) as tx:
        group = tx.group([pair.rx.getsockname()])
        for i in range(50):
            tx.send(datagram(2 * i, 100))
            group.send(datagram(2 * i + 1, 100))
        tx.drain()
    assert pair.receive(100) == [datagram(i, 100) for i in range(100)]


def test_the_timer_sends_what_a_group_has_gathered() -> None:
    with everyone() as all_of_them, UdpSender() as tx:
        group = tx.group(all_of_them.addresses(20))
        payloads = [datagram(i, 300) for i in range(100)]
        for data in payloads:
            group.send(data)
        assert wait_until(lambda: tx.stats.waiting == 0)
        assert all_of_them.receive(2000) == at_each(20, payloads)


def test_fan_out_is_done_when_all_have_it() -> None:
    with everyone() as all_of_them, UdpSender(max_delay=None) as tx:
        to = all_of_them.addresses(60)
        tx.send(b"before", to[3])
        notifier = tx.fan_out(b"payload", [*to, to[3]])
        notifier.wait(10)
        assert (notifier.done, tx.stats.waiting) == (True, 0)
        expected = {j: [b"payload"] for j in range(60)} | {3: [b"before", b"payload", b"payload"]}
        assert all_of_them.receive(62) == expected


# -- its members


def test_a_group_is_a_container_of_addresses() -> None:
    one, two, six = ("127.0.0.1", 1), ("127.0.0.2", 2), ("127.0.0.1", 3)
    with UdpSender() as tx:
        group = tx.group([one, two, one])
        assert (len(group), sorted(group), one in group, six in group) == (2, [one, two], True, False)
        group.add(six)
        group.add(six)
        assert (len(group), sorted(group)) == (3, [one, six, two])
        group.remove(one)
        assert (len(group), one in group, sorted(group)) == (2, False, [six, two])
        with pytest.raises(KeyError):
            group.remove(one)
        with pytest.raises(KeyError):
            tx.group().remove(six)
        group.add(one)
        assert set(group) == {one, two, six}
        assert list(tx.group(iter([two]))) == [two]
        assert not list(tx.group([]))
        assert tx.group([one]) != group


def test_members_come_and_go_between_payloads() -> None:
    """A payload goes to those that are members when it is sent, whenever it leaves."""
    with everyone() as all_of_them, UdpSender(max_delay=None) as tx:
        to = all_of_them.addresses(3)
        group = tx.group(to[:2])
        group.send(b"one")
        group.remove(to[0])
        group.send(b"two")
        group.add(to[2])
        group.send(b"six")
        group.add(to[0])
        group.remove(to[1])
        group.send(b"ten")
        tx.drain()
        assert all_of_them.receive(7) == {
            0: [b"one", b"ten"],
            1: [b"one", b"two", b"six"],
            2: [b"six", b"ten"],
        }
        assert all_of_them.empty()


def test_a_name_is_resolved_when_it_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    pack = address.pack

    def counted(family: int, to: Any) -> Any:
        asked.append(to)
        return pack(family, to)

    monkeypatch.setattr(address, "pack", counted)
    with testing.receiver() as rx, UdpSender(max_delay=None) as tx:
        port = rx.address[1]
        group = tx.group()
        group.add(("localhost", port))
        assert asked == [("localhost", port)]
        for _ in range(3):
            group.send(b"x")
            tx.flush()
        assert rx.wait(3)
        assert asked == [("localhost", port)]
        assert len(group) == 1
        group.remove(("localhost", port))
        assert len(group) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        *("text", 5, None, ("127.0.0.1",), ("127.0.0.1", 65536), ("127.0.0.1", "x"), (5, 5)),
        *(("127.0.0.1\0.example", 9), ("\udcff", 9)),
    ],
)
def test_a_wrong_address_is_refused_as_by_send(wrong: Any) -> None:
    refused = (OSError, TypeError, ValueError)
    with UdpSender() as tx:
        group = tx.group([("127.0.0.1", 9)])
        with pytest.raises(refused) as by_send:
            tx.send(b"x", wrong)
        calls: list[Callable[[], object]] = [lambda: group.add(wrong), lambda: tx.group([wrong])]
        for call in calls:
            with pytest.raises(refused) as caught:
                call()
            assert wrong is None or caught.type is by_send.type  # None is no address, but send's default
        assert wrong not in group
        with pytest.raises((KeyError, *refused)):
            group.remove(wrong)
        assert list(group) == [("127.0.0.1", 9)]


def test_a_wrong_payload_takes_nothing() -> None:
    with everyone() as all_of_them, UdpSender(max_delay=None) as tx:
        group = tx.group(all_of_them.addresses(3))
        with raises_errno(errno.EMSGSIZE, "larger than UDP"):
            group.send(bytes(65508))
        with pytest.raises(TypeError):
            group.send("text")  # type: ignore[arg-type]
        with pytest.raises(BufferError):
            group.send(memoryview(bytes(100))[::2])
        assert (tx.stats.datagrams, tx.stats.waiting) == (0, 0)
        with pytest.raises(TypeError):
            group.send_many([b"one", b"two", None, b"three"])  # type: ignore[list-item]
        tx.drain()
        assert all_of_them.receive(6) == at_each(3, [b"one", b"two"])
        assert all_of_them.empty()


def test_an_iterable_may_change_the_group_that_takes_from_it() -> None:
    """Its code runs outside of the sender; each payload goes to those that are members then."""
    with everyone() as all_of_them, UdpSender(max_delay=None) as tx:
        to = all_of_them.addresses(3)
        group = tx.group(to[:2])

        def give() -> Iterator[bytes]:
            yield b"both"
            group.add(to[2])
            tx.send(b"single", to[0])
            yield b"three"
            group.remove(to[0])
            group.send(b"inside")
            tx.flush()
            yield b"two"

        assert group.send_many(give()) == 3
        tx.drain()
        assert all_of_them.receive(10) == {
            0: [b"both", b"single", b"three"],
            1: [b"both", b"three", b"inside", b"two"],
            2: [b"three", b"inside", b"two"],
        }


def test_a_table_that_is_emptied_keeps_groups() -> None:
    """More destinations than the sender remembers, while groups have members and data that waits."""
    count = 16384
    with everyone() as all_of_them, UdpSender(max_delay=None) as tx:
        to = all_of_them.addresses(6)
        first, second = tx.group(to[:4]), tx.group(to[2:])
        for turn in range(2):
            first.send(b"first %d" % turn)
            second.send(b"second %d" % turn)
            for j in range(count):
                tx.send(b"x", all_of_them.address(100 + j))
            first.send(b"third %d" % turn)
            second.send(b"fourth %d" % turn)
            tx.drain()
            came = all_of_them.receive(count + 16)
            a, b, c, d = (b"%s %d" % (name, turn) for name in (b"first", b"second", b"third", b"fourth"))
            expected = {0: [a, c], 1: [a, c], 2: [a, b, c, d], 3: [a, b, c, d], 4: [b, d], 5: [b, d]}
            assert {j: came[j] for j in range(6)} == expected
            first.remove(to[0])
            first.add(to[0])
        assert sorted(first) == to[:4]
