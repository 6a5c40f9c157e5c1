"""The error queue of a UdpSender's socket: ICMP errors for its reports, and every message for the program."""

import socket
import struct
from typing import TYPE_CHECKING

from uringzc.errors import ClosedError
from uringzc.kernel.error_queue import ErrorMessage
from uringzc.senders.sockets import RECVERR

if TYPE_CHECKING:
    from uringzc.engines.base import Engine

#: messages that the sender has read, which are kept for a program that does not call errors()
MAX_KEPT = 256
_ICMP = (2, 3)  # SO_EE_ORIGIN_ICMP, _ICMP6


class ErrorQueue:
    """What the sender reads of it, through its engine, in the owner's thread."""

    def __init__(self, sock: socket.socket, engine: "Engine") -> None:
        self._sock = sock
        self._engine = engine
        self._kept: list[ErrorMessage] = []

    def read(self) -> list[tuple[object, int]]:
        """Destination and errno of ICMP errors that have come. What it reads is kept for ``take``."""
        if self._sock.fileno() < 0:
            return []
        try:
            messages = self._engine.errors(self._sock)
        except ClosedError:  # a sender that is dropped after its engine has ended
            return []
        self._kept += messages[: MAX_KEPT - len(self._kept)]
        return icmp_errors(messages)

    def take(self) -> tuple[list[ErrorMessage], list[tuple[object, int]]]:
        """All messages, the oldest first; and as ``read``, of those that had not been read before."""
        messages = self._engine.errors(self._sock)
        kept, self._kept = self._kept, []
        return kept + messages, icmp_errors(messages)


def icmp_errors(messages: list[ErrorMessage]) -> list[tuple[object, int]]:
    """Original destination and errno of those messages that are ICMP errors."""
    return [
        (message.address, struct.unpack_from("=I", data)[0])
        for message in messages
        for level, kind, data in message.ancillary
        if (level, kind) in RECVERR.values() and len(data) >= 16 and data[4] in _ICMP
    ]
