"""Sending a file through notifier slots, as `uringzc demo` does it.

Each slot has a window of registered memory. A window is filled from the file and sent as datagrams that are
all attached to the slot's notifier, and the slot is flushed: one notification will say that the whole window
is free. Meanwhile it is the next slot's turn. No window is filled again before its notification: until then
the kernel may still read it.
"""

import itertools
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import uringzc
from uringzc.cli.demo_receiver import Plan
from uringzc.cli.sources import Mapped, Windows, datagrams_in_window

#: takes how many datagrams were sent, returns how many more may be: at least one, after waiting if need be
Room = Callable[[int], int]


@dataclass
class SlotTotals:
    """The notifications of a slot, added up."""

    slot: int
    tag: int
    first: int | None = None  #: sequence numbers
    last: int | None = None
    notifications: int = 0
    requests: int = 0
    nbytes: int = 0
    copied: int | None = 0  #: requests; None where the kernel cannot tell
    busy: bool = field(default=False, repr=False)  #: a notification is due

    def add(self, notification: uringzc.Notification) -> None:
        """Adds a notification."""
        sequence, copied = notification.sequence, notification.copied
        self.first = sequence if self.first is None else min(self.first, sequence)
        self.last = sequence if self.last is None else max(self.last, sequence)
        self.notifications += 1
        self.requests += notification.requests
        self.nbytes += notification.nbytes
        self.copied = None if copied is None or self.copied is None else self.copied + copied
        self.busy = False


@dataclass(frozen=True)
class Result:
    """What a transfer took."""

    nbytes: int  #: of the file
    datagrams: int
    seconds: float
    cpu: float  #: seconds of the sending thread, those in the kernel included
    reading: float  #: of these, for reading the file
    copied: float | None  #: share of the datagrams, as the notifications say

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with what follows from it."""
        derived = {name: getattr(self, name) for name in ("rate", "datagram_rate", "cpu_per_byte")}
        return asdict(self) | derived

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return self.nbytes / self.seconds

    @property
    def datagram_rate(self) -> float:
        """Datagrams per second."""
        return self.datagrams / self.seconds

    @property
    def cpu_per_byte(self) -> float:
        """Nanoseconds of the sender's CPU."""
        return self.cpu / self.nbytes * 1e9


def open_scheduler(plan: Plan, tags: Sequence[int]) -> uringzc.Scheduler:
    """With room for a full window in every slot; of the results, only failures are kept."""
    return uringzc.Scheduler(tags, max_inflight=len(tags) * datagrams_in_window(plan), completions="failed")


class Transfer:
    """One run of a file over one connected socket, from `source`, through the slots of a scheduler."""

    def __init__(
        self,
        scheduler: uringzc.Scheduler,
        sock: socket.socket,
        source: Windows | Mapped,
        plan: Plan,
        tags: Sequence[int],
    ) -> None:
        self._scheduler, self._sock, self._source, self._plan = scheduler, sock, source, plan
        self.slots = [SlotTotals(slot, tag) for slot, tag in enumerate(tags)]
        self.sent = 0

    def run(self, room: Room, zero_copy: bool = True) -> Result:
        """Sends everything; returns when every notification has come. OSError for what cannot be sent."""
        start, cpu = time.perf_counter(), time.thread_time()
        for slot in itertools.cycle(self.slots):
            if self.sent == self._plan.datagrams:
                break
            while slot.busy:
                self._reap()
            self._send_window(slot, room, zero_copy)
        while any(slot.busy for slot in self.slots):
            self._reap()
        return self._result(time.perf_counter() - start, time.thread_time() - cpu)

    def _send_window(self, slot: SlotTotals, room: Room, zero_copy: bool) -> None:
        plan, source = self._plan, self._source
        count = min(source.count, plan.per_pass - self.sent % plan.per_pass)
        offset = source.fill(slot.slot, self.sent, count)
        while count:
            now = self._queue(slot.slot, offset, min(count, room(self.sent)), zero_copy)
            self._scheduler.submit()
            for failure in self._scheduler.reap_completions():
                why = os.strerror(-failure.result)
                raise OSError(-failure.result, f"the kernel refused a datagram: {why}")
            self.sent += now
            offset += now * source.size
            count -= now
        self._scheduler.flush(slot.slot)
        slot.busy = True

    def _queue(self, slot: int, offset: int, count: int, zero_copy: bool) -> int:
        """Attaches up to `count` datagrams to the slot's notifier, of one size; returns how many."""
        scheduler, sock, memory, size = self._scheduler, self._sock, self._source.memory, self._source.size
        last = size - self._plan.size + self._plan.length(self.sent + count - 1)
        equal = count if last == size else count - 1
        if equal:
            return scheduler.send_run(
                sock, memory, size, equal, offset=offset, slot=slot, zero_copy=zero_copy
            )
        scheduler.send(sock, memory, offset=offset, length=last, slot=slot, zero_copy=zero_copy)
        return 1

    def _reap(self) -> None:
        for notification in self._scheduler.reap_notifications(wait=1):
            self.slots[notification.slot].add(notification)

    def _result(self, seconds: float, cpu: float) -> Result:
        copied = [slot.copied for slot in self.slots if slot.copied is not None]
        share = sum(copied) / self.sent if len(copied) == len(self.slots) else None
        plan = self._plan
        return Result(plan.nbytes, self.sent, seconds, cpu, self._source.reading, share)
