"""A process with an event loop, on a CPU of its own, that answers each line of stdin by a line of JSON."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

A = TypeVar("A", bound="Asked")


class Asked:
    """`python -m benchmarks.programs.MODULE ARGUMENTS` on that CPU. Leaving the `with` block ends it."""

    def __init__(self, cpu: int, module: str, *arguments: object, fds: tuple[int, ...] = ()) -> None:
        command = [sys.executable, "-m", f"benchmarks.programs.{module}", *map(str, arguments)]
        self._process = subprocess.Popen(
            on_cpu(cpu, *command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=fds
        )

    def __enter__(self: A) -> A:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def ask(self) -> dict[str, Any]:
        """Return its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def trains(self) -> dict[str, int]:
        """Return its trains, of a server that says so."""
        found: dict[str, int] = self.ask()["trains"]
        return found


def on_cpu(cpu: int, *command: object) -> list[str]:
    """Return the command line that runs it on the `cpu`-th CPU that this process may use, or the last."""
    cpus = sorted(os.sched_getaffinity(0))
    return ["taskset", "-c", *map(str, (cpus[min(cpu, len(cpus) - 1)], *command))]


async def answer_stdin(answer: Callable[[], Awaitable[dict[str, Any]]]) -> None:
    """Answer until stdin ends."""
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await answer()), flush=True)
