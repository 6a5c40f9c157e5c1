"""`uringzc demo`, end to end: its output when all is well, and its errors when anything is not."""

import hashlib
import json
import os
import pty
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from marks import only_io_uring
from processes import child_pids, killed_at_exit

from uringzc import testing
from uringzc.cli import demo as demo_module
from uringzc.cli import demo_peer, main
from uringzc.cli import demo_receiver as receiver
from uringzc.cli.demo import largest_library

PIECE = 1000
SIZE = PIECE + receiver.NUMBER.size
LENGTH = 400_321  # 401 datagrams, the last one shorter
COMMAND = [sys.executable, "-m", "uringzc", "demo"]
Run = Callable[..., Result]

#: a receiver in which `fault(number, datagram)` says what becomes of a datagram: None loses it
FAULTY = """
import os, time
from uringzc.cli import demo_receiver as receiver
def fault(number, datagram):
    {fault}
honest = receiver.Verifier.take
def take(account, datagram):
    if len(datagram) > receiver.NUMBER.size:
        (number,) = receiver.NUMBER.unpack_from(datagram)
        datagram = fault(number, bytearray(datagram))
    if datagram is not None:
        honest(account, memoryview(datagram))
receiver.Verifier.take = take
{also}
receiver.main()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(random.Random(1).randbytes(LENGTH))
    tmp_path.chmod(0o755)
    return path


@pytest.fixture
def demo(file: Path) -> Run:
    """Runs the command in this process."""

    def run(*options: str, sink: bool = False, size: int = SIZE) -> Result:
        more = () if sink else ("--no-sink",)
        return CliRunner().invoke(main, ["demo", str(file), f"--size={size}", *more, *options])

    return run


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts faults into the receiving process."""

    def make(fault: str = "return datagram", also: str = "") -> None:
        code = FAULTY.format(fault=fault, also=also)
        monkeypatch.setattr(demo_peer, "RECEIVER", (sys.executable, "-c", code))
        monkeypatch.setattr(demo_peer, "PATIENCE", 0.05)  # a loss at the end is found after it

    return make


def until(condition: Callable[[], Any]) -> Any:
    """What the condition gives, once it is true; 20 s are more than any of these takes."""
    deadline = time.monotonic() + 20
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return value


def alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


# What it says when all is well


def test_json_has_all_results(demo: Run, file: Path) -> None:
    result = demo("--json", "--slots=3", "--times=2")
    assert result.exit_code == 0, result.output
    report = json.loads(result.output)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert report["file"] == {"path": str(file), "bytes": LENGTH, "sha256": digest, "times": 2}
    assert report["receiver"]["sha256"] == [digest]
    assert (report["receiver"]["taken"], report["receiver"]["drops"]) == (802, 0)
    assert [slot["tag"] for slot in report["slots"]] == [0xF11E0000, 0xF11E0001, 0xF11E0002]
    for slot in report["slots"]:
        assert (slot["first"], slot["last"]) == (0, slot["notifications"] - 1)
        assert slot["copied"] in (slot["requests"], None)  # loopback
    assert sum(slot["requests"] for slot in report["slots"]) == 802
    assert sum(slot["nbytes"] for slot in report["slots"]) == 2 * LENGTH + 802 * receiver.NUMBER.size
    assert report["loopback"]["nbytes"] == 2 * LENGTH
    assert report["loopback"]["cpu_per_byte"] > 0
    assert report["sink"] is None


def test_text_output_in_a_pipe(demo: Run, engine: str) -> None:
    result = demo()
    assert result.exit_code == 0, result.output
    for word in (
        "Everything arrived",
        "401 datagrams",
        "notifications",
        "0xf11e0000",
        "100%" if engine != "msg_zerocopy" else "unknown",
        "Loopback copies" if engine != "msg_zerocopy" else "as 401",
    ):
        assert word in result.output
    assert "\x1b" not in result.output  # plain lines where there is no terminal


@pytest.mark.slow
@pytest.mark.engines
def test_a_terminal_shows_colours_and_progress(file: Path) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    command = [*COMMAND, str(file), "--no-sink"]
    with killed_at_exit(subprocess.Popen(command, stdout=theirs, env=environment, text=True)) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # the other side is closed
            while block := os.read(ours, 4096):
                shown += block
        os.close(ours)
        assert process.wait() == 0
    assert b"\x1b[" in shown
    assert b"100%" in shown


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, PIECE - 1, PIECE, PIECE + 1, 256 * PIECE, 256 * PIECE + 1])
def test_files_of_every_length_arrive(demo: Run, file: Path, length: int) -> None:
    file.write_bytes(random.Random(length).randbytes(length))
    result = demo("--slots=2", "--times=3")
    assert result.exit_code == 0, result.output


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 9000, 65487])
def test_datagrams_of_every_size_arrive(demo: Run, size: int) -> None:
    assert demo(size=size).exit_code == 0


def test_a_file_arrives_over_ipv6(demo: Run) -> None:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"no ::1 here: {error}")
    assert demo("--ipv6").exit_code == 0


@testing.requires("net_admin")
def test_the_comparison_at_a_sink_reports_copies(
    demo: Run, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    monkeypatch.setattr("uringzc.cli.compare._ENOUGH", LENGTH)
    report = json.loads(demo("--json", sink=True, size=61440).output)
    copied = {kind: result["copied"] for kind, result in report["sink"].items()}
    zero_copy = {"io_uring": 0.0, "msg_zerocopy": None, "copy": 1.0}[engine]  # None: the kernel merges
    assert copied == {
        "windows copying": 1.0,
        "windows zero-copy": zero_copy,
        "mapped copying": 1.0,
        "mapped zero-copy": zero_copy,
    }


def test_without_privileges_there_is_no_comparison(demo: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing, "missing", lambda capability: f"needs {capability}")
    result = demo(sink=True)
    assert result.exit_code == 0
    assert "needs net_admin" in result.output


def test_default_file_is_readable_and_the_same_each_time() -> None:
    path = largest_library()
    assert path == largest_library()
    assert os.access(path, os.R_OK)
    assert 1_000_000 < os.path.getsize(path) <= 512_000_000


# Without privileges


@pytest.fixture
def nobody() -> list[str]:
    """What to put before a command: a user that nobody is, with the usual limit for locked memory."""
    if reason := testing.missing("unprivileged"):
        pytest.skip(reason)
    if not shutil.which("setpriv") or not shutil.which("prlimit"):
        pytest.skip("needs setpriv and prlimit: install util-linux")
    # The interpreter and the checkout may be where only root may look.
    look = [
        "--inh-caps=+dac_read_search",
        "--ambient-caps=+dac_read_search",
        "--bounding-set=-all,+dac_read_search",
    ]
    user = 20_000 + os.getpid() % 40_000  # what others have locked would count
    who = ["setpriv", f"--reuid={user}", "--regid=65534", "--clear-groups", *look]
    return [*who, "prlimit", f"--memlock={8 << 20}"]


@pytest.mark.slow
def test_it_works_without_privileges(nobody: list[str], file: Path) -> None:
    done = subprocess.run(
        [*nobody, *COMMAND, str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Everything arrived" in done.stdout
    assert "CAP_NET_ADMIN" in done.stdout  # what the comparison needs


@pytest.mark.slow
@only_io_uring
def test_a_small_memlock_limit_is_named(nobody: list[str], file: Path) -> None:
    limited = [*nobody[:-1], "--memlock=65536"]
    done = subprocess.run(
        [*limited, *COMMAND, str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 3
    assert done.stderr.startswith("Error: ")
    assert "RLIMIT_MEMLOCK" in done.stderr
    assert "--size" in done.stderr
    less = [*COMMAND, str(file), "--size=1400", "--no-sink"]
    done = subprocess.run([*limited, *less], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_small_receive_buffer_is_enough(demo: Run, faulty: Callable[..., None]) -> None:
    faulty(also="receiver.BUFFER = 4096")  # room for one datagram
    assert demo(size=61440).exit_code == 0


# Loud when anything is wrong


@pytest.mark.slow
@pytest.mark.engines
@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("return None if number == 7 else datagram", "datagram 7 of 401 did not arrive (7 arrived in order)"),
        ("return None if 7 <= number < 10 else datagram", "3 datagrams, 7 to 9, of 401 did not arrive"),
        ("return None if number == 400 else datagram", "datagram 400 of 401 did not arrive"),
        ("return None", "401 did not arrive (0 arrived in order)"),
        ("datagram[7] -= number == 7; return datagram", "datagram 6 arrived when 7 was due"),
        ("return datagram[:-1] if number == 7 else datagram", "datagram 7 has 1007 bytes instead of 1008"),
        ("datagram[9] ^= number == 7; return datagram", "with SHA-256"),
        (
            "return os._exit(9) if number == 7 else datagram",
            "the receiving process ended by itself (status 9)",
        ),
    ],
)
def test_lost_or_changed_data_is_reported(
    demo: Run, faulty: Callable[..., None], fault: str, sentence: str
) -> None:
    faulty(fault)
    result = demo()
    assert result.exit_code == 1
    assert sentence in " ".join(result.output.split())
    assert "Everything arrived" not in result.output


@pytest.mark.slow
def test_datagrams_that_the_kernel_drops_are_reported(demo: Run, faulty: Callable[..., None]) -> None:
    faulty(
        "time.sleep(0.2 if number == 0 else 0); return datagram",
        also="receiver.BUFFER = 4096; receiver.room_for = lambda size, granted: 300",
    )
    result = demo()
    assert result.exit_code == 1
    assert "did not arrive" in result.output
    assert "its socket dropped" in result.output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda file: file.write_bytes(bytes(LENGTH)), "with SHA-256"),
        (lambda file: os.truncate(file, LENGTH // 2), "changed its size"),
    ],
    ids=["other bytes", "shorter"],
)
def test_a_file_that_changes_is_reported(
    demo: Run, file: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], sentence: str
) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()

    def read_and_change(_: object) -> str:
        change(file)
        return digest

    monkeypatch.setattr(demo_module, "sha256", read_and_change)
    result = demo()
    assert result.exit_code == 1
    assert sentence in result.output


def test_unusable_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    for name, sentence in [
        ("empty", "is empty"),
        ("pipe", "is not a regular file"),
        (".", "is not a regular file"),
        ("missing", "No such file"),
    ]:
        result = CliRunner().invoke(main, ["demo", str(tmp_path / name)])
        assert result.exit_code == 2
        assert sentence in " ".join(result.output.split())


def test_an_error_of_the_engine_is_one_line(demo: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise OSError(1, "io_uring cannot be used: kernel.io_uring_disabled is 2")

    monkeypatch.setattr("uringzc.Scheduler", lambda *_, **__: refused())
    result = demo()
    assert result.exit_code == 3
    assert "Error: io_uring cannot be used: kernel.io_uring_disabled is 2." in result.output


# Ended from outside


LONG = ["--size=64", "--times=3000", "--no-sink"]  # a minute and more


@pytest.fixture
def running(file: Path) -> Iterator[subprocess.Popen[str]]:
    """A demo that would go on for long, and has its receiver."""
    command = [*COMMAND, str(file), *LONG]
    pipe = subprocess.PIPE
    with killed_at_exit(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)) as process:
        until(lambda: child_pids(process.pid))
        yield process


@pytest.mark.slow
def test_ctrl_c_ends_both_processes(running: subprocess.Popen[str]) -> None:
    (child,) = child_pids(running.pid)
    time.sleep(0.3)  # somewhere in the middle
    running.send_signal(signal.SIGINT)
    _, error = running.communicate(timeout=20)
    assert running.returncode == 130
    assert error == "Stopped; the receiving process has ended too.\n"
    assert not alive(child)


@pytest.mark.slow
def test_a_killed_demo_leaves_no_receiver(running: subprocess.Popen[str]) -> None:
    (child,) = child_pids(running.pid)
    running.kill()
    _, error = running.communicate(timeout=20)
    assert error == ""
    until(lambda: not alive(child))
