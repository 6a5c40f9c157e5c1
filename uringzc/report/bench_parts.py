"""The parts of a page about results of `uringzc bench`, one or several beside each other."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

from matplotlib.axes import Axes

from uringzc.jobs.bench_report import BenchReport, Limit, LimitTry
from uringzc.report import plots
from uringzc.report.files import File
from uringzc.report.numbers import per_second, percent, short
from uringzc.report.parts import Cell, Part, Plot, Table, number, text
from uringzc.report.runs import METRICS, Key, Run, runs, spread
from uringzc.report.theme import Colours, inline

_LINES = ("-", "--", ":", "-.")
_MARKERS = "osD^vP"
_WORD = 24  # characters of a name in a legend
_MACHINE = {"cpu": "CPU", "cpus": "CPUs", "mtu": "MTU"}

#: of plots by size: their headings
HEADINGS = {
    "sent_pps": "Datagrams per second that were sent",
    "received_pps": "Datagrams per second that came",
    "cpu_ns_per_datagram": "CPU time of the sender for a datagram",
    "copied_share": "Share of the sends that the kernel copied",
    "lost_share": "Share of the datagrams that were lost",
}


def bench_parts(files: Sequence[File]) -> Iterator[Part]:
    """What each file is of, then all runs together, then what was tried to find the limit."""
    named = named_reports(files)
    if not named:
        return
    for name, report in named:
        yield _about(report, name if len(named) > 1 else "")
    yield Part("Machines", tables=(_machines(named),))
    series = list(all_series(files))
    heading = "Runs" if len(named) == 1 else "Runs beside each other"
    if series:
        yield Part(heading, plots=tuple(_plots(series)), tables=(_table(files),))
    for at, (name, report) in enumerate(named):
        if report.limit:
            yield _limit(report.limit, at, name if len(named) > 1 else "")


def named_reports(files: Sequence[File]) -> list[tuple[str, BenchReport]]:
    """With names that differ."""
    names = distinct([file.name for file in files])
    return [
        (name, file.report)
        for name, file in zip(names, files, strict=True)
        if isinstance(file.report, BenchReport)
    ]


def distinct(names: Sequence[str]) -> list[str]:
    """Without the folders if they differ without, and else with a number."""
    short = [name.rpartition("/")[2] for name in names]
    if len(set(short)) == len(short):
        return short
    return [f"{at}: {name}" for at, name in enumerate(names, 1)] if len(set(names)) < len(names) else [*names]


def _about(report: BenchReport, name: str) -> Part:
    rounds = {len(run.rounds) for run in report.runs}
    each = f", {max(rounds)} rounds" if rounds and max(rounds) > 1 else ""
    noise = ", one round: nothing is known about noise" if rounds == {1} else ""
    return Part(
        f"uringzc bench to {report.host}{f' ({name})' if name else ''}",
        (f"{moment(report.at)}, uringzc {report.uringzc}, {report.seconds:g} s for each run{each}{noise}",),
        (report.command,) if report.command else (),
        report.failed,
    )


def _machines(named: Sequence[tuple[str, BenchReport]]) -> Table:
    """Of both ends; of several files, what is not the same in all is marked."""
    ends = [asdict(end) for _, report in named for end in (report.machine, report.peer)]
    rows = []
    for field in ends[0]:
        cells = [text(_MACHINE.get(field, field))]
        for at, end in enumerate(ends):
            differs = any(other[field] != end[field] for other in ends[at % 2 :: 2])
            cells.append(text(end[field] or None, style="bad" if differs else ""))
        rows.append(tuple(cells))
    several = len(named) > 1
    headers = [f"{name}: {end}" if several else end for name, _ in named for end in ("sender", "other end")]
    caption = "Both ends" + (", with what is not the same marked" if several else "")
    return Table("machines", caption, ("", *headers), tuple(rows))


def moment(at: str) -> str:
    """A date and time of ISO 8601, for people."""
    return at.replace("T", " ", 1).replace("+00:00", " UTC")


def all_series(files: Sequence[File]) -> Iterator[plots.Series]:
    """The runs of all files as lines: an engine has its colour, a file its line."""
    names, colours = distinct([file.name for file in files]), Colours()
    keys = [run.key for file in files for run in runs(file)]
    several = {
        field: len({getattr(key, field) for key in keys}) > 1 for field in ("engine", "zero_copy", "rate")
    }
    for at, file in enumerate(files):
        lines: dict[Key, list[Run]] = {}
        for run in runs(file):
            lines.setdefault(run.key._replace(size=None), []).append(run)
        for number_of, (key, own) in enumerate(lines.items()):
            said = [str(getattr(key, field)) for field in several if several[field] or field == "engine"]
            said += [names[at]] if len(files) > 1 else []
            label = ", ".join(
                word if len(word) <= _WORD else f"{word[: _WORD - 1]}\N{HORIZONTAL ELLIPSIS}" for word in said
            )
            yield plots.Series(
                label,
                colours[str(key.engine)],
                _LINES[at % len(_LINES)],
                _MARKERS[number_of % len(_MARKERS)],
                tuple(own),
            )


def shown_series(series: Sequence[plots.Series]) -> str:
    """What is left out of plots, as a sentence."""
    left = len(series) - plots.MOST_SERIES
    return f"Of {len(series)} lines, {left} are not drawn: the table has them." if left > 0 else ""


def _plots(series: Sequence[plots.Series]) -> Iterator[Plot]:
    note, drawn = shown_series(series), series[: plots.MOST_SERIES]
    if not drawn:
        return

    several = len({run.key.size for one in drawn for run in one.runs}) > 1  # else bars have their names

    def plot(name: str, heading: str, draw: Callable[[Axes], None], more: str = "") -> Plot:
        figure, axes = plots.sheet(labels=[one.label for one in drawn] if several else [])
        draw(axes)
        plots.legend(axes)
        return Plot(heading, inline(figure, name, heading), f"{more} {note}".strip())

    for metric, heading in HEADINGS.items():
        if any(run.values(metric) for one in drawn for run in one.runs):
            band = "Median; the band is the range of the rounds." if metric == "sent_pps" else ""
            yield plot(metric, heading, lambda axes, metric=metric: plots.by_size(axes, drawn, metric), band)  # type: ignore[misc]
    if any(run.trains for one in drawn for run in one.runs):
        yield plot(
            "trains",
            "Datagrams in a train (GSO batch)",
            lambda axes: plots.trains(axes, drawn),
            "The larger a dot, the more of the trains have this length.",
        )


def _table(files: Sequence[File]) -> Table:
    names = distinct([file.name for file in files])
    found = [(name, run) for name, file in zip(names, files, strict=True) for run in runs(file)]
    metrics = [name for name in METRICS if any(run.values(name) for _, run in found)]
    rated = any(run.key.rate for _, run in found)
    headers = (
        *(("file",) if len(files) > 1 else ()),
        *("engine", "zero-copy", "bytes"),
        *(("asked rate",) if rated else ()),
        *(METRICS[name].label for name in metrics),
        *("mean train", "rounds"),
    )
    rows = []
    for name, run in found:
        key = run.key
        cells = [text(name)] if len(files) > 1 else []
        cells += [text(key.engine), text(key.zero_copy), number(key.size, f"{key.size:,}")]
        cells += [text(key.rate)] if rated else []
        cells += [_median(run, metric) for metric in metrics]
        mean = spread(run.mean_trains)
        cells += [number(mean and mean.median, f"{mean.median:.1f}" if mean else "")]
        cells += [number(len(run.rounds), str(len(run.rounds)))]
        rows.append(tuple(cells))
    return Table("runs", "All runs: the median, and the range of the rounds", headers, tuple(rows))


def _median(run: Run, metric: str) -> Cell:
    found, show = spread(run.values(metric)), METRICS[metric].show
    if found is None:
        return number(None, "")
    if metric.endswith("pps"):
        show = short
    low, high = show(found.low), show(found.high)
    if low.partition(" ")[2] == high.partition(" ")[2]:
        low = low.partition(" ")[0]  # the unit once
    note = f"{low} to {high}" if found.rounds > 1 and found.low != found.high else ""
    return number(found.median, METRICS[metric].show(found.median), note)


def _limit(limit: Limit, at: int, name: str) -> Part:
    figure, axes = plots.sheet()
    plots.tries(axes, limit)
    plots.legend(axes)
    heading = "Rates that were tried"
    note = "With what was lost; the line is the largest that held."
    plot = Plot(heading, inline(figure, f"limit{at}", heading), note)
    most = f"{per_second(limit.pps)}" if limit.pps else "none of the rates that were tried"
    rows = tuple(_try(number_of, one) for number_of, one in enumerate(limit.tries, 1))
    headers = ("try", "asked", "sent", "lost", "buffer full", "held")
    return Part(
        f"Largest rate with at most {percent(limit.loss)} lost{f' ({name})' if name else ''}",
        figures=(("largest rate", most, f"{limit.engine}, {limit.size:,} bytes, bound by {limit.bound}"),),
        plots=(plot,),
        tables=(Table(f"tries-{at}", "Tries", headers, rows),),
    )


def _try(number_of: int, one: LimitTry) -> tuple[Cell, ...]:
    return (
        number(number_of, str(number_of)),
        number(one.pps, per_second(one.pps)),
        number(one.sent_pps, per_second(one.sent_pps)),
        number(one.lost_share, percent(one.lost_share)),
        number(one.dropped, f"{one.dropped:,}"),
        text("yes" if one.held else "no", style="good" if one.held else "bad"),
    )
