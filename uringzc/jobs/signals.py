"""What ends a job besides Ctrl-C: SIGTERM, and that nobody reads its output any more."""

import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

INTERRUPTED = 128 + signal.SIGINT  #: exit status, as shells have it
TERMINATED = 128 + signal.SIGTERM


@contextmanager
def sigterm_interrupts() -> Iterator[Callable[[], int]]:
    """SIGTERM raises KeyboardInterrupt in the block. Gives a function: the exit status of an interrupt.

    In the main thread, and unless the process was started with SIGTERM ignored.
    """
    status = INTERRUPTED

    def terminate(*_: object) -> None:
        nonlocal status
        status = TERMINATED
        raise KeyboardInterrupt

    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield lambda: status
        return
    signal.signal(signal.SIGTERM, terminate)
    try:
        yield lambda: status
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def interrupt_at_hangup(fd: int) -> None:
    """SIGINT for this process once nobody reads what it writes there, if that is a pipe or a socket."""
    poll = select.poll()
    poll.register(fd, 0)

    def watch() -> None:
        poll.poll()
        with suppress(OSError), open(os.devnull, "w") as nowhere:  # the interpreter flushes it at the end
            os.dup2(nowhere.fileno(), fd)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=watch, daemon=True, name="hangup").start()
