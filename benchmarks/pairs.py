"""Ratios of programs that send, measured side by side: alternating runs, the median, and how sure it is.

Rates on a shared machine move by a tenth from one minute to the next, and a ratio taken within a few seconds
moves far less. So contenders run in turn, A B A B ..., each pair gives one ratio, and the median of those is
the result. Beside it stand their range, and an interval for the true median, which supposes nothing of how
they are distributed: each ratio is as likely to be above it as below, so it lies between the k-th smallest
and the k-th largest of n as often as n tosses of a coin show each side k times or more.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: rows of a picture that stand in one column
COLUMN = 40


@dataclass(frozen=True)
class Sample:
    """What one run sent. `copied_share` is the part the kernel copied, None where nobody knows."""

    datagrams: int
    seconds: float
    cpu_seconds: float
    copied_share: float | None = None

    @property
    def rate(self) -> float:
        """Datagrams per second."""
        return self.datagrams / self.seconds

    @property
    def cpu_ns(self) -> float:
        """CPU time for a datagram, user's and kernel's, in nanoseconds."""
        return self.cpu_seconds / self.datagrams * 1e9


@dataclass(frozen=True)
class Contender:
    """A program to measure: `run(seconds)` sends for about that long and tells what it did."""

    name: str
    run: Callable[[float], Sample]
    target: float | None = None  # as a reference: the least ratio to it that is wanted


class Interval(NamedTuple):
    """The median lies from `low` to `high` with probability `coverage`, at least."""

    low: float
    high: float
    coverage: float


@dataclass(frozen=True)
class Row:
    """Runs of a subject and of what it is compared with: the i-th of each ran one after the other."""

    what: str
    subject: str
    reference: str
    target: float | None
    subject_samples: tuple[Sample, ...]
    reference_samples: tuple[Sample, ...]

    @property
    def ratios(self) -> list[float]:
        """The subject's rate as a multiple of the reference's, by pair."""
        return [a.rate / b.rate for a, b in zip(self.subject_samples, self.reference_samples, strict=True)]

    @property
    def median(self) -> float:
        """The result."""
        return statistics.median(self.ratios)

    @property
    def interval(self) -> Interval:
        """The median's, of 95 % where there are enough pairs (6)."""
        return median_interval(self.ratios)

    @property
    def met(self) -> bool | None:
        """Whether the median reaches the target; None without one."""
        return None if self.target is None else self.median >= self.target


def median_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the narrowest order-statistic interval that covers the median with `confidence`.

    Too few values (5 for 95 %) give all of their range, with the coverage that it has.
    """
    ordered, n = sorted(values), len(values)
    if not n:
        raise ValueError("no values, no interval")
    outside, k = 2 * 0.5**n, 1
    while 2 * (k + 1) <= n:
        wider = outside + 2 * math.comb(n, k) * 0.5**n
        if 1 - wider < confidence:
            break
        outside, k = wider, k + 1
    return Interval(ordered[k - 1], ordered[n - k], max(0.0, 1 - outside))


def sample(
    seconds: float, chunk: Callable[[], object], datagrams: int, copied_share: float | None = None
) -> Sample:
    """Call `chunk()`, which sends `datagrams`, until `seconds` have passed.

    A chunk should take some milliseconds, since the clock is read after each.
    """
    chunks, cpu, start = 0, time.process_time(), time.perf_counter()
    now, until = start, start + seconds
    while now < until:
        chunk()
        chunks += 1
        now = time.perf_counter()
    return Sample(chunks * datagrams, now - start, time.process_time() - cpu, copied_share)


def measure(
    what: str,
    contenders: Sequence[Contender],
    *,
    pairs: int = 7,
    seconds: float = 1.0,
    warm_up: float = 0.1,
    progress: Progress | None = None,
) -> list[Row]:
    """Run the contenders in turn, `pairs` times each, and compare the first with every other one.

    The bar goes to `progress` if that is given, else to the terminal while this runs.
    """
    if len(contenders) < 2 or pairs < 5:
        raise ValueError(f"want 2 contenders and 5 pairs or more, not {len(contenders)} and {pairs}")
    taken: list[list[Sample]] = [[] for _ in contenders]
    with ExitStack() as stack:
        bar = progress or stack.enter_context(bars())
        task = bar.add_task(what, total=pairs * len(contenders), name="warming up")
        stack.callback(bar.remove_task, task)
        for contender in contenders:
            contender.run(warm_up)
        for _ in range(pairs):
            for contender, samples in zip(contenders, taken, strict=True):
                bar.update(task, name=contender.name)
                samples.append(_checked(contender, contender.run(seconds)))
                bar.advance(task)
    subject, *references = contenders
    return [
        Row(what, subject.name, reference.name, reference.target, tuple(taken[0]), tuple(samples))
        for reference, samples in zip(references, taken[1:], strict=True)
    ]


def bars() -> Progress:
    """Make the display that `measure` draws its progress on; share one between several measurements."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[name]}"), transient=True)


def _checked(contender: Contender, taken: Sample) -> Sample:
    if taken.datagrams <= 0 or taken.seconds <= 0:
        raise RuntimeError(f"{contender.name} sent nothing: {taken}")
    return taken


HEADINGS = (
    "what",
    "program",
    "against",
    "ratio",
    "range",
    "interval",
    "target",
    "met",
    "k/s",
    "CPU ns",
    "copied",
)


def cells(row: Row) -> list[str]:
    """Return the row as text under HEADINGS; its last three are the subject's, then the reference's."""
    ratios, interval, both = row.ratios, row.interval, (row.subject_samples, row.reference_samples)
    return [
        row.what,
        row.subject,
        row.reference,
        f"{row.median:.3f}",
        f"{min(ratios):.3f}-{max(ratios):.3f}",
        f"{interval.low:.3f}-{interval.high:.3f} ({interval.coverage:.1%} of {len(ratios)})",
        "" if row.target is None else f"{row.target:.2f}",
        _verdict(row),
        " / ".join(f"{statistics.median(taken.rate for taken in side) / 1e3:.0f}" for side in both),
        " / ".join(f"{statistics.median(taken.cpu_ns for taken in side):.0f}" for side in both),
        " / ".join(map(_copied, both)),
    ]


def _verdict(row: Row) -> str:
    if row.target is None or row.met:
        return "yes" if row.met else ""
    return "no, within the interval" if row.interval.high >= row.target else "no"


def _copied(samples: Iterable[Sample]) -> str:
    known = [taken.copied_share for taken in samples if taken.copied_share is not None]
    return f"{statistics.fmean(known):.0%}" if known else "?"


def table(rows: Iterable[Row], title: str | None = None) -> Table:
    """Return the rows for a terminal: `rich.print(table(rows))`."""
    drawn = Table(*HEADINGS, title=title)
    for row in rows:
        drawn.add_row(*cells(row), style="red" if row.met is False else None)
    return drawn


def markdown(rows: Iterable[Row]) -> str:
    """Return the rows as a Markdown table, without a newline at its end."""
    lines = [HEADINGS, ["---"] * len(HEADINGS), *map(cells, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(path: Path, rows: Iterable[Row], about: Mapping[str, Any]) -> None:
    """Write the rows as JSON: every run, what they came to, and `about` the machine and the sink."""
    found = []
    for row in rows:
        derived = {
            "median": row.median,
            "interval": row.interval._asdict(),
            "met": row.met,
            "ratios": row.ratios,
        }
        found.append(asdict(row) | derived)
    path.write_text(json.dumps({"about": dict(about), "rows": found}, indent=1) + "\n")


def read(path: Path) -> list[Row]:
    """Return the rows that `write` wrote, to print or draw again."""
    rows = []
    for row in json.loads(path.read_text())["rows"]:
        sides = (row["subject_samples"], row["reference_samples"])
        subject, reference = (tuple(Sample(**taken) for taken in side) for side in sides)
        rows.append(Row(row["what"], row["subject"], row["reference"], row["target"], subject, reference))
    return rows


def draw(path: Path, rows: Sequence[Row], title: str) -> None:
    """Draw the rows as a PNG: each ratio, the range, the interval of the median, and where the target is."""
    from matplotlib.figure import Figure

    columns = -(-len(rows) // COLUMN)
    most = -(-len(rows) // columns)
    figure = Figure(
        figsize=(10 * columns, 1.8 + 0.5 * most), layout="constrained", dpi=120 if columns < 2 else 80
    )
    for number, axes in enumerate(figure.subplots(1, columns, squeeze=False)[0]):
        _draw_column(axes, rows[number * most : (number + 1) * most], most)
    figure.suptitle(f"{title}: datagrams, or writes, per second, as a multiple of the reference's")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize="small")
    figure.savefig(path)


def _draw_column(axes: Axes, rows: Sequence[Row], height: int) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    axes.axvline(1, color="0.6", linewidth=1, linestyle="--")
    seen = [1.0]
    for y, row in enumerate(rows):
        ratios, shown = row.ratios, "_" if y else ""  # a label that starts with _ stays out of the legend
        colour = "tab:red" if row.met is False else "tab:blue"
        axes.plot(
            row.interval[:2],
            [y, y],
            color=colour,
            alpha=0.3,
            lw=10,
            solid_capstyle="butt",
            label=f"{shown}median's interval",
        )
        axes.plot([min(ratios), max(ratios)], [y, y], color=colour, lw=1.2, label=f"{shown}range")
        axes.plot(ratios, [y] * len(ratios), ".", color=colour, label=f"{shown}pairs")
        axes.plot(row.median, y, "o", color=colour, ms=8, label=f"{shown}median (red: below target)")
        axes.annotate(f"{row.median:.2f}", (row.median, y), (0, 9), textcoords="offset points", ha="center")
        seen += ratios if row.target is None else [*ratios, row.target]
    wanted = [(row.target, y) for y, row in enumerate(rows) if row.target is not None]
    axes.plot([x for x, _ in wanted], [y for _, y in wanted], "k|", ms=22, mew=2, label="target")
    axes.set_yticks(range(len(rows)), [f"{row.what}\n{row.subject} / {row.reference}" for row in rows])
    axes.set_ylim(height - 0.4, -0.7)
    if max(seen) > 3 * min(seen):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
