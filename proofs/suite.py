"""Tests that run elsewhere, with another interpreter or system: a bar meanwhile, and what came of them."""

import os
import re
import signal
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from proofs.interpreters import last_line

#: of the suite without what is slow
QUICK = ("-m", "not slow")


@dataclass
class Outcome:
    """What came of a run."""

    passed: int = 0
    skipped: int = 0
    failed: list[str] = field(default_factory=list)  # names
    seconds: float = 0
    problem: str = ""  # why there was no run to its end

    @property
    def holds(self) -> bool:
        """Whether it ran to its end, and nothing failed."""
        return bool(self.passed) and not self.failed and not self.problem

    def __str__(self) -> str:
        return self.problem or f"{self.passed} passed, {self.skipped} skipped, {len(self.failed)} failed"


def bars() -> Progress:
    """A bar for each run."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        transient=True,
    )


def run(
    command: Sequence[str],
    report: Path,
    log: Path,
    *,
    folder: Path,
    environ: Mapping[str, str],
    show: Callable[[int], object] = lambda percent: None,
    limit: float = 3600,
) -> Outcome:
    """Runs pytest by a command that writes JUnit's XML to `report`; what it prints goes to `log`.

    All that it starts is of one process group, which ends with this call however it ends.
    """
    report.unlink(missing_ok=True)
    began = time.monotonic()
    status = None
    with log.open("wb") as output, _started(command, folder, environ, output.fileno()) as process:
        while status is None and time.monotonic() - began < limit:
            with suppress(subprocess.TimeoutExpired):
                status = process.wait(0.5)
            show(percent(log))
    outcome = read(report) if report.exists() else Outcome()
    outcome.seconds = time.monotonic() - began
    if status is None:
        outcome.problem = f"stopped after {limit:.0f} seconds"
    elif status and not outcome.failed:
        outcome.problem = f"status {status}: {last_line(log.read_text(errors='replace'))}"
    return outcome


def percent(log: Path) -> int:
    """How far pytest says that it is."""
    said = re.findall(rb"\[ *(\d+)%\]", log.read_bytes())
    return int(said[-1]) if said else 0


def read(report: Path) -> Outcome:
    """What is in JUnit's XML."""
    outcome = Outcome()
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            outcome.failed.append(f"{case.get('classname')}::{case.get('name')}")
        elif "skipped" in kinds:
            outcome.skipped += 1
        else:
            outcome.passed += 1
    outcome.failed = sorted(set(outcome.failed))
    return outcome


@contextmanager
def _started(
    command: Sequence[str], folder: Path, environ: Mapping[str, str], output: int
) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def clean_environ() -> dict[str, str]:
    """That of this process, without what the `make` that runs it has said."""
    return {name: value for name, value in os.environ.items() if "MAKE" not in name and name != "MFLAGS"}
