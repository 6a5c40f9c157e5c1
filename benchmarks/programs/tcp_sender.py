"""TcpSender and `socket.sendall` on one connection, as contenders."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import uringzc
from benchmarks.pairs import Contender, Sample, sample
from benchmarks.paths import Path, read_in_process, wait_until_sent

BURST = 512 << 10  # bytes between two reads of the clock


class TcpPrograms:
    """A connection that is read at its other end, shared by all programs, so that none has a better one.

    Samples count writes of `size` bytes; a run ends when the last byte is acknowledged.
    """

    def __init__(self, stack: ExitStack, path: Path, size: int) -> None:
        self._near, far = path.connected()
        stack.enter_context(read_in_process(far))
        self._stack, self._data = stack, b"x" * size
        stack.enter_context(self._near)

    def sender(self, name: str, zero_copy: str = "auto", engine: str = "auto") -> Contender:
        """`TcpSender.send`."""
        tx = self._stack.enter_context(uringzc.TcpSender(self._near, zero_copy=zero_copy, engine=engine))

        def run(seconds: float) -> Sample:
            before = tx.stats
            sent = self._run(tx.send, lambda: tx.drain(5), seconds)
            after = tx.stats
            syscalls, requests = after.syscalls - before.syscalls, after.requests - before.requests
            copied = after.copied - before.copied + syscalls
            return replace(sent, copied_share=copied / (syscalls + requests))

        return Contender(name, run)

    def sendall(self) -> Contender:
        """`socket.sendall`."""
        send = self._near.sendall
        return Contender("socket.sendall", lambda seconds: self._run(send, lambda: None, seconds))

    def _run(self, send: Callable[[bytes], object], finish: Callable[[], object], seconds: float) -> Sample:
        data = self._data
        some = range(max(1, BURST // len(data)))

        def chunk() -> None:
            for _ in some:
                send(data)

        cpu, start = time.process_time(), time.perf_counter()
        sent = sample(seconds, chunk, len(some)).datagrams
        finish()
        wait_until_sent(self._near)
        return Sample(sent, time.perf_counter() - start, time.process_time() - cpu, 1.0)
