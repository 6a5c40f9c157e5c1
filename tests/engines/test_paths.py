"""A path that is a frame has the headers, the device and the MTU that the kernel has for the same socket."""

import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from frame_paths import (
    FRAME,
    MARK,
    PORT,
    Finder,
    add_route,
    capture,
    captured,
    index,
    kernels_header,
    link,
    quiet_hold,
    set_neighbour,
    without_lengths,
)

from uringzc import testing
from uringzc.testing.devices import FAR, NEAR
from uringzc.testing.sandboxes import Hold

pytestmark = [pytest.mark.engines(), testing.requires("net_admin")]

IP, IP6, SOL = socket.IPPROTO_IP, socket.IPPROTO_IPV6, socket.SOL_SOCKET
V4, V6 = socket.AF_INET, socket.AF_INET6
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, SO_MARK = 10, 23, 36
GROUP, GROUP6, GATEWAY, GATEWAY6 = "239.1.2.3", "ff15::1:2:3", "10.0.0.7", "fd00::7"
#: the address of a gateway, whose MAC is not FAR's
OTHER_MAC = "02:00:00:00:00:07"


@pytest.fixture
def box() -> Iterator[Hold]:
    with quiet_hold() as box:
        for address in (GATEWAY, GATEWAY6):
            set_neighbour(box, address, OTHER_MAC)
        yield box


class Case(NamedTuple):
    name: str
    family: int
    to: Any
    prepare: Callable[[Hold, socket.socket], object] = lambda box, sock: None
    connect: bool = False


def option(level: int, name: int, value: Any) -> Callable[[Hold, socket.socket], None]:
    def prepare(box: Hold, sock: socket.socket) -> None:
        sock.setsockopt(level, name, value)

    return prepare


def bound(*address: Any) -> Callable[[Hold, socket.socket], None]:
    return lambda box, sock: sock.bind(address)


def route(**what: Any) -> Callable[[Hold, socket.socket], None]:
    return lambda box, sock: add_route(box, **what)


def both(*steps: Callable[[Hold, socket.socket], object]) -> Callable[[Hold, socket.socket], object]:
    return lambda box, sock: [step(box, sock) for step in steps]


def second_address(box: Hold, sock: socket.socket) -> None:
    link(box, lambda ip: ip.addr("add", index=index(box), address="10.0.0.77", prefixlen=24))
    link(box, lambda ip: ip.addr("add", index=index(box), address="fd00::77", prefixlen=64, flags=2))


def to_device(box: Hold, sock: socket.socket) -> None:
    sock.setsockopt(SOL, socket.SO_BINDTODEVICE, box.device.encode())


def by_mark(box: Hold, sock: socket.socket) -> None:
    link(box, lambda ip: ip.rule("add", fwmark=7, table=77))
    add_route(box, dst="0.0.0.0/0", gateway=GATEWAY, table=77)
    sock.setsockopt(SOL, SO_MARK, 7)


def by_source(box: Hold, sock: socket.socket) -> None:
    second_address(box, sock)
    link(box, lambda ip: ip.rule("add", src="10.0.0.77", src_len=32, table=77))
    add_route(box, dst="0.0.0.0/0", gateway=GATEWAY, table=77)
    sock.bind(("10.0.0.77", 0))


def by_source_port(box: Hold, sock: socket.socket) -> None:
    link(box, lambda ip: ip.rule("add", sport_range="4567:4567", ip_proto=17, table=77))
    add_route(box, dst="0.0.0.0/0", gateway=GATEWAY, table=77)
    sock.bind(("", 4567))


def multicast_interface6(box: Hold, sock: socket.socket) -> None:
    sock.setsockopt(IP6, socket.IPV6_MULTICAST_IF, index(box))


def link_local(box: Hold) -> tuple[str, int, int, int]:
    return "fe80::2", PORT, 0, index(box)


def link_local_neighbour(box: Hold, sock: socket.socket) -> None:
    add_ifb(box, "fe80::3")  # without the scope, its route comes first
    link(box, lambda ip: ip.addr("add", index=index(box), address="fe80::1", prefixlen=64, flags=2))
    set_neighbour(box, "fe80::2")


broadcast = option(SOL, socket.SO_BROADCAST, 1)
FAR4, FAR6, MAPPED = (FAR.ip, PORT), (FAR.ip6, PORT), ("::ffff:10.0.0.2", PORT)
BEHIND, BEHIND6 = ("10.5.0.1", PORT), ("fd05::1", PORT)
CASES = [
    Case("nothing set", V4, FAR4),
    Case("connected", V4, FAR4, connect=True),
    Case("bound to an address and a port", V4, FAR4, bound(NEAR.ip, 4567)),
    Case("bound to a port", V4, FAR4, bound("", 4567)),
    Case("bound to the second address", V4, FAR4, both(second_address, bound("10.0.0.77", 0))),
    Case("bound to a group", V4, FAR4, bound(GROUP, 4567)),
    Case("without a port until it sends", V4, FAR4, both(option(IP, 24, 1), bound(NEAR.ip, 0))),
    Case("IP_TTL", V4, FAR4, option(IP, socket.IP_TTL, 3)),
    Case("IP_TOS", V4, FAR4, option(IP, socket.IP_TOS, 0xB9)),
    *(Case(f"IP_MTU_DISCOVER {value}", V4, FAR4, option(IP, IP_MTU_DISCOVER, value)) for value in range(6)),
    Case("gateway", V4, BEHIND, route(dst="10.5.0.0/24", gateway=GATEWAY)),
    Case("gateway of IPv6", V4, BEHIND, route(dst="10.5.0.0/24", via={"family": V6, "addr": GATEWAY6})),
    Case(
        "gateway on the link",
        V4,
        BEHIND,
        both(
            lambda box, sock: set_neighbour(box, "192.168.9.9", OTHER_MAC),
            route(dst="10.5.0.0/24", gateway="192.168.9.9", flags=4),
        ),
    ),
    Case(
        "preferred source",
        V4,
        BEHIND,
        both(second_address, route(dst="10.5.0.0/24", gateway=GATEWAY, prefsrc="10.0.0.77")),
    ),
    Case(
        "hop limit of the route",
        V4,
        BEHIND,
        route(dst="10.5.0.0/24", gateway=GATEWAY, metrics={"hoplimit": 9}),
    ),
    Case(
        "hop limit of the socket",
        V4,
        BEHIND,
        both(
            route(dst="10.5.0.0/24", gateway=GATEWAY, metrics={"hoplimit": 9}), option(IP, socket.IP_TTL, 3)
        ),
    ),
    Case(
        "locked MTU", V4, BEHIND, route(dst="10.5.0.0/24", gateway=GATEWAY, metrics={"lock": 4, "mtu": 1400})
    ),
    Case("route of the mark", V4, FAR4, by_mark),
    Case("route of the source address", V4, BEHIND, by_source),
    Case("route of the source port", V4, BEHIND, by_source_port),
    Case(
        "route of the TOS",
        V4,
        FAR4,
        both(route(dst="10.0.0.2/32", tos=0x10, gateway=GATEWAY), option(IP, socket.IP_TOS, 0x10)),
    ),
    Case(
        "SO_BINDTODEVICE without a route",
        V4,
        BEHIND,
        both(to_device, lambda box, sock: set_neighbour(box, BEHIND[0], OTHER_MAC)),
    ),
    Case("multicast", V4, (GROUP, PORT), both(to_device, option(IP, socket.IP_MULTICAST_TTL, 7))),
    Case("IP_MULTICAST_IF", V4, (GROUP, PORT), option(IP, socket.IP_MULTICAST_IF, socket.inet_aton(NEAR.ip))),
    Case(
        "IP_MULTICAST_IF and another address",
        V4,
        (GROUP, PORT),
        both(
            second_address,
            bound("10.0.0.77", 0),
            option(IP, socket.IP_MULTICAST_IF, socket.inet_aton(NEAR.ip)),
        ),
    ),
    Case(
        "multicast that IP_TTL is not for",
        V4,
        ("224.129.2.3", PORT),
        both(to_device, option(IP, socket.IP_TTL, 9)),
    ),
    Case(
        "multicast, connected",
        V4,
        (GROUP, PORT),
        option(IP, socket.IP_MULTICAST_IF, socket.inet_aton(NEAR.ip)),
        True,
    ),
    Case("multicast by the only device", V4, (GROUP, PORT), route(dst="224.0.0.0/4")),
    Case("broadcast", V4, ("10.0.0.255", PORT), broadcast),
    Case(
        "limited broadcast",
        V4,
        ("255.255.255.255", PORT),
        both(broadcast, to_device, option(IP, socket.IP_TTL, 5)),
    ),
    Case(
        "source of IP_MULTICAST_IF",
        V4,
        (GROUP, PORT),
        both(second_address, option(IP, socket.IP_MULTICAST_IF, socket.inet_aton("10.0.0.77"))),
    ),
    Case(
        "multicast that the route's hop limit is not for",
        V4,
        (GROUP, PORT),
        both(route(dst="224.0.0.0/4", metrics={"hoplimit": 9}), option(IP, socket.IP_MULTICAST_TTL, 64)),
    ),
    Case("IPv6", V6, FAR6),
    Case("IPv6, connected", V6, FAR6, connect=True),
    Case("IPv6, bound", V6, FAR6, both(second_address, bound("fd00::77", 4567))),
    Case("IPV6_UNICAST_HOPS", V6, FAR6, option(IP6, socket.IPV6_UNICAST_HOPS, 3)),
    Case("IPV6_TCLASS", V6, FAR6, option(IP6, socket.IPV6_TCLASS, 0xB9)),
    Case("IPv6 gateway", V6, BEHIND6, route(dst="fd05::/64", gateway=GATEWAY6, family=V6)),
    Case(
        "IPv6 preferred source",
        V6,
        BEHIND6,
        both(second_address, route(dst="fd05::/64", gateway=GATEWAY6, family=V6, prefsrc="fd00::77")),
    ),
    Case(
        "IPv6 hop limit of the route",
        V6,
        BEHIND6,
        route(dst="fd05::/64", gateway=GATEWAY6, family=V6, metrics={"hoplimit": 9}),
    ),
    Case("link-local", V6, link_local, link_local_neighbour),
    Case("link-local, connected", V6, link_local, link_local_neighbour, True),
    Case(
        "IPv6 multicast",
        V6,
        (GROUP6, PORT),
        both(multicast_interface6, option(IP6, socket.IPV6_MULTICAST_HOPS, 7)),
    ),
    Case(
        "IPv6 multicast on the link", V6, lambda box: ("ff02::1:3", PORT, 0, index(box)), link_local_neighbour
    ),
    Case("mapped", V6, MAPPED),
    Case("mapped, connected", V6, MAPPED, connect=True),
    Case("mapped, bound", V6, MAPPED, bound("::ffff:10.0.0.1", 4567)),
    Case(
        "mapped, IP_TTL and IP_TOS",
        V6,
        MAPPED,
        both(option(IP, socket.IP_TTL, 3), option(IP, socket.IP_TOS, 0x28)),
    ),
    Case("mapped, not IPV6_UNICAST_HOPS", V6, MAPPED, option(IP6, socket.IPV6_UNICAST_HOPS, 3)),
    Case(
        "mapped multicast",
        V6,
        ("::ffff:" + GROUP, PORT),
        both(to_device, option(IP, socket.IP_MULTICAST_TTL, 7)),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_headers_are_the_kernels(box: Hold, finder: Finder, case: Case) -> None:
    sock = finder.new_socket(case.family)
    case.prepare(box, sock)
    to = case.to(box) if callable(case.to) else case.to
    if case.connect:
        sock.connect(to)
        to = None
    path = finder.find(sock, to)
    assert path._replace(header=b"") == (FRAME, 0, index(box), path.mtu, b"", False, "")
    assert path.header == kernels_header(box, sock, to)


def test_a_header_that_differs_is_seen(box: Hold, finder: Finder) -> None:
    """The control of the test above: an option that is set after the path was found."""
    sock = finder.new_socket()
    path = finder.find(sock, FAR4)
    sock.setsockopt(IP, socket.IP_TTL, 3)
    assert path.header != kernels_header(box, sock, FAR4)
    assert finder.find(sock, FAR4).header == kernels_header(box, sock, FAR4)


UNICAST_IF = [(V4, IP, 50, ("10.0.0.2", PORT)), (V6, IP6, 76, ("fd00::2", PORT))]


@pytest.mark.parametrize(
    ("family", "level", "name", "to"), UNICAST_IF, ids=["IP_UNICAST_IF", "IPV6_UNICAST_IF"]
)
def test_the_interface_of_the_socket_counts(
    box: Hold, finder: Finder, family: int, level: int, name: int, to: Any
) -> None:
    ifb = add_ifb(box)
    sock = finder.new_socket(family)
    assert finder.find(sock, to).device == index(box)
    sock.setsockopt(level, name, struct.pack("!I", ifb))
    with capture(box, "ifb7") as tap:
        sock.sendto(MARK, to)
        frame = captured(tap)
    path = finder.find(sock, to)
    assert path.device == ifb
    assert path.header == without_lengths(frame)


def add_ifb(box: Hold, *more: str) -> int:
    """Another device of the sandbox, which is up and has addresses, routes and neighbours as the first."""

    def add(ip: Any) -> None:
        ip.link("add", ifname="ifb7", kind="ifb")
        device = socket.if_nametoindex("ifb7")
        ip.link("set", index=device, state="up")
        for address, length, other in (("10.0.0.3", 24, FAR.ip), ("fd00::3", 64, FAR.ip6)):
            ip.addr("add", index=device, address=address, prefixlen=length, flags=2)
            ip.neigh("add", ifindex=device, dst=other, lladdr=OTHER_MAC, state="permanent")
        for address in more:
            ip.addr("add", index=device, address=address, prefixlen=64, flags=2)

    link(box, add)
    return index(box, "ifb7")


# -- devices on devices


def test_a_device_on_another_takes_the_frame(box: Hold, finder: Finder) -> None:
    """A bridge, of which the sandbox's device is a port: the frame has its MAC, and is sent on it."""

    def add(ip: Any) -> None:
        ip.link("add", ifname="br7", kind="bridge", address="02:00:00:00:00:b7")
        bridge = socket.if_nametoindex("br7")
        ip.link("set", index=socket.if_nametoindex(box.device), master=bridge)
        ip.link("set", index=bridge, state="up")
        ip.addr("add", index=bridge, address="10.7.0.1", prefixlen=24)
        ip.neigh("add", ifindex=bridge, dst="10.7.0.2", lladdr=FAR.mac, state="permanent")

    link(box, add)
    assert_sent_on("br7", box, finder)


def test_a_vlan_device_tags_the_frame(box: Hold, finder: Finder) -> None:
    def add(ip: Any) -> None:
        from pyroute2 import NetlinkError

        try:
            ip.link("add", ifname="vlan7", kind="vlan", link=socket.if_nametoindex(box.device), vlan_id=7)
        except NetlinkError as error:
            pytest.skip(f"needs VLAN devices: CONFIG_VLAN_8021Q ({error})")
        vlan = socket.if_nametoindex("vlan7")
        ip.link("set", index=vlan, state="up")
        ip.addr("add", index=vlan, address="10.7.0.1", prefixlen=24)
        ip.neigh("add", ifindex=vlan, dst="10.7.0.2", lladdr=FAR.mac, state="permanent")

    link(box, add)
    assert assert_sent_on("vlan7", box, finder) == 7


def assert_sent_on(device: str, box: Hold, finder: Finder) -> int:
    """The kernel's datagram and one with the path's header, sent on the path's device, arrive alike.

    Returns their VLAN.
    """
    sock, to = finder.new_socket(), ("10.7.0.2", PORT)
    path = finder.find(sock, to)
    assert (path.kind, path.device, path.mtu) == (FRAME, index(box, device), 1500)
    raw = finder.new_socket(socket.AF_PACKET, socket.SOCK_RAW)
    raw.bind((device, 0))
    arrived = []
    with capture(box.peer) as tap:
        tap.setsockopt(263, 8, 1)  # PACKET_AUXDATA
        for framed in (False, True):
            raw.send(path.header + MARK) if framed else sock.sendto(MARK, to)
            while True:
                frame, ancillary, _, _ = tap.recvmsg(1 << 16, 1 << 10)
                if MARK in frame:
                    break
            vlan: int = struct.unpack_from("=H", ancillary[0][2], 16)[0]
            arrived.append((without_lengths(frame), vlan))
    assert arrived[0] == arrived[1] == (path.header, vlan)
    return vlan
