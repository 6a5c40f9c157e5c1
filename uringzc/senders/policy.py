"""Copy or zero-copy, decided for each destination. Pure: counts in, decisions out.

A zero-copy request costs more than a copy of a small one, and where the kernel copies after all (loopback, a
device without checksum offload, a capture that listens) it costs both. The notifications tell. So a
destination begins with zero-copy; when the kernel has copied most of a few requests, what follows is copied
at once, and from time to time, ever more rarely, a few requests ask again.
"""

from typing import NamedTuple

MODES = ("auto", "always", "never")
TRIAL = 4  # requests that tell how a destination is served
PAUSE = 256  # requests until it is asked again, twice as many each time
PAUSE_MOST = 65536
NEVER = 0xFFFFFFFF  # requests


class Decision(NamedTuple):
    """What holds for the next `look` requests; then the policy is asked again."""

    zero_copy: bool
    look: int


class Policy:
    """What is known of one destination. `mode`: "auto", "always" or "never"."""

    def __init__(self, mode: str) -> None:
        self._mode = mode
        self._pause = PAUSE
        self._trial = TRIAL
        self.copying = mode == "never"  #: it was found that the kernel copies, or copying was asked for

    def start(self) -> Decision:
        """The first decision."""
        if self._mode != "auto":
            return Decision(not self.copying, NEVER)
        return Decision(True, TRIAL)

    def observe(self, settled: int, copied: int) -> Decision:
        """Of the zero-copy requests since the last decision, `settled` have ended, `copied` by the kernel."""
        if self._mode != "auto":
            return self.start()
        if settled == 0:  # nothing is known: they were too small, or all are in flight
            self._trial = min(2 * self._trial, PAUSE)
            return Decision(True, self._trial)
        self._trial = TRIAL
        if 2 * copied < settled:
            self.copying, self._pause = False, PAUSE
            return Decision(True, PAUSE)
        pause = self._pause
        self.copying, self._pause = True, min(2 * pause, PAUSE_MOST)
        return Decision(False, pause)
