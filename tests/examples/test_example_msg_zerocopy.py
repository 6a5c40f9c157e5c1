"""examples/msg_zerocopy.py in every mode of the kernel's selftest; its receiver checks what it sends."""

import re
import socket
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import traffic
from test_examples_udp import Program, finish, run, started
from traffic import is_bound, stopped, wait_until

from uringzc import testing

pytestmark = pytest.mark.engines()

PROGRAM = "msg_zerocopy.py"
LOOPBACK = {"-4": "127.0.0.1", "-6": "::1"}
FAR = {"-4": testing.Hold.address[0], "-6": testing.Hold.address6[0]}
NEAR = {"-4": "10.0.0.1", "-6": "fd00::1"}
MAX = {("udp", "-4"): 65507, ("udp", "-6"): 65527, ("tcp", "-4"): 65435, ("tcp", "-6"): 65435}
WHOLE = {"-4": 65507, "-6": 65487}  # what fits an MTU of 65535
FAMILIES = pytest.mark.parametrize("family", ["-4", "-6"])
PROTOCOLS = pytest.mark.parametrize("protocol", ["udp", "tcp"])


@pytest.fixture
def wide() -> Iterator[testing.Sandbox]:
    """A sandbox that swallows everything and copies nothing, with the largest MTU."""
    with testing.sink(mtu=65535) as box:
        yield box


class Sent(NamedTuple):
    """The line of a sender."""

    packets: int
    completions: int
    zc: str


def sent(output: str) -> Sent:
    found = re.fullmatch(r"tx=(\d+) \(\d+ MB\) txc=(\d+) zc=([yn?])\n", output)
    assert found, output
    return Sent(int(found[1]), int(found[2]), found[3])


def wait_for_port(process: Program, protocol: str, port: int) -> None:
    """Returns when that program has bound it, in whichever network it is."""
    assert wait_until(lambda: process.poll() is not None or is_bound(protocol, port, process.pid))


def free_port(family: str, protocol: str) -> int:
    return traffic.free_port(LOOPBACK[family], socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM)


def transfer(
    family: str, protocol: str, count: int, size: int, *options: object, box: testing.Hold | None = None
) -> Sent:
    """From one process to another, of which each checks its own part; what the sender says."""
    address = (FAR if box else LOOPBACK)[family]
    port = free_port(family, protocol)
    both = (family, "-D", address, "-p", port, "-n", count, "-s", size)
    with started(PROGRAM, *both, "-r", "-t", 20, protocol, box=box.peer if box else None) as receiver:
        wait_for_port(receiver, protocol, port)
        said = sent(run(PROGRAM, *both, "-t", 20, *options, protocol, box=box))
        received = re.fullmatch(r"rx=(\d+) \(\d+ MB\)\n", finish(receiver))
    assert received
    assert protocol == "tcp" or int(received[1]) == count
    return said


def send(family: str, address: str, *options: object, box: testing.Sandbox | None = None) -> tuple[Sent, str]:
    """What a sender says whose expectation turns out wrong: its line, and its errors."""
    with started(PROGRAM, family, "-D", address, *options, box=box) as process:
        output, errors = process.communicate(timeout=30)
        assert process.returncode == 1, errors
        return sent(output), errors


def says(process: Program, line: str) -> bool:
    """Reads its errors up to that line."""
    assert process.stderr
    return line in process.stderr


# -- the matrix


@pytest.mark.slow
@FAMILIES
@PROTOCOLS
@pytest.mark.parametrize("size", ["0", "137", "max"])
def test_packets_of_every_size_arrive(family: str, protocol: str, size: str) -> None:
    nbytes = MAX[protocol, family] if size == "max" else int(size)
    count = 3 if size == "max" else 20
    said = transfer(family, protocol, count, nbytes, "-z", "-Z", 0)
    assert said == (count, count if nbytes else 0, "n")


@pytest.mark.slow
@PROTOCOLS
def test_packets_that_are_copied_arrive(protocol: str) -> None:
    assert transfer("-4", protocol, 20, 4096) == (20, 0, "n")


@pytest.mark.slow
@FAMILIES
@pytest.mark.parametrize("size", ["0", "max"])
@pytest.mark.parametrize("mode", ["-z", "-z -m"])
def test_corked_packets_arrive(family: str, size: str, mode: str) -> None:
    parts, count = 5, 3
    nbytes = MAX["udp", family] if size == "max" else int(size)
    said = transfer(family, "udp", count, nbytes, "-c", parts, *mode.split(), "-Z", 0)
    zero_copy = {"-z": parts, "-z -m": parts // 2}[mode] if nbytes else 0
    assert said == (count * parts, count * zero_copy, "n")


@pytest.mark.slow
@pytest.mark.parametrize("engine", [pytest.param("io_uring", marks=testing.requires("send_zc")), "copy"])
@PROTOCOLS
def test_packets_of_other_engines_arrive(engine: str, protocol: str) -> None:
    assert transfer("-4", protocol, 20, 4096, "-z", "-Z", 0, "--engine", engine) == (20, 20, "n")


@pytest.mark.slow
@testing.requires("net_admin")
@FAMILIES
@PROTOCOLS
def test_packets_arrive_through_a_device(family: str, protocol: str, box: testing.Hold) -> None:
    options = ("-z", "-Z", 0, "-S", NEAR[family], "-i", box.device, "-l", 1, "-C", 0)
    assert transfer(family, protocol, 20, 1400, *options, box=box) == (20, 20, "n")


@pytest.mark.slow
@testing.requires("net_admin")
@FAMILIES
@pytest.mark.parametrize("size", ["1", "4096", "whole"])
def test_packets_to_a_device_are_not_copied(family: str, size: str, wide: testing.Sandbox) -> None:
    options = ("-s", WHOLE[family] if size == "whole" else size, "-n", 20, "-z", "-Z", 1, "-l", 1)
    said = sent(run(PROGRAM, family, "-D", FAR[family], *options, "udp", box=wide))
    assert said == (20, 20, "y")


# -- the controls: the same with the other expectation


@pytest.mark.slow
@FAMILIES
@PROTOCOLS
def test_control_expecting_no_copy_on_loopback_fails(family: str, protocol: str) -> None:
    version = socket.AF_INET if family == "-4" else socket.AF_INET6
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    with socket.socket(version, kind) as peer:
        peer.bind((LOOPBACK[family], 0))
        if protocol == "tcp":
            peer.listen()
        options = ("-p", peer.getsockname()[1], "-n", 1, "-s", 4096, "-z", "-Z", 1)
        said, errors = send(family, LOOPBACK[family], *options, protocol)
    assert said == (1, 1, "n")
    assert errors == "a send was copied, -Z 1 expects otherwise\n"


@testing.requires("net_admin")
@FAMILIES
def test_control_expecting_a_copy_on_a_device_fails(family: str, wide: testing.Sandbox) -> None:
    said, errors = send(family, FAR[family], "-n", 1, "-s", 4096, "-z", "-Z", 0, "udp", box=wide)
    assert said == (1, 1, "y")
    assert errors == "a send was not copied, -Z 0 expects otherwise\n"


@testing.requires("net_admin")
@FAMILIES
def test_control_fragments_are_copied(family: str, wide: testing.Sandbox) -> None:
    options = ("-n", 1, "-s", WHOLE[family], "-z", "-Z", 1, "udp")
    wide.set_mtu(65000)
    said, _ = send(family, FAR[family], *options, box=wide)
    assert said == (1, 1, "n")


# -- what else it says


@pytest.mark.slow
@testing.requires("net_admin")
def test_missing_notifications_are_reported(box: testing.Hold) -> None:
    options = ("-4", "-D", FAR["-4"], "-p", box.address[1], "-n", 3, "-s", 1000, "-z", "udp")
    with box.receiver_socket(), stopped(box), started(PROGRAM, *options, box=box) as process:
        assert says(process, "missing notifications: 0 < 3\n")
        box.release()
        assert sent(finish(process, 1)) == (3, 0, "?")


@testing.requires("net_admin")
def test_verbose_output_lists_completed_ranges(wide: testing.Sandbox) -> None:
    options = ("-4", "-D", FAR["-4"], "-n", 5, "-l", 2, "-z", "-vv", "udp")
    with started(PROGRAM, *options, box=wide) as process:
        output, errors = process.communicate(timeout=30)
    assert sent(output) == (5, 5, "y")
    assert errors == "completed: 2 (h=1 l=0)\ncompleted: 2 (h=3 l=2)\ncompleted: 1 (h=4 l=4)\n"


@testing.requires("net_admin")
def test_it_runs_for_the_given_time(wide: testing.Sandbox) -> None:
    options = ("-6", "-D", FAR["-6"], "-t", 0.01, "-s", 1000, "-z", "udp")
    said = sent(run(PROGRAM, *options, box=wide))
    assert said.completions == said.packets > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "data", "sentence"),
    [
        (2, b"abc", "a datagram of 3 bytes came, not of 2"),
        (100, bytes(100), "a datagram came with other data"),
        (3, b"abc", "-n 2: only 1 packets with 3 bytes came"),
    ],
)
def test_the_receiver_reports_wrong_data(size: int, data: bytes, sentence: str) -> None:
    port = free_port("-4", "udp")
    options = ("-4", "-r", "-D", "127.0.0.1", "-p", port, "-s", size, "-n", 2, "-t", 0.3, "udp")
    with started(PROGRAM, *options) as receiver, socket.socket(type=socket.SOCK_DGRAM) as sock:
        wait_for_port(receiver, "udp", port)
        sock.sendto(data, ("127.0.0.1", port))
        _, errors = receiver.communicate(timeout=30)
    assert (receiver.returncode, errors) == (1, sentence + "\n")


@PROTOCOLS
def test_a_refused_connection_is_reported(protocol: str) -> None:
    options = ("-4", "-D", "127.0.0.1", "-p", free_port("-4", protocol), "-t", 20, "-z", protocol)
    with started(PROGRAM, *options) as process:
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "Connection refused" in errors


@pytest.mark.slow
def test_a_peer_that_does_not_read_is_reported() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    options = ("-4", "-D", "127.0.0.1", "-p", server.getsockname()[1], "-t", 0.1, "-z", "tcp")
    with server, started(PROGRAM, *options) as process:
        assert says(process, "127.0.0.1 takes no more\n")
        server.close()  # which resets the connection
        assert finish(process, 1) == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),  # of what argparse refuses itself, only what it is about
    [
        ("-D ::1 udp", "-4 -6"),
        ("-4 udp", "-D says where to send to"),
        ("-4 -D 127.0.0.1 -s 65528 udp", "-s is 0 to 65527, not 65528"),
        ("-4 -D 127.0.0.1 -c 2 tcp", "-c is for udp"),
        ("-4 -D 127.0.0.1 -m -c 2 udp", "-m needs -c and -z"),
        ("-4 -D 127.0.0.1 -m -z udp", "-m needs -c and -z"),
        ("-4 -D 127.0.0.1 -Z 2 udp", "-Z"),
        ("-4 -D 127.0.0.1 raw", "'raw'"),
    ],
)
def test_bad_options_are_refused(options: str, said: str) -> None:
    with started(PROGRAM, *options.split()) as process:
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert said in errors.splitlines()[-1]
