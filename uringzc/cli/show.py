"""How the commands look: their tables, their figures, their sentences."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from uringzc.cli.transfer import Result, SlotAccount

_GAP = 3  # between columns
_NARROW = 24  # fewer columns than that are left for the last of a table: it goes below the others

#: the cells of a row
Row = Sequence[Text]


class OutputError(Exception):
    """Standard output takes no more, and why. No OSError: those are of what is being sent."""


class _Console(Console):
    def print(self, *objects: Any, **options: Any) -> None:
        try:
            super().print(*objects, **options)
        except OSError as error:
            raise OutputError(error.strerror) from error


def _width() -> int | None:
    """The columns of the terminal that is printed to; None: it is none, and nothing is to be wrapped."""
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


def size(nbytes: float) -> str:
    """Bytes with a decimal unit: 117.3 MB."""
    for unit, scale, digits in (("GB", 1e9, 2), ("MB", 1e6, 1), ("kB", 1e3, 1)):
        if nbytes >= scale:
            return f"{nbytes / scale:.{digits}f} {unit}"
    return f"{nbytes:.0f} byte{'' if nbytes == 1 else 's'}"


def datagrams(count: int) -> str:
    """So many of them."""
    return f"{count:,} datagram{'' if count == 1 else 's'}"


def rate(result: Result) -> str:
    """MB per second."""
    return f"{result.rate / 1e6:,.0f} MB/s"


def share(part: float | None) -> str:
    """A share in percent, or that the kernel does not tell."""
    return "unknown" if part is None else f"{part:.0%}"


def times(count: int) -> str:
    """How often, in words."""
    return {1: "once", 2: "twice"}.get(count, f"{count:,} times")


def progress() -> Progress:
    """The bar above the slots."""
    return Progress(
        TextColumn("  "),
        BarColumn(40),
        TaskProgressColumn(),
        TextColumn("{task.fields[size]}"),
        auto_refresh=False,
    )


def slots(accounts: Sequence[SlotAccount]) -> Table:
    """What came back through each slot."""
    table = _table("slot", "tag", "sequence", "requests", "notifications", "bytes", "copied")
    for account in accounts:
        table.add_row(str(account.slot), f"{account.tag:#x}", *_slot(account))
    return table


def _slot(account: SlotAccount) -> tuple[str, ...]:
    if account.last is None:
        return ()  # no notification yet
    return (
        f"{account.first} to {account.last:,}",
        f"{account.requests:,}",
        f"{account.notifications:,}",
        size(account.nbytes),
        share(None if account.copied is None else account.copied / account.requests),
    )


def comparison(results: Mapping[tuple[str, str], Result]) -> Table:
    """The runs into the sink: for each kind of memory copying, then zero-copy and what it gains."""
    table = _table("memory", "sent", "rate", "", "datagrams/s", "CPU/byte", "copied")
    for (memory, how), result in results.items():
        gain = result.rate / results[memory, "copying"].rate - 1
        table.add_row(
            memory,
            how,
            rate(result),
            "" if how == "copying" else f"{gain:+.0%}",
            f"{result.datagram_rate:,.0f}",
            f"{result.cpu_per_byte:.3f} ns",
            share(result.copied),
            style="" if how == "copying" else "bold",
        )
    return table


def figures(result: Result, receiver_cpu: float) -> Table:
    """The transfer in numbers."""
    table = Table(box=None, show_header=False, padding=(0, 3, 0, 0))
    table.add_column()
    table.add_column(justify="right", style="bold")
    table.add_column(style="dim")
    reading = result.reading / result.nbytes * 1e9
    table.add_row("rate", rate(result), f"{size(result.nbytes)} in {result.seconds:.2f} s")
    table.add_row("datagrams", f"{result.datagram_rate:,.0f} /s", f"{result.datagrams:,} in all")
    table.add_row("sender's CPU", f"{result.cpu_per_byte:.2f} ns/byte", f"{reading:.2f} to read the file")
    table.add_row("receiver's CPU", f"{receiver_cpu / result.nbytes * 1e9:.2f} ns/byte", "SHA-256, mostly")
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="left" if name in ("tag", "sent") else "right", no_wrap=True)
    return table
