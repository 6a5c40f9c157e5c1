"""What zero_copy="auto" must not lose where the kernel copies anyway."""

from __future__ import annotations

import statistics
import struct
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import uringzc
from benchmarks.bench import Bench, topic
from benchmarks.cases.scheduler import SIZES
from benchmarks.pairs import Contender, Sample
from benchmarks.paths import Path, read_in_process
from benchmarks.programs.tcp_sender import TcpPrograms
from benchmarks.programs.udp_sender import UdpPrograms, payloads_of
from benchmarks.results import Arrivals
from uringzc import testing

SHORT = 0.06  # seconds of a run: many are needed, and what is compared differs by little
ONCE = 1e-9  # seconds of a run that sends its payloads once
BURST = 512 << 10  # bytes between two reads of the clock
COUNTED = 24 << 20  # bytes, at most, that are numbered and counted: they fit the receiver's buffer
NUMBERED = 8000  # datagrams, at most
WRITES = (64 << 10, 256 << 10, 1 << 20)
UDP_PATHS = ("loopback", "veth", "slow link", "unresolved neighbour")
TCP_PATHS = ("loopback", "veth", "slow link")


@topic(
    "UDP where the kernel copies anyway",
    why_missed="""The first requests to a destination are zero-copy, until their notifications report that the
    kernel copied; now and then a few more probe.""",
)
def auto_udp(bench: Bench) -> None:
    """`UdpSender.send` with zero_copy="auto". Loopback and veth copy at delivery, so zero-copy gains nothing;
    what is measured is that it loses nothing. A run ends when the send buffer is empty; a process reads what
    arrives. The slow link is a veth pair limited to 213 MB/s. The unresolved neighbour is a veth pair with an
    empty neighbour table, and a new sender, every 4 MiB.

    - *"never"*, *"always"*: the same sender with that zero_copy, the better of the two.
    """
    for path in map(bench.paths.__getitem__, UDP_PATHS):
        for size in SIZES:
            with ExitStack() as stack:
                _compare(bench, stack, path, size)
        counts = [_count(path, size) for size in SIZES]
        sums = (sum(each) for each in zip(*counts, strict=True))
        bench.results.arrivals.append(Arrivals(path.name, (SIZES[0], SIZES[-1]), *sums))


def _compare(bench: Bench, stack: ExitStack, path: Path, size: int) -> None:
    receiver = path.receiver_socket()
    to = receiver.getsockname()
    stack.enter_context(read_in_process(receiver))
    payloads = payloads_of(size)
    contenders = []
    for mode in ("auto", "never", "always"):
        if path.cold:
            contenders.append(_cold(path, to, mode, payloads))
        else:
            tx = stack.enter_context(path.run(partial(uringzc.UdpSender, to, zero_copy=mode)))
            some = payloads[: max(1, BURST // size)]
            contenders.append(UdpPrograms(tx, transmitted=True).send(mode, some))
    rows = bench.compare(f"{path.name}, {size} B", contenders, close=path.fast, at_most=SHORT, keep=False)
    best = max(rows, key=lambda row: statistics.median(taken.rate for taken in row.against_samples))
    bench.keep(replace(best, against=f'"{best.against}"', target=0.97))


def _cold(path: Path, to: Any, mode: str, payloads: Sequence[bytes]) -> Contender:
    """Each 4 MiB by a new sender, to a neighbour that is not resolved."""

    def run(seconds: float) -> Sample:
        parts: list[Sample] = []
        while sum(part.seconds for part in parts) < seconds:
            with path.run(partial(uringzc.UdpSender, to, zero_copy=mode)) as tx:
                path.forget()
                parts.append(UdpPrograms(tx, transmitted=True).send(mode, payloads).run(ONCE))
        copied = statistics.fmean(part.copied_share or 0.0 for part in parts)
        sent = sum(part.datagrams for part in parts)
        took, cpu = (sum(times) for times in zip(*((p.seconds, p.cpu_seconds) for p in parts), strict=True))
        return Sample(sent, took, cpu, copied)

    return Contender(mode, run)


def _count(path: Path, size: int) -> tuple[int, int, int]:
    """Send numbered datagrams, no more than fit the receiver's buffer; return sent, received, reordered."""
    count = min(NUMBERED, COUNTED // size)
    with testing.receiver(sock=path.receiver_socket(), limit=count) as rx:
        with path.run(lambda: uringzc.UdpSender(rx.address)) as tx:
            path.forget()
            for number in range(count):
                tx.send(struct.pack("I", number).ljust(size))
        with suppress(TimeoutError):
            rx.wait(count)
        numbers = [struct.unpack_from("I", datagram)[0] for datagram in rx.datagrams]
    return count, len(set(numbers)), sum(later < earlier for earlier, later in pairwise(numbers))


@topic(
    "TCP where the kernel copies anyway",
    why_missed="""`auto` copies by the same system call as `sendall`, but for the few writes that probe
    whether that is still better.""",
)
def auto_tcp(bench: Bench) -> None:
    """`TcpSender.send` of `bytes`, with zero_copy="auto", over the networks of the section before. A run
    ends when the last byte is acknowledged; rates are writes per second.

    - *socket.sendall*: the same writes by it, on the same connection.
    """
    for path in map(bench.paths.__getitem__, TCP_PATHS):
        for size in WRITES:
            with ExitStack() as stack:
                programs = TcpPrograms(stack, path, size)
                contenders = [programs.sender("auto"), programs.sendall().wanting(0.97)]
                case = f"TcpSender.send over {path.name}, {size >> 10} KiB"
                bench.compare(case, contenders, close=path.fast, at_most=2 * SHORT)
