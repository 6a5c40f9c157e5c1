"""cffi: builds ``uringzc._uring`` from the C sources in ``_native`` against the system liburing.

The cdef is ``_native/uringzc.h`` itself, so that Python and C can not disagree about the boundary.
Run by setup.py through ``cffi_modules``; imports nothing of the package.
"""

import os
import shutil
import subprocess
from pathlib import Path

import cffi

NEEDS = "liburing >= 2.3"
CFLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", *os.environ.get("URINGZC_CFLAGS", "").split()]
NATIVE = "uringzc/_native"  # setuptools wants paths relative to setup.py


def require_liburing() -> None:
    """Ends the build with one sentence where a tool or the library is missing."""
    how = "on Debian and Ubuntu: apt-get install gcc pkg-config liburing-dev"
    compiler = os.environ.get("CC", "cc").split()[0]
    missing = [tool for tool in (compiler, "pkg-config") if not shutil.which(tool)]
    if missing:
        raise SystemExit(f"uringzc needs {' and '.join(missing)} to build; {how}")
    if subprocess.run(["pkg-config", "--exists", NEEDS], check=False).returncode:
        raise SystemExit(f"uringzc needs {NEEDS} with its headers to build; {how}")


def _pkg_config(option: str) -> list[str]:
    return subprocess.run(
        ["pkg-config", option, "liburing"], check=True, capture_output=True, text=True
    ).stdout.split()


def _libraries() -> dict[str, list[str]]:
    if os.environ.get("URINGZC_STATIC"):  # a wheel that needs nothing of the machine it is installed on
        directory = _pkg_config("--variable=libdir")[0]
        return {"extra_objects": [str(Path(directory) / "liburing.a")]}
    return {"extra_link_args": _pkg_config("--libs")}


ffibuilder = cffi.FFI()
ffibuilder.cdef((Path(__file__).parent / "_native" / "uringzc.h").read_text())
if shutil.which("pkg-config") and not subprocess.run(["pkg-config", "--exists", NEEDS], check=False).returncode:
    ffibuilder.set_source(
        "uringzc._uring",
        '#include "internal.h"',
        sources=[f"{NATIVE}/{name}.c" for name in ("guard", "slots", "requests", "ring", "probe")],
        include_dirs=[NATIVE],
        extra_compile_args=[*CFLAGS, *_pkg_config("--cflags")],
        **_libraries(),
    )
