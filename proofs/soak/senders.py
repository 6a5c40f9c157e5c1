"""Users of UdpSender: every call, with options by chance, into a network that delivers or swallows."""

# ruff: noqa: D102 - users.User documents the methods that each has

import contextlib
import select
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import uringzc

from .engines import overwrite
from .ledger import MIN_SIZE
from .users import PATIENCE, User, frames

LEAST = 20_000  #: bytes from which on a ``bytes`` is held and not copied
REGION = 200  #: datagrams of a region


class UdpUser(User):
    """A sender to receivers that check every datagram."""

    def open(self) -> None:
        chance, engine = self.chance, self.engine
        self.remote = self.world.receiver()
        own = chance.random() < 0.7
        options: dict[str, Any] = {
            "zero_copy": chance.choice(("auto", "always", "never")),
            "max_delay": chance.choice((None, 0.0, 0.001, 0.001)),
            "strict_order": chance.random() < 0.15,
            "blocking": chance.random() < 0.75,
            "on_error": self._failed,
            "sndbuf": chance.choice(("auto", "auto", None, 20_000)),
            "arena": chance.choice((1 << 18, 1 << 20, 1 << 22)),
        }
        if self.lasting:  # all of it is touched soon, and resident
            options["arena"] = 1 << 18
        if chance.random() < 0.15:
            options["rate"] = chance.choice(("200Mbit", "1Gbit"))
        # one that lasts would remember more and more sends, up to 8192
        if chance.random() < 0.3 and not frames(engine) and not self.lasting:
            options["on_timestamp"] = self._timestamp
        self.options = options
        self.blocking = options["blocking"]
        self.max_delay = options["max_delay"]
        self.timestamps = self.failures = 0
        self.sock = None if own else self.world.net.socket()
        self.scheduler: Any = None
        if chance.random() < 0.2:
            self.scheduler = self.world.net.run(lambda: uringzc.Scheduler(engine=engine, completions="none"))
            options["scheduler"] = self.scheduler
        else:
            options["engine"] = engine
        to = self.receivers.addresses[self.remote]
        self.tx: Any = self.world.net.run(lambda: uringzc.UdpSender(to, sock=self.sock, **options))
        self.region = self.tx.register(REGION * 1230)
        members = chance.sample(range(len(self.receivers.addresses)), 3)
        self.members = members
        self.group = self.tx.group(self.receivers.addresses[at] for at in members)

    def __str__(self) -> str:
        sock = self.tx.sock
        state = struct.unpack("9I", sock.getsockopt(socket.SOL_SOCKET, 55, 36)), self.sock is None
        return f"{self.name} {self.options} {self.tx.explain()} {self.tx.stats} {state} {self.calls}"

    def use(self) -> None:
        calls: list[Callable[[], None]] = [self.send] * 4 + [self.send_to] * 3 + [self.send_many] * 2
        calls += [self.lease, self.lease, self.fan_out, self.send_group, self.send_group]
        calls += [self.send_region, self.send_slices, self.large, self.wait_for_timer]
        self.calls: list[str] = []
        for _ in range(12):
            call = self.chance.choice(calls)
            self.calls.append(call.__name__)
            call()
        if self.chance.random() < 0.05:
            self.tx.sock.setsockopt(1, 7, 1)  # SO_SNDBUF: as little as there is
        if self.chance.random() < 0.1:
            self.tx.set_rate("500Mbit" if self.chance.random() < 0.5 else None)
        if self.chance.random() < 0.1:
            self.tx.explain()

    def finish(self) -> None:
        self._again(self.tx.flush)
        self.patiently(lambda timeout: self._again(lambda: self.tx.drain(timeout)))
        stats = self.tx.stats
        if stats.waiting or stats.in_flight:
            self.ledger.fail("stuck", f"{self.name}: {stats}")
        self.receivers.take()

    def close(self) -> None:
        self.region.close()
        self.tx.close()
        if self.scheduler:
            self.scheduler.close()
        if self.sock:
            self.sock.close()
        del self.group

    def drop(self) -> None:
        del self.group, self.region, self.tx
        self.scheduler = self.sock = None

    # -- what is reported

    def _failed(self, error: uringzc.SendError) -> None:
        self.failures += 1
        if error.index < 0:  # an ICMP error: of a datagram that had left
            return
        receiver = self.receivers.addresses.index(error.to) if error.to else self.remote
        self.ledger.report(self.stream, receiver)

    def _timestamp(self, _: object) -> None:
        self.timestamps += 1

    # -- calls

    def _again(self, call: Callable[[], object]) -> None:
        """A call that does not wait is repeated until it has room."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                call()
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    self.ledger.fail("stuck", f"{self.name}: no room: {self.tx.explain()}")
                    raise
                select.select([self.tx], [], [], 0.05)

    def _size(self) -> int:
        return self.chance.choice((MIN_SIZE, 100, 700, 1200, 1200, 1200, 1230))

    def _make(self, size: int, *receivers: int) -> bytes:
        self.world.operations += len(receivers)
        return self.ledger.make(self.stream, size, *receivers)

    def send(self) -> None:
        """A burst of one size: a train. The memory is overwritten when the call returns."""
        size = self._size()
        for _ in range(self.chance.randrange(1, 80)):
            data = bytearray(self._make(size, self.remote))
            self._again(lambda data=data: self.tx.send(data))  # type: ignore[misc]
            overwrite(data)

    def send_to(self) -> None:
        """Interleaved, to every receiver."""
        for _ in range(self.chance.randrange(1, 30)):
            receiver = self.world.receiver()
            data, to = self._make(self._size(), receiver), self.receivers.addresses[receiver]
            self._again(lambda data=data, to=to: self.tx.sendto(data, to))  # type: ignore[misc]

    def send_many(self) -> None:
        """What was taken before there was no room is not given again."""
        receiver, size = self.world.receiver(), self._size()
        some = [self._make(size, receiver) for _ in range(self.chance.randrange(1, 100))]

        def call() -> None:
            try:
                self.tx.send_many(some, self.receivers.addresses[receiver])
            except BlockingIOError as error:
                del some[: error.characters_written]
                raise

        self._again(call)

    def lease(self) -> None:
        """Filled in place."""
        for _ in range(self.chance.randrange(1, 20)):
            size, receiver = self._size(), self.world.receiver()
            data, to = self._make(size, receiver), self.receivers.addresses[receiver]

            def call(data: bytes = data, to: object = to) -> None:
                with self.tx.lease(1400) as lease:
                    lease.view[: len(data)] = data
                    lease.send(len(data), to)

            self._again(call)

    def fan_out(self) -> None:
        """One payload, to several."""
        data = self._make(self._size(), *self.members)
        left = list(self.members)

        def call() -> None:
            try:
                self.tx.fan_out(data, [self.receivers.addresses[at] for at in left])
            except BlockingIOError as error:
                del left[: error.characters_written]
                if left:
                    raise

        self._again(call)

    def send_group(self) -> None:
        """Staged once for all members."""
        size = self._size()
        for _ in range(self.chance.randrange(1, 30)):
            data = self._make(size, *self.members)
            self._again(lambda data=data: self.group.send(data))  # type: ignore[misc]

    def send_region(self) -> None:
        """Registered memory, overwritten when the notifier is done."""
        size, count = self._size(), self.chance.randrange(1, REGION)
        at = 0
        for _ in range(count):
            self.region.view[at : at + size] = self._make(size, self.remote)
            at += size
        begin = 0

        def call() -> None:
            nonlocal begin
            try:
                self.tx.send_region(self.region, begin, at - begin, size)
            except BlockingIOError as error:
                begin += error.characters_written * size
                if begin < at:
                    raise

        self._again(call)
        self._region_is_free()

    def send_slices(self) -> None:
        """Pieces of registered memory."""
        offsets, lengths, at = [], [], 0
        for _ in range(self.chance.randrange(1, REGION // 2)):
            size = self._size()
            self.region.view[at : at + size] = self._make(size, self.remote)
            offsets.append(at)
            lengths.append(size)
            at += size + self.chance.randrange(20)

        def call() -> None:
            try:
                self.tx.send_slices(self.region, offsets, lengths)
            except BlockingIOError as error:
                del offsets[: error.characters_written], lengths[: error.characters_written]
                if offsets:
                    raise

        self._again(call)
        self._region_is_free()

    def _region_is_free(self) -> None:
        notifier: Any = None

        def flush() -> None:
            nonlocal notifier
            notifier = self.tx.flush()

        self._again(flush)
        self.patiently(notifier.wait)
        overwrite(self.region.view)

    def large(self) -> None:
        """A ``bytes`` that is held instead of copied; IP fragments it. A frame has no room for it."""
        if not frames(self.engine):
            data = self._make(LEAST, self.remote)
            self._again(lambda: self.tx.send(data))

    def wait_for_timer(self) -> None:
        """Nobody flushes: the timer's thread sends what waits."""
        if self.max_delay:
            self.send()
            deadline = time.monotonic() + 0.02
            while self.tx.stats.waiting and time.monotonic() < deadline:
                time.sleep(0.001)


class SinkUser(User):
    """A sender into a network that swallows: as fast as it goes, to many destinations, every size."""

    SIZES = (1200, 64, 700, 1200, 0, 8000, 1472, 20_000)

    def open(self) -> None:
        chance, engine = self.chance, self.engine
        options: dict[str, Any] = {"zero_copy": chance.choice(("auto", "always")), "arena": 1 << 18}
        self.tx: Any = self.world.sink.run(
            lambda: uringzc.UdpSender(("10.0.0.2", 9), engine=engine, **options)
        )
        self.region = self.tx.register(1200 * 1200)
        self.group = self.tx.group((f"10.0.0.{n}", 9) for n in range(10, 30))
        self.destinations = [
            (f"10.0.0.{n}", port) for n in chance.sample(range(2, 250), 16) for port in (5, 6)
        ]
        for to in self.destinations:  # what it keeps of each, it has from here on
            self.tx.send(b"", to)
        self.datagrams, self.nbytes = len(self.destinations), 0

    def _took(self, datagrams: int, nbytes: int) -> None:
        self.datagrams += datagrams
        self.nbytes += nbytes

    def use(self) -> None:
        tx = self.tx
        for _ in range(6):
            size = self.chance.choice([size for size in self.SIZES if size < 1400 or not frames(self.engine)])
            data, to = bytes(size), self.chance.choice(self.destinations)
            count = self.chance.randrange(1, 500)
            for _ in range(count):
                tx.send(data, to)
            count += tx.send_many([data] * count, to)
            for _ in range(count // 10):
                with tx.lease(size) as lease:
                    lease.send(size, to)
            self._took(count + count // 10, (count + count // 10) * size)
            self._took(tx.send_region(self.region, segment=1200, to=to), len(self.region))
            self._took(len(self.group), len(self.group) * 600)
            self.group.send(bytes(600))

    def finish(self) -> None:
        before = self.tx.stats.datagrams
        with contextlib.suppress(uringzc.SendError):  # stats.lost says so
            self.tx.drain(PATIENCE)
        stats = self.tx.stats
        if (stats.waiting, stats.in_flight, stats.lost) != (0, 0, 0):
            self.ledger.fail("stuck or lost", f"{self.name}: {stats}")
        if (stats.datagrams, stats.nbytes) != (self.datagrams, self.nbytes) or before != stats.datagrams:
            self.ledger.fail("miscounted", f"{self.name}: {self.datagrams}, {self.nbytes}: {stats}")
        held = self.tx._arena.memory.length - self.tx._arena.free
        if not frames(self.engine) and held > 64 << 10:  # the block that is being filled
            self.ledger.fail("held", f"{self.name}: {held} bytes of the arena")
        self.world.operations += self.datagrams - self._counted
        self.world.swallowed += self.datagrams - self._counted
        self._counted = self.datagrams

    _counted = 0

    def close(self) -> None:
        self._counted = 0
        self.region.close()
        self.tx.close()
        del self.group

    def drop(self) -> None:
        self._counted = 0
        del self.group, self.region, self.tx
