"""One call of DatagramReceiver returns the datagrams that were sent, in order, with their senders."""

import gc
import os
import select
import socket
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from conftest import HOSTS, MakePair, Pair
from receive_setting import datagrams, send_train, wait_for, with_gro

from uringzc import testing
from uringzc._send import DatagramReceiver

pytestmark = pytest.mark.engines()

MESSAGES = 32  # of one call
PEERS = 1024  # whose addresses are remembered, at most
Batch = list[tuple[Any, Any]]


@pytest.fixture(params=[False, True], ids=["single", "grouped"])
def grouped(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def pair(udp_pair: Pair) -> Pair:
    return with_gro(udp_pair)


def read(rx: socket.socket, nbytes: int, grouped: bool = False) -> Batch:
    """What the first call gets, when so many bytes have arrived."""
    wait_for(rx, nbytes)
    return DatagramReceiver(rx.fileno()).receive(grouped)


# -- datagrams


def test_nothing_waits(pair: Pair, grouped: bool) -> None:
    receiver = DatagramReceiver(pair.rx.fileno())
    assert receiver.receive(grouped) == []
    pair.tx.send(b"x")
    assert datagrams(read(pair.rx, 1, grouped), grouped) == [b"x"]
    assert receiver.receive(grouped) == []


def test_single_datagrams_are_pairs_in_their_order(pair: Pair) -> None:
    sent = [bytes([i]) * (i + 1) for i in range(20)]
    for data in sent:
        pair.tx.send(data)
    assert read(pair.rx, len(b"".join(sent))) == [(data, pair.tx.getsockname()) for data in sent]


def test_those_of_one_peer_in_a_row_are_a_group(make_udp: MakePair) -> None:
    rx = make_udp().rx
    with ExitStack() as stack:
        a, b = (stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2))
        for tx, data in ((a, b"1"), (a, b"2"), (b, b"3"), (a, b"4")):
            tx.sendto(data, rx.getsockname())
        (of_a, of_b) = (("127.0.0.1", tx.getsockname()[1]) for tx in (a, b))
        assert read(rx, 4, grouped=True) == [([b"1", b"2"], of_a), ([b"3"], of_b), ([b"4"], of_a)]


def test_a_call_reads_32_messages_and_leaves_the_rest(pair: Pair, grouped: bool) -> None:
    sent = [b"%d" % i for i in range(MESSAGES + 5)]
    for data in sent:
        pair.tx.send(data)
    receiver = DatagramReceiver(pair.rx.fileno())
    wait_for(pair.rx, len(b"".join(sent)))
    assert datagrams(receiver.receive(grouped), grouped) == sent[:MESSAGES]
    assert datagrams(receiver.receive(grouped), grouped) == sent[MESSAGES:]


def test_an_empty_datagram_is_one(pair: Pair, grouped: bool) -> None:
    sent = [b"", b"x", b"", b"", b"y"]
    for data in sent:
        pair.tx.send(data)
    batch = read(pair.rx, 2, grouped)
    assert datagrams(batch, grouped) == sent
    assert {address for _, address in batch} == {pair.tx.getsockname()}


@pytest.mark.parametrize(("family", "largest"), [(socket.AF_INET, 65507), (socket.AF_INET6, 65527)])
def test_the_largest_datagrams_are_whole(make_udp: MakePair, family: int, largest: int) -> None:
    tx, rx = with_gro(make_udp(family))
    sent = [os.urandom(largest) for _ in range(MESSAGES)]
    for data in sent:
        tx.send(data)
    assert datagrams(read(rx, MESSAGES * largest), False) == sent


# -- trains


def test_a_train_is_read_as_one_message(pair: Pair, grouped: bool) -> None:
    sent = [bytes([i]) * 200 for i in range(64)]  # more than a call reads messages
    send_train(pair.tx, b"".join(sent), 200)
    assert datagrams(read(pair.rx, 64 * 200, grouped), grouped) == sent


def test_control_without_gro_it_is_not(udp_pair: Pair) -> None:
    send_train(udp_pair.tx, bytes(64 * 200), 200)
    assert len(read(udp_pair.rx, 64 * 200)) == MESSAGES


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize(("size", "count", "rest"), [(1200, 40, 0), (1, 64, 0), (1472, 3, 1), (30000, 2, 50)])
def test_a_train_is_cut_where_its_datagrams_end(
    make_udp: MakePair, family: int, size: int, count: int, rest: int
) -> None:
    pair = with_gro(make_udp(family))
    sent = [os.urandom(size) for _ in range(count)] + ([os.urandom(rest)] if rest else [])
    send_train(pair.tx, b"".join(sent), size)
    assert datagrams(read(pair.rx, size * count + rest), False) == sent


def test_trains_and_datagrams_of_one_peer_are_one_group(pair: Pair) -> None:
    send_train(pair.tx, b"aabbc", 2)
    pair.tx.send(b"")
    pair.tx.send(b"dddd")
    send_train(pair.tx, b"eeeff", 3)
    assert read(pair.rx, 14, grouped=True) == [
        ([b"aa", b"bb", b"c", b"", b"dddd", b"eee", b"ff"], pair.tx.getsockname())
    ]


def test_other_control_messages_do_not_hide_the_size(pair: Pair) -> None:
    for level, option, value in (
        (socket.SOL_SOCKET, 35, 1),  # SO_TIMESTAMPNS
        (socket.SOL_SOCKET, 37, 0b11000),  # SO_TIMESTAMPING: of reception, by software
        (socket.SOL_SOCKET, 40, 1),  # SO_RXQ_OVFL
        (socket.SOL_SOCKET, 75, 1),  # SO_RCVMARK
        *((socket.IPPROTO_IP, option, 1) for option in (2, 6, 8, 12, 13, 20)),  # TTL, PKTINFO, TOS ...
    ):
        pair.rx.setsockopt(level, option, value)
    send_train(pair.tx, b"aabbc", 2)
    assert len(pair.rx.recvmsg(99, 1 << 12, socket.MSG_PEEK)[1]) > 5
    assert datagrams(read(pair.rx, 5), False) == [b"aa", b"bb", b"c"]


@testing.requires("net_raw")
def test_headers_of_a_peer_that_fill_the_control_messages_do_not_hide_the_size(make_udp: MakePair) -> None:
    """Nor spill over: the peer chooses them, and their size; the kernel leaves out what has no room."""
    pair = with_gro(make_udp(socket.AF_INET6))
    pair.rx.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVDSTOPTS, 1)
    for words, truncated in ((1, False), (31, True)):  # there is room for 256 bytes of messages
        options = bytes([0, words, 0x1E, 8 * words + 4]) + b"!" * (8 * words + 4)
        pair.tx.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, options)
        send_train(pair.tx, b"aabbc", 2)
        _, _, flags, _ = pair.rx.recvmsg(99, 256, socket.MSG_PEEK)
        assert bool(flags & socket.MSG_CTRUNC) == truncated
        assert datagrams(read(pair.rx, 5), False) == [b"aa", b"bb", b"c"]


# -- addresses


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_addresses_are_those_of_recvfrom(make_udp: MakePair, family: int) -> None:
    tx, rx = make_udp(family)
    tx.send(b"1")
    tx.send(b"2")
    expected = rx.recvfrom(9)[1]
    ((_, address),) = read(rx, 1)
    assert (address, type(address), [*map(type, address)]) == (expected, tuple, [*map(type, expected)])


def test_an_ipv4_peer_of_an_ipv6_socket_has_a_mapped_address() -> None:
    with (
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as rx,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tx,
    ):
        rx.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        rx.bind(("::", 0))
        for _ in range(2):
            tx.sendto(b"x", ("127.0.0.1", rx.getsockname()[1]))
        ((_, address), (_, again)) = read(rx, 2)
        assert address == ("::ffff:127.0.0.1", tx.getsockname()[1], 0, 0)
    assert again is address


def test_a_link_local_address_has_its_scope(box: testing.Hold) -> None:
    scope = box.run(lambda: add_address("fe80::77", box.device))
    with box.socket(socket.AF_INET6) as rx, box.socket(socket.AF_INET6) as tx:
        for sock in (rx, tx):
            sock.bind(("fe80::77", 0, 0, scope))
        while not select.select([rx], [], [], 0.05)[0]:  # a work queue adds the route to the new address
            tx.sendto(b"x", rx.getsockname())
        expected = rx.recvfrom(9)[1]
        tx.sendto(b"x", rx.getsockname())
        (_, address), *_ = read(rx, 1)
    assert address == expected == ("fe80::77", expected[1], 0, scope)


def add_address(address: str, device: str) -> int:
    """Gives the device an address that can be used at once; its index."""
    from pyroute2 import IPRoute

    index = socket.if_nametoindex(device)
    with IPRoute() as ip:
        ip.addr("replace", index=index, address=address, prefixlen=64, flags=0x02)  # IFA_F_NODAD
    return index


def test_a_peer_keeps_its_tuple(pair: Pair, grouped: bool) -> None:
    receiver = DatagramReceiver(pair.rx.fileno())
    found = []
    for _ in range(3):
        pair.tx.send(b"x")
        wait_for(pair.rx, 1)
        found += receiver.receive(grouped)
    first, *others = (address for _, address in found)
    assert [address is first for address in others] == [True, True]


def test_so_do_many(make_udp: MakePair) -> None:
    rx = make_udp().rx
    receiver = DatagramReceiver(rx.fileno())
    with ExitStack() as stack:
        peers = [
            stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(MESSAGES)
        ]
        for tx in peers:
            tx.connect(rx.getsockname())
        for turn in range(3):
            for tx in peers if turn % 2 else reversed(peers):
                tx.send(b"x")
        wait_for(rx, 3 * MESSAGES)
        seen: dict[Any, set[int]] = {}
        kept = [entry for _ in range(3) for entry in receiver.receive(False)]
        for _, address in kept:
            seen.setdefault(address, set()).add(id(address))
        assert [*seen] == [tx.getsockname() for tx in reversed(peers)]
    same = [len(tuples) == 1 for tuples in seen.values()]
    assert sum(same) > MESSAGES / 2  # others may have the same place


def test_so_does_the_first_when_a_second_comes(make_udp: MakePair) -> None:
    kept = []
    for _ in range(8):
        one, two = make_udp(), make_udp(connected=False)
        for tx in (one.tx, two.tx, one.tx):
            tx.sendto(b"x", one.rx.getsockname())
        (_, first), _, (_, again) = read(one.rx, 3)
        kept.append(again is first)
    assert sum(kept) > 4  # they may have the same place


def test_more_peers_than_are_remembered(make_udp: MakePair) -> None:
    rx = make_udp().rx
    receiver = DatagramReceiver(rx.fileno())
    kept = []
    for i in range(2 * PEERS):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tx:
            tx.bind((f"127.0.{i >> 8}.{(i & 255) or 7}", 0))
            for _ in range(2):
                tx.sendto(b"x", rx.getsockname())
            wait_for(rx, 2)
            (_, first), (_, second) = receiver.receive(False)
            assert first == tx.getsockname()
            assert second is first
            kept.append(first)
    counts = [*map(sys.getrefcount, kept)]
    assert PEERS / 2 < sum(count > min(counts) for count in counts) <= PEERS


# -- errors


def test_an_error_of_the_socket_is_raised_once(grouped: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as rx:
        rx.bind((HOSTS[socket.AF_INET], 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind((HOSTS[socket.AF_INET], 0))
            address = peer.getsockname()
            rx.connect(address)
        rx.send(b"nobody is there")
        receiver = DatagramReceiver(rx.fileno())
        select.select([rx], [], [], 10)
        with pytest.raises(ConnectionRefusedError):
            receiver.receive(grouped)
        assert receiver.receive(grouped) == []


def test_what_waits_before_an_error_is_not_lost() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as rx:
        rx.bind((HOSTS[socket.AF_INET], 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind((HOSTS[socket.AF_INET], 0))
            rx.connect(peer.getsockname())
            peer.sendto(b"before", rx.getsockname())
        rx.send(b"nobody is there")
        receiver = DatagramReceiver(rx.fileno())
        with pytest.raises(ConnectionRefusedError):
            receiver.receive(False)
        assert datagrams(receiver.receive(False), False) == [b"before"]


def test_a_descriptor_that_is_no_socket() -> None:
    with open(os.devnull) as file, pytest.raises(OSError, match="non-socket"):
        DatagramReceiver(file.fileno()).receive(False)
    with pytest.raises(OSError, match="Bad file"):
        DatagramReceiver(-1).receive(False)


@pytest.mark.parametrize("arguments", [(), ("1",), (1, 2), (None,)])
def test_bad_arguments(arguments: tuple[Any, ...]) -> None:
    make: Callable[..., DatagramReceiver] = DatagramReceiver
    with pytest.raises(TypeError):
        make(*arguments)


# -- memory, and a call inside a call


def test_no_memory_is_kept(pair: Pair, grouped: bool) -> None:
    receiver = DatagramReceiver(pair.rx.fileno())

    def some(count: int) -> None:
        for _ in range(count):
            send_train(pair.tx, bytes(20_000), 1000)
            pair.tx.send(b"")
            wait_for(pair.rx, 20_000)
            receiver.receive(grouped)

    some(10)
    tracemalloc.start()
    try:
        some(10)
        before, _ = tracemalloc.get_traced_memory()
        some(200)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 20_000


def test_a_receiver_frees_its_addresses(make_udp: MakePair) -> None:
    rx = make_udp().rx
    with ExitStack() as stack:
        for _ in range(3):
            tx = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            tx.sendto(b"x", rx.getsockname())
        addresses = [address for _, address in read(rx, 3)]  # its receiver is gone
    fresh = [tuple(f"127.0.0.{i}") for i in range(3)]
    assert [*map(sys.getrefcount, addresses)] == [*map(sys.getrefcount, fresh)]


@pytest.fixture
def collecting() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Calls a function in each garbage collection, of which there are many."""
    thresholds, callbacks = gc.get_threshold(), gc.callbacks[:]

    def collect(function: Callable[[], None]) -> None:
        gc.callbacks.append(lambda phase, _: function() if phase == "start" else None)
        gc.set_threshold(1, 1, 1)

    yield collect
    gc.set_threshold(*thresholds)
    gc.callbacks[:] = callbacks


def test_a_call_inside_a_call(make_udp: MakePair, collecting: Callable[[Callable[[], None]], None]) -> None:
    """Before CPython 3.12 a collection runs wherever an object is made."""
    outer, inner = make_udp(), make_udp()
    receivers = [DatagramReceiver(each.rx.fileno()) for each in (outer, inner)]
    sent = [b"o%d" % i * 100 for i in range(20)]
    for i, data in enumerate(sent):
        outer.tx.send(data)
        inner.tx.send(b"i%d" % i * 100)
    for each in outer, inner:
        wait_for(each.rx, len(b"".join(sent)))
    got: list[Batch] = []
    collecting(lambda: got.append(receivers[1].receive(True)))
    batch = receivers[0].receive(True)
    gc.set_threshold(0)
    gc.collect()
    assert datagrams(batch, True) == sent
    assert [len(group) for each in got for group, _ in each] == [20]
