"""What a program must not leave behind: descriptors, threads, engines, requests, objects, pinned memory."""

import gc
import os
import threading
import time
import weakref
from typing import Any

from uringzc.engines import lifetime
from uringzc.notif import Slots
from uringzc.senders import timer

_SECONDS = 5.0  #: the kernel may need a moment, for what it does after close() has returned


class Before:
    """How things were before a program. `slots`: of the engines that were made since."""

    def __init__(self) -> None:
        self.descriptors = descriptors()
        self.threads = set(threading.enumerate())
        self.pinned = pinned()
        self.slots: list[Slots] = []
        self._track = lifetime.track

        def track(engine: lifetime.Engine) -> None:
            self.slots.append(engine.slots)
            self._track(engine)

        lifetime.track = track

    def compare(self, objects: "list[weakref.ref[Any]]") -> list[str]:
        """What is left."""
        lifetime.track = self._track
        deadline = time.monotonic() + _SECONDS
        while (found := self._left(objects)) and time.monotonic() < deadline:
            time.sleep(0.01)
        return found

    def _left(self, objects: "list[weakref.ref[Any]]") -> list[str]:
        gc.collect()
        lifetime.release_parked()
        found = []
        if engines := [engine for engine in lifetime._living if not engine.closed]:
            found.append(f"leak: {len(engines)} engines are open")
        if parked := lifetime.parked():
            found.append(f"leak: parked engines: {', '.join(engine.describe() for engine in parked)}")
        for slots in self.slots:
            stats = slots.stats()
            if stats.in_flight or stats.held or stats.open or stats.stray:
                found.append(f"leak: {stats}")
        names = {fd: name for fd, name in descriptors().items() if self.descriptors.get(fd) != name}
        if names:
            found.append(f"leak: descriptors {sorted(names.values())}")
        threads = set(threading.enumerate()) - self.threads - {timer._thread}
        # logging in a thread that ends makes a Dummy, which stays in threading's list
        if threads := {thread for thread in threads if not isinstance(thread, threading._DummyThread)}:
            found.append(f"leak: threads {sorted(thread.name for thread in threads)}")
        kinds = sorted(type(left).__qualname__ for one in objects if (left := one()) is not None)
        if kinds:
            found.append(f"leak: objects {kinds}")
        if pinned() > self.pinned:
            found.append(f"leak: {pinned() - self.pinned} KiB pinned")
        return found


def descriptors() -> dict[int, str]:
    """Those of this process, and what they are."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the folder's own
            continue
    return found


def pinned() -> int:
    """VmPin, in KiB."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmPin"))
