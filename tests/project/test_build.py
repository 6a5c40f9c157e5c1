"""The error when the package cannot be built, and facts that are written in several files."""

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import textwrap
from collections.abc import Callable
from pathlib import Path

import cffi
import pytest
from processes import run_program

import uringzc
from uringzc import _build

pytestmark = pytest.mark.engines()
ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "uringzc" / "_native"

Build = Callable[..., str]


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Asks for what a build needs on a machine that has certain tools; returns the sentence, or nothing."""

    def tool(name: str, script: str) -> None:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    monkeypatch.delenv("URINGZC_STATIC", raising=False)
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"ID": "debian"})

    def attempt(
        compiler: bool = True, liburing: str | None = "2.3", pkg_config: bool = True, headers: bool = True
    ) -> str:
        if headers:
            (tmp_path / "Python.h").touch()
        if compiler:
            tool("gcc", "true")
        if pkg_config:
            new_enough = liburing is not None and tuple(map(int, liburing.split("."))) >= (2, 3)
            answers = {
                "--exists": f"exit {int(not new_enough)}",
                "--modversion": f"echo {liburing}" if liburing else "exit 1",
                "--variable=libdir": f"echo {tmp_path}",
            }
            cases = "".join(f"{option}) {answer};;" for option, answer in answers.items())
            tool("pkg-config", f'case "$1" in {cases} esac')
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setenv("CC", "gcc")
        monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
        try:
            _build.require()
        except SystemExit as refused:
            return str(refused)
        return ""

    return attempt


def test_a_machine_with_everything_builds(build: Build) -> None:
    assert build() == ""


def test_a_newer_liburing_is_enough(build: Build) -> None:
    assert build(liburing="2.15") == ""


def test_a_missing_compiler_is_named(build: Build) -> None:
    said = build(compiler=False)
    assert said.startswith("uringzc cannot be built without a C compiler (gcc); ")
    assert said.endswith("apt-get install gcc libc6-dev")


def test_a_missing_pkg_config_is_named(build: Build) -> None:
    said = build(pkg_config=False)
    assert "without pkg-config; " in said
    assert said.endswith("apt-get install pkg-config liburing-dev")


def test_a_missing_liburing_is_named(build: Build) -> None:
    said = build(liburing=None)
    assert "without liburing 2.3 or newer; " in said
    assert said.endswith("apt-get install liburing-dev")


def test_an_older_liburing_is_named(build: Build) -> None:
    assert "without liburing 2.3 or newer (this is 2.1); " in build(liburing="2.1")


def test_missing_python_headers_are_named(build: Build) -> None:
    said = build(headers=False)
    assert f"without Python.h of Python {sys.version_info[0]}.{sys.version_info[1]}; " in said
    assert said.endswith("apt-get install python3-dev")


def test_all_that_is_missing_is_named_in_one_sentence(build: Build) -> None:
    said = build(compiler=False, pkg_config=False)
    assert "without a C compiler (gcc) and pkg-config; " in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("release", "command"),
    [
        ({"ID": "debian"}, "apt-get install gcc libc6-dev liburing-dev"),
        ({"ID": "ubuntu", "ID_LIKE": "debian"}, "apt-get install gcc libc6-dev liburing-dev"),
        ({"ID": "fedora"}, "dnf install gcc liburing-devel"),
        ({"ID": "rocky", "ID_LIKE": "rhel centos fedora"}, "dnf install gcc liburing-devel"),
        ({"ID": "alpine"}, "apk add gcc musl-dev linux-headers liburing-dev"),
        ({"ID": "arch"}, "pacman -S gcc liburing"),
    ],
)
def test_packages_are_those_of_the_distribution(
    build: Build, monkeypatch: pytest.MonkeyPatch, release: dict[str, str], command: str
) -> None:
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: release)
    said = build(compiler=False, liburing=None)
    assert said.endswith(f": {command}")
    assert said.count(" install ") + said.count("apk add") + said.count("pacman") == 1


@pytest.mark.parametrize("release", [{"ID": "plan9"}, None])
def test_another_distribution_is_shown_the_packages_of_each(
    build: Build, monkeypatch: pytest.MonkeyPatch, release: dict[str, str] | None
) -> None:
    def answer() -> dict[str, str]:
        if release is None:
            raise OSError("there is no os-release")
        return release

    monkeypatch.setattr(platform, "freedesktop_os_release", answer)
    said = build(liburing=None)
    for name in ("apt-get install liburing-dev; ", "dnf install liburing-devel; ", "apk add liburing-dev; "):
        assert name in said
    assert said.endswith("on Arch: pacman -S liburing")


def test_a_static_build_needs_the_static_library(
    build: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("URINGZC_STATIC", "1")
    assert "without liburing.a" in build()
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"ID": "fedora"})
    assert build().endswith("on Fedora: no package has it")
    (tmp_path / "liburing.a").touch()
    assert build() == ""


def run_python(*arguments: str, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_setup_prints_one_sentence_and_nothing_else(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": str(tmp_path), "CC": "gcc"}
    environment.pop("PYTHONPATH", None)
    tried = run_python("setup.py", "--version", env=environment)
    assert (tried.returncode, tried.stdout) == (1, "")
    assert re.fullmatch(r"uringzc cannot be built without [^\n]+; on [A-Z][^\n]+: [^\n]+\n", tried.stderr)


@pytest.mark.skipif(not shutil.which("pkg-config"), reason="there is no pkg-config")
@pytest.mark.parametrize(
    ("system", "command"),
    [
        ("debian", "apt-get install liburing-dev"),
        ("fedora", "dnf install liburing-devel"),
        ("alpine", "apk add liburing-dev"),
        ("arch", "pacman -S liburing"),
    ],
)
def test_a_real_build_without_liburing_names_its_package(tmp_path: Path, system: str, command: str) -> None:
    """pkg-config looks in an empty folder, and the system says that it is that one."""
    program = f"""
        import platform, runpy, sys
        platform.freedesktop_os_release = lambda: {{"ID": {system!r}}}
        sys.argv = ["setup.py", "build", "--build-base", {str(tmp_path)!r}]
        runpy.run_path("setup.py", run_name="__main__")
    """
    environment = {**os.environ, "PKG_CONFIG_LIBDIR": str(tmp_path), "PKG_CONFIG_PATH": ""}
    tried = run_python("-c", textwrap.dedent(program), env=environment)
    assert tried.returncode == 1
    sentence = rf"uringzc cannot be built without liburing 2\.3 or newer; on [^\n]+: {command}\n"
    assert re.fullmatch(sentence, tried.stderr), tried.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(platform.machine() != "x86_64" or not shutil.which("gcc"), reason="needs gcc on x86_64")
@pytest.mark.parametrize("bits", [32, 64])
def test_a_32_bit_machine_is_refused(tmp_path: Path, bits: int) -> None:
    (tmp_path / "gnu").mkdir()
    (tmp_path / "gnu" / "stubs-32.h").touch()  # which only the C library for such machines has
    command = [
        *("gcc", f"-m{bits}", "-std=gnu11", "-fsyntax-only", f"-I{tmp_path}", f"-I{NATIVE}"),
        *(f"-I/usr/include/{sysconfig.get_config_var('MULTIARCH')}", "-include", "native.h"),
        *("-x", "c", os.devnull),
    ]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No such file" in tried.stderr:
        pytest.skip(f"the C library has no headers for {bits} bits")
    if bits == 64:
        assert (tried.returncode, tried.stderr) == (0, "")
    else:
        assert tried.returncode
        assert tried.stderr.count("error:") == 1
        assert "uringzc is for 64-bit machines" in tried.stderr


# -- what files must agree about


def test_the_header_is_a_cdef() -> None:
    ffi = cffi.FFI()
    ffi.cdef((NATIVE / "uringzc.h").read_text())
    assert ffi.sizeof("uzc_completion") == 16


def test_names_of_liburing_are_only_defined_where_it_lacks_them() -> None:
    for file in NATIVE.rglob("*.[ch]"):
        code = file.read_text()
        for name in re.findall(r"#define ((?:IO|UDP_|SO_|MSG_)\w+)", code):
            assert f"#ifndef {name}\n#define {name} " in code, f"{file.name} defines {name}"
        assert not re.search(r"^(?:static )?\w[\w ]*[ *]io_uring_\w+\([^;]*\{", code, re.MULTILINE), file.name


def test_make_installs_the_liburing_that_the_build_asks_for() -> None:
    script = (ROOT / "scripts" / "system-packages").read_text()
    assert f"'liburing >= {_build.LIBURING}'" in script


def test_there_is_one_version() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    assert f'\nversion = "{uringzc.__version__}"\n' in project
    assert f"## [{uringzc.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


# -- what the modules are built for


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="needs a free-threaded CPython")
def test_importing_does_not_switch_the_gil_on() -> None:
    """Neither module does; importing one that needs the GIL switches it on, with a warning."""
    program = "import sys, uringzc.senders.tcp, uringzc.cli; print(sys._is_gil_enabled())"
    assert run_program(program) == ("False\n", "")


def test_a_second_interpreter_is_refused() -> None:
    """Types are static in C, and the timer serves the process: there, another would share them."""
    program = """
    import importlib, uringzc
    for name in ("_interpreters", "_xxsubinterpreters"):
        try:
            interpreters = importlib.import_module(name)
            break
        except ImportError:
            pass
    refused = "try: import uringzc" + chr(10) + "except ImportError: print('refused', flush=True)"
    interpreters.run_string(interpreters.create(), refused)
    print(uringzc.Scheduler)
    """
    out, _ = run_program(program)
    assert out.splitlines() == ["refused", "<class 'uringzc.scheduler.Scheduler'>"]


def test_the_sdist_has_every_file(tmp_path: Path) -> None:
    """Of the repository, but for .gitignore; it is built in a copy, where nothing else lies around."""
    pytest.importorskip("setuptools")
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("this is no checkout, or there is no git")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = set(listed.stdout.splitlines()) - {".gitignore"}
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name)
    program = "from setuptools import build_meta; build_meta.build_sdist('dist')"
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, check=True)
    with tarfile.open(next((tmp_path / "dist").glob("*.tar.gz"))) as sdist:
        inside = {name.partition("/")[2] for name in sdist.getnames()}
    assert files - inside == set()
