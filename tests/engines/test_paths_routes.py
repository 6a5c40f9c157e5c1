"""Paths have the MTU and the next hop that the kernel has, whatever the route is made of."""

import errno
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from frame_paths import PORT, Finder, add_route, index, kernels_header, link, quiet_hold, set_neighbour

from uringzc import testing
from uringzc.testing.devices import FAR, NEAR
from uringzc.testing.sandboxes import Hold

pytestmark = [pytest.mark.engines(), testing.requires("net_admin")]

IP, IP6 = socket.IPPROTO_IP, socket.IPPROTO_IPV6
V4, V6 = socket.AF_INET, socket.AF_INET6
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER = 10, 23
FAR4, FAR6 = (FAR.ip, PORT), (FAR.ip6, PORT)
BEHIND, BEHIND6 = ("10.5.0.1", PORT), ("fd05::1", PORT)
GATEWAY, GATEWAY6 = "10.0.0.7", "fd00::7"
#: of the gateways
OTHER_MAC = "02:00:00:00:00:07"


@pytest.fixture
def box() -> Iterator[Hold]:
    with quiet_hold() as box:
        for address in (GATEWAY, GATEWAY6):
            set_neighbour(box, address, OTHER_MAC)
        yield box


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
    box.run(no_routes_for_nexthops)
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


def no_routes_for_nexthops() -> None:
    """The kernel does not say that a nexthop's routes have changed, as it does by default."""
    with open("/proc/sys/net/ipv4/nexthop_compat_mode", "w") as mode:
        mode.write("0")


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
