"""Measure the library beside a C program and beside plain Python, over a sink that copies nothing.

Writes results.json, results.png and RESULTS.md beside this file. Needs root, or `unshare --map-root-user`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from math import inf
from pathlib import Path
from typing import Any

import click
from rich.progress import Progress

from benchmarks import pairs
from benchmarks.cases.auto import Auto
from benchmarks.cases.engines import Engines
from benchmarks.cases.udp import BRIEF, ENOUGH, Senders
from benchmarks.pairs import Contender, Row, Sample
from benchmarks.programs.baselines import Reference, plain
from benchmarks.programs.scheduler import Ours, as_array, as_items
from benchmarks.report import Found, write_report
from uringzc import testing

SIZES = (600, 1200, 4000, 8000, 16000, 32000, 65000)
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Plan:
    """How long to measure."""

    pairs: int
    few: int
    seconds: float
    soak: int


class Bench:
    """The sink, the sockets in it, and what was measured so far."""

    def __init__(self, box: testing.Sandbox, plan: Plan, progress: Progress, stack: ExitStack) -> None:
        self.box, self.plan, self.progress, self.stack = box, plan, progress, stack
        runs = f"{plan.pairs} pairs of {plan.seconds} s ({plan.few} where the target is far from 1)"
        self.found = Found(runs, plan.soak)

    def sock(self) -> Any:
        """Return a connected socket of its own, with room for whatever is in flight."""
        sock = self.stack.enter_context(self.box.socket())
        sock.setsockopt(1, 32, 64 << 20)  # SOL_SOCKET, SO_SNDBUFFORCE
        sock.connect(self.box.address)
        return sock

    def ours(self, **options: Any) -> Ours:
        """Return a scheduler with a socket of its own."""
        return self.stack.enter_context(Ours(self.sock(), **options))

    @cached_property
    def senders(self) -> Senders:
        """The rows of UdpSender, over a sink of their own."""
        return Senders(self.stack, self.measure, self.found.add)

    @cached_property
    def auto(self) -> Auto:
        """The rows of what zero_copy="auto" does, over paths of their own."""
        return Auto(self.stack, self.measure, self.found.add)

    def measure(
        self,
        target: str,
        what: str,
        contenders: list[Contender],
        many: bool = False,
        keep: bool = True,
        brief: bool = False,
        most: float = inf,
    ) -> list[Row]:
        """Compare the first contender with the others, and `keep` the rows under `target`."""
        rows = pairs.measure(
            *(what or contenders[0].name, contenders),
            pairs=(self.plan.pairs if many else self.plan.few) * (ENOUGH if brief else 1),
            seconds=min(BRIEF if brief else most, self.plan.seconds),
            progress=self.progress,
        )
        if keep:
            self.found.add(target, *rows)
        return rows

    def sizes(self) -> None:
        """Targets 1 and 2, and the dummy table of the patch set."""
        ours = self.ours()
        reference = self.stack.enter_context(Reference(self.sock(), report_usage=True))
        for size in SIZES:
            contenders = [
                ours.run("zc", size),
                ours.run("non-zc", size, zero_copy=False),
                ours.run_flushing("zc + flush", size),
                reference.contender("copy", size, "C non-zc"),
                reference.contender("zc", size, "C zc"),
            ]
            rows = pairs.measure(
                *(f"{size} B", contenders),
                pairs=self.plan.pairs,
                seconds=self.plan.seconds,
                progress=self.progress,
            )
            runs = {row.reference: row.reference_samples for row in rows} | {"zc": rows[0].subject_samples}
            self.found.sweep[size] = runs
            self._row("1", f"send_run, {size} B", "C, same flags and batch", 1.0, runs["zc"], runs["C zc"])
            gain = tuple(map(_relative, runs["zc"], runs["non-zc"]))
            c_gain = tuple(map(_relative, runs["C zc"], runs["C non-zc"]))
            self._row("2", f"zc / non-zc, {size} B", "C's own zc / non-zc", 1.0, gain, c_gain)

    def _row(self, target: str, what: str, against: str, wanted: float, a: Any, b: Any) -> None:
        self.found.add(target, Row(what, "uringzc", against, wanted, a, b))

    def notifications(self) -> None:
        """Target 3: one notification for each request."""
        ours = self.ours()
        base = ours.run("one for each batch", 1200)
        ways = ((as_array, "read as one array", 0.95), (as_items, "each made an object", 0.88))
        for read, name, wanted in ways:
            against = Contender(base.name, base.run, wanted)
            contender = ours.run_flushing(name, 1200, read)
            self.measure("3", f"a notification per request, {name}", [contender, against], many=True)

    def calls(self) -> None:
        """Target 4: `send` call by call."""
        ours = self.ours()
        for size, registered, wanted in (
            (1200, True, 1.2),
            (65000, True, 2.3),
            (8000, False, 1.05),
            (65000, False, 1.4),
        ):
            kind = "registered" if registered else "bytes"
            baseline = plain(self.sock(), [bytes([i]) * size for i in range(64 if size < 16384 else 16)])
            contender = ours.calls(kind, size, registered=registered)
            against = Contender(baseline.name, baseline.run, wanted)
            self.measure("4", f"send, {size} B, {kind}", [contender, against], many=wanted < 1.1)

    def engines(self) -> None:
        """The engines beside each other."""
        engines = Engines(self.stack, self.measure, self.found.add)
        engines.runs(self.sock, self.ours)
        engines.senders(self.senders)
        engines.streams([self.auto.paths[name] for name in ("loopback", "veth")])

    def scale(self) -> None:
        """Target 12: many slots, many requests held."""
        limit = 1 / 1.1
        few, many = self.ours(tags=range(32)), self.ours(tags=range(32768), max_inflight=40000)
        contender, base = many.slots("32768 slots", 1200, 32768), few.slots("32 slots", 1200, 32)
        self.measure("12", "cost per request", [contender, Contender(base.name, base.run, limit)], many=True)
        few, many = self.ours(max_inflight=64), self.ours(max_inflight=65536)
        contender, base = many.held("65536 held", 1200, 65536), few.held("32 held", 1200, 32)
        self.measure("12", "cost per request", [contender, Contender(base.name, base.run, limit)], many=True)

    def footprint(self) -> None:
        """Target 13: memory."""
        for kind in ("region", "bytes", "notifications", "soak"):
            task = self.progress.add_task(f"memory, {kind}", total=None, name="")
            command = [sys.executable, "-m", "benchmarks.programs.memory", kind, str(self.plan.soak)]
            measure = partial(subprocess.run, command, check=True, capture_output=True)
            self.found.memory[kind] = json.loads(self.box.run(measure).stdout)["bytes"]
            self.progress.remove_task(task)


def _relative(a: Sample, b: Sample) -> Sample:
    """`a` with its rate as a multiple of `b`'s, in thousandths."""
    return Sample(a.datagrams, a.seconds * b.rate / 1000, a.cpu_seconds, a.copied_share)


PARTS: dict[str, Callable[[Bench], None]] = {
    "sizes": Bench.sizes,
    "notifications": Bench.notifications,
    "calls": Bench.calls,
    "sender": lambda bench: bench.senders.sends(),
    "regions": lambda bench: bench.senders.regions(),
    "varying": lambda bench: bench.senders.varying(),
    "threads": lambda bench: bench.senders.threads(),
    "single": lambda bench: bench.senders.single(),
    "auto": lambda bench: bench.auto.datagrams(SIZES, bench.found.arrivals),
    "streams": lambda bench: bench.auto.streams(),
    "engines": Bench.engines,
    "scale": Bench.scale,
    "footprint": Bench.footprint,
}


@contextmanager
def started(plan: Plan) -> Iterator[Bench]:
    """Open the sink and the display."""
    with ExitStack() as stack:
        box = stack.enter_context(testing.sink(mtu=65535))
        progress = stack.enter_context(pairs.bars())
        yield Bench(box, plan, progress, stack)


@click.command(help=__doc__)
@click.option("--pairs", "many", default=21, help="Alternating pairs, where the target is within 5 % of 1.")
@click.option("--few", default=11, help="Pairs elsewhere.")
@click.option("--seconds", default=0.3, help="Of one run.")
@click.option("--soak", default=5_000_000, help="Requests through one scheduler, to see memory stay flat.")
@click.option("--only", multiple=True, type=click.Choice(list(PARTS)), help="Measure these; no RESULTS.md.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=HERE, help="Where to write.")
def main(many: int, few: int, seconds: float, soak: int, only: tuple[str, ...], out: Path) -> None:
    """Run the benchmark."""
    out.mkdir(parents=True, exist_ok=True)
    reason = testing.missing("net_admin") or testing.missing("send_zc")
    if reason:
        raise click.ClickException(f"the benchmark {reason}")
    with started(Plan(many, few, seconds, soak)) as bench:
        for part in only or PARTS:
            PARTS[part](bench)
    write_report(bench.found, out, not only)


if __name__ == "__main__":
    main()
