"""Single calls, timed one by one: how long a program waits until one datagram is on its way."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import uringzc
from benchmarks.pairs import Contender, Sample


class Latency:
    """A contender whose sample is the median time of a call, so that its rate is the inverse of that time.

    `tails` has the 99th percentile of each run, the warm-up first.
    """

    def __init__(self, name: str, timed: Callable[[int], list[int]]) -> None:
        self._timed = timed  # so many calls, in nanoseconds
        self.contender = Contender(name, self._run)
        self.tails: list[Sample] = []

    def _run(self, seconds: float) -> Sample:
        took: list[int] = []
        cpu, until = time.process_time(), time.perf_counter() + seconds
        while time.perf_counter() < until:
            took += self._timed(256)
        cpu = (time.process_time() - cpu) / len(took)
        took.sort()
        self.tails.append(Sample(1, took[len(took) * 99 // 100] / 1e9, cpu, 1.0))
        return Sample(1, took[len(took) // 2] / 1e9, cpu, 1.0)


def send_and_flush(tx: uringzc.UdpSender, payload: bytes) -> Latency:
    """`send` and `flush`, timed together."""

    def timed(count: int) -> list[int]:
        took, clock, send, flush = [0] * count, time.perf_counter_ns, tx.send, tx.flush
        for i in range(count):
            start = clock()
            send(payload)
            flush()
            took[i] = clock() - start
        return took

    return Latency("send and flush", timed)


def socket_send(sock: socket.socket, payload: bytes) -> Latency:
    """`socket.send`."""

    def timed(count: int) -> list[int]:
        took, clock, send = [0] * count, time.perf_counter_ns, sock.send
        for i in range(count):
            start = clock()
            send(payload)
            took[i] = clock() - start
        return took

    return Latency("socket.send", timed)
