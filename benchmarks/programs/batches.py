"""Loops that submit and reap after every batch of a few requests, as programs written against liburing do.

Each does what reference.c does with the same `Shape`, with the default settings of Scheduler and Ring. It
looks at what it reaps at the least cost: how much it is.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import uringzc
from benchmarks.pairs import Contender
from benchmarks.programs.reference import Reference
from benchmarks.programs.scheduler import POOL, large_payloads, measured, stride_of

CHUNK = 2048  # requests between two reads of the clock


@dataclass(frozen=True)
class Shape:
    """So many requests of `size` bytes a batch, and twice as many in flight at most.

    `batch` and the distance of payloads are powers of two, so that no batch reaches over the pool's end.
    """

    size: int
    batch: int

    @property
    def window(self) -> int:
        """Requests in flight, at most."""
        return 2 * self.batch

    @property
    def stride(self) -> int:
        """The distance of payloads."""
        return stride_of(self.size)

    @property
    def pool(self) -> int:
        """Bytes of payloads: enough that none is in flight twice."""
        return max(POOL, self.window * self.stride)

    @property
    def batches(self) -> list[list[int]]:
        """Where the payloads of CHUNK requests lie, batch by batch."""
        offsets = [i * self.stride % self.pool for i in range(CHUNK)]
        return [offsets[i : i + self.batch] for i in range(0, CHUNK, self.batch)]

    def reference(self, sock: socket.socket) -> Reference:
        """Return reference.c with the same batch, window and payloads."""
        return Reference(sock, batch=self.batch, window=self.window, pool=self.pool)


class SchedulerBatches:
    """A Scheduler of its own, on a connected UDP socket. Leaving the `with` block closes it."""

    def __init__(self, sock: socket.socket, shape: Shape) -> None:
        self.sock, self.shape = sock, shape
        self.s = uringzc.Scheduler()
        self.s.register_socket(sock)
        self.region = self.s.register(shape.pool)
        self.region.view[:] = bytes(shape.pool)  # else all pages of what is not pinned would be one, of zeros
        self._awaited = 0  # notifications

    def __enter__(self) -> SchedulerBatches:
        return self

    def __exit__(self, *_: object) -> None:
        self.s.close()

    def send_run(self, name: str, read: Callable[[Any], int] = len, **options: Any) -> Contender:
        """`send_run` with those options; `read` gets the notifications, and returns how many they are.

        There is one for each batch, or with flush=True one for each request.
        """
        sock, region, shape = self.sock, self.region, self.shape
        size, batch, stride = shape.size, shape.batch, shape.stride
        starts = [offsets[0] for offsets in shape.batches]
        send_run: Any = partial(self.s.send_run, **options) if options else self.s.send_run
        each = options.get("flush", False)
        owed = batch if each else 1

        def chunk() -> int:
            s, sent, results, awaited = self.s, 0, 0, self._awaited
            for start in starts:
                sent += send_run(sock, region, size, batch, stride, offset=start)
                if not each:
                    s.flush(0)
                s.submit()
                results += len(s.reap_completions())
                awaited += owed - read(s.reap_notifications())
                if awaited > owed:  # with the next batch more than the window
                    awaited -= len(s.reap_notifications(wait=awaited - owed))
            self._awaited = awaited
            return sent

        return self._contender(name, chunk)

    def send(self, name: str) -> Contender:
        """`send` for each datagram, from registered memory."""
        sock, region, size, batches = self.sock, self.region, self.shape.size, self.shape.batches

        def chunk() -> int:
            send = self.s.send
            for offsets in batches:
                for offset in offsets:
                    send(sock, region, offset=offset, length=size)
                self._end_batch()
            return CHUNK

        return self._contender(name, chunk)

    def send_bytes(self, name: str) -> Contender:
        """`send` for each datagram, from `bytes`."""
        sock, batches, payloads = self.sock, self.shape.batches, large_payloads(self.shape.size)

        def chunk() -> int:
            send, number, count = self.s.send, 0, len(payloads)
            for batch in batches:
                for _ in batch:
                    send(sock, payloads[number % count])
                    number += 1
                self._end_batch()
            return CHUNK

        return self._contender(name, chunk)

    def _end_batch(self) -> None:
        """Flush, submit and reap; wait while more than one batch is awaited."""
        s = self.s
        s.flush(0)
        s.submit()
        len(s.reap_completions())
        self._awaited += 1 - len(s.reap_notifications())
        if self._awaited > 1:
            self._awaited -= len(s.reap_notifications(wait=self._awaited - 1))

    def _contender(self, name: str, chunk: Callable[[], int]) -> Contender:
        def finish() -> None:
            self.s.reap_completions()
            self.s.reap_notifications()
            self._awaited = 0

        return measured(self.s, name, chunk, finish)


class RingBatches:
    """A Ring of its own, on a connected UDP socket. Leaving the `with` block closes it."""

    def __init__(self, sock: socket.socket, shape: Shape) -> None:
        self.sock, self.shape = sock, shape
        self.ring = uringzc.Ring()
        self.ring.register_socket(sock)
        self.region = self.ring.register(shape.pool)
        self.region.view[:] = bytes(shape.pool)
        self._awaited = 0  # CQEs

    def __enter__(self) -> RingBatches:
        return self

    def __exit__(self, *_: object) -> None:
        self.ring.close()

    def send_zc(self, name: str) -> Contender:
        """`send_zc` for each datagram; submit and reap after each batch."""
        sock, region, size, batches = self.sock, self.region, self.shape.size, self.shape.batches
        owed = 2 * self.shape.batch  # a result and a notification for each request

        def chunk() -> int:
            ring, awaited = self.ring, self._awaited
            send_zc = ring.send_zc
            for offsets in batches:
                for offset in offsets:
                    send_zc(sock, region, offset=offset, length=size)
                ring.submit()
                awaited += owed - len(ring.reap())
                if awaited > owed:
                    ring.submit(wait=awaited - owed)
                    awaited -= len(ring.reap())
            self._awaited = awaited
            return CHUNK

        def finish() -> None:
            self.ring.reap()
            self._awaited = 0

        return measured(self.ring, name, chunk, finish)
