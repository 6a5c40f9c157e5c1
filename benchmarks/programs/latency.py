"""How long one datagram takes: until the call that sends it has returned, or until its answer is there."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import uringzc
from benchmarks.pairs import Contender, Sample

PAUSE = 20_000  # ns between two calls: the sender has then sent nothing for a while


class Latency:
    """A contender whose sample is the median of times, so that its rate is the inverse of that time.

    `tails` has the 99th percentile of each run, the warm-up first.
    """

    def __init__(self, name: str, timed: Callable[[int], list[int]]) -> None:
        self._timed = timed  # so many of them, in nanoseconds
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


def send_after_pause(tx: uringzc.UdpSender, payload: bytes) -> Latency:
    """`send`, each some time after the one before, so that each has left when it returns."""

    def timed(count: int) -> list[int]:
        before = tx.stats.syscalls
        took = _after_pauses(tx.send, payload, count)
        after = tx.stats
        if after.syscalls - before != count or after.waiting:
            raise RuntimeError(f"of {count}, not all have left: {after}")
        return took

    return Latency("send", timed)


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


def socket_send_after_pause(sock: socket.socket, payload: bytes) -> Latency:
    """`socket.send`, as in `send_after_pause`."""
    return Latency("socket.send", lambda count: _after_pauses(sock.send, payload, count))


def _after_pauses(send: Callable[[bytes], int], payload: bytes, count: int) -> list[int]:
    took, clock, end = [0] * count, time.perf_counter_ns, time.perf_counter_ns()
    for i in range(count):
        while clock() < end + PAUSE:
            pass
        start = clock()
        send(payload)
        end = clock()
        took[i] = end - start
    return took


def replies(name: str, sock: socket.socket, payload: bytes, at_once: int) -> Latency:
    """Requests to where `sock` is connected, so many before the first reply is read: from each to its reply.

    Replies are expected in the order of the requests.
    """

    def timed(count: int) -> list[int]:
        took, clock, send, receive = [0] * count, time.perf_counter_ns, sock.send, sock.recv
        for first in range(0, count, at_once):
            some = range(first, first + at_once)
            for i in some:
                took[i] = -clock()
                send(payload)
            for i in some:
                receive(2048)
                took[i] += clock()
        return took

    return Latency(name, timed)
