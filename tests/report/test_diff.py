"""`uringzc diff`: what is compared with what, what is noise, what is worse; files that are no results."""

import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from dataclasses import replace
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from samples import bench, came, limit, sent, write

from uringzc.cli import main
from uringzc.jobs.bench_report import BenchReport

pytest.importorskip("msgspec")
pytestmark = pytest.mark.engines()


def diff(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["diff", *arguments])


def told(*arguments: str) -> Any:
    """What --json prints."""
    return json.loads(diff(*arguments, "--json").stdout)


def metric(found: Any, name: str, run: int = 0) -> Any:
    return next(one for one in found["runs"][run]["metrics"] if one["metric"] == name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "a.json", bench())
    write(tmp_path, "slower.json", bench(faster=0.8))
    return tmp_path


def test_medians_and_changes_of_each_run(folder: Path) -> None:
    found = told(f"{folder}/a.json", f"{folder}/slower.json")
    assert [(run["engine"], run["size"]) for run in found["runs"][:2]] == [
        ("io_uring", 64),
        ("io_uring", 512),
    ]
    rate = metric(found, "sent_pps")
    assert rate["a"]["rounds"] == 3
    assert rate["a"]["low"] < rate["a"]["median"] < rate["a"]["high"]
    assert rate["change"] == pytest.approx(-0.2)
    assert (rate["overlap"], rate["verdict"]) == (False, "worse")
    assert metric(found, "cpu_ns_per_datagram")["verdict"] == "worse"  # more of it
    assert metric(found, "latency_p50_ns")["verdict"] == "same"
    assert (found["differences"], found["only_a"], found["only_b"]) == ([], [], [])


def test_ranges_that_overlap_are_noise(folder: Path) -> None:
    """The rounds of a run are 1 % from each other."""
    write(folder, "near.json", bench(faster=0.995))
    write(folder, "far.json", bench(faster=0.97))
    near = metric(told(f"{folder}/a.json", f"{folder}/near.json"), "sent_pps")
    far = metric(told(f"{folder}/a.json", f"{folder}/far.json"), "sent_pps")
    assert (near["overlap"], near["verdict"]) == (True, "within the noise")
    assert (far["overlap"], far["verdict"]) == (False, "worse")
    assert diff(f"{folder}/a.json", f"{folder}/near.json", "--worse=0.1%").exit_code == 0
    assert diff(f"{folder}/a.json", f"{folder}/far.json", "--worse=0.1%").exit_code == 1


@pytest.mark.parametrize(("share", "status"), [("19%", 1), ("30%", 0)])
def test_the_status_says_whether_it_is_worse(folder: Path, share: str, status: int) -> None:
    done = diff(f"{folder}/a.json", f"{folder}/slower.json", f"--worse={share}")
    assert done.exit_code == status
    said = f"Failed: io_uring, zero-copy auto, 64 bytes: sent is worse by 20.0%, more than {share}."
    assert (said in done.output) == bool(status)
    assert diff(f"{folder}/slower.json", f"{folder}/a.json", "--worse=19%").exit_code == 0  # it is better


def test_shares_change_by_points(folder: Path) -> None:
    """Of nothing to 1 % is no infinite change."""
    of = sent()
    paths = [write(folder, f"lost{lost}.json", came(of, lost)) for lost in (0, 4000)]
    change = metric(told(*paths), "lost_share")
    assert change["change"] == pytest.approx(0.01)
    assert diff(*paths, "--worse=2%").exit_code == 0
    assert "lost is worse by 1 points, more than 0.5%" in diff(*paths, "--worse=0.5%").output


def test_one_round_says_nothing_about_noise(folder: Path) -> None:
    paths = [write(folder, f"{faster}.json", sent(pps=faster * 1e5)) for faster in (3, 2)]
    found = diff(*paths)
    assert "One round says nothing about noise" in found.output
    assert metric(told(*paths), "sent_pps")["overlap"] is None
    assert diff(*paths, "--worse=5%").exit_code == 1
    assert "nothing about noise" not in diff(f"{folder}/a.json", f"{folder}/slower.json").output


def test_what_is_in_one_file_alone_is_listed(folder: Path) -> None:
    write(folder, "few.json", bench(sizes=(64, 9000)))
    found = diff(f"{folder}/a.json", f"{folder}/few.json").output
    assert found.count("Only in A: ") == 9
    assert "Only in B: copy, zero-copy never, 9,000 bytes\n" in found
    write(folder, "other.json", bench(sizes=(9000,)))
    none = diff(f"{folder}/a.json", f"{folder}/other.json", "--worse=5%")
    assert (none.exit_code, none.output.endswith("Failed: no run is in both files.\n")) == (1, True)


def test_other_machines_are_said_first(folder: Path) -> None:
    report = bench()
    path = write(
        folder, "other.json", replace(report, machine=replace(report.machine, kernel="7.0", mtu=9000))
    )
    lines = diff(f"{folder}/a.json", path).stdout.splitlines()
    assert lines[2] == "Not the same in A and B"
    assert [line.split() for line in lines[3:5]] == [
        ["kernel", "6.18.0", "→", "7.0"],
        ["mtu", "1500", "→", "9000"],
    ]
    assert told(f"{folder}/a.json", path)["differences"][0] == {"what": "kernel", "a": "6.18.0", "b": "7.0"}


def test_limits_are_compared(folder: Path) -> None:
    paths = [
        write(folder, f"{pps}.json", bench(sizes=(), limit=replace(limit(), pps=pps))) for pps in (4e5, 6e5)
    ]
    found = told(*paths)
    assert metric(found, "limit_pps")["change"] == pytest.approx(0.5)


def test_runs_of_one_kind_and_key_are_one(folder: Path) -> None:
    report = bench(sizes=(64,), rounds=1)
    twice = write(folder, "twice.json", replace(report, runs=(*report.runs, *report.runs)))
    assert metric(told(f"{folder}/a.json", twice), "sent_pps")["b"]["rounds"] == 2


# -- on a terminal


def on_terminal(columns: int, *arguments: str) -> list[str]:
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    known = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    command = [sys.executable, "-m", "uringzc", "diff", *arguments]
    process = subprocess.Popen(command, stdout=theirs, env=known | {"TERM": "xterm", "NO_COLOR": "1"})
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # the other side is closed
        while block := os.read(ours, 4096):
            shown += block
    os.close(ours)
    assert process.wait() == 0
    return re.sub(r"\x1b\[[\d;]*m", "", shown.decode()).replace("\r", "").splitlines()


def test_narrow_terminals(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    lines = on_terminal(40, "a.json", "slower.json")
    assert max(map(len, lines)) <= 40
    at = next(at for at, line in enumerate(lines) if line.startswith("  sent "))
    assert lines[at].endswith("-20.0%")
    assert lines[at + 1].split()[-1] == "worse"
    wide = on_terminal(100, "a.json", "slower.json")
    assert any(line.startswith("  sent ") and line.endswith("worse") for line in wide)


# -- files that are no results


def broken(report: BenchReport, change: Any) -> str:
    values = json.loads(json.dumps(report.as_dict()))
    change(values)
    return json.dumps(values)


def deep(values: Any) -> None:
    values["host"] = []
    for _ in range(200):
        values["host"] = [values["host"]]


FILES: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "no JSON"),
    "text": ("hello\n", "no JSON"),
    "cut": ('{"kind": "bench"', "no JSON"),
    "binary": (b"\x7fELF\xff\x00", "no JSON"),
    "nested": ("[" * 100_000, "nested too deep"),
    "number": ("3", "it has not what bench, send or recv print"),
    "other": ('{"start": {}, "intervals": []}', "it has not what bench, send or recv print"),
    "job": ('{"job": {"to": "x"}, "result": {}}', "`$.job.to`"),
    "no runs": (broken(bench(), lambda v: v.pop("runs")), "`runs`"),
    "a type": (broken(bench(), lambda v: v["runs"][0]["rounds"][0]["result"].update(pps="1")), "pps`"),
    "a size": (broken(bench(), lambda v: v["runs"][0].update(size=0)), "size of a datagram"),
    "a time": (
        broken(bench(), lambda v: v["runs"][0]["rounds"][0]["result"].update(interval_ns=0)),
        "interval",
    ),
    "large": (broken(bench(), lambda v: v.update(seconds=10**30)), "too large"),
    "depth": (broken(bench(), deep), "host`"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("command", ["diff", "report"])
def test_a_file_that_is_no_result_is_one_line(folder: Path, command: str, name: str) -> None:
    content, said = FILES[name]
    path = folder / "broken"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    options = ["--html=page.html"] if command == "report" else []
    done = CliRunner().invoke(main, [command, f"{folder}/a.json", str(path), *options])
    assert done.exit_code == 2, done.output
    assert done.output.startswith(f"Error: {path}: "), done.output
    assert (done.output.count("\n"), said in done.output) == (1, True), done.output


def test_files_that_cannot_be_read(folder: Path) -> None:
    for path, why in ((folder / "none", "No such file or directory"), (folder, "Is a directory")):
        done = diff(f"{folder}/a.json", str(path))
        assert (done.exit_code, done.output) == (2, f"Error: {path}: {why}.\n")


def test_a_file_without_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uringzc.report.files.MOST_BYTES", 1 << 20)
    done = diff(f"{folder}/a.json", "/dev/zero")
    assert (done.exit_code, done.output) == (
        2,
        "Error: /dev/zero: larger than 1 MiB, which no result of uringzc is.\n",
    )


def test_more_rounds_than_anybody_measures(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uringzc.report.files.MOST_ROUNDS", 35)
    done = diff(f"{folder}/a.json", f"{folder}/slower.json")
    assert (done.exit_code, "36 rounds are more than 35" in done.output) == (2, True)


def test_two_kinds_are_no_pair(folder: Path) -> None:
    done = diff(f"{folder}/a.json", write(folder, "sent.json", sent()))
    assert done.exit_code == 2
    assert "is of uringzc bench and " in done.output


@pytest.mark.parametrize("share", ["5", "x%", "-1%", "nan%", "1e9%"])
def test_wrong_percentages(folder: Path, share: str) -> None:
    done = diff(f"{folder}/a.json", f"{folder}/a.json", f"--worse={share}")
    assert (done.exit_code, "is no percentage" in done.output) == (2, True)


def test_a_file_moves_no_cursor(folder: Path) -> None:
    report = bench(host="\x1b[2J\x07evil\u202e", sizes=(64,))
    path = write(folder, "evil.json", report)
    shown = diff(f"{folder}/a.json", path).output
    assert "evil" in shown
    assert [character for character in shown if not character.isprintable() and character != "\n"] == []


def test_standard_input_is_a_file(folder: Path) -> None:
    text = (folder / "a.json").read_text()
    done = CliRunner().invoke(main, ["diff", f"{folder}/a.json", "-"], input=text)
    assert (done.exit_code, "B: standard input" in done.output) == (0, True)
    assert diff("-", "-").exit_code == 2
