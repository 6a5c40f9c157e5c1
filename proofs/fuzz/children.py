"""The parent's side of a child: gives it programs, and finds out how it died."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from proofs import builds
from proofs.fuzz.child import DEADLINE
from proofs.fuzz.programs import Program
from proofs.page import ROOT

_STARTING = 120.0  # seconds, on a machine that is busy
_TAIL = 6000  # characters of what a child has written


class Build(NamedTuple):
    """What the children run: the ordinary build, or another."""

    folder: Path
    python: str
    environment: dict[str, str]
    reports: Path | None = None


def build(name: str) -> Build:
    """`name`: "" is what is installed, "asan" the sanitizers'."""
    if not name:
        return Build(ROOT, sys.executable, dict(os.environ))
    folder, reports = builds.build(name), builds.reports(name)
    reports.mkdir(parents=True, exist_ok=True)
    return Build(folder, str(folder / ".venv" / "bin" / "python"), builds.environment(name), reports)


@dataclass
class Outcome:
    """Of one program. `died`: the child did, and has to be replaced."""

    findings: list[str] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    died: bool = False


class Child:
    """A process that plays programs, one after the other."""

    def __init__(self, build: Build) -> None:
        self._build = build
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in end()
        self._process = subprocess.Popen(
            [build.python, "-m", "proofs.fuzz.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=build.folder,
            env=build.environment,
            start_new_session=True,
        )
        self.engines = json.loads(self._line(_STARTING) or "[]")
        if not self.engines:
            text = self._written()
            self.end()
            raise RuntimeError(f"a child did not start:\n{text}")

    def play(self, program: Program) -> Outcome:
        """Plays it."""
        assert self._process.stdin
        start = self._errors.seek(0, os.SEEK_END)
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(program.dumps().encode() + b"\n")
            self._process.stdin.flush()
        line = self._line(DEADLINE + 30)
        if line:
            answer = json.loads(line)
            if any(finding.startswith("fork:") for finding in answer["findings"]):
                answer["findings"].append(f"fork: {self._written(start)}")
            return Outcome(answer["findings"], answer["calls"])
        self._kill()
        return Outcome([self._how_it_died(start)], died=True)

    def _how_it_died(self, start: int) -> str:
        code = self._process.returncode
        text = self._written(start)
        if "Timeout (" in text:
            return f"hang: a program takes longer than {DEADLINE:g} s\n{text}"
        report = self._build.reports and self._build.reports / f"report.{self._process.pid}"
        if report and report.exists():
            text = report.read_text()
            report.unlink()
        summary = next(
            (line for line in text.splitlines() if "SUMMARY:" in line or "runtime error" in line), ""
        )
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"crash: {summary.partition('SUMMARY: ')[2] or summary or how}\n{text}"

    def _written(self, start: int = 0) -> str:
        self._errors.seek(start)
        return self._errors.read().decode(errors="replace")[-_TAIL:]

    def _line(self, timeout: float) -> bytes:
        """b"" if it has died, or has to be ended."""
        assert self._process.stdout
        if not select.select([self._process.stdout], [], [], timeout)[0]:
            return b""
        return self._process.stdout.readline()

    def end(self) -> None:
        """Ends it. May be repeated."""
        self._kill()
        self._errors.close()

    def _kill(self) -> None:
        """It, and what it has started."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            assert self._process.stdin
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            self._process.wait(0.5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()
