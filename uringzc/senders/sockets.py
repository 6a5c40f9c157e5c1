"""Sockets for senders: opened and configured, or checked."""

import errno
import ipaddress
import socket
import struct
from contextlib import suppress

from uringzc import address
from uringzc.address import Address
from uringzc.engines.tables import Sockets, require_socket, upper_protocol
from uringzc.kernel.features import UDP_SEGMENT
from uringzc.senders.pacing import Pacing

FAMILIES = (socket.AF_INET, socket.AF_INET6)
_SO_SNDBUFFORCE = 32
_SO_MAX_PACING_RATE = 47
#: IP_RECVERR and IPV6_RECVERR: level and option, and level and type of the error queue's control messages
RECVERR = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}


def open_udp(
    remote: Address | None, bind: Address | None, family: int | None, ttl: int | None, interface: str | None
) -> socket.socket:
    """A socket of the sender's own: bound and connected as asked.

    IP_RECVERR is set, so that ENOBUFS reports a full qdisc, which drops in silence otherwise.
    """
    if family is None:
        to = remote or bind
        family = address.family_of(to) if to else socket.AF_INET
    if family not in FAMILIES:
        raise ValueError(f"family is AF_INET or AF_INET6, not {family!r}")
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        six = family == socket.AF_INET6
        level = socket.IPPROTO_IPV6 if six else socket.IPPROTO_IP
        sock.setsockopt(*RECVERR[socket.AddressFamily(family)], 1)
        if ttl is not None:
            _set_ttl(sock, level, six, ttl)
        if interface is not None:
            _set_multicast_interface(sock, level, six, interface)
        for connects, to in ((False, bind), (True, remote)):
            if to is not None:  # with the scope id of a host like ``fe80::1%eth0``, which both calls drop
                _attach(sock, address.unpack(address.pack(family, to)), connects)
    except BaseException:
        sock.close()
        raise
    return sock


def _attach(sock: socket.socket, to: Address, connects: bool) -> None:
    """Binds or connects a socket, and says what an error means."""
    try:
        (sock.connect if connects else sock.bind)(to)
    except OSError as error:
        if error.errno == errno.EINVAL and (text := address.lacks_scope(to)):
            raise OSError(errno.EINVAL, text) from error
        if not connects or error.errno != errno.EACCES or len(to) == 4:
            raise
        text = f"{to[0]} is a broadcast address: give a `sock` that has SO_BROADCAST set"
        raise OSError(errno.EACCES, text) from error


def check_udp(sock: socket.socket) -> socket.socket:
    """Returns an existing socket if it can be sent through. TypeError, ValueError, or OSError EBADF."""
    require_socket(sock)
    if sock.fileno() < 0:
        raise OSError(errno.EBADF, "the socket is closed")
    if sock.family not in FAMILIES or sock.type != socket.SOCK_DGRAM:
        raise ValueError(f"a UdpSender sends through an IPv4 or IPv6 UDP socket, not {sock!r}")
    with suppress(OSError):  # a kernel without the option
        if sock.getsockopt(socket.IPPROTO_UDP, UDP_SEGMENT):
            raise ValueError("the socket has UDP_SEGMENT set, which would cut up datagrams: set it to 0")
    return sock


def path_mtu(sock: socket.socket) -> int:
    """Of a connected socket, as far as it is known. OSError for another."""
    six = sock.family == socket.AF_INET6
    return sock.getsockopt(*(socket.IPPROTO_IPV6, 24) if six else (socket.IPPROTO_IP, 14))  # IPV6_MTU, IP_MTU


def room_for(arena: int, max_inflight: int) -> int:
    """SO_SNDBUF for a full arena, or for `max_inflight` small requests, which are charged by the page."""
    return max(2 * arena, min(max_inflight * 5120, 16 << 20))


def check_tcp(sock: socket.socket) -> str:
    """Why an existing stream cannot send zero-copy, or "". TypeError, ValueError, or OSError EBADF."""
    zero_copy = Sockets().describe_socket(sock)[4]
    if sock.type != socket.SOCK_STREAM:
        raise ValueError(f"a TcpSender sends through a stream socket (SOCK_STREAM), not {sock!r}")
    if zero_copy:
        return ""
    if upper := upper_protocol(sock):
        return f"{upper} is in between"
    kind = f"protocol {sock.proto}" if sock.proto else getattr(sock.family, "name", str(sock.family))
    return f"{kind} has no zero-copy sends"


def make_room(sock: socket.socket, wanted: int) -> int:
    """Raises SO_SNDBUF to `wanted` bytes, or as far as this process may; returns what was granted.

    The kernel doubles what is set, since it charges its own structures too.
    """
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) < wanted:
        set_sndbuf(sock, min(wanted // 2, 0x3FFFFFFF))
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


def set_sndbuf(sock: socket.socket, size: int) -> None:
    """SO_SNDBUF, above net.core.wmem_max too where this process may."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, size)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)


def set_kernel_pacing(sock: socket.socket, pacing: Pacing | None) -> None:
    """SO_MAX_PACING_RATE, which the qdiscs fq and etf obey, so that a train is spread there too.

    The kernel counts headers, up to 62 bytes of each datagram, so it may send four times the payload's rate.
    """
    limit = int(4 * pacing.per_second) if pacing and pacing.counts_bytes else (1 << 64) - 1
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, struct.pack("=Q", limit))


def _set_ttl(sock: socket.socket, level: int, six: bool, ttl: int) -> None:
    if not isinstance(ttl, int) or not 0 <= ttl <= 255:
        raise ValueError(f"ttl is 0 to 255, not {ttl!r}")
    if six:
        sock.setsockopt(level, socket.IPV6_UNICAST_HOPS, ttl)
        sock.setsockopt(level, socket.IPV6_MULTICAST_HOPS, ttl)
        return
    if ttl:  # the kernel refuses 0 for unicast
        sock.setsockopt(level, socket.IP_TTL, ttl)
    sock.setsockopt(level, socket.IP_MULTICAST_TTL, ttl)


def _set_multicast_interface(sock: socket.socket, level: int, six: bool, interface: str) -> None:
    """Multicast is sent by the interface of that name or address."""
    try:
        at = ipaddress.ip_address(interface)
    except ValueError:
        at = None
    if at is not None and at.version == 4 and not six:
        sock.setsockopt(level, socket.IP_MULTICAST_IF, at.packed)
        return
    if at is not None:
        raise ValueError(
            f"the interface of an IPv{6 if six else 4} sender is a name{'' if six else ' or its address'}"
        )
    index = _index_of(sock, interface)
    if six:
        sock.setsockopt(level, socket.IPV6_MULTICAST_IF, index)
    else:
        sock.setsockopt(level, socket.IP_MULTICAST_IF, struct.pack("=4s4si", bytes(4), bytes(4), index))


def _index_of(sock: socket.socket, name: str) -> int:
    """In the network namespace of the socket, which need not be that of this thread."""
    import fcntl

    try:
        found = fcntl.ioctl(sock, 0x8933, struct.pack("=16sI12x", name.encode()[:15], 0))  # SIOCGIFINDEX
    except OSError as error:
        raise OSError(error.errno, f"no interface {name!r}: {error.strerror}") from None
    return int(struct.unpack_from("=I", found, 16)[0])
