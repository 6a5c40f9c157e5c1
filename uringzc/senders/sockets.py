"""What senders ask and set of any socket: its send buffer, the MTU, whether a stream can send zero-copy."""

import fcntl
import socket
import struct
import termios
from contextlib import suppress

from uringzc.engines.tables import Sockets, upper_protocol
from uringzc.senders.pacing import Pacing

_SO_SNDBUFFORCE = 32
_SO_MAX_PACING_RATE = 47
#: IP_RECVERR and IPV6_RECVERR: level and option, and level and type of the error queue's control messages
RECVERR = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}


def path_mtu(sock: socket.socket) -> int:
    """Of a connected socket, as far as it is known. OSError for another."""
    six = sock.family == socket.AF_INET6
    return sock.getsockopt(*(socket.IPPROTO_IPV6, 24) if six else (socket.IPPROTO_IP, 14))  # IPV6_MTU, IP_MTU


def unsent_bytes(sock: socket.socket) -> int:
    """Bytes of SO_SNDBUF that are in use (SIOCOUTQ)."""
    return int(struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0])


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
