"""examples/rtp_fanout.py: dpkt and tshark read each receiver's streams, without loss and in order."""

import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from test_examples_udp import Program, finish, nobody, started

from uringzc import testing

dpkt = pytest.importorskip("dpkt")

pytestmark = [pytest.mark.slow, pytest.mark.engines()]
PROGRAM = "rtp_fanout.py"
SAMPLES = 160


@contextmanager
def listeners(count: int, host: str = "127.0.0.1") -> Iterator[list[testing.Receiver]]:
    with ExitStack() as stack:
        yield [stack.enter_context(testing.receiver((host, 0))) for _ in range(count)]


def name_of(rx: testing.Receiver) -> str:
    host, port = rx.address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def control_of(process: Program) -> Any:
    """Where it takes messages."""
    assert process.stdout
    found = re.fullmatch(r"control port (\d+)\n", process.stdout.readline())
    assert found, process.communicate()
    return "127.0.0.1", int(found[1])


def say(control: Any, message: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.sendto(message.encode(), control)
        return sock.recv(1024).decode()


def check_streams(datagrams: list[bytes], streams: int, packets: int) -> None:
    """So many streams of so many packets: nothing is missing, nothing came twice or late."""
    found: dict[int, list[Any]] = {}
    for datagram in datagrams:
        packet = dpkt.rtp.RTP(datagram)
        found.setdefault(packet.ssrc, []).append(packet)
    assert [len(each) for each in found.values()] == [packets] * streams
    for stream in found.values():
        assert {(packet.version, packet.pt, len(packet.data)) for packet in stream} == {(2, 0, SAMPLES)}
        assert all((b.seq - a.seq) % 2**16 == 1 for a, b in pairwise(stream))
        assert all((b.ts - a.ts) % 2**32 == SAMPLES for a, b in pairwise(stream))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_every_receiver_gets_every_packet(host: str) -> None:
    """Also beside one that is not there."""
    with listeners(5, host) as all_of_them:
        names = [name_of(rx) for rx in all_of_them]
        gone = [":".join(map(str, nobody()))] if host == "127.0.0.1" else []
        with started(PROGRAM, *gone, *names, "--streams", 4, "--seconds", 0.5) as process:
            output, error = process.communicate(timeout=30)
        assert process.returncode == 0, error
        for rx in all_of_them:
            check_streams(rx.wait(4 * 25), 4, 25)
    assert all("Connection refused" in line for line in error.splitlines())
    sent = 4 * 25 * (5 + len(gone))
    assert f"\n{sent} packets, {sent * (12 + SAMPLES)} bytes, 0 lost\n" in output


def test_receivers_join_and_leave_while_it_runs() -> None:
    with listeners(3) as (first, second, third), started(PROGRAM, name_of(first)) as process:
        control = control_of(process)
        first.wait(3)
        assert say(control, f"join {name_of(second)}\n") == "2 receivers\n"
        assert say(control, f"join {name_of(second)}\n") == "2 receivers\n"
        assert say(control, f"join {name_of(third)}") == "3 receivers\n"
        second.wait(3)
        third.wait(3)
        assert say(control, f"leave {name_of(second)}") == "2 receivers\n"
        first.wait(first.count + 10)  # what was under way when it left has come
        left = second.count
        first.wait(first.count + 10)
        assert second.count == left
        for wrong in (f"leave {name_of(second)}", "hello"):
            assert say(control, wrong) == "no such receiver, or word: say join or leave, and HOST:PORT\n"
        assert "invalid literal" in say(control, "join me")
        process.send_signal(signal.SIGINT)
        finish(process)
        for rx in (first, second, third):  # from when it joined on
            check_streams(rx.datagrams, 1, rx.count)


@pytest.mark.engines("copy")
def test_packets_are_due_by_the_media_clock() -> None:
    """What was stopped for a while catches up: none is left out, and time does not drift."""
    with listeners(1) as (rx,), started(PROGRAM, name_of(rx), "--seconds", 1) as process:
        rx.wait(5)
        began = time.monotonic()
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.3)
        process.send_signal(signal.SIGCONT)
        rx.wait(5 + 15)
        assert time.monotonic() - began >= 0.3
        finish(process)
        check_streams(rx.wait(50), 1, 50)


# -- tshark


def write_capture(path: Path, port: int, datagrams: list[bytes], streams: int) -> None:
    """What came to a port, as a capture of its packets.

    A live capture would show trains (GSO batches) as one packet each: over loopback the kernel splits them
    at the receiving socket.
    """
    with path.open("wb") as file:
        writer = dpkt.pcap.Writer(file, linktype=101)  # bare IP
        for number, datagram in enumerate(datagrams):
            udp = dpkt.udp.UDP(sport=40000, dport=port, ulen=8 + len(datagram), data=datagram)
            ip = dpkt.ip.IP(src=b"\x7f\0\0\1", dst=b"\x7f\0\0\1", p=17, len=20 + udp.ulen, data=udp)
            writer.writepkt(ip, 1_700_000_000 + number // streams * 0.02)


def analysed(capture: Path, port: int) -> list[tuple[str, ...]]:
    """What tshark says of each stream: payload type, packets, packets lost, and whether it has problems."""
    command = ["tshark", "-n", "-r", str(capture), "-d", f"udp.port=={port},rtp", "-q", "-z", "rtp,streams"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return re.findall(r" 0x\w+ +(\S+) +(\d+) +(-?\d+) \(.*\d +(X?) *$", done.stdout, re.MULTILINE)


@pytest.mark.engines
@pytest.mark.skipif(not shutil.which("tshark"), reason="needs tshark: apt-get install tshark")
def test_tshark_finds_every_stream_whole(tmp_path: Path) -> None:
    capture = tmp_path / "capture.pcap"
    with listeners(3) as all_of_them:
        with started(PROGRAM, *map(name_of, all_of_them), "--streams", 2, "--seconds", 0.6) as process:
            finish(process)
        for rx in all_of_them:
            came, port = rx.wait(2 * 30), rx.address[1]
            write_capture(capture, port, came, 2)
            assert analysed(capture, port) == [("g711U", "30", "0", "")] * 2
    del came[20]  # and it finds what is missing
    write_capture(capture, port, came, 2)
    assert sorted(analysed(capture, port)) == [("g711U", "29", "1", "X"), ("g711U", "30", "0", "")]
