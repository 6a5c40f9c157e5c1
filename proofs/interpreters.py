"""The CPythons of this machine: of pyenv, of PATH, or the one that runs this."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

#: whose versions are looked for
WITH_GIL = tuple(f"3.{minor}" for minor in range(10, 16))
FREE_THREADED = ("3.14t", "3.15t")
_ASK = """
import json, sys, sysconfig
free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
print(json.dumps([list(sys.version_info[:3]), free_threaded, sysconfig.get_path("stdlib")]))
"""


class PreparationError(Exception):
    """What an interpreter, or a proof, lacks: the message says it."""


@dataclass(frozen=True)
class Interpreter:
    """A CPython, not of a virtual environment."""

    path: str
    version: tuple[int, int, int]
    free_threaded: bool
    stdlib: Path

    @property
    def name(self) -> str:
        """As `3.13.0`, or `3.14.0t` without the GIL."""
        return ".".join(map(str, self.version)) + "t" * self.free_threaded

    @classmethod
    def at(cls, path: str) -> Interpreter:
        """The interpreter that `path` starts."""
        try:
            asked = subprocess.run([path, "-c", _ASK], capture_output=True, text=True)
        except OSError as error:
            raise PreparationError(f"{path} does not run: {error.strerror}") from error
        if asked.returncode:
            raise PreparationError(f"{path} does not run: {last_line(asked.stderr)}")
        version, free_threaded, stdlib = json.loads(asked.stdout)
        return cls(path, tuple(version), free_threaded, Path(stdlib))


def this_interpreter() -> Interpreter:
    """The one that runs this program."""
    return Interpreter.at(sys._base_executable)  # type: ignore[attr-defined]


def all_interpreters(versions: Iterable[str] = WITH_GIL) -> list[Interpreter]:
    """One of each of these versions that is found: the one that runs this program, of pyenv, or of PATH."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    here = this_interpreter()
    found = []
    for version in versions:
        name = f"python{version}"
        paths = sorted(pyenv.glob(f"{version.rstrip('t')}.*/bin/{name}"))
        path = str(paths[-1]) if paths else shutil.which(name)
        if "{}.{}".format(*here.version) + "t" * here.free_threaded == version:
            found.append(here)
        elif path:
            found.append(Interpreter.at(path))
    return found


def last_line(text: str) -> str:
    """Of what a command has printed: mostly the reason."""
    return (text.strip() or "ended without a message").splitlines()[-1]
