"""Build the wheels, check their tags and their ABI, and try each where it can be.

TARGETS: all if none is named. Each is built from the sdist of this checkout, with liburing inside, for every
CPython with the GIL (abi3); for this machine also for each CPython without the GIL that is found. They are
put into dist/. Those for another machine are tried in a Debian made by debootstrap, with qemu-user; those for
musl in a folder that --root names, as Alpine's mini root filesystem with python3. That needs root.
"""

import shutil
from pathlib import Path

import click

from proofs import page
from proofs.distributions.__main__ import build_sdist
from proofs.interpreters import (
    FREE_THREADED,
    Interpreter,
    PreparationError,
    all_interpreters,
    this_interpreter,
)
from proofs.signals import interruptible
from proofs.wheels import attempt
from proofs.wheels.build import build
from proofs.wheels.targets import TARGETS

DIST = page.ROOT / "dist"


def wheel_options(command: click.decorators.FC) -> click.decorators.FC:
    """What `make release` has too."""
    for option in (
        click.option("--python", "paths", multiple=True, help="An interpreter that is not found otherwise."),
        click.option(
            "--root",
            "roots",
            multiple=True,
            metavar="TARGET=FOLDER",
            help="A system with Python, in which the wheel for a target is tried.",
        ),
        click.option(
            "--liburing",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="A tarball of its source; else Debian's.",
        ),
    ):
        command = option(command)
    return command


@click.command(help=__doc__)
@click.argument("targets", nargs=-1, type=click.Choice(list(TARGETS)))
@wheel_options
@click.option("--write", is_flag=True, help="Put the result into docs/proof.md.")
def main(
    targets: tuple[str, ...],
    paths: tuple[str, ...],
    roots: tuple[str, ...],
    liburing: Path | None,
    write: bool,
) -> None:
    """Build, try, and say which were not tried."""
    interruptible()
    try:
        sdist = build_sdist()
        shutil.rmtree(DIST, ignore_errors=True)
        DIST.mkdir()
        said = build_and_try(sdist, targets or tuple(TARGETS), paths, roots, liburing)
    except PreparationError as error:
        raise click.ClickException(str(error)) from error
    click.echo(said)
    if write:
        page.write("make wheels", said, page.kernel())


def build_and_try(
    sdist: Path, names: tuple[str, ...], paths: tuple[str, ...], roots: tuple[str, ...], liburing: Path | None
) -> str:
    """The wheels into dist/; an sdist that is there is tried too. In a sentence, what ran where."""
    folders = parse_roots(roots)
    interpreters = [this_interpreter(), *all_interpreters(), *all_interpreters(FREE_THREADED)]
    interpreters += [Interpreter.at(path) for path in paths]
    targets = [TARGETS[name] for name in names]
    build(sdist, targets, interpreters, liburing, DIST)
    files = sorted(DIST.iterdir())
    once = list({one.name: one for one in interpreters}.values())
    return describe(files, attempt.all_of(files, once, targets, folders))


def parse_roots(roots: tuple[str, ...]) -> dict[str, Path]:
    """Of --root TARGET=FOLDER, by target."""
    folders = {}
    for root in roots:
        name, _, folder = root.partition("=")
        if name not in TARGETS or not folder or not Path(folder).is_dir():
            raise click.BadParameter(f"{root}: it is TARGET=FOLDER, and TARGET one of {', '.join(TARGETS)}")
        folders[name] = Path(folder).resolve()
    return folders


def describe(files: list[Path], tried: list[attempt.Tried]) -> str:
    """In a sentence."""
    where: dict[str, list[str]] = {file.name: [] for file in files}
    for one in tried:
        where[one.file].append(one.where)
    short = {name: name.split("-", 2)[2].removesuffix(".whl") for name in where if name.endswith(".whl")}
    return "; ".join(
        f"{short.get(name, 'sdist')}: {', '.join(places) or 'built, not run'}"
        for name, places in where.items()
    )


if __name__ == "__main__":
    main()
