"""tshark reads each header field of frames as it reads those of the same datagrams sent by a plain socket."""

import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from frame_tools import Capture, is_udp_to, leaves_as_a_frame, scheduler
from marks import frame_engines, only_packet
from traffic import datagram

from uringzc import testing
from uringzc.testing.devices import FAR, NEAR

needs_tshark = pytest.mark.skipif(not shutil.which("tshark"), reason="needs tshark: apt-get install tshark")
PORT, SOURCE = 9000, 9100
GROUP, GROUP6 = "239.1.2.3", "ff02::1:77"
Option = tuple[int, int, Any]

#: but for the identification of IPv4 and the flow label of IPv6, which the sender is free to choose
FIELDS = (
    *("frame.len", "frame.protocols", "eth.dst", "eth.src", "vlan.id", "vlan.priority"),
    *("ip.version", "ip.hdr_len", "ip.dsfield", "ip.len", "ip.flags", "ip.frag_offset", "ip.ttl", "ip.proto"),
    *("ip.checksum.status", "ip.src", "ip.dst"),
    *("ipv6.tclass", "ipv6.plen", "ipv6.nxt", "ipv6.hlim", "ipv6.src", "ipv6.dst"),
    *("udp.srcport", "udp.dstport", "udp.length", "udp.checksum", "udp.checksum.status", "udp.payload"),
)
GOOD = "1"


class Case(NamedTuple):
    """Datagrams, and the socket that sends them."""

    options: tuple[Option, ...] = ()
    sizes: tuple[int, ...] = (100, 1452)
    to: str = FAR.ip
    segment: int = 0

    @property
    def family(self) -> int:
        return socket.AF_INET6 if ":" in self.to else socket.AF_INET

    def socket(self, box: testing.Sandbox) -> socket.socket:
        sock = box.socket(self.family)
        for option in self.options:
            sock.setsockopt(*option)
        # not from the link-local address, which comes some time after the device
        sock.bind((NEAR.ip6 if self.family == socket.AF_INET6 else NEAR.ip, SOURCE))
        scope = box.run(lambda: socket.if_nametoindex(box.device)) if self.to.startswith("ff") else 0
        box.run(lambda: sock.connect((self.to, PORT, 0, scope)[: 4 if scope else 2]))
        return sock


IP, IP6 = socket.IPPROTO_IP, socket.IPPROTO_IPV6
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, DONT, IPV6_UNICAST_HOPS = 10, 23, 0, socket.IPV6_UNICAST_HOPS
ODD = (0, 1, 2, 3, 17, 255, 1001, 1471)
CASES = {
    "ipv4": Case(sizes=(100, 1472)),
    "ipv6": Case(to=FAR.ip6),
    "odd sizes": Case(sizes=ODD),
    "odd sizes, ipv6": Case(to=FAR.ip6, sizes=(*ODD[:-1], 1451)),
    "ttl": Case(((IP, socket.IP_TTL, 7),)),
    "tos": Case(((IP, socket.IP_TOS, 0xB8),)),
    "hop limit": Case(((IP6, IPV6_UNICAST_HOPS, 9),), to=FAR.ip6),
    "traffic class": Case(((IP6, socket.IPV6_TCLASS, 0x28),), to=FAR.ip6),
    "may be fragmented": Case(((IP, IP_MTU_DISCOVER, DONT),)),
    "broadcast": Case(((socket.SOL_SOCKET, socket.SO_BROADCAST, 1),), to="10.0.0.255"),
    "multicast": Case(
        ((IP, socket.IP_MULTICAST_TTL, 5), (IP, socket.IP_MULTICAST_IF, socket.inet_aton(NEAR.ip))), to=GROUP
    ),
    "multicast, ipv6": Case(((IP6, socket.IPV6_MULTICAST_HOPS, 6),), to=GROUP6),
}
TRAINS = {
    "train": Case(sizes=(5000,), segment=1000),
    "train with a shorter end": Case(sizes=(1001, 4003, 1), segment=1001),
    "train, ipv6": Case(to=FAR.ip6, sizes=(5001,), segment=999),
}


def tshark(frames: list[bytes], path: Path, *fields: str) -> list[dict[str, str]]:
    """Its reading of frames, checksums too."""
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for frame in frames:
            file.write(struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame)
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", "-E", "separator=;"]
    for option in ("ip.check_checksum:TRUE", "udp.check_checksum:TRUE"):
        command += ["-o", option]
    for field in fields:
        command += ["-e", field]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [dict(zip(fields, line.split(";"), strict=True)) for line in done.stdout.splitlines()]


@pytest.fixture
def whole(net: testing.Hold) -> Iterator[testing.Hold]:
    """A network whose devices leave nothing to do for others: checksums are complete, trains are cut up."""
    net.offload(checksum=False)
    net.release()
    with net.receiver_socket(), net.receiver_socket(socket.AF_INET6):  # else it reports closed ports
        yield net


def payloads_of(case: Case) -> list[bytes]:
    return [datagram(i, size) for i, size in enumerate(case.sizes)]


def on_the_wire(box: testing.Hold, case: Case, plain: bool) -> list[bytes]:
    """The frames of a case's datagrams: sent by a plain socket, or by the engine."""
    payloads = payloads_of(case)
    count = sum(-(-size // case.segment) if case.segment else 1 for size in case.sizes)
    with case.socket(box) as sock, Capture(box.peer) as capture:
        if plain:
            for payload in payloads:
                step = case.segment or len(payload) or 1
                for at in range(0, len(payload) or 1, step):
                    sock.send(payload[at : at + step])
        else:
            with scheduler(box) as s:
                for payload in payloads:
                    s.send(sock, payload, segment=case.segment, flush=True)
                s.submit()
                assert [done.result for done in s.reap_completions(wait=len(payloads))] == list(case.sizes)
                assert leaves_as_a_frame(s, sock)
        return capture.take(count, is_udp_to(PORT))


def agrees(box: testing.Hold, case: Case, path: Path) -> None:
    plain, framed = on_the_wire(box, case, plain=True), on_the_wire(box, case, plain=False)
    read = tshark(plain + framed, path, *FIELDS)
    expected, came = read[: len(plain)], read[len(plain) :]
    assert came == expected
    assert {fields["udp.checksum.status"] for fields in came} == {GOOD}
    if case.family == socket.AF_INET:
        assert {fields["ip.checksum.status"] for fields in came} == {GOOD}
    sent = b"".join(payloads_of(case))
    assert b"".join(bytes.fromhex(fields["udp.payload"]) for fields in came) == sent


@needs_tshark
@frame_engines
@pytest.mark.parametrize("name", CASES)
def test_tshark_agrees_on_every_field(whole: testing.Hold, name: str, tmp_path: Path) -> None:
    agrees(whole, CASES[name], tmp_path / "frames.pcap")


@needs_tshark
@only_packet
@pytest.mark.parametrize("name", TRAINS)
def test_tshark_agrees_on_the_datagrams_of_trains(whole: testing.Hold, name: str, tmp_path: Path) -> None:
    agrees(whole, TRAINS[name], tmp_path / "frames.pcap")


@needs_tshark
@only_packet
def test_identifications_of_ipv4_follow_each_other(whole: testing.Hold, tmp_path: Path) -> None:
    """A device gives the datagrams of a train the identifications that follow: the next one begins behind."""
    case = Case(sizes=(100, 5000, 100, 2000, 100), segment=1000)
    came = tshark(on_the_wire(whole, case, plain=False), tmp_path / "frames.pcap", "ip.id")
    numbers = [int(fields["ip.id"], 16) for fields in came]
    assert numbers == [numbers[0] + i & 0xFFFF for i in range(10)]


@needs_tshark
@frame_engines
@pytest.mark.parametrize("wrong", ["ip", "udp"])
def test_control_tshark_finds_a_wrong_checksum(whole: testing.Hold, wrong: str, tmp_path: Path) -> None:
    frames = on_the_wire(whole, Case(sizes=(100, 101, 102)), plain=False)
    at = {"ip": 14 + 10, "udp": 14 + 20 + 6}[wrong]
    broken = bytearray(frames[1])
    broken[at] ^= 1
    fields = ("ip.checksum.status", "udp.checksum.status")
    came = tshark([frames[0], bytes(broken), frames[2]], tmp_path / "frames.pcap", *fields)
    assert [fields[f"{wrong}.checksum.status"] for fields in came] == ["1", "0", "1"]
