"""The plots of docs/performance.md, as SVG: each has colours for light and for dark pages."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import chart
from benchmarks.results import Case, Results

GRID, PAPER = "#DDDDDD", "#FFFFFF"

#: of each colour, its name in the file and what stands for it on a dark page
DARK = {
    chart.TEXT: ("text", "#E6E6E6"),
    chart.QUIET: ("quiet", "#A8A8A8"),
    GRID: ("grid", "#3A3D41"),
    PAPER: ("paper", "#131416"),
    chart.LIBRARY: ("library", "#4BA3E3"),
    chart.TODAY: ("today", "#8A8A8A"),
    chart.TUNED: ("tuned", "#E69F00"),
    "#007A5A": ("met", "#3FBF8F"),
    "#C04A00": ("missed", "#F08A4B"),
}

#: what programs do today, and where it is beside the library
USUAL = {"socket.send", "socket.sendto", "socket.sendall", "asyncio"}
TOPICS = ("udp-send", "udp-mixed", "destinations", "asyncio", "udp-single", "udp-replies", "auto-tcp")
SIZES = {
    "zc": ("uringzc, zero-copy", chart.LIBRARY, "-"),
    "non-zc": ("uringzc, copied", chart.TODAY, "-"),
    "C zc": ("C, zero-copy", chart.LIBRARY, ":"),
    "C non-zc": ("C, copied", chart.TODAY, ":"),
}


def draw(results: Results, folder: Path) -> None:
    """Write each plot of PLOTS; the same results give the same bytes."""
    folder.mkdir(exist_ok=True)
    for name, plot in PLOTS.items():
        (folder / name).write_text(themed(plot(results)))


def themed(figure: Figure) -> str:
    """Return the figure as SVG whose colours follow the reader's light or dark mode."""
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "uringzc"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None}, facecolor=PAPER)
    text = file.getvalue()
    for colour, (name, _) in DARK.items():
        text = re.sub(colour, f"var(--{name})", text, flags=re.IGNORECASE)
    light = " ".join(f"--{name}: {colour};" for colour, (name, _) in DARK.items())
    dark = " ".join(f"--{name}: {colour};" for name, colour in DARK.values())
    style = f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    return text.replace("<defs>\n", f"<style>\n{style}</style>\n<defs>\n", 1)


def ratios(results: Results) -> Figure:
    """Return the picture of the cases beside what programs do today, from the best to the worst."""
    cases = sorted(map(_ratio, filter(_usual, results.cases)))
    figure = Figure(figsize=(9, 1.2 + 0.22 * len(cases)))
    axes = figure.add_axes((0.47, 0.03, 0.5, 0.93))
    _plain(axes)
    axes.set_xscale("log")
    axes.set(xlim=(0.5, 50), ylim=(-0.8, len(cases) - 0.2), yticks=range(len(cases)))
    axes.set_xticks([0.5, 1, 2, 5, 10, 20, 50], ["0.5", "1", "2", "5", "10", "20", "50"])
    axes.minorticks_off()
    axes.set_yticklabels([name for _, name, _ in cases])
    axes.axvline(1, color=chart.QUIET, lw=1)
    for y, (ratio, _, (low, high)) in enumerate(cases):
        colour = chart.LIBRARY if low > 1 else chart.TUNED if high < 1 else chart.TODAY
        axes.plot([1, ratio], [y, y], color=GRID, lw=1.5, zorder=1)
        axes.plot([low, high], [y, y], color=colour, lw=3, zorder=2)
        axes.plot([ratio], [y], "o", color=colour, ms=5, zorder=3)
    axes.set_title("times as fast as what it is compared with", size=11, color=chart.TEXT)
    return figure


def _usual(case: Case) -> bool:
    another = case.case.startswith("C ") or "p99" in case.case or case.case.startswith("aioquic, 20 MB, the")
    return case.topic in TOPICS and case.against in USUAL and not another


def _ratio(case: Case) -> tuple[float, str, tuple[float, float]]:
    return case.ratio, f"{case.case}  ({case.against})", case.interval


def sizes(results: Results) -> Figure:
    """Return the picture of requests per second by their size, with and without a copy."""
    figure = Figure(figsize=(9, 4.2))
    axes = figure.add_axes((0.08, 0.14, 0.70, 0.76))
    _plain(axes)
    axes.set_xscale("log")
    by_size = sorted(results.by_size.items())
    for name, (label, colour, style) in SIZES.items():
        points = [(size, rates[name] / 1e6) for size, rates in by_size if name in rates]
        xs, ys = zip(*points, strict=True) if points else ((), ())
        axes.plot(xs, ys, style, color=colour, marker="o", ms=4, label=label)
    ticks = [size for size, _ in by_size]
    axes.set_xticks(ticks, [f"{size:,}" for size in ticks])
    axes.minorticks_off()
    axes.set_ylim(0)
    axes.set_xlabel("bytes of a datagram, one request each", color=chart.TEXT)
    axes.set_title("million datagrams per second", size=11, color=chart.TEXT, loc="left")
    axes.grid(color=GRID, lw=0.7)
    axes.legend(frameon=False, labelcolor=chart.TEXT, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _plain(axes: Axes) -> None:
    axes.set_facecolor(PAPER)
    axes.tick_params(colors=chart.TEXT, labelsize=9, length=0)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_color(GRID)
        axes.spines[side].set_visible(side == "bottom")


PLOTS: dict[str, Callable[[Results], Figure]] = {
    "headlines.svg": chart.figure,
    "ratios.svg": ratios,
    "sizes.svg": sizes,
}
