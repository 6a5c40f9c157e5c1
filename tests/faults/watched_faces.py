"""Schedulers, rings and senders whose requests, notifiers and datagrams are counted: each comes back once."""

import socket
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import uringzc
from uringzc import Notification, SendError

T = TypeVar("T")


class Requests:
    """The sends of a Scheduler, numbered from 0, and what came back of each."""

    def __init__(self, scheduler: uringzc.Scheduler) -> None:
        self.scheduler = scheduler
        self.sent = 0
        self.completions: list[uringzc.Completion] = []
        self.notifications: list[Notification] = []
        self._slots: list[int] = []  # of each request
        self._flushed: Counter[int] = Counter()  # notifiers of each slot
        self._open: set[int] = set()  # slots with requests that are not flushed

    def send(self, sock: socket.socket, data: Any, **options: Any) -> int:
        """Queues a send; by default with a notifier of its own. Returns its number."""
        options = {"flush": True, **options}
        slot = options.get("slot", 0)
        self.scheduler.send(sock, data, user_data=self.sent, **options)
        self._slots.append(slot)
        self._open.add(slot)
        if options["flush"]:
            self._detached(slot)
        self.sent += 1
        return self.sent - 1

    def flush(self, slot: int = 0) -> "uringzc.Notifier | None":
        notifier = self.scheduler.flush(slot)
        assert (notifier is not None) == (slot in self._open)
        self._detached(slot)
        return notifier

    def _detached(self, slot: int) -> None:
        self._flushed[slot] += slot in self._open
        self._open.discard(slot)

    def reap(self, completions: int = 0, notifications: int = 0, timeout: float = 20.0) -> None:
        """Reads what came, and waits for that many more."""
        self.completions += self.scheduler.reap_completions(wait=completions, timeout=timeout)
        self.notifications += self.scheduler.reap_notifications(wait=notifications, timeout=timeout)

    def results(self) -> list[int]:
        """The result of every request, in their order: submits, and waits for them."""
        self.reap(completions=self.sent - len(self.completions))
        results = {done.user_data: done.result for done in self.completions}
        return [results[number] for number in range(self.sent)]

    def send_now(self, sock: socket.socket, data: Any, **options: Any) -> int:
        """Sends, and returns the result."""
        number = self.send(sock, data, **options)
        return self.results()[number]

    def check(self) -> None:
        """Once it is closed, which flushes."""
        for slot in [*self._open]:
            self._detached(slot)
        self.reap()
        done = Counter(completion.user_data for completion in self.completions)
        assert done == Counter(range(self.sent)), f"completed: {_wrong(done, range(self.sent))}"
        posted = Counter((n.slot, n.sequence) for n in self.notifications)
        due = [(slot, sequence) for slot, count in self._flushed.items() for sequence in range(count)]
        assert posted == Counter(due), f"notified: {_wrong(posted, due)}"
        of_slots = Counter(self._slots)
        for notification in self.notifications:
            of_slots[notification.slot] -= notification.requests
        assert set(of_slots.values()) <= {0}, "requests without a notification, or with two"
        failed = sum(done.result < 0 for done in self.completions)
        assert sum(n.failed for n in self.notifications) == failed, "failures that notifications do not count"


def _wrong(found: Counter[T], due: Any) -> str:
    """What came too often, and what did not come."""
    return f"more than due {dict(found - Counter(due))}, missing {dict(Counter(due) - found)}"


class RawRequests:
    """The sends of a Ring, numbered from 0, and the CQEs of each."""

    def __init__(self, ring: uringzc.Ring) -> None:
        self.ring = ring
        self.sent = 0
        self.cqes: list[uringzc.RawCompletion] = []

    def send(self, sock: socket.socket, data: Any, **options: Any) -> int:
        """Queues a zero-copy send, and returns its number."""
        self.ring.send_zc(sock, data, user_data=self.sent, **options)
        self.sent += 1
        return self.sent - 1

    def results(self) -> list[int]:
        """The result of every request, in their order: waits until the kernel holds nothing."""
        self.ring.drain(20)
        self.cqes += self.ring.reap()
        results = {cqe.user_data: cqe.res for cqe in self.cqes if not cqe.notif}
        return [results[number] for number in range(self.sent)]

    def send_now(self, sock: socket.socket, data: Any, **options: Any) -> int:
        """Sends, and returns the result."""
        number = self.send(sock, data, **options)
        return self.results()[number]

    def check(self) -> None:
        """Once it is closed."""
        self.cqes += self.ring.reap()
        done = Counter(cqe.user_data for cqe in self.cqes if not cqe.notif)
        assert done == Counter(range(self.sent)), f"completed: {_wrong(done, range(self.sent))}"
        due = [cqe.user_data for cqe in self.cqes if cqe.more]
        notified = Counter(cqe.user_data for cqe in self.cqes if cqe.notif)
        assert notified == Counter(due), f"notified: {_wrong(notified, due)}"


class _Reports:
    """What a sender reports, unless the test has callbacks of its own."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.reported: list[SendError] = []
        self.notified: list[Notification] = []
        self.counts_errors, self.counts_notifiers = "on_error" not in options, "notify" not in options
        options.setdefault("on_error", self.reported.append)
        options.setdefault("notify", self.notified.append)

    def raised(self, error: SendError) -> None:
        """By a call of a sender that has on_error=None."""
        self.reported += [error, *error.others]

    def check_notifiers(self, requests: int) -> None:
        if self.counts_notifiers:
            sequences = Counter(n.sequence for n in self.notified)
            due = range(len(self.notified))
            assert sequences == Counter(due), f"notified: {_wrong(sequences, due)}"
            assert sum(n.requests for n in self.notified) == requests, "notifiers that did not notify"


class UdpSender(uringzc.UdpSender):
    """With what it has reported, and what it has notified."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.reports = _Reports(options)
        super().__init__(*args, **options)

    def check(self) -> None:
        """Once it is closed: each datagram has left, or its loss was reported, and nothing twice."""
        assert self.closed
        stats, left = self.stats, self._native.left
        lost = Counter(error.index for error in self.reports.reported if error.index >= 0)
        discarded = any("before the sender was closed" in str(e) for e in self.reports.reported)
        assert (stats.waiting, stats.in_flight) == (0, 0)
        assert stats.datagrams == left + stats.lost, f"{stats.datagrams} are not {left} and {stats.lost} lost"
        assert len(lost) == sum(lost.values()), f"reported more than once: {lost - Counter([*lost])}"
        if self.reports.counts_errors and not discarded:
            assert len(lost) == stats.lost, f"{stats.lost} were lost, {len(lost)} reported"
        self.reports.check_notifiers(stats.requests)


class TcpSender(uringzc.TcpSender):
    """With what it has reported, and what it has notified."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.reports = _Reports(options)
        self.taken = 0  # bytes that calls have returned, or that their errors say were accepted
        super().__init__(*args, **options)

    def send(self, data: Any, /) -> int:
        """See uringzc.TcpSender."""
        return self._count(super().send, data)

    def send_buffers(self, buffers: Any, /) -> int:
        """See uringzc.TcpSender."""
        return self._count(super().send_buffers, buffers)

    def _count(self, send: Callable[[Any], int], data: Any) -> int:
        try:
            taken = send(data)
        except SendError as error:
            self.taken += error.accepted
            raise
        self.taken += taken
        return taken

    def check(self) -> None:
        """Once it is closed."""
        assert self.closed
        stats = self.stats
        assert stats.nbytes == self.taken, f"{self.taken} bytes were reported"
        assert stats.in_flight == 0
        assert stats.zero_copy == stats.requests, "requests whose memory was never free"
        self.reports.check_notifiers(stats.requests)
