"""`uringzc bench`: what it measures and prints, at both ends, and how it ends."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from bench_figures import MACHINE, came, sent, stream
from both_ends import on_a_terminal
from click.testing import CliRunner, Result

from uringzc import testing
from uringzc.cli import main
from uringzc.cli.bench_options import fitting_sizes, parse_peer, parse_sizes, working_engines
from uringzc.cli.bench_tables import share
from uringzc.jobs import BenchReport, BenchRound
from uringzc.report.numbers import short

pytestmark = pytest.mark.engines()
COMMAND = [sys.executable, "-m", "uringzc", "bench"]
QUICK = ("--engine=copy,socket", "--size=64,1200", "--seconds=0.05")


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["bench", *arguments])


@contextmanager
def serving(bind: str = "127.0.0.1:0", *inside: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """`uringzc bench --serve` in a process: where, and the process."""
    process = subprocess.Popen(
        [*inside, *COMMAND, "--serve", bind], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr
        line = process.stderr.readline()
        assert line.startswith("serving at "), line + process.stderr.read()
        yield line.split()[2], process
    finally:
        process.kill()
        process.communicate()


def test_engines_and_sizes_beside_each_other(tmp_path: Path) -> None:
    """On this machine it starts the other end itself."""
    path = tmp_path / "bench.json"
    found = invoke("localhost", *QUICK, "--rounds=2", "--rate=2kpps", f"--json={path}")
    report = BenchReport.from_dict(json.loads(path.read_text()))
    assert found.exit_code == bool(report.failed), found.output
    assert all("the rate was" in sentence for sentence in report.failed)  # on a busy machine
    assert [(run.size, run.engine, run.rate) for run in report.runs] == [
        (size, engine, "2kpps") for size in (64, 1200) for engine in ("copy", "socket")
    ]
    for run in report.runs:
        assert len(run.rounds) == 2
        for each in run.rounds:
            assert each.came == each.result.datagrams > 0
            assert each.copied_share == 1.0
    assert report.machine.interface == report.peer.interface == "lo"
    assert (report.limit, report.seconds) == (None, 0.05)
    lines = found.stdout.splitlines()
    assert lines[0] == "localhost: 8 runs of 0.05 s, about 4 s"
    assert [line.split()[0] for line in lines[1:9]] == ["copy", "socket"] * 4  # while it was measured
    assert "1 100%" in found.stdout  # trains of the socket
    assert "Medians of 2 rounds" in found.stdout
    assert "\x1b" not in found.output


def test_with_the_other_end_in_another_process() -> None:
    with serving() as (address, server):
        options = ("--size=64", "--seconds=0.05", "--rounds=1")
        found = invoke(address, "--engine=socket", *options)
        assert found.exit_code == 0, found.output
        found = invoke(address, "--engine=auto", *options, "--json")  # standard output is that alone
        assert BenchReport.from_dict(json.loads(found.stdout)).runs[0].engine == "auto"
        server.send_signal(signal.SIGINT)
        _, said = server.communicate(timeout=30)
    assert server.returncode == 130
    assert said.count("127.0.0.1: began") == said.count("127.0.0.1: 1 run, and left") == 2
    assert "Traceback" not in said


def test_the_other_end_vanishes() -> None:
    with serving() as (address, server):
        process = subprocess.Popen(
            [*COMMAND, address, *QUICK, "--rounds=1000", "--json=/dev/null"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout
        process.stdout.readline()
        assert "lost" in process.stdout.readline()  # a run is done
        server.kill()
        out, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err == ""
    assert "Failed: " in out
    assert "bytes: the other end" in out
    assert "trains by length" in out  # what there was


def test_ctrl_c_prints_what_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    process = subprocess.Popen(
        [*COMMAND, "localhost", *QUICK, "--rounds=1000", f"--json={path}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    process.stdout.readline()
    assert process.stdout.readline().startswith("copy")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "")
    assert "trains by length" in out
    assert "Failed: stopped by Ctrl-C." in out
    report = BenchReport.from_dict(json.loads(path.read_text()))
    assert report.runs[0].rounds[0].result.stopped == "duration"
    assert report.failed[-1] == "stopped by Ctrl-C"


class Way:
    """In place of a connection: each run sends 100 datagrams, of which some come."""

    host, machine, peer = "192.0.2.7", MACHINE, MACHINE
    arriving = 100

    def __init__(self, *_: object) -> None: ...

    def __enter__(self) -> "Way":
        return self

    def __exit__(self, *_: object) -> None: ...

    def measure(self, engine: str, *_: object) -> BenchRound:
        if engine == "copy":
            raise OSError(1, "not here")
        received = came(stream(7, self.arriving)) if self.arriving else came()
        return BenchRound(sent(), replace(received, dropped=self.arriving % 100))


@pytest.fixture
def way(monkeypatch: pytest.MonkeyPatch) -> type[Way]:
    monkeypatch.setattr("uringzc.jobs.near_end.NearEnd", Way)
    monkeypatch.setattr(Way, "arriving", 90)
    return Way


def test_an_engine_that_cannot_fails_and_the_others_go_on(way: type[Way]) -> None:
    found = invoke("host", *QUICK, "--rounds=2")
    assert found.exit_code == 1
    assert "Failed: copy, 64 bytes: not here." in found.stdout
    assert len([line for line in found.stdout.splitlines() if line.startswith("socket ")]) == 4


@pytest.mark.parametrize(
    ("option", "status", "said"),
    [
        ("--loss=5%", 1, "Failed: socket, 64 bytes: 10.0000% lost."),
        ("--loss=10.1%", 0, "10%"),
        ("--rounds=2", 0, "In 2 of 2 runs the receiver's buffer was full"),
    ],
)
def test_loss(way: type[Way], option: str, status: int, said: str) -> None:
    found = invoke("host", "--engine=socket", "--size=64", "--rounds=1", option)
    assert found.exit_code == status
    assert said in found.stdout


# -- the limit


def test_the_limit_of_a_sender_that_may_lose_everything() -> None:
    options = ("--engine=copy", "--size=1200", "--seconds=0.05")
    found = invoke("localhost", "--find-limit", "--loss=100%", *options)
    assert found.exit_code == 0, found.output
    assert "above it, the sender is not faster, or its interface" in found.stdout
    assert found.stdout.count("  held") == 2


@testing.requires("net_admin")
def test_the_limit_of_a_way_is_found() -> None:
    """What leaves this sandbox is limited to so many bytes per second, where a packet counts 4096 more."""
    delay, size, sndbuf = 0.01, 8900, 212_992
    with testing.hold(delay=delay, mtu=9000) as box:
        carries = sndbuf / delay / (size + 42 + 4096)
        box.limit(70_000)
        inside = ("nsenter", f"--net={box.peer.netns_path}")
        with serving(f"{box.address[0]}:9000", *inside):
            options = ("--engine=socket", f"--size={size}", "--seconds=0.2", "--loss=5%", "--json")
            found = box.run(lambda: invoke(f"{box.address[0]}:9000", "--find-limit", *options))
    report = BenchReport.from_dict(json.loads(found.stdout))
    assert report.limit
    assert found.exit_code == (0 if report.limit.pps else 1)
    assert report.limit.bound in ("loss", "sender")  # that, and less than it carries, on a busy machine
    assert report.limit.pps < 2 * carries  # the queue is empty when a try begins
    assert not [one for one in report.limit.tries if one.held and one.sent_pps > 2 * carries]


def test_where_nothing_comes_there_is_no_limit(way: type[Way], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(way, "arriving", 0)
    found = invoke("host", "--engine=socket", "--find-limit", "--json")
    assert found.exit_code == 1
    report = json.loads(found.stdout)
    assert report["limit"]["pps"] == 0.0
    assert report["failed"] == ["no rate was found at which 0.01% or less is lost"]


# -- terminals


@pytest.mark.parametrize("columns", [40, 120])
def test_terminals(columns: int) -> None:
    text, said = on_a_terminal(columns, "bench", "localhost", *QUICK, "--rounds=1", "--rate=1kpps")
    assert "4/4  socket  1,200 bytes" in said  # the line that moves
    shown = text.rpartition("\n64 bytes" if columns == 40 else "datagrams/s")
    assert shown[1]
    assert "socket" in shown[2]
    assert max(len(line.rstrip()) for line in shown[2].splitlines()) <= columns


# -- wrong use


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Missing argument 'HOST[:PORT]', or --serve."),
        (("--json", "localhost"), "--json has taken 'localhost' as its FILE"),
        (("localhost", "--size=0"), "1 to 65507 bytes, not 0"),
        (("localhost", "--size=x"), "is no size"),
        (("localhost", "--size=1-9"), "is no size"),
        (("localhost", "--size=9-1:1"), "is no range"),
        (("localhost", "--size=1-9:0"), "is no range"),
        (("localhost", "--size=1-65000:1"), "at most 100 sizes"),
        (("localhost", "--engine=fast"), "engine is one of auto, io_uring"),
        (("localhost", "--seconds=0"), "not in the range"),
        (("localhost", "--rounds=0"), "not in the range"),
        (("localhost", "--rate=5"), "is no rate"),
        (("localhost", "--loss=2"), "is no share"),
        (("localhost:x",), "is not HOST:PORT"),
        (("localhost", "--find-limit", "--size=64,1200"), "for one --size"),
        (("localhost", "--find-limit", "--engine=copy,socket"), "for one --engine"),
        (("localhost", "--find-limit", "--rate=5kpps"), "leave --rate out"),
        (("localhost", "--find-limit", "--rounds=3"), "leave --rounds out"),
        (("--serve=127.0.0.1", "--rate=5kpps"), "--rate is for the other"),
        (("localhost", "--serve", "127.0.0.1"), "has no HOST to send to"),
    ],
)
def test_wrong_use_ends_with_2_and_a_sentence(arguments: tuple[str, ...], said: str) -> None:
    found = invoke(*arguments)
    assert found.exit_code == 2, found.output
    assert said in " ".join(found.output.split())
    assert found.stdout == ""


def test_a_file_that_cannot_be_written_is_said_before_anything_is_measured(way: type[Way]) -> None:
    found = invoke("host", "--json=/no/such/file")
    assert found.exit_code == 2
    assert "/no/such/file: No such file" in found.output
    assert "lost" not in found.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("host.invalid",), "'host.invalid' is no host"),
        (("255.255.255.255",), "255.255.255.255:5217: Network is unreachable"),
        (("127.0.0.1:1",), "nobody serves there. Run `uringzc bench --serve :1` on that machine"),
        (("--serve", "192.0.2.1"), "192.0.2.1:5217 cannot be served: Cannot assign"),
    ],
)
def test_what_is_not_possible_ends_with_1_and_a_sentence(arguments: tuple[str, ...], said: str) -> None:
    found = invoke(*arguments)
    assert found.exit_code == 1
    assert said in found.output
    assert "Traceback" not in found.output


def test_hosts_and_sizes() -> None:
    assert parse_peer("host") == ("host", None)
    assert parse_peer("host:7") == ("host", 7)
    assert parse_peer("::1") == parse_peer("[::1]") == ("::1", None)
    assert parse_peer("[::1]:7") == ("::1", 7)
    assert parse_sizes("64,100-300:100") == [64, 100, 200, 300]
    assert fitting_sizes(1500, ipv6=False) == [64, 200, 512, 1200, 1472]
    assert fitting_sizes(1500, ipv6=True) == [64, 200, 512, 1200]
    assert fitting_sizes(9000, ipv6=False)[-1] == 8900
    assert {"copy", "socket"} <= set(working_engines())


def test_numbers_as_people_read_them() -> None:
    assert [short(number) for number in (7, 999.9, 1_234, 99_960, 999_600, 15.6e6)] == [
        *("7", "1k", "1.23k", "100k", "1M", "15.6M")
    ]
    assert [share(part) for part in (None, 0, 1, 0.5, 0.0512, 0.0001, 1e-9, 0.9999)] == [
        *("-", "0%", "100%", "50%", "5.1%", "0.01%", "<0.0001%", "99.99%")
    ]
