"""One picture of a bench: rates, CPU time, copies and trains by size, beside each other."""

from collections.abc import Sequence
from typing import Any

from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from uringzc.report import plots
from uringzc.report.bench_parts import HEADINGS, all_series, moment, named_reports
from uringzc.report.files import File
from uringzc.report.numbers import per_second, percent
from uringzc.report.theme import PAPER, QUIET, TEXT, drawing

_LARGE: Any = {"size": 16, "weight": "bold"}
_PANELS = ("sent_pps", "cpu_ns_per_datagram", "copied_share")


def can_draw(path: str) -> bool:
    """Whether the name ends with a format of pictures."""
    _, dot, ending = path.rpartition(".")
    return bool(dot) and ending.lower() in FigureCanvasBase.get_supported_filetypes()


def draw(files: Sequence[File], path: str) -> None:
    """Writes the picture of the benches in `files`, in the format that the name ends with (.png, .svg, .pdf).

    ValueError if can_draw() says no; OSError if it cannot be written.
    """
    with drawing():
        figure(files).savefig(path, facecolor=PAPER, dpi=110)


def figure(files: Sequence[File]) -> Figure:
    """The picture, for matplotlib to save: of runs, or of what was tried to find the limit."""
    series = list(all_series(files))[: plots.MOST_SERIES]
    limits = [report.limit for _, report in named_reports(files) if report.limit]
    sheet = Figure(figsize=(12, 8.2) if series else (9, 5.5), layout="constrained")
    if series:
        _runs(sheet, series, _title(files))
    elif limits:
        axes = sheet.subplots()
        plots.tries(axes, limits[0])
        plots.legend(axes)
        lost = f"{per_second(limits[0].pps)} with at most {percent(limits[0].loss)} lost"
        sheet.suptitle(f"{_title(files)}: {lost}", x=0.01, ha="left", color=TEXT, **_LARGE)
    sheet.supxlabel("\n".join(_notes(files)), x=0.01, ha="left", size=9, color=QUIET)
    return sheet


def _runs(sheet: Figure, series: Sequence[plots.Series], title: str) -> None:
    first, *_, last = panels = [*sheet.subplots(2, 2).flat]
    for axes, metric in zip(panels, _PANELS, strict=False):
        plots.by_size(axes, series, metric)
        axes.set_title(HEADINGS[metric], size=11, color=TEXT, loc="left")
    plots.trains(last, series)
    last.set_title("Datagrams in a train (GSO batch)", size=11, color=TEXT, loc="left")
    handles, labels = first.get_legend_handles_labels()
    if not labels:  # it has bars with their names
        handles, labels = last.get_legend_handles_labels()
    count = plots.columns(labels, 135)
    legend = sheet.legend(
        handles,
        labels,
        title=title,
        title_fontproperties=_LARGE,
        alignment="left",
        frameon=False,
        labelcolor=TEXT,
        loc="outside upper left",
        ncols=count,
    )
    legend.get_title().set_color(TEXT)


def _title(files: Sequence[File]) -> str:
    hosts = dict.fromkeys(report.host for _, report in named_reports(files))
    return f"uringzc bench to {', '.join(hosts)}"[:80]


def _notes(files: Sequence[File]) -> list[str]:
    """A line for each machine and time."""
    notes = dict.fromkeys(
        f"{report.machine.cpu}, {report.machine.cpus} CPUs, Linux {report.machine.kernel}, MTU "
        f"{report.machine.mtu}, uringzc {report.uringzc}, {moment(report.at)}"[:150]
        for _, report in named_reports(files)
    )
    return [*notes]
