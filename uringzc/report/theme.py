"""The colours of plots, for light and for dark pages, and figures as SVG whose colours are the page's."""

import io
import itertools
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

TEXT, QUIET, GRID, PAPER = "#202020", "#5A5A5A", "#DDDDDD", "#FFFFFF"
GOOD, BAD = "#007A5A", "#C04A00"

#: Okabe and Ito's palette, distinct for all kinds of colour vision: of each engine the same everywhere
ENGINES = {
    "io_uring": "#0072B2",
    "msg_zerocopy": "#E69F00",
    "copy": "#9A9A9A",
    "packet": "#009E73",
    "af_xdp": "#CC79A7",
    "socket": "#D55E00",
}
OTHERS = ("#56B4E9", "#B8A800")

#: of each colour, its CSS variable and what stands for it on a dark page
DARK = {
    TEXT: ("text", "#E6E6E6"),
    QUIET: ("quiet", "#A8A8A8"),
    GRID: ("grid", "#3A3D41"),
    PAPER: ("paper", "#131416"),
    GOOD: ("good", "#3FBF8F"),
    BAD: ("bad", "#F08A4B"),
    "#0072B2": ("blue", "#4BA3E3"),
    "#E69F00": ("orange", "#E69F00"),
    "#9A9A9A": ("grey", "#8A8A8A"),
    "#009E73": ("green", "#2DB58C"),
    "#CC79A7": ("pink", "#D98FB8"),
    "#D55E00": ("red", "#F0803C"),
    "#56B4E9": ("sky", "#56B4E9"),
    "#B8A800": ("yellow", "#D8CB3A"),
}

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_VARIABLES = {colour.lower(): f"var(--{name})" for colour, (name, _) in DARK.items()}


@contextmanager
def drawing() -> Iterator[None]:
    """Figures are made and saved in here: a text is only a text, and the same results give the same bytes."""
    settings: Any = {"text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "uringzc"}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of names in scripts that matplotlib's font has not
        yield


def plain(axes: Axes) -> None:
    """One line, below, and quiet ticks."""
    axes.set_facecolor(PAPER)
    axes.tick_params(which="both", colors=TEXT, labelsize=9, length=0)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_color(GRID)
        axes.spines[side].set_visible(side == "bottom")
    axes.grid(color=GRID, lw=0.7)
    axes.set_axisbelow(True)


def variables() -> tuple[str, str]:
    """The declarations of the colours, for light and for dark pages."""
    light = " ".join(f"--{name}: {colour};" for colour, (name, _) in DARK.items())
    dark = " ".join(f"--{name}: {colour};" for name, colour in DARK.values())
    return light, dark


def inline(figure: Figure, name: str, title: str) -> str:
    """The figure as an element of a page: `title` is for those who do not see it, ids begin with `name`."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None}, facecolor=PAPER)
    svg = ElementTree.fromstring(file.getvalue())
    for element in list(svg):
        if element.tag.endswith("metadata"):
            svg.remove(element)
    for element in svg.iter():
        for attribute, value in element.attrib.items():
            element.set(attribute, _of_page(attribute, value, name))
    heading = ElementTree.Element(f"{{{_SVG}}}title", id=f"{name}-title")
    heading.text = title
    svg.insert(0, heading)
    svg.set("role", "img")
    svg.set("aria-labelledby", f"{name}-title")
    for size in ("width", "height"):
        svg.attrib.pop(size, None)
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    return ElementTree.tostring(svg, encoding="unicode")


def _of_page(attribute: str, value: str, name: str) -> str:
    if attribute == "id":
        return f"{name}-{value}"
    if attribute.endswith("href"):
        return value.replace("#", f"#{name}-", 1)
    if attribute == "clip-path":
        return value.replace("url(#", f"url(#{name}-")
    if attribute == "style":
        return re.sub(r"#[0-9a-f]{6}", lambda found: _VARIABLES.get(found[0].lower(), found[0]), value)
    return value


class Colours:
    """A colour for each name, always the same for an engine."""

    def __init__(self) -> None:
        self._others = itertools.cycle(OTHERS)
        self._taken: dict[str, str] = {}

    def __getitem__(self, engine: str) -> str:
        if engine not in self._taken:
            self._taken[engine] = ENGINES.get(engine) or next(self._others)
        return self._taken[engine]
