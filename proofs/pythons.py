"""Run the tests with every CPython that is found, each in an environment and a copy of the checkout.

Found are those of pyenv and of PATH, 3.10 to the newest, and those without the GIL. VERSIONS: only these, as
in `3.10 3.14t`. What the environments need is fetched by pip, into build/pythons.
"""

import shlex
import sys

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from proofs import builds, page, suite
from proofs.interpreters import FREE_THREADED, WITH_GIL, Interpreter, PreparationError, all_interpreters
from proofs.signals import interruptible

console = Console(width=None if sys.stdout.isatty() else 150)


@click.command(help=__doc__)
@click.argument("versions", nargs=-1)
@click.option("--python", "paths", multiple=True, help="An interpreter that is not found otherwise.")
@click.option("--quick", is_flag=True, help="Without the tests that are marked slow.")
@click.option("--write", is_flag=True, help="Put the result into docs/proof.md.")
def main(versions: tuple[str, ...], paths: tuple[str, ...], quick: bool, write: bool) -> None:
    """Run them, and print the table."""
    interruptible()
    try:
        interpreters = chosen(versions, paths)
    except PreparationError as error:
        raise click.ClickException(str(error)) from error
    outcomes = {}
    with suite.bars() as progress:
        for interpreter in interpreters:
            outcomes[interpreter] = test(interpreter, quick, progress)
            progress.print(f"CPython {interpreter.name}: {outcomes[interpreter]}")
    console.print(table(outcomes))
    for interpreter, outcome in outcomes.items():
        for name in outcome.failed:
            console.print(f"CPython {interpreter.name}: failed: {name}", style="red", markup=False)
    if write:
        names = ", ".join(interpreter.name for interpreter in outcomes)
        page.write("make pythons", said(outcomes, quick), f"{page.kernel()}, CPython {names}")
    sys.exit(not all(outcome.holds for outcome in outcomes.values()))


def chosen(versions: tuple[str, ...], paths: tuple[str, ...]) -> list[Interpreter]:
    """One of each version: a named one rather than one that is found."""
    named = [Interpreter.at(path) for path in paths]
    found = named + all_interpreters([*WITH_GIL, *FREE_THREADED])
    one_of_each = {short(interpreter): interpreter for interpreter in reversed(found)}
    if missing := [version for version in versions if version not in one_of_each]:
        raise PreparationError(f"there is no CPython {missing[0]} here: name one with --python PATH")
    wanted = [one for name, one in one_of_each.items() if name in versions or not versions]
    return sorted(wanted, key=lambda one: (one.free_threaded, one.version))


def short(interpreter: Interpreter) -> str:
    """As `3.13`, or `3.14t`."""
    return "{}.{}".format(*interpreter.version) + "t" * interpreter.free_threaded


def test(interpreter: Interpreter, quick: bool, progress: Progress) -> suite.Outcome:
    """As a developer would: `make test PYTHON=...`."""
    task = progress.add_task(f"CPython {interpreter.name}", total=100)
    folder = builds.copy(f"pythons/{interpreter.name}")
    report, log = folder / "build" / "report.xml", folder / "build" / "output.log"
    report.parent.mkdir(exist_ok=True)
    arguments = shlex.join(["-q", f"--junitxml={report}", *(suite.QUICK if quick else ())])
    outcome = suite.run(
        ["make", "test", f"PYTHON={interpreter.path}", f"ARGS={arguments}"],
        report,
        log,
        folder=folder,
        environ=suite.clean_environ(),
        show=lambda percent: progress.update(task, completed=percent),
    )
    progress.remove_task(task)
    return outcome


def table(outcomes: dict[Interpreter, suite.Outcome]) -> Table:
    """A row for each."""
    made = Table("CPython", "GIL", "passed", "skipped", "failed", "minutes")
    for interpreter, outcome in outcomes.items():
        made.add_row(
            interpreter.name,
            "no" if interpreter.free_threaded else "yes",
            str(outcome.passed),
            str(outcome.skipped),
            outcome.problem or str(len(outcome.failed)),
            f"{outcome.seconds / 60:.1f}",
        )
    return made


def said(outcomes: dict[Interpreter, suite.Outcome], quick: bool) -> str:
    """In a sentence."""
    counts = [outcome.passed for outcome in outcomes.values()]
    failed = sum(not outcome.holds for outcome in outcomes.values())
    tests = "the tests that are not slow" if quick else "the whole suite"
    numbers = "to".join(f" {count:,} " for count in sorted({min(counts), max(counts)})).strip()
    return f"{tests}: {numbers} tests passed on each, {'none failed' if not failed else f'not on {failed}'}"


if __name__ == "__main__":
    main()
