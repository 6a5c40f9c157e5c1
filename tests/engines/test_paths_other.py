"""A path that is no frame: datagrams go through the socket, fail as its own would, or are frames already."""

import errno
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from frame_paths import ERROR, FRAME, PORT, RAW, SOCKET, Finder, add_route, index, link, quiet_hold
from raising import raises_errno

from uringzc import testing
from uringzc.address import pack
from uringzc.testing.devices import FAR, NEAR
from uringzc.testing.sandboxes import Hold

pytestmark = [pytest.mark.engines(), testing.requires("net_admin")]

IP, IP6, SOL = socket.IPPROTO_IP, socket.IPPROTO_IPV6, socket.SOL_SOCKET
V4, V6 = socket.AF_INET, socket.AF_INET6
GROUP, GROUP6 = ("239.1.2.3", PORT), ("ff15::1:2:3", PORT)
FAR4, FAR6 = (FAR.ip, PORT), (FAR.ip6, PORT)


@pytest.fixture
def box() -> Iterator[Hold]:
    with quiet_hold() as box:
        yield box


class Case(NamedTuple):
    name: str
    family: int
    to: Any
    why: str
    prepare: Callable[[Hold, socket.socket], object] = lambda box, sock: None
    type: int = socket.SOCK_DGRAM
    proto: int = 0


def option(level: int, name: int, value: Any) -> Callable[[Hold, socket.socket], None]:
    return lambda box, sock: sock.setsockopt(level, name, value)


def tun(box: Hold, sock: socket.socket) -> None:
    def add(ip: Any) -> None:
        ip.link("add", ifname="tun7", kind="tuntap", mode="tun")
        ip.link("set", index=socket.if_nametoindex("tun7"), state="up")
        ip.addr("add", index=socket.if_nametoindex("tun7"), address="10.7.0.1", prefixlen=24)

    link(box, add)


def encapsulation(box: Hold, sock: socket.socket) -> None:
    add_route(box, dst="fd05::/64", family=V6, encap={"type": "seg6", "mode": "encap", "segs": FAR.ip6})


def member(box: Hold, sock: socket.socket) -> None:
    add_route(box, dst="224.0.0.0/4")
    request = socket.inet_aton(GROUP[0]) + socket.inet_aton(NEAR.ip)
    sock.setsockopt(IP, socket.IP_ADD_MEMBERSHIP, request)


def member6(box: Hold, sock: socket.socket) -> None:
    request = socket.inet_pton(V6, GROUP6[0]) + struct.pack("=i", index(box))
    sock.setsockopt(IP6, socket.IPV6_JOIN_GROUP, request)


def two_devices(box: Hold, sock: socket.socket) -> None:
    add_route(box, dst="224.0.0.0/4")
    link(box, lambda ip: ip.link("add", ifname="veth7", kind="veth", peer="veth8"))
    link(box, lambda ip: ip.link("set", index=index(box, "veth7"), state="up"))
    sock.setsockopt(IP, socket.IP_MULTICAST_IF, struct.pack("=4s4si", b"", b"", index(box, "veth7")))


OWN, DEVICE = "the address is this machine's", "no Ethernet device"
UNFRAMED = [
    Case("loopback", V4, ("127.0.0.1", PORT), OWN),
    Case("own address", V4, (NEAR.ip, PORT), OWN),
    Case("no address", V4, ("0.0.0.0", PORT), OWN),
    Case("loopback of IPv6", V6, ("::1", PORT), OWN),
    Case("own address of IPv6", V6, (NEAR.ip6, PORT), OWN),
    Case("no address of IPv6", V6, ("::", PORT), OWN),
    Case("mapped loopback", V6, ("::ffff:127.0.0.1", PORT), OWN),
    Case("mapped no address", V6, ("::ffff:0.0.0.0", PORT), OWN),
    Case("no port", V4, (FAR.ip, 0), "the port is 0"),
    Case("tun", V4, ("10.7.0.2", PORT), f"tun7 is {DEVICE}", tun),
    Case(
        "route with an encapsulation", V6, ("fd05::1", PORT), "the route has an encapsulation", encapsulation
    ),
    Case("IP_OPTIONS", V4, FAR4, "IP_OPTIONS", option(IP, socket.IP_OPTIONS, b"\x94\x04\0\0")),
    Case("IPv6 extension headers", V6, FAR6, "extension headers", option(IP6, 59, b"\0" * 8)),
    Case("IPV6_FLOWINFO_SEND", V6, FAR6, "IPV6_FLOWINFO_SEND", option(IP6, 33, 1)),
    Case("IPV6_ADDR_PREFERENCES", V6, FAR6, "IPV6_ADDR_PREFERENCES", option(IP6, 72, 2)),
    Case("SO_DONTROUTE", V4, FAR4, "SO_DONTROUTE", option(SOL, socket.SO_DONTROUTE, 1)),
    Case(
        "bound to a broadcast address",
        V4,
        FAR4,
        "the address that",
        lambda box, sock: sock.bind(("10.0.0.255", 0)),
    ),
    Case(
        "connected to IPv6",
        V6,
        ("::ffff:10.0.0.2", PORT),
        "do not fit",
        lambda box, sock: sock.connect(FAR6),
    ),
    Case("member of the group", V4, GROUP, "a member of the group", member),
    Case("member of the IPv6 group", V6, GROUP6, "a member of the group", member6),
    Case("multicast with TTL 0", V4, GROUP, "a TTL of 0", option(IP, socket.IP_MULTICAST_TTL, 0)),
    Case("multicast for this machine", V6, ("ff01::1", PORT), "scope is this machine"),
    Case("multicast by one of two devices", V4, GROUP, "IP_MULTICAST_IF cannot be read", two_devices),
    Case("TCP", V4, FAR4, "not one of UDP", type=socket.SOCK_STREAM),
    Case("UDP-Lite", V4, FAR4, "not one of UDP", proto=136),
    Case("AF_UNIX", socket.AF_UNIX, None, "not one of UDP"),
    Case("AF_PACKET without Ethernet header", socket.AF_PACKET, None, "not of SOCK_RAW"),
    Case("PACKET_VNET_HDR", socket.AF_PACKET, None, "PACKET_VNET_HDR", option(263, 15, 1), socket.SOCK_RAW),
]


@pytest.mark.parametrize("case", UNFRAMED, ids=lambda case: case.name)
def test_what_cannot_be_framed_goes_through_the_socket(box: Hold, finder: Finder, case: Case) -> None:
    try:
        sock = finder.new_socket(case.family, case.type, case.proto)
    except OSError as error:
        pytest.skip(f"the kernel has no such socket: {error}")
    case.prepare(box, sock)
    path = finder.find(sock, case.to)
    assert path._replace(why="") == (SOCKET, 0, 0, 0, b"", False, "")
    assert case.why in path.why


def test_members_elsewhere_and_no_loop_are_frames(box: Hold, finder: Finder) -> None:
    """The control of the memberships above."""
    for family, to, join, level, loop in (
        (V4, GROUP, member, IP, socket.IP_MULTICAST_LOOP),
        (V6, GROUP6, member6, IP6, socket.IPV6_MULTICAST_LOOP),
    ):
        sock = finder.new_socket(family)
        join(box, sock)
        assert finder.find(sock, to).kind == SOCKET
        sock.setsockopt(level, loop, 0)
        assert finder.find(sock, to).kind == FRAME
        sock.setsockopt(level, loop, 1)
        other = ("239.1.2.4", PORT) if family == V4 else ("ff15::1:2:4", PORT)
        assert finder.find(sock, other).kind == FRAME


def test_a_member_that_joins_ends_the_frames(box: Hold, finder: Finder) -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        try:
            netlink.setsockopt(270, 1, 38)  # NETLINK_ADD_MEMBERSHIP, RTNLGRP_IPV6_MCADDR
        except OSError:
            pytest.skip("needs a kernel that reports memberships: Linux 6.15")
    sock, other = finder.new_socket(V6), finder.new_socket(V6)
    forgotten = True
    while forgotten:  # a device that an earlier test has removed may go only now
        assert finder.find(sock, GROUP6).kind == FRAME
        assert finder.find(sock, FAR6).kind == FRAME
        forgotten = bool(finder.take_forgotten())
    member6(box, other)
    assert finder.take_forgotten() == [(sock.fileno(), pack(V6, GROUP6))]
    assert finder.find(sock, GROUP6).kind == SOCKET


def test_a_socket_of_another_namespace_is_not_framed(box: Hold, finder: Finder) -> None:
    with box.peer.socket() as sock:
        path = finder.find(sock, (NEAR.ip, PORT))
    assert (path.kind, path.why) == (SOCKET, "the socket is of another network namespace")


# -- errors


def special(kind: str) -> Callable[[Hold, socket.socket], None]:
    def add(box: Hold, sock: socket.socket) -> None:
        link(box, lambda ip: ip.route("add", type=kind, dst="10.5.0.0/24"))
        link(box, lambda ip: ip.route("add", type=kind, dst="fd05::/64", family=V6))

    return add


def gone(box: Hold, sock: socket.socket) -> None:
    link(box, lambda ip: ip.link("add", ifname="ifb7", kind="ifb"))
    sock.setsockopt(SOL, socket.SO_BINDTODEVICE, b"ifb7")
    link(box, lambda ip: ip.link("del", index=index(box, "ifb7")))


ERRORS = [
    *(
        Case(f"{kind}, IPv{version}", family, to, code, special(kind))
        for kind, code in (("blackhole", "EINVAL"), ("unreachable", "EHOSTUNREACH"), ("prohibit", "EACCES"))
        for version, family, to in ((4, V4, ("10.5.0.1", PORT)), (6, V6, ("fd05::1", PORT)))
    ),
    Case("no route", V4, ("10.5.0.1", PORT), "ENETUNREACH"),
    Case("no route, bound", V4, ("10.5.0.1", PORT), "ENETUNREACH", lambda box, sock: sock.bind((NEAR.ip, 0))),
    Case("no route, IPv6", V6, ("fd05::1", PORT), "ENETUNREACH"),
    Case("no route for a group", V4, GROUP, "ENETUNREACH"),
    Case("no SO_BROADCAST", V4, ("10.0.0.255", PORT), "EACCES"),
    Case("not connected", V4, None, "EDESTADDRREQ"),
    Case("not connected, IPv6", V6, None, "EDESTADDRREQ"),
    Case(
        "mapped, IPV6_V6ONLY",
        V6,
        ("::ffff:10.0.0.2", PORT),
        "ENETUNREACH",
        option(IP6, socket.IPV6_V6ONLY, 1),
    ),
    Case("device is gone", V4, FAR4, "ENODEV", gone),
    Case("closed", V4, FAR4, "EBADF", lambda box, sock: sock.close()),
]


@pytest.mark.parametrize("case", ERRORS, ids=lambda case: case.name)
def test_an_error_is_the_sockets(box: Hold, finder: Finder, case: Case) -> None:
    sock = finder.new_socket(case.family)
    case.prepare(box, sock)
    path = finder.find(sock, case.to)
    assert (path.kind, errno.errorcode[path.error]) == (ERROR, case.why)
    assert path.why
    with pytest.raises(OSError) as caught:  # noqa: PT011, any errno
        sock.sendto(b"x", case.to) if case.to else sock.send(b"x")
    assert caught.value.errno == path.error


# -- packet sockets


def test_data_of_a_bound_packet_socket_is_the_frame(box: Hold, finder: Finder) -> None:
    sock = finder.new_socket(socket.AF_PACKET, socket.SOCK_RAW)
    path = finder.find(sock)
    assert (path.kind, path.error) == (ERROR, errno.ENXIO)
    sock.bind((box.device, 0))
    path = finder.find(sock)
    assert path._replace(why="") == (RAW, 0, index(box), 1500, b"", False, "")


def test_a_packet_socket_of_a_device_that_is_gone(box: Hold, finder: Finder) -> None:
    link(box, lambda ip: ip.link("add", ifname="ifb7", kind="ifb"))
    sock = finder.new_socket(socket.AF_PACKET, socket.SOCK_RAW)
    sock.bind(("ifb7", 0))
    assert finder.find(sock).kind == RAW
    link(box, lambda ip: ip.link("del", index=index(box, "ifb7")))
    assert finder.find(sock).error == errno.ENXIO
    assert None in finder.forgotten


def test_the_name_of_a_device(box: Hold, finder: Finder) -> None:
    assert finder.paths.device_name(index(box)) == box.device
    with raises_errno(errno.ENODEV, "No such device"):
        finder.paths.device_name(99)
