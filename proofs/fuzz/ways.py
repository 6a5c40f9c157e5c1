"""How else a call is made: in another thread, in a child of fork(), or with a signal in the middle of it.

A step has the name of it in ``how``: "thread", "beside", "fork", "signal".
"""

import contextlib
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from proofs.fuzz.programs import Step

if TYPE_CHECKING:
    from proofs.fuzz.player import Player

SECONDS = 10.0  #: that one call may take
_DATA, _SOCK = ["bytes", 1200], ["socket", "udp", 0]
#: what one thread calls while another does something; with memory that nobody else writes to
_BESIDE = (
    Step("UdpSender.send", give={"data": _DATA}),
    Step("UdpSender.flush"),
    Step("UdpSender.stats"),
    Step("UdpSender.explain"),
    Step("TcpSender.stats"),
    Step("Scheduler.send", give={"sock": _SOCK, "data": _DATA}),
    Step("Scheduler.submit"),
    Step("Scheduler.stats"),
    Step("Ring.send_zc", give={"sock": _SOCK, "data": _DATA}),
)


class InterruptError(KeyboardInterrupt):
    """Out of a signal handler."""


class Ways:
    """Of one program's calls."""

    def __init__(self, player: "Player") -> None:
        self.player = player
        self._before = _threads()  # faulthandler's, which Python does not know, among them

    def in_thread(self, call: Callable[[], object], meanwhile: Callable[[], object] = bool) -> None:
        """In a thread of its own, which ends."""
        thread = threading.Thread(target=lambda: self.player.guarded("in a thread", call), daemon=True)
        thread.start()
        meanwhile()
        thread.join(SECONDS)
        if thread.is_alive():
            self.player.findings.append("hang: a call in another thread does not return")

    def beside(self, step: Step) -> None:
        """In another thread, while this one makes calls too: on the same object, or another of its engine."""
        player, other = self.player, self.player.rnd.choice(_BESIDE)
        one = player.pick(other.do.partition(".")[0], step.on)
        given = {name: player.things.make(value) for name, value in other.give.items()}

        def call() -> None:
            for _ in range(20):
                player.call(other, one, dict(given))

        self.in_thread(lambda: player.play_step(step), call if one is not None else bool)

    def interrupted(self, call: Callable[[], object]) -> None:
        """An exception comes out of a signal handler, at any moment of it."""
        armed = True

        def handler(number: int, frame: FrameType | None) -> None:
            nonlocal armed
            if armed and self.player.interruptible:
                armed = False
                raise InterruptError

        before = signal.signal(signal.SIGALRM, handler)
        gc.disable()  # an exception in a callback of the collector would be lost there
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, self.player.rnd.choice([0.00002, 0.0001, 0.0004, 0.002]))
                call()
            finally:
                armed = False
        except InterruptError:
            self.player.effects.uncertain()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            gc.enable()

    def in_child(self, step: Step) -> None:
        """In a child of fork(), where every object is the parent's; what is sent there must not arrive."""
        sys.stdout.flush()
        self._await_ending_threads()
        if (pid := os.fork()) == 0:
            code = 1
            try:
                self.player.findings.clear()
                self.player.forked = True
                signal.alarm(int(SECONDS))
                for face, some in self.player.objects.items():
                    for one in some if face in ("Scheduler", "Ring", "UdpSender", "TcpSender") else ():
                        self.player.close(face, one)
                if not step.do.endswith("()"):  # a new one may be made, and used
                    self.player.play_step(step)
                self.player.objects.clear()
                gc.collect()
                code = 3 if self.player.findings else 0
                print(*self.player.findings, sep="\n", file=sys.stderr, flush=True)
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        if status:
            self.player.findings.append(f"fork: the child ended with status {status:#x}; see what it wrote")

    def _await_ending_threads(self) -> None:
        """Until none is left. What such a thread frees, it frees without the GIL.

        gcc's AddressSanitizer leaves the lock of its allocator as it is at fork(): if another thread has it
        then, the child waits for it without end.
        """
        deadline = time.monotonic() + SECONDS
        while any(map(self._is_ending, _threads())) and time.monotonic() < deadline:
            time.sleep(0.0005)

    def _is_ending(self, thread: int) -> bool:
        """Whether Python does not know it any more. The kernel's own, which execute requests, are none."""
        known = [
            one.native_id for one in threading.enumerate() if not isinstance(one, threading._DummyThread)
        ]
        with contextlib.suppress(OSError), open(f"/proc/self/task/{thread}/comm") as name:
            return thread not in self._before and thread not in known and not name.read().startswith("iou-")
        return False


def _threads() -> set[int]:
    return set(map(int, os.listdir("/proc/self/task")))
