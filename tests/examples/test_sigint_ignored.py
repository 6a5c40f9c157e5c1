"""Started with SIGINT ignored, as in the background of a script, programs end and the tests pass."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import HERE, child_pids, kill_children, killed_at_exit, run_program
from traffic import wait_until

from uringzc import testing

pytestmark = pytest.mark.engines("copy")

#: what the parents of a test run may have done with signals
ODD = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGALRM, signal.SIGUSR1})
"""
#: what a child sees of that
CHILD = (
    "import signal; "
    "print([signal.getsignal(n).name for n in (signal.SIGTERM, signal.SIGCHLD)], "
    "signal.getsignal(signal.SIGINT) is signal.default_int_handler, len(signal.pthread_sigmask(0, [])))"
)
LOOK = """
import subprocess
print(subprocess.check_output([sys.executable, '-c', sys.argv[1]], text=True))
"""


def in_background(*command: object) -> "subprocess.Popen[str]":
    """A Python program as `sh` starts it for `python ... &`."""
    return subprocess.Popen(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# -- programs


def test_a_demo_in_the_background_ends_at_sigterm(tmp_path: Path) -> None:
    """And its receiver with it. SIGINT it does not see, as whoever started it so wanted."""
    (tmp_path / "file").write_bytes(bytes(400_000))
    command = ("-m", "uringzc", "demo", tmp_path / "file", "--size=64", "--times=3000", "--no-sink")
    with killed_at_exit(in_background(*command)) as process:
        assert wait_until(lambda: child_pids(process.pid))
        (receiver,) = child_pids(process.pid)
        process.send_signal(signal.SIGINT)
        process.terminate()
        assert process.communicate(timeout=20)[1] == ""
    assert process.returncode == -signal.SIGTERM
    assert wait_until(lambda: not Path(f"/proc/{receiver}").exists() or "\nState:\tZ" in status(receiver))


def status(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


@pytest.mark.slow
def test_a_publisher_in_the_background_ends_at_its_time() -> None:
    program = HERE.parent / "examples" / "publisher.py"
    with (
        testing.receiver() as rx,
        killed_at_exit(in_background(program, *rx.address, "--rate", 2000, "--seconds", 0.5)) as process,
    ):
        rx.wait(100)
        process.send_signal(signal.SIGINT)
        output, error = process.communicate(timeout=20)
        assert (process.returncode, error) == (0, "")
        assert re.match(r"1000 messages, ", output)
        rx.wait(1000)


# -- the tests


def test_children_of_tests_have_default_signals() -> None:
    program = ODD + "import processes\nprocesses.default_signals()\n" + LOOK
    assert run_program(program, CHILD)[0].strip() == "['SIG_DFL', 'SIG_DFL'] True 0"


def test_control_signals_are_inherited() -> None:
    assert run_program(ODD + LOOK, CHILD)[0].strip() == "['SIG_IGN', 'SIG_IGN'] False 3"


@pytest.mark.slow
def test_tests_pass_with_signals_ignored() -> None:
    """Those that interrupt a program, and one that interrupts itself."""
    program = ODD + (
        "os.execv(sys.executable, [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider',"
        " *sys.argv[1:]])"
    )
    out, _ = run_program(
        program,
        f"{HERE}/cli/test_demo.py::test_ctrl_c_ends_both_processes[copy]",
        f"{HERE}/examples/test_examples_udp.py::test_publisher_ends_at_ctrl_c_with_a_report",
        f"{HERE}/senders/test_udp_rules.py::test_an_iterable_may_call_the_sender_that_takes_from_it[copy]",
    )
    assert "3 passed" in out


def test_children_that_a_test_leaves_are_killed() -> None:
    before = child_pids()
    program = [sys.executable, "-c", "import time; print('runs', flush=True); time.sleep(60)"]
    with killed_at_exit(subprocess.Popen(program, stdout=subprocess.PIPE, text=True)) as process:
        assert process.stdout
        assert process.stdout.readline() == "runs\n"
        assert child_pids() - before == {process.pid}
        (ended,) = kill_children(but=before)
        assert "time.sleep(60)" in ended
        assert process.stdout.read() == ""
    assert child_pids() == before
