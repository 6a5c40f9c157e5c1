"""What every user of the library does here: it sends some, waits for them, and sees what became of each."""

import random
import select
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from uringzc import testing

from .faults import Faults
from .ledger import Ledger, Receivers

PATIENCE = 20.0  #: seconds after which what is in flight is stuck
QUIET = 0.1  #: seconds without an arrival after which nothing comes that a fault may have dropped


@dataclass
class World:
    """What all users share."""

    net: testing.Hold
    sink: testing.Sandbox
    ledger: Ledger
    receivers: Receivers
    faults: Faults
    chance: random.Random
    operations: int = 0  #: datagrams, requests, writes
    swallowed: int = 0  #: of them, datagrams that went into the sink
    events: dict[str, int] = field(default_factory=dict)  #: what was done to the process and its sockets

    def event(self, name: str) -> None:
        """Counts what was done."""
        self.events[name] = self.events.get(name, 0) + 1

    def receiver(self) -> int:
        """One of them."""
        return self.chance.randrange(len(self.receivers.addresses))


class User:
    """Uses an engine through one of the public classes. `use` and `finish` are its own."""

    def __init__(self, world: World, engine: str, lasting: bool = False) -> None:
        self.world, self.engine, self.lasting = world, engine, lasting
        self.ledger, self.receivers = world.ledger, world.receivers
        self.chance = random.Random(world.chance.random())
        self.stream = self.ledger.open()
        with world.faults.paused():
            self._open()

    def _open(self) -> None:
        """As soon as its engine is allowed: others may switch kernel.io_uring_disabled for a while."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.open()
                return
            except PermissionError:
                if time.monotonic() > deadline:
                    raise
                self.world.event("engine refused")
                time.sleep(0.1)

    @property
    def name(self) -> str:
        """What and over what, for reports."""
        return f"{type(self).__name__} {self.engine}"

    def step(self) -> None:
        """Sends some, and sees what became of them."""
        since, drops = time.monotonic(), backlog_drops()
        try:
            self.use()
            self.finish()
        except Exception as error:
            trace = "".join(traceback.format_exception(error)[-3:])
            faults = [(round(at - since, 2), name) for at, name in self.world.faults.recent]
            self.ledger.fail("raised", f"{self}: faults {faults}: {error!r} {trace}")
        self._wait(since, drops)

    def _wait(self, since: float, drops: int) -> None:
        """Until all has arrived, or a fault may have dropped it."""
        deadline, came = time.monotonic() + PATIENCE, time.monotonic()
        while True:
            if self.receivers.take():
                came = time.monotonic()
            if not self.ledger.missing(self.stream) or time.monotonic() > deadline:
                break
            excuse = self.world.faults.may_lose(since) or backlog_drops() != drops
            if excuse and time.monotonic() > came + QUIET:
                break
            with suppress(OSError, ValueError):  # one was closed meanwhile
                select.select(self.receivers.sockets, [], [], 0.02)
        excuse = self.world.faults.may_lose(since) or backlog_drops() != drops
        self.ledger.settle(self.stream, excuse, self.name)

    def patiently(self, wait: Callable[[float], object]) -> None:
        """`wait` with a timeout, again and again: a fragmented datagram is held until its receiver has it."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                wait(0.02)
                return
            except TimeoutError:
                self.receivers.take()
                if time.monotonic() > deadline:
                    raise

    def renew(self) -> None:
        """Ends what it uses, in one way or another, and begins anew."""
        how = self.chance.choice(("closed", "dropped"))
        self.world.event(f"{type(self).__name__} {how}")
        with self.world.faults.paused():
            self.end(self.close if how == "closed" else self.drop)
            self.stream = self.ledger.open()
            self._open()

    def end(self, how: Callable[[], None] | None = None) -> None:
        """Closes it, or what else `how` does."""
        try:
            (how or self.close)()
        except Exception as error:
            self.ledger.fail("raised", f"{self.name}: at its end: {error!r}")
        self.ledger.close(self.stream)

    def __str__(self) -> str:
        return self.name

    def open(self) -> None:
        """Makes what it uses."""

    def use(self) -> None:
        """Sends some."""

    def finish(self) -> None:
        """Returns when the kernel holds no memory any more. TimeoutError: it does."""

    def close(self) -> None:
        """Ends what it uses."""

    def drop(self) -> None:
        """Forgets what it uses without closing it."""
        self.close()


def backlog_drops() -> int:
    """Packets that this machine's processors had no room for between device and socket (softnet_stat)."""
    with open("/proc/net/softnet_stat") as file:
        return sum(int(line.split()[1], 16) for line in file)


def frames(engine: str) -> bool:
    """Whether the engine sends frames of its own."""
    return engine in ("packet", "af_xdp")
