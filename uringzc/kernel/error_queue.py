"""Messages of a socket's error queue other than zero-copy notifications: ICMP and local errors, timestamps.

The kernel puts these into one queue with the notifications of MSG_ZEROCOPY. The engine that reads those keeps
the others, in the form in which ``socket.recvmsg`` returns them.
"""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any, NamedTuple

from uringzc import address
from uringzc.records import explained


@explained
class ErrorMessage(NamedTuple):
    """One message of a socket's error queue, as ``socket.recvmsg(..., MSG_ERRQUEUE)`` returns it."""

    data: Annotated[bytes, "the first bytes of the datagram that it is about"]
    ancillary: Annotated[
        list[tuple[int, int, bytes]],
        "control messages: level, type and data, which is a struct sock_extended_err for IP_RECVERR",
    ]
    flags: Annotated[int, "of the message: MSG_ERRQUEUE, and MSG_TRUNC where `data` was cut short"]
    address: Annotated[Any, "where that datagram was to go; None where the kernel does not say"]


def read(sock: socket.socket) -> list[ErrorMessage]:
    """Reads the socket's error queue until it is empty. Matches recvmsg(MSG_ERRQUEUE)."""
    if sock.gettimeout():  # which recvmsg() would wait for, whatever its flags
        with socket.socket(fileno=os.dup(sock.fileno())) as copy:
            copy.settimeout(0)  # as before for the kernel: O_NONBLOCK
            return read(copy)
    found: list[ErrorMessage] = []
    with suppress(BlockingIOError):
        while True:
            message = sock.recvmsg(128, 256, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
            found.append(ErrorMessage(*message[:3], message[3] or None))
    return found


def message(data: bytes, control: bytes, flags: int, origin: bytes) -> ErrorMessage:
    """Of what recvmsg() has written; `origin` is a sockaddr."""
    return ErrorMessage(
        data, list(parse(control)), flags, address.unpack(origin) if any(origin[:2]) else None
    )


def parse(control: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The control messages in `control` (struct cmsghdr, each padded to 8 bytes): level, type, data."""
    at = 0
    while at + 16 <= len(control):
        length, level, kind = struct.unpack_from("=Qii", control, at)
        yield level, kind, control[at + 16 : at + length]
        at += max(length + -length % 8, 16)
