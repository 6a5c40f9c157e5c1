"""What the compiled part of a UdpSender calls Python for: destinations, failures, and reports to the program.

``_native/udp/`` calls these methods in a call of the program, or in the timer's thread, with the sender's
lock, at most once per submission. They run no code of the program's, except for ``report``, ``write_log`` and
``report_dropped``, which are called at the end, without the lock.
"""

import errno
import logging
import os
import socket
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from uringzc import address
from uringzc.calibration.lookup import lookup
from uringzc.calibration.saved import Calibration
from uringzc.errors import SendError, counted, datagram_error
from uringzc.kernel import error_queue
from uringzc.kernel.error_queue import ErrorMessage
from uringzc.notif import Notification, notification
from uringzc.senders import timer
from uringzc.senders.policy import NEVER, Policy
from uringzc.senders.sockets import path_mtu
from uringzc.senders.timestamps import Timestamps, TransmitTimestamp
from uringzc.senders.udp_error_queue import ErrorQueue

if TYPE_CHECKING:
    from uringzc._send import UdpBatcher
    from uringzc.engines.base import Engine

T = TypeVar("T")
log = logging.getLogger("uringzc")

#: how often a datagram is sent again before it counts as lost
TRIES = 4
#: seconds that a full queue on the way is waited for, in all tries together
PATIENCE = 0.2
#: errors that are kept for a program that has no on_error and does not flush
MAX_ERRORS = 1024
#: the destination cannot take the train (GSO batch), or even its datagrams
_TOO_LARGE = (errno.EIO, errno.EINVAL, errno.EMSGSIZE)
#: the kernel has no memory to lock or to send from: a copy needs less
_NO_MEMORY = (errno.ENOMEM, errno.EFAULT, errno.EOPNOTSUPP)
#: a pending error of the socket, of an earlier datagram
_PENDING = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN)
#: a system call for the same datagram may succeed; what else it fails with is final
_RETRY = (*_TOO_LARGE, *_NO_MEMORY, *_PENDING, errno.ENOBUFS)


class Row(NamedTuple):
    """A train of the last submission."""

    train: int  #: its index in the batch
    result: int  #: 0, or -errno
    destination: int
    size: int
    datagrams: int
    nbytes: int


#: of a train: numbers of its datagrams, bytes, destination, whether it failed
SentRow = tuple[Sequence[int], int, int, bool]


class UdpSlowPath:
    """The Python part of one sender. Has no reference to the UdpSender, so there is no cycle of the two."""

    def __init__(
        self,
        sock: socket.socket,
        own_socket: bool,
        mode: str,
        engine: "Engine",
        on_error: Callable[[SendError], object] | None,
        notify: Callable[[Notification], object] | None,
        on_timestamp: Callable[[TransmitTimestamp], object] | None,
    ) -> None:
        self.sock = sock
        self.family = int(sock.family)
        self._engine = engine
        self.refuse = partial(engine.refuse, what="UdpSender")
        self.claim = engine.claim  # the first call: this thread is the owner from now on
        self.reclaim_arena = engine.reclaim_arena  # where it is full, and not of this sender's data
        self.start_timer = timer.start
        self.pack = partial(address.pack, self.family)
        self._on_timestamp = on_timestamp
        self._timestamps = Timestamps(sock) if on_timestamp else None
        self._retried = 0  #: the engine's count at the last batch
        self._error_queue = ErrorQueue(sock, engine, self._timestamps)
        self._own_socket = own_socket
        #: else the error queue, of the program's socket, is left to it
        self._reports_icmp = own_socket or on_timestamp is not None
        self.mode = mode
        self._on_error = on_error
        self._notify = notify
        self._policies: dict[int, Policy] = {}
        self._lookup = lookup(engine.name) if mode == "auto" else None
        self._calibrated: dict[int, Calibration] = {}  #: destinations that one was found for
        self._headers = 28 if self.family == socket.AF_INET else 48
        self._pending: list[int] = []  #: socket errors, before the error queue was read for them
        self.errors: list[SendError] = []  #: not reported
        self.notifications: list[Notification] = []  #: not reported
        self._log: list[tuple[int, str]] = []  #: not written
        self.resent = self.lost = self.split = 0  #: datagrams, datagrams, times
        self.failure: tuple[int, str] | None = None  #: errno, and text: why close() could send nothing at all

    def add_destination(self, index: int, packed: bytes | None) -> tuple[bool, int, int, int]:
        """The policy's first decision, the largest datagram of a train, the smallest zero-copy request."""
        mode, min_zero_copy = self.mode, self._engine.min_zero_copy
        found = self._lookup.find(self.sock, packed) if self._lookup else None
        if found is not None:
            self._calibrated[index] = found
            mode = mode if found.min_zero_copy else "never"
            min_zero_copy = found.min_zero_copy or NEVER
        elif self._lookup:
            self._calibrated.pop(index, None)
        self._policies[index] = policy = Policy(mode)
        max_segment_size = 65507
        if not packed:
            with suppress(OSError):  # not connected
                max_segment_size = path_mtu(self.sock) - self._headers
        return *policy.start(), max_segment_size, min_zero_copy

    @staticmethod
    def _address_of(batcher: "UdpBatcher", index: int) -> object:
        """A destination's address; None for where the socket is connected to."""
        packed = batcher.destination(index)[0]
        return address.unpack(packed) if packed else None

    def observe(self, index: int, settled: int, copied: int) -> tuple[bool, int]:
        """The policy's next decision."""
        return self._policies[index].observe(settled, copied)

    @property
    def calibrated(self) -> Counter[Calibration | None]:
        """The calibrations that are used, each with its destinations; None: the others."""
        found = list(self._calibrated.values())
        others = len(self._policies) - len(found)
        return Counter(found) + Counter({None: others})

    @property
    def copying(self) -> int:
        """Destinations where the kernel copied zero-copy requests, or as a calibration has found, so that
        copies are sent at once."""
        policies = list(self._policies.values())  # at once: the owner may be adding one
        return sum(policy.copying for policy in policies)

    def report_socket_error(self, number: int) -> None:
        """The socket had a pending error, of an earlier datagram: no request is to fail for it. 0: maybe.

        The original destination is in the error queue, which only the engine's owner may read: the timer's
        thread leaves that to the owner's next call.
        """
        self._pending.append(number)
        if self._engine.is_owner():
            self._report_pending()

    def _report_pending(self) -> None:
        numbers = _take(self._pending)
        if not numbers:
            return
        found = self._error_queue.read() if self._reports_icmp else []
        self._add_icmp_errors(found or [(None, number) for number in numbers if number])

    def _add_icmp_errors(self, found: list[tuple[object, int]]) -> None:
        for to, code in found:
            text = f"{os.strerror(code)}: reported for an earlier datagram to {to or 'the peer'}"
            self._add_error(datagram_error(code, text, -1, 0, to))

    def take_error_queue(self) -> list[ErrorMessage]:
        """What the error queue holds, and what the sender has read of it; reports its ICMP errors too.

        Those of the program's own socket are reported as its pending error, which was taken before.
        """
        messages, found = self._error_queue.take()
        if self._reports_icmp:
            self._add_icmp_errors(found)
        return messages

    def start_timestamps(self) -> None:
        """With ``on_timestamp``: switches them on. The last step of making a sender."""
        if self._timestamps:
            self._timestamps.start(self._own_socket)
            self._error_queue.read()  # others', of the program's socket. EBUSY where another engine reads it

    def stop_timestamps(self) -> None:
        """The sender has ended: the program's socket is as it was."""
        if self._timestamps:
            self._timestamps.stop()

    def trains_sent(self, batcher: "UdpBatcher", rows: list[SentRow]) -> bool:
        """With ``on_timestamp``: what the kernel took, in its order. False: later ids are not known."""
        assert self._timestamps
        if self._retried != (retried := self._engine.retried()):
            self._retried = retried
            self._timestamps.failed()
        for numbers, nbytes, destination, failed in rows:
            if failed:
                self._timestamps.failed()
            else:
                self._timestamps.sent(numbers, nbytes, self._address_of(batcher, destination))
        return self._timestamps.known

    def send_failed(self) -> None:
        """With ``on_timestamp``: a send failed that is no train's result."""
        assert self._timestamps
        self._timestamps.failed()

    def read_timestamps(self) -> tuple[bool, bool]:
        """With ``on_timestamp``: takes those that have come. Restarts the ids, if they are not known.

        Whether there is something to report; and whether this is to be called again.
        """
        assert self._timestamps
        self._report_pending()
        with suppress(OSError):  # closed; or another engine began to read the queue
            self._add_icmp_errors(self._error_queue.read(may_restart=True))
        again = self._timestamps.late is not None or not self._timestamps.known
        return bool(self._timestamps.to_report or self.errors), again

    def take_timestamps(self, stamps: list[tuple[int, int, int]]) -> bool:
        """With ``on_timestamp``: some were read; whether there is something to report."""
        assert self._timestamps
        for stamp in stamps:
            self._timestamps.take(*stamp)
        return bool(self._timestamps.to_report or self.errors)

    def keep_message(self, data: bytes, control: bytes, flags: int, origin: bytes) -> None:
        """With ``on_timestamp``: another message was read."""
        found = self._error_queue.keep([error_queue.message(data, control, flags, origin)])
        for _, code in found:
            if code in self._pending:
                self._pending.remove(code)
        self._add_icmp_errors(found)

    def retry_failed(self, batcher: "UdpBatcher", rows: list[tuple[Any, ...]]) -> bool:
        """Sends the trains that failed again, in their order and by system calls.

        True: it stopped, where it would have to wait and may not. The rest is in the next call's rows.
        """
        failed = (row for row in (Row(*fields) for fields in rows) if row.result)
        return not all(self._retry_train(batcher, row, -row.result) for row in failed)

    def _retry_train(self, batcher: "UdpBatcher", row: Row, number: int) -> bool:
        """False: the rest of it must wait."""
        if number not in _RETRY:
            self._give_up(batcher, row, 0, row.datagrams, number)
            return True
        if number == errno.EMSGSIZE and self._engine.sends_frames:
            return self._refuse_large(batcher, row)
        whole = number not in _TOO_LARGE or row.datagrams == 1
        if not whole:
            self._limit_trains(batcher, row, number)
        count = row.datagrams if whole else 1
        lost = self.lost
        if not all(self._resend(batcher, row, at, count) for at in range(0, row.datagrams, count)):
            return False
        if number in _PENDING:  # of an earlier datagram, if this one was not lost
            self.report_socket_error(number if self.lost == lost else 0)
        return True

    def _refuse_large(self, batcher: "UdpBatcher", row: Row) -> bool:
        """Datagrams that fit no frame are not sent as fragments. The last of a train may be smaller."""
        smaller = row.datagrams > 1 and row.nbytes < row.datagrams * row.size
        if row.datagrams > 1:
            self._limit_trains(batcher, row, errno.EMSGSIZE)
        self._give_up(batcher, row, 0, row.datagrams - smaller, errno.EMSGSIZE)
        return not smaller or self._resend(batcher, row, row.datagrams - 1, 1)

    def _limit_trains(self, batcher: "UdpBatcher", row: Row, number: int) -> None:
        """A destination that cannot take such a train gets smaller ones, or none, from now on."""
        _, segments, size = batcher.destination(row.destination)
        if number == errno.EMSGSIZE:  # a datagram of this size does not fit the path
            limits = segments, min(size, row.size - 1)
            why = f"datagrams of {counted(row.size, 'byte')} are larger than the path takes"
        elif number == errno.EINVAL and segments > 64 and row.datagrams > 64:
            limits = 64, size
            why = "64 datagrams are the most of a train there"
        else:
            limits = 1, size
            why = "no trains there"
        if limits != (segments, size):
            self.split += 1
            batcher.set_limits(row.destination, *limits)
            to = self._address_of(batcher, row.destination)
            self._log.append((logging.INFO, f"to {to}: {why} ({os.strerror(number)})"))

    def _resend(self, batcher: "UdpBatcher", row: Row, at: int, count: int) -> bool:
        """Sends some datagrams of a train again, or gives them up. False: that must wait."""
        deadline = time.monotonic() + PATIENCE
        in_call = threading.get_ident() == batcher.owner
        may_wait = in_call and batcher.blocking and not batcher.must_not_wait
        tries, pause = 0, 0.00002
        while code := batcher.resend(row.train, count):
            number = -code
            if number == errno.EAGAIN:  # the socket's buffer is full
                if not may_wait:
                    return False
                batcher.writable(100)
                continue
            if number == errno.ENOBUFS and batcher.must_not_wait:
                return False
            tries += 1
            if count > 1 and number in _TOO_LARGE:
                return all(self._resend(batcher, row, one, 1) for one in range(at, at + count))
            late = time.monotonic() > deadline
            if number == errno.ENOBUFS and not late:  # a queue on the way is full: it empties as it sends
                time.sleep(pause)
                pause = min(2 * pause, 0.001)
            elif tries >= TRIES or number not in (*_PENDING, errno.ENOBUFS) or late:
                self._give_up(batcher, row, at, count, number)
                return True
        self.resent += count
        batcher.resolved(row.train, count)
        return True

    def _give_up(self, batcher: "UdpBatcher", row: Row, at: int, count: int, number: int) -> None:
        to = self._address_of(batcher, row.destination)
        errors = []  # all of them first: without memory for one, the next call begins again
        for i in range(count):
            index = batcher.number(row.train, i)
            size = min(row.size, row.nbytes - (at + i) * row.size)
            what = f"datagram number {index} ({counted(size, 'byte')}) to {to or 'the peer'} was not sent"
            errors.append(datagram_error(number, f"{os.strerror(number)}: {what}", index, size, to))
        batcher.resolved(row.train, count)
        self.lost += count
        for error in errors:
            self._add_error(error)

    def report_discarded(self, count: int) -> None:
        """The sender was closed before so many datagrams could be sent."""
        self.lost += count
        number, why = self.failure or (errno.ETIMEDOUT, "")
        text = f"{counted(count, 'datagram')} could not be sent before the sender was closed"
        self._add_error(datagram_error(number, f"{text}: {why}" if why else text, -1, 0, None))

    def report_dropped(self, count: int) -> None:
        """The program dropped the sender: warns of what nobody asks for any more, and of `count` not sent."""
        if count:
            self.report_discarded(count)
        errors = _take(self.errors)
        if lost := count + sum(error.index >= 0 for error in errors):
            text = f"{counted(lost, 'datagram')} of a UdpSender that was not closed"
            warnings.warn(f"{text} could not be sent: {errors[0]}", ResourceWarning, stacklevel=2)

    def _add_error(self, error: SendError) -> None:
        if len(self.errors) < MAX_ERRORS:
            self.errors.append(error)

    def posted(self, sequence: int, requests: int, nbytes: int, copied: int, failed: int) -> None:
        """A notifier of the sender has posted."""
        if self._notify:
            self.notifications.append(notification((0, sequence, 0, requests, nbytes, copied, failed)))

    def log_failure(self, error: BaseException | None) -> None:
        """Why the timer, or dropping the sender, could not send. The program's next call raises the same."""
        self._log.append((logging.DEBUG, f"what waits in a sender was not sent: {error}"))

    def report(self) -> None:
        """Calls the program's callbacks. What they raise, the program's call raises."""
        self._report_pending()
        while self._notify and self.notifications:
            self._notify(self.notifications.pop(0))
        while self._on_timestamp and self._timestamps and self._timestamps.to_report:
            self._on_timestamp(self._timestamps.to_report.popleft())
        while self._on_error and self.errors:
            self._on_error(self.errors.pop(0))

    def write_log(self) -> None:
        """After the callbacks: a log handler may wait for another thread, or send through this sender."""
        while self._log:
            log.log(*self._log.pop(0))

    def raise_errors(self) -> None:
        """Without ``on_error``: raises the first error that was not reported, with the rest in ``others``."""
        if self.errors and not self._on_error:
            first, *others = _take(self.errors)
            first.others = others
            raise first


def _take(items: "list[T]") -> "list[T]":
    """Empties a list that the timer's thread may be appending to."""
    taken = []
    while items:
        taken.append(items.pop(0))
    return taken
