"""`uringzc calibrate`: what it measures, prints and saves, and how it ends."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import uringzc
from uringzc import testing
from uringzc.calibration import saved
from uringzc.cli import main
from uringzc.cli.calibrate import target_of

pytestmark = [pytest.mark.engines(), testing.requires("send_zc")]
COMMAND = [sys.executable, "-m", "uringzc", "calibrate"]
SHORT = ("--seconds=0.001", "--engine=io_uring")
Calibrate = Callable[..., Result]


@pytest.fixture
def calibrate(calibration_file: Path) -> Calibrate:
    """Runs the command in this process, inside `box` if there is one; senders read the file anew."""

    def run(*options: str, box: testing.Sandbox | None = None) -> Result:
        def go() -> Result:
            return CliRunner().invoke(main, ["calibrate", *options])

        result = box.run(go) if box else go()
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.7", ("192.0.2.7", 9)),
        ("192.0.2.7:9000", ("192.0.2.7", 9000)),
        ("example.org", ("example.org", 9)),
        ("fe80::1%eth0", ("fe80::1%eth0", 9)),
        ("[::1]", ("::1", 9)),
        ("[::1]:9000", ("::1", 9000)),
    ],
)
def test_targets(text: str, expected: tuple[str, int]) -> None:
    assert target_of(text) == expected


@pytest.mark.parametrize("text", ["", ":9", "[]", "[::1", "192.0.2.7:", "192.0.2.7:x", "h:0", "h:70000"])
def test_what_is_no_target(text: str, calibrate: Calibrate) -> None:
    assert calibrate(text).exit_code == 2


@testing.requires("net_admin")
def test_what_it_finds_is_saved_shown_used_and_forgotten(
    calibrate: Calibrate, sink: testing.Sandbox, calibration_file: Path
) -> None:
    host = sink.address[0]
    result = calibrate(host, *SHORT, box=sink)
    assert result.exit_code == 0, result.output
    assert "io_uring by ifb0, MTU 1500, 9 rounds" in result.stdout
    for nbytes in (" 256 ", " 1,472 ", " 64,768 "):
        assert sum(nbytes in line for line in result.stdout.splitlines()) == 1
    assert f"Saved in {calibration_file}." in result.stdout
    (one,) = saved.read(str(calibration_file)).calibrations
    assert (one.interface, one.engine, one.to, one.copied) == ("ifb0", "io_uring", host, False)
    assert one.min_zero_copy is None or one.min_zero_copy in [size.nbytes for size in one.sizes]

    def explain() -> str:
        with uringzc.UdpSender(sink.address, engine="io_uring") as tx:
            return tx.explain()

    assert f"Measured {one.date} on ifb0 (uringzc calibrate): zero-copy" in sink.run(explain)
    shown = calibrate("--show", host, box=sink)
    assert shown.stdout.startswith("ifb0   io_uring   ")
    assert "not used" not in shown.stdout
    assert calibrate("--show", "127.0.0.1", box=sink).stdout == "Nothing is saved for lo.\n"
    saved.save(str(calibration_file), [replace(one, kernel="6.1.0", at="2024")], "0.1.0")
    before, now = calibrate("--show", box=sink).stdout.splitlines()[:2]
    assert "2024, to 10.0.0.2; not used: measured with Linux 6.1.0, and this is " in before
    assert "not used" not in now
    assert calibrate("--forget", "127.0.0.1", box=sink).stdout == "Forgot 0 calibrations.\n"
    assert calibrate("--forget", host, box=sink).stdout == "Forgot 2 calibrations.\n"
    assert not calibration_file.exists()
    assert calibrate("--show").stdout == "Nothing is saved.\n"
    assert "easured" not in sink.run(explain)


def test_json_of_all_engines_over_loopback(calibrate: Calibrate, calibration_file: Path) -> None:
    with testing.receiver(limit=0) as rx:
        result = calibrate(f"127.0.0.1:{rx.address[1]}", "--seconds=0.001", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert (found["path"], found["saved"], found["failed"]) == (str(calibration_file), True, [])
    assert [one["engine"] for one in found["calibrations"]] == ["io_uring", "msg_zerocopy"]
    for one in found["calibrations"]:
        assert (one["interface"], one["copied"], one["min_zero_copy"]) == ("lo", True, None)
    shown = json.loads(calibrate("--show", "--json").stdout)
    assert shown["ignored"] == ""
    assert [one | {"unused": ""} for one in found["calibrations"]] == shown["calibrations"]
    assert json.loads(calibrate("--forget", "--json").stdout)["forgotten"] == 2


def test_a_dry_run_saves_nothing(calibrate: Calibrate, calibration_file: Path) -> None:
    with testing.receiver(limit=0) as rx:
        result = calibrate(f"127.0.0.1:{rx.address[1]}", *SHORT, "--dry-run")
    assert result.exit_code == 0
    assert "Zero-copy never pays: the kernel copied these requests too (loopback" in result.stdout
    assert result.stdout.endswith("Not saved (--dry-run).\n")
    assert not calibration_file.exists()


@pytest.mark.parametrize(
    ("options", "status", "text"),
    [
        ((), 2, "Name a HOST"),
        (("--show", "--forget"), 2, "Only one of"),
        (("127.0.0.1", "--engine=copy"), 2, "'copy' is not one of"),
        (("127.0.0.1", "--seconds=0"), 2, "--seconds"),
        (("no-such-host.invalid",), 1, "no-such-host.invalid"),
        (("255.255.255.255",), 1, "broadcast"),
    ],
)
def test_what_cannot_be_done(options: tuple[str, ...], status: int, text: str, calibrate: Calibrate) -> None:
    result = calibrate(*options)
    assert result.exit_code == status
    assert text in result.stderr
    assert result.stdout == ""


@testing.requires("net_admin")
def test_no_way_to_the_host(calibrate: Calibrate, sink: testing.Sandbox, calibration_file: Path) -> None:
    result = calibrate("192.0.2.1", box=sink)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Network is unreachable" in result.stderr
    assert not calibration_file.exists()


def test_a_file_that_cannot_be_written_is_found_out_first(
    calibrate: Calibrate, calibration_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration_file.write_text("mine")
    result = calibrate("127.0.0.1", "--seconds=3600")
    assert result.exit_code == 2
    assert "is left as it is: it is not what uringzc calibrate writes" in result.stderr
    assert calibration_file.read_text() == "mine"
    assert calibrate("--show").exit_code == 1
    assert calibrate("--forget").exit_code == 2
    monkeypatch.setenv("URINGZC_CALIBRATION", "")
    assert "nothing can be saved: URINGZC_CALIBRATION is empty" in calibrate("127.0.0.1").stderr
    monkeypatch.setenv("URINGZC_CALIBRATION", str(calibration_file / "below"))
    assert calibrate("127.0.0.1").exit_code == 2


def test_doctor_shows_what_is_saved(calibrate: Calibrate, calibration_file: Path) -> None:
    def doctor(*options: str) -> str:
        saved.load.cache_clear()
        return CliRunner().invoke(main, ["doctor", *options]).output

    assert "Calibrated" not in doctor()
    with testing.receiver(limit=0) as rx:
        calibrate(f"127.0.0.1:{rx.address[1]}", *SHORT)
    assert "\nCalibrated: where zero-copy pays\nlo   io_uring   never   " in doctor()
    assert json.loads(doctor("--json"))["calibration"]["calibrations"][0]["interface"] == "lo"
    calibration_file.write_text("{}")
    assert f"ignored   no   {calibration_file}: it is not what uringzc calibrate writes" in doctor()
    assert json.loads(doctor("--json"))["calibration"]["ignored"]


def terminal(columns: int) -> tuple[int, int]:
    """Its two ends."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    return ours, theirs


def test_in_forty_columns() -> None:
    ours, theirs = terminal(40)
    with testing.receiver(limit=0) as rx:
        address = f"127.0.0.1:{rx.address[1]}"
        environment = os.environ | {"TERM": "xterm", "NO_COLOR": "1"}
        process = subprocess.Popen([*COMMAND, address, *SHORT, "--dry-run"], stdout=theirs, env=environment)
        os.close(theirs)
        shown = b""
        try:
            while block := os.read(ours, 4096):
                shown += block
        except OSError:  # the other side is closed
            pass
        assert process.wait(60) == 0
    os.close(ours)
    lines = re.sub(r"\x1b\[[\d;]*m", "", shown.decode()).replace("\r", "").splitlines()
    assert max(map(len, lines)) <= 40
    assert "  bytes    copy zero-copy better by" in lines


def test_ctrl_c(tmp_path: Path) -> None:
    """While it measures, which the line that moves shows."""
    ours, theirs = terminal(80)
    path = tmp_path / "calibration.json"
    with testing.receiver(limit=0) as rx:
        process = subprocess.Popen(
            [*COMMAND, f"127.0.0.1:{rx.address[1]}", "--seconds=600"],
            stdout=subprocess.PIPE,
            stderr=theirs,
            env=os.environ | {"URINGZC_CALIBRATION": str(path), "TERM": "xterm"},
        )
        os.close(theirs)
        shown = b""
        while b"round" not in shown:
            shown += os.read(ours, 4096)
        process.send_signal(signal.SIGINT)
        try:
            while block := os.read(ours, 4096):
                shown += block
        except OSError:
            pass
        out, _ = process.communicate(timeout=60)
    os.close(ours)
    assert (process.returncode, out) == (130, b"")
    assert b"Stopped: nothing was saved." in shown
    assert b"Traceback" not in shown
    assert not path.exists()
