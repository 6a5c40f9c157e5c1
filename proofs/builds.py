"""Other builds of this checkout: copies in build/NAME, with both modules compiled in place, with other flags.

A copy has a virtual environment of its own, in which `uringzc` is the copy's. Where the interpreter is that
of .venv, everything else is taken from there; for any other `venv()` installs what the tests need. So a build
is used like a checkout::

    folder = builds.build("asan")
    subprocess.run([folder / ".venv/bin/python", "-m", "pytest"], cwd=folder, env=builds.environment("asan"))

Only what has changed is copied, and the modules are compiled again only when a C file, a flag or the
interpreter is another one.
"""

import contextlib
import fcntl
import filecmp
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import packaging.tags
from packaging.requirements import Requirement

from proofs.page import ROOT

BUILD = ROOT / "build"
_SHOW = "import sysconfig; print(sysconfig.{})"
#: what the compiled modules are made of
SOURCES = ("uringzc/_native/", "uringzc/_build.py", "setup.py")


class Kind(NamedTuple):
    """How the modules of a build are compiled, and what a process that loads them needs."""

    flags: tuple[str, ...]
    preload: tuple[str, ...] = ()  # libraries of gcc
    variables: tuple[tuple[str, str], ...] = ()  # {log}: where reports are to be written


_COMMON = "log_path={log}"
_SUPPRESSED = ROOT / "proofs" / "tsan.supp"
_SEEN = ("-g", "-fno-omit-frame-pointer", "-U_FORTIFY_SOURCE")  # checks of libc would be the first to see it
KINDS = {
    "asan": Kind(
        # of two shared runtimes, one would take the other's log_path
        (
            "-fsanitize=address,undefined",
            "-fno-sanitize-recover=undefined",
            "-static-libubsan",
            "-Wl,--exclude-libs,libubsan.a",
            "-O1",
            *_SEEN,
        ),
        ("libasan.so", "libstdc++.so.6"),
        (
            (
                "ASAN_OPTIONS",
                # reports count, not exit codes: at exit LeakSanitizer may fail, without /proc or threads
                f"{_COMMON}:abort_on_error=0:detect_stack_use_after_return=1:"
                "strict_string_checks=1:allocator_may_return_null=1",
            ),
            ("LSAN_OPTIONS", "exitcode=0"),  # the interpreter leaves some memory of its own
            ("UBSAN_OPTIONS", f"{_COMMON}:abort_on_error=1:print_stacktrace=1"),
            ("PYTHONMALLOC", "malloc"),  # else memory that Python frees stays addressable
        ),
    ),
    # CPython without the GIL has no other allocator
    "tsan": Kind(
        ("-fsanitize=thread", "-O1", *_SEEN),
        ("libtsan.so",),
        (("TSAN_OPTIONS", f"{_COMMON}:die_after_fork=0:history_size=4:suppressions={_SUPPRESSED}"),),
    ),
}


def kind(name: str) -> Kind:
    """asan's for "asan", and for other builds with its flags: "asan-fuzz"."""
    return KINDS.get(name.split("-")[0], Kind(()))


def build(name: str, flags: Iterable[str] | None = None, python: str | Path | None = None) -> Path:
    """The folder of a build, up to date. The defaults: flags of kind(name), the Python that runs."""
    flags = kind(name).flags if flags is None else tuple(flags)
    folder = BUILD / name
    with _locked(folder):
        files = _copy(folder)
        interpreter = _venv(folder, python)
        reports(name).mkdir(exist_ok=True)
        reports(name).chmod(0o1777)  # some tests start programs as another user
        _compile(folder, interpreter, flags, files)
    return folder


def copy(name: str) -> Path:
    """The folder of a build in which nothing is compiled: the files of this checkout as they are now."""
    with _locked(BUILD / name):
        _copy(BUILD / name)
    return BUILD / name


def venv(name: str, python: str | Path | None = None) -> Path:
    """The interpreter of build/NAME/.venv, made if it is not there, in which tests of the copy can run."""
    with _locked(BUILD / name):
        return _venv(BUILD / name, python)


def reports(name: str) -> Path:
    """The folder in which sanitizers write a file for each process that has something to report."""
    return BUILD / name / "reports"


def environment(name: str) -> dict[str, str]:
    """The environment for programs that load the modules of this build."""
    needed = kind(name)
    made = dict(os.environ)
    for unwanted in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
        made.pop(unwanted, None)
    if needed.preload:
        made["LD_PRELOAD"] = ":".join(_library(library) for library in needed.preload)
    log = reports(name) / "report"
    return made | {variable: value.format(log=log) for variable, value in needed.variables}


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _files() -> list[str]:
    """What this checkout has: tracked, or new and not ignored."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return sorted({file for file in listed.split("\0") if file and (ROOT / file).is_file()})


def _copy(folder: Path) -> list[str]:
    """The files that are now there. What is the same keeps its time; what is gone here goes there."""
    files = _files()
    listing = folder / ".files"
    for old in set(json.loads(listing.read_text()) if listing.exists() else []) - set(files):
        (folder / old).unlink(missing_ok=True)
    for file in files:
        source, target = ROOT / file, folder / file
        if not target.exists() or not filecmp.cmp(source, target):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    listing.write_text(json.dumps(files))
    return files


def _venv(folder: Path, python: str | Path | None) -> Path:
    made, base = folder / ".venv", os.path.realpath(sys.executable)
    wanted = os.path.realpath(shutil.which(python) or python) if python else base
    packages = _requirements(wanted)
    stamp, contents = made / ".made-by", f"{wanted}\n{packages}\n"
    interpreter = made / "bin" / "python"
    if stamp.exists() and stamp.read_text() == contents:
        return interpreter
    shutil.rmtree(made, ignore_errors=True)
    paths = [str(folder)]
    subprocess.run([wanted, "-m", "venv", "--without-pip", str(made)], check=True)
    if wanted == base:  # without its .pth files: the package is in one
        paths += sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    else:
        subprocess.run([*_pip(interpreter), "--quiet", *packages], check=True)
    site = _ask(interpreter, _SHOW.format("get_path('purelib')"))
    Path(site, "build.pth").write_text("\n".join(paths) + "\n")
    stamp.write_text(contents)
    return interpreter


def _pip(interpreter: Path) -> list[str]:
    """A command that installs what is named behind it into the environment of an interpreter.

    pip runs in that interpreter. One that is instrumented would take half an hour: the pip that runs here
    picks its wheels.
    """
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    if "--with-thread-sanitizer" not in _ask(interpreter, _SHOW.format("get_config_var('CONFIG_ARGS')")):
        return [*pip, "--python", str(interpreter), "install"]
    tag = _ask(interpreter, _SHOW.format("get_config_var('SOABI')")).split("-")[1]  # 314t
    platforms = [f"--platform={one}" for one in packaging.tags.platform_tags()]
    wheels = [f"--python-version={tag.rstrip('t')}", f"--abi=cp{tag}", "--abi=none", "--only-binary=:all:"]
    target = _ask(interpreter, _SHOW.format("get_path('purelib')"))
    return [*pip, "install", f"--target={target}", "--implementation=cp", *wheels, *platforms]


def _requirements(python: str | Path) -> list[str]:
    """What the package and its extras need, but for the package."""
    gil = _ask(python, _SHOW.format("get_config_var('Py_GIL_DISABLED')")) != "1"
    needed = [Requirement(line) for line in importlib.metadata.requires("uringzc") or []]
    return sorted(
        {
            f"{one.name}{one.specifier}"
            for one in needed
            if one.name != "uringzc" and (gil or one.name != "aioquic")
        }
    )


def _compile(folder: Path, interpreter: Path, flags: tuple[str, ...], files: list[str]) -> None:
    digest = hashlib.sha256(repr((flags, os.path.realpath(interpreter))).encode())
    for file in files:
        if file.startswith(SOURCES):
            digest.update(file.encode() + (folder / file).read_bytes())
    stamp = folder / ".compiled"
    if stamp.exists() and stamp.read_text() == digest.hexdigest():
        return
    stamp.unlink(missing_ok=True)
    for module in (folder / "uringzc").glob("*.so"):
        module.unlink()
    compiler = folder / "build" / "cc"  # setup.py has flags of its own; the last one counts
    compiler.parent.mkdir(exist_ok=True)
    compiler.write_text(f'#!/bin/sh\nexec gcc "$@" {" ".join(flags)}\n')
    compiler.chmod(0o755)
    command = [str(interpreter), "setup.py", "--quiet", "build_ext", "--inplace", "--force", "--parallel=2"]
    subprocess.run(command, cwd=folder, env=os.environ | {"CC": str(compiler)}, check=True)
    where = _ask(interpreter, "import uringzc; print(uringzc.__file__)", environment(folder.name))
    assert where == str(folder / "uringzc" / "__init__.py"), where
    stamp.write_text(digest.hexdigest())


def _ask(python: str | Path, program: str, variables: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [python, "-c", program], env=variables, check=True, capture_output=True, text=True, cwd="/"
    )
    return done.stdout.strip()


def _library(name: str) -> str:
    return subprocess.run(
        ["gcc", f"-print-file-name={name}"], check=True, capture_output=True, text=True
    ).stdout.strip()
