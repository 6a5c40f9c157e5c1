"""UdpSender as contenders."""

from __future__ import annotations

import mmap
import time
from array import array
from collections.abc import Callable, Sequence

import uringzc
from benchmarks.pairs import Contender, Sample, sample
from benchmarks.paths import wait_until_sent

POOL = 4 << 20  # bytes of payloads, which stay in the cache
SEGMENT = 1400  # bytes of a datagram of `send_region`
TRAIN = 44  # such datagrams in the prepared block
Address = tuple[str, int]
Turn = Sequence[tuple[bytes, Address]]  # datagrams, before something else is done


def payloads_of(size: int) -> list[bytes]:
    """Return datagrams of `size` that fill POOL."""
    return [bytes([i % 256]) * size for i in range(POOL // size)]


class UdpPrograms:
    """One UdpSender, and ways to send with it. A run ends when nothing is in flight.

    `transmitted`: it ends when the last datagram has left the socket's send buffer.
    """

    def __init__(self, tx: uringzc.UdpSender, transmitted: bool = False) -> None:
        self.tx, self.transmitted = tx, transmitted

    def send(self, name: str, payloads: Sequence[bytes]) -> Contender:
        """`send` of each."""

        def chunk() -> None:
            send = self.tx.send
            for payload in payloads:
                send(payload)

        return self._contender(name, chunk, len(payloads))

    def send_to(self, name: str, turns: Sequence[Turn], flush: bool = True) -> Contender:
        """`send` of each to its address, and `flush` after each turn."""

        def chunk() -> None:
            send, end = self.tx.send, self.tx.flush if flush else int
            for turn in turns:
                for payload, address in turn:
                    send(payload, address)
                end()

        return self._contender(name, chunk, sum(map(len, turns)))

    def group(self, name: str, addresses: Sequence[Address], turns: Sequence[Sequence[bytes]]) -> Contender:
        """`Group.send` of each, and `flush` after each turn."""
        group = self.tx.group(addresses)

        def chunk() -> None:
            send, flush = group.send, self.tx.flush
            for turn in turns:
                for payload in turn:
                    send(payload)
                flush()

        return self._contender(name, chunk, sum(map(len, turns)) * len(addresses))

    def send_many(self, name: str, payloads: Sequence[bytes]) -> Contender:
        """`send_many` of all."""
        return self._contender(name, lambda: self.tx.send_many(payloads), len(payloads))

    def send_region(self, name: str, memory: uringzc.Region | mmap.mmap | None = None) -> Contender:
        """`send_region` of all of the memory; by default POOL bytes that are registered."""
        if memory is None:
            memory = self.tx.register(POOL)
            memory.view[:] = bytes(POOL)  # else all pages of what is not pinned would be one, of zeros
        datagrams = -(-len(memory) // SEGMENT)
        return self._contender(name, lambda: self.tx.send_region(memory, segment=SEGMENT), datagrams)

    def lease(self, name: str, payloads: Sequence[bytes]) -> Contender:
        """A lease for each, filled and sent."""

        def chunk() -> None:
            lease = self.tx.lease
            for payload in payloads:
                taken = lease(len(payload))
                taken.view[:] = payload
                taken.send()

        return self._contender(name, chunk, len(payloads))

    def fan_out(self, name: str, payload: bytes, addresses: Sequence[Address]) -> Contender:
        """One payload to all of the addresses."""

        def chunk() -> None:
            for _ in range(64):
                self.tx.fan_out(payload, addresses)

        return self._contender(name, chunk, 64 * len(addresses))

    def send_slices(
        self, name: str, region: uringzc.Region, offsets: array[int], lengths: array[int]
    ) -> Contender:
        """`send_slices`."""
        return self._contender(name, lambda: self.tx.send_slices(region, offsets, lengths), len(offsets))

    def _contender(self, name: str, chunk: Callable[[], object], datagrams: int) -> Contender:
        """Return calls of `chunk`, which sends so many datagrams; the copied share is one of requests."""

        def run(seconds: float) -> Sample:
            before, cpu, start = self.tx.stats, time.process_time(), time.perf_counter()
            sent = sample(seconds, chunk, datagrams).datagrams
            self.tx.drain(5)
            if self.transmitted:
                wait_until_sent(self.tx._sock)
            took, cpu = time.perf_counter() - start, time.process_time() - cpu
            after = self.tx.stats
            if after.datagrams - before.datagrams != sent or after.lost:
                raise RuntimeError(f"{name}: {sent} sent, {before} before, {after} after")
            requests = after.requests + after.syscalls - before.requests - before.syscalls
            not_copied = after.zero_copy - after.copied - before.zero_copy + before.copied
            return Sample(sent, took, cpu, 1 - not_copied / requests)

        return Contender(name, run)
