"""The examples run, and print what they are to show."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import traffic
from marks import only_io_uring, only_msg_zerocopy
from traffic import is_bound, wait_until

EXAMPLES = Path(__file__).parents[2] / "examples"
LINE = r"packets=(\d+) \(MB=(\d+)\), rps=(\d+) \(MB/s=(\d+)\)\n"
MORE = r"copied=(\d+)%, memory back after p50=(\d+) us p99=(\d+) us, CPU=([\d.]+) ns/byte\n"


def start(name: str, *options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-X", "dev", "-W", "error", str(EXAMPLES / name), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: "subprocess.Popen[str]") -> str:
    output, error = process.communicate(timeout=30)
    assert process.returncode == 0, error
    return output


def free_port(kind: int) -> str:
    return str(traffic.free_port(kind=kind))


def wait_for_port(protocol: str, port: str) -> None:
    """Returns when somebody has bound it."""
    assert wait_until(lambda: is_bound(protocol, int(port)))


def test_hello_prints_its_completion_and_notification() -> None:
    assert finish(start("hello.py")).splitlines() == [
        "Completion(user_data=7, result=5)",
        "Notification(tag=10, sequence=0, slot=0, requests=1, nbytes=5, copied=1, failed=0)",
        "b'hello'",
    ]
    program = (EXAMPLES / "hello.py").read_text().partition('"""\n\n')[2]
    program = re.sub(r"import argparse\n|argparse\..*\n\n", "", program)  # the answer to --help
    readme = (EXAMPLES.parent / "README.md").read_text()
    assert f"```python\n{program}```" in readme  # it is the README's code


def test_slots_prints_each_request_and_notifier() -> None:
    lines = finish(start("slots.py")).splitlines()
    requests = [line for line in lines if line.startswith("request")]
    assert sorted(requests) == sorted(
        [f"request {i}: 8 bytes" for i in (1, 2, 3)] + [f"request {i}: 1400 bytes" for i in range(100, 104)]
    )
    notifiers = [line.rpartition(",")[0] for line in lines if line.startswith("notifier")]
    assert sorted(notifiers) == [
        "notifier 0 of slot 0, tag 0xaaaa: all is free again; requests: 2, bytes: 16",
        "notifier 0 of slot 1, tag 0xbbbb: all is free again; requests: 4, bytes: 5600",
        "notifier 1 of slot 0, tag 0xaaaa: all is free again; requests: 1, bytes: 8",
    ]


@pytest.mark.slow
@only_io_uring
@pytest.mark.parametrize(
    ("protocol", "receiving", "sending"),
    [
        ("udp", [], ["-n", "16", "-s", "8000"]),
        ("udp", [], ["-z", "0", "-l", "1", "-d", "-s", "8000"]),
        ("tcp", [], ["-n", "1"]),
        ("tcp", ["-T", "2"], ["-T", "2", "-b", "0", "-C", "0"]),
    ],
    ids=["udp", "udp copying", "tcp", "tcp, threads, unregistered"],
)
def test_send_zerocopy_sends_and_receives(protocol: str, receiving: list[str], sending: list[str]) -> None:
    port = free_port(socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM)
    size = sending[-2:] if "-s" in sending else []
    rx = start("send_zerocopy.py", "-4", "-R", "-p", port, "-t", "1", *receiving, *size, protocol)
    wait_for_port(protocol, port)
    tx = start("send_zerocopy.py", "-4", "-D", "127.0.0.1", "-p", port, "-t", "0.1", *sending, protocol)
    sent, received = re.fullmatch(LINE + MORE, finish(tx)), re.fullmatch(LINE, finish(rx))
    assert sent
    assert received
    assert int(sent[5]) in range(101)
    assert int(received[1]) > 0
    if protocol == "tcp":
        assert abs(int(received[2]) - int(sent[2])) <= 1
    else:
        assert int(received[1]) <= int(sent[1])


@only_msg_zerocopy
def test_send_zerocopy_reports_unknown_copies() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as rx:
        rx.bind(("127.0.0.1", 0))
        port = str(rx.getsockname()[1])
        tx = start("send_zerocopy.py", "-4", "-D", "127.0.0.1", "-p", port, "-t", "0.1", "-n", "16", "udp")
        assert "\ncopied=unknown, memory back" in finish(tx)


@pytest.mark.slow
@only_io_uring
def test_send_zerocopy_ends_when_nobody_reads() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        tx = start("send_zerocopy.py", "-4", "-D", "127.0.0.1", "-p", port, "-t", "0.1", "-n", "64", "tcp")
        finish(tx)


@only_io_uring
def test_send_zerocopy_ends_at_connection_refused() -> None:
    port = free_port(socket.SOCK_DGRAM)
    tx = start("send_zerocopy.py", "-4", "-D", "127.0.0.1", "-p", port, "-t", "20", "udp")
    finish(tx)  # long before


@pytest.mark.slow
@only_io_uring
@pytest.mark.parametrize(
    ("options", "said"),  # of what argparse refuses itself, only what it is about
    [
        (["-D", "::1", "udp"], "-4 -6"),
        (["-4", "udp"], "-D says where to send to"),
        (["-4", "-D", "127.0.0.1", "-n", "513", "udp"], "-n is 1 to 512, not 513"),
        (["-4", "-D", "127.0.0.1", "-s", "65436", "udp"], "-s is 1 to 65435, not 65436"),
        (["-4", "-R", "-T", "2", "udp"], "-R with udp has one thread"),
        (["-4", "-D", "127.0.0.1", "sctp"], "'sctp'"),
    ],
)
def test_send_zerocopy_refuses_bad_options(options: list[str], said: str) -> None:
    process = start("send_zerocopy.py", *options)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 2
    assert said in error.splitlines()[-1]
