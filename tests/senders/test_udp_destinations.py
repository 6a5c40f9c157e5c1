"""Trains to many destinations: they form, keep the order at each one, and fit the memory that there is."""

import random
import socket
from contextlib import suppress

import pytest
from conftest import MakePair, Pair
from processes import run_program
from traffic import datagram, free_port, wait_until
from udp_everyone import everyone

from uringzc import SendError, UdpSender
from uringzc.engines.attached import MIN_ARENA

MAX_OPEN = 1024  # trains
#: without SO_BROADCAST the kernel refuses each datagram to it (EACCES), as soon as it is sent
FORBIDDEN = ("255.255.255.255", 9)
UDP_GRO = 104


def made(tx: UdpSender) -> int:
    """Requests and system calls so far."""
    stats = tx.stats
    return stats.requests + stats.syscalls


# -- trains form


@pytest.mark.parametrize("size", [200, 1200])
@pytest.mark.parametrize("many", [False, True])
def test_interleaved_destinations_leave_in_a_train_each(size: int, many: bool) -> None:
    """Sixteen destinations, eight datagrams for each and flush."""
    with everyone() as all_of_them, UdpSender(max_delay=None) as tx:
        to = all_of_them.addresses(16)
        for address in to:
            tx.send(b"first", address)
        tx.drain()
        all_of_them.receive(16)
        for _ in range(4):
            before = made(tx)
            if many:
                tx.send_many([datagram(i, size) for i in range(128)], [to[i % 16] for i in range(128)])
            else:
                for i in range(128):
                    tx.send(datagram(i, size), to[i % 16])
            tx.flush()
            assert made(tx) - before <= 16 + 1  # and one that may be tried alone, for its size
            came = all_of_them.receive(128)
            assert came == {i: [datagram(j, size) for j in range(i, 128, 16)] for i in range(16)}


def test_a_receiver_gets_them_as_trains() -> None:
    """With UDP_GRO a train comes as one."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
        UdpSender(max_delay=None) as tx,
    ):
        for sock in (one, other):
            sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
            sock.bind(("127.0.0.1", 0))
            sock.settimeout(10)
        for _ in range(2):
            for i in range(20):
                tx.send(datagram(i, 1000), one.getsockname())
                tx.send(datagram(i, 1000), other.getsockname())
            tx.flush()
        expected = b"".join(datagram(i, 1000) for i in range(20))
        assert [sock.recv(65536) for sock in (one, other, one, other)] == [expected] * 4


def test_other_sizes_end_a_train_of_their_destination_alone() -> None:
    """A datagram of another size to one destination leaves the trains of the others open."""
    with everyone() as all_of_them, UdpSender(max_delay=None) as tx:
        to = all_of_them.addresses(8)
        for address in to:
            tx.send(bytes(1200), address)
        tx.drain()
        before = made(tx)
        for i in range(20):
            for j, address in enumerate(to):
                tx.send(datagram(i, 700 if j == 0 and i % 2 else 900), address)
        tx.flush()
        assert made(tx) - before <= 20 + 7
        came = all_of_them.receive(8 + 160)
        assert [len(data) for data in came[0][1:]] == [900, 700] * 10
        assert all(came[j][1:] == [datagram(i, 900) for i in range(20)] for j in range(1, 8))


# -- order, and bounds


@pytest.mark.parametrize("arena", [MIN_ARENA, 4 << 20])
def test_more_destinations_than_trains_may_be_open(arena: int) -> None:
    """1500 of them take turns; each gets all of it, in order."""
    count, rounds = 1500, 4
    with everyone() as all_of_them, UdpSender(max_delay=None, arena=arena) as tx:
        to = all_of_them.addresses(count)
        for i in range(rounds):
            for j in range(count):
                tx.send(datagram(i * count + j, 100), to[j])
        tx.drain()
        assert (tx.stats.datagrams, tx.stats.waiting, tx.stats.lost) == (rounds * count, 0, 0)
        assert tx._arena.free >= tx._arena.memory.length - (64 << 10)
        came = all_of_them.receive(rounds * count)
        expected = {j: [datagram(i * count + j, 100) for i in range(rounds)] for j in range(count)}
        assert came == expected
        assert all_of_them.empty()


def test_the_oldest_train_leaves_first() -> None:
    """Without a flush: those that had to leave are the ones that were begun first."""
    count = 2000
    with everyone() as all_of_them, UdpSender(max_delay=None) as tx:
        for j in range(count):
            tx.send(datagram(j, 100), all_of_them.address(j))
        left = count - tx.stats.waiting
        assert left >= count - MAX_OPEN - 48
        assert sorted(all_of_them.receive(left)) == list(range(left))
        assert all_of_them.empty()
        tx.drain()
        assert sorted(all_of_them.receive(count - left)) == list(range(left, count))


def test_a_small_arena_and_many_long_trains() -> None:
    """Places are given up and taken again all the time."""
    chance = random.Random(5)
    expected: dict[int, list[bytes]] = {}
    with everyone() as all_of_them, UdpSender(max_delay=None, arena=MIN_ARENA) as tx:
        to = all_of_them.addresses(300)
        for i in range(6000):
            j = chance.randrange(300) if i % 3 else chance.randrange(5)
            expected.setdefault(j, []).append(datagram(i, chance.choice((1200, 1200, 1200, 1400, 100, 0))))
            tx.send(expected[j][-1], to[j])
        tx.drain()
        assert all_of_them.receive(6000) == expected
        assert tx._arena.free >= MIN_ARENA - (64 << 10)


@pytest.mark.parametrize("size", [1, 100, 1000, 1400, 5000, 16_000])
def test_a_train_that_outgrows_its_place_keeps_its_bytes(size: int) -> None:
    """Some begin behind each other; then each of them grows to its full length, again and again."""
    chance = random.Random(size)
    burst = max(1, min(64, 60_000 // size))
    for places in (2, 3, 7, 20):
        expected: dict[int, list[bytes]] = {}
        number = 0
        with everyone() as all_of_them, UdpSender(max_delay=None) as tx:
            to = all_of_them.addresses(places)
            for _ in range(3):
                grows = [1] * places + [chance.randrange(1, burst + 1) for _ in range(places)] + [burst]
                for i, count in enumerate(grows):
                    for _ in range(count):
                        number += 1
                        expected.setdefault(i % places, []).append(datagram(number, size))
                        tx.send(bytearray(expected[i % places][-1]), to[i % places])
            tx.drain()
            assert all_of_them.receive(number) == expected


def test_ways_to_send_keep_the_order_at_each_destination() -> None:
    """What cannot join a train (leases, regions, large bytes) waits for the train before it."""
    expected: dict[int, list[bytes]] = {j: [] for j in range(4)}
    with everyone() as all_of_them, UdpSender(max_delay=None) as tx:
        to = all_of_them.addresses(4)

        def send(data: bytes, j: int) -> None:
            expected[j].append(data)
            tx.send(data, to[j])

        for i in range(60):
            j = i % 4
            for k in range(4):
                send(datagram(10 * i + k, 600), k)
            if i % 5 == 0:
                send(datagram(i, 20_000), j)
            elif i % 5 == 1:
                with tx.lease(600) as lease:
                    lease.view[:] = datagram(i, 600)
                    lease.send(to=to[j])
                expected[j].append(datagram(i, 600))
            elif i % 5 == 2:
                expected[j] += [datagram(i, 1800)[at : at + 600] for at in (0, 600, 1200)]
                tx.send_region(datagram(i, 1800), segment=600, to=to[j])
            elif i % 5 == 3:
                expected[j] += [datagram(i, 600)] * 2
                tx.send_slices(datagram(i, 600) * 2, [0, 600], [600, 600], to=to[j])
            else:
                send(b"", j)
        tx.drain()
        assert all_of_them.receive(sum(map(len, expected.values()))) == expected


@pytest.mark.parametrize("named", [False, True])
def test_two_ways_to_name_a_destination_are_one_destination(udp_pair: Pair, named: bool) -> None:
    """Where the socket is connected to, the address, and a host's name: the order is that of the calls."""
    host, port = udp_pair.rx.getsockname()
    ways: list[tuple[str, int] | None] = [
        None,
        (host, port),
        ("localhost", port) if named else (str(host), port),
    ]
    chance = random.Random(6)
    with UdpSender((host, port), max_delay=None) as connected:
        check_ways(connected, udp_pair, chance.choices(ways, k=300))
    with UdpSender((host, port), sock=udp_pair.tx, max_delay=None) as given:
        check_ways(given, udp_pair, chance.choices(ways, k=300))
    with UdpSender(sock=udp_pair.tx, max_delay=None) as default:
        check_ways(default, udp_pair, chance.choices(ways, k=300))


def check_ways(tx: UdpSender, pair: Pair, ways: list[tuple[str, int] | None]) -> None:
    for i, way in enumerate(ways):
        tx.send(datagram(i, 100), way)
    tx.drain()
    assert pair.receive(len(ways)) == [datagram(i, 100) for i in range(len(ways))]


@pytest.mark.parametrize("strict_order", [False, True])
def test_addresses_of_both_lengths_are_one_destination(make_udp: MakePair, strict_order: bool) -> None:
    pair = make_udp(socket.AF_INET6)
    whole = pair.rx.getsockname()
    with UdpSender(family=socket.AF_INET6, max_delay=None, strict_order=strict_order) as tx:
        for i in range(100):
            tx.send(datagram(i, 100), whole if i % 3 else whole[:2])
        tx.drain()
        assert tx.stats.destinations == 1
        assert pair.receive(100) == [datagram(i, 100) for i in range(100)]


# -- what else ends a train


def test_the_timer_sends_every_open_train() -> None:
    """With the default max_delay, and no other call."""
    with everyone() as all_of_them, UdpSender() as tx:
        for i in range(3000):
            tx.send(datagram(i, 100), all_of_them.address(i % 200))
        assert wait_until(lambda: tx.stats.waiting == 0)
        came = all_of_them.receive(3000)
        assert came == {j: [datagram(i, 100) for i in range(j, 3000, 200)] for j in range(200)}


@pytest.mark.parametrize("end", ["close", "drop", "exit"])
def test_every_open_train_is_sent_at_the_end(end: str) -> None:
    program = """
    import sys, warnings, uringzc
    warnings.simplefilter("ignore")
    tx = uringzc.UdpSender(max_delay=None)
    for i in range(1800):
        tx.send(b"%04d" % i, ("127.1.0.%d" % (i % 60), int(sys.argv[1])))
    assert tx.stats.waiting
    if sys.argv[2] == "close":
        tx.close()
    elif sys.argv[2] == "drop":
        del tx
    """
    with everyone() as all_of_them:
        run_program(program, all_of_them.port, end)
        came = all_of_them.receive(1800)
        assert came == {j: [b"%04d" % i for i in range(j, 1800, 60)] for j in range(60)}
        assert all_of_them.empty()


def test_a_table_that_is_full_is_emptied_and_nothing_is_lost() -> None:
    """More destinations than the sender remembers, and one of them that has an open train all the time."""
    count = 16384 + 300
    with everyone() as all_of_them, UdpSender(max_delay=None) as tx:
        for j in range(1, count):
            tx.send(b"%d" % j, all_of_them.address(j))
            if j % 100 == 0:
                tx.send(b"%d" % j, all_of_them.address(0))
        tx.drain()
        came = all_of_them.receive(count - 1 + (count - 1) // 100)
        assert came.pop(0) == [b"%d" % j for j in range(100, count, 100)]
        assert came == {j: [b"%d" % j] for j in range(1, count)}


# -- one that fails


@pytest.mark.parametrize("size", [100, 1200])
@pytest.mark.parametrize("at", range(4))
def test_a_refused_datagram_is_named_and_the_others_arrive(size: int, at: int) -> None:
    """One of four destinations cannot be sent to: each of its datagrams is reported with its number."""
    errors: list[SendError] = []
    with everyone() as all_of_them, UdpSender(max_delay=None, on_error=errors.append) as tx:
        to = [*all_of_them.addresses(4)]
        to[at] = FORBIDDEN
        for i in range(40):
            assert tx.send(datagram(i, size), to[i % 4]) == size
        tx.drain()
        came = all_of_them.receive(30)
        assert came == {j: [datagram(i, size) for i in range(j, 40, 4)] for j in range(4) if j != at}
        assert sorted(error.index for error in errors) == list(range(at, 40, 4))
        assert {(error.to, error.size) for error in errors} == {(FORBIDDEN, size)}
        assert (tx.stats.lost, tx.stats.datagrams) == (10, 40)


@pytest.mark.parametrize("each", [1, 2])
@pytest.mark.parametrize("at", [0, 1, 25, 48, 49])
def test_a_refused_datagram_among_single_ones(at: int, each: int) -> None:
    """Fifty destinations with one or two datagrams: one refuses; those behind it leave all the same."""
    errors: list[SendError] = []
    with everyone() as all_of_them, UdpSender(max_delay=None, on_error=errors.append) as tx:
        to = all_of_them.addresses(50)
        to[at] = FORBIDDEN
        for i in range(50 * each):
            tx.send(datagram(i, 50), to[i % 50])
        tx.flush()
        came = all_of_them.receive(49 * each)
        assert came == {j: [datagram(j + 50 * k, 50) for k in range(each)] for j in range(50) if j != at}
        assert sorted(error.index for error in errors) == [at + 50 * k for k in range(each)]


def test_closed_ports_among_the_destinations_cost_nobody_a_datagram() -> None:
    """ICMP errors come in between, for the socket that all of them share."""
    errors: list[SendError] = []
    with (
        everyone() as all_of_them,
        UdpSender(max_delay=None, on_error=errors.append) as tx,
    ):
        closed = ("127.0.0.1", free_port())
        for i in range(600):
            tx.send(datagram(i, 300), all_of_them.address(i % 6))
            tx.send(b"?", closed)
            if i % 60 == 59:
                tx.flush()
        tx.drain()
        came = all_of_them.receive(600)
        assert {j: sorted(each) for j, each in came.items()} == {
            j: sorted(datagram(i, 300) for i in range(j, 600, 6)) for j in range(6)
        }
        assert {(error.to, error.index) for error in errors} <= {(closed, -1), (None, -1)}
        assert tx.stats.lost == 0
        with suppress(SendError):
            tx.close()
