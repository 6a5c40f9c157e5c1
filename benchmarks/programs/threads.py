"""Contenders side by side: each in a thread of its own, where what it sends with was made and is closed."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from benchmarks.pairs import Contender, Sample
from benchmarks.programs.scheduler import Ours


class Crew:
    """So many threads. Leaving the `with` block closes, in each, what it sent with."""

    def __init__(self, size: int) -> None:
        self._stack = ExitStack()
        self._threads = [self._stack.enter_context(ThreadPoolExecutor(1)) for _ in range(size)]

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def schedulers(self, socks: Sequence[socket.socket], size: int) -> list[Contender]:
        """`send_run` with a scheduler for each thread and socket."""
        ours = [thread.submit(Ours, sock).result() for thread, sock in zip(self._threads, socks, strict=True)]
        self.closing([one.s.close for one in ours])
        return [one.run("send_run", size) for one in ours]

    def closing(self, closes: Sequence[Callable[[], object]]) -> None:
        """Call each at the end, in its thread."""
        for thread, close in zip(self._threads, closes, strict=True):
            self._stack.callback(_in_thread, thread, close)

    def together(self, name: str, runs: Sequence[Contender], target: float | None = None) -> Contender:
        """One contender in each thread, at the same time: what all of them sent until the last was done."""

        def run(seconds: float) -> Sample:
            cpu, start = time.process_time(), time.perf_counter()
            going = [
                thread.submit(one.run, seconds) for thread, one in zip(self._threads, runs, strict=False)
            ]
            done = [one.result() for one in going]
            took, cpu = time.perf_counter() - start, time.process_time() - cpu
            return Sample(sum(one.datagrams for one in done), took, cpu, done[0].copied_share)

        return Contender(name, run, target)


def _in_thread(thread: ThreadPoolExecutor, call: Callable[[], object]) -> None:
    thread.submit(call).result()
