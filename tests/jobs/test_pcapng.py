"""Captures as Wireshark writes them (pcapng): where each packet is, on which link, and when it came."""

import io
import random
import struct
from pathlib import Path

import pytest

from uringzc import testing
from uringzc.jobs import Job, run
from uringzc.jobs.pcapng import Packet, packets

dpkt = pytest.importorskip("dpkt")
pytestmark = pytest.mark.engines()

BARE, ETHERNET, BLUETOOTH = 101, 1, 187


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    body += bytes(-len(body) % 4)
    return struct.pack(f"{order}II", kind, len(body) + 12) + body + struct.pack(f"{order}I", len(body) + 12)


def section(order: str = "<") -> bytes:
    return block(0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(link: int, *options: tuple[int, bytes], order: str = "<", snaplen: int = 0) -> bytes:
    body = struct.pack(f"{order}HHI", link, 0, snaplen)
    for code, value in options:
        body += struct.pack(f"{order}HH", code, len(value)) + value + bytes(-len(value) % 4)
    return block(1, body, order)


def packet(number: int, ticks: int, data: bytes, order: str = "<") -> bytes:
    head = struct.pack(f"{order}5I", number, ticks >> 32, ticks & 0xFFFFFFFF, len(data), len(data))
    comment = struct.pack(f"{order}HH", 1, 3) + b"abc\0" + bytes(4)
    return block(6, head + data + bytes(-len(data) % 4) + comment, order)


def ip(payload: bytes) -> bytes:
    udp = struct.pack("!4H", 1, 2, 8 + len(payload), 0) + payload
    return struct.pack("!BBHIBBH8x", 0x45, 0, 20 + len(udp), 0, 64, 17, 0) + udp


def found(data: bytes) -> list[tuple[int, float | None, bytes]]:
    return [(p.link, p.seconds, data[p.offset : p.offset + p.length]) for p in packets(data)]


@pytest.mark.parametrize("order", "<>")
def test_interfaces_have_links_and_clocks_of_their_own(order: str) -> None:
    data = section(order) + interface(BARE, order=order) + block(0xBAD, b"skipped", order)
    data += interface(ETHERNET, (9, b"\x09"), (14, struct.pack(f"{order}q", 100)), order=order)
    data += interface(BARE, (9, b"\x81"), order=order, snaplen=2)
    data += packet(0, 1_500_000, b"one", order) + packet(1, 5_000_000_000, b"four", order)
    data += packet(2, 3 << 32, b"abcde", order) + packet(3, 1, b"of no interface", order)
    data += block(3, struct.pack(f"{order}I", 6) + b"simple", order)
    data += section("<") + packet(0, 0, b"of no interface")
    assert found(data) == [
        (BARE, 1.5, b"one"),
        (ETHERNET, 105.0, b"four"),
        (BARE, (3 << 32) / 2, b"abcde"),
        (BARE, None, b"simple"),
    ]


def test_what_dpkt_writes() -> None:
    file = io.BytesIO()
    writer = dpkt.pcapng.Writer(file, linktype=BARE)
    writer.writepkt(b"first", 1.5)
    writer.writepkt(b"second", 2.0)
    assert found(file.getvalue()) == [(BARE, 1.5, b"first"), (BARE, 2.0, b"second")]


def test_what_is_cut_off_or_wrong_never_leaves_the_file() -> None:
    data = section() + interface(BARE, (9, b"\x09")) + packet(0, 1, b"one") + packet(0, 2, b"two")
    whole = list(packets(data))
    for length in range(12, len(data)):
        assert list(packets(data[:length])) in (whole, whole[:1], [])
    chance = random.Random(1)
    for _ in range(2000):
        wrong = bytearray(data)
        for _ in range(3):
            wrong[chance.randrange(12, len(data))] = chance.choice((0, 1, 255, chance.randrange(256)))
        for each in packets(bytes(wrong)):
            assert isinstance(each, Packet)
            assert 0 < each.offset <= each.offset + each.length <= len(data)


def test_a_pcapng_capture_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "capture.pcapng"
    data = section() + interface(BLUETOOTH) + interface(BARE) + packet(0, 0, b"not understood")
    ethernet = bytes(12) + b"\x08\x00" + ip(b"two")
    data += (
        packet(1, 0, ip(b"one"))
        + interface(ETHERNET)
        + packet(2, 10_000, ethernet)
        + packet(1, 1 << 63, ip(b"!"))
    )
    path.write_bytes(data)
    with testing.receiver() as rx:
        to = f"127.0.0.1:{rx.address[1]}"
        assert run(Job(to, file=str(path), pcap=True, speed=0)).datagrams == 3
        assert rx.wait(3) == [b"one", b"two", b"!"]
        assert run(Job(to, file=str(path), pcap=True, count=2)).datagrams == 2
    path.write_bytes(section() + interface(BLUETOOTH) + packet(0, 0, b"not understood"))
    with pytest.raises(ValueError, match="a capture of link type 187, which is not understood"):
        run(Job("127.0.0.1:9", file=str(path), pcap=True))
    path.write_bytes(b"\x0a\x0d\x0d\x0a" + bytes(40))
    with pytest.raises(ValueError, match="is no pcap file"):
        run(Job("127.0.0.1:9", file=str(path), pcap=True))
