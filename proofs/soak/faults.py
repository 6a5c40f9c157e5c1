"""What happens to the network and to this process meanwhile: in a thread, one fault after the other."""

import errno
import gc
import random
import signal
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

from uringzc import testing

from .ledger import Receivers

#: seconds after a fault in which datagrams may still be dropped because of it
AFTERMATH = 0.3
#: seconds that a fault lasts, and that nothing happens after it
LASTS, PAUSE = (0.01, 0.2), (0.05, 1.0)
Fault = Callable[[], AbstractContextManager[None]]


class Faults(threading.Thread):
    """Faults of one network. `seed` decides which, in which order; not when exactly."""

    def __init__(self, net: testing.Hold, receivers: Receivers, seed: object) -> None:
        super().__init__(name="faults")
        self.net, self.receivers = net, receivers
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self.signals = 0
        self.recent: deque[tuple[float, str]] = deque(maxlen=10)  #: when each of the last began
        self._chance = random.Random(f"{seed} faults")
        self._ended = threading.Event()
        self._active = threading.Lock()  # while there is a fault
        self._lossy = False
        self._lossy_until = 0.0
        self._main = threading.main_thread().ident
        #: and whether datagrams may get lost, unreported
        self.kinds: dict[str, tuple[Fault, bool]] = {
            "gate stopped": (self._gate_stopped, False),
            "gate slow": (self._gate_slow, False),
            "gate full": (self._gate_full, True),
            "receiver closed": (self._receiver_closed, True),
            "MTU small": (self._small_mtu, True),
            "link down": (self._link_down, True),
            "neighbour forgotten": (self._neighbour_forgotten, True),
            "no offloads": (self._no_offloads, False),
            "signals": (self._signals, False),
            "gc": (self._gc, False),
        }

    def may_lose(self, since: float) -> bool:
        """Whether a fault since that time (time.monotonic) may have dropped something, unreported."""
        return self._lossy or self._lossy_until >= since

    @contextmanager
    def paused(self) -> Iterator[None]:
        """There is no fault in the block, nor what comes after one."""
        with self._active:
            time.sleep(max(0.0, self._lossy_until - time.monotonic()))
            yield

    def stop(self) -> None:
        """Ends the thread, and the fault of the moment."""
        self._ended.set()
        self.join()

    def run(self) -> None:
        """One fault after the other."""
        while not self._ended.wait(self._chance.uniform(*PAUSE)):
            name = self._chance.choice(list(self.kinds))
            lasts = self._chance.uniform(*LASTS)
            fault, lossy = self.kinds[name]
            with self._active:
                self._lossy = lossy
                self.recent.append((time.monotonic(), name))
                try:
                    with fault():
                        self._ended.wait(lasts)
                except Exception as error:  # printed at the end
                    self.problems.append(f"{name}: {error!r}")
                if lossy:
                    self._lossy_until = time.monotonic() + AFTERMATH
                self._lossy = False
                self.counts[name] += 1

    # -- the faults

    @contextmanager
    def _gate_stopped(self) -> Iterator[None]:
        self.net.stop()
        try:
            yield
        finally:
            self.net.release()

    @contextmanager
    def _gate_slow(self) -> Iterator[None]:
        self.net._slow_down(0.05)
        try:
            yield
        finally:
            self.net.release()

    @contextmanager
    def _gate_full(self) -> Iterator[None]:
        self.net.limit(self._chance.choice((5_000, 70_000, 300_000)))
        self.net._slow_down(0.05)
        try:
            yield
        finally:
            self.net.limit()
            self.net.release()

    @contextmanager
    def _receiver_closed(self) -> Iterator[None]:
        at = self._chance.randrange(len(self.receivers.sockets))
        _, port = self.receivers.addresses[at][:2]
        self.receivers.sockets[at].close()
        try:
            yield
        finally:
            self.receivers.sockets[at] = self._open_receiver(port)

    def _open_receiver(self, port: int) -> socket.socket:
        """As soon as the port is free: a thread that was receiving keeps the socket that was closed."""
        while True:
            try:
                sock = self.net.receiver_socket(port=port)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                time.sleep(0.001)
            else:
                sock.setblocking(False)
                return sock

    @contextmanager
    def _small_mtu(self) -> Iterator[None]:
        self.net.set_mtu(1280)
        try:
            yield
        finally:
            self.net.set_mtu(1500)

    @contextmanager
    def _link_down(self) -> Iterator[None]:
        self._link("down")
        try:
            yield
        finally:
            self._link("up")

    def _link(self, state: str) -> None:
        def inside() -> None:
            from pyroute2 import IPRoute

            with IPRoute() as ip:
                ip.link("set", index=socket.if_nametoindex(self.net.device), state=state)

        self.net.run(inside)

    @contextmanager
    def _neighbour_forgotten(self) -> Iterator[None]:
        self.net.forget_neighbour()
        yield

    @contextmanager
    def _no_offloads(self) -> Iterator[None]:
        off: dict[str, Any] = {self._chance.choice(("checksum", "scatter_gather", "segmentation")): False}
        self.net.offload(**off)
        try:
            yield
        finally:
            self.net.offload(checksum=True, scatter_gather=True, segmentation=True)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGUSR1 to the thread that sends, whose calls of the kernel are interrupted (EINTR)."""
        assert self._main
        for _ in range(100):
            with suppress(ProcessLookupError):
                signal.pthread_kill(self._main, signal.SIGUSR1)
            self.signals += 1
            time.sleep(0.0005)
        yield

    @contextmanager
    def _gc(self) -> Iterator[None]:
        for _ in range(3):
            gc.collect()
        yield
