"""What a page is made of: parts with figures, plots and tables. Their texts are escaped in the page."""

from dataclasses import dataclass
from typing import NamedTuple


class Cell(NamedTuple):
    """A cell of a table: its text, and what its column is sorted by."""

    text: str
    by: float | str
    note: str = ""  #: in small letters
    style: str = ""  #: a class of page.css


@dataclass(frozen=True)
class Table:
    """Rows under headers."""

    name: str  #: in the address, for how it is sorted
    caption: str
    headers: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Plot:
    """A picture with its heading; `svg` is put into the page as it is."""

    heading: str
    svg: str
    note: str = ""


@dataclass(frozen=True)
class Part:
    """A heading, and what is below it."""

    heading: str
    lines: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    figures: tuple[tuple[str, str, str], ...] = ()  #: label, figure and note, in large letters
    plots: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()


def text(value: object, note: str = "", style: str = "") -> Cell:
    """A cell of words; None: not known."""
    shown = "\N{EN DASH}" if value is None or value == "" else str(value)
    return Cell(shown, shown, note, style)


def number(value: float | None, shown: str, note: str = "", style: str = "") -> Cell:
    """A cell of a number; None comes last."""
    if value is None:
        return Cell("\N{EN DASH}", float("-inf"), note, style)
    return Cell(shown, float(value), note, style)
