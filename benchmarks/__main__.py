"""Measure the library beside Python programs without it, and beside a C program.

Writes results.json, and from it RESULTS.md and plots/, into benchmarks/, or what --only measures into
benchmarks/build/; there are all single runs too, in runs.json. All of it takes about half an hour. Needs
root, or `unshare --map-root-user`.

`--only threads --update` with a free-threaded interpreter adds its cases to what another has measured.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from benchmarks import plots, results
from benchmarks.bench import Plan, opened
from benchmarks.cases import TOPICS
from benchmarks.report import report, show
from uringzc import testing
from uringzc.calibration.saved import VARIABLE

HERE = Path(__file__).parent
BUILD = HERE / "build"


@click.command(help=__doc__)
@click.option("--pairs", default=21, help="Pairs of runs, where the target is within 5 % of 1.")
@click.option("--few", default=11, help="Pairs elsewhere.")
@click.option("--seconds", default=0.3, help="Of one run.")
@click.option("--soak", default=5_000_000, help="Requests through one scheduler, to see memory stay flat.")
@click.option("--only", multiple=True, type=click.Choice(list(TOPICS)), help="Measure these topics.")
@click.option("--update", is_flag=True, help="Put what is measured into the results that are there.")
@click.option("--redraw", is_flag=True, help="Measure nothing: read results.json, and draw it again.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Where to write.")
def main(
    pairs: int,
    few: int,
    seconds: float,
    soak: int,
    only: tuple[str, ...],
    update: bool,
    redraw: bool,
    out: Path | None,
) -> None:
    """Run the benchmark."""
    out = out or (BUILD if only and not update else HERE)
    kept = results.read(out / "results.json") if update else None
    if kept and not results.measured_here(kept.about):
        raise click.ClickException("those results are of another machine or kernel: measure all of them")
    if not redraw:
        os.environ[VARIABLE] = ""  # what is measured does not depend on calibrations of this machine
        measured = measure(Plan(pairs, few, seconds, soak), only or tuple(TOPICS))
        out.mkdir(parents=True, exist_ok=True)
        results.write(out / "results.json", results.updated(kept, measured) if kept else measured)
    found = results.read(out / "results.json")
    (out / "RESULTS.md").write_text(report(found, TOPICS))
    plots.draw(found, out / "plots")
    print(f"written: {out / 'RESULTS.md'}, plots/")


def measure(plan: Plan, topics: tuple[str, ...]) -> results.Results:
    """Measure, and print the table and how long each topic took."""
    reason = testing.missing("net_admin") or testing.missing("send_zc")
    if reason:
        raise click.ClickException(f"the benchmark {reason}")
    with opened(plan) as bench:
        for name in topics:
            start = time.monotonic()
            bench.run(TOPICS[name])
            print(f"{name}: {time.monotonic() - start:.0f} s")
    show(bench.results)
    results.write_runs(BUILD / "runs.json", bench.comparisons)
    return bench.results


if __name__ == "__main__":
    main()
