"""The error queue of a UdpSender's socket: ICMP errors for its reports, and every message for the program."""

import socket
import struct
from functools import partial
from typing import TYPE_CHECKING

from uringzc.errors import ClosedError
from uringzc.kernel.error_queue import ErrorMessage
from uringzc.senders.sockets import RECVERR
from uringzc.senders.timestamps import Timestamps

if TYPE_CHECKING:
    from uringzc.engines.base import Engine

#: messages that the sender has read, which are kept for a program that does not call errors()
MAX_KEPT = 256
_ICMP = (2, 3)  # SO_EE_ORIGIN_ICMP, _ICMP6


class ErrorQueue:
    """What the sender reads of it, through its engine, in the owner's thread."""

    def __init__(self, sock: socket.socket, engine: "Engine", timestamps: Timestamps | None) -> None:
        self._sock = sock
        self._read_queue = partial(engine.errors, sock)
        self._timestamps = timestamps
        self._kept: list[ErrorMessage] = []

    def read(self, may_restart: bool = False) -> list[tuple[object, int]]:
        """Destination and errno of ICMP errors that have come. What it reads is kept for ``take``.

        Timestamps are taken. `may_restart`: their ids, see ``timestamps``.
        """
        if self._sock.fileno() < 0:
            return []
        try:
            messages = self._messages(may_restart)
        except ClosedError:  # a sender that is dropped after its engine has ended
            return []
        return self.keep(messages)

    def keep(self, messages: list[ErrorMessage]) -> list[tuple[object, int]]:
        """As ``read``, of messages that were read elsewhere."""
        self._kept += messages[: MAX_KEPT - len(self._kept)]
        return icmp_errors(messages)

    def take(self) -> tuple[list[ErrorMessage], list[tuple[object, int]]]:
        """All messages, the oldest first; and as ``read``, of those that had not been read before."""
        messages = self._messages(may_restart=False)
        kept, self._kept = self._kept, []
        return kept + messages, icmp_errors(messages)

    def _messages(self, may_restart: bool) -> list[ErrorMessage]:
        if self._timestamps is None:
            return self._read_queue()
        if may_restart and not self._timestamps.known:
            return self._timestamps.restart(self._read_queue)
        return self._timestamps.read(self._read_queue)


def icmp_errors(messages: list[ErrorMessage]) -> list[tuple[object, int]]:
    """Original destination and errno of those messages that are ICMP errors."""
    return [
        (message.address, struct.unpack_from("=I", data)[0])
        for message in messages
        for level, kind, data in message.ancillary
        if (level, kind) in RECVERR.values() and len(data) >= 16 and data[4] in _ICMP
    ]
