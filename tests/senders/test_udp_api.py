"""The contracts of a UdpSender, call by call: results, destinations, errors."""

import errno
import os
import random
import socket
import struct
from array import array
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import pytest
from conftest import MakePair, Pair
from raising import raises_errno
from traffic import sender_without_timer

from uringzc import SendError, UdpSender, testing

FAMILIES = [socket.AF_INET, socket.AF_INET6]
IP_RECVTTL, UDP_SEGMENT, SO_INCOMING_CPU = 12, 103, 49


# -- results


def test_every_call_returns_what_it_took(udp_pair: Pair) -> None:
    with sender_without_timer(udp_pair.rx) as s:
        assert [s.send(b"x"), s.send(bytearray(700)), s.send(bytes(20_000)), s.send(array("I", [1, 2]))] == [
            1,
            700,
            20_000,
            8,
        ]
        assert s.send_many([b"ab", b"cd", bytearray(3)]) == 3
        assert s.send_many([]) == 0
        assert s.send_region(s.register(2500), segment=1000) == 3
        assert s.send_slices(bytes(100), [0, 50], [10, 20]) == 2
        assert s.send_slices(b"", [], []) == 0
        with s.lease(10) as lease:
            assert (len(lease), lease.send(4)) == (10, 4)
        notifier = s.flush()
        notifier.wait(10)
        assert notifier.done
        assert s.flush().done  # of nothing
        fan = s.fan_out(b"to both", [udp_pair.rx.getsockname()] * 2)
        fan.wait(10)
        assert fan.done
        s.drain()
        s.close()
        s.close()
    sizes = [1, 700, 20_000, 8, 2, 2, 3, 1000, 1000, 500, 10, 20, 4, 7, 7]
    assert [len(data) for data in udp_pair.receive(len(sizes))] == sizes


@pytest.mark.parametrize("family", FAMILIES)
def test_empty_datagrams_arrive(make_udp: MakePair, family: int) -> None:
    pair = make_udp(family)
    with sender_without_timer(pair.rx) as s:
        assert s.send(b"") == 0
        s.drain()
        assert pair.receive(1) == [b""]
        s.send_many([b"a" * 10, b"", b"", b"b" * 10, bytearray()])
        s.send(b"c" * 10)
        s.send(b"")
        assert s.send_slices(b"123", [0, 1, 3], [1, 0, 0]) == 3
        with s.lease(0) as lease:
            assert lease.send() == 0
        s.fan_out(b"", [pair.rx.getsockname()])
        s.drain()
        expected = [b"a" * 10, b"", b"", b"b" * 10, b"", b"c" * 10, b"", b"1", b"", b"", b"", b""]
        assert pair.receive(len(expected)) == expected
        assert s.stats.datagrams == 1 + len(expected)
    assert pair.empty()


@pytest.mark.parametrize("strict_order", [False, True])
@pytest.mark.parametrize("zero_copy", ["auto", "always", "never"])
def test_each_destination_gets_its_datagrams_in_order(
    make_udp: MakePair, zero_copy: str, strict_order: bool
) -> None:
    """Sizes and destinations change at random; each destination has its own in the order of the calls."""
    pairs = [make_udp() for _ in range(3)]
    chance = random.Random(3)
    expected: list[list[bytes]] = [[], [], []]
    with UdpSender(zero_copy=zero_copy, strict_order=strict_order, max_delay=None) as s:
        for i in range(600):
            which = chance.randrange(3)
            size = chance.choice((8, 100, 100, 1200, 1200, 1200, 5000, 17_000))
            expected[which].append(struct.pack("=Q", i) + bytes(size - 8))
            for _ in range(chance.choice((1, 1, 4))):
                s.send(expected[which][-1], pairs[which].rx.getsockname())
                expected[which].append(expected[which][-1])
            expected[which].pop()
        s.drain()
        assert s.stats.reordered == 0
    for pair, sent in zip(pairs, expected, strict=True):
        assert pair.receive(len(sent)) == sent
        assert pair.empty()


# -- destinations


@pytest.mark.parametrize("family", FAMILIES)
def test_every_way_to_give_a_destination(make_udp: MakePair, family: int) -> None:
    """Connected, remote on a socket of its own or of the program's, and an address for each call."""
    first, other = make_udp(family), make_udp(family, connected=False)
    to, also = first.rx.getsockname(), other.rx.getsockname()
    with UdpSender(sock=first.tx) as s:
        s.send(b"1" * 100)
        s.send(b"2" * 100, to=also)
        s.send(b"3" * 100)
    with UdpSender(to, sock=other.tx) as s:
        s.send(b"4" * 100)
        s.send(data=b"5" * 100, to=also[:2])
        s.sendto(b"6" * 100, also)
    with UdpSender(to) as s:
        s.send(b"7" * 100)
        s.send(b"8" * 100, also)
    with UdpSender(family=family) as s:
        s.send_many([b"9" * 100] * 2, to)
        s.send_region(bytes(200), segment=100, to=also)
        s.send_slices(bytes(9), [0], [9], to=also)
        lease = s.lease(10)
        lease.view[:] = b"L" * 10
        lease.send(to=to)
    assert [data[:1] for data in first.receive(7)] == [b"1", b"3", b"4", b"7", b"9", b"9", b"L"]
    assert [data[:1] for data in other.receive(7)] == [b"2", b"5", b"6", b"8", *[b"\0"] * 3]
    assert first.empty()
    assert other.empty()


def test_host_names_are_resolved(udp_pair: Pair) -> None:
    port = udp_pair.rx.getsockname()[1]
    with UdpSender(("localhost", port), family=socket.AF_INET) as s:
        s.send(b"remote")
        s.send(b"to", ("localhost", port))
        s.send_many([b"many"], ("localhost", port))
        s.send_many([b"one", b"each"], [("localhost", port), ("127.0.0.1", port)])
    assert udp_pair.receive(5) == [b"remote", b"to", b"many", b"one", b"each"]


def test_a_call_without_destination_takes_nothing(udp_pair: Pair) -> None:
    """The call says so, and has taken nothing."""
    with UdpSender(max_delay=None) as tx:
        calls: list[Callable[[], object]] = [
            lambda: tx.send(b"x"),
            lambda: tx.send(b"x" * 20_000),
            lambda: tx.send_many([b"x", b"y"]),
            lambda: tx.send_region(bytearray(100), segment=10),
            lambda: tx.send_slices(bytearray(100), [0], [10]),
            tx.lease(10).send,
        ]
        for call in calls:
            with raises_errno(errno.EDESTADDRREQ, "no destination: give `to`"):
                call()
        assert (tx.stats.datagrams, tx.stats.destinations) == (0, 0)
        tx.send(b"z", to=udp_pair.rx.getsockname())
        assert tx.stats.destinations == 1
    assert udp_pair.receive(1) == [b"z"]


def test_a_socket_may_be_connected_later(udp_pair: Pair) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, UdpSender(sock=sock) as tx:
        with pytest.raises(OSError, match="no destination"):
            tx.send(b"x")
        sock.connect(udp_pair.rx.getsockname())
        assert tx.send(b"y") == 1
        tx.flush()
        assert tx.stats.destinations == 1
    assert udp_pair.receive(1) == [b"y"]


def test_destinations_are_those_that_were_sent_to(udp_pair: Pair) -> None:
    with UdpSender(udp_pair.rx.getsockname()) as tx:
        assert tx.stats.destinations == 0
        tx.send(b"x")
        assert tx.stats.destinations == 1
    udp_pair.receive(1)


@pytest.mark.parametrize(("size", "words"), [(0, "0 bytes"), (1, "1 byte"), (2, "2 bytes")])
def test_an_error_says_which_datagram(size: int, words: str) -> None:
    to = ("255.255.255.255", 9)  # EACCES without SO_BROADCAST
    with UdpSender() as s:
        s.send(bytes(size), to)
        with pytest.raises(SendError) as caught:
            s.flush()
    text = f"Permission denied: datagram number 0 ({words}) to {to} was not sent"
    assert (caught.value.strerror, caught.value.index) == (text, 0)


def test_an_error_of_an_earlier_datagram_says_so(udp_pair: Pair) -> None:
    to = udp_pair.rx.getsockname()
    udp_pair.rx.close()
    said: list[str | None] = []
    with UdpSender(to, on_error=lambda error: said.append(error.strerror)) as s:
        while not said:
            s.send(b"nobody listens")
            s.flush()
    assert {*said} == {f"Connection refused: reported for an earlier datagram to {to}"}


@testing.requires("net_admin")
def test_a_scoped_address_reaches_its_link(box: testing.Hold) -> None:
    """All nodes of the link, which only the scope identifies."""
    index = box.run(lambda: socket.if_nametoindex(box.device))
    with closing(box.peer.socket(socket.AF_INET6)) as rx, closing(box.socket(socket.AF_INET6)) as tx:
        rx.bind(("::", testing.PORT))
        rx.settimeout(10)
        with UdpSender(sock=tx) as s:
            s.send_many([b"scoped" * 50] * 2, ("ff02::1", testing.PORT, 0, index))
        assert [rx.recv(1000), rx.recv(1000)] == [b"scoped" * 50] * 2


@testing.requires("net_admin")
def test_an_unknown_host_is_named_in_the_error(box: testing.Hold) -> None:
    """In a network without a name server."""
    to = ("no such host", 9)
    match = r"^\[Errno -\d+\] 'no such host' is no host: "
    for family in (None, socket.AF_INET):
        with pytest.raises(socket.gaierror, match=match):
            box.run(lambda family=family: UdpSender(to, family=family))  # type: ignore[misc]
    with box.run(UdpSender) as s, pytest.raises(socket.gaierror, match=match):
        box.run(lambda: s._slow_path.pack(to))


@pytest.mark.parametrize("host", ["fe80::1", "ff02::1"])
@pytest.mark.parametrize("what", ["remote", "bind"])
def test_a_link_local_address_needs_its_interface(host: str, what: str) -> None:
    options: Any = {what: (host, 9), "family": socket.AF_INET6}
    with raises_errno(errno.EINVAL, rf"{host} is a link-local address.* as in {host}%\w+$"):
        UdpSender(**options)


@testing.requires("net_admin")
def test_a_scope_may_follow_the_host(box: testing.Hold) -> None:
    """As every tool prints such an address: in `remote` and `bind` too, and not only in each call."""
    with closing(box.peer.socket(socket.AF_INET6)) as rx, closing(box.socket(socket.AF_INET6)) as plain:
        rx.bind(("::", testing.PORT))
        rx.settimeout(10)
        group = (f"ff02::1%{box.device}", testing.PORT)
        with pytest.raises(OSError, match="Invalid argument"):  # the control: what a socket makes of it
            box.run(lambda: plain.connect(group))
        with box.run(lambda: UdpSender(group)) as s:
            s.send(b"scoped")
        assert rx.recv(1000) == b"scoped"


@testing.requires("net_admin")
def test_broadcast_needs_so_broadcast(box: testing.Hold) -> None:
    to = ("10.0.0.255", testing.PORT)
    with pytest.raises(PermissionError, match=r"10\.0\.0\.255 is a broadcast address: .*SO_BROADCAST"):
        box.run(lambda: UdpSender(to))
    with closing(box.peer.socket()) as rx, closing(box.socket()) as tx:
        rx.bind(("", testing.PORT))
        rx.settimeout(10)
        tx.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        with UdpSender(to, sock=tx) as s:
            s.send(b"to all")
        assert rx.recv(1000) == b"to all"


@testing.requires("net_admin")
@pytest.mark.parametrize("by_address", [False, True])
def test_multicast_options_apply(box: testing.Hold, by_address: bool) -> None:
    interface = "10.0.0.1" if by_address else box.device
    with closing(box.peer.socket()) as rx:
        rx.bind(("", testing.PORT))
        rx.settimeout(10)
        rx.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        group = socket.inet_aton("239.1.2.3") + socket.inet_aton(box.address[0])
        rx.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        with box.run(lambda: UdpSender(("239.1.2.3", testing.PORT), ttl=7, interface=interface)) as s:
            assert s._sock.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL) == 7
            if by_address:
                assert s._sock.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, 4) == socket.inet_aton(
                    interface
                )
            s.send_many([b"m" * 500] * 3)
            s.drain()
        for _ in range(3):
            data, control, _, _ = rx.recvmsg(1000, 100)
            assert data == b"m" * 500
            assert (socket.IPPROTO_IP, socket.IP_TTL, struct.pack("i", 7)) in control


@testing.requires("net_admin")
def test_multicast_options_apply_to_ipv6(box: testing.Hold) -> None:
    index = box.run(lambda: socket.if_nametoindex(box.device))
    there = box.peer.run(lambda: socket.if_nametoindex(box.peer.device))
    with closing(box.peer.socket(socket.AF_INET6)) as rx:
        rx.bind(("::", testing.PORT))
        rx.settimeout(10)
        group = socket.inet_pton(socket.AF_INET6, "ff15::7") + struct.pack("I", there)
        rx.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
        with box.run(lambda: UdpSender(("ff15::7", testing.PORT), ttl=7, interface=box.device)) as s:
            for option, value in ((socket.IPV6_MULTICAST_HOPS, 7), (socket.IPV6_MULTICAST_IF, index)):
                assert s._sock.getsockopt(socket.IPPROTO_IPV6, option) == value
            s.send_many([b"m" * 500] * 3)
        assert [rx.recv(1000) for _ in range(3)] == [b"m" * 500] * 3


def options(sock: socket.socket) -> list[object]:
    """What a sender must not change."""
    found: list[object] = [sock.gettimeout(), sock.getsockname(), sock.getpeername()]
    volatile = [(socket.SOL_SOCKET, socket.SO_SNDBUF), (socket.SOL_SOCKET, SO_INCOMING_CPU)]
    if os.environ["URINGZC_ENGINE"] == "msg_zerocopy":
        volatile.append((socket.SOL_SOCKET, 60))  # SO_ZEROCOPY, without which there would be none
    for level in (socket.SOL_SOCKET, socket.IPPROTO_IP, socket.IPPROTO_UDP):
        for option in range(130):
            if (level, option) not in volatile:
                with suppress(OSError):
                    found.append((level, option, sock.getsockopt(level, option, 64)))
    return found


@pytest.mark.parametrize("timeout", [None, 0.0, 3.0])
def test_the_programs_socket_keeps_its_options(udp_pair: Pair, timeout: float | None) -> None:
    """It stays open, and as it was but for SO_SNDBUF."""
    udp_pair.tx.settimeout(timeout)
    before = options(udp_pair.tx)
    with UdpSender(sock=udp_pair.tx) as s:
        for size in (300, 1200, 1200, 1200, 20_000):
            s.send(bytes(size))
        s.drain()
        assert udp_pair.tx.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == s.stats.sndbuf
    assert options(udp_pair.tx) == before
    udp_pair.tx.send(bytes(500))
    assert [len(data) for data in udp_pair.receive(6)] == [300, 1200, 1200, 1200, 20_000, 500]


def test_a_socket_with_udp_segment_is_refused(udp_pair: Pair) -> None:
    udp_pair.tx.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 512)
    with pytest.raises(ValueError, match="UDP_SEGMENT"):
        UdpSender(sock=udp_pair.tx)
    udp_pair.tx.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 0)
    with UdpSender(sock=udp_pair.tx) as s:
        for size in (300, 1200, 1200, 20_000):
            s.send(bytes(size))
    assert udp_pair.tx.getsockopt(socket.IPPROTO_UDP, UDP_SEGMENT) == 0
    assert [len(data) for data in udp_pair.receive(4)] == [300, 1200, 1200, 20_000]


# -- errors of a call


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "bad",
    ["text", None, 5, ["list"], memoryview(bytes(100))[::2], bytes(65_528), bytearray(1 << 20)],
    ids=["str", "None", "int", "list", "strided", "too large", "mutable, too large"],
)
def test_bad_data_raises_as_with_a_socket(make_udp: MakePair, family: int, bad: Any) -> None:
    pair = make_udp(family)
    to = pair.rx.getsockname()
    with sender_without_timer(pair.rx) as s, socket.socket(family, socket.SOCK_DGRAM) as other:
        both: list[tuple[Callable[[], object], Callable[[], object]]] = [
            (lambda: pair.tx.send(bad), lambda: s.send(bad)),
            (lambda: other.sendto(bad, to), lambda: s.sendto(bad, to)),
            (lambda: other.sendto(bad, to), lambda: s.send_many([bad], to)),
            (lambda: other.sendto(bad, to), lambda: s.fan_out(bad, [to])),
        ]
        for theirs, ours in both:
            with pytest.raises((TypeError, BufferError, OSError)) as expected:
                theirs()
            with pytest.raises(type(expected.value)) as caught:
                ours()
            assert getattr(caught.value, "errno", 0) == getattr(expected.value, "errno", 0)
        assert s.stats.datagrams == 0
        s.send(b"good")
        s.drain()
    assert pair.receive(1) == [b"good"]
    assert pair.empty()


ADDRESSES: list[tuple[Any, type[Exception]]] = [
    (5, TypeError),
    ("127.0.0.1", TypeError),
    (("127.0.0.1",), TypeError),
    (("127.0.0.1", "9"), TypeError),
    ((None, 9), TypeError),
    (("127.0.0.1", 9, 0, 0), TypeError),
    (("127.0.0.1", 70_000), ValueError),
    (("127.0.0.1", -1), ValueError),
    (("::1", 9), socket.gaierror),
    (("127.0.0.1\0", 9), ValueError),
    (("127.0.0.1\0.example", 9), ValueError),
    (("localhost\0.example", 9), ValueError),
    (("\ud800", 9), UnicodeError),
    (("127.0.0.1\udcff", 9), UnicodeError),
    (("ü" * 1000, 9), UnicodeError),
    (("x" * 100_000, 9), socket.gaierror),
    (("." * 5000, 9), socket.gaierror),
    (("127.0.0.1%lo", 9), socket.gaierror),
    (("127.0.0.1 ", 9), socket.gaierror),
    (("127.0.0.1", 10**400), ValueError),
    (("127.0.0.1", float("nan")), TypeError),
    (("127.0.0.1", True), TypeError),
    ((b"127.0.0.1", 9), TypeError),
    ({"127.0.0.1": 9}, TypeError),
]


@pytest.mark.parametrize(("to", "kind"), ADDRESSES)
def test_a_call_with_a_bad_address_takes_nothing(udp_pair: Pair, to: Any, kind: type[Exception]) -> None:
    with sender_without_timer(udp_pair.rx) as s:
        lease = s.lease(5)
        tries: list[Callable[[], object]] = [
            lambda: s.send(b"x", to),
            lambda: s.sendto(b"x", to),
            lambda: s.send_many([b"x"], [to]),
            lambda: s.fan_out(b"x", [to]),
            lambda: lease.send(to=to),
            lambda: s.send_region(b"x", to=to),
            lambda: s.send_slices(b"x", [0], [1], to=to),
        ]
        for call in tries:
            with pytest.raises(kind):
                call()
            assert s.stats.datagrams == 0
        lease.view[:] = b"whole"
        lease.send()
    assert udp_pair.receive(1) == [b"whole"]


@pytest.mark.parametrize(
    ("offsets", "lengths", "kind"),
    [
        ([0, 95], [10, 6], ValueError),
        ([0, -1], [10, 5], ValueError),
        ([0, 5], [10, -5], ValueError),
        ([0, 101], [10, 0], ValueError),
        ([0, 2**62], [10, 2**62], ValueError),
        ([0, 1], [10], ValueError),
        (array("i", [0, -1]), array("i", [10, 5]), ValueError),
        (array("q", [0, -(2**63)]), array("Q", [10, 2**64 - 1]), ValueError),
        (array("d", [0, 1]), [10, 10], TypeError),
        (["0", "1"], [10, 10], TypeError),
        (memoryview(bytes(32)).cast("q", [2, 2]), [1, 1], TypeError),
        (memoryview(array("q", [0, 1, 2, 3]))[::2], [1, 1], TypeError),
    ],
)
def test_slices_are_checked_before_any_is_sent(
    udp_pair: Pair, offsets: Any, lengths: Any, kind: type[Exception]
) -> None:
    with sender_without_timer(udp_pair.rx) as s:
        with pytest.raises(kind):
            s.send_slices(bytes(100), offsets, lengths)
        with pytest.raises(ValueError, match="65508 bytes"):
            s.send_slices(bytes(70_000), [0, 0], [10, 65_508])
        assert s.stats.datagrams == 0
        s.send(b"good")
    assert udp_pair.receive(1) == [b"good"]
    assert udp_pair.empty()


def test_a_released_memoryview_is_no_iterable(udp_pair: Pair) -> None:
    """CPython returns an iterator of it, with an exception set."""
    released: Any = memoryview(bytearray(40))
    released.release()
    with UdpSender(sock=udp_pair.tx) as s:
        for call in (
            lambda: s.send_many(released),  # the first call of the sender, which finds out where to
            lambda: s.send_many([b"x"], released),
            lambda: s.fan_out(b"x", released),
            lambda: s.group().send_many(released),
        ):
            with pytest.raises(ValueError, match="released"):
                call()
        assert s.stats.datagrams == 0
