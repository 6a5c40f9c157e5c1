"""The commands' output on terminals and in pipes; one line where printing fails or a package is missing."""

import contextlib
import errno
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from dataclasses import replace
from pathlib import Path

import click
import pytest
from rich.console import Console

import uringzc
from uringzc import testing
from uringzc.cli import Commands, doctor, output

pytestmark = [pytest.mark.engines(), testing.requires("send_zc")]

COMMAND = [sys.executable, "-m", "uringzc"]
#: each of them, short
COMMANDS = {
    "help": ["--help"],
    "version": ["--version"],
    "doctor": ["doctor"],
    "doctor json": ["doctor", "--json"],
    "doctor help": ["doctor", "--help"],
    "demo": ["demo", __file__, "--no-sink"],
    "demo json": ["demo", __file__, "--no-sink", "--json"],
}


def environment(**more: str) -> dict[str, str]:
    """Nothing that says how wide a terminal is, or that there is one."""
    known = {"COLUMNS", "LINES", "FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR", "PYTHONUNBUFFERED"}
    return {name: value for name, value in os.environ.items() if name not in known} | more


def in_pipe(*arguments: str, **more: str) -> list[str]:
    """The lines that it prints."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        env=environment(**more),
        check=True,
        timeout=60,
    )
    return done.stdout.splitlines()


def on_terminal(columns: int, *arguments: str) -> list[str]:
    """The lines that it prints on one of that width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdout=theirs, env=environment(TERM="xterm", NO_COLOR="1")
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the other side is closed
        while block := os.read(ours, 4096):
            shown += block
    os.close(ours)
    assert process.wait() == 0
    return re.sub(r"\x1b\[[\d;]*m", "", shown.decode()).replace("\r", "").splitlines()


def words(lines: list[str]) -> list[str]:
    return " ".join(lines).split()


@pytest.mark.slow
@pytest.mark.parametrize("columns", ["", "80"])
def test_in_a_pipe_each_row_is_a_line(columns: str) -> None:
    lines = in_pipe("doctor", "127.0.0.1", **({"COLUMNS": columns} if columns else {}))
    (row,) = (line for line in lines if line.startswith("zero-copy"))
    assert row.endswith("and it copies from then on")
    (row,) = (line for line in lines if line.startswith("MTU"))
    assert row.endswith("bytes in a datagram that is not fragmented")
    said = lines[lines.index("A UdpSender says") + 1]
    assert said.startswith("io_uring, trains of")
    assert said.endswith(" KiB.")
    assert [line for line in lines if line != line.rstrip() or line.startswith("   ")] == []


@pytest.mark.slow
def test_on_a_narrow_terminal_nothing_is_cut() -> None:
    narrow, wide = on_terminal(40, "doctor", "127.0.0.1"), in_pipe("doctor", "127.0.0.1")
    assert "…" not in "".join(narrow)
    assert words(narrow) == words(wide)
    assert max(map(len, narrow)) <= 40
    assert max(map(len, wide)) > 40  # the control


def test_a_wide_terminal_keeps_notes_beside_their_rows() -> None:
    lines = on_terminal(80, "doctor", "127.0.0.1")
    at = next(number for number, line in enumerate(lines) if line.startswith("zero-copy"))
    column = lines[at].index("127.0.0.1")
    assert lines[at + 1].startswith(" " * column + lines[at + 1].strip()[:5])
    assert max(map(len, lines)) <= 80


# -- as it is given


def test_text_from_elsewhere_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    odd = "[red]odd[/] [testing] :heart: \\[x]"
    found = uringzc.probe("127.0.0.1")
    assert found.route
    way = replace(found.route, host=odd, address=odd, device=odd, kind=odd)
    found = replace(found, details=(uringzc.Reason("name", odd, odd),), route=way)
    doctor._print_report(output.console(), found, doctor.Sender(1, 1, True, odd, odd))
    assert capsys.readouterr().out.count(odd) == 8
    Console().print(odd)  # the control
    assert odd not in capsys.readouterr().out


def test_a_hint_keeps_its_brackets(tmp_path: Path) -> None:
    path = tmp_path / "[red]file"
    path.write_bytes(bytes(1000))
    program = f"""
import sys
sys.modules["pyroute2"] = None
from uringzc.cli import main
main(["demo", {str(path)!r}])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert "needs pyroute2: pip install 'uringzc[testing]'." in done.stdout
    assert f"\n{path}\n" in done.stdout


# -- nothing can be printed, or is not installed


def to_full_disk(*arguments: str, **more: str) -> tuple[int, str]:
    """Its status, and its errors."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(**more),
            text=True,
            check=False,
            timeout=60,
        )
    return done.returncode, done.stderr


FULL = (1, "Error: standard output cannot be written to: No space left on device.\n")


@pytest.mark.slow
@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_a_full_disk_is_one_line(arguments: list[str]) -> None:
    assert to_full_disk(*arguments) == FULL


def test_a_full_disk_is_one_line_unbuffered_too() -> None:
    assert to_full_disk(*COMMANDS["demo"], PYTHONUNBUFFERED="1") == FULL


def test_an_error_of_a_command_is_not_taken_for_one_of_standard_output() -> None:
    @click.command()
    def failing() -> None:
        raise OSError(errno.EADDRINUSE, "Address already in use")

    commands = Commands(commands={"failing": failing})
    with pytest.raises(OSError, match="Address already in use"):
        commands.main(["failing"])


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["doctor"], ["doctor", "--json"], COMMANDS["demo"]])
def test_a_closed_pipe_ends_it_silently(arguments: list[str]) -> None:
    """As with `uringzc doctor | head -0`: it ends, and says nothing."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*COMMAND, *arguments], stdout=writing, stderr=subprocess.PIPE, text=True, check=False, timeout=60
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("missing", "arguments"), [("click", []), ("click", ["--help"]), ("rich", ["doctor"])]
)
def test_what_is_not_installed_is_named(missing: str, arguments: list[str]) -> None:
    program = f"""
import sys
sys.modules[{missing!r}] = None
from uringzc.cli import main
main({arguments!r})
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == f"the uringzc command needs {missing}: pip install 'uringzc[cli]'\n"
