"""Scheduler as contenders, each on a connected UDP socket that is registered with it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import numpy

import uringzc
from benchmarks.pairs import Contender, Sample

BATCH = 2048  # requests per notifier, where not each has its own
OUTSTANDING = 2  # such notifiers
POOL = 4 << 20  # bytes of payloads, which stay in the cache


def stride_of(size: int) -> int:
    """Return the distance of datagrams of `size`: on pages of their own, as in reference.c."""
    return max(1, -(-size // 4096)) * 4096


def large_payloads(size: int) -> list[bytes]:
    """Return some datagrams of `size`, of `bytes`."""
    return [bytes([i]) * size for i in range(64 if size < 16384 else 16)]


class SchedulerPrograms:
    """One Scheduler, its registered memory, and ways to send with it. Leaving the `with` block closes it."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        max_inflight: int = 8192,
        tags: Sequence[int] = (0,),
        **options: Any,
    ) -> None:
        self.sock = sock
        self.s = uringzc.Scheduler(tags, max_inflight=max_inflight, completions="none", **options)
        self.s.register_socket(sock)
        self.region = self.s.register(POOL)
        self.region.view[:] = bytes(POOL)  # else all pages of what is not pinned would be one, of zeros
        self._awaited = 0  # notifications

    def __enter__(self) -> SchedulerPrograms:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.s.close()

    def send_run(self, name: str, size: int, *, zero_copy: bool = True) -> Contender:
        """`send_run`, a notification for each batch."""

        def chunk() -> int:
            sent = self._send_batch(size, zero_copy=zero_copy)
            self.s.flush(0)
            self._reap(1, OUTSTANDING)
            return sent

        return self._contender(name, chunk)

    def send_run_flush(self, name: str, size: int, read: Callable[[Any], object] = len) -> Contender:
        """`send_run`, a notification for each datagram, which `read` gets in batches."""

        def chunk() -> int:
            sent = self._send_batch(size, flush=True)
            self.s.submit()
            batch = self.s.reap_notifications(wait=max(0, self._awaited + sent - 2 * BATCH))
            read(batch)
            self._awaited += sent - len(batch)
            return sent

        return self._contender(name, chunk)

    def _send_batch(self, size: int, zero_copy: bool = True, flush: bool = False) -> int:
        stride, sent = stride_of(size), 0
        count = min(BATCH, POOL // stride)
        while sent < BATCH:
            try:
                sent += self.s.send_run(
                    *(self.sock, self.region, size, count, stride), zero_copy=zero_copy, flush=flush
                )
            except BlockingIOError:  # all frames of an engine that sends frames are in use
                self.s.submit()
        return sent

    def send_registered(self, name: str, size: int) -> Contender:
        """`send` for every datagram, from registered memory."""
        stride = stride_of(size)
        offsets = [i * stride for i in range(POOL // stride)][:BATCH]

        def chunk() -> int:
            send, sock, region = self.s.send, self.sock, self.region
            for offset in offsets:
                send(sock, region, offset=offset, length=size)
            self.s.flush(0)
            self._reap(1, OUTSTANDING)
            return len(offsets)

        return self._contender(name, chunk)

    def send_trains(self, name: str, size: int, train: int) -> Contender:
        """`send` with `segment`: trains from registered memory."""
        stride = stride_of(size * train)
        offsets = [i * stride for i in range(POOL // stride)] * 4

        def chunk() -> int:
            send, sock, region = self.s.send, self.sock, self.region
            for offset in offsets:
                while True:
                    try:
                        send(sock, region, offset=offset, length=size * train, segment=size)
                        break
                    except BlockingIOError:  # as in _send_batch
                        self.s.submit()
            self.s.flush(0)
            self._reap(1, OUTSTANDING)
            return len(offsets) * train

        return self._contender(name, chunk)

    def send_bytes(self, name: str, size: int) -> Contender:
        """`send` for every datagram, from `bytes`."""
        payloads = large_payloads(size)

        def chunk() -> int:
            send, sock = self.s.send, self.sock
            for _ in range(16):
                for payload in payloads:
                    send(sock, payload)
            self.s.flush(0)
            self._reap(1, OUTSTANDING)
            return 16 * len(payloads)

        return self._contender(name, chunk)

    def slots(self, name: str, size: int, slots: int) -> Contender:
        """`send` to each of so many slots in turn, a notification for each."""
        rounds = max(1, 2048 // slots)

        def chunk() -> int:
            send, sock, region = self.s.send, self.sock, self.region
            for _ in range(rounds):
                for slot in range(slots):
                    send(sock, region, length=size, slot=slot, flush=True)
            self._reap(rounds * slots, 2 * BATCH)
            return rounds * slots

        return self._contender(name, chunk)

    def held(self, name: str, size: int, held: int) -> Contender:
        """`send_run` until so many requests are held, then flush, and wait for all of them."""
        rounds = max(1, 2048 // held)

        def chunk() -> int:
            for _ in range(rounds):
                sent = 0
                while sent < held:
                    count = min(held - sent, POOL // stride_of(size))
                    sent += self.s.send_run(self.sock, self.region, size, count, stride_of(size))
                self.s.flush(0)
                self._reap(1, 0)
            return rounds * held

        return self._contender(name, chunk)

    def _reap(self, flushed: int, outstanding: int) -> None:
        """Submit, and reap notifications until no more than `outstanding` are awaited."""
        self.s.submit()
        self._awaited += flushed
        self._awaited -= len(self.s.reap_notifications(wait=max(0, self._awaited - outstanding)))

    def _contender(self, name: str, chunk: Callable[[], int]) -> Contender:
        return measured(self.s, name, chunk)


def measured(
    s: uringzc.Scheduler | uringzc.Ring,
    name: str,
    chunk: Callable[[], int],
    finish: Callable[[], object] = lambda: None,
) -> Contender:
    """Return calls of `chunk`, which returns how many it sent; `finish` is called with nothing in flight."""

    def run(seconds: float) -> Sample:
        before, sent, cpu, start = s.stats, 0, time.process_time(), time.perf_counter()
        now, until = start, start + seconds
        while now < until:
            sent += chunk()
            now = time.perf_counter()
        cpu = time.process_time() - cpu
        s.drain(5)
        finish()
        after = s.stats
        if after.failed != before.failed:
            raise RuntimeError(f"{name}: {after.failed - before.failed} sends failed")
        accepted = after.nbytes - before.nbytes
        copied = (after.nbytes_copied - before.nbytes_copied) / accepted if accepted else None
        return Sample(sent, now - start, cpu, copied)

    return Contender(name, run)


def as_array(batch: uringzc.Batch[uringzc.Notification]) -> int:
    """Read all of a batch at once, as one array; return how many requests they are of."""
    return int(numpy.asarray(batch)["requests"].sum())


def as_objects(batch: uringzc.Batch[uringzc.Notification]) -> int:
    """Read each as a Notification; return how many requests they are of."""
    return sum(notification.requests for notification in batch)
