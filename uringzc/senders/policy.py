"""Copy or zero-copy, decided for each destination. Pure: counts in, decisions out.

Where the kernel copies zero-copy requests after all (loopback, a device without checksum offload, a packet
capture), they cost more than a copy; the notifications say so. A destination begins with zero-copy. When most
of a few requests were copied, the following are sent as copies, and at ever longer intervals a few zero-copy
requests test it again.
"""

from typing import NamedTuple

MODES = ("auto", "always", "never")
TRIAL = 4  # requests that show whether the kernel copies
PAUSE = 256  # requests until the next trial, twice as many each time
MAX_PAUSE = 65536
NEVER = 0xFFFFFFFF  # requests


class Decision(NamedTuple):
    """What holds for the next `requests` requests; then the policy decides again."""

    zero_copy: bool
    requests: int


class Policy:
    """What is known of one destination. `mode`: "auto", "always" or "never"."""

    def __init__(self, mode: str) -> None:
        self._mode = mode
        self._pause = PAUSE
        self._trial = TRIAL
        self.copying = mode == "never"  #: copies are sent: the kernel copies anyway, or as asked

    def start(self) -> Decision:
        """The first decision."""
        if self._mode != "auto":
            return Decision(not self.copying, NEVER)
        return Decision(True, TRIAL)

    def observe(self, settled: int, copied: int) -> Decision:
        """Since the last decision `settled` zero-copy requests have ended; `copied` of them were copied."""
        if self._mode != "auto":
            return self.start()
        if settled == 0:  # unknown: all were too small, or are in flight
            self._trial = min(2 * self._trial, PAUSE)
            return Decision(True, self._trial)
        self._trial = TRIAL
        if 2 * copied < settled:
            self.copying, self._pause = False, PAUSE
            return Decision(True, PAUSE)
        pause = self._pause
        self.copying, self._pause = True, min(2 * pause, MAX_PAUSE)
        return Decision(False, pause)
