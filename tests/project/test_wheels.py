"""make wheels: what is built for whom, with which compiler, and what is said about it."""

import contextlib
import json
import platform
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from proofs.distributions.inside import programs
from proofs.interpreters import Interpreter, PreparationError, this_interpreter
from proofs.page import ROOT
from proofs.wheels import toolchain
from proofs.wheels.__main__ import describe, parse_roots
from proofs.wheels.attempt import Tried
from proofs.wheels.build import check_tag
from proofs.wheels.targets import TARGETS, fits

pytestmark = pytest.mark.engines()


@pytest.mark.parametrize(
    ("name", "tag", "triple"),
    [
        ("manylinux-x86_64", "manylinux_2_17_x86_64", "x86_64-linux-gnu.2.17"),
        ("manylinux-aarch64", "manylinux_2_17_aarch64", "aarch64-linux-gnu.2.17"),
        ("musllinux-x86_64", "musllinux_1_2_x86_64", "x86_64-linux-musl"),
        ("musllinux-aarch64", "musllinux_1_2_aarch64", "aarch64-linux-musl"),
    ],
)
def test_a_target_has_a_tag_and_a_compiler(name: str, tag: str, triple: str) -> None:
    assert (TARGETS[name].tag, TARGETS[name].triple) == (tag, triple)


@pytest.mark.parametrize(
    ("libc", "machine", "version", "free_threaded", "fitting"),
    [
        ("glibc", "x86_64", (3, 10, 1), False, ["cp310-abi3-manylinux2014_x86_64.manylinux_2_17_x86_64"]),
        ("glibc", "x86_64", (3, 14, 7), False, ["cp310-abi3-manylinux2014_x86_64.manylinux_2_17_x86_64"]),
        ("glibc", "x86_64", (3, 14, 7), True, ["cp314-cp314t-manylinux2014_x86_64.manylinux_2_17_x86_64"]),
        ("glibc", "x86_64", (3, 15, 0), True, []),
        ("glibc", "aarch64", (3, 11, 2), False, ["cp310-abi3-manylinux_2_17_aarch64"]),
        ("", "x86_64", (3, 11, 2), False, ["cp310-abi3-musllinux_1_2_x86_64"]),
        ("glibc", "riscv64", (3, 11, 2), False, []),
    ],
)
def test_a_wheel_is_tried_with_what_can_install_it(
    monkeypatch: pytest.MonkeyPatch,
    libc: str,
    machine: str,
    version: tuple[int, int, int],
    free_threaded: bool,
    fitting: list[str],
) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: (libc, "2.36" if libc else ""))
    monkeypatch.setattr(platform, "machine", lambda: machine)
    interpreter = Interpreter("python", version, free_threaded, Path())
    wheels = [
        "cp310-abi3-manylinux2014_x86_64.manylinux_2_17_x86_64",
        "cp310-abi3-manylinux_2_17_aarch64",
        "cp310-abi3-musllinux_1_2_x86_64",
        "cp314-cp314t-manylinux2014_x86_64.manylinux_2_17_x86_64",
    ]
    assert [one for one in wheels if fits(f"uringzc-1.2.0-{one}.whl", interpreter)] == fitting
    assert fits("uringzc-1.2.0.tar.gz", interpreter)


def test_the_compiler_is_called_for_its_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "python"
    tool.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    tool.chmod(0o755)
    monkeypatch.setattr(toolchain, "TOOLS", tmp_path)
    monkeypatch.setattr(toolchain, "HERE", tmp_path)
    cc = toolchain.compiler(TARGETS["musllinux-aarch64"], "cc", "-Iheaders")
    command = [str(cc), "-O2", "-Wl,--exclude-libs,ALL", "-DTEXT=a b", "-c", "file.c"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[:2] == ["-m", "ziglang"]
    assert said[2:7] == ["cc", "-target", "aarch64-linux-musl", "-dynamic", "-Iheaders"]
    assert said[7:] == ["-O2", "-DTEXT=a b", "-c", "file.c"]


@pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
@pytest.mark.parametrize("size", [8, 4])
def test_headers_of_another_word_size_do_not_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(toolchain, "HERE", tmp_path)
    config = toolchain.headers(this_interpreter()) / "pyconfig.h"
    text = config.read_text()
    assert "\n#define SIZEOF_LONG 8\n" in text
    config.write_text(text.replace("#define SIZEOF_LONG 8\n", f"#define SIZEOF_LONG {size}\n"))
    command = ["gcc", "-fsyntax-only", f"-I{config.parent}", "-include", "pyconfig.h", "-x", "c", "/dev/null"]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    if size == 8:
        assert (tried.returncode, tried.stderr) == (0, "")
    else:
        assert tried.stderr.count("error:") == 1
        assert "another size: long" in tried.stderr


@pytest.mark.parametrize(
    ("tag", "libraries", "holds"),
    [
        ("manylinux_2_17_x86_64", {}, True),
        ("manylinux_2_34_x86_64", {}, False),
        ("linux_x86_64", {"liburing.so.2": None}, False),
        ("manylinux_2_17_x86_64", {"liburing.so.2": "/usr/lib/liburing.so.2"}, False),
    ],
)
def test_a_wheel_that_needs_more_than_its_tag_allows_is_refused(
    tag: str, libraries: dict[str, str | None], holds: bool
) -> None:
    said = json.dumps({"overall_tag": tag, "external_libs": libraries}, indent=4)
    with (
        contextlib.nullcontext() if holds else pytest.raises(PreparationError, match="is not manylinux_2_17")
    ):
        check_tag(f"INFO: setting libc to glibc\n{said}\nWARNING: none\n", TARGETS["manylinux-x86_64"])


def test_a_folder_is_given_to_a_target(tmp_path: Path) -> None:
    assert parse_roots((f"musllinux-x86_64={tmp_path}",)) == {"musllinux-x86_64": tmp_path}
    for wrong in ("musllinux-x86_64", f"alpine={tmp_path}", f"musllinux-x86_64={tmp_path}/none"):
        with pytest.raises(click.BadParameter, match="TARGET=FOLDER"):
            parse_roots((wrong,))


def test_what_was_not_tried_is_said() -> None:
    files = [
        Path("dist/u-1.2-cp310-abi3-a.whl"),
        Path("dist/u-1.2-cp310-abi3-b.whl"),
        Path("dist/u-1.2.tar.gz"),
    ]
    tried = [Tried(file.name, f"CPython {n} by io_uring") for n in (1, 2) for file in files[::2]]
    assert describe(files, tried) == (
        "cp310-abi3-a: CPython 1 by io_uring, CPython 2 by io_uring; cp310-abi3-b: built, not run; "
        "sdist: CPython 1 by io_uring, CPython 2 by io_uring"
    )


def test_the_programs_that_are_tried_are_those_of_readme() -> None:
    found = programs(ROOT / "README.md")
    assert len(found) >= 2
    assert all("uringzc" in program for program in found)


def test_the_page_names_each_wheel() -> None:
    page = (ROOT / "docs" / "releasing.md").read_text()
    for target in TARGETS.values():
        assert f"`cp310-abi3-{target.tag}`" in page
