"""UdpSender as contenders, each a sender with a socket of its own, and what they are compared with."""

from __future__ import annotations

import mmap
import random
import socket
import statistics
import tempfile
import time
from array import array
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import accumulate
from math import inf
from typing import Protocol

import uringzc
from benchmarks.pairs import Contender, Row, Sample, sample
from benchmarks.programs.baselines import MOST_BYTES, Reference, block, gather, plain
from benchmarks.programs.threads import Crew
from uringzc import testing
from uringzc.kernel.features import most_segments

POOL = 4 << 20
FILE = 64 << 20
SEGMENT = 1400
TRAIN = 44  # datagrams of SEGMENT bytes in the expert's block
LARGEST = 1472  # that an MTU of 1500 takes
OLD_WMEM_MAX = 212992  # long the default of net.core.wmem_max
SO_SNDBUFFORCE = 32
ENOUGH = 5  # pairs where one call is the sample, as a multiple of those elsewhere
BRIEF = 0.05  # seconds of such a run


class Measure(Protocol):
    """Compares the first contender with the others, and keeps the rows: `many` pairs if it is close.

    A run lasts `most` seconds at most, or with `brief` BRIEF.
    """

    def __call__(
        self,
        target: str,
        what: str,
        contenders: list[Contender],
        many: bool = False,
        keep: bool = True,
        brief: bool = False,
        most: float = inf,
    ) -> list[Row]:
        """Compare."""
        ...


class Sender:
    """One UdpSender, and ways to send with it. The time of a run goes on until nothing is in flight."""

    def __init__(self, tx: uringzc.UdpSender) -> None:
        self.tx = tx

    def each(self, name: str, payloads: Sequence[bytes], target: float | None = None) -> Contender:
        """`send` of each."""

        def chunk() -> None:
            send = self.tx.send
            for payload in payloads:
                send(payload)

        return self.contender(name, chunk, len(payloads), target)

    def many(self, name: str, payloads: Sequence[bytes]) -> Contender:
        """`send_many` of all."""
        return self.contender(name, lambda: self.tx.send_many(payloads), len(payloads))

    def region(self, name: str, memory: uringzc.Region | mmap.mmap, length: int) -> Contender:
        """`send_region` of all of it."""
        return self.contender(
            name, lambda: self.tx.send_region(memory, segment=SEGMENT), -(-length // SEGMENT)
        )

    def lease(self, name: str, payloads: Sequence[bytes]) -> Contender:
        """A lease for each, filled and sent."""

        def chunk() -> None:
            lease = self.tx.lease
            for payload in payloads:
                taken = lease(len(payload))
                taken.view[:] = payload
                taken.send()

        return self.contender(name, chunk, len(payloads))

    def fan_out(self, name: str, payload: bytes, addresses: Sequence[tuple[str, int]]) -> Contender:
        """One payload to all of the addresses."""

        def chunk() -> None:
            for _ in range(64):
                self.tx.fan_out(payload, addresses)

        return self.contender(name, chunk, 64 * len(addresses))

    def slices(
        self, name: str, region: uringzc.Region, offsets: array[int], lengths: array[int]
    ) -> Contender:
        """`send_slices`."""
        return self.contender(name, lambda: self.tx.send_slices(region, offsets, lengths), len(offsets))

    def single(self, name: str, payload: bytes) -> Calls:
        """`send` and `flush`, timed together."""
        return Calls(name, lambda count: _timed_flush(self.tx, payload, count))

    def finish(self) -> None:
        """What a run ends with."""
        self.tx.drain(5)

    def contender(
        self, name: str, chunk: Callable[[], object], datagrams: int, target: float | None = None
    ) -> Contender:
        """Calls of `chunk`, which sends so many. What the kernel copied is counted in requests."""

        def run(seconds: float) -> Sample:
            before, cpu, start = self.tx.stats, time.process_time(), time.perf_counter()
            sent = sample(seconds, chunk, datagrams).datagrams
            self.finish()
            took, cpu = time.perf_counter() - start, time.process_time() - cpu
            after = self.tx.stats
            if after.datagrams - before.datagrams != sent or after.lost:
                raise RuntimeError(f"{name}: {sent} sent, {before} before, {after} after")
            requests = after.requests + after.syscalls - before.requests - before.syscalls
            not_copied = after.zero_copy - after.copied - before.zero_copy + before.copied
            return Sample(sent, took, cpu, 1 - not_copied / requests)

        return Contender(name, run, target)


class Calls:
    """A contender whose samples are one call each: a run's median; in `tails`, the slowest but 1 %."""

    def __init__(self, name: str, timed: Callable[[int], list[int]]) -> None:
        self.name, self._timed = name, timed
        self.tails: list[Sample] = []

    def contender(self, target: float | None = None) -> Contender:
        """To measure it."""
        return Contender(self.name, self._run, target)

    def _run(self, seconds: float) -> Sample:
        took: list[int] = []
        cpu, until = time.process_time(), time.perf_counter() + seconds
        while time.perf_counter() < until:
            took += self._timed(256)
        cpu = (time.process_time() - cpu) / len(took)
        took.sort()
        self.tails.append(Sample(1, took[len(took) * 99 // 100] / 1e9, cpu, 1.0))
        return Sample(1, took[len(took) // 2] / 1e9, cpu, 1.0)


def _timed_flush(tx: uringzc.UdpSender, payload: bytes, count: int) -> list[int]:
    took, clock, send, flush = [0] * count, time.perf_counter_ns, tx.send, tx.flush
    for i in range(count):
        start = clock()
        send(payload)
        flush()
        took[i] = clock() - start
    return took


def _timed_plain(sock: socket.socket, payload: bytes, count: int) -> list[int]:
    took, clock, send = [0] * count, time.perf_counter_ns, sock.send
    for i in range(count):
        start = clock()
        send(payload)
        took[i] = clock() - start
    return took


class Senders:
    """The rows of UdpSender, over a sink with an MTU of 1500."""

    def __init__(self, stack: ExitStack, measure: Measure, keep: Callable[[str, Row], None]) -> None:
        self.stack, self.measure, self.keep = stack, measure, keep
        self.box = stack.enter_context(testing.sink(mtu=1500))

    def sock(self, connected: bool = True) -> socket.socket:
        """Return a socket of its own, with room for whatever is in flight."""
        sock = self.stack.enter_context(self.box.socket())
        sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 64 << 20)
        if connected:
            sock.connect(self.box.address)
        return sock

    def ours(self, connected: bool = True, engine: str = "auto") -> Sender:
        """Return a sender of its own."""
        remote = self.box.address if connected else None
        tx = self.box.run(lambda: uringzc.UdpSender(remote, engine=engine))
        return Sender(self.stack.enter_context(tx))

    def sends(self) -> None:
        """Targets 5 and 6: `send` and `send_many`; and leases."""
        for size, wanted in ((1200, (14.0, 1.5)), (600, (None, None)), (200, (None, None))):
            payloads, longest = payloads_of(size), min(most_segments(), MOST_BYTES // size)
            contenders = [
                self.ours().each("send", payloads),
                _wanted(plain(self.sock(), payloads), wanted[0]),
                _wanted(gather(self.sock(), payloads), wanted[1]),
                gather(self.sock(), payloads, longest, f"gather loop, {longest} a train"),
            ]
            self.measure("5" if wanted[0] else "-", f"UdpSender.send, {size} B", contenders)
        payloads = payloads_of(1200)
        contenders = [self.ours().many("send_many", payloads), _wanted(gather(self.sock(), payloads), 2.0)]
        self.measure("6", "UdpSender.send_many, 1200 B", contenders)
        contenders = [self.ours().lease("lease", payloads), plain(self.sock(), payloads)]
        self.measure("-", "lease, fill and send, 1200 B", contenders)

    def varying(self) -> None:
        """Target 8: sizes that never repeat. And a capture, and many destinations."""
        sizes = random.Random(8).sample(range(200, LARGEST + 1), LARGEST - 199)
        payloads = [bytes(size) for size in sizes]
        contenders = [self.ours().each("send", payloads), _wanted(plain(self.sock(), payloads), 1.3)]
        self.measure("8", "UdpSender.send, 200-1472 B, no size twice", contenders)
        self._capture()
        payload, addresses = bytes(1200), [(f"10.0.0.{host}", 9000) for host in range(10, 26)]
        sock = self.sock(connected=False)

        def to_each() -> None:
            sendto = sock.sendto
            for _ in range(64):
                for address in addresses:
                    sendto(payload, address)

        against = Contender("socket.sendto", lambda seconds: sample(seconds, to_each, 1024, 1.0))
        contender = self.ours(connected=False).fan_out("fan_out", payload, addresses)
        self.measure("-", "fan_out to 16, 1200 B", [contender, against])

    def _capture(self) -> None:
        """Packets as a capture has them: runs of full ones, small ones between, a header before each."""
        chance = random.Random(1)
        lengths: list[int] = []
        while sum(lengths) + 16 * len(lengths) < POOL - 40 * LARGEST:
            lengths += [LARGEST] * chance.randrange(1, 24) + [chance.randrange(60, LARGEST)]
        offsets = [0, *accumulate(length + 16 for length in lengths)][: len(lengths)]
        ours = self.ours()
        region, sock = ours.tx.register(POOL), self.sock()

        def slices() -> None:
            send, view = sock.send, region.view
            for offset, length in zip(offsets, lengths, strict=True):
                send(view[offset : offset + length])

        against = Contender("socket.send of slices", lambda s: sample(s, slices, len(lengths), 1.0))
        arrays = array("q", offsets), array("q", lengths)
        contender = ours.slices("send_slices", region, *arrays)
        self.measure("-", "send_slices of a capture", [contender, against])

    def regions(self) -> None:
        """Targets 7 and 7b: `send_region`."""
        self._registered()
        self._mapped()
        self.box.offload(segmentation=False)
        try:
            contenders = [self._region(), _wanted(block(self.sock(), SEGMENT, TRAIN), 1.0)]
            self.measure("7b", "send_region, tx-udp-segmentation off", contenders, many=True)
        finally:
            self.box.offload(segmentation=True)
        if testing.missing("unprivileged") is None:
            self._unprivileged()

    def _region(self) -> Contender:
        ours = self.ours()
        return ours.region("send_region", ours.tx.register(POOL), POOL)

    def _registered(self) -> None:
        small = self.stack.enter_context(Reference(self.sock(), report_usage=True))
        trains = self.stack.enter_context(Reference(self.sock(), segment=SEGMENT, report_usage=True))
        contenders = [
            self._region(),
            _wanted(small.contender("zc", SEGMENT, "C, a request each"), 40),
            _wanted(block(self.sock(), SEGMENT, TRAIN), 2.4),
            trains.contender("zc", TRAIN * SEGMENT, "C, zc trains of 44"),
        ]
        rows = self.measure("7", "send_region, registered", contenders, many=True, keep=False)
        for row in rows[:2]:
            self.keep("7", row)
        self.keep("-", rows[2])
        _, base, best = rows
        what, subject = "C, zc trains of 44", best.reference_samples
        self.keep("-", Row(what, what, base.reference, None, subject, base.reference_samples))

    def _mapped(self) -> None:
        with tempfile.TemporaryFile() as file:
            for _ in range(FILE >> 20):
                file.write(bytes(1 << 20))
            file.flush()
            mapped = mmap.mmap(file.fileno(), FILE, prot=mmap.PROT_READ)
        mapped[:: mmap.PAGESIZE]  # the pages are there, as those of the others are
        contender = self.ours().region("send_region", mapped, FILE)
        against = _wanted(block(self.sock(), SEGMENT, TRAIN), 1.6)
        self.measure("7", "send_region, mapped file", [contender, against], many=True)

    def _unprivileged(self) -> None:
        from benchmarks.programs.unprivileged import Nobody

        with open("/proc/sys/net/core/wmem_max") as file:
            here = int(file.read())
        for wmem_max in sorted({here, min(here, OLD_WMEM_MAX)}):
            with Nobody(self.box, wmem_max) as nobody:
                contenders = [
                    nobody.contender("region", "send_region"),
                    nobody.contender("block", "prepared block", 1.0),
                ]
                what = f"send_region, user nobody, wmem_max {wmem_max}"
                self.measure("7b", what, contenders, many=True)

    def threads(self) -> None:
        """Target 10: two threads, two engines."""
        crew = self.stack.enter_context(Crew(2))
        runs = crew.schedulers([self.sock(), self.sock()], 1200)
        self._threads("send_run, 1200 B, 2 threads", crew, runs, 1.9)
        payloads = payloads_of(1200)
        senders = [self.box.run(lambda: uringzc.UdpSender(self.box.address)) for _ in range(2)]
        crew.closing([tx.close for tx in senders])
        runs = [Sender(tx).each("send", payloads) for tx in senders]
        self._threads("UdpSender.send, 1200 B, 2 threads", crew, runs, 1.3)
        references = [self.stack.enter_context(Reference(self.sock())) for _ in range(2)]
        runs = [reference.contender("zc", 1200) for reference in references]
        self._threads("C, 1200 B, 2 processes", crew, runs, None)

    def _threads(self, what: str, crew: Crew, runs: Sequence[Contender], wanted: float | None) -> None:
        contenders = [crew.together("two", runs), crew.together("one", runs[:1], wanted)]
        self.measure("10" if wanted else "-", what, contenders, many=True)

    def single(self) -> None:
        """Target 11: one datagram, and the program waits until it is on its way."""
        payload, sock = bytes(1200), self.sock()
        ours = self.ours().single("send and flush", payload)
        base = Calls("socket.send", lambda count: _timed_plain(sock, payload, count))
        contenders = [ours.contender(), base.contender(1 / 1.2)]
        (row,) = self.measure("11", "", contenders, many=True, keep=False, brief=True)
        self.keep("11", replace(row, what=f"one datagram, p50 {_microseconds(row)}"))
        pairs = len(row.subject_samples)  # a tail more: of the warm-up
        tails = tuple(ours.tails[-pairs:]), tuple(base.tails[-pairs:])
        row = Row("", ours.name, base.name, None, *tails)
        self.keep("-", replace(row, what=f"one datagram, p99 {_microseconds(row)}"))


def payloads_of(size: int) -> list[bytes]:
    """Return datagrams of `size` that fill the pool."""
    return [bytes([i % 256]) * size for i in range(POOL // size)]


def _wanted(contender: Contender, target: float | None) -> Contender:
    return replace(contender, target=target)


def _microseconds(row: Row) -> str:
    ours, base = (
        statistics.median(taken.seconds for taken in side) * 1e6
        for side in (row.subject_samples, row.reference_samples)
    )
    return f"{ours:.2f} us to {base:.2f} us"
