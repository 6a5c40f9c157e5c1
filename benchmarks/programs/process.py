"""Programs in a process of their own, which answers each line of stdin with a sample, a line of JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial

from benchmarks.pairs import Contender, Sample
from uringzc import testing


class Process:
    """`python -m benchmarks.programs.MODULE ARGUMENTS` in that network, and its programs as contenders."""

    def __init__(self, box: testing.Sandbox, module: str, *arguments: object) -> None:
        command = [sys.executable, "-m", f"benchmarks.programs.{module}", *map(str, arguments)]
        pipe = subprocess.PIPE
        self._process = box.run(partial(subprocess.Popen, command, stdin=pipe, stdout=pipe, text=True))

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def contender(self, program: str, name: str) -> Contender:
        """One of them."""
        return Contender(name, partial(self._run, program))

    def _run(self, program: str, seconds: float) -> Sample:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(program, seconds, file=self._process.stdin, flush=True)
        return Sample(**json.loads(self._process.stdout.readline()))


def answer(programs: Mapping[str, Contender]) -> None:
    """Run what stdin names: "PROGRAM SECONDS"."""
    for line in sys.stdin:
        program, seconds = line.split()
        print(json.dumps(asdict(programs[program].run(float(seconds)))), flush=True)
