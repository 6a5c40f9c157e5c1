"""What a Scheduler needs of an engine, and which engine it gets.

The seam for further engines: each feeds the same accounts (``Slots``), and serves the same per-request path
(``_send.Queue``) through a table of C functions.
"""

import os
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from uringzc.memory import Region
from uringzc.notif import Slots
from uringzc.uring import RingEngine, Sender

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from uringzc._send import Arena, Gather, Queue


class Engine(Protocol):
    """Queues requests, submits them, and tells the accounts what became of them."""

    name: str
    slots: Slots
    queue: "Queue"
    debug: bool
    closed: bool
    dead: bool  # it is the parent's, and this is the child of a fork

    def register(self, size_or_buffer: "int | Buffer") -> Region:
        """Memory to send from, pinned once where the engine can."""

    def register_socket(self, sock: socket.socket) -> None:
        """A socket that the engine may hold open."""

    def unregister_socket(self, sock: socket.socket) -> None:
        """Takes it back."""

    def check(self) -> None:
        """Raises what a new request would be refused with."""

    def mine(self) -> bool:
        """Whether this thread may use it."""

    def claim(self) -> None:
        """This thread becomes the owner."""

    def make_arena(self, size: int) -> "Arena":
        """The memory that its senders gather in."""

    def attach(self, sender: Sender, gather: "Gather") -> None:
        """Closing the engine closes the sender."""

    def detach(self, gather: "Gather") -> None:
        """The sender is closed."""

    def squeeze(self, gather: "Gather", wait: bool) -> bool:
        """Other senders than this one give back what they can of the arena; whether any of it is free."""

    def lost(self, gather: "Gather") -> None:
        """The sender was dropped, in any thread."""

    def submit(self) -> int:
        """Hands what is queued to the kernel, and takes every result there is."""

    def look(self) -> None:
        """Takes every result there is."""

    def wait_for(self, missing: Callable[[], int], timeout: float | None, what: str | None) -> None:
        """Submits and waits until `missing()` results have come."""

    def drain(self, timeout: float | None = None) -> None:
        """Waits until nothing is in flight."""

    def fileno(self) -> int:
        """Readable while there is something to reap."""

    def signal(self) -> None:
        """Brings fileno() up to date."""

    def close(self, timeout: float = 5.0) -> None:
        """Drains and ends, or parks."""

    def drop(self, lost: object) -> None:
        """The program lost it without close()."""


def choose(
    engine: str, max_inflight: int, completions: int, debug: bool | None, batch: int | None = None
) -> Engine:
    """The engine of that name; "auto" is the best that works here. OSError says why one can not.

    `debug` None: only with `python -X dev` or URINGZC_DEBUG=1. `batch`: the requests of one submission, where
    it is not left to the engine.
    """
    if debug is None:
        debug = sys.flags.dev_mode or os.environ.get("URINGZC_DEBUG", "0") not in ("", "0")
    if engine not in ("auto", "io_uring"):
        raise ValueError(f"engine is 'auto' or 'io_uring', not {engine!r}")
    return RingEngine(max_inflight, completions, batch, debug=debug)
