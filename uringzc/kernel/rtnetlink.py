"""rtnetlink messages as bytes: a socket to the kernel, requests and their answers, and `ip route get`.

Requests are packed here: pyroute2's rtmsg has no RTA_UID, RTA_SPORT, RTA_DPORT. Sockets stay in the network
namespace of the thread that made them. The kernel answers within send(), so no call waits.
"""

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

# rtnetlink(7)
GETROUTE = 26
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_MULTI = 0x1, 0x2
_RTA_DST, _RTA_SRC, _RTA_OIF, _RTA_MARK = 1, 2, 4, 16
_RTA_UID, _RTA_IP_PROTO, _RTA_SPORT, _RTA_DPORT = 25, 27, 28, 29
_RTMSG = 12  # bytes of a struct rtmsg
_SO_NETNS_COOKIE = 71  # Linux 5.14
RECEIVE = 1 << 16


class RefusedError(Exception):
    """The kernel's errno for what a send would do. (No OSError: that may be a signal handler's.)"""

    def __init__(self, code: int, text: str = "") -> None:
        super().__init__(text or os.strerror(code))
        self.code = code


class Question(NamedTuple):
    """What decides about a route: of struct flowi."""

    family: int
    to: bytes
    port: int
    source: bytes  #: b"": none yet
    source_port: int
    device: int  #: 0: any
    mark: int
    tos: int
    uid: int


class Message(NamedTuple):
    """One of those in `data`: its body is data[start + 16 : end]."""

    kind: int
    flags: int
    sequence: int
    data: bytes
    start: int
    end: int


def open_socket() -> socket.socket:
    """Of this thread's network namespace; OSError."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    sock.bind((0, 0))  # without an address of its own it gets no changes
    return sock


def namespace(sock: socket.socket) -> bytes:
    """SO_NETNS_COOKIE of any socket, b"" before Linux 5.14."""
    try:
        return sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise
        return b""


def attribute(kind: int, value: bytes) -> bytes:
    """A struct rtattr, padded."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(message: Message, head: int) -> Iterator[tuple[int, bytes]]:
    """Kinds and values of those behind `head` bytes of the body."""
    at = message.start + 16 + head
    while at + 4 <= message.end:
        size, kind = struct.unpack_from("=HH", message.data, at)
        yield kind, message.data[at + 4 : at + size]
        at += max(4, (size + 3) & ~3)


def messages(data: bytes) -> Iterator[Message]:
    """Those of a datagram."""
    start = 0
    while start + 16 <= len(data):
        size, kind, flags, sequence = struct.unpack_from("=IHHI", data, start)
        yield Message(kind, flags, sequence, data, start, start + size)
        start += (size + 3) & ~3


def answers(sock: socket.socket, number: int, kind: int, body: bytes, flags: int = 0) -> list[Message]:
    """Makes a request with this number, and returns what the kernel says. RefusedError."""
    head = struct.pack("=IHHII", 16 + len(body), kind, _NLM_F_REQUEST | flags, number, 0)
    sock.send(head + body)
    found: list[Message] = []
    while True:
        for message in messages(sock.recv(RECEIVE)):
            if message.sequence != number:  # of a request that a signal handler ended
                continue
            if message.kind in (_NLMSG_ERROR, _NLMSG_DONE):
                (code,) = struct.unpack_from("=i", message.data, message.start + 16)
                if code:
                    raise RefusedError(-code)
                return found
            found.append(message)
            if not message.flags & _NLM_F_MULTI:
                return found


def route_request(question: Question) -> bytes:
    """The body of a GETROUTE."""
    q = question
    body = struct.pack("=8BI", q.family, 8 * len(q.to), 8 * len(q.source), q.tos & 0xFC, 0, 0, 0, 0, 0)
    body += attribute(_RTA_DST, q.to) + (attribute(_RTA_SRC, q.source) if q.source else b"")
    for kind, number in ((_RTA_OIF, q.device), (_RTA_MARK, q.mark)):
        body += attribute(kind, struct.pack("=I", number)) if number else b""
    body += attribute(_RTA_UID, struct.pack("=I", q.uid)) + attribute(_RTA_IP_PROTO, b"\x11")
    body += attribute(_RTA_SPORT, struct.pack("!H", q.source_port))
    return body + attribute(_RTA_DPORT, struct.pack("!H", q.port))


def output_device(sock: socket.socket, question: Question) -> int:
    """The index of the device that such datagrams leave by, 0 if there is none. RefusedError."""
    (route,) = answers(sock, 1, GETROUTE, route_request(question))
    found = (value for kind, value in attributes(route, _RTMSG) if kind == _RTA_OIF)
    return int.from_bytes(next(found, b"")[:4], sys.byteorder)
