"""The clock that machines have in common: CLOCK_REALTIME, in ns."""

import time

_NAP = 0.2  # seconds; then it is looked at the clock again, which may have been set


def wait_until(start: float) -> float:
    """Sleeps until `start`, seconds of CLOCK_REALTIME. Returns how long that is past already, or 0."""
    late = time.time() - start
    while (left := start - time.time()) > 0:
        time.sleep(min(left, _NAP))
    return max(0.0, late)
