"""The plots of pages and pictures: each is drawn into axes, so that one can stand alone or beside others."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from uringzc.jobs.bench_report import Limit
from uringzc.jobs.receive_job import Received, StreamReport
from uringzc.jobs.result import SECOND, Result
from uringzc.report.numbers import bits, duration, percent, short
from uringzc.report.runs import METRICS, Run, spread
from uringzc.report.theme import BAD, GOOD, GRID, PAPER, QUIET, TEXT, plain

MOST_SERIES = 16  #: that a plot can show, and a reader can tell from each other
MOST_STREAMS = 20
_LONGEST = 128  # of a train, in datagrams
_LEGEND = 70  # characters beside each other
_POINTS = 400  # of a line over time
_PERCENTILES = {"p50": "o", "p90": "s", "p99": "^", "p99.9": "D", "max": "x"}


@dataclass(frozen=True)
class Series:
    """Runs that differ in size alone: one line."""

    label: str
    colour: str
    line: str
    marker: str
    runs: tuple[Run, ...]


def sheet(height: float = 3.1, labels: Sequence[str] = ()) -> tuple[Figure, Axes]:
    """A figure for one plot of a page, higher if its legend has several rows."""
    if labels:
        height += 0.17 * (-(-len(labels) // columns(labels, _LEGEND)) - 1)
    figure = Figure(figsize=(5.4, height), layout="constrained")
    return figure, figure.add_subplot()


def legend(axes: Axes) -> None:
    """Above the plot, in as many columns as fit."""
    handles, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    axes.legend(
        handles,
        labels,
        frameon=False,
        labelcolor=TEXT,
        fontsize=9,
        loc="lower left",
        bbox_to_anchor=(-0.02, 1),
        ncols=columns(labels, _LEGEND),
        columnspacing=1.2,
        handletextpad=0.5,
        borderaxespad=0.2,
    )


def columns(labels: Sequence[str], room: int) -> int:
    """Of a legend, that fit into so many characters."""
    widths = [len(label) + 5 for label in labels]
    return len(labels) if sum(widths) <= room else max(1, room // max(widths))


def by_size(axes: Axes, series: Sequence[Series], metric: str) -> None:
    """The median by the size of a datagram, and the range of the rounds; of one size, bars."""
    plain(axes)
    sizes = sorted({run.key.size or 0 for one in series for run in one.runs})
    if len(sizes) == 1:
        _bars(axes, series, metric)
        return
    for one in series:
        points = [(run.key.size or 0, found) for run in one.runs if (found := spread(run.values(metric)))]
        if not points:
            continue
        points.sort(key=lambda point: point[0])
        xs = [size for size, _ in points]
        axes.fill_between(
            xs,
            [found.low for _, found in points],
            [found.high for _, found in points],
            color=one.colour,
            alpha=0.2,
            lw=0,
        )
        ys = [found.median for _, found in points]
        axes.plot(xs, ys, one.line, color=one.colour, marker=one.marker, ms=5, lw=1.8, label=one.label)
    _sizes(axes, sizes)
    _figures(axes.yaxis, metric)
    axes.set_ylim(0, 1.05 if metric == "copied_share" else None)


def _bars(axes: Axes, series: Sequence[Series], metric: str) -> None:
    shown = [(one, run, found) for one in series for run in one.runs if (found := spread(run.values(metric)))]
    for y, (one, _, found) in enumerate(shown):
        hatch = None if one.line == "-" else "//"
        axes.barh(y, found.median, height=0.62, color=one.colour, hatch=hatch, edgecolor=PAPER)
        axes.plot([found.low, found.high], [y, y], color=TEXT, lw=1.5)
    axes.set_yticks(range(len(shown)), [one.label for one, _, _ in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0)
    _figures(axes.xaxis, metric)


def trains(axes: Axes, series: Sequence[Series]) -> None:
    """Lengths of trains by the size of a datagram: large dots for what most trains have."""
    plain(axes)
    sizes = sorted({run.key.size or 0 for one in series for run in one.runs})
    places: set[int] = set()
    wide = (sizes[-1] / sizes[0]) ** 0.012 if len(sizes) > 1 else 1.05
    for number, one in enumerate(series):
        aside = wide ** (number - (len(series) - 1) / 2)  # so that dots of several do not hide each other
        points = [
            ((run.key.size or 0) * aside, place(length), share)
            for run in one.runs
            for length, share in shares(run.trains).items()
            if share > 0.005
        ]
        places.update(at for _, at, _ in points)
        axes.scatter(
            [x for x, _, _ in points],
            [y for _, y, _ in points],
            s=[max(8, 110 * share) for _, _, share in points],
            color=one.colour,
            marker=one.marker,
            alpha=0.75,
            lw=0,
            label=one.label,
        )
    _sizes(axes, sizes)
    _lengths(axes.yaxis, max(places, default=0))
    axes.set_ylim(-0.6, max(places, default=0) + 0.6)


def shares(trains: Sequence[dict[int, int]]) -> dict[int, float]:
    """Of the trains of several rounds, those of each length."""
    counted: Counter[int] = Counter()
    for each in trains:
        counted.update(each)
    total = sum(counted.values())
    return {length: count / total for length, count in sorted(counted.items())} if total else {}


def place(length: int) -> int:
    """Where a length is on an axis: they are counted under 1, 2, 4, 8, ..."""
    return max(1, min(length, _LONGEST)).bit_length() - 1


def _lengths(axis: Any, last: int) -> None:
    names = [f"{1 << at}-{(2 << at) - 1}" for at in range(last + 1)]
    names[0] = "1"
    names[7:] = ["128"] * (last >= 7)  # no train is longer
    axis.set_ticks(range(len(names)), names)


def _sizes(axes: Axes, sizes: Sequence[int]) -> None:
    axes.set_xscale("log")
    kept: list[int] = []
    for size in sizes:
        if not kept or size > 1.25 * kept[-1]:  # else the labels overlap
            kept.append(size)
    axes.set_xticks(kept, [f"{size:,}" for size in kept])
    axes.minorticks_off()
    least, most = min(sizes, default=1), max(sizes, default=1)
    margin = max(1.3, (most / least) ** 0.08)
    axes.set_xlim(least / margin, most * margin)
    axes.set_xlabel("bytes of a datagram", color=QUIET, size=9)


def _axis_percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def _figures(axis: Any, metric: str) -> None:
    """Ticks with their unit."""
    shares = METRICS[metric].is_share
    show = _axis_percent if shares else duration if metric.endswith(("_ns", "_per_datagram")) else short
    if metric == "bits_per_second":
        show = bits
    axis.set_major_formatter(FuncFormatter(lambda value, _: show(value)))


def tries(axes: Axes, limit: Limit) -> None:
    """The rates that were tried, in their order, with what was lost; the line is the largest that held."""
    plain(axes)
    for held, colour, marker, label in ((True, GOOD, "o", "held"), (False, BAD, "x", "did not hold")):
        shown = [(at, one.pps) for at, one in enumerate(limit.tries, 1) if one.held == held]
        xs, ys = [x for x, _ in shown], [y for _, y in shown]
        axes.plot(xs, ys, marker, color=colour, ms=7, label=label)
    for at, one in enumerate(limit.tries, 1):
        if one.lost_share:
            lost = percent(one.lost_share)
            axes.annotate(
                lost, (at, one.pps), (0, 7), textcoords="offset points", ha="center", color=QUIET, size=8
            )
    if limit.pps:
        axes.axhline(limit.pps, color=GOOD, lw=1)
    axes.set_xlim(0.5, len(limit.tries) + 0.5)
    axes.set_ylim(0, 1.15 * max([1.0, *(one.pps for one in limit.tries)]))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _figures(axes.yaxis, "sent_pps")
    axes.set_xlabel("number of the try", color=QUIET, size=9)


def over_time(axes: Axes, lines: Sequence[tuple[str, str, str, Result | Received]]) -> None:
    """Datagrams per second, by interval: of each its label, colour and line. Each begins at 0."""
    plain(axes)
    for label, colour, line, counted in lines:
        xs, ys = rates(counted)
        axes.plot(xs, ys, line, color=colour, lw=1.6, label=label, marker="o" if len(xs) < 4 else None)
    axes.set_ylim(0)
    axes.set_xlim(0)
    _figures(axes.yaxis, "sent_pps")
    axes.set_xlabel("seconds", color=QUIET, size=9)


def rates(counted: Result | Received) -> "tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]":
    """The middle of each interval, in seconds since the start, and its rate; of many, some together.

    The first and the last are left out if the sender or the receiver ran through less than half of them.
    """
    if not counted.counts:
        return np.empty(0), np.empty(0)
    numbers = np.array([count.number for count in counted.counts], float)
    first = numbers.min()
    many = int(numbers.max() - first) + 1
    together = -(-many // _POINTS)
    places = ((numbers - first) // together).astype(int)
    sums = np.bincount(places, [float(count.datagrams) for count in counted.counts])
    width = float(together * counted.interval_ns)
    start = float(first) * counted.interval_ns
    begins = np.maximum(start + width * np.arange(len(sums)), counted.start_ns)
    ends = np.minimum(start + width * np.arange(1, len(sums) + 1), counted.end_ns)
    whole = ends - begins >= width / 2
    if not whole.any():
        whole[:] = True
        begins, ends = np.array([float(counted.start_ns)]), np.array([float(counted.end_ns)])
        sums, whole = np.array([sums.sum()]), np.array([True])
    seconds = np.maximum(ends - begins, 1) / SECOND
    middle = ((begins + ends) / 2 - counted.start_ns) / SECOND
    return middle[whole], (sums / seconds)[whole]


def latencies(axes: Axes, streams: Sequence[StreamReport]) -> None:
    """Percentiles of each stream, in a row."""
    plain(axes)
    for y, stream in enumerate(streams):
        found = stream.latency if stream.same_clock else stream.latency_above_min
        shown = {name: found[name] for name in _PERCENTILES if found.get(name, 0) > 0}
        if shown:
            axes.plot([min(shown.values()), max(shown.values())], [y, y], color=GRID, lw=3, zorder=1)
        for name, value in shown.items():
            size = 7 if name == "p50" else 5
            axes.plot([value], [y], _PERCENTILES[name], color="#0072B2", ms=size, zorder=2)
    for name, marker in _PERCENTILES.items():
        axes.plot([], [], marker, color="#0072B2", ms=5, label=name)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: duration(value)))
    axes.minorticks_off()
    axes.set_yticks(range(len(streams)), [f"{stream.stream:08x}" for stream in streams])
    axes.set_ylim(len(streams) - 0.4, -0.6)


def lengths(axes: Axes, found: dict[int, int], colour: str) -> None:
    """Of one run: which share of the trains have which length."""
    plain(axes)
    parts = shares([found])
    axes.bar([place(length) for length in parts], list(parts.values()), width=0.8, color=colour)
    _lengths(axes.xaxis, max(map(place, parts), default=0))
    _figures(axes.yaxis, "copied_share")
    axes.set_ylim(0, 1.05)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("datagrams in a train", color=QUIET, size=9)
