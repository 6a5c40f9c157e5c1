"""cffi: builds ``uringzc._uring`` from the C sources in ``_native``, against the system's liburing.

The cdef is ``_native/uringzc.h`` itself, so that Python and C have the same declarations.
Called by setup.py through ``cffi_modules``; imports nothing of the package. URINGZC_STATIC=1 links
liburing into the module, for a wheel that runs where liburing is not installed.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import cffi

LIBURING = "2.3"
NATIVE = "uringzc/_native"  # setuptools wants paths relative to setup.py


def ffibuilder() -> cffi.FFI:
    """The module, as cffi wants it; SystemExit with one sentence where something is missing."""
    require()
    libraries = _pkg_config("--libs").split()
    if os.environ.get("URINGZC_STATIC"):
        libraries = [{"-luring": "-l:liburing.a"}.get(flag, flag) for flag in libraries]
        libraries.append("-Wl,--exclude-libs,ALL")  # its names stay inside
    ffi = cffi.FFI()
    ffi.cdef((Path(__file__).parent / "_native" / "uringzc.h").read_text())
    ffi.set_source(
        "uringzc._uring",
        '#include "native.h"',
        sources=sources(),
        depends=[str(header) for header in Path(NATIVE).rglob("*.h")],
        include_dirs=[NATIVE],
        extra_compile_args=["-std=gnu11", "-O2", "-fvisibility=hidden", *_pkg_config("--cflags").split()],
        extra_link_args=libraries,
    )
    return ffi


def sources() -> list[str]:
    """The C files that this module is made of: those without Python.h."""
    return sorted(str(file) for layer in ("slots", "engines") for file in Path(NATIVE, layer).rglob("*.c"))


def require() -> None:
    """Ends the build with one sentence: all that is missing, and the command that installs it."""
    missing = {}  # what, and the packages that have it
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if not shutil.which(compiler):
        missing[f"a C compiler ({compiler})"] = "gcc libc6-dev"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        missing[f"Python.h of Python {sys.version_info[0]}.{sys.version_info[1]}"] = "python3-dev"
    if not shutil.which("pkg-config"):
        missing["pkg-config"] = "pkg-config liburing-dev"
    elif subprocess.run(["pkg-config", "--exists", f"liburing >= {LIBURING}"], check=False).returncode:
        found = _pkg_config("--modversion")
        missing[f"liburing {LIBURING} or newer" + (f" (this is {found})" if found else "")] = "liburing-dev"
    elif (
        os.environ.get("URINGZC_STATIC") and not Path(_pkg_config("--variable=libdir"), "liburing.a").exists()
    ):
        missing["liburing.a (for URINGZC_STATIC)"] = "liburing-dev"
    if missing:
        raise SystemExit(
            f"uringzc cannot be built without {' and '.join(missing)}; "
            f"on Debian 12, Ubuntu 24.04 and later: apt-get install {' '.join(missing.values())}"
        )


def _pkg_config(option: str) -> str:
    """What pkg-config says of liburing; "" where there is none."""
    return subprocess.run(
        ["pkg-config", option, "liburing"], check=False, capture_output=True, text=True
    ).stdout.strip()
