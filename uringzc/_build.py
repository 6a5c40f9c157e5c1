"""cffi: builds ``uringzc._uring`` from the C sources in ``_native``, against the system's liburing.

The cdef is ``_native/uringzc.h`` itself, so that Python and C have the same declarations.
Called by setup.py through ``cffi_modules``; imports nothing of the package. URINGZC_STATIC=1 links
liburing into the module, for a wheel that runs where liburing is not installed.
"""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import cffi

LIBURING = "2.3"
NATIVE = "uringzc/_native"  # setuptools wants paths relative to setup.py


class Packages(NamedTuple):
    """What a distribution calls that which a build needs; "" is what it does not have."""

    names: str
    install: str  # the command
    compiler: str  # with the headers of the C library, and those of the kernel
    headers: str  # Python.h
    pkg_config: str
    liburing: str
    archive: str  # liburing.a


#: by ID in /etc/os-release
DISTRIBUTIONS = {
    "debian": Packages(
        "Debian 12, Ubuntu 24.04 and later",
        "apt-get install",
        compiler="gcc libc6-dev",
        headers="python3-dev",
        pkg_config="pkg-config liburing-dev",
        liburing="liburing-dev",
        archive="liburing-dev",
    ),
    "fedora": Packages(
        "Fedora",
        "dnf install",
        compiler="gcc",
        headers="python3-devel",
        pkg_config="pkgconf-pkg-config liburing-devel",
        liburing="liburing-devel",
        archive="",
    ),
    "alpine": Packages(
        "Alpine",
        "apk add",
        compiler="gcc musl-dev linux-headers",
        headers="python3-dev",
        pkg_config="pkgconf liburing-dev",
        liburing="liburing-dev",
        archive="liburing-dev",
    ),
    "arch": Packages(
        "Arch",
        "pacman -S",
        compiler="gcc",
        headers="python",
        pkg_config="pkgconf liburing",
        liburing="liburing",
        archive="",
    ),
}


def ffibuilder() -> cffi.FFI:
    """The module, as cffi wants it; SystemExit with one sentence where something is missing."""
    require()
    libraries = _pkg_config("--libs").split()
    if os.environ.get("URINGZC_STATIC"):
        libraries = [str(_archive()) if flag == "-luring" else flag for flag in libraries]
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
    missing = {}  # field of Packages: what it is
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if not shutil.which(compiler):
        missing["compiler"] = f"a C compiler ({compiler})"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        missing["headers"] = f"Python.h of Python {sys.version_info[0]}.{sys.version_info[1]}"
    if not shutil.which("pkg-config"):
        missing["pkg_config"] = "pkg-config"
    elif subprocess.run(["pkg-config", "--exists", f"liburing >= {LIBURING}"], check=False).returncode:
        found = _pkg_config("--modversion")
        missing["liburing"] = f"liburing {LIBURING} or newer" + (f" (this is {found})" if found else "")
    elif os.environ.get("URINGZC_STATIC") and not _archive().exists():
        missing["archive"] = "liburing.a (for URINGZC_STATIC)"
    if missing:
        names = " and ".join(missing.values())
        raise SystemExit(f"uringzc cannot be built without {names}; {_how_to_install(missing)}")


def _how_to_install(missing: Iterable[str]) -> str:
    """The command of the distribution that this is; where it is none of ours, that of each."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    ids = [release.get("ID", ""), *release.get("ID_LIKE", "").split()]
    found = next((DISTRIBUTIONS[name] for name in ids if name in DISTRIBUTIONS), None)
    commands = []
    for one in [found] if found else DISTRIBUTIONS.values():
        needed: list[str] = [getattr(one, field) for field in missing]
        how = f"{one.install} {' '.join(needed)}" if all(needed) else "no package has it"
        commands.append(f"on {one.names}: {how}")
    return "; ".join(commands)


def _archive() -> Path:
    """Where liburing.a is, if it is installed."""
    return Path(_pkg_config("--variable=libdir"), "liburing.a")


def _pkg_config(option: str) -> str:
    """What pkg-config says of liburing; "" where there is none."""
    return subprocess.run(
        ["pkg-config", option, "liburing"], check=False, capture_output=True, text=True
    ).stdout.strip()
