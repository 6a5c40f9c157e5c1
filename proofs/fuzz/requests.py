"""What is known of a call that sends: its datagrams, and how long it holds the program's memory."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import uringzc
from proofs.fuzz.memory import Held, Memory

Sent = list[tuple[int | None, bytes]]  #: places and datagrams


@dataclass
class Hold(Held):
    """Until a notifier is done, a CQE has come, or nothing is in flight of the owner's."""

    owner: Callable[[], Any]
    slot: int = -1
    notifier: Any = None
    done: bool = False

    def is_free(self) -> bool:
        """Asks."""
        with contextlib.suppress(Exception):
            if self.done or (self.notifier is not None and self.notifier.done):
                return True
            if (owner := self.owner()) is not None:
                stats = owner.stats
                unsettled = "held" if isinstance(stats, uringzc.Stats) else "waiting"
                return not stats.in_flight and not getattr(stats, unsettled)
        return False


@dataclass
class Request:
    """Of a Scheduler or a Ring."""

    sent: Sent
    holds: list[Hold]
    result: int | None = None


@dataclass
class Before:
    """What a call is about to send."""

    sent: Sent | None = None  #: None: no such call, or its arguments are none
    data: bytes = b""  # of a stream
    memory: list[Memory] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)
    taken: int = 0  # of `sent`, before a call inside this one
