"""What the commands print with: a console that wraps on terminals only, and rows of aligned columns."""

import sys
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.text import Text

_GAP = 3  # between columns
_NARROW = 24  # fewer columns than that are left for the last of a table: it goes below the others

#: the cells of a row
Row = Sequence[Text]


class OutputError(Exception):
    """Standard output cannot be written to, and why. No OSError, which a failed send raises."""


def os_error(error: OSError, what: str = "") -> click.ClickException:
    """An error of a file as one of the options, exit status 2; any other, of `what`, exit status 1."""
    why = error.strerror or str(error)
    if isinstance(error.filename, str):
        return click.UsageError(f"{error.filename}: {why}.")
    return click.ClickException(f"{what}: {why}." if what else f"{why}.")


class _Console(Console):
    def print(self, *objects: Any, **options: Any) -> None:
        try:
            super().print(*objects, **options)
        except OSError as error:
            raise OutputError(error.strerror) from error


def _width() -> int | None:
    """The columns of the terminal; None where standard output is no terminal, and nothing is wrapped."""
    return Console().width if sys.stdout is not None and sys.stdout.isatty() else None


def console(quiet: bool = False) -> Console:
    """Prints text as it is, without markup or emoji, and wraps it on a terminal only."""
    width = _width()
    return _Console(
        quiet=quiet,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=width is None,
        width=width or 10_000,
    )


def rows(console: Console, table: Sequence[Row]) -> None:
    """Prints rows with aligned columns. A terminal has the last one wrapped, beside the others or below."""
    widths = [max(cell.cell_len for cell in column) + _GAP for column in zip(*table, strict=True)][:-1]
    width, indent = _width(), sum(widths)
    for *cells, last in table:
        line = Text()
        for cell, room in zip(cells, widths, strict=True):
            line.append_text(cell).append(" " * (room - cell.cell_len))
        if width is None:
            line.append_text(last)
        elif width - indent >= _NARROW:
            line.append_text(Text("\n" + " " * indent).join(last.wrap(console, width - indent)))
        elif last:
            line.rstrip()
            line.append_text(Text("\n  ").join([Text(), *last.wrap(console, width - 2)]))
        line.rstrip()
        console.print(line, soft_wrap=True)
