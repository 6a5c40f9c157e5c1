"""Wheels tried in environments of their own: on this machine, and in a system that lies in a folder.

Such a system is for another machine, which qemu-user emulates, or another C library, or both. Nothing of it
is used but its Python. qemu-user has neither io_uring nor MSG_ZEROCOPY: there, uringzc sends by copies.
"""

import json
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

import click

from proofs.commands import run
from proofs.distributions.__main__ import INSIDE
from proofs.distributions.inside import programs
from proofs.distributions.system import OWN, mirror
from proofs.interpreters import Interpreter, PreparationError
from proofs.page import ROOT
from proofs.wheels.targets import Target, fits, here
from proofs.wheels.toolchain import HERE, RELEASE, TOOLS

README = ROOT / "README.md"
#: Debian's names of machines
DEBIAN = {"x86_64": "amd64", "aarch64": "arm64"}
_PROBE = """
import json, platform, uringzc
assert "liburing" not in open("/proc/self/maps").read()
print(json.dumps([uringzc.probe().engine, platform.machine(), platform.python_version()]))
"""
_ENTER = """
root=$1; shift
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 PYTHONPATH=/site chroot "$root" "$@"
"""


@dataclass(frozen=True)
class Tried:
    """A file that was installed, and README's programs run with it."""

    file: str
    where: str

    def __str__(self) -> str:
        return f"{self.file}: {self.where}"


def natively(file: Path, interpreter: Interpreter) -> Tried:
    """In a virtual environment: doctor, and the programs of README."""
    folder = HERE / "tried"
    shutil.rmtree(folder, ignore_errors=True)
    run(interpreter.path, "-m", "venv", folder)
    run(folder / "bin/pip", "install", "--quiet", "--no-cache-dir", f"{file}[cli]")
    found = json.loads(run(folder / "bin/python", "-I", INSIDE, README).splitlines()[-1])
    if bool(found["liburing"]) != file.name.endswith(".tar.gz"):
        raise PreparationError(f"{file.name}: linked to liburing {found['liburing'] or 'that is inside it'}")
    return Tried(file.name, f"CPython {interpreter.name} by {found['engine']}")


def in_folder(file: Path, target: Target, root: Path) -> Tried:
    """With the Python of a system that lies in a folder: each program in a process of its own."""
    python = next(
        (path for path in ("/usr/bin/python3", "/usr/local/bin/python3") if (root / path[1:]).exists()), ""
    )
    if not python:
        raise PreparationError(f"{root} has no Python: /usr/bin/python3 or /usr/local/bin/python3")
    enter = [*OWN, "sh", "-ec", _ENTER, "sh", str(root), *_emulator(target, root), python]
    asked = run(*enter, "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
    _install(file, target, asked.split()[-1], root / "site")
    engine, machine, version = json.loads(run(*enter, "-W", "error", "-c", _PROBE).splitlines()[-1])
    if machine != target.machine:
        raise PreparationError(f"{root} is for {machine}, not {target.machine}")
    for program in programs(README):
        said = run(*enter, "-W", "error", "-c", program)
    if said.splitlines()[-1] != "b'hello'":
        raise PreparationError(f"{file.name}: README's last program printed {said}")
    how = " in qemu-user" if machine != platform.machine() else ""
    return Tried(file.name, f"CPython {version} of {target.libc}, {machine}{how}, by {engine}")


def _emulator(target: Target, root: Path) -> list[str]:
    """What runs a program of another machine, put into its system."""
    if target.machine == platform.machine():
        return []
    name = f"qemu-{target.machine}-static"
    run("scripts/system-packages", "python3", f"{name}:qemu-user-static")
    shutil.copy(shutil.which(name) or name, root / name)
    return [f"/{name}"]


def _install(file: Path, target: Target, version: str, site: Path) -> None:
    """With what it needs, by the pip of this machine."""
    shutil.rmtree(site, ignore_errors=True)
    tags = list(target.tags)
    if target.libc == "glibc":  # of other packages
        tags += [f"manylinux_2_28_{target.machine}"]
    only = ["--only-binary=:all:", "--implementation=cp", f"--python-version={version}"]
    platforms = [f"--platform={tag}" for tag in tags]
    run(TOOLS / "pip", "install", "--quiet", "--target", site, *only, *platforms, file)


def debian(target: Target) -> Path:
    """Debian with Python, for a machine whose programs cannot install it: unpacked, not configured."""
    root = HERE / f"debian-{target.machine}"
    stamp = root / "unpacked"
    if not stamp.exists():
        shutil.rmtree(root, ignore_errors=True)
        run("scripts/system-packages", "python3", "debootstrap")
        made = ("--foreign", "--variant=minbase", "--include=python3", RELEASE, root, mirror())
        run(*OWN, "debootstrap", f"--arch={DEBIAN[target.machine]}", *made)
        for package in sorted((root / "var/cache/apt/archives").glob("*.deb")):
            run("dpkg-deb", "--extract", package, root)
        stamp.touch()
    return root


def all_of(
    files: list[Path], interpreters: list[Interpreter], targets: list[Target], roots: dict[str, Path]
) -> list[Tried]:
    """Each file with each interpreter that can install it; and abi3 wheels in folders."""
    tried = []
    for interpreter in interpreters:
        for file in files:
            if fits(file.name, interpreter):
                tried.append(natively(file, interpreter))
                click.echo(tried[-1])
    for target in targets:
        root = roots.get(target.name)
        if root is None and target.libc == "glibc" and target != here():
            root = debian(target)
        for file in files:
            if root and "-abi3-" in file.name and target.tag in file.name:
                tried.append(in_folder(file, target, root))
                click.echo(tried[-1])
    return tried
