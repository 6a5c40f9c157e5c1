"""`uringzc send` and `uringzc recv`: what they print, to whom, and how they end."""

import json
import os
import pty
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from both_ends import on_a_terminal, sent_by
from click.testing import CliRunner, Result
from traffic import wait_until

from uringzc import testing
from uringzc.cli import main
from uringzc.cli.recv import Lines, failures, loss_share
from uringzc.cli.send import share_of, start_time
from uringzc.cli.traffic import bits, duration, per_second
from uringzc.jobs import Job, Progress, ReceiveJob
from uringzc.jobs import Received as ReceivedResult
from uringzc.jobs import Result as SentResult

pytestmark = pytest.mark.engines()
COMMAND = [sys.executable, "-m", "uringzc"]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def rx() -> Iterator[testing.Receiver]:
    with testing.receiver() as receiver:
        yield receiver


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(random.Random(1).randbytes(50_321))
    return path


def target(rx: testing.Receiver) -> str:
    return f"127.0.0.1:{rx.address[1]}"


class Recv:
    """`uringzc recv` in a process, which is ready: where it is, and how it ends."""

    def __init__(self, *options: str, **popen: Any) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "recv", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **popen
        )
        assert self.process.stderr
        line = self.process.stderr.readline()
        assert line.startswith("receiving at "), line + self.process.stderr.read()
        self.address = line.split()[-1]

    def put(self, datagrams: Sequence[bytes]) -> None:
        host, _, port = self.address.rpartition(":")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for datagram in datagrams:
                sock.sendto(datagram, (host, int(port)))

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


@contextmanager
def recv(*options: str, bind: str = "127.0.0.1:0") -> Iterator[Recv]:
    started = Recv("--bind", bind, *options)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.communicate()


# -- both ends


def test_both_ends() -> None:
    with recv("--check") as end:
        sent = invoke("send", end.address, "--count=300", "--size=100")
        status, out, err = end.end()
    assert (sent.exit_code, status) == (0, 0), sent.output + out + err
    assert sent.stdout.startswith(f"300 datagrams to {end.address} in ")
    for word in ("rate", "payload", "trains", "copied", "CPU", "engine"):
        assert f"\n{word}" in sent.stdout
    assert "300 datagrams in " in out
    assert "came 300 of 300" in " ".join(out.split())
    assert "latency p50" in out
    assert "\x1b" not in sent.output + out + err


def test_json_at_both_ends() -> None:
    with recv("--json") as end:
        sent = invoke("send", end.address, "--count=100", "--json")
        status, out, _ = end.end()
    assert (sent.exit_code, status) == (0, 0)
    report = json.loads(sent.stdout)
    assert Job(**report["job"]).to == (end.address,)
    assert SentResult.from_dict(report["result"]).datagrams == 100
    came = json.loads(out)
    assert came["failed"] == []
    assert ReceivedResult.from_dict(came["received"]).streams[0].expected == 100


def test_a_file_through_both_ends(file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with recv("--output", str(copy)) as end:
        assert invoke("send", end.address, str(file), "--numbered").exit_code == 0
        status, out, _ = end.end()
    assert status == 0, out
    assert "written" in out
    assert copy.read_bytes() == file.read_bytes()


def test_pipes(file: Path, tmp_path: Path) -> None:
    """cat file | uringzc send - ; uringzc recv --output - > copy: standard output is the data alone."""
    copy = tmp_path / "copy"
    with open(copy, "wb") as out, open(file, "rb") as data:
        receiver = subprocess.Popen(
            [*COMMAND, "recv", "--bind=127.0.0.1:0", "--output=-", "--count=51"],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert receiver.stderr
        address = receiver.stderr.readline().split()[-1]
        sent = subprocess.run(
            [*COMMAND, "send", address, "-", "--size=1000", "--rate=20kpps"],
            stdin=data,
            capture_output=True,
            timeout=30,
            check=False,
        )
        _, said = receiver.communicate(timeout=30)
    assert (sent.returncode, receiver.returncode) == (0, 0), sent.stderr
    assert copy.read_bytes() == file.read_bytes()
    assert "51 datagrams" in said


def test_a_pipe_that_nobody_reads() -> None:
    with recv("--output=-", "--idle=5") as end:
        assert end.process.stdout
        end.process.stdout.close()
        end.put([b"x" * 100])
        assert end.process.stderr
        said = end.process.stderr.read()
        assert end.process.wait(30) == 1
    assert "Traceback" not in said
    assert "Broken pipe" in said


@testing.requires("net_admin")
def test_both_ends_in_a_sandbox() -> None:
    with testing.hold(delay=0.001) as box:
        inside = ["nsenter", f"--net={box.peer.netns_path}"]
        receiver = subprocess.Popen(
            [*inside, *COMMAND, "recv", f"--bind={box.address[0]}:9000", "--check"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert receiver.stderr
        receiver.stderr.readline()
        sent = box.run(lambda: invoke("send", f"{box.address[0]}:9000", "--count=100"))
        out, _ = receiver.communicate(timeout=30)
    assert (sent.exit_code, receiver.returncode) == (0, 0), sent.output + out
    assert "above the fastest" in out  # another address: the clocks may differ
    assert "only as right as these agree" in out


# -- what recv finds, and how it ends


def lossy(change: Callable[[list[bytes]], list[bytes]], *options: str) -> tuple[int, str]:
    datagrams = sent_by(count=100, size=100)
    with recv(*options) as end:
        end.put(change(datagrams))
        status, out, _ = end.end()
    return status, out


def without_two(datagrams: list[bytes]) -> list[bytes]:
    return [*datagrams[:10], *datagrams[12:]]


def one_twice(datagrams: list[bytes]) -> list[bytes]:
    return [datagrams[0], *datagrams]


def one_corrupt(datagrams: list[bytes]) -> list[bytes]:
    return [bytes(datagrams[0][:-1]) + bytes([datagrams[0][-1] ^ 1]), *datagrams[1:]]


@pytest.mark.parametrize(
    ("change", "options", "status", "said"),
    [
        (without_two, (), 0, "lost 2 2.0000%"),
        (without_two, ("--loss=2%",), 0, "lost"),
        (without_two, ("--loss=1.9%",), 1, "Failed: 2 datagrams lost, 2.0000%."),
        (without_two, ("--check",), 1, "Failed: 2 datagrams lost, 2.0000%."),
        (one_twice, (), 0, "twice"),
        (one_twice, ("--check",), 1, "Failed: 1 datagram came twice."),
        (list, ("--check",), 0, "100 datagrams"),
        (one_corrupt, (), 1, "Failed: 1 datagram with a wrong checksum."),
        (lambda _: [b"x"], ("--count=1", "--loss=1%"), 1, "no datagram had a number"),
        (lambda _: [b"x"], ("--count=1", "--check"), 1, "without a number"),
        (lambda _: [b"x"], ("--count=1",), 0, "not numbered"),
        (lambda _: [b"x"], ("--count=2", "--idle=0.1"), 1, "Failed: 1 of 2 datagrams came."),
        (lambda _: [], ("--duration=0.1",), 1, "Failed: nothing came."),
    ],
)
def test_the_exit_status_says_whether_it_held(
    change: Callable[[list[bytes]], list[bytes]], options: tuple[str, ...], status: int, said: str
) -> None:
    found, out = lossy(change, *options)
    assert said in " ".join(out.split())
    assert found == status


def test_an_output_that_is_not_complete_is_a_failure(file: Path, tmp_path: Path) -> None:
    datagrams = sent_by(file=str(file), numbered=True, size=1000)
    for some, why in ((datagrams[1:], "lost"), (datagrams[:-3], "did not end")):
        with recv(f"--output={tmp_path / 'copy'}", "--idle=0.7") as end:
            end.put(some)
            status, out, _ = end.end()
        assert status == 1
        assert why in out


def test_a_line_for_each_second_that_brings_something() -> None:
    said: list[str] = []

    class Console:
        def print(self, text: str) -> None:
            said.append(text.split("  ", 1)[1].strip())

    lines = Lines(Console())  # type: ignore[arg-type]
    seen = ((2, 0, 0), (12, 0, 0), (13, 70, 0), (15, 100, 0), (16, 200, 7), (24, 200, 7))
    for quarters, datagrams, lost in seen:
        lines(Progress(quarters / 4, datagrams, 125 * datagrams, None, lost))
    assert [line.split() for line in said] == [["200", "/s", "200.00", "kbit/s", "7", "lost"]]


def test_the_lines_of_a_run_are_there_while_it_runs() -> None:
    with recv("--duration=20") as end:
        stop = threading.Event()

        def put() -> None:
            while not stop.wait(0.05):
                end.put([b"x" * 100])

        thread = threading.Thread(target=put)
        thread.start()
        assert end.process.stdout
        line = end.process.stdout.readline()
        stop.set()
        thread.join()
    assert line.count("/s") == 2


# -- sources and destinations of send


def test_generated_for_a_while(rx: testing.Receiver) -> None:
    sent = invoke("send", target(rx), "--duration=0.1", "--rate=1kpps", "--size=10", "--json")
    result = json.loads(sent.stdout)["result"]
    assert 0 < result["datagrams"] <= 100
    assert {len(datagram) for datagram in rx.wait(result["datagrams"])} == {10}


def test_options_become_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[Job] = []

    def run(job: Job, progress: object) -> SentResult:
        jobs.append(job)
        raise ValueError("seen")

    monkeypatch.setattr("uringzc.jobs.sending.run", run)
    options = (
        "--rate=5kpps --bytes=7 --to=127.0.0.1:10 --spread --ttl=3 --interface=lo --no-loop --engine=copy"
    )
    invoke("send", "127.0.0.1:9", *options.split(), "--zero-copy=never", "--bind=127.0.0.1:0")
    invoke(
        "send", "127.0.0.1:9", "x", "--numbered", "--share=2/3", "--repeat=4", "--start-at=99.5", "--size=99"
    )
    invoke("send", "127.0.0.1:9", "x", "--pcap", "--speed=2.5")
    invoke("send", "127.0.0.1:9", "x", "--lines", "--count=5")
    invoke("send", "127.0.0.1:9")
    assert jobs == [
        Job(
            ("127.0.0.1:9", "127.0.0.1:10"),
            rate="5kpps",
            nbytes=7,
            spread=True,
            ttl=3,
            interface="lo",
            multicast_loop=False,
            engine="copy",
            zero_copy="never",
            bind="127.0.0.1:0",
        ),
        Job("127.0.0.1:9", file="x", numbered=True, share=(1, 3), repeat=4, start_at=99.5, size=99),
        Job("127.0.0.1:9", file="x", pcap=True, speed=2.5),
        Job("127.0.0.1:9", file="x", lines=True, count=5),
        Job("127.0.0.1:9", duration=10.0),
    ]


def test_send_fails_where_nobody_receives() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    sent = invoke("send", f"127.0.0.1:{port}", "--count=3")
    assert sent.exit_code == 1
    assert "Failed: Connection refused: " in sent.stdout


def test_what_is_typed_is_sent_line_by_line(rx: testing.Receiver) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "send", target(rx), "-"], stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    os.close(theirs)
    os.write(ours, b"hello\n")
    assert rx.wait(1, 20) == [b"hello\n"]
    os.write(ours, b"you\n\x04")
    out, err = process.communicate(timeout=30)
    os.close(ours)
    assert (process.returncode, rx.wait(2)) == (0, [b"hello\n", b"you\n"]), err
    assert out.startswith(b"2 datagrams")


# -- wrong use, interrupts, terminals


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("send",), "Missing argument 'HOST:PORT'"),
        (("send", "host"), "is not HOST:PORT"),
        (("send", "127.0.0.1:0"), "port not 0"),
        (("send", "127.0.0.1:9", "--rate=5"), "is no rate"),
        (("send", "127.0.0.1:9", "--size=0"), "not in the range"),
        (("send", "127.0.0.1:9", "--count=0"), "not in the range"),
        (("send", "127.0.0.1:9", "--duration=0"), "not in the range"),
        (("send", "127.0.0.1:9", "--numbered"), "numbered is for a file"),
        (("send", "127.0.0.1:9", "--spread"), "among several destinations"),
        (("send", "127.0.0.1:9", "--start-at=soon"), "is no time"),
        (("send", "127.0.0.1:9", "x", "--share=0/4"), "counted from 1"),
        (("send", "127.0.0.1:9", "x", "--share=4"), "is no share"),
        (("send", "127.0.0.1:9", "--engine=fast"), "engine is 'auto' or one of"),
        (("send", "127.0.0.1:9", "--zero-copy=maybe"), "is not one of"),
        (("send", "127.0.0.1:9", "/no/such/file"), "/no/such/file: No such file"),
        (("send", "127.0.0.1:9", "/"), "/: Is a directory"),
        (("send", "127.0.0.1:9", "/etc/hostname", "--pcap"), "is no pcap file"),
        (("send", "127.0.0.1:9", "--to=[::1]:9", "--count=1"), "IPv4 and IPv6"),
        (("recv",), "Missing option '--bind'"),
        (("recv", "--bind=x"), "is not HOST:PORT"),
        (("recv", "--bind=:0", "--loss=2"), "is no share"),
        (("recv", "--bind=:0", "--count=0"), "not in the range"),
        (("recv", "--bind=:0", "--idle=-1"), "not in the range"),
        (("recv", "--bind=127.0.0.1:0", "--interface=lo"), "is for a multicast group"),
        (("recv", "--bind=127.0.0.1:0", "--output=/no/such/file"), "/no/such/file: No such file"),
    ],
)
def test_wrong_use_ends_with_2_and_a_sentence(arguments: tuple[str, ...], said: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("send", "host.invalid:9"), "'host.invalid' is no host"),
        (("send", "255.255.255.255:9"), "broadcast"),
        (("send", "127.0.0.1:9", "--bind=192.0.2.1:0"), "Cannot assign"),
        (("recv", "--bind=192.0.2.1:9"), "192.0.2.1:9: Cannot assign"),
        (("recv", "--bind=239.1.2.3:0", "--interface=nowhere"), "no interface 'nowhere'"),
    ],
)
def test_what_is_not_possible_ends_with_1_and_a_sentence(arguments: tuple[str, ...], said: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert said in result.output
    assert "Traceback" not in result.output


def test_times_and_shares() -> None:
    assert start_time("12.5") == 12.5
    assert start_time("2026-11-22T18:30:00+00:00") == 1795372200
    assert start_time("+5") > start_time("+4") > 1.7e9
    assert share_of("1/1") == (0, 1)
    assert (loss_share("0.01%"), loss_share("0.5"), loss_share("0")) == (0.0001, 0.5, 0)


def test_numbers_as_people_read_them() -> None:
    assert [per_second(1.5), per_second(123456.7)] == ["1.5 /s", "123,457 /s"]
    assert [bits(5), bits(2.5e9), bits(1e3)] == ["5 bit/s", "2.50 Gbit/s", "1.00 kbit/s"]
    assert [duration(5), duration(1500), duration(2.5e6), duration(-3e9)] == [
        "5 ns",
        "1.5 us",
        "2.5 ms",
        "-3 s",
    ]


def test_failures_of_what_was_not_asked_for() -> None:
    nothing = ReceivedResult("", 0, 0, 0.0, 0.0, 0, 0, 1, (), 0, (), 0, 0, 0, 0, "duration")
    assert failures(nothing, ReceiveJob(":0"), None, False) == ["nothing came"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_send_and_recv(number: signal.Signals, code: int, rx: testing.Receiver) -> None:
    """With the summary, and for the receivers with the datagram that ends the stream."""
    process = subprocess.Popen(
        [*COMMAND, "send", target(rx), "--rate=1kpps", "--duration=60", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    rx.wait(20, 30)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (code, "")
    result = json.loads(out)["result"]
    assert result["stopped"] == "interrupt"
    *datagrams, last = rx.wait(result["datagrams"] + 1)  # the last one says how many there were
    assert int.from_bytes(last[8:16], "little") == len(datagrams) == result["datagrams"]
    with recv() as running:
        running.put([b"x"])
        running.process.send_signal(number)
        status, out, err = running.end()
    assert (status, err) == (code, "")
    assert ", interrupted" in out


def test_ctrl_c_before_it_begins() -> None:
    process = subprocess.Popen(
        [*COMMAND, "send", "127.0.0.1:9", "--start-at=+60"], stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    wchan = Path(f"/proc/{process.pid}/wchan")  # CPython 3.10 sleeps in select(2)
    assert wait_until(lambda: any(call in wchan.read_text() for call in ("nanosleep", "poll_schedule")))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"0 datagrams" in out or b"Stopped" in err
    assert b"Traceback" not in err


@pytest.mark.parametrize("columns", [40, 100])
def test_a_narrow_terminal(columns: int, rx: testing.Receiver) -> None:
    # long enough for the line that moves
    text, said = on_a_terminal(columns, "send", target(rx), "--count=300", "--rate=1kpps")
    summary = "300 datagrams to" + text.rpartition("300 datagrams to")[2]
    assert max(len(line.rstrip()) for line in summary.splitlines()) <= columns
    assert "of 300 datagrams" in said  # the line that moves


def test_standard_output_that_cannot_be_written_to(rx: testing.Receiver) -> None:
    for options in ((), ("--json",)):
        with open("/dev/full", "w") as full:
            process = subprocess.run(
                [*COMMAND, "send", target(rx), "--count=5", *options],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
                timeout=30,
            )
        assert process.returncode == 1
        assert process.stderr == "Error: standard output cannot be written to: No space left on device.\n"
