"""The engines beside each other: io_uring, MSG_ZEROCOPY, and copying."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

import uringzc
from benchmarks.cases.auto import Stream
from benchmarks.cases.udp import POOL, SEGMENT, TRAIN, Measure, Sender, Senders, payloads_of
from benchmarks.pairs import Contender, Row
from benchmarks.paths import Path
from benchmarks.programs.baselines import Reference, block, plain
from benchmarks.programs.scheduler import Ours
from uringzc.engines.choose import ENGINES
from uringzc.senders.sockets import RECVERR

RUNS = (1200, 8000, 65000)
WRITES = (64 << 10, 1 << 20)
BRIEF = 0.15  # seconds of a run


class Engines:
    """The rows. What is compared with is the engine that copies, whose results are one for each request."""

    def __init__(self, stack: ExitStack, measure: Measure, keep: Callable[[str, Row], None]) -> None:
        self.stack, self.measure, self.keep = stack, measure, keep

    def runs(self, sock: Callable[[], socket.socket], ours: Callable[..., Ours]) -> None:
        """`Scheduler.send_run`, over the sink of the first table."""
        reference = self.stack.enter_context(Reference(sock(), report_usage=True))
        each = {name: ours(engine=name) for name in usable()}
        for one in each.values():  # else sendmmsg can tell of one error at a time, and takes one datagram
            one.sock.setsockopt(*RECVERR[socket.AF_INET], 1)
        for size in RUNS:
            contenders = [one.run(name, size) for name, one in each.items()]
            self._beside_copy(f"send_run, {size} B", contenders, [reference.contender("zc", size)])

    def senders(self, senders: Senders) -> None:
        """`UdpSender`, over the sink of its other rows."""
        payloads = payloads_of(1200)
        each = {name: senders.ours(engine=name) for name in usable()}
        contenders = [sender.each(name, payloads) for name, sender in each.items()]
        self._beside_copy("send, 1200 B", contenders, [plain(senders.sock(), payloads)])
        each = {name: senders.ours(engine=name) for name in usable()}
        trains = self.stack.enter_context(
            Reference(senders.sock(), segment=SEGMENT, report_usage=True)
        ).contender("zc", TRAIN * SEGMENT, "C, zc trains of 44")
        contenders = [_region(sender, name) for name, sender in each.items()]
        self._beside_copy(
            f"send_region, {SEGMENT} B", contenders, [trains, block(senders.sock(), SEGMENT, TRAIN)]
        )

    def streams(self, paths: Sequence[Path]) -> None:
        """`TcpSender`, which is told to send zero-copy where the kernel copies at delivery."""
        for path in paths:
            for size in WRITES:
                with ExitStack() as stack:
                    one = Stream(stack, path, size)
                    contenders = [one.ours(name, "always", name) for name in usable()]
                    self._beside_copy(f"TCP over {path.name}, {size >> 10} KiB", contenders, [])

    def _beside_copy(self, what: str, contenders: list[Contender], others: list[Contender]) -> None:
        *zero_copy, copy = contenders
        for row in self.measure("-", what, [copy, *zero_copy, *others], keep=False, most=BRIEF):
            one = f"{what}, {row.reference}"
            swapped = Row(one, row.reference, "copy", None, row.reference_samples, row.subject_samples)
            self.keep("-", swapped)


def usable() -> list[str]:
    """The engines that work here; copying, which is the last, does anywhere."""
    found = []
    for name in ENGINES:
        with suppress(OSError), uringzc.Scheduler(engine=name):
            found.append(name)
    return found


def _region(sender: Sender, name: str) -> Contender:
    region = sender.tx.register(POOL)
    region.view[:] = bytes(POOL)  # else only io_uring, which pins it, would have pages of its own
    return sender.region(name, region, POOL)
