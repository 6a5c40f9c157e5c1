"""Every example answers --help, does what its description says, and says in one line what cannot be done."""

import re
import runpy
import shlex
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from test_examples import EXAMPLES, finish, free_port, start, wait_for_port

pytestmark = pytest.mark.engines()

NAMES = sorted(path.name for path in EXAMPLES.glob("*.py"))
GROUP = "239.255.77.7"
NEEDS = {
    "replay.py": "dpkt",
    "dns_server.py": "dnslib",
    "asyncio_dns_server.py": "dnslib",
    "http3_server.py": "aioquic",
    "metrics.py": "prometheus_client",
}


Ended = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ended(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ended:
    """Runs a program with options, here: its status, and what it prints to both."""
    monkeypatch.syspath_prepend(EXAMPLES)

    def run(name: str, *options: str) -> tuple[int, str, str]:
        if name in NEEDS:
            pytest.importorskip(NEEDS[name])
        monkeypatch.setattr(sys, "argv", [name, *options])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        code = end.value.code
        output, error = capsys.readouterr()
        if isinstance(code, str):  # as the interpreter does
            return 1, output, f"{error}{code}\n"
        return code or 0, output, error

    return run


@pytest.mark.parametrize("name", NAMES)
def test_help_of_every_example(name: str, ended: Ended) -> None:
    status, output, error = ended(name, "--help")
    assert (status, error) == (0, "")
    assert output.startswith(f"usage: {name} ")
    first_line = re.match(r'"""(.*)', (EXAMPLES / name).read_text())
    assert first_line
    described = output.partition("\n\n")[2].partition("\n\n")[0]
    assert described
    assert "show this help message" in output


@pytest.mark.slow
@pytest.mark.parametrize("name", NEEDS)
def test_a_missing_package_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / NEEDS[name]
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = start(name)
    output, error = process.communicate(timeout=30)
    assert (process.returncode, output) == (1, "")
    assert error.endswith(f", which is not installed: pip install {NEEDS[name]}\n")
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_option_is_refused(name: str, ended: Ended) -> None:
    status, output, error = ended(name, "--nonsense")
    assert (status, output) == (2, "")
    assert error.startswith(f"usage: {name} ")
    assert len([line for line in error.splitlines() if line.startswith(f"{name}: error: ")]) == 1


def commands(name: str) -> list[list[str]]:
    """Those that its description shows: the options of each."""
    text = (EXAMPLES / name).read_text().split('"""')[1]
    shown = re.findall(rf"^    {name} (.*)$", text, re.MULTILINE)
    return [shlex.split(line.rstrip(" &"), comments=True) for line in shown]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["msg_zerocopy.py", "send_zerocopy.py"])
def test_the_commands_of_a_description_work_together(name: str) -> None:
    receiving, sending = commands(name)
    port = free_port(socket.SOCK_DGRAM)
    rx = start(name, *receiving, "-p", port, "-t", "4")  # until the sender has ended, on a slow machine too
    wait_for_port("udp", port)
    tx = start(name, *sending, "-p", port, "-t", "0.2")
    assert re.match(r"(packets|tx)=[1-9]", finish(tx))
    assert re.match(r"(packets|rx)=[1-9]", finish(rx))


#: what is started, its status, and what it says
WRONG: list[tuple[str, int, str]] = [
    ("replay.py {none} 127.0.0.1 9", 1, "{none}: No such file or directory"),
    ("replay.py {tmp} 127.0.0.1 9", 1, "{tmp}: Is a directory"),
    ("replay.py /dev/null 127.0.0.1 9", 1, "/dev/null is no pcap file"),
    ("replay.py {file} 127.0.0.1 9", 1, "{file} is no pcap file"),
    ("load.py 127.0.0.1:9 --rate=x processes 1", 2, "'x' is no rate"),
    ("load.py 127.0.0.1:9 --start-in=inf processes 1", 2, "start_at is seconds since 1970, not inf"),
    ("load.py 127.0.0.1:9 processes 0", 2, "invalid choice: 0"),
    ("share_file.py {none} {tmp}/copy threads 1", 1, "{none}: No such file or directory"),
    ("share_file.py {file} {tmp}/copy --size=40 threads 1", 2, "a numbered datagram needs more than 40"),
    ("publisher.py 127.0.0.1 0", 2, "port is 1 to 65535, not 0"),
    ("publisher.py {group} 9 --interface=none0", 1, "no interface 'none0'"),
    ("publisher.py {group} 9 --count=-1", 2, "--count is 0 or more, not -1"),
    ("multicast_file.py {none} {group} 9", 1, "No such file or directory"),
    ("multicast_file.py {file} none 9", 2, "none is no multicast address"),
    ("multicast_file.py {file} {group} 9 --rate=0", 2, "--rate is more than"),
    ("multicast_file.py {file} {group} 9 --repeat=0", 2, "--repeat is 1"),
    ("multicast_file.py {none} {group} 9 --receive --timeout=-1", 2, "--timeout is more than 0"),
    ("multicast_file.py {none} {group} 9 --receive --interface=none0", 1, "no interface 'none0'"),
    (
        "multicast_file.py {none}/file {group} 9 --receive --interface=127.0.0.1",
        1,
        "No such file or directory",
    ),
    ("tcp_file.py {none} 127.0.0.1 9", 1, "No such file or directory"),
    ("tcp_file.py {file} 127.0.0.1 {port}", 1, "Connection refused"),
    ("tcp_file.py {file} 127.0.0.1 99999", 2, "port is 1 to 65535, not 99999"),
    ("tcp_file.py {file} 127.0.0.1 9 --engine=x", 2, "'x'"),
    ("tcp_file.py {none}/file 127.0.0.1 {port} --receive", 1, "No such file or directory"),
    ("tcp_file.py {file} 192.0.2.1 {port} --receive", 1, "Cannot assign requested address"),
    ("send_zerocopy.py -4 -D 127.0.0.1 -p 99999 udp", 2, "-p is 1 to 65535, not 99999"),
    ("msg_zerocopy.py -4 -D 127.0.0.1 -p 99999 udp", 2, "-p is 1 to 65535, not 99999"),
    ("dns_server.py --port=65536", 2, "--port is 0 to 65535, not 65536"),
    ("dns_server.py --host=192.0.2.1", 1, "Cannot assign requested address"),
    ("dns_server.py --zone={none}", 1, "{none}: No such file or directory"),
    ("dns_server.py --zone={file}", 1, "{file} is no zone"),
    ("asyncio_dns_server.py --port=65536", 2, "--port is 0 to 65535, not 65536"),
    ("asyncio_dns_server.py --host=192.0.2.1", 1, "Cannot assign requested address"),
    ("asyncio_dns_server.py --zone={none}", 1, "{none}: No such file or directory"),
    ("asyncio_dns_server.py --loop=x", 2, "invalid choice: 'x'"),
    ("http3_server.py {file}", 2, "{file} is no directory"),
    ("http3_server.py {tmp} --port=0", 2, "--port is 1 to 65535, not 0"),
    ("http3_server.py {tmp} --key={file}", 2, "--certificate and --key belong together"),
    ("http3_server.py {tmp} --host=192.0.2.1", 1, "Cannot assign requested address"),
    ("http3_server.py {tmp} --certificate={none} --key={none}", 1, "No such file or directory"),
    ("http3_server.py {tmp} --certificate={file} --key={file}", 1, "PEM"),
    ("raw_ethernet.py lo", 2, "name the destination too, a MAC"),
    ("raw_ethernet.py lo none", 2, "invalid mac value: 'none'"),
    ("raw_ethernet.py lo 02:00:00:00:00", 2, "invalid mac value: '02:00:00:00:00'"),
    ("raw_ethernet.py --size=21", 2, "--size is 22 to 65549, not 21"),
    ("raw_ethernet.py --count=-1", 2, "--count is 0 or more, not -1"),
    ("raw_ethernet.py --ethertype=2048000", 2, "--ethertype is 0x600 to 0xffff, not 0x1f4000"),
    ("game_server.py --port=65536", 2, "--port is 0 to 65535, not 65536"),
    ("game_server.py --host=192.0.2.1", 1, "Cannot assign requested address"),
    ("game_server.py --hz=0", 2, "--hz is more than 0 and at most 1000, not 0"),
    ("game_server.py --bots=-1", 2, "--bots is 0 to 30344, not -1"),
    ("rtp_fanout.py none", 2, "invalid address value: 'none'"),
    ("rtp_fanout.py 127.0.0.1:70000", 1, "a port is 0 to 65535, not 70000"),
    ("rtp_fanout.py --streams=0", 2, "--streams is 1 or more, not 0"),
    ("rtp_fanout.py --control=65536", 2, "--control is 0 to 65535, not 65536"),
    ("market_data.py 127.0.0.1:9,none", 2, "invalid receivers value: '127.0.0.1:9,none'"),
    ("market_data.py {group}:9 --interface=none0", 1, "no interface 'none0'"),
    ("market_data.py {group}:9 --pps=fast", 1, "fast"),
    ("market_data.py {group}:9 --count=-1", 2, "--count is 0 or more, not -1"),
    ("metrics.py 127.0.0.1 0", 2, "port is 1 to 65535, not 0"),
    ("metrics.py 127.0.0.1 9 --metrics-port=65536", 2, "--metrics-port is 0 to 65535, not 65536"),
]


@pytest.mark.parametrize(("command", "status", "sentence"), WRONG)
def test_an_error_is_one_line(command: str, status: int, sentence: str, tmp_path: Path, ended: Ended) -> None:
    name, *options = command.split()
    file = tmp_path / "file"
    file.write_bytes(b"no pcap" * 100)
    names = {
        "group": GROUP,
        "file": file,
        "none": tmp_path / "none",
        "tmp": tmp_path,
        "port": free_port(socket.SOCK_STREAM),
    }
    ended_with, _, error = ended(name, *(option.format(**names) for option in options))
    assert ended_with == status, error
    said = error.splitlines()
    if status == 2:  # argparse's: after the usage
        said = said[-1:]
    assert len(said) == 1, error
    assert sentence.format(**names) in said[0]
    assert sys.executable not in error
