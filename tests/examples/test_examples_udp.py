"""The examples of UdpSender run: all that they send arrives, in order."""

import itertools
import random
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from processes import killed_at_exit
from traffic import free_port

from uringzc import testing

pytestmark = pytest.mark.engines()  # each has tests of its own
EXAMPLES = Path(__file__).parents[2] / "examples"
GROUP = "239.255.77.7"
MESSAGE = struct.Struct("!QQ8sqI")
Program = subprocess.Popen[str]
HOSTS = ["127.0.0.1", "::1"]


@contextmanager
def started(name: str, *options: object, box: testing.Sandbox | None = None) -> Iterator[Program]:
    """An example as a program of its own, inside `box`; killed if the block leaves it running."""
    command = [sys.executable, "-X", "dev", "-W", "error", str(EXAMPLES / name), *map(str, options)]

    def start() -> Program:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    with killed_at_exit(box.run(start) if box else start()) as process:
        yield process


def finish(process: Program, code: int = 0) -> str:
    output, error = process.communicate(timeout=30)
    assert process.returncode == code, error
    return output


def run(name: str, *options: object, box: testing.Sandbox | None = None, code: int = 0) -> str:
    with started(name, *options, box=box) as process:
        return finish(process, code)


def group_receiver() -> socket.socket:
    """Bound to a free port, and a member of the group on loopback."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    member = socket.inet_aton(GROUP) + socket.inet_aton("127.0.0.1")
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
    sock.bind((GROUP, 0))
    return sock


def nobody() -> Any:
    """An address where nobody is."""
    return "127.0.0.1", free_port()


# -- publisher.py


def check_messages(datagrams: list[bytes], count: int) -> None:
    messages = [MESSAGE.unpack(datagram) for datagram in datagrams]
    assert [message[0] for message in messages] == list(range(count))
    assert all(a[1] <= b[1] for a, b in itertools.pairwise(messages))
    assert {message[2].rstrip(b"\0") for message in messages} == {b"AAA.X", b"BBB.X", b"CCC.X", b"DDD.Y"}


@pytest.mark.slow
@pytest.mark.parametrize("host", HOSTS)
def test_publisher_messages_arrive_in_order(host: str) -> None:
    with testing.receiver((host, 0)) as rx:
        output = run("publisher.py", host, rx.address[1], "--rate", 20000, "--count", 3001)
        check_messages(rx.wait(3001), 3001)
    assert f"3001 messages, {3001 * MESSAGE.size} bytes, 0 resent, 0 lost\n" in output
    assert "SO_SNDBUF is" in output.splitlines()[-1]


def test_publisher_messages_reach_a_group() -> None:
    with testing.receiver(sock=group_receiver()) as rx:
        run("publisher.py", *rx.address, "--count", 500, "--interface", "127.0.0.1", "--ttl", 0)
        check_messages(rx.wait(500), 500)


@pytest.mark.slow
@pytest.mark.engines
def test_publisher_reports_its_progress() -> None:
    with testing.receiver() as rx:
        output = run("publisher.py", *rx.address, "--rate", 500, "--seconds", 1.2)
        sent = re.search(r"^(\d+) messages, ", output, re.MULTILINE)
        assert sent
        assert int(sent[1]) <= 600  # less, where the machine is slow
        check_messages(rx.wait(int(sent[1])), int(sent[1]))
    line = r"\d+ messages/s, \d+\.\d MB/s, [\d.]+ messages together, waited 0 times, 0 resent, 0 .*, 0 lost"
    assert re.fullmatch(line, output.splitlines()[0])


@pytest.mark.slow
def test_publisher_ends_at_ctrl_c_with_a_report() -> None:
    """Ctrl-C: what was sent arrives, and the report comes all the same."""
    with (
        testing.receiver() as rx,
        started("publisher.py", *rx.address, "--rate", 5000, "--seconds", 60) as process,
    ):
        rx.wait(1000)
        process.send_signal(signal.SIGINT)
        sent = re.match(r"(?:\d+ messages/s.*\n)*(\d+) messages, ", finish(process))
        assert sent
        check_messages(rx.wait(int(sent[1])), int(sent[1]))


@pytest.mark.slow
def test_publisher_reports_connection_refused() -> None:
    address = nobody()
    with started("publisher.py", *address, "--rate", 1000, "--count", 50) as process:
        output, error = process.communicate(timeout=30)
    assert process.returncode == 0, error
    assert re.fullmatch(r"Connection refused: .+\n", error)  # and only once
    assert output.startswith("50 messages, ")


# -- replay.py


def frame(payload: bytes, link: str, **more: int) -> bytes:
    """A packet with this payload as the link layers have it; `more`: fields of its IP header."""
    import dpkt

    udp = dpkt.udp.UDP(sport=1, dport=2, ulen=8 + len(payload), data=payload)
    if link == "ip6":
        ip6 = dpkt.ip6.IP6(src=bytes(16), dst=bytes(16), nxt=17, plen=8 + len(payload), data=udp)
        ip6.extension_hdrs, ip6.all_extension_headers = {}, []
        return b"\x02" * 12 + b"\x86\xdd" + bytes(ip6)
    options = b"\1" * 4 if link == "options" else b""
    ip = dpkt.ip.IP(src=bytes(4), dst=bytes(4), p=17, data=udp, opts=options, **more)
    ip.hl = 5 + len(options) // 4
    ip.len = 4 * ip.hl + 8 + len(payload)
    heads = {
        "cooked": bytes(14) + b"\x08\x00",
        "vlan": b"\x02" * 12 + b"\x81\x00\x00\x07\x08\x00",
        "tags": b"\x02" * 12 + b"\x88\xa8\x00\x07\x81\x00\x00\x08\x08\x00",
    }
    head = heads.get(link, b"\x02" * 12 + b"\x08\x00")
    whole = head + bytes(ip)
    return whole + bytes(max(0, 60 - len(whole)))  # padded as Ethernet pads


def write(path: Path, frames: list[bytes], step: float = 0.0, linktype: int = 1, **options: Any) -> None:
    import dpkt

    with path.open("wb") as file:
        writer = dpkt.pcap.Writer(file, linktype=linktype, **options)
        for number, packet in enumerate(frames):
            writer.writepkt(packet, 1_700_000_000 + number * step)


def payloads(count: int) -> list[bytes]:
    """Runs of equal sizes, and sizes that vary; all different."""
    rng = random.Random(3)
    sizes = [rng.choice([0, 1, 17, 100, 1200, 1200, 1200, 1472]) for _ in range(count // 10)]
    return [rng.randbytes(size) for size in sizes for _ in range(10)]


def link_of(number: int) -> str:
    return ["plain", "vlan", "tags", "ip6", "options"][number // 7 % 5]


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    pytest.importorskip("dpkt")
    return tmp_path / "capture.pcap"


@pytest.mark.slow
def test_replay_sends_every_payload(capture: Path) -> None:
    sent = payloads(6000)  # more than send_slices looks at in one go
    write(capture, [frame(payload, link_of(i)) for i, payload in enumerate(sent)])
    with testing.receiver() as rx:
        output = run("replay.py", capture, *rx.address, "--speed", 0)
        assert rx.wait(len(sent)) == sent
    assert output.startswith(f"{len(sent)} UDP datagrams, {sum(map(len, sent))} bytes\n")
    assert f"{len(sent)} datagrams, " in output


@pytest.mark.slow
@pytest.mark.engines
@pytest.mark.parametrize("option", [("--pps", "2kpps"), ("--rate", "20kB")])
def test_replay_at_a_steady_rate(capture: Path, option: tuple[str, object]) -> None:
    sent = [bytes([i]) * 10 for i in range(200)]
    write(capture, [frame(payload, link_of(i)) for i, payload in enumerate(sent)])
    with testing.receiver() as rx:
        output = run("replay.py", capture, *rx.address, *option)
        assert rx.wait(len(sent)) == sent
    took = re.search(r"^200 datagrams, 2000 bytes in ([\d.]+) s, 0 lost$", output, re.MULTILINE)
    assert took
    assert float(took[1]) >= 0.08  # it would be 0.01 s
    assert "Paced to" in output


@pytest.mark.slow
@pytest.mark.engines
@pytest.mark.parametrize("host", HOSTS)
def test_replay_keeps_the_timing(capture: Path, host: str) -> None:
    sent = payloads(300)
    write(capture, [frame(payload, link_of(i)) for i, payload in enumerate(sent)], step=0.004)
    with testing.receiver((host, 0)) as rx:
        output = run("replay.py", capture, *rx.address[:2], "--speed", 8, "--loop", 2)
        assert rx.wait(600) == sent * 2
    took = re.search(r"^600 datagrams, \d+ bytes in ([\d.]+) s, 0 lost$", output, re.MULTILINE)
    assert took
    assert float(took[1]) >= 2 * (299 * 0.004 / 8 - 0.001)  # not before they are due


@pytest.mark.slow
@pytest.mark.engines
def test_replay_reads_cooked_captures(capture: Path) -> None:
    sent = payloads(50)
    write(capture, [frame(payload, "cooked") for payload in sent], linktype=113, nano=True)
    with testing.receiver() as rx:
        run("replay.py", capture, *rx.address)
        assert rx.wait(50) == sent


@pytest.mark.slow
@pytest.mark.engines
def test_replay_reports_what_it_skips(capture: Path) -> None:
    good = frame(b"good" * 30, "plain")
    others = [
        frame(b"first" * 30, "plain", mf=1),
        frame(b"later" * 30, "plain", offset=8),
        good[:100],  # a capture with a small snaplen
        b"\x02" * 12 + b"\x08\x06" + b"\x45" + bytes(45),  # ARP, whatever is in it
        good[:23] + b"\x06" + good[24:],  # TCP
        b"\x02" * 12 + b"\x81\x00",
        b"",
    ]
    write(capture, [good, *others, good])
    with testing.receiver() as rx:
        output = run("replay.py", capture, *rx.address, "--speed", 0)
        assert rx.wait(2) == [b"good" * 30] * 2
    assert (
        "2 UDP datagrams, 240 bytes, 2 skipped: fragments, 1 skipped: cut short, 4 skipped: not UDP" in output
    )


@pytest.mark.slow
@pytest.mark.engines
def test_replay_sends_what_a_truncated_capture_has(capture: Path) -> None:
    write(capture, [frame(b"whole", "plain")] * 3)
    whole = capture.read_bytes()
    with testing.receiver() as rx:
        for missing, left in (
            (5, 3),
            (40, 2),
            (70, 2),
            (76 + 70, 1),
            (3 * 76, 0),
        ):  # from padding to all of them
            capture.write_bytes(whole[:-missing])
            before = rx.count
            assert run("replay.py", capture, *rx.address).startswith(f"{left} UDP datagrams, ")
            assert rx.wait(before + left) == [b"whole"] * (before + left)


@pytest.mark.slow
@pytest.mark.parametrize("speed", [0, 10])
def test_replay_reports_connection_refused(speed: int, capture: Path) -> None:
    write(capture, [frame(b"hello" * i, "plain") for i in range(20)], step=0.02)
    output = run("replay.py", capture, *nobody(), "--speed", speed)
    assert re.search(r"^\d+ times: Connection refused$", output, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.engines
@pytest.mark.parametrize("content", [b"", b"\xd4\xc3\xb2\xa1", bytes(100)])
def test_replay_refuses_other_files(content: bytes, capture: Path) -> None:
    capture.write_bytes(content)
    with started("replay.py", capture, "127.0.0.1", 9) as process:
        _, error = process.communicate(timeout=30)
    assert process.returncode == 1
    assert error == f"{capture} is no pcap file\n"


@pytest.mark.slow
@pytest.mark.engines
@pytest.mark.parametrize("missing", ["dpkt", "rich"])
def test_replay_without_optional_packages(
    missing: str, capture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = capture.parent / "path" / missing
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    write(capture, [frame(b"hello", "plain")])
    with testing.receiver() as rx, started("replay.py", capture, *rx.address) as process:
        output, error = process.communicate(timeout=30)
        if missing == "dpkt":
            assert process.returncode == 1
            assert error.endswith("pip install dpkt\n")
        else:
            assert process.returncode == 0, error
            assert len(output.splitlines()) == 3  # no bar
            assert rx.wait(1) == [b"hello"]


# -- multicast_file.py


def waiting(process: Program) -> None:
    """Returns when the receiver is a member of the group."""
    assert process.stdout
    assert process.stdout.readline() == "waiting\n", process.communicate()[1]


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 1, 1376 * 64, 300_001])
def test_multicast_file_arrives(size: int, tmp_path: Path) -> None:
    source, copy, port = tmp_path / "source", tmp_path / "copy", free_port(GROUP)
    source.write_bytes(random.Random(size).randbytes(size))
    target = (GROUP, port, "--interface", "127.0.0.1")
    with started("multicast_file.py", copy, *target, "--receive") as rx:
        waiting(rx)
        output = run("multicast_file.py", source, *target, "--rate", 20e6)
        received = finish(rx)
    assert copy.read_bytes() == source.read_bytes()
    pieces = max(1, -(-size // 1376))
    assert output.startswith(f"{size} bytes in {pieces} datagrams, ")
    assert received == f"{size} of {size} bytes in {pieces} datagrams\n"


@pytest.mark.slow
@pytest.mark.parametrize("group", [GROUP, "ff15::77:7"])
def test_multicast_file_arrives_in_another_network(group: str, tmp_path: Path) -> None:
    """Where the kernel keeps what is sent for a while: blocks are not filled again before their time."""
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(random.Random(group).randbytes(300_000))
    target = (group, 9000, "--interface", "veth0", "--rate", "1e9", "--timeout", 3)
    try:
        with (
            testing.hold(delay=0.1) as box,
            started("multicast_file.py", copy, *target, "--receive", box=box.peer) as rx,
        ):
            waiting(rx)
            run("multicast_file.py", source, *target, box=box)
            finish(rx)
    except PermissionError as error:
        pytest.skip(error.strerror or "needs privileges")
    assert copy.read_bytes() == source.read_bytes()


@pytest.mark.slow
@pytest.mark.engines
def test_multicast_file_reports_what_is_missing(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    head = struct.Struct("!IIQQ")
    address = GROUP, free_port(GROUP)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tx:
        tx.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        options = (*address, "--interface", "127.0.0.1", "--receive", "--timeout", 1)
        with started("multicast_file.py", copy, *options) as rx:
            waiting(rx)
            for transfer, offset, data in [
                (1, 10, b"b" * 10),
                (2, 0, b"x" * 10),  # somebody else's
                (1, 30, b"d" * 10),
                (1, 10, b"b" * 10),  # again
                (1, 45, b"e" * 10),  # behind the end
            ]:
                tx.sendto(head.pack(transfer, 0, offset, 50) + data, address)
            tx.sendto(b"short", address)
            output = finish(rx, code=1)
    assert output.splitlines() == [
        "20 of 50 bytes in 2 datagrams",
        "missing: 10 bytes from 0 on",
        "missing: 10 bytes from 20 on",
        "missing: 10 bytes from 40 on",
    ]
    assert copy.read_bytes() == bytes(10) + b"b" * 10 + bytes(10) + b"d" * 10


@pytest.mark.slow
@pytest.mark.engines
@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("publisher.py", ["127.0.0.1", "9", "--rate", "0"], "--rate is more than 0"),
        ("multicast_file.py", ["f", "127.0.0.1", "9"], "127.0.0.1 is no multicast address"),
        ("multicast_file.py", ["f", GROUP, "9", "--size", "24"], "--size is 25 to 65507, not 24"),
        ("replay.py", ["f", "127.0.0.1", "9", "--speed", "-1"], "--speed is a factor, or 0, not -1"),
    ],
)
def test_bad_options_are_refused(name: str, options: list[str], sentence: str) -> None:
    if name == "replay.py":
        pytest.importorskip("dpkt")
    with started(name, *options) as process:
        _, error = process.communicate(timeout=30)
    assert process.returncode == 2
    assert sentence in error
