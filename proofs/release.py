"""Build a release into dist/ and try it: sdist, wheels, SHA256SUMS. Uploads nothing, and makes no tag.

The checkout has to be ready: nothing uncommitted, one version everywhere, and `make check` holds. Wheels are
built from the sdist as by `make wheels`, and each file is tried in environments of its own. docs/releasing.md
has the rest.
"""

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click

from proofs.builds import BUILD
from proofs.commands import run
from proofs.distributions.__main__ import build_sdist
from proofs.interpreters import PreparationError
from proofs.page import ROOT
from proofs.signals import interruptible
from proofs.wheels.__main__ import DIST, build_and_try, wheel_options
from proofs.wheels.targets import TARGETS

TOOLS = BUILD / "release"


@click.command(help=__doc__)
@wheel_options
@click.option("--tests", is_flag=True, help="Run `make test` too, before anything is built.")
@click.option("--anyway", is_flag=True, help="Go on where the checkout is not ready: to try this command.")
def main(
    paths: tuple[str, ...], roots: tuple[str, ...], liburing: Path | None, tests: bool, anyway: bool
) -> None:
    """Check, build, try, and say what is left to do."""
    interruptible()
    version = version_of((ROOT / "pyproject.toml").read_text())
    for problem in (problems := not_ready(version)):
        click.secho(problem, fg="red", err=True)
    if problems and not anyway:
        raise click.ClickException(f"this checkout is not ready to become {version}")
    try:
        for target in ("check", *(["test"] if tests else [])):
            run("make", target)
        shutil.rmtree(DIST, ignore_errors=True)
        DIST.mkdir()
        sdist = Path(shutil.copy(build_sdist(), DIST))
        said = build_and_try(sdist, tuple(TARGETS), paths, roots, liburing)
        files = sorted(DIST.iterdir())
        check_metadata(files)
    except PreparationError as error:
        raise click.ClickException(str(error)) from error
    sums = "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)
    (DIST / "SHA256SUMS").write_text(sums)
    click.echo(f"\n{said}\n\n{sums}\nThey are in {DIST.name}/. What is left: docs/releasing.md, from step 3.")


def version_of(project: str) -> str:
    """That pyproject.toml has."""
    found = re.search(r'^version = "(.+)"$', project, re.MULTILINE)
    assert found
    return found[1]


def not_ready(version: str, root: Path = ROOT) -> list[str]:
    """What keeps a checkout from becoming this version: a sentence for each."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=root, check=True, capture_output=True, text=True
        ).stdout

    problems = []
    if changed := git("status", "--porcelain").splitlines():
        problems.append(f"not committed: {', '.join(line[3:] for line in changed[:5])}")
    if git("tag", "--list", f"v{version}"):
        problems.append(f"there is a tag v{version} already: give pyproject.toml the next version")
    if f'\n__version__ = "{version}"\n' not in (root / "uringzc" / "__init__.py").read_text():
        problems.append(f"uringzc.__version__ is not {version}, as in pyproject.toml")
    changes = (root / "CHANGELOG.md").read_text()
    if not re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changes, re.MULTILINE):
        problems.append(f"CHANGELOG.md has no section `## [{version}] - DATE`")
    if re.search(r"^## \[Unreleased\]\s+^(?!## )\S", changes, re.MULTILINE):
        problems.append(f"CHANGELOG.md has changes under Unreleased: they belong to {version}")
    return problems


def check_metadata(files: list[Path]) -> None:
    """As those who upload are asked to."""
    run(sys.executable, "-m", "venv", TOOLS)
    run(TOOLS / "bin/pip", "install", "--quiet", "twine")
    run(TOOLS / "bin/twine", "check", "--strict", *files)


if __name__ == "__main__":
    main()
