"""Contenders that run at the same time, each in a thread of its own."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from benchmarks.pairs import Contender, Sample
from benchmarks.programs.scheduler import SchedulerPrograms


class Threads:
    """So many threads. Leaving the `with` block closes what `closing` named, each in its thread."""

    def __init__(self, size: int) -> None:
        self._stack = ExitStack()
        self._threads = [self._stack.enter_context(ThreadPoolExecutor(1)) for _ in range(size)]

    def __enter__(self) -> Threads:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def send_run(self, socks: Sequence[socket.socket], size: int) -> list[Contender]:
        """`send_run` with a scheduler for each thread and socket."""
        programs = [
            thread.submit(SchedulerPrograms, sock).result()
            for thread, sock in zip(self._threads, socks, strict=True)
        ]
        self.closing([each.s.close for each in programs])
        return [each.send_run("send_run", size) for each in programs]

    def closing(self, closes: Sequence[Callable[[], object]]) -> None:
        """Call each at the end, in its thread."""
        for thread, close in zip(self._threads, closes, strict=True):
            self._stack.callback(_call_in, thread, close)

    def together(self, name: str, programs: Sequence[Contender], processes: bool = False) -> Contender:
        """One program in each thread: what all of them sent until the last had ended.

        `processes`: the threads only wait for processes, whose CPU time counts.
        """

        def run(seconds: float) -> Sample:
            cpu, start = time.process_time(), time.perf_counter()
            running = [
                thread.submit(each.run, seconds)
                for thread, each in zip(self._threads, programs, strict=False)
            ]
            ended = [each.result() for each in running]
            took, cpu = time.perf_counter() - start, time.process_time() - cpu
            if processes:
                cpu = sum(each.cpu_seconds for each in ended)
            return Sample(sum(each.datagrams for each in ended), took, cpu, ended[0].copied_share)

        return Contender(name, run)


def _call_in(thread: ThreadPoolExecutor, call: Callable[[], object]) -> None:
    thread.submit(call).result()
