"""`uringzc diff`: two results beside each other, and whether the second is worse."""

import json
import sys
from collections.abc import Sequence

import click
from rich.console import Console
from rich.text import Text

from uringzc.cli import output
from uringzc.cli.traffic import Parsed, failed, json_option
from uringzc.report.diff import Change, Comparison, Pair, compare
from uringzc.report.files import File, FileError, load
from uringzc.report.numbers import percent
from uringzc.report.runs import Spread

_STYLES = {"better": "green", "worse": "bold red", "within the noise": "dim", "same": "dim", "": "dim"}
_HEADINGS = {"send": "sent", "recv": "received"}  # of what there is one run in a file
RESULT = click.Path(readable=False, allow_dash=True)
ONE_ROUND = "One round says nothing about noise: a change may be how runs differ anyway."


class Unusable(click.ClickException):
    """A file that is no result: one line, exit status 2."""

    exit_code = 2


def percentage(text: str) -> float:
    """ "5%" is 0.05."""
    try:
        share = float(text.removesuffix("%")) / 100 if text.endswith("%") else -1.0
    except ValueError:
        share = -1.0
    if not 0 <= share < 1000:
        raise ValueError(f"{text!r} is no percentage: 5%, or 0.5%")
    return share


@click.command()
@click.argument("a", type=RESULT, metavar="A.json")
@click.argument("b", type=RESULT, metavar="B.json")
@click.option("--worse", type=Parsed("percent", percentage), help="Fail if B is worse by more, as 5%.")
@json_option
def diff(a: str, b: str, worse: str | None, as_json: bool) -> None:
    """Compare two results, and say what is only noise.

    A and B are what `uringzc bench`, `send` or `recv` printed with --json. Runs of a bench are compared
    with those of the same engine, zero-copy, size and rate. A change is "within the noise" if the ranges of
    the rounds overlap. Changes of shares, such as lost datagrams, are in percentage points. What else is
    different, such as the kernel, comes first.

    \b
    Exit status: 0    compared; with --worse: nothing is worse by more than that and beyond the noise
                 1    something is, or nothing could be compared
                 2    wrong options, or a file that is no such result
    """
    files = read([a, b])
    try:
        found = compare(*files)
    except FileError as error:
        raise Unusable(f"{error}.") from None
    wrong = [] if worse is None else _failures(found, percentage(worse), worse)
    if as_json:
        names = {"a": files[0].name, "b": files[1].name}
        click.echo(json.dumps(names | found.as_dict() | {"failed": wrong}, indent=2))
    else:
        console = output.console()
        _report(console, files, found)
        failed(console, wrong)
    sys.exit(1 if wrong else 0)


def read(paths: Sequence[str]) -> list[File]:
    """The files of a command's arguments. UsageError, ClickException."""
    if paths.count("-") > 1:
        raise click.UsageError("standard input can be read once.")
    try:
        return [load(path) for path in paths]
    except ModuleNotFoundError as error:
        raise click.ClickException(f"this needs {error.name}: pip install 'uringzc[cli]'.") from None
    except FileError as error:
        raise Unusable(f"{error}.") from None
    except OSError as error:
        raise Unusable(f"{error.filename}: {error.strerror}.") from None


def _failures(found: Comparison, share: float, asked: str) -> list[str]:
    if not found.pairs:
        return ["no run is in both files"]
    return [
        f"{'' if found.kind in _HEADINGS else f'{pair.key}: '}{change.metric.label} is worse by "
        f"{_change(change).lstrip('+-')}, more than {asked}"
        for pair, change in found.worse(share)
    ]


def _report(console: Console, files: Sequence[File], found: Comparison) -> None:
    """What changed, for people."""
    for letter, file in zip("AB", files, strict=True):
        console.print(f"{letter}: {file.name}")
    if found.differences:
        console.print("Not the same in A and B", style="bold yellow")
        output.rows(
            console,
            [
                (Text(f"  {each.what}"), Text(f"{_said(each.a)} \N{RIGHTWARDS ARROW} {_said(each.b)}"))
                for each in found.differences
            ],
        )
    for pair in found.pairs:
        console.print(_HEADINGS.get(found.kind, str(pair.key)), style="bold")
        _changes(console, pair)
    for letter, keys in (("A", found.only_a), ("B", found.only_b)):
        for key in keys:
            console.print(f"Only in {letter}: {key}", style="yellow")
    if found.one_round:
        console.print(ONE_ROUND, style="yellow")


def _said(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None or value == "" else str(value)


def _changes(console: Console, pair: Pair) -> None:
    cells = [
        (change.metric.label, _shown(change, change.a), _shown(change, change.b), _change(change))
        for change in pair.changes
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    table = []
    for change, (label, a, b, difference) in zip(pair.changes, cells, strict=True):
        verdict = Text(change.verdict, _STYLES[change.verdict])
        moved = Text(f"{difference:>{widths[3]}}", _STYLES[change.verdict])
        if sum(widths) + 35 <= console.width:
            numbers = [Text(f"{a:>{widths[1]}}"), Text(f"{b:>{widths[2]}}"), moved]
            table.append((Text(f"  {label}"), *numbers, verdict))
        else:
            words = Text(f"{a} \N{RIGHTWARDS ARROW} {b}{', ' if change.verdict else ''}").append_text(verdict)
            table.append((Text(f"  {label}"), moved, words))
    output.rows(console, table)


def _shown(change: Change, end: Spread | None) -> str:
    return "-" if end is None else change.metric.show(end.median)


def _change(change: Change) -> str:
    """+9.2%, or of shares +0.3 points."""
    moved = change.change
    if moved is None:
        return ""
    if change.metric.is_share:
        return f"{'+' if moved > 0 else ''}{percent(moved).removesuffix('%')} points"
    if moved in (float("inf"), 0):
        return "from 0" if moved else "0%"
    return f"{moved:+.1%}" if abs(moved) >= 0.0005 else f"{moved:+.2%}"
