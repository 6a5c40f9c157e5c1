"""The timer of the process: one thread that sends, by system calls, what has waited for too long.

The first sender that has a ``max_delay`` starts it; it sleeps while nothing waits (``_native/udp/timer.c``).
It runs no code of the program's and waits for no sender, so that none can delay the others, or end it:
reports and errors are left for the next call of the sender's owner.
"""

import os
import threading

from uringzc._send import late

_starting = threading.RLock()  # a signal handler may use a sender for the first time meanwhile
_thread: threading.Thread | None = None


def start() -> bool:
    """Starts the thread if need be. False where none can be started: RLIMIT_NPROC, a limit of pids."""
    global _thread
    with _starting:
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_run, name="uringzc timer", daemon=True)
            try:
                _thread.start()
            except RuntimeError:
                _thread = None
        return _thread is not None


def _run() -> None:
    while _thread is threading.current_thread():  # else an interrupt came before start() recorded it
        late().send_late()


def _after_fork() -> None:
    global _thread, _starting
    _thread = None
    _starting = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)
