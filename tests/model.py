"""The rules of slots and notifiers, written a second time and simply, to compare the library with.

``Model`` is written from the rules, not from the library: it keeps every request and notifier it ever saw
in lists, and counts them when it is asked. ``SlotAccounting`` has the same methods, and is the C code.
"""

import errno
from collections.abc import Sequence
from dataclasses import dataclass, field

from uringzc._uring import ffi, lib
from uringzc.errors import E_COMPLETIONS, E_NOTIFICATIONS, E_REQUESTS
from uringzc.notif import COMPLETIONS, Completion, Notification, Slots

QUEUED, PENDING, SETTLED = "queued", "pending", "settled"


@dataclass(eq=False)
class Request:
    """One send: its user_data, and what the kernel has reported of it."""

    user_data: int
    notifier: "ModelNotifier"
    reference: int  # to what the request holds
    nbytes: int | None = None  # of a datagram, which is sent whole or fails
    state: str = QUEUED
    result: int = 0
    copied: int = 0  # as an engine reports it: 1, 0, -1 for unknown


@dataclass(eq=False)
class ModelNotifier:
    """What one notification will report."""

    slot: int
    tag: int
    sequence: int
    requests: list[Request] = field(default_factory=list)
    flushed: bool = False
    posted: bool = False

    @property
    def due(self) -> bool:
        """Flushed, and nothing of it is in flight."""
        return self.flushed and all(request.state == SETTLED for request in self.requests)

    def notification(self) -> Notification:
        """What is posted, exactly once."""
        succeeded = [request for request in self.requests if request.result >= 0]
        unknown = any(request.copied < 0 for request in succeeded)
        return Notification(
            tag=self.tag,
            sequence=self.sequence,
            slot=self.slot,
            requests=len(self.requests),
            nbytes=sum(request.result for request in succeeded),
            copied=-1 if unknown else sum(request.copied for request in succeeded),
            failed=len(self.requests) - len(succeeded),
        )


@dataclass(eq=False)
class ModelSlot:
    """What the next notifier of a slot will take, and the active one."""

    tag: int
    sequence: int = 0
    active: ModelNotifier | None = None


class Model:
    """The rules. Errors are returned, as -errno or a refusal of the library; then nothing was changed."""

    def __init__(
        self, max_inflight: int, completions: str = "all", tags: Sequence[int] | None = (0,)
    ) -> None:
        self.max_inflight = max_inflight
        self.completions = completions
        self.slots: list[ModelSlot] = []
        self.requests: list[Request] = []
        self.notifiers: list[ModelNotifier] = []
        self.held: list[Request] = []  # of notifiers that were not posted, or not released since
        self.released: list[Request] = []
        self.unread_completions: list[Completion] = []
        self.unread_notifications: list[Notification] = []
        self.stray = 0
        if tags is not None:
            self.register(tags)

    # -- what a program does

    def register(self, tags: Sequence[int]) -> int:
        """Sequences start at 0."""
        if self.slots:
            return -errno.EBUSY
        if not 1 <= len(tags) <= 32768:
            return -errno.EINVAL
        self.slots = [ModelSlot(tag) for tag in tags]
        return 0

    def unregister(self) -> int:
        """Flushes what has requests, and does not wait."""
        if not self.slots:
            return -errno.ENXIO
        for slot in range(len(self.slots)):
            self.flush(slot)
        self.slots = []
        return 0

    def update(self, first: int, count: int, tag: int | None = None) -> int:
        """A slot without requests is skipped, and keeps its tag."""
        if first + count > 0xFFFFFFFF:
            return -errno.EOVERFLOW
        if first + count > len(self.slots):
            return -errno.EINVAL
        for index in range(first, first + count):
            if self.flush(index) is not None and tag is not None:
                self.slots[index].tag = tag
        return 0

    def flush(self, slot: int) -> "ModelNotifier | int | None":
        """The notifier that was detached, or None."""
        if slot >= len(self.slots):
            return -errno.EINVAL
        notifier = self.slots[slot].active
        if notifier is not None:
            self.slots[slot].active = None
            notifier.flushed = True
            self._post(notifier)
        return notifier

    def attach(
        self, slot: int, user_data: int, reference: int | None = None, nbytes: int | None = None
    ) -> "Request | int":
        """A request of the notifier that is active in the slot; the first one makes it."""
        refusal = self.refusal(slot)
        if refusal:
            return refusal
        into = self.slots[slot]
        if into.active is None:
            into.active = ModelNotifier(slot, into.tag, into.sequence)
            into.sequence = (into.sequence + 1) & 0xFFFFFFFF
            self.notifiers.append(into.active)
        request = Request(user_data, into.active, user_data if reference is None else reference, nbytes)
        into.active.requests.append(request)
        self.requests.append(request)
        self.held.append(request)
        return request

    def refusal(self, slot: int) -> int:
        """Why a request for the slot is refused now, or 0."""
        if slot >= len(self.slots):
            return -errno.EINVAL
        if len(self.held) >= self.max_inflight:
            return E_REQUESTS
        still_to_come = sum(request.state == QUEUED for request in self.held)
        if self.completions != "none" and len(self.unread_completions) + still_to_come >= self.max_inflight:
            return E_COMPLETIONS
        unread = len(self.unread_notifications) + sum(not notifier.posted for notifier in self.notifiers)
        if self.slots[slot].active is None and unread >= self.max_inflight:
            return E_NOTIFICATIONS
        return 0

    # -- what a kernel does

    def result(self, request: Request, result: int) -> None:
        """Its result, once; its memory is not free by that."""
        if request.state != QUEUED:
            self.stray += 1
            return
        request.state = PENDING
        request.result = result
        if self.completions == "all" or (self.completions == "failed" and result < 0):
            self.unread_completions.append(Completion(request.user_data, result))

    def settle(self, request: Request, copied: int) -> None:
        """Its memory is free. Without a result before it, the request never ran."""
        if request.state == SETTLED:
            self.stray += 1
            return
        if request.state == QUEUED:
            self.result(request, -errno.ECANCELED)
            self.stray += 1
        request.state = SETTLED
        request.copied = copied
        self._post(request.notifier)

    def _post(self, notifier: ModelNotifier) -> None:
        if notifier.due:
            assert not notifier.posted
            notifier.posted = True
            self.unread_notifications.append(notifier.notification())
            self.released += notifier.requests

    # -- what comes out

    def release(self) -> list[int]:
        """What each request referred to that is released now. Only then is there room for others."""
        released, self.released = self.released, []
        self.held = [request for request in self.held if request not in released]
        return [request.reference for request in released]

    def take_completions(self) -> list[Completion]:
        """What was not read yet, oldest first."""
        taken, self.unread_completions = self.unread_completions, []
        return taken

    def take_notifications(self) -> list[Notification]:
        """What was not read yet, in the order in which it came due."""
        taken, self.unread_notifications = self.unread_notifications, []
        return taken

    def stats(self) -> dict[str, int]:
        """Every count, made anew."""
        seen = [request for request in self.requests if request.state != QUEUED]
        succeeded = [request for request in seen if request.result >= 0]
        flushed = [notifier for notifier in self.notifiers if notifier.flushed and not notifier.posted]
        settled = [request for request in succeeded if request.state == SETTLED]
        return {
            "requests": len(self.requests),
            "nbytes": sum(request.result for request in succeeded),
            "completions": len(seen),
            "failed": len(seen) - len(succeeded),
            "notifications": sum(notifier.posted for notifier in self.notifiers),
            "copied": sum(request.result for request in settled if request.copied > 0),
            "stray": self.stray,
            "in_flight": sum(request.state != SETTLED for request in self.requests),
            "awaiting": len(self.requests) - len(seen),
            "held": sum(not request.notifier.posted for request in self.requests),
            "open": sum(not notifier.flushed for notifier in self.notifiers),
            "flushed": len(flushed),
            "unsettled": sum(
                request.state != SETTLED for notifier in flushed for request in notifier.requests
            ),
            "unread_completions": len(self.unread_completions),
            "unread_notifications": len(self.unread_notifications),
        }


class SlotAccounting:
    """The slot accounting in C alone, without a kernel, memory or a socket."""

    def __init__(
        self, max_inflight: int, completions: str = "all", tags: Sequence[int] | None = (0,)
    ) -> None:
        self.slots = Slots(max_inflight, {**COMPLETIONS, "raw": 3}[completions])
        self.pointer = self.slots.pointer
        self.references = 0  # that the request table has, to a socket and a memory each
        if tags is not None:
            assert self.register(tags) == 0

    def register(self, tags: Sequence[int]) -> int:
        return int(lib.uzc_slots_register(self.pointer, list(tags), len(tags)))

    def unregister(self) -> int:
        return int(lib.uzc_slots_unregister(self.pointer))

    def update(self, first: int, count: int, tag: int | None = None) -> int:
        return int(lib.uzc_slots_update(self.pointer, first, count, tag or 0, tag is None))

    def flush(self, slot: int) -> int:
        """The number of the notifier, 0 if there was none."""
        return int(lib.uzc_slots_flush(self.pointer, slot))

    def unsettled(self, number: int) -> int:
        return int(lib.uzc_slots_unsettled(self.pointer, number))

    def attach(self, slot: int, user_data: int, zero_copy: bool = True) -> int:
        """The request's key. Its references are invented, and carry the user_data."""
        return self._attach(1, user_data, user_data, slot=slot, zero_copy=zero_copy)[0]

    def attach_run(self, slot: int, user_data: int, count: int, reference: int, nbytes: int) -> list[int]:
        """The keys of datagrams from the same memory, up to `count`; or a refusal."""
        key, attached = self._attach(count, user_data, reference, slot=slot, datagram=1, length=nbytes)
        return [key + i * lib.UZC_KEY_STEP for i in range(attached)] if key >= 0 else [key]

    def _attach(self, count: int, user_data: int, reference: int, **fields: int) -> tuple[int, int]:
        send = ffi.new("uzc_send *", fields)
        send.socket = ffi.cast("void *", reference + 1)
        send.memory = ffi.cast("void *", ~reference & 0xFFFFFFFFFFFFFFFF)
        attached, references = ffi.new("uint32_t *", count), ffi.new("uint32_t *")
        key = int(lib.uzc_slots_attach(self.pointer, send, user_data, attached, references))
        assert references[0] <= (key >= 0)
        self.references += references[0]
        return key, attached[0]

    def result(self, key: int, result: int, flags: int = 0) -> int:
        return int(lib.uzc_slots_result(self.pointer, key, result, flags))

    def complete(self, key: int, result: int) -> None:
        """A result, and its notification."""
        self.result(key, result)
        self.settle(key)

    def settle(self, key: int, copied: int = 0, flags: int = 0) -> int:
        return int(lib.uzc_slots_settle(self.pointer, key, copied, flags))

    def results(self, key: int, places: int, result: int) -> int:
        """Of several requests of a run. The places that were accepted."""
        return int(lib.uzc_slots_results(self.pointer, key, places, result, 0))

    def settle_all(self, key: int, places: int, copied: int) -> int:
        return int(lib.uzc_slots_settle_all(self.pointer, key, places, copied, 0))

    def release(self) -> list[int]:
        """What each request referred to that is released now."""
        released = []
        sock, memory = ffi.new("void **"), ffi.new("void **")
        while count := lib.uzc_slots_release(self.pointer, sock, memory):
            reference = int(ffi.cast("uint64_t", sock[0])) - 1
            assert int(ffi.cast("uint64_t", memory[0])) == ~reference & 0xFFFFFFFFFFFFFFFF
            released += [reference] * count
            self.references -= 1
        return released

    def take_completions(self) -> list[Completion]:
        out = ffi.new("uzc_completion[]", int(self.slots.counts().unread_completions))
        assert lib.uzc_slots_completions(self.pointer, out, len(out)) == len(out)
        return [Completion(int(each.user_data), int(each.result)) for each in out]

    def take_notifications(self) -> list[Notification]:
        out = ffi.new("uzc_notification[]", int(self.slots.counts().unread_notifications))
        assert lib.uzc_slots_notifications(self.pointer, out, len(out)) == len(out)
        return [Notification(*(int(getattr(each, name)) for name in Notification._fields)) for each in out]

    def stats(self) -> dict[str, int]:
        counts = self.slots.counts()
        return {name: int(getattr(counts, name)) for name, _ in ffi.typeof("uzc_stats").fields}
