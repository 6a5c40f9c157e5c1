"""Measure the library beside a C program and beside plain Python, over a sink that copies nothing.

Writes results.json, results.png and RESULTS.md beside this file. Needs root, or `unshare --map-root-user`.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import rich
from rich.progress import Progress
from rich.table import Table
from uringzc import testing

from benchmarks import pairs
from benchmarks.baselines import Reference, plain
from benchmarks.ours import Ours, as_array, as_items
from benchmarks.pairs import Contender, Row, Sample

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
        self.rows: dict[str, list[Row]] = {}
        self.sweep: dict[int, dict[str, tuple[Sample, ...]]] = {}
        self.memory: dict[str, float] = {}

    def sock(self) -> Any:
        """Return a connected socket of its own, with room for whatever is in flight."""
        sock = self.stack.enter_context(self.box.socket())
        sock.setsockopt(1, 32, 64 << 20)  # SOL_SOCKET, SO_SNDBUFFORCE
        sock.connect(self.box.address)
        return sock

    def ours(self, **options: Any) -> Ours:
        """Return a scheduler with a socket of its own."""
        return self.stack.enter_context(Ours(self.sock(), **options))

    def measure(self, target: str, what: str, contenders: list[Contender], many: bool = False) -> list[Row]:
        """Compare the first contender with the others, and keep the rows under `target`."""
        rows = pairs.measure(
            *(what, contenders),
            pairs=self.plan.pairs if many else self.plan.few,
            seconds=self.plan.seconds,
            progress=self.progress,
        )
        self.rows.setdefault(target, []).extend(rows)
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
            self.sweep[size] = runs
            self._row("1", f"send_run, {size} B", "C, same flags and batch", 1.0, runs["zc"], runs["C zc"])
            gain = tuple(map(_relative, runs["zc"], runs["non-zc"]))
            c_gain = tuple(map(_relative, runs["C zc"], runs["C non-zc"]))
            self._row("2", f"zc / non-zc, {size} B", "C's own zc / non-zc", 1.0, gain, c_gain)

    def _row(self, target: str, what: str, against: str, wanted: float, a: Any, b: Any) -> None:
        self.rows.setdefault(target, []).append(Row(what, "uringzc", against, wanted, a, b))

    def notifications(self) -> None:
        """Target 3: one notification for each request."""
        ours = self.ours()
        base = ours.run("one for each batch", 1200)
        for read, name, wanted in ((as_array, "read as one array", 0.95), (as_items, "each made an object", 0.88)):
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
            baseline = plain(self.sock(), [bytes(size)] * 16)
            contender = ours.calls(kind, size, registered=registered)
            against = Contender(baseline.name, baseline.run, wanted)
            self.measure("4", f"send, {size} B, {kind}", [contender, against], many=wanted < 1.1)

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
            command = [sys.executable, "-m", "benchmarks.memory", kind, str(self.plan.soak)]
            run = self.box.run(lambda command=command: subprocess.run(command, check=True, capture_output=True))
            self.memory[kind] = json.loads(run.stdout)["bytes"]
            self.progress.remove_task(task)


def _relative(a: Sample, b: Sample) -> Sample:
    """`a` with its rate as a multiple of `b`'s, in thousandths."""
    return Sample(a.datagrams, a.seconds * b.rate / 1000, a.cpu_seconds, a.copied_share)


REASONS = {
    "1": "The kernel's part of a send is the same; what is left is the accounts (a request's entry is written when it"
    " is queued, at each of its two completions, and when it is released), which the C loop does not keep.",
    "2": "Both sides of the ratio carry the accounts' fixed cost, so it follows C's where the sizes are large.",
    "3": "A notification costs its notifier: opened, posted, read, freed; and, each as an object, a namedtuple.",
    "4": "The library adds about 0.15 microseconds to what the kernel takes for a zero-copy request. Where the target"
    " is missed, the C loop's own rate for that size (first table) is the ceiling: the kernel's two completions"
    " per request cost as much as the copy and the system call that they save.",
    "12": "More entries in use are more cache misses.",
}


def report(bench: Bench) -> str:
    """Return RESULTS.md."""
    lines = [
        "# Results",
        "",
        "Written by `make bench`; drawn in `results.png`, every run in `results.json`. Programs run in turn, A B A B,"
        " each figure is the median of the ratios of neighbouring runs, with their range and the interval that holds"
        " the true median with 95 %. The sink is an ifb device in a network namespace: truly zero-copy, never read.",
        "",
        *(f"- {name}: {value}" for name, value in about(bench.plan).items()),
        "",
        "## Thousand requests a second, by size (the patch set's dummy table)",
        "",
        "C posts a notification for each zero-copy request, as mainline does, so its zc is also its zc + flush."
        " In brackets: against the same program's non-zc.",
        "",
        *sweep_table(bench.sweep),
        "",
        "## Targets",
        "",
        "| # | what | against | ratio | range | 95 % interval | target | met | copied |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [line(target, row) for target, rows in bench.rows.items() for row in rows]
    lines += ["", "## Memory beyond the payload (target 13: at most 128 bytes, no growth)", ""]
    names = {
        "region": "held request, registered memory",
        "bytes": "held request, bytes",
        "notifications": "unread notification of a request of its own",
    }
    lines += [f"- {names[kind]}: {bench.memory[kind]:.0f} bytes" for kind in names]
    lines += [f"- growth over {bench.plan.soak:,} requests: {bench.memory['soak']:.0f} bytes", ""]
    missed = [t for t, rows in bench.rows.items() if any(row.met is False for row in rows)]
    lines += ["## What fell short, and why", ""]
    lines += [f"- **{target}**: {REASONS[target]}" for target in missed] or ["Nothing."]
    return "\n".join(lines) + "\n"


def about(plan: Plan) -> dict[str, str]:
    """Return what the figures depend on."""
    with open("/proc/cpuinfo") as file:
        models = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return {
        "machine": f"{os.cpu_count()} x {models[0] if models else platform.machine()}, Linux {platform.release()}",
        "python": platform.python_version(),
        "runs": f"{plan.pairs} pairs of {plan.seconds} s ({plan.few} where the target is far from 1)",
    }


def sweep_table(sweep: dict[int, dict[str, tuple[Sample, ...]]]) -> Iterator[str]:
    """Yield the lines of the table by size."""
    columns = ("non-zc", "zc", "zc + flush", "C non-zc", "C zc")
    yield "| UDP, bytes | " + " | ".join(columns) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    for size, runs in sweep.items():
        rate = {name: statistics.median(taken.rate for taken in runs[name]) for name in columns}
        shown = []
        for name in columns:
            base = rate["C non-zc" if name.startswith("C") else "non-zc"]
            gain = "" if rate[name] == base else f" ({rate[name] / base - 1:+.0%})"
            shown.append(f"{rate[name] / 1e3:.0f}{gain}")
        yield f"| {size} | " + " | ".join(shown) + " |"


def line(target: str, row: Row) -> str:
    """Return a row of the table of targets."""
    copied = row.subject_samples[0].copied_share
    cells = [
        target,
        row.what,
        row.reference,
        f"{row.median:.3f}",
        f"{min(row.ratios):.3f}-{max(row.ratios):.3f}",
        f"{row.interval.low:.3f}-{row.interval.high:.3f}",
        f"{row.target:.2f}" if row.target is not None else "",
        {True: "yes", False: "no", None: ""}[row.met],
        "?" if copied is None else f"{copied:.0%}",
    ]
    return "| " + " | ".join(cells) + " |"


def show(bench: Bench) -> None:
    """Print the targets' table."""
    table = Table("#", "what", "against", "ratio", "range", "target", "met", title="uringzc")
    for target, rows in bench.rows.items():
        for row in rows:
            spread = f"{min(row.ratios):.2f}-{max(row.ratios):.2f}"
            wanted, met = f"{row.target:.2f}", "yes" if row.met else "no"
            style = None if row.met else "red"
            table.add_row(target, row.what, row.reference, f"{row.median:.3f}", spread, wanted, met, style=style)
    rich.print(table)


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
@click.option("--only", multiple=True, type=click.Choice(["sizes", "notifications", "calls", "scale", "footprint"]))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=HERE, help="Where to write.")
def main(many: int, few: int, seconds: float, soak: int, only: tuple[str, ...], out: Path) -> None:
    """Run the benchmark."""
    reason = testing.missing("net_admin") or testing.missing("send_zc")
    if reason:
        raise click.ClickException(f"the benchmark {reason}")
    with started(Plan(many, few, seconds, soak)) as bench:
        for part in only or ("sizes", "notifications", "calls", "scale", "footprint"):
            getattr(bench, part)()
        rows = [row for found in bench.rows.values() for row in found]
    if bench.rows:
        show(bench)
        pairs.write(out / "results.json", rows, about(bench.plan) | {"memory": bench.memory})
        pairs.draw(out / "results.png", rows, "uringzc, over a sink that copies nothing")
    if not only:
        (out / "RESULTS.md").write_text(report(bench))
        rich.print(f"written: {out / 'RESULTS.md'}, results.json, results.png")


if __name__ == "__main__":
    main()
