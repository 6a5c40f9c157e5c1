"""What a sender does that is not fast: destinations, failures, decisions, and telling the program.

The compiled part of a sender (``_native/udp/``) calls these methods from inside a call of
the program, or in the timer's thread, at most once per submission. They run no code of the program's, but for
``deliver`` and ``write_log``, which are called when the call has ended.
"""

import errno
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from uringzc import address
from uringzc.errors import ClosedError, SendError, counted
from uringzc.notif import Notification
from uringzc.senders import timer
from uringzc.senders.policy import Policy
from uringzc.senders.sockets import RECVERR

if TYPE_CHECKING:
    from uringzc._send import UdpBatcher
    from uringzc.engines.base import Engine

T = TypeVar("T")
log = logging.getLogger("uringzc")

#: how often a datagram is sent again before it is given up
TRIES = 4
#: seconds that a full queue on the way is waited for, in all tries together
PATIENCE = 0.2
#: the most that are kept for a program that does not ask
ERRORS = 1024
#: the destination can not take the train, maybe its datagrams
_SPLIT = (errno.EIO, errno.EINVAL, errno.EMSGSIZE)
#: the kernel has no memory to lock or to send from: copying needs less
_COPY = (errno.ENOMEM, errno.EFAULT, errno.EOPNOTSUPP)
#: news of the socket that came with this datagram, and not its own: of an earlier one, or of a full queue
_NEWS = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN)
#: what a plain send of the same may not meet; if it does, that is the answer
_AGAIN = (*_SPLIT, *_COPY, *_NEWS, errno.ENOBUFS)
_ICMP = (2, 3)  # SO_EE_ORIGIN_ICMP, _ICMP6: others are of results that were looked at


class Row(NamedTuple):
    """A train of the last submission."""

    train: int
    first: int  #: the number of its first datagram
    result: int  #: 0, or -errno
    destination: int
    size: int
    datagrams: int
    nbytes: int


class UdpSlowPath:
    """The Python part of one sender. Knows nothing of the UdpSender, so that no cycle keeps either alive."""

    def __init__(
        self,
        sock: socket.socket,
        family: int,
        own: bool,
        mode: str,
        engine: "Engine",
        on_error: Callable[[SendError], object] | None,
        notify: Callable[[Notification], object] | None,
    ) -> None:
        self.sock = sock
        self.family = family
        self._engine = engine
        self.refuse = partial(engine.refuse, what="UdpSender")
        self._own = own
        self.mode = mode
        self._on_error = on_error
        self._notify = notify
        self._policies: dict[int, Policy] = {}
        self._headers = 28 if family == socket.AF_INET else 48
        self._pending: list[int] = []  #: socket errors that were not looked up
        self.errors: list[SendError] = []  #: not delivered
        self.notifications: list[Notification] = []
        self._log: list[tuple[int, str]] = []  #: not written
        self.resent = self.lost = self.split = 0  #: datagrams, datagrams, times

    # -- a sender's life

    def claim(self) -> None:
        """The first call: this thread is the owner from now on."""
        self._engine.claim()

    @staticmethod
    def start_timer() -> bool:
        """Whether there is a timer to keep max_delay."""
        return timer.start()

    def reclaim_arena(self, batcher: "UdpBatcher") -> bool:
        """The arena is full, and not of this sender's: whether others gave something back."""
        return self._engine.reclaim_arena(batcher, batcher.blocking)

    # -- destinations

    def pack(self, to: Any) -> bytes:
        """An address as a sockaddr."""
        return address.pack(self.family, to)

    def add_destination(self, number: int, packed: bytes | None) -> tuple[bool, int, int]:
        """A new destination: its first decision, and the largest datagram of a train."""
        self._policies[number] = policy = Policy(self.mode)
        most = 65507
        if not packed and (mtu := self._mtu()):
            most = mtu - self._headers
        return *policy.start(), most

    def _mtu(self) -> int:
        """What the kernel knows of a connected socket's path, 0 for another."""
        try:
            if self.family == socket.AF_INET6:
                return self.sock.getsockopt(socket.IPPROTO_IPV6, 24)  # IPV6_MTU
            return self.sock.getsockopt(socket.IPPROTO_IP, 14)  # IP_MTU
        except OSError:
            return 0

    def address_of(self, batcher: "UdpBatcher", number: int) -> object:
        """Where a route goes, as the program would say it; None for where the socket is connected to."""
        packed = batcher.destination(number)[0]
        return address.unpack(packed) if packed else None

    def observe(self, number: int, settled: int, copied: int) -> tuple[bool, int]:
        """The policy's next decision."""
        return self._policies[number].observe(settled, copied)

    @property
    def copying(self) -> int:
        """Destinations where the kernel would copy, and so a plain copy is sent."""
        return sum(policy.copying for policy in self._policies.values())

    # -- failures

    def report_socket_error(self, number: int) -> None:
        """The socket had a pending error: of an earlier datagram, for which no request is to fail.

        What it was about is in the error queue, which only the engine's owner may read: the timer's thread
        leaves that to the owner's next call.
        """
        self._pending.append(number)
        if self._engine.is_owner():
            self._report_pending()

    def _report_pending(self) -> None:
        numbers = _take(self._pending)
        if not numbers:
            return
        for to, code in self._read_error_queue() or [(None, number) for number in numbers]:
            text = f"{os.strerror(code)}: this came back for an earlier datagram to {to or 'the peer'}"
            self._tell(SendError(code, text, -1, 0, to))

    def _read_error_queue(self) -> list[tuple[object, int]]:
        """Whom the ICMP errors of the sender's own socket are about, and what they say."""
        heard: list[tuple[object, int]] = []
        if not self._own or self.sock.fileno() < 0:
            return heard
        try:
            messages = self._engine.errors(self.sock)
        except ClosedError:  # a sender that is dropped after its engine has ended
            return heard
        for message in messages:
            for level, kind, data in message.ancillary:
                if (level, kind) in RECVERR.values() and len(data) >= 16:
                    code, origin = struct.unpack_from("=IB", data)
                    if origin in _ICMP:
                        heard.append((message.address, code))
        return heard

    def retry_failed(self, batcher: "UdpBatcher", rows: list[tuple[Any, ...]]) -> None:
        """Sends again, in their order and by system calls, the trains that failed.

        Where that would wait and must not, it stops: what was not ``mended`` comes again.
        """
        for fields in rows:
            row = Row(*fields)
            if row.result and not self._retry_train(batcher, row, -row.result):
                return

    def _retry_train(self, batcher: "UdpBatcher", row: Row, number: int) -> bool:
        """False: the rest of it must wait."""
        if number not in _AGAIN:
            self._give_up(batcher, row, 0, row.datagrams, number)
            return True
        whole = number not in _SPLIT or row.datagrams == 1
        if not whole:
            self._split(batcher, row, number)
        pieces = [row.datagrams] if whole else [1] * row.datagrams
        at = 0
        for count in pieces:
            if not self._again(batcher, row, at, count):
                return False
            at += count
        if number in _NEWS:
            self.report_socket_error(number)
        return True

    def _split(self, batcher: "UdpBatcher", row: Row, number: int) -> None:
        """A destination that can not take such a train gets its datagrams one by one, and from now on too."""
        _, segments, most = batcher.destination(row.destination)
        if number == errno.EMSGSIZE:  # the path takes no datagram of this size whole
            limit = segments, min(most, row.size - 1)
            why = f"datagrams of {counted(row.size, 'byte')} are larger than the path takes"
        elif number == errno.EINVAL and segments > 64 and row.datagrams > 64:
            limit = 64, most
            why = "64 datagrams are the most of a train there"
        else:
            limit = 1, most
            why = "no trains there"
        if limit != (segments, most):
            self.split += 1
            batcher.set_limits(row.destination, *limit)
            to = self.address_of(batcher, row.destination)
            self._log.append((logging.INFO, f"to {to}: {why} ({os.strerror(number)})"))

    def _again(self, batcher: "UdpBatcher", row: Row, at: int, count: int) -> bool:
        """Some datagrams of a train, until they are sent or given up; False: that must wait."""
        patience = time.monotonic() + PATIENCE
        may_wait = batcher.blocking and threading.get_ident() == batcher.owner
        tries, pause = 0, 0.00002
        while code := batcher.resend(row.train, count):
            number = -code
            if number == errno.EAGAIN:  # somebody fills the socket: there will be room
                if not may_wait:
                    return False
                batcher.writable(100)
                continue
            if number == errno.ENOBUFS and batcher.in_timer:  # which keeps nobody else waiting
                return False
            tries += 1
            if count > 1 and number in _SPLIT:
                return all(self._again(batcher, row, one, 1) for one in range(at, at + count))
            late = time.monotonic() > patience
            if number == errno.ENOBUFS and not late:  # a queue on the way is full: it empties as it sends
                time.sleep(pause)
                pause = min(2 * pause, 0.001)
            elif tries >= TRIES or number not in (*_NEWS, errno.ENOBUFS) or late:
                self._give_up(batcher, row, at, count, number)
                return True
        self.resent += count
        batcher.resolved(row.train, count)
        return True

    def _give_up(self, batcher: "UdpBatcher", row: Row, at: int, count: int, number: int) -> None:
        self.lost += count
        for one in range(at, at + count):
            self._report(batcher, row, number, one, "was not sent")
        batcher.resolved(row.train, count)

    def gave_up(self, count: int) -> None:
        """The sender was closed before so many datagrams could be sent."""
        self.lost += count
        text = f"{counted(count, 'datagram')} could not be sent before the sender was closed"
        self._tell(SendError(errno.ETIMEDOUT, text, -1, 0, None))

    def _report(self, batcher: "UdpBatcher", row: Row, number: int, at: int, what: str) -> None:
        size = min(row.size, row.nbytes - at * row.size)
        to = self.address_of(batcher, row.destination)
        which = f"datagram number {row.first + at} ({counted(size, 'byte')}) to {to or 'the peer'}"
        self._tell(SendError(number, f"{os.strerror(number)}: {which} {what}", row.first + at, size, to))

    def _tell(self, error: SendError) -> None:
        if len(self.errors) < ERRORS:
            self.errors.append(error)

    # -- telling

    def posted(self, sequence: int, requests: int, nbytes: int, copied: int, failed: int) -> None:
        """A notifier of the sender has posted."""
        if self._notify:
            known = None if copied < 0 else copied
            self.notifications.append(Notification(0, sequence, 0, requests, nbytes, known, failed))

    def report(self) -> None:
        """Calls the program's callbacks. What they raise goes to the program, through its call."""
        self._report_pending()
        while self._notify and self.notifications:
            self._notify(self.notifications.pop(0))
        while self._on_error and self.errors:
            self._on_error(self.errors.pop(0))

    def write_log(self) -> None:
        """Writes what happened, without the sender's lock: a handler may wait for another thread, or send."""
        while self._log:
            log.log(*self._log.pop(0))

    def log_failure(self, error: BaseException | None) -> None:
        """What kept the timer, or the sender's end, from sending: the program's next call meets it too."""
        self._log.append((logging.DEBUG, f"what waits in a sender was not sent: {error}"))

    def take_errors(self) -> SendError | None:
        """The first that nobody was told, with the rest in its ``others``."""
        if self._on_error or not self.errors:
            return None
        first, *others = _take(self.errors)
        first.others = others
        return first


def _take(items: "list[T]") -> "list[T]":
    """Empties a list that the timer's thread may be appending to."""
    taken = []
    while items:
        taken.append(items.pop(0))
    return taken
