"""Ctrl-C and SIGTERM end a proof alike, by a KeyboardInterrupt: what it has started ends with it."""

import signal


def interruptible() -> None:
    """From now on, in the main thread. A shell starts its jobs with SIGINT ignored."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
