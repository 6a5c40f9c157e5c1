"""Build a release into dist/ and try it: sdist, wheels, SHA256SUMS. Uploads nothing, and makes no tag.

The checkout has to be ready: nothing uncommitted, one version everywhere, and `make check` holds. Wheels are
built from the sdist: one for every CPython with the GIL, and one for each that is found without it. Each file
is tried in environments of its own. docs/releasing.md has the rest.
"""

import hashlib
import json
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import click

from proofs.builds import BUILD
from proofs.distributions.__main__ import INSIDE, build_sdist
from proofs.interpreters import (
    FREE_THREADED,
    Interpreter,
    PreparationError,
    all_interpreters,
    this_interpreter,
)
from proofs.page import ROOT
from proofs.signals import interruptible
from proofs.suite import clean_environ

HERE = BUILD / "release"
DIST = ROOT / "dist"
#: the newest C library that a wheel may need: that of RHEL 9, Ubuntu 22.04 and Debian 12, and of Alpine 3.13
PROMISED = "manylinux_2_34" if platform.libc_ver()[0] == "glibc" else "musllinux_1_2"


@click.command(help=__doc__)
@click.option("--python", "paths", multiple=True, help="An interpreter that is not found otherwise.")
@click.option("--tests", is_flag=True, help="Run `make test` too, before anything is built.")
@click.option("--anyway", is_flag=True, help="Go on where the checkout is not ready: to try this command.")
def main(paths: tuple[str, ...], tests: bool, anyway: bool) -> None:
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
        named = [Interpreter.at(path) for path in paths]
        files = build([this_interpreter(), *all_interpreters(FREE_THREADED), *named])
        for interpreter in {one.name: one for one in [*all_interpreters(), *named]}.values():
            for file in files:
                if fits(file.name, interpreter):
                    attempt(file, interpreter)
    except PreparationError as error:
        raise click.ClickException(str(error)) from error
    sums = "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)
    (DIST / "SHA256SUMS").write_text(sums)
    click.echo(f"\n{sums}\nBuilt and tried, in {DIST.name}/. What is left: docs/releasing.md, from step 3.")


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


def build(interpreters: Sequence[Interpreter]) -> list[Path]:
    """The sdist, and from it a wheel with the limited API and those without the GIL; in dist/."""
    shutil.rmtree(DIST, ignore_errors=True)
    shutil.rmtree(HERE, ignore_errors=True)
    DIST.mkdir()
    HERE.mkdir(parents=True)
    sdist = Path(shutil.copy(build_sdist(), DIST))
    with tarfile.open(sdist) as archive:
        archive.extractall(HERE)
    source = HERE / sdist.name.removesuffix(".tar.gz")
    once = {one.version[:2] if one.free_threaded else None: one for one in reversed(interpreters)}
    for interpreter in once.values():
        run("make", "wheel", f"PYTHON={interpreter.path}", f"PLATFORM={tag()}", folder=source)
        for wheel in (source / "dist").glob("*.whl"):
            shutil.copy(wheel, DIST)
    tools = HERE / "tools"
    run(sys.executable, "-m", "venv", str(tools))
    run(f"{tools}/bin/pip", "install", "--quiet", "twine")
    files = sorted(DIST.iterdir())
    run(f"{tools}/bin/twine", "check", "--strict", *map(str, files))
    return files


def tag() -> str:
    """The platform tag that is promised, on this machine."""
    return f"{PROMISED}_{platform.machine()}"


def fits(file: str, interpreter: Interpreter) -> bool:
    """Whether an interpreter can install that: an sdist, or the wheel for its ABI."""
    version = "cp{}{}".format(*interpreter.version)
    return file.endswith(".tar.gz") or (f"{version}t-" if interpreter.free_threaded else "-abi3-") in file


def attempt(file: Path, interpreter: Interpreter) -> None:
    """In an environment of its own: doctor, and the programs of README."""
    folder = HERE / "tried"
    shutil.rmtree(folder, ignore_errors=True)
    run(interpreter.path, "-m", "venv", str(folder))
    run(f"{folder}/bin/pip", "install", "--quiet", "--no-cache-dir", f"{file}[cli]")
    found = json.loads(
        run(f"{folder}/bin/python", "-I", str(INSIDE), str(ROOT / "README.md")).splitlines()[-1]
    )
    if bool(found["liburing"]) != file.name.endswith(".tar.gz"):
        raise PreparationError(f"{file.name}: linked to liburing {found['liburing'] or 'that is inside it'}")
    click.echo(f"{file.name}, CPython {interpreter.name}: {found['programs']} programs, by {found['engine']}")


def run(*command: str, folder: Path = ROOT) -> str:
    """What it prints; PreparationError, with that, if it fails."""
    click.echo(f"$ {' '.join(command)}", err=True)
    done = subprocess.run(
        command,
        cwd=folder,
        env=clean_environ(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise PreparationError(f"{done.stdout[-3000:]}\n{' '.join(command)} failed")
    return done.stdout


if __name__ == "__main__":
    main()
