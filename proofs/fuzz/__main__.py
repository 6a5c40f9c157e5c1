"""Random programs over every public class, judged by what arrives, what is raised, and what is left behind.

Programs run in children, whose compiled modules are built with AddressSanitizer and
UndefinedBehaviorSanitizer. They are made from seeds: the same --seed and --only give the same programs.
What fails is made shorter, and written to build/fuzz as JSON; `--replay FILE` plays it again. Network traffic
stays in namespaces that the children make; without the privileges for that, on loopback.
"""

import time
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from proofs import page
from proofs.fuzz import coverage, faces
from proofs.fuzz.children import Build, Child, build
from proofs.fuzz.programs import ENGINES, loads
from proofs.fuzz.search import Finding, Progress, Search

FOUND = page.ROOT / "build" / "fuzz"


@click.command(help=__doc__)
@click.option("--minutes", default=5.0, help="How long to look.")
@click.option("--programs", type=int, help="How many programs at most.")
@click.option("--seed", type=int, help="The first one; by default another each time.")
@click.option("--engine", "engines", multiple=True, type=click.Choice(ENGINES), help="Only these engines.")
@click.option(
    "--only", type=click.Choice(list(faces.GROUPS)), default=None, help="Only one face of the library."
)
@click.option("--children", default=2, help="Processes at once.")
@click.option("--build", "kind", type=click.Choice(["asan", "plain"]), default="asan", help="Of the modules.")
@click.option("--shorten/--no-shorten", default=True, help="Make programs that fail shorter.")
@click.option("--replay", type=click.Path(exists=True, path_type=Path), help="Play a program that was saved.")
@click.option("--all-calls", is_flag=True, help="A row for each parameter in the table at the end.")
@click.option("--write", is_flag=True, help="Put the result into docs/proof.md.")
def main(
    minutes: float,
    programs: int | None,
    seed: int | None,
    engines: tuple[str, ...],
    only: str | None,
    children: int,
    kind: str,
    shorten: bool,
    replay: Path | None,
    all_calls: bool,
    write: bool,
) -> None:
    """Fuzz."""
    console = Console()
    chosen = build("" if kind == "plain" else kind)
    if replay is not None:
        raise SystemExit(_replay(console, chosen, replay))
    seed = int(time.time()) * 1000 if seed is None else seed
    search = Search(chosen, seed, only or "", engines or ENGINES, shorten, programs)
    start = time.monotonic()
    interrupted = False
    with Live(console=console, refresh_per_second=4) as live:
        try:
            search.run(
                start + minutes * 60, children, lambda progress: live.update(_line(progress, start, seed))
            )
        except KeyboardInterrupt:
            interrupted = True
    progress = search.progress
    missed = coverage.show(console, progress.calls, only or "", all_calls)
    _show(console, progress)
    said = _said(progress, time.monotonic() - start, kind, missed)
    console.print(said, soft_wrap=True)
    if write and not interrupted:
        page.write("make fuzz", said)
    raise SystemExit(1 if progress.findings else 130 if interrupted else 0)


def _line(progress: Progress, start: float, seed: int) -> Text:
    seconds = max(time.monotonic() - start, 0.1)
    calls = progress.calls["calls that returned"] + progress.calls["calls that raised"]
    return Text(
        f"{seconds:5.0f} s  seed {seed}  {progress.programs} programs ({progress.programs / seconds:.1f}/s)  "
        f"{calls} calls  {progress.children} children  {len(progress.findings)} findings"
    )


def _show(console: Console, progress: Progress) -> None:
    if not progress.findings:
        return
    FOUND.mkdir(parents=True, exist_ok=True)
    table = Table("finding", "after", "times", "steps", "repeats", "file", title="Findings")
    for number, finding in enumerate(progress.findings.values()):
        table.add_row(
            finding.signature,
            f"{finding.after} programs",
            str(finding.times),
            str(len(finding.program.steps)),
            "yes" if finding.repeats else "no",
            str(_save(finding, number).relative_to(page.ROOT)),
        )
    for finding in progress.findings.values():
        console.rule()
        console.print(finding.text[:4000], markup=False, highlight=False, soft_wrap=True)
        console.print(str(finding.program), markup=False, highlight=False, soft_wrap=True)
    console.print(table)


def _save(finding: Finding, number: int) -> Path:
    kind = finding.signature.partition(":")[0].replace(" ", "-")
    file = FOUND / f"{finding.program.seed}-{number}-{kind}.json"
    file.write_text(finding.program.dumps() + "\n")
    file.with_suffix(".txt").write_text(f"{finding.text}\n{finding.program}\n")
    return file


def _said(progress: Progress, seconds: float, kind: str, missed: list[str]) -> str:
    calls = progress.calls["calls that returned"] + progress.calls["calls that raised"]
    raised = 100 * progress.calls["calls that raised"] // max(calls, 1)
    engines = ", ".join(sorted(progress.engines))
    found = f"{len(progress.findings)} findings" if progress.findings else "nothing found"
    reached = "every public method and parameter was called" if not missed else f"{len(missed)} not called"
    return (
        f"{found} in {progress.programs:,} programs, {calls:,} calls ({raised} % refused or failed), "
        f"{seconds / 60:.1f} min, build {kind}, engines {engines}; {reached}"
    )


def _replay(console: Console, chosen: Build, file: Path) -> int:
    program = loads(file.read_text())
    console.print(str(program), markup=False, highlight=False)
    child = Child(chosen)
    try:
        outcome = child.play(program)
    finally:
        child.end()
    for text in outcome.findings or ["nothing found"]:
        console.print(text, markup=False, highlight=False)
    return 1 if outcome.findings else 0


if __name__ == "__main__":
    main()
