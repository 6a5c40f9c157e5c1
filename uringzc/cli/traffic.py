"""What `uringzc send` and `uringzc recv` have in common: types of options, numbers, the line that moves."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from uringzc.cli.output import Row
from uringzc.jobs.job import parse_address, parse_rate
from uringzc.jobs.result import Progress
from uringzc.report.numbers import bits as bits
from uringzc.report.numbers import duration as duration
from uringzc.report.numbers import per_second as per_second


class Parsed(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # of click 8.2
    """An option that is checked by a function, which raises ValueError, and kept as it was written."""

    def __init__(self, name: str, check: Callable[[str], Any]) -> None:
        self.name, self._check = name, check

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        """As click wants it."""
        try:
            self._check(value)
        except ValueError as error:
            self.fail(f"{error}.", param, context)
        return value


ADDRESS = Parsed("host:port", parse_address)
RATE = Parsed("rate", parse_rate)
SECONDS = click.FloatRange(0, min_open=True)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def row(name: str, value: str, note: str = "", style: str = "bold") -> Row:
    """A row of a summary."""
    return Text(name), Text(value, style), Text(note, "dim")


def failed(console: Console, sentences: Any) -> None:
    """Says what did not hold."""
    for sentence in sentences:
        console.print(f"Failed: {sentence}.", style="bold red")


@contextmanager
def live_line() -> Iterator[Callable[[str], object] | None]:
    """A function that shows a text on the terminal of standard error; None if it is none."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    line = Text(no_wrap=True, overflow="ellipsis")
    with Live(line, console=console, refresh_per_second=8, transient=True) as live:

        def show(text: str) -> None:
            live.update(Text(text, no_wrap=True, overflow="ellipsis"))

        yield show


def so_far(progress: Progress) -> str:
    """The line that moves."""
    done = f" of {progress.total:,}" if progress.total else ""
    rate = progress.datagrams / progress.seconds if progress.seconds else 0.0
    return f"{progress.seconds:.1f} s  {progress.datagrams:,}{done} datagrams  {per_second(rate)}"
