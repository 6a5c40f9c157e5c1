"""A path that is a frame has the headers, the device and the MTU that the kernel has for the same socket."""

import errno
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


@pytest.fixture
def finder(box: Hold) -> Iterator[Finder]:
    finder = Finder(box)
    yield finder
    finder.close()


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


def add_ifb(box: Hold) -> int:
    """Another device of the sandbox, which is up and has addresses, a route and neighbours as the first."""

    def add(ip: Any) -> None:
        ip.link("add", ifname="ifb7", kind="ifb")
        device = socket.if_nametoindex("ifb7")
        ip.link("set", index=device, state="up")
        for address, length, other in (("10.0.0.3", 24, FAR.ip), ("fd00::3", 64, FAR.ip6)):
            ip.addr("add", index=device, address=address, prefixlen=length, flags=2)
            ip.neigh("add", ifindex=device, dst=other, lladdr=OTHER_MAC, state="permanent")

    link(box, add)
    return index(box, "ifb7")


# -- MTU


MTUS = [
    ("the device's", {}, 1500),
    ("the route's", {"mtu": 1400}, 1400),
]


@pytest.mark.parametrize(("what", "metrics", "mtu"), MTUS, ids=[case[0] for case in MTUS])
@pytest.mark.parametrize("family", [V4, V6], ids=["IPv4", "IPv6"])
def test_the_mtu_is_the_kernels(
    box: Hold, finder: Finder, family: int, what: str, metrics: dict[str, int], mtu: int
) -> None:
    dst, gateway, to = ("10.5.0.0/24", GATEWAY, BEHIND) if family == V4 else ("fd05::/64", GATEWAY6, BEHIND6)
    add_route(box, dst=dst, gateway=gateway, family=family, metrics=metrics)
    sock = finder.new_socket(family)
    level, name, discover = (IP, 14, IP_MTU_DISCOVER) if family == V4 else (IP6, 24, IPV6_MTU_DISCOVER)
    assert finder.find(sock, to).mtu == mtu
    sock.connect(to)
    assert finder.find(sock).mtu == sock.getsockopt(level, name) == mtu
    sock.setsockopt(level, discover, 3)  # IP_PMTUDISC_PROBE
    assert finder.find(sock).mtu == 1500


@pytest.mark.parametrize("to", [FAR4, FAR6], ids=["IPv4", "IPv6"])
def test_the_mtu_of_a_device_changes(box: Hold, finder: Finder, to: Any) -> None:
    sock = finder.new_socket(V6 if ":" in to[0] else V4)
    assert finder.find(sock, to).mtu == 1500
    box.set_mtu(1300)
    assert finder.find(sock, to).mtu == 1300
    assert None in finder.forgotten


def test_the_mtu_that_a_router_reports_counts(box: Hold, finder: Finder) -> None:
    add_route(box, dst="10.5.0.0/24", gateway=FAR.ip)
    sock = finder.new_socket()
    sock.bind((NEAR.ip, 4567))
    assert finder.find(sock, BEHIND).mtu == 1500
    with box.peer.run(lambda: socket.socket(V4, socket.SOCK_RAW, socket.IPPROTO_ICMP)) as router:
        source, to = socket.inet_aton(NEAR.ip), socket.inet_aton(BEHIND[0])
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 1500, 0, 0x4000, 64, socket.IPPROTO_UDP, 0) + source + to
        ip += struct.pack("!HHHH", 4567, PORT, 1480, 0)
        icmp = struct.pack("!BBHHH", 3, 4, 0, 0, 1280) + ip  # fragmentation needed
        total = sum(struct.unpack(f"!{len(icmp) // 2}H", icmp))
        checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
        router.sendto(icmp[:2] + struct.pack("!H", checksum) + icmp[4:], (NEAR.ip, 0))
    assert finder.find(sock, BEHIND).mtu == 1280
    assert finder.find(sock, ("10.5.0.2", PORT)).mtu == 1500


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


# -- several next hops


HOPS = [
    (V4, "10.5.0.0/24", "10.5.0.{}", GATEWAY, FAR.ip),
    (V6, "fd05::/64", "fd05::{}", GATEWAY6, FAR.ip6),
]


@pytest.mark.parametrize("bind", [False, True], ids=["unbound", "bound"])
@pytest.mark.parametrize(("family", "dst", "to", "one", "other"), HOPS, ids=["IPv4", "IPv6"])
def test_each_destination_of_a_multipath_route_has_the_kernels_next_hop(
    box: Hold, finder: Finder, family: int, dst: str, to: str, one: str, other: str, bind: bool
) -> None:
    hops = [{"gateway": gateway, "oif": index(box)} for gateway in (one, other)]
    link(box, lambda ip: ip.route("add", dst=dst, family=family, multipath=hops))
    sock = finder.new_socket(family)
    if bind:
        sock.bind((NEAR.ip if family == V4 else NEAR.ip6, 0))
    macs = set()
    for number in range(1, 17):
        address = (to.format(number), PORT)
        header = finder.find(sock, address).header
        assert header == kernels_header(box, sock, address)
        macs.add(header[:6])
    assert len(macs) == 2


def test_a_nexthop_object_that_changes_is_followed(box: Hold, finder: Finder) -> None:
    add_nexthop(box, GATEWAY)
    body = struct.pack("=8BI", V4, 24, 0, 0, 254, 3, 0, 1, 0)  # a struct rtmsg
    attributes = attribute(1, socket.inet_aton("10.5.0.0")) + attribute(30, struct.pack("=I", 7))  # RTA_NH_ID
    talk(box, 24, body + attributes)  # RTM_NEWROUTE
    sock = finder.new_socket()
    assert finder.find(sock, BEHIND).header[:6].hex(":") == OTHER_MAC
    finder.take_forgotten()
    add_nexthop(box, FAR.ip)
    assert None in finder.take_forgotten()
    assert finder.find(sock, BEHIND).header[:6].hex(":") == FAR.mac


def add_nexthop(box: Hold, gateway: str) -> None:
    """`ip nexthop replace id 7`, which pyroute2 has not."""
    attributes = attribute(1, struct.pack("=I", 7)) + attribute(5, struct.pack("=I", index(box)))
    attributes += attribute(6, socket.inet_aton(gateway))  # NHA_ID, NHA_OIF, NHA_GATEWAY
    talk(box, 104, struct.pack("=4BI", V4, 0, 3, 0, 0) + attributes)  # RTM_NEWNEXTHOP


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value


def talk(box: Hold, kind: int, body: bytes) -> None:
    """A request to rtnetlink that makes or replaces something."""
    with box.run(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)) as netlink:
        netlink.send(struct.pack("=IHHII", 16 + len(body), kind, 0x505, 1, 0) + body)
        (code,) = struct.unpack_from("=i", netlink.recv(1 << 16), 16)
    assert not code, errno.errorcode[-code]
