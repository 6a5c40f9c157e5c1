"""What `uringzc bench` prints: while it measures, and in the end."""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from uringzc.cli import output
from uringzc.cli.traffic import bits, per_second
from uringzc.jobs.bench_report import BenchReport, BenchRun, Limit, LimitTry, Machine, Spread
from uringzc.jobs.result import Progress
from uringzc.report.numbers import short

if TYPE_CHECKING:
    from uringzc.jobs.bench import Sweep

_SHOWN = 0.01  # of the trains: lengths that are more seldom are left out
_BOUND = {
    "sender": "the sender is not faster, or its interface",
    "receiver": "the receiver's buffer was full: a faster receiver would get more",
    "loss": "more is lost on the way",
}


def minutes(seconds: float) -> str:
    """How long, roughly."""
    return f"{max(1.0, seconds):.0f} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"


def share(part: float | None) -> str:
    """In percent, with the digits that it needs."""
    if part is None:
        return "-"
    if part == 0 or part >= 0.995:
        return f"{part:.0%}" if part in (0, 1) else f"{part:.2%}"
    return f"{100 * part:.2g}%" if part >= 1e-6 else "<0.0001%"


class Screen:
    """While it is measured: a table and a line that moves, on a terminal; elsewhere a line for each run."""

    def __init__(self, table: Callable[[], RenderableType], total: int | None, console: Console) -> None:
        self._table, self._total, self._console = table, total, console
        self._line = Text(no_wrap=True, overflow="ellipsis")
        terminal = sys.stderr is not None and sys.stderr.isatty()
        stderr = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._live = (
            Live(get_renderable=self._screen, console=stderr, refresh_per_second=8, transient=True)
            if terminal
            else None
        )

    def __enter__(self) -> "Screen":
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def _screen(self) -> RenderableType:
        return Group(self._table(), self._line)

    def watch(self, engine: str, size: int, number: int, progress: Progress | None) -> None:
        """To be called when a run begins, and while it goes on."""
        of = f"/{self._total}" if self._total else ""
        rate = per_second(progress.datagrams / progress.seconds) if progress and progress.seconds else ""
        text = f"{number}{of}  {engine}  {size:,} bytes  {rate}".rstrip()
        self._line = Text(text, no_wrap=True, overflow="ellipsis")

    def line(self, text: str) -> None:
        """To be called when one is done."""
        if self._live is None:
            self._console.print(text)


def matrix(sweep: "Sweep") -> Table:
    """Datagrams per second so far: a row for each size, a column for each engine."""
    table = _empty_table()
    table.add_column("bytes", justify="right", no_wrap=True)
    for engine in sweep.engines:
        table.add_column(engine.replace("msg_zerocopy", "msg_ zerocopy"), justify="right", min_width=5)
    found = {(run.size, run.engine): run for run in sweep.runs}
    for size in sweep.sizes:
        cells = [found.get((size, engine)) for engine in sweep.engines]
        table.add_row(f"{size:,}", *(short(_pps(run).median) if run else "" for run in cells))
    return table


def run_line(run: BenchRun) -> str:
    """One run, of one round."""
    result = run.rounds[0].result
    lost = share(run.rounds[0].lost_share)
    return (
        f"{run.engine:<12}  {run.size:>6,} bytes  {per_second(result.pps):>14}  "
        f"{bits(result.bits_per_second):>13}  lost {lost}"
    )


def try_line(one: LimitTry) -> str:
    """One try of --find-limit."""
    full = f", the receiver's buffer was full {one.dropped:,} times" if one.dropped else ""
    slow = "" if one.sent_pps >= 0.95 * one.pps else f", sent at {per_second(one.sent_pps)}"
    return f"{per_second(one.pps):>14}  lost {share(one.lost_share):>7}  {_held(one)}{slow}{full}"


def _held(one: LimitTry) -> str:
    return "held" if one.held else "not held"


def tries(made: Sequence[LimitTry]) -> RenderableType:
    """The last of them: a terminal has few rows."""
    return Text("\n".join(try_line(one) for one in made[-10:]), no_wrap=True, overflow="ellipsis")


def report(console: Console, found: BenchReport) -> None:
    """All that was measured, for people."""
    if found.runs:
        tables = (_table(found.runs, lengths) for lengths in (True, False))
        if table := next((one for one in tables if _columns(one) <= console.width), None):
            console.print()
            console.print(table)
            console.print()
        else:
            _blocks(console, found.runs)
        _notes(console, found.runs)
    if found.limit is not None:
        _limit(console, found.limit)
    output.rows(
        console,
        [
            (Text(name), Text(_machine(machine), "dim"))
            for name, machine in (("here", found.machine), ("there", found.peer))
        ],
    )


def _machine(machine: Machine) -> str:
    cpus = f"{machine.cpus} CPU{'' if machine.cpus == 1 else 's'}"
    device = f"{machine.interface}, " if machine.interface else ""
    return (
        f"{device}MTU {machine.mtu}, {cpus}: {machine.cpu}, Linux {machine.kernel}, Python {machine.python}"
    )


def _columns(table: Table) -> int:
    """How wide it is, if there is room for it."""
    wide = Console(width=1000)
    return max(sum(len(part.text) for part in line) for line in wide.render_lines(table, pad=False))


def _table(runs: Sequence[BenchRun], lengths: bool) -> Table:
    table = _empty_table()
    for name in ("bytes", "engine", "datagrams/s", "range", "payload", "lost", "copied", "CPU ns", "train"):
        table.add_column(name, justify="left" if name == "engine" else "right", no_wrap=True)
    if lengths:
        table.add_column("trains by length", no_wrap=True)
    last = None
    for run in runs:
        if last not in (None, run.size):
            table.add_section()
        pps = _pps(run)
        table.add_row(
            f"{run.size:,}" if run.size != last else "",
            run.engine,
            Text(f"{pps.median:,.0f}", "bold"),
            _range(run),
            bits(8 * run.size * pps.median),
            _lost(run),
            _copied(run),
            f"{_cpu(run):,.0f}",
            f"{_mean_train(run):.1f}",
            *([trains(run)] if lengths else []),
        )
        last = run.size
    return table


def _empty_table() -> Table:
    return Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1),
        collapse_padding=True,
        header_style="bold",
    )


def _blocks(console: Console, runs: Sequence[BenchRun]) -> None:
    last = None
    for run in runs:
        if run.size != last:
            console.print(f"\n{run.size:,} bytes", style="bold")
        last, pps = run.size, _pps(run)
        console.print(f"{run.engine}", style="bold")
        for line in (
            f"{short(pps.median)}/s" + (f", {_range(run)}" if _range(run) else ""),
            f"{bits(8 * run.size * pps.median)}, {_lost(run)} lost",
            f"{_copied(run)} copied, CPU {_cpu(run):,.0f} ns",
            f"train {_mean_train(run):.1f}: {trains(run)}",
        ):
            console.print(f"  {line}")
    console.print()


def _notes(console: Console, runs: Sequence[BenchRun]) -> None:
    """What the columns do not say."""
    rounds = max(len(run.rounds) for run in runs)
    notes = [f"Medians of {rounds} rounds."] if rounds > 1 else []
    notes.append("CPU: of the sending thread, for a datagram.")
    full = sum(each.received.dropped > 0 for run in runs for each in run.rounds)
    if full:
        total = sum(len(run.rounds) for run in runs)
        notes.append(
            f"In {full} of {total} runs the receiver's buffer was full: it reads more slowly than is sent, "
            "which is no loss on the way. With --rate less is sent; --find-limit finds how much may be."
        )
    console.print(" ".join(notes), style="dim")


def _limit(console: Console, limit: Limit) -> None:
    if sys.stdout.isatty():  # elsewhere they were printed when they were made
        for one in limit.tries:
            console.print(try_line(one))
    if limit.pps:
        payload = bits(8 * limit.size * limit.pps)
        console.print(f"\nlimit  {per_second(limit.pps)}, {payload}", style="bold")
        console.print(f"with no more than {100 * limit.loss:g}% lost, twice; above it, {_BOUND[limit.bound]}")
    elif limit.bound:
        console.print(f"\nno limit was found: {_BOUND[limit.bound]}", style="bold")


def _pps(run: BenchRun) -> Spread:
    return run.spread(lambda each: each.result.pps)


def _range(run: BenchRun) -> str:
    pps = _pps(run)
    return f"{short(pps.least)} to {short(pps.most)}" if len(run.rounds) > 1 else ""


def _lost(run: BenchRun) -> str:
    return share(run.spread(lambda each: each.lost_share).median)


def _copied(run: BenchRun) -> str:
    return share(run.spread(lambda each: 1.0 if each.copied_share is None else each.copied_share).median)


def _cpu(run: BenchRun) -> float:
    return run.spread(lambda each: each.result.cpu_ns_per_datagram).median


def _mean_train(run: BenchRun) -> float:
    return run.spread(lambda each: each.result.mean_train).median


def trains(run: BenchRun) -> str:
    """The lengths that most trains have, of all rounds: "32-63 98%, 1 2%"."""
    counts = Counter[int]()
    for each in run.rounds:
        counts.update(each.result.trains)
    total = sum(counts.values())
    most = [(length, count / total) for length, count in counts.most_common(3) if total]
    return ", ".join(f"{_lengths(length)} {share(part)}" for length, part in most if part >= _SHOWN)


def _lengths(least: int) -> str:
    return str(least) if least in (1, 128) else f"{least}-{2 * least - 1}"
