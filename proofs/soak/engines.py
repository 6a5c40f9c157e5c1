"""Users of Scheduler and Ring. What a notification gives back is overwritten at once: too early, and a
receiver gets bytes that nobody sent.
"""

# ruff: noqa: D102 - users.User documents the methods that each has

from collections.abc import Callable
from functools import partial
from typing import Any

import uringzc

from .ledger import MIN_SIZE
from .users import User

SLOTS = 5
PIECE, PIECES = 2048, 256
BURST = 40  # calls of a step
Free = Callable[[], None]


def overwrite(memory: "bytearray | memoryview") -> None:
    """With what no datagram has."""
    memory[:] = b"\xff" * len(memory)


class SchedulerUser(User):
    """Regions, bytes, runs and trains, attached to several slots."""

    def open(self) -> None:
        engine = self.engine
        self.s: Any = self.world.net.run(
            lambda: uringzc.Scheduler(range(SLOTS), engine=engine, max_inflight=2048)
        )
        self.region = self.s.register(PIECE * PIECES)
        self.pieces = list(range(PIECES))
        self.sockets = [self.world.net.socket() for _ in range(2)]
        self.requests: dict[int, tuple[list[int], int, int]] = {}  # numbers, receiver, bytes
        self.next = 0
        self.sequences = [0] * SLOTS
        self.attached: list[list[Free]] = [[] for _ in range(SLOTS)]  # of the active notifiers
        self.flushed: dict[tuple[int, int], list[Free]] = {}

    def use(self) -> None:
        calls = [self.send_piece] * 6 + [self.send_bytes] * 4 + [self.send_run] * 3 + [self.send_train] * 2
        calls += [self.flush] * 3 + [self.reap] * 3
        for _ in range(BURST):
            self.chance.choice(calls)()
        if self.chance.random() < 0.1:
            self.replace_socket()
        if self.chance.random() < 0.1:
            self.chance.choice(self.sockets).setsockopt(1, 7, 1)  # SO_SNDBUF: as little as there is

    def finish(self) -> None:
        for slot in range(SLOTS):
            self.flush(slot)
        self.patiently(self.s.drain)
        self.reap()
        if self.requests or self.flushed:
            text = f"{self.name}: {len(self.requests)} requests, {len(self.flushed)} notifiers: nothing came"
            self.ledger.fail("not reported", text)
            self.requests.clear()
            self.flushed.clear()
        if self.s.stats.stray:
            self.ledger.fail("stray", self.name)

    def close(self) -> None:
        self.s.close()
        self.region.close()
        for sock in self.sockets:
            sock.close()

    def drop(self) -> None:
        for sock in self.sockets:
            sock.close()
        del self.s, self.region

    # -- calls

    def _size(self) -> int:
        return self.chance.choice((MIN_SIZE, 64, 200, 1000, 1200, 1200, 1230))

    def _queue(self, numbers: list[int], receiver: int, nbytes: int, memory: Free, **options: Any) -> None:
        """One request; what is refused because too much is in flight was not sent."""
        slot = self.chance.randrange(SLOTS)
        flush = self.chance.random() < 0.2
        sock, to = self.chance.choice(self.sockets), self.receivers.addresses[receiver]
        try:
            self.s.send(sock, to=to, slot=slot, user_data=self.next, flush=flush, **options)
        except BlockingIOError:
            for number in numbers:
                self.ledger.unmake(self.stream, number, receiver)
            memory()
            if self.s.flush(slot):
                self._detach(slot)
            self.reap()
            return
        self.requests[self.next] = (numbers, receiver, nbytes)
        self.next += 1
        self.world.operations += 1
        self.attached[slot].append(memory)
        if flush:
            self._detach(slot)

    def send_piece(self) -> None:
        """From registered memory, which is overwritten at the notification."""
        if not self.pieces:
            self.reap()
            return
        at, size, receiver = self.pieces.pop(), self._size(), self.world.receiver()
        view = self.region.view[at * PIECE : (at + 1) * PIECE]
        view[:size] = self.ledger.make(self.stream, size, receiver)

        def free() -> None:
            overwrite(view)
            self.pieces.append(at)

        number = self.ledger.last(self.stream)
        self._queue([number], receiver, size, free, data=self.region, offset=at * PIECE, length=size)

    def send_bytes(self) -> None:
        """From memory of the program's."""
        receiver = self.world.receiver()
        data = bytearray(self.ledger.make(self.stream, self._size(), receiver))
        number = self.ledger.last(self.stream)
        self._queue([number], receiver, len(data), lambda: overwrite(data), data=data)

    def send_train(self) -> None:
        """Datagrams of one size as one request (UDP_SEGMENT)."""
        if self.engine == "af_xdp":  # it has no trains
            return
        receiver, size, count = self.world.receiver(), self._size(), self.chance.randrange(2, 12)
        data, numbers = bytearray(), []
        for _ in range(count):
            data += self.ledger.make(self.stream, size, receiver)
            numbers.append(self.ledger.last(self.stream))
        free = partial(overwrite, data)
        self._queue(numbers, receiver, len(data), free, data=data, segment=size)

    def send_run(self) -> None:
        """Several requests by one call."""
        slot, receiver, size = self.chance.randrange(SLOTS), self.world.receiver(), self._size()
        flush, count = self.chance.random() < 0.3, self.chance.randrange(1, 40)
        first, data = self.ledger.last(self.stream) + 1, bytearray()
        for _ in range(count):
            data += self.ledger.make(self.stream, size, receiver)
        to, sock = self.receivers.addresses[receiver], self.chance.choice(self.sockets)
        if flush and self.s.flush(slot):  # each request has a notifier of its own
            self._detach(slot)
        try:
            taken = self.s.send_run(
                sock, data, size, count, to=to, slot=slot, user_data=self.next, flush=flush
            )
        except BlockingIOError:
            taken = 0
        for number in range(first + taken, first + count):
            self.ledger.unmake(self.stream, number, receiver)
        for number in range(first, first + taken):
            self.requests[self.next] = ([number], receiver, size)
            self.next += 1
            self.attached[slot].append(Part(data, number - first, size).free)
            if flush:
                self._detach(slot)
        self.world.operations += taken
        if taken < count:
            self.reap()

    def flush(self, slot: int | None = None) -> None:
        """The slot's active notifier."""
        slot = self.chance.randrange(SLOTS) if slot is None else slot
        notifier = self.s.flush(slot)
        if (notifier is not None) != bool(self.attached[slot]):
            self.ledger.fail("notifier", f"{self.name}: slot {slot} was skipped, or was not")
        if notifier is not None:
            self._detach(slot)

    def _detach(self, slot: int) -> None:
        self.flushed[slot, self.sequences[slot]] = self.attached[slot]
        self.sequences[slot] += 1
        self.attached[slot] = []

    def reap(self) -> None:
        """What failed is not waited for; memory that is free is overwritten."""
        self.s.submit()
        for user_data, result in self.s.reap_completions():
            numbers, receiver, nbytes = self.requests.pop(user_data, ([], 0, result))
            if not numbers or 0 <= result != nbytes:
                self.ledger.fail("completion", f"{self.name}: {user_data}: {result} of {nbytes}")
            for number in numbers if result < 0 else ():
                self.ledger.refused(self.stream, number, receiver)
        for notification in self.s.reap_notifications():
            memory = self.flushed.pop((notification.slot, notification.sequence), None)
            if memory is None or len(memory) != notification.requests:
                self.ledger.fail("notification", f"{self.name}: {notification}")
            for free in memory or ():
                free()

    def replace_socket(self) -> None:
        """Closed while its requests are queued or in flight; its descriptor is another one's at once."""
        at = self.chance.randrange(len(self.sockets))
        self.sockets[at].close()
        self.sockets[at] = self.world.net.socket()
        self.world.event("socket closed")


class Part:
    """One datagram of a run."""

    def __init__(self, data: bytearray, at: int, size: int) -> None:
        self.data, self.at, self.size = data, at, size

    def free(self) -> None:
        """It may be overwritten."""
        view = memoryview(self.data)
        overwrite(view[self.at * self.size : (self.at + 1) * self.size])


class RingUser(User):
    """SEND, SEND_ZC and SENDMSG_ZC through a Ring, whose memory is overwritten at the last CQE."""

    def open(self) -> None:
        self.ring = uringzc.Ring(entries=64, max_inflight=512)
        self.region = self.ring.register(PIECE * PIECES)
        self.pieces = list(range(PIECES))
        self.sock = self.world.net.socket()
        self.requests: dict[int, tuple[int, int, Free]] = {}
        self.next = 0

    def use(self) -> None:
        for _ in range(BURST * 2):
            receiver, size = self.world.receiver(), self.chance.choice((MIN_SIZE, 300, 1200))
            data = self.ledger.make(self.stream, size, receiver)
            number = self.ledger.last(self.stream)
            kind = self.chance.choice(("send", "send_zc", "region", "sendmsg_zc"))
            if kind == "region" and not self.pieces:
                kind = "send_zc"
            try:
                free = self._send(kind, data, self.receivers.addresses[receiver])
            except BlockingIOError:
                self.ledger.unmake(self.stream, number, receiver)
                self.ring.submit(wait=1, timeout=1.0)
                self.reap()
                continue
            self.requests[self.next] = (number, receiver, free)
            self.next += 1
            self.world.operations += 1
            if self.chance.random() < 0.1:
                self.ring.submit()
                self.reap()

    def _send(self, kind: str, data: bytes, to: tuple[str, int]) -> Free:
        own, number = bytearray(data), self.next
        if kind == "region":
            at = self.pieces[-1]
            view = self.region.view[at * PIECE : (at + 1) * PIECE]
            view[: len(data)] = data
            self.ring.send_zc(
                self.sock, self.region, offset=at * PIECE, length=len(data), to=to, user_data=number
            )
            self.pieces.pop()

            def free() -> None:
                overwrite(view)
                self.pieces.append(at)

            return free
        if kind == "sendmsg_zc":
            half = memoryview(own)[: len(own) // 2], memoryview(own)[len(own) // 2 :]
            self.ring.sendmsg_zc(self.sock, half, to=to, user_data=number)
        else:
            call = self.ring.send if kind == "send" else self.ring.send_zc
            call(self.sock, own, to=to, user_data=number)
        return lambda: overwrite(own)

    def reap(self) -> None:
        """CQEs: a result, with `more` a second one follows."""
        for cqe in self.ring.reap():
            entry = self.requests.get(cqe.user_data)
            if entry is None:
                self.ledger.fail("completion", f"{self.name}: {cqe}")
                continue
            number, receiver, free = entry
            if cqe.error:
                self.ledger.refused(self.stream, number, receiver)
            if not cqe.more:
                del self.requests[cqe.user_data]
                free()

    def finish(self) -> None:
        self.patiently(self.ring.drain)
        self.reap()
        if self.requests:
            self.ledger.fail("not reported", f"{self.name}: {len(self.requests)} requests")
            self.requests.clear()

    def close(self) -> None:
        self.ring.close()
        self.region.close()
        self.sock.close()

    def drop(self) -> None:
        self.sock.close()
        del self.ring, self.region
