"""What datagrams of a UDP socket to an address look like: what decides about their route, the header fields.

Read from the socket's options, as the kernel does at each send. What frames cannot do as the kernel would is
an `UnframedError`.
"""

import errno
import os
import socket
import struct
from contextlib import suppress
from typing import NamedTuple

from uringzc.engines.netlink import UnframedError
from uringzc.kernel.rtnetlink import Question, RefusedError

IP, IP6, SOL = socket.IPPROTO_IP, socket.IPPROTO_IPV6, socket.SOL_SOCKET
# socket(7), ip(7), ipv6(7): those that the socket module lacks
_SO_MARK, _SO_BINDTOIFINDEX = 36, 62
_IP_MTU_DISCOVER, _IP_UNICAST_IF = 10, 50
_IPV6_MTU_DISCOVER, _IPV6_FLOWINFO_SEND, _IPV6_ADDR_PREFERENCES, _IPV6_UNICAST_IF = 23, 33, 72, 76
_EXTENSION_HEADERS = (54, 55, 57, 59)  # IPV6_HOPOPTS, IPV6_RTHDRDSTOPTS, IPV6_RTHDR, IPV6_DSTOPTS
_NO_PREFERENCES = 0x500  # IPV6_PREFER_SRC_PUBTMP_DEFAULT, IPV6_PREFER_SRC_HOME
_PMTUDISC_WANT, _PMTUDISC_DO, _PMTUDISC_PROBE = 1, 2, 3
_MAPPED = bytes(10) + b"\xff\xff"
_ANY = {socket.AF_INET: bytes(4), socket.AF_INET6: bytes(16)}
_HOPS = (IP, socket.IP_TTL), (IP6, socket.IPV6_UNICAST_HOPS)


class Flow(NamedTuple):
    """The datagrams of a socket to an address."""

    question: Question  #: for their route
    multicast: bool
    source_device: bytes  #: IP_MULTICAST_IF: the address of the interface that they leave by
    broadcasts: bool  #: SO_BROADCAST
    loops: bool  #: members of the group on this machine get them too
    tos: int
    hop_limit: int
    discover: int  #: IP_MTU_DISCOVER

    @property
    def family(self) -> int:
        """Of the packets: AF_INET for mapped addresses."""
        return self.question.family

    @property
    def any_interface(self) -> bool:
        """It is a multicast whose interface cannot be read: IP_MULTICAST_IF with an index reads as unset."""
        return self.multicast and self.family == socket.AF_INET and not self.question.device

    @property
    def follows_path_mtu(self) -> bool:
        """Not with IP_PMTUDISC_PROBE, INTERFACE and OMIT: the device's MTU counts."""
        return self.discover < _PMTUDISC_PROBE

    def dont_fragment(self, locked: bool) -> bool:
        """The DF bit, on a route whose MTU may be locked."""
        wanted = (_PMTUDISC_DO, _PMTUDISC_PROBE)
        return self.discover in wanted or (self.discover == _PMTUDISC_WANT and not locked)


def flow(sock: socket.socket, to: bytes | None, bind: bool = True) -> Flow:
    """Of datagrams to a packed sockaddr, or to the peer. Binds the socket to a port, as its first send would,
    except with `bind` False.

    UnframedError; RefusedError with the errno that a send would have.
    """
    family = sock.family
    if family not in _ANY or sock.type != socket.SOCK_DGRAM or sock.proto not in (0, socket.IPPROTO_UDP):
        raise UnframedError("the socket is not one of UDP")
    address, port, scope = _packed_peer(sock) if to is None else _unpack(family, to)
    if not port:
        raise UnframedError("the port is 0")
    if bind and not sock.getsockname()[1]:
        _bind(sock)
    name = sock.getsockname()
    source, source_port = socket.inet_pton(family, name[0].partition("%")[0]), name[1]
    if sock.getsockopt(SOL, socket.SO_DONTROUTE):
        raise UnframedError("the socket has SO_DONTROUTE")
    if address[:12] == _MAPPED:
        if sock.getsockopt(IP6, socket.IPV6_V6ONLY):
            raise RefusedError(errno.ENETUNREACH)
        if source[:12] != _MAPPED and any(source):
            raise UnframedError("an IPv6 source address and a mapped IPv4 one do not fit")
        family, address, source = socket.AF_INET, address[12:], source[12:]
    if not any(address):
        raise UnframedError("the address is this machine's")
    build = _flow4 if family == socket.AF_INET else _flow6
    question = Question(
        family=family,
        to=address,
        port=port,
        source=source if any(source) else b"",
        source_port=source_port,
        device=_option(sock, SOL, _SO_BINDTOIFINDEX),
        mark=sock.getsockopt(SOL, _SO_MARK),
        tos=0,
        uid=os.fstat(sock.fileno()).st_uid,
    )
    found = build(sock, question, scope)
    if found.multicast and not found.hop_limit:
        raise UnframedError("multicast with a TTL of 0 stays on this machine")
    return found


def _flow4(sock: socket.socket, question: Question, scope: int) -> Flow:
    if sock.getsockopt(IP, socket.IP_OPTIONS, 40):
        raise UnframedError("the socket has IP_OPTIONS")
    multicast = question.to[0] >> 4 == 14
    if question.source and question.source[0] >> 4 == 14:  # bound to a group
        question = question._replace(source=b"")
    interface = b""
    if multicast:
        interface = sock.getsockopt(IP, socket.IP_MULTICAST_IF, 4)
        interface = interface if any(interface) else b""
        question = question._replace(source=question.source or interface)
    elif not question.device:
        question = question._replace(device=socket.ntohl(_option(sock, IP, _IP_UNICAST_IF)))
    tos = sock.getsockopt(IP, socket.IP_TOS)
    return Flow(
        question=question._replace(tos=tos),
        multicast=multicast,
        source_device=interface,
        broadcasts=bool(sock.getsockopt(SOL, socket.SO_BROADCAST)),
        loops=multicast and bool(sock.getsockopt(IP, socket.IP_MULTICAST_LOOP)),
        tos=tos,
        hop_limit=sock.getsockopt(IP, socket.IP_MULTICAST_TTL if multicast else socket.IP_TTL),
        discover=sock.getsockopt(IP, _IP_MTU_DISCOVER),
    )


def _flow6(sock: socket.socket, question: Question, scope: int) -> Flow:
    if question.source[:12] == _MAPPED:
        raise UnframedError("a mapped IPv4 source address and an IPv6 one do not fit")
    if any(sock.getsockopt(IP6, header, 64) for header in _EXTENSION_HEADERS):
        raise UnframedError("the socket has IPv6 extension headers")
    if sock.getsockopt(IP6, _IPV6_FLOWINFO_SEND):
        raise UnframedError("the socket has IPV6_FLOWINFO_SEND")
    if not question.source and _option(sock, IP6, _IPV6_ADDR_PREFERENCES, _NO_PREFERENCES) != _NO_PREFERENCES:
        raise UnframedError("the socket has IPV6_ADDR_PREFERENCES")
    multicast = question.to[0] == 0xFF
    if multicast and question.to[1] & 15 <= 1:
        raise UnframedError("the group's scope is this machine")
    link_local = question.to[:1] == b"\xfe" and question.to[1] & 0xC0 == 0x80
    needs_scope = link_local or (multicast and question.to[1] & 15 == 2)
    device = (scope if needs_scope else 0) or question.device
    if not device and multicast:
        device = sock.getsockopt(IP6, socket.IPV6_MULTICAST_IF)
    elif not device:
        device = socket.ntohl(_option(sock, IP6, _IPV6_UNICAST_IF))
    tclass = sock.getsockopt(IP6, socket.IPV6_TCLASS)
    hops = socket.IPV6_MULTICAST_HOPS if multicast else socket.IPV6_UNICAST_HOPS
    return Flow(
        question=question._replace(device=device, tos=tclass),
        multicast=multicast,
        source_device=b"",
        broadcasts=False,
        loops=multicast and bool(sock.getsockopt(IP6, socket.IPV6_MULTICAST_LOOP)),
        tos=tclass,
        hop_limit=sock.getsockopt(IP6, hops),
        discover=sock.getsockopt(IP6, _IPV6_MTU_DISCOVER),
    )


def default_hop_limits() -> dict[int, int]:
    """What sockets of this network namespace have that set none, by family of the packets."""
    found: dict[int, int] = {}
    for family, option in zip(_ANY, _HOPS, strict=True):
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
            found[family] = sock.getsockopt(*option)
    return found


def _packed_peer(sock: socket.socket) -> tuple[bytes, int, int]:
    try:
        peer = sock.getpeername()
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise
        raise RefusedError(errno.EDESTADDRREQ) from None
    return socket.inet_pton(sock.family, peer[0].partition("%")[0]), peer[1], (*peer, 0, 0)[3]


def _bind(sock: socket.socket) -> None:
    """To any port, and no address: the kernel does that first, before it says what is missing."""
    try:
        sock.send(b"", socket.MSG_DONTWAIT)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            raise UnframedError("no port is free") from None
        if error.errno != errno.EDESTADDRREQ:
            raise


def _unpack(family: int, to: bytes) -> tuple[bytes, int, int]:
    """Address, port, scope id of a sockaddr."""
    own, port = struct.unpack_from("=H", to)[0], struct.unpack_from("!H", to, 2)[0]
    if own != family:
        raise UnframedError("the address is of another family than the socket")
    if family == socket.AF_INET:
        return to[4:8], port, 0
    return to[8:24], port, struct.unpack_from("=I", to, 24)[0]


def _option(sock: socket.socket, level: int, option: int, default: int = 0) -> int:
    """`default` where the kernel has no such option."""
    try:
        return sock.getsockopt(level, option)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise
        return default
