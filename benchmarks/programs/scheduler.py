"""The library as contenders, each sending on a connected UDP socket that is registered with its scheduler."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import numpy

import uringzc
from benchmarks.pairs import Contender, Sample

BATCH = 2048  # datagrams behind one notification, where not each has its own
PENDING = 2  # such notifications outstanding
POOL = 4 << 20


def stride_of(size: int) -> int:
    """Return how far apart datagrams of `size` lie: on pages of their own, as the C reference has them."""
    return -(-size // 4096) * 4096


class Ours:
    """One scheduler, its registered memory, and ways to send with it. Leaving the `with` block closes it."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        max_inflight: int = 8192,
        tags: Sequence[int] = (0,),
        engine: str = "auto",
    ) -> None:
        self.sock = sock
        self.s = uringzc.Scheduler(tags, max_inflight=max_inflight, completions="none", engine=engine)
        self.s.register_socket(sock)
        self.region = self.s.register(POOL)
        self.region.view[:] = bytes(POOL)  # pages of its own, not the zero page again and again
        self._owed = 0

    def __enter__(self) -> Ours:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.s.close()

    def run(self, name: str, size: int, *, zero_copy: bool = True) -> Contender:
        """`send_run`, a notification for each batch."""

        def chunk() -> int:
            sent = self._send_batch(size, zero_copy=zero_copy)
            self.s.flush(0)
            self._settle(1, PENDING)
            return sent

        return self._contender(name, chunk)

    def run_flushing(self, name: str, size: int, read: Callable[[Any], object] = len) -> Contender:
        """`send_run`, a notification for each datagram, which `read` gets in batches."""

        def chunk() -> int:
            sent = self._send_batch(size, flush=True)
            self.s.submit()
            batch = self.s.reap_notifications(wait=max(0, self._owed + sent - 2 * BATCH))
            read(batch)
            self._owed += sent - len(batch)
            return sent

        return self._contender(name, chunk)

    def _send_batch(self, size: int, zero_copy: bool = True, flush: bool = False) -> int:
        stride, sent = stride_of(size), 0
        count = min(BATCH, POOL // stride)
        while sent < BATCH:
            sent += self.s.send_run(
                *(self.sock, self.region, size, count, stride), zero_copy=zero_copy, flush=flush
            )
        return sent

    def calls(self, name: str, size: int, *, registered: bool) -> Contender:
        """`send` for every datagram, from registered memory or from `bytes`."""
        stride = stride_of(size)
        offsets = [i * stride for i in range(POOL // stride)][:BATCH]
        payloads = [bytes([i % 256]) * size for i in range(64 if size < 16384 else 16)]

        def from_region() -> int:
            send, sock, region = self.s.send, self.sock, self.region
            for offset in offsets:
                send(sock, region, offset=offset, length=size)
            self.s.flush(0)
            self._settle(1, PENDING)
            return len(offsets)

        def from_bytes() -> int:
            send, sock = self.s.send, self.sock
            for _ in range(16):
                for payload in payloads:
                    send(sock, payload)
            self.s.flush(0)
            self._settle(1, PENDING)
            return 16 * len(payloads)

        return self._contender(name, from_region if registered else from_bytes)

    def slots(self, name: str, size: int, slots: int) -> Contender:
        """`send` to each of so many slots in turn, a notification for each."""
        rounds = max(1, 2048 // slots)

        def chunk() -> int:
            send, sock, region = self.s.send, self.sock, self.region
            for _ in range(rounds):
                for slot in range(slots):
                    send(sock, region, length=size, slot=slot, flush=True)
            self._settle(rounds * slots, 2 * BATCH)
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
                self._settle(1, 0)
            return rounds * held

        return self._contender(name, chunk)

    def _settle(self, flushed: int, pending: int) -> None:
        self.s.submit()
        self._owed += flushed
        self._owed -= len(self.s.reap_notifications(wait=max(0, self._owed - pending)))

    def _contender(self, name: str, chunk: Callable[[], int]) -> Contender:
        def run(seconds: float) -> Sample:
            before, sent, cpu, start = self.s.stats, 0, time.process_time(), time.perf_counter()
            now, until = start, start + seconds
            while now < until:
                sent += chunk()
                now = time.perf_counter()
            cpu = time.process_time() - cpu
            self.s.drain(5)
            after = self.s.stats
            if after.failed != before.failed:
                raise RuntimeError(f"{name}: {after.failed - before.failed} sends failed")
            accepted = after.nbytes - before.nbytes
            return Sample(sent, now - start, cpu, (after.nbytes_copied - before.nbytes_copied) / accepted)

        return Contender(name, run)


def as_array(batch: uringzc.Batch[uringzc.Notification]) -> object:
    """Read all of a batch at once, as one array."""
    return numpy.asarray(batch)["sequence"].sum()


def as_items(batch: uringzc.Batch[uringzc.Notification]) -> object:
    """Read each as a Notification."""
    return sum(notification.sequence for notification in batch)
