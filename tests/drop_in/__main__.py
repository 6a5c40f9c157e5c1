"""Run the tests of other packages, unmodified, with stock event loops and with uringzc's in their place.

What passes with a stock loop passes with ours: else it is named, and the exit code is 1. Fetches sdists and
packages with pip into build/drop-in. Needs root, or `unshare --map-root-user`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

sys.path.insert(0, str(Path(__file__).parents[2]))  # where proofs is

import click
from comparison import LOOPS, Comparison, table, updated
from environments import BUILD, Environment
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from runs import Outcomes, Run
from suites import SUITES, Suite

from proofs.interpreters import Interpreter, PreparationError, all_interpreters, this_interpreter
from uringzc import testing

PAGE = Path(__file__).parents[2] / "docs" / "drop-in.md"
LINES = 20  # of a traceback, at its end, are printed
ONCE_MORE = 20  # failures, at most, are run a second time, and printed
console = Console(width=None if sys.stdout.isatty() else 170)


@click.command(help=__doc__)
@click.option("--suite", "names", multiple=True, type=click.Choice([suite.name for suite in SUITES]))
@click.option("--loop", "loops", multiple=True, type=click.Choice(list(LOOPS)), help="The stock one.")
@click.option("--python", "paths", multiple=True, help="An interpreter; else the one that runs this.")
@click.option("--all-pythons", is_flag=True, help="One of each version: of pyenv, or of PATH.")
@click.option("--jobs", default=2 * (os.cpu_count() or 1), help="Runs at a time: they mostly wait.")
@click.option("--write", is_flag=True, help="Put the rows into the table of docs/drop-in.md.")
def main(
    names: tuple[str, ...],
    loops: tuple[str, ...],
    paths: tuple[str, ...],
    all_pythons: bool,
    jobs: int,
    write: bool,
) -> None:
    """Run the suites, and print the table."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell starts its jobs with SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    if reason := testing.missing("net_admin"):
        raise click.ClickException(f"the suites run in networks of their own: that {reason}")
    try:
        interpreters = [Interpreter.at(path) for path in paths] or [this_interpreter()]
        suites = [suite for suite in SUITES if not names or suite.name in names]
        comparisons = [
            comparison
            for interpreter in (all_interpreters() if all_pythons else interpreters)
            for comparison in compare(Environment(interpreter), suites, loops or tuple(LOOPS), jobs)
        ]
    except PreparationError as error:
        raise click.ClickException(str(error)) from error
    console.print(table(comparisons))
    if write:
        PAGE.write_text(updated(PAGE.read_text(), comparisons))
    sys.exit(explain(comparisons))


def compare(
    environment: Environment, suites: Sequence[Suite], loops: Sequence[str], jobs: int
) -> list[Comparison]:
    """All runs of one interpreter: `jobs` at a time, and then what failed with ours alone once more."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress, ThreadPoolExecutor(jobs) as pool:
        runs = prepare(environment, suites, loops, progress)
        stop = Event()
        try:
            pending = {run: pool.submit(execute, run, progress, stop) for run in runs}
            results = {run: one.result() for run, one in pending.items()}
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
        stock = {(run.suite, run.loop): run for run in runs}
        comparisons = [
            Comparison(run, ours := stock[run.suite, LOOPS[run.loop]], results[run], results[ours])
            for run in runs
            if run.loop in LOOPS
        ]
        for comparison in comparisons:
            run_once_more(comparison, progress)
    return comparisons


def prepare(
    environment: Environment, suites: Sequence[Suite], loops: Sequence[str], progress: Progress
) -> list[Run]:
    """Install what the suites need; the runs of those that could be installed."""
    task = progress.add_task(f"{environment.interpreter.name}: installing", total=len(suites))
    environment.prepare()
    runs = []
    for suite in suites:
        try:
            tests = environment.tests_of(suite)
        except PreparationError as error:
            text = f"{environment.interpreter.name}: without {suite.name}: {error}"
            progress.print(text, style="yellow", markup=False)
        else:
            kinds = [kind for loop in loops for kind in (loop, LOOPS[loop])]
            runs += [Run(suite, environment, tests, kind) for kind in kinds]
        progress.advance(task)
    return runs


def execute(run: Run, progress: Progress, stop: Event) -> Outcomes:
    """One run, with a bar; ended early by `stop`."""
    name = f"{run.environment.interpreter.name} {run.suite.name}, {run.loop}"
    task = progress.add_task(name, total=None)

    def show(seen: Outcomes) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        progress.update(task, total=seen.collected or None, completed=seen.finished)

    outcomes = run.outcomes(show)
    progress.remove_task(task)
    progress.print(
        f"{name}: {outcomes.count('passed')} passed, {outcomes.count('failed')} failed",
        f"{outcomes.count('skipped')} skipped, datagram transports {dict(outcomes.transports)}",
        sep=", ",
    )
    return outcomes


def run_once_more(comparison: Comparison, progress: Progress) -> None:
    """Run what failed with ours alone a second time, by itself: what passes then is called flaky."""
    suspects = comparison.suspects
    if not suspects or len(suspects) > ONCE_MORE:
        return
    for test in suspects:
        again = comparison.our_run.outcomes(lambda seen: None, only=[test])
        if again.tests.get(test) == "passed":
            text = f"{test}: passed when run once more with {comparison.our_run.loop}"
            progress.print(text, markup=False)
            comparison.flaky.append(test)


def explain(comparisons: Sequence[Comparison]) -> int:
    """Name what failed; the exit code."""
    for one in comparisons:
        run = one.our_run
        name = f"{run.environment.interpreter.name} {run.suite.name}, {run.loop}"
        if one.problem:
            console.print(f"{name}: proves nothing: {one.problem}", style="red", highlight=False)
            if not one.ours.count("passed"):
                continue
        for test in one.lost[:ONCE_MORE]:
            outcome = one.ours.tests.get(test, "not run")
            text = "\n".join(one.ours.texts.get(test, "").splitlines()[-LINES:])
            console.print(f"{name}: {outcome}: {test}", style="red", highlight=False, markup=False)
            console.print(text, highlight=False, markup=False)
        if one.lost[ONCE_MORE:]:
            console.print(f"{name}: and {len(one.lost) - ONCE_MORE} more", style="red", highlight=False)
    print(f"The output of every run is in {BUILD / 'runs'}")
    return int(any(one.lost or one.problem for one in comparisons))


if __name__ == "__main__":
    main()
