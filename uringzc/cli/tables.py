"""The tables and figures of `uringzc demo`."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from uringzc.cli.transfer import Result, SlotTotals


def size(nbytes: float) -> str:
    """Bytes with a decimal unit: 117.3 MB."""
    for unit, scale, digits in (("GB", 1e9, 2), ("MB", 1e6, 1), ("kB", 1e3, 1)):
        if nbytes >= scale:
            return f"{nbytes / scale:.{digits}f} {unit}"
    return f"{nbytes:.0f} byte{'' if nbytes == 1 else 's'}"


def datagrams(count: int) -> str:
    """A number of datagrams."""
    return f"{count:,} datagram{'' if count == 1 else 's'}"


def rate(result: Result) -> str:
    """MB per second."""
    return f"{result.rate / 1e6:,.0f} MB/s"


def share(part: float | None) -> str:
    """A share in percent; None: the kernel does not tell."""
    return "unknown" if part is None else f"{part:.0%}"


def times(count: int) -> str:
    """How often, in words."""
    return {1: "once", 2: "twice"}.get(count, f"{count:,} times")


def progress() -> Progress:
    """The progress bar above the table of slots."""
    return Progress(
        TextColumn("  "),
        BarColumn(40),
        TaskProgressColumn(),
        TextColumn("{task.fields[size]}"),
        auto_refresh=False,
    )


def slots(totals: Sequence[SlotTotals]) -> Table:
    """What the notifications of each slot said."""
    table = _table("slot", "tag", "sequence", "requests", "notifications", "bytes", "copied")
    for slot in totals:
        table.add_row(str(slot.slot), f"{slot.tag:#x}", *_slot(slot))
    return table


def _slot(slot: SlotTotals) -> tuple[str, ...]:
    if slot.last is None:
        return ()  # no notification yet
    return (
        f"{slot.first} to {slot.last:,}",
        f"{slot.requests:,}",
        f"{slot.notifications:,}",
        size(slot.nbytes),
        share(None if slot.copied is None else slot.copied / slot.requests),
    )


def comparison(results: Mapping[tuple[str, str], Result]) -> Table:
    """The runs into the sink: for each kind of memory copying, then zero-copy and its gain."""
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
