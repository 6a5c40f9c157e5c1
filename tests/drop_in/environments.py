"""An environment for each interpreter with the packages of the suites, and the tests of their sdists."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
from pathlib import Path

from suites import CPYTHON, Suite

import uringzc
from proofs.interpreters import Interpreter, PreparationError, last_line

BUILD = Path(__file__).parents[2] / "build" / "drop-in"
RUNNER = ("pytest>=9", "pytest-timeout>=2.3", "uvloop==0.23.0", "cffi>=1.17")


class Environment:
    """A virtual environment in build/drop-in, with pytest, uvloop, and the uringzc of this checkout."""

    def __init__(self, interpreter: Interpreter) -> None:
        self.interpreter = interpreter
        self.folder = BUILD / f"python{interpreter.name}"
        self.python = str(self.folder / "bin" / "python")

    def prepare(self) -> None:
        """Make what is missing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not Path(self.python).exists():
            _run(self.interpreter.path, "-m", "venv", str(self.folder))
        self._install("runner", *RUNNER)
        packages = self.folder / "lib" / f"python{'.'.join(map(str, self.interpreter.version[:2]))}"
        if self.interpreter.free_threaded:
            packages = packages.with_name(packages.name + "t")
        link = packages / "site-packages" / "uringzc"
        link.unlink(missing_ok=True)
        link.symlink_to(Path(uringzc.__file__).parent)
        _run(self.python, "-c", "import uringzc.aio")

    def version_of(self, suite: Suite) -> str:
        """The version of a suite that is tested here."""
        return (
            self.interpreter.name
            if suite.name == CPYTHON
            else suite.version_for(self.interpreter.version[:2])
        )

    def tests_of(self, suite: Suite) -> Path:
        """Install the package with what its tests need; the folder in which `suite.tests` are."""
        if suite.name == CPYTHON:
            folder = self.interpreter.stdlib / "test"
            if not (folder / suite.tests[0]).exists():
                raise PreparationError(f"{self.interpreter.path} has come without its package `test`")
            return folder
        version = self.version_of(suite)
        self._install(suite.name, f"{suite.name}{suite.extras}=={version}", *suite.needs)
        folder = self._unpacked(suite.name, version)
        if suite.helpers:
            shutil.copytree(Path(__file__).parent / suite.helpers, folder / "tests", dirs_exist_ok=True)
        return folder

    def _install(self, name: str, *packages: str) -> None:
        stamp = self.folder / f".{name}-{hashlib.sha256(repr(packages).encode()).hexdigest()[:12]}"
        if not stamp.exists():
            self._pip("install", *packages)
            stamp.touch()

    def _unpacked(self, name: str, version: str) -> Path:
        """The tests of an sdist, and its pytest options: without the package, which is installed."""
        folder = BUILD / "sdists" / f"{name}-{version}"
        if not folder.exists():
            self._pip(
                *("download", "--no-deps", "--no-binary", name, "--dest", str(folder.parent)),
                f"{name}=={version}",
            )
            with tarfile.open(folder.parent / f"{name}-{version}.tar.gz") as sdist:
                wanted = [
                    member
                    for member in sdist.getmembers()
                    if member.name.split("/")[1:2] in (["tests"], ["pyproject.toml"])
                ]
                sdist.extractall(folder.with_suffix(".part"), wanted, filter="data")
            next(folder.with_suffix(".part").iterdir()).rename(folder)
        return folder

    def _pip(self, *arguments: str) -> None:
        _run(self.python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)


def _run(*command: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise PreparationError(f"{' '.join(command[1:])}: {last_line(done.stderr)}")
