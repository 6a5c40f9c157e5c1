"""Child programs, threads and signals, for tests: run to their end, interrupted, and never left running."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TypeVar

import uringzc
from uringzc import testing

T = TypeVar("T")
HERE = Path(__file__).parent


def default_signals() -> None:
    """What is started from here has the usual signals, whatever this process was started with.

    `make test &` in a script ignores SIGINT, and what is ignored or blocked is inherited. What has a handler
    is not: the program that is started begins with the default. So what is ignored here gets a handler that
    does nothing, which is the same for this process. SIGCHLD is no such case: while it is ignored, the kernel
    keeps no child's exit status.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def child_pids(pid: int | str = "self") -> set[int]:
    """The processes that this one, or another, has started and not waited for."""
    found = set()
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            found |= {int(child) for child in (thread / "children").read_text().split()}
    return found


def kill_children(but: set[int]) -> list[str]:
    """Kills those that are not among `but`, and says what they were."""
    ended = []
    for pid in child_pids() - but:
        with contextlib.suppress(OSError):
            ended.append(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return ended


@contextmanager
def killed_at_exit(process: "subprocess.Popen[str]") -> Iterator["subprocess.Popen[str]"]:
    """The process, which does not outlive the block."""
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


class Child:
    """A program in another process: it prints lines, and reads lines."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def line(self) -> str:
        """The next line it prints; with none, an assertion that shows its errors."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.end(None)[1])
        return line.rstrip("\n")

    def write_line(self, line: str = "") -> None:
        """Writes a line to it."""
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def end(self, code: int | None = 0) -> tuple[str, str]:
        """What else it printed, and its errors; it has to end with `code`."""
        out, errors = self.process.communicate(timeout=60)
        if code is not None:
            assert self.process.returncode == code, errors
        return out, errors


@contextmanager
def child(program: str, *args: object, box: testing.Sandbox | None = None) -> Iterator[Child]:
    """A Python program with these arguments, inside `box`; killed if the block leaves it running."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONWARNINGS", "PYTHONDEVMODE")}
    importable = [Path(uringzc.__file__).parents[1], HERE, *filter(Path.is_dir, HERE.iterdir())]
    environment["PYTHONPATH"] = os.pathsep.join(map(str, importable))

    # else catch_warnings() of free-threaded CPython records only what its own thread warns of
    options = ("-W", "default", "-X", "context_aware_warnings=0")

    def start() -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, *options, "-c", textwrap.dedent(program), *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        )

    with killed_at_exit(box.run(start) if box else start()) as process:
        yield Child(process)


def run_program(program: str, *args: object, box: testing.Sandbox | None = None) -> tuple[str, str]:
    """What a program prints, to stdout and stderr. It has to end with 0."""
    with child(program, *args, box=box) as started:
        return started.end()


def in_thread(call: Callable[[], T], name: str | None = None) -> T:
    """What `call` returns or raises in a thread of its own, which ends."""
    outcome: Future[T] = Future()

    def target() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=target, name=name)
    thread.start()
    thread.join()
    return outcome.result()


@contextmanager
def soon(call: Callable[[], object]) -> Iterator[None]:
    """Another thread calls it, while the block waits."""
    later = threading.Timer(0.01, call)
    later.start()
    try:
        yield
    finally:
        later.join()


def fork() -> int:
    """os.fork(), of which CPython warns while there is another thread: a timer, or one that is ending."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


class Alarms:
    """KeyboardInterrupt out of SIGALRM: again and again in `exhaust`, or once in the block."""

    def __init__(self, interval: float, repeat: bool = True) -> None:
        self.interval = interval
        self.repeat = repeat
        self.armed = False
        self.raised = 0

    def _alarm(self, number: int, frame: FrameType | None) -> None:
        if self.armed:
            self.armed = False
            self.raised += 1
            raise KeyboardInterrupt

    def __enter__(self) -> "Alarms":
        gc.disable()  # an interrupt in somebody's gc callback would be lost there
        self.before = signal.signal(signal.SIGALRM, self._alarm)
        self.armed = not self.repeat
        # again in any case: a signal that comes just before a system call does not end that
        again = self.interval if self.repeat else max(self.interval, 0.1)
        signal.setitimer(signal.ITIMER_REAL, self.interval, again)
        return self

    def __exit__(self, *_: object) -> None:
        self.armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.before)
        gc.enable()

    def exhaust(self, step: Callable[[], object], times: int) -> None:
        """`step()` so often, whatever comes in between."""
        done = 0

        def go() -> None:  # a call of its own: in 3.13 a loop's jump back lies outside of the try around it
            nonlocal done
            self.armed = True
            while done < times:
                done += 1
                step()
            self.armed = False

        while done < times:
            with contextlib.suppress(KeyboardInterrupt):
                go()
