"""The Python code of the pages runs: programs on every engine, tests as tests."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pages
import pytest
from pages import PAGES, ROOT

import uringzc
from uringzc import testing

CODE = [
    (str(page.relative_to(ROOT)), block.line, block.text)
    for page in PAGES
    for block in pages.blocks(page.read_text())
    if block.language == "python"
]
TESTS = [each for each in CODE if "\ndef test_" in each[2]]
PROGRAMS = [each for each in CODE if each not in TESTS]

#: what a program with this line prints
PRINTED = {
    'tx.send(b"%06d" % number)': "datagrams=100000",
    "scheduler.send(sock, region, length=5, user_data=7)": "Notification(tag=10, ",
    "tx.send_region(region, segment=1400)": "16\n",
    "tx.send_buffers(": "TcpStats(sends=2, nbytes=100023",
    "for notification in s.reap_notifications(wait=2)": "0xb 20 requests",
    "everyone = tx.group(addresses)": "2 receivers, 307 datagrams",
    'tx.send(b"answer to " + request, client)': "b'answer to question'",
    "found = uringzc.probe()": "",
    "transport.sendto(data, addr)": "100 answers",
    "asyncio.set_event_loop_policy(Policy())": "EventLoop runs",
    "transport.sendto_many(": "200 datagrams, in fewer calls: True",
    "await tx.send_region(": "16 datagrams",
    'tx.set_rate("100Mbit", burst=64_000)': "Paced to 100 Mbit/s of payload",
    'uringzc.UdpSender(address, engine="packet")': "1000 datagrams have arrived",
    "results = list(pool.map(run, [job, job]))": " came, 0 lost",
    "socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)": "Notification(tag=0, sequence=0, ",
}


def named(each: tuple[str, int, str]) -> str:
    return f"{each[0]}:{each[1]}"


def needed_for_frames() -> str:
    """Why the programs with frames cannot run here, "" if they can."""
    return testing.missing("net_admin") or str(uringzc.probe().engines["packet"] or "")


def run(program: str, folder: Path) -> str:
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", program]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    # of asyncio's debug mode, on a machine that is busy
    errors = re.sub(r"^Executing <.*> took .* seconds\n", "", done.stderr, flags=re.MULTILINE)
    assert (done.returncode, errors) == (0, "")
    return done.stdout


def run_as_tests(program: str, folder: Path) -> str:
    """With the fixtures and the configuration of these tests."""
    file = folder / "test_of_a_page.py"
    file.write_text(program)
    options = ["-p", "conftest", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(file)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("each", PROGRAMS, ids=named)
def test_programs_run(each: tuple[str, int, str], tmp_path: Path) -> None:
    program = each[2]
    said = [text for line, text in PRINTED.items() if line in program]
    assert said, "say what it prints"
    if "DefaultEventLoopPolicy" in program and sys.version_info >= (3, 14):
        pytest.skip("policies are deprecated")
    if 'engine="packet"' in program and (reason := needed_for_frames()):
        pytest.skip(reason)
    output = run(program, tmp_path)
    assert all(text in output for text in said), output


def test_the_program_of_awaitable_senders_runs_under_trio(tmp_path: Path) -> None:
    pytest.importorskip("trio")
    (program,) = (text for _, _, text in PROGRAMS if "await tx.send_region(" in text)
    program = program.replace("asyncio.run(main())", "trio.run(main)").replace(
        "import asyncio", "import trio"
    )
    assert "16 datagrams" in run(program, tmp_path)


@pytest.mark.engines
def test_a_program_that_fails_or_warns_is_found(tmp_path: Path) -> None:
    assert run("print(1)", tmp_path) == "1\n"
    for wrong in (
        "raise ValueError",
        "import warnings; warnings.warn('this')",
        "import sys; print(1, file=sys.stderr)",
    ):
        with pytest.raises(AssertionError):
            run(wrong, tmp_path)


@pytest.mark.engines
@pytest.mark.parametrize("each", TESTS, ids=named)
def test_tests_pass(each: tuple[str, int, str], tmp_path: Path) -> None:
    assert re.search(r"\d (passed|skipped)", run_as_tests(each[2], tmp_path))


@pytest.mark.engines
def test_a_test_that_fails_is_found(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="assert 1 == 2"):
        run_as_tests("def test_this(udp_pair):\n    assert 1 == 2\n", tmp_path)


@pytest.mark.engines
def test_nothing_is_left_out() -> None:
    pages_with_programs = {page for page, _, _ in PROGRAMS}
    assert pages_with_programs >= {
        "README.md",
        "docs/asyncio.md",
        "docs/udp.md",
        "docs/tcp.md",
        "docs/slots.md",
        "docs/packet.md",
    }
    assert {page for page, _, _ in TESTS} == {"CONTRIBUTING.md", "docs/testing.md"}
