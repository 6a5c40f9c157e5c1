"""What is booted: a root file system with Debian 12's Python, and the modules of each kernel.

Both are cpio archives. Linux unpacks several archives one after the other, so the first is made once.
"""

import lzma
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from proofs.kernels import selection
from proofs.kernels.packages import Archive, NotFoundError

ROOT = Path(__file__).parents[2]
GUEST = Path(__file__).parent / "guest"
FOLDER = ROOT / "build" / "kernels"
PACKAGES = ("python3", "busybox-static", "iproute2")
#: what the tests need, and what the tests' conftest.py imports
PYTHON_PACKAGES = ("hypothesis", "pytest-timeout", "uvloop")
SUITES = ("bullseye", "bookworm", "trixie", "trixie-backports", "sid")
SECURITY = ("bullseye-security", "bookworm-security", "trixie-security")
#: devices and queues of the tests; Debian's kernels have all else built in
MODULES = ("veth", "ifb", "dummy", "bridge", "macvlan", "8021q", "tun", "sch_tbf", "sch_netem")
#: of the checkout; some only because tests/docs/pages.py looks at them
INSIDE = (
    "tests",
    "docs",
    "proofs",
    "Makefile",
    "pyproject.toml",
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
)
_PACKAGES_OF_KERNEL = r"linux-(?:image|binary|modules)-[\w.+-]+"


class Kernel(NamedTuple):
    """Of a Debian package, ready to boot."""

    name: str  #: "5.10", or "newest"
    package: str  #: its version, 5.10.262-1
    image: Path
    modules: Path  #: a cpio archive


def find_kernel(name: str) -> Kernel:
    """The newest of that series, or of all. NotFoundError says why there is none."""
    archive = Archive(FOLDER / "kernels", *SUITES, *SECURITY)
    found = [
        version
        for version in archive.versions("linux-image-amd64")
        if "~rc" not in version and (name == "newest" or version.startswith(f"{name}."))
    ]
    if not found:
        raise NotFoundError(f"the mirror has no package of Linux {name}")
    version = found[0]
    folder = FOLDER / version.replace("~", "-")
    kernel = Kernel(name, version, folder / "vmlinuz", folder / "modules.cpio")
    if not kernel.modules.exists():
        packages = archive.with_parts("linux-image-amd64", version, _PACKAGES_OF_KERNEL)
        _take(kernel, archive.download(*packages))
    return kernel


def _take(kernel: Kernel, packages: list[Path]) -> None:
    """The kernel and some modules out of its packages, which unpacked are large."""
    with tempfile.TemporaryDirectory(dir=FOLDER) as name:
        folder = Path(name)
        for package in packages:
            _run("dpkg-deb", "-x", package, folder)
        if not (folder / "lib").exists():  # since Debian 13 all is in /usr
            (folder / "lib").symlink_to("usr/lib")
        (release,) = os.listdir(folder / "lib/modules")
        _run("depmod", "-b", folder, release)
        listed = _run("modprobe", "-D", "-d", folder, "-S", release, "-a", *MODULES)
        files = dict.fromkeys(line.split()[1] for line in listed.splitlines() if line.startswith("insmod"))
        to = folder / "guest" / "modules"
        to.mkdir(parents=True)
        for number, file in enumerate(map(Path, files)):
            data = file.read_bytes()
            if file.suffix == ".xz":
                data = lzma.decompress(data)
            (to / f"{number:02}-{file.name.removesuffix('.xz')}").write_bytes(data)
        kernel.image.parent.mkdir(exist_ok=True)
        images = [*folder.glob("boot/vmlinuz-*"), *folder.glob("usr/lib/modules/*/vmlinuz")]
        shutil.copy(images[0], kernel.image)
        _pack(to.parent, kernel.modules)


def make_root() -> Path:
    """A cpio archive: Python, a wheel of this checkout installed, its tests, and what starts them."""
    archive = Archive(FOLDER / "programs", "bookworm")
    packages = archive.download_all(*PACKAGES)
    packed = FOLDER / "root.cpio"
    with tempfile.TemporaryDirectory(dir=FOLDER) as name:
        root, checkout = Path(name) / "root", Path(name) / "checkout"
        for package in packages:
            _run("dpkg-deb", "-x", package, root)
        for part in ("doc", "man", "locale"):
            shutil.rmtree(root / "usr/share" / part, ignore_errors=True)
        site = root / "usr/lib/python3/dist-packages"
        _copy_checkout(checkout)
        _install(_wheel(checkout, Path(name)), site)
        inside = root / "checkout"
        inside.mkdir()
        for part in INSIDE:
            (checkout / part).rename(inside / part)
        chosen = [test for tests in selection.TESTS.values() for test in tests]
        (inside / "selection.txt").write_text("\n".join([f"-k={selection.KEYWORDS}", *chosen]))
        (inside / "datagrams").write_text(str(selection.DATAGRAMS))
        shutil.copy(GUEST / "init", root)
        shutil.copy(GUEST / "guest_report.py", site)
        compiled = ("/usr/lib/python3.11", "/usr/lib/python3/dist-packages", "/checkout")
        _run("chroot", root, "/usr/bin/python3", "-m", "compileall", "-q", *compiled)  # slow in the emulator
        _pack(root, packed)
    return packed


def _copy_checkout(folder: Path) -> None:
    """Its files, as they are now, without what builds have left."""
    for name in _run("git", "-C", ROOT, "ls-files", "-co", "--exclude-standard", "-z").split("\0"):
        if name and (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def _wheel(checkout: Path, folder: Path) -> Path:
    """As `make wheel` makes it: for CPython 3.10 and later, with liburing inside."""
    limited = "--config-settings=--build-option=--py-limited-api=cp310"
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", limited)
    _run(*pip, "--wheel-dir", folder, checkout, env={**os.environ, "URINGZC_STATIC": "1"})
    (wheel,) = folder.glob("*.whl")
    return wheel


def _install(wheel: Path, site: Path) -> None:
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--target", site, "--only-binary=:all:")
    for_python = ["--python-version=3.11", "--implementation=cp", "--abi=cp311", "--abi=abi3", "--abi=none"]
    platforms = ("manylinux2014_x86_64", "manylinux_2_28_x86_64", "linux_x86_64", "any")
    options = [*for_python, *(f"--platform={platform}" for platform in platforms)]
    _run(*pip, *options, f"uringzc[cli,testing] @ {wheel.as_uri()}", *PYTHON_PACKAGES)


def _pack(folder: Path, to: Path) -> None:
    files = "\n".join(str(path.relative_to(folder)) for path in sorted(folder.rglob("*")))
    unfinished = to.with_suffix(".part")
    options = ("--create", "--format=newc", "--owner=0:0", "--quiet", f"--file={unfinished}")
    _run("cpio", *options, cwd=folder, input=files)
    unfinished.rename(to)


def _run(*command: str | Path, **options: object) -> str:
    """Its output; NotFoundError with what it complains of."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise NotFoundError(f"{command[0]} {command[1]}: {done.stderr.strip()[-2000:]}")
    return str(done.stdout)
