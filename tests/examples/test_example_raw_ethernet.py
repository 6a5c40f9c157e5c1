"""raw_ethernet.py sends frames of its own, which arrive as they were sent."""

import socket
import struct

import pytest
from test_examples import finish, start

import uringzc
from uringzc import testing

pytestmark = [pytest.mark.engines(), testing.requires("net_admin")]
DESTINATION = "02:00:00:00:00:02"


@pytest.fixture(params=["packet", "af_xdp"])
def framing(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if reason := uringzc.probe().engines[name]:
        pytest.skip(str(reason))
    return name


def test_it_shows_what_arrives(framing: str) -> None:
    lines = finish(start("raw_ethernet.py", "--engine", framing, "--count=40", "--size=100")).splitlines()
    arrived = f"of 100 bytes from 02:00:00:00:00:01 to {DESTINATION}"
    assert lines == [
        "40 frames, 4000 bytes, by veth0",
        *(f"frame {number} {arrived}" for number in range(3)),
    ]


def test_it_sends_on_a_device(box: testing.Hold, framing: str) -> None:
    ethertype = 0x88B6

    def listen() -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ethertype))
        sock.bind((box.peer.device, ethertype))
        return sock

    with box.peer.run(listen) as receiver:
        options = ("--count=40", f"--ethertype={ethertype}", "--engine", framing)
        process = box.run(lambda: start("raw_ethernet.py", box.device, DESTINATION, *options))
        assert finish(process) == f"40 frames, 2400 bytes, by {box.device}\n"
        receiver.settimeout(5)
        frames = [receiver.recv(100) for _ in range(40)]
    header = bytes.fromhex(f"{DESTINATION}:02:00:00:00:00:01".replace(":", "")) + struct.pack("!H", ethertype)
    assert frames == [(header + struct.pack("!Q", number)).ljust(60, b"\0") for number in range(40)]


def test_a_frame_above_the_mtu_is_reported() -> None:
    process = start("raw_ethernet.py", "--size=1519")  # with room for a VLAN tag
    _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (1, "a frame was not sent: [Errno 90] Message too long\n")
    finish(start("raw_ethernet.py", "--size=1518", "--count=1"))  # the control
