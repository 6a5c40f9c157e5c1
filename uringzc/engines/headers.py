"""The headers in front of each datagram of a path, with zeros where they differ from one to the next."""

import socket
import struct

from uringzc.engines.flow import Flow
from uringzc.engines.netlink import Link, Route

_ETH_P: dict[int, int] = {socket.AF_INET: 0x0800, socket.AF_INET6: 0x86DD}
_DF = 0x4000
BROADCAST = b"\xff" * 6


def multicast_mac(group: bytes) -> bytes:
    """The Ethernet address of an IPv4 or IPv6 group."""
    if len(group) == 4:
        return b"\x01\x00\x5e" + bytes([group[1] & 0x7F]) + group[2:]
    return b"\x33\x33" + group[12:]


def header(flow: Flow, route: Route, link: Link, mac: bytes, hop_limit: int) -> bytes:
    """Ethernet, IPv4 or IPv6, UDP: lengths, the IPv4 id and the checksums are 0."""
    question = flow.question
    source = question.source or route.source
    ethernet = mac + link.mac + struct.pack("!H", _ETH_P[flow.family])
    udp = struct.pack("!HHHH", question.source_port, question.port, 0, 0)
    if flow.family == socket.AF_INET:
        fragment = _DF if flow.dont_fragment(route.locked) else 0
        ip = struct.pack("!BBHHHBBH", 0x45, flow.tos, 0, 0, fragment, hop_limit, socket.IPPROTO_UDP, 0)
    else:
        ip = struct.pack("!IHBB", 6 << 28 | flow.tos << 20, 0, socket.IPPROTO_UDP, hop_limit)
    return ethernet + ip + source + question.to + udp
