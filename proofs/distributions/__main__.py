"""Install the wheel and the sdist in other versions of Debian, and run the programs of README and the tests.

RELEASES: 12, 13, testing; all if none is named. Each is made by debootstrap in build/distributions and kept.
The wheel is that of --wheel, or built in the oldest of them with `make wheel`; the sdist from source in each,
against the liburing and the Python that are there. The tests are those of the sdist. Needs root.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from proofs import builds, page, suite
from proofs.distributions.system import HERE, System, mirror
from proofs.interpreters import PreparationError
from proofs.signals import interruptible

RELEASES = {"12": "bookworm", "13": "trixie", "testing": "testing"}
INSIDE = Path(__file__).with_name("inside.py")
console = Console(width=None if sys.stdout.isatty() else 150)


@dataclass
class Result:
    """What came of one distribution."""

    wheel: dict[str, Any] = field(default_factory=dict)  # what inside.py has found
    sdist: dict[str, Any] = field(default_factory=dict)
    tests: suite.Outcome = field(default_factory=suite.Outcome)
    problem: str = ""
    seconds: float = 0

    @property
    def holds(self) -> bool:
        """Whether both were installed and work, and no test failed."""
        return bool(self.wheel and self.sdist) and self.tests.holds and not self.problem


@click.command(help=__doc__)
@click.argument("releases", nargs=-1, type=click.Choice(list(RELEASES)))
@click.option("--all", "whole", is_flag=True, help="With the tests that are marked slow.")
@click.option(
    "--wheel",
    "given",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="To install this one, as of `make wheels`.",
)
@click.option("--mirror", "url", help="Where Debian's packages are; else where apt has them from.")
@click.option("--write", is_flag=True, help="Put the result into docs/proof.md.")
def main(releases: tuple[str, ...], whole: bool, given: Path | None, url: str | None, write: bool) -> None:
    """Prepare, run, and print the table."""
    interruptible()
    if os.geteuid():
        raise click.ClickException("only root can make another system in a folder")
    subprocess.run(["scripts/system-packages", sys.executable, "debootstrap"], cwd=page.ROOT, check=True)
    systems = [System(name, RELEASES[name]) for name in RELEASES if name in releases or not releases]
    results = {system: Result() for system in systems}
    with suite.bars() as progress:
        try:
            sdist = build_sdist()
            url = url or mirror()
            systems[0].make(url)
            wheel = given or build_wheel(systems[0], sdist)
        except PreparationError as error:
            raise click.ClickException(str(error)) from error
        for system, result in results.items():
            prove(system, result, url, [wheel, sdist], whole, progress)
            progress.print(f"Debian {system.name}: {result.problem or result.tests}", markup=False)
    console.print(table(results))
    for system, result in results.items():
        for name in result.tests.failed:
            console.print(f"Debian {system.name}: failed: {name}", style="red", markup=False)
    if write:
        page.write("make distributions", said(results), f"{page.kernel()}, {systems_of(results)}")
    sys.exit(not all(result.holds for result in results.values()))


def build_sdist() -> Path:
    """Of this checkout."""
    source = builds.copy("distributions/source")
    shutil.rmtree(source / "dist", ignore_errors=True)
    program = "from setuptools import build_meta; build_meta.build_sdist('dist')"
    done = subprocess.run([sys.executable, "-c", program], cwd=source, capture_output=True, text=True)
    if done.returncode:
        raise PreparationError(f"no sdist: {done.stderr}")
    return next((source / "dist").glob("*.tar.gz"))


def build_wheel(system: System, sdist: Path) -> Path:
    """From the sdist."""
    lay(system, [sdist])
    system.run(f"{unpack(sdist)}; make wheel; mv dist/*.whl /proof", HERE / "wheel.log")
    wheel = next(system.proof.glob("*.whl"))
    return Path(shutil.copy(wheel, HERE))


def lay(system: System, files: list[Path]) -> None:
    """In an empty folder /proof."""
    shutil.rmtree(system.proof, ignore_errors=True)
    system.proof.mkdir()
    for file in files:
        shutil.copy(file, system.proof)


def unpack(sdist: Path) -> str:
    """The commands."""
    return f"tar -xf {sdist.name}; cd {sdist.name.removesuffix('.tar.gz')}"


def prove(
    system: System, result: Result, url: str, built: list[Path], whole: bool, progress: Progress
) -> None:
    """The steps, one after the other, up to the first that fails."""
    task = progress.add_task(f"Debian {system.name}", total=100)
    began = time.monotonic()

    def step(name: str, percent: int = 0) -> None:
        progress.update(task, description=f"Debian {system.name}: {name}", completed=percent)

    wheel, sdist = built
    try:
        step("installing the system")
        system.make(url)
        lay(system, [*built, INSIDE, page.ROOT / "README.md"])
        step("the wheel")
        result.wheel = install(system, wheel, "wheel")
        step("the sdist")
        result.sdist = install(system, sdist, "sdist")
        step("the tests")
        result.tests = test(system, sdist, whole, lambda percent: step("the tests", percent))
        result.problem = result.tests.problem
    except PreparationError as error:
        result.problem = str(error)
    result.seconds = time.monotonic() - began
    progress.remove_task(task)


def install(system: System, file: Path, name: str) -> dict[str, Any]:
    """In an environment of its own; what was found with it."""
    script = (
        f"python3 -m venv {name}; {name}/bin/pip install '/proof/{file.name}[cli]'; "
        f"{name}/bin/python -I {INSIDE.name} README.md"
    )
    found: dict[str, Any] = json.loads(
        system.run(script, HERE / f"debian-{system.name}-{name}.log").splitlines()[-1]
    )
    if bool(found["liburing"]) != (name == "sdist"):
        raise PreparationError(f"the {name} is linked to liburing {found['liburing'] or 'that is inside it'}")
    return found


def test(system: System, sdist: Path, whole: bool, show: Any) -> suite.Outcome:
    """As a developer would, in what the sdist has: `make test`."""
    arguments = shlex.join(["-q", "--junitxml=/proof/report.xml"])
    target = "test" if whole else "test-quick"
    return suite.run(
        system.command(f"{unpack(sdist)}; make {target} ARGS='{arguments}'"),
        system.proof / "report.xml",
        HERE / f"debian-{system.name}-tests.log",
        folder=page.ROOT,
        environ=suite.clean_environ(),
        show=show,
    )


def table(results: dict[System, Result]) -> Table:
    """A row for each."""
    made = Table("Debian", "CPython", "liburing", "wheel", "sdist", "tests", "minutes")
    for system, result in results.items():
        made.add_row(
            f"{system.name}, {system.suite}" if system.name != system.suite else system.name,
            result.sdist.get("python", ""),
            result.sdist.get("liburing", ""),
            *(worked(found) for found in (result.wheel, result.sdist)),
            result.problem or str(result.tests),
            f"{result.seconds / 60:.1f}",
        )
    return made


def worked(found: dict[str, Any]) -> str:
    """What of it was tried."""
    return f"{found['programs']} programs, by {found['engine']}" if found else "no"


def systems_of(results: dict[System, Result]) -> str:
    """With their versions."""
    return "; ".join(
        f"Debian {system.name} (CPython {found.get('python')}, liburing {found.get('liburing')})"
        for system, found in ((system, result.sdist) for system, result in results.items())
    )


def said(results: dict[System, Result]) -> str:
    """In a sentence."""
    if bad := [system.name for system, result in results.items() if not result.holds]:
        return f"does not hold on {', '.join(bad)}"
    counts = " / ".join(f"{result.tests.passed:,}" for result in results.values())
    return f"wheel and sdist install and run README's programs; {counts} tests passed, none failed"


if __name__ == "__main__":
    main()
