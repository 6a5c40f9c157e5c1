"""What zero_copy="auto" must not lose where the kernel copies anyway, of UDP and of TCP."""

from __future__ import annotations

import statistics
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import pairwise

import uringzc
from benchmarks.cases.udp import Measure, Sender
from benchmarks.pairs import Contender, Row, Sample, sample
from benchmarks.paths import Path, paths, reading, until_sent
from benchmarks.report import Arrivals
from uringzc import testing

SHORT = 0.06  # seconds of a run: many are needed, and what is compared differs by little
ONCE = 1e-9  # seconds of a run that sends its pool once
POOL = 4 << 20
BURST = 512 << 10  # bytes between two looks at the clock
COUNTED = 24 << 20  # bytes, at most, that are numbered and counted: they fit the receiver's buffer
NUMBERED = 8000  # datagrams, at most
WRITES = (64 << 10, 256 << 10, 1 << 20)
UDP_PATHS, TCP_PATHS = ("loopback", "veth", "hold", "cold neighbour"), ("loopback", "veth", "hold")


class Leaving(Sender):
    """A run ends when the last datagram has left this side."""

    def finish(self) -> None:
        """Wait for that."""
        super().finish()
        until_sent(self.tx._sock)


class Auto:
    """The rows of targets 9 and 14."""

    def __init__(self, stack: ExitStack, measure: Measure, keep: Callable[[str, Row], None]) -> None:
        self.measure, self.keep = measure, keep
        self.paths = {path.name: path for path in stack.enter_context(paths())}

    # -- target 9

    def datagrams(self, sizes: Sequence[int], counted: list[Arrivals]) -> None:
        """`send` of all sizes over all paths; and apart from the clock, what arrives."""
        for path in map(self.paths.__getitem__, UDP_PATHS):
            for size in sizes:
                with ExitStack() as stack:
                    self._compare(stack, path, size)
                counted.append(_count(path, size))

    def _compare(self, stack: ExitStack, path: Path, size: int) -> None:
        receiver = path.bound()
        to = receiver.getsockname()
        stack.enter_context(reading(receiver))
        pool = [bytes([i % 256]) * size for i in range(POOL // size)]
        contenders = []
        for mode in ("auto", "never", "always"):
            if path.cold:
                contenders.append(_cold(path, to, mode, pool))
            else:
                tx = stack.enter_context(path.run(lambda mode=mode: uringzc.UdpSender(to, zero_copy=mode)))  # type: ignore[misc]
                contenders.append(_bursts(Leaving(tx), mode, pool))
        rows = self.measure("9", f"{path.name}, {size} B", contenders, many=path.fast, keep=False, most=SHORT)
        best = max(rows, key=lambda row: statistics.median(taken.rate for taken in row.reference_samples))
        self.keep("9", replace(best, reference=f'"{best.reference}"', target=0.97))

    # -- target 14

    def streams(self) -> None:
        """Writes of `bytes`, beside `sendall`."""
        for path in map(self.paths.__getitem__, TCP_PATHS):
            for size in WRITES:
                with ExitStack() as stack:
                    one = Stream(stack, path, size)
                    contenders = [one.ours("auto"), one.plain(0.97)]
                    what = f"TCP over {path.name}, {size >> 10} KiB"
                    self.measure("14", what, contenders, many=path.fast, most=2 * SHORT)


def _bursts(sender: Sender, name: str, pool: Sequence[bytes]) -> Contender:
    some = pool[: max(1, BURST // len(pool[0]))]
    return sender.each(name, some)


def _cold(path: Path, to: object, mode: str, pool: Sequence[bytes]) -> Contender:
    """A sender that is new, and a neighbour that nobody knows, for each 4 MiB."""

    def run(seconds: float) -> Sample:
        parts: list[Sample] = []
        while sum(part.seconds for part in parts) < seconds:
            with path.run(lambda: uringzc.UdpSender(to, zero_copy=mode)) as tx:  # type: ignore[arg-type]
                path.forget()
                parts.append(Leaving(tx).each(mode, pool).run(ONCE))
        copied = statistics.fmean(part.copied_share or 0.0 for part in parts)
        sent = sum(part.datagrams for part in parts)
        took, cpu = (sum(times) for times in zip(*((p.seconds, p.cpu_seconds) for p in parts), strict=True))
        return Sample(sent, took, cpu, copied)

    return Contender(mode, run)


def _count(path: Path, size: int) -> Arrivals:
    """Numbered datagrams, at most as many as the receiver's buffer takes: which ones come, in which order."""
    count = min(NUMBERED, COUNTED // size)
    with testing.receiver(sock=path.bound(), limit=count) as rx:
        with path.run(lambda: uringzc.UdpSender(rx.address)) as tx:
            path.forget()
            for number in range(count):
                tx.send(struct.pack("I", number).ljust(size))
        with suppress(TimeoutError):
            rx.wait(count)
        came = [struct.unpack_from("I", datagram)[0] for datagram in rx.datagrams]
    overtaken = sum(later < earlier for earlier, later in pairwise(came))
    return Arrivals(path.name, size, count, len(set(came)), overtaken)


class Stream:
    """A connection, read at its other end, and ways to send on it in turn, so that none has a better one.

    Their samples count writes, and end when the last byte is acknowledged.
    """

    def __init__(self, stack: ExitStack, path: Path, size: int) -> None:
        self._near, far = path.connected()
        stack.enter_context(reading(far))
        self._stack, self._data = stack, b"x" * size
        stack.enter_context(self._near)

    def ours(self, name: str, mode: str = "auto", engine: str = "auto") -> Contender:
        """`TcpSender.send`."""
        tx = self._stack.enter_context(uringzc.TcpSender(self._near, zero_copy=mode, engine=engine))

        def run(seconds: float) -> Sample:
            before = tx.stats
            sent = self._run(tx.send, lambda: tx.drain(5), seconds)
            after = tx.stats
            plain, requests = after.syscalls - before.syscalls, after.requests - before.requests
            copied = after.copied - before.copied + plain
            return replace(sent, copied_share=copied / (plain + requests))

        return Contender(name, run)

    def plain(self, target: float | None = None) -> Contender:
        """`socket.sendall`."""
        send = self._near.sendall
        return Contender("sendall", lambda seconds: self._run(send, lambda: None, seconds), target)

    def _run(self, send: Callable[[bytes], object], finish: Callable[[], object], seconds: float) -> Sample:
        data = self._data
        some = range(max(1, BURST // len(data)))

        def chunk() -> None:
            for _ in some:
                send(data)

        cpu, start = time.process_time(), time.perf_counter()
        sent = sample(seconds, chunk, len(some)).datagrams
        finish()
        until_sent(self._near)
        return Sample(sent, time.perf_counter() - start, time.process_time() - cpu, 1.0)
