"""Transmit timestamps: to which train (GSO batch) each timestamp in a socket's error queue belongs.

The kernel counts the sends of the socket (SOF_TIMESTAMPING_OPT_ID), and a timestamp has the number of its
send, its id. A send that succeeded has used one id, a train too. One that failed may have used an id or not:
that depends on the error, and on the kernel. So after a failure the ids of later sends are not known, and
their timestamps are not reported, until the kernel is made to count from 0 again, between two submissions, by
switching OPT_ID off and on. What was sent before that and has no timestamp yet gets none.

A timestamp of such an earlier send that comes later must not be taken for one of a new send with the same id.
So while the socket's send buffer is not empty, ids that may still be out are not reported, and after a
restart no timestamp of hardware, which may come later than that, for a while.
"""

import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any, NamedTuple

from uringzc.kernel.error_queue import ErrorMessage
from uringzc.records import explained
from uringzc.senders.sockets import RECVERR, unsent_bytes

SO_TIMESTAMPING = SCM_TIMESTAMPING = 37
_OPT_ID = 1 << 7
#: TX_HARDWARE, TX_SOFTWARE, SOFTWARE, RAW_HARDWARE, OPT_TSONLY; OPT_TX_SWHW: both kinds, where there are both
FLAGS = 1 << 0 | 1 << 1 | 1 << 4 | 1 << 6 | _OPT_ID | 1 << 11 | 1 << 14
_ORIGIN_TIMESTAMPING, _SND = 4, 0  # ee_origin, and ee_info: it was sent
_SECOND = 1_000_000_000
_IDS = 1 << 32
#: sends that are remembered until their timestamps come; a divisor of _IDS
MAX_SENT = 8192
#: seconds after a restart
_HARDWARE_PAUSE = 1.0
_EXTENDED_ERROR = struct.Struct("=IB3xII")  # errno, origin, info, data
_TIMESPECS = struct.Struct("6l")  # of software, a legacy one, of hardware: seconds and nanoseconds

ReadQueue = Callable[[], list[ErrorMessage]]


@explained
class TransmitTimestamp(NamedTuple):
    """When a train (GSO batch), or a single datagram, left: what ``on_timestamp`` of a UdpSender gets."""

    numbers: Annotated[
        Sequence[int], "of its datagrams, as the sender counts what it takes, from 0: a range, or a tuple"
    ]
    nbytes: Annotated[int, "bytes of those datagrams together"]
    to: Annotated[Any, "where to; None: where the socket is connected to"]
    kind: Annotated[
        str, '"software": the kernel handed it to the device\'s driver; "hardware": the device sent it'
    ]
    time_ns: Annotated[
        int, "nanoseconds since the epoch, as time.time_ns() counts them; of hardware, by the device's clock"
    ]


class Timestamps:
    """The sends of one socket, and the timestamps that have come. Used with the sender's lock."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.to_report: deque[TransmitTimestamp] = deque()
        self._sent: list[tuple[int, Sequence[int], int, Any] | None] = [None] * MAX_SENT  # at id % MAX_SENT
        self._next = 0  # the id of the next send,
        self.known = True  #: if it is known
        self.late: range | None = None  #: ids, and 0, that sends before the last restart may still report
        self._restarted = -_HARDWARE_PAUSE  # time.monotonic()

    def start(self, own: bool) -> None:
        """The socket's sends have timestamps from now on."""
        if self._sock.getsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING):
            text = "the socket has SO_TIMESTAMPING set, which on_timestamp needs for itself: set it to 0"
            raise ValueError(text)
        if not own and unsent_bytes(self._sock):
            self.late = range(_IDS)
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, FLAGS)
        except OSError as error:
            text = f"on_timestamp needs Linux 4.13 (SO_TIMESTAMPING: {error.strerror})"
            raise OSError(error.errno, text) from None

    def stop(self) -> None:
        """They have none any more."""
        with suppress(OSError):  # it was closed
            self._sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, 0)

    def sent(self, numbers: Sequence[int], nbytes: int, to: object) -> None:
        """The kernel took a train. To be called in the order in which it did."""
        if self.known:
            self._sent[self._next % MAX_SENT] = self._next, numbers, nbytes, to
            self._next = (self._next + 1) % _IDS

    def failed(self) -> None:
        """A send has failed: whether it used an id is not known."""
        self.known = False

    def read(self, read_queue: ReadQueue) -> list[ErrorMessage]:
        """Takes the timestamps of those messages, and returns the others."""
        all_out = self.late is not None and not unsent_bytes(self._sock)  # before the queue is read
        others = [message for message in read_queue() if not self._take(message)]
        if all_out:
            self.late = None
        return others

    def restart(self, read_queue: ReadQueue) -> list[ErrorMessage]:
        """As ``read``; then the kernel counts from 0. Only while no request waits for its result."""
        all_out = not unsent_bytes(self._sock)
        others = self.read(read_queue)
        self._sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, FLAGS & ~_OPT_ID)
        self._sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, FLAGS)
        if not all_out:
            first = max(0, self._next - MAX_SENT)
            self.late = range(min(first, self.late.start) if self.late else first, _IDS)
        self._sent = [None] * MAX_SENT
        self._next = 0
        self.known = True
        self._restarted = time.monotonic()
        return others

    def _take(self, message: ErrorMessage) -> bool:
        """False: it is no timestamp."""
        error = stamp = b""
        for level, kind, data in message.ancillary:
            if (level, kind) == (socket.SOL_SOCKET, SCM_TIMESTAMPING):
                stamp = data
            elif (level, kind) in RECVERR.values():
                error = data
        if len(error) < _EXTENDED_ERROR.size or len(stamp) < _TIMESPECS.size:
            return False
        _, origin, info, number = _EXTENDED_ERROR.unpack_from(error)
        if origin != _ORIGIN_TIMESTAMPING:
            return False
        seconds, ns, _, _, hardware_seconds, hardware_ns = _TIMESPECS.unpack_from(stamp)
        if info == _SND:
            self.take(number, seconds * _SECOND + ns, hardware_seconds * _SECOND + hardware_ns)
        return True

    def take(self, number: int, software: int, hardware: int) -> None:
        """A timestamp of the send with that id: ns, 0: none."""
        train = self._sent[number % MAX_SENT]
        if not train or train[0] != number or self._is_late(number):
            return
        _, numbers, nbytes, to = train
        if software:
            self.to_report.append(TransmitTimestamp(numbers, nbytes, to, "software", software))
        if hardware and time.monotonic() > self._restarted + _HARDWARE_PAUSE:
            self.to_report.append(TransmitTimestamp(numbers, nbytes, to, "hardware", hardware))

    def _is_late(self, number: int) -> bool:
        """Whether it may be of a send before the last restart. While OPT_ID was off, ids were 0."""
        return self.late is not None and (number == 0 or number in self.late)
