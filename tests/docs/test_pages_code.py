"""The Python code of the pages runs: programs on every engine, tests as tests."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
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
OTHERS = [each for each in CODE if "uringzc" not in each[2]]  # without the library
PROGRAMS = [each for each in CODE if each not in TESTS + OTHERS]

SENT_AND_FREE = "sent\nfree\nb'hello'\n"
C_PROGRAMS = [
    (str(page.relative_to(ROOT)), block.text)
    for page in PAGES
    for block in pages.blocks(page.read_text())
    if block.language == "c"
]
#: what a program with this line prints
PRINTED = {
    "range(100_000):": "datagrams=100000",
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
    'tx.send(b"%06d" % number)\n\nprint(receiver.recv(100))': "b'000000'",
    '    for number in range(50):\n        tx.send(b"%06d" % number)  # copied': "50 datagrams",
    'message[8:] = b"%02d" % number': "b'reading 09'",
    'tx.send_many([b"%1000d" % number': "64 datagrams in ",
    'tx.send(b"hello?")': "SendConnectionRefusedError Connection refused",
    'region.view[:5] = b"later"': "14 datagrams\nTrue\n",
    "free |= {notification.tag": "True 8 frames, whole",
    'await tx.send(b"tick %02d" % number)': "40 ticks",
    'memory.view[:5] = b"WRONG"': "received: [b'WRONG']",
    "        sock.send(b": "b'000000'",
    "sock.sendmsg(datagrams, [": "40000 bytes",
    "tx.send_many(datagrams)": "40000 bytes",
    "sock.sendall(bytes(100_000))": "100004 bytes",
    "    tx.send(bytes(100_000))": "100004 bytes",
    'sender.sendto(b"update %02d" % number)': "50 updates",
    "sock.send(memory, MSG_ZEROCOPY)": "free: 0 to 0 copied\nb'hello'",
    'uringzc.Scheduler(engine="msg_zerocopy")': "free: 1 request, 1 copied\nb'hello'",
    "ring.send_zc(sock, memory, length=5, user_data=7)": SENT_AND_FREE,
    "scheduler.send(sock, memory, length=5, user_data=7, flush=True)": SENT_AND_FREE,
    "import liburing\n": SENT_AND_FREE,
    'ring.send_zc(sock, bytearray(b"hello"), user_data=7)': SENT_AND_FREE,
}

#: what a program with this needs; without it, it is skipped
NEEDED: dict[str, Callable[[], str | None]] = {
    "DefaultEventLoopPolicy": lambda: "policies are deprecated" if sys.version_info >= (3, 14) else None,
    'engine="packet"': lambda: testing.missing("net_admin") or str(uringzc.probe().engines["packet"] or ""),
    "testing.hold()": lambda: testing.missing("net_admin"),
    "ring.send_zc(": lambda: testing.missing("send_zc"),
    "MSG_ZEROCOPY": lambda: testing.missing("msg_zerocopy"),
    'engine="msg_zerocopy"': lambda: testing.missing("msg_zerocopy"),
    "import liburing\n": lambda: None if find_spec("liburing") else "has no PyPI package liburing",
}


def named(each: tuple[str, int, str]) -> str:
    return f"{each[0]}:{each[1]}"


def needed(program: str) -> str:
    """Why it cannot run here, "" if it can."""
    return next((why for text, missing in NEEDED.items() if text in program and (why := missing())), "")


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


@pytest.mark.engines
@pytest.mark.parametrize("each", OTHERS, ids=named)
def test_programs_without_the_library_run(each: tuple[str, int, str], tmp_path: Path) -> None:
    check(each, tmp_path)


@pytest.mark.parametrize("each", PROGRAMS, ids=named)
def test_programs_run(each: tuple[str, int, str], tmp_path: Path) -> None:
    check(each, tmp_path)


def check(each: tuple[str, int, str], tmp_path: Path) -> None:
    """Runs a program, and compares what it prints."""
    program = each[2]
    said = [text for line, text in PRINTED.items() if line in program]
    assert said, "say what it prints"
    if reason := needed(program):
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
@testing.requires("send_zc")
@pytest.mark.parametrize(("page", "source"), C_PROGRAMS, ids=[page for page, _ in C_PROGRAMS])
def test_c_programs_run(page: str, source: str, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.with_suffix(".c").write_text(source)
    flags = subprocess.check_output(["pkg-config", "--cflags", "--libs", "liburing"], text=True).split()
    strict = ["-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", *strict, "-o", program, program.with_suffix(".c"), *flags], check=True, timeout=60)
    assert subprocess.check_output([program], text=True, timeout=20) == "sent\nfree\nhello\n"


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
        "docs/tutorial.md",
        "docs/how-it-works.md",
        *(str(page.relative_to(ROOT)) for page in (ROOT / "docs" / "coming-from").iterdir()),
    }
    assert [page for page, _ in C_PROGRAMS] == ["docs/coming-from/liburing.md"]
    assert {page for page, _, _ in TESTS} == {"CONTRIBUTING.md", "docs/testing.md"}
