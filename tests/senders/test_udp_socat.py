"""socat, behind a slow network, receives the same number, sizes and content of datagrams."""

import random
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import killed_at_exit
from traffic import is_bound, wait_until

import uringzc
from uringzc import testing

needs_socat = pytest.mark.skipif(not shutil.which("socat"), reason="needs socat: apt-get install socat")
pytestmark = [testing.requires("net_admin"), needs_socat]
PORTS = {socket.AF_INET: 9201, socket.AF_INET6: 9202}


@contextmanager
def socat(box: testing.Hold, family: int, out: Path, log: Path) -> Iterator[None]:
    """Appends each datagram to `out`, and writes a line for each to `log`."""
    port = PORTS[socket.AddressFamily(family)]
    version = 6 if family == socket.AF_INET6 else 4
    receive = f"UDP{version}-RECV:{port},rcvbuf=16777216"
    command = ["socat", "-u", "-v", "-T", "60", "-b", "65536", receive, f"OPEN:{out},creat,trunc"]
    with (
        log.open("wb") as errors,
        killed_at_exit(
            box.peer.run(
                lambda: subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=errors, text=True)
            )
        ) as process,
    ):
        assert wait_until(lambda: is_bound("udp", port, process.pid))
        yield


def lengths(log: Path) -> list[int]:
    """Its lines are between the data, which has no such characters."""
    return [int(length) for length in re.findall(rb"> [\d/]+ [\d:.]+  length=(\d+) ", log.read_bytes())]


def some(seed: int) -> list[bytes]:
    """Runs of equal sizes, and sizes that change."""
    draw = random.Random(seed)
    sizes = [size for _ in range(30) for size in [draw.randint(1, 1400)] * draw.choice((1, 2, 40))]
    return [bytes(draw.choices(b"abcdefgh", k=size)) for size in [*sizes, 20_000, 1, 60_000, 1]]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "zero_copy"), [(socket.AF_INET, "always"), (socket.AF_INET6, "never")])
def test_socat_agrees(box: testing.Hold, tmp_path: Path, family: int, zero_copy: str) -> None:
    host = (box.address6 if family == socket.AF_INET6 else box.address)[0]
    to = host, PORTS[socket.AddressFamily(family)]
    out, log = tmp_path / "out", tmp_path / "log"
    one, many, region, slices = some(1), some(2), bytes(random.Random(3).choices(b"xyz", k=99_999)), some(4)
    with socat(box, family, out, log), box.run(lambda: uringzc.UdpSender(to, zero_copy=zero_copy)) as tx:
        for datagram in one:
            tx.send(datagram)
        tx.send_many(many)
        tx.send_region(region, segment=1111)
        memory = b"".join(slices)
        ends = [sum(map(len, slices[: i + 1])) for i in range(len(slices))]
        tx.send_slices(
            memory, [end - len(s) for end, s in zip(ends, slices, strict=True)], [*map(len, slices)]
        )
        for datagram in one[:50]:
            with tx.lease(len(datagram)) as lease:
                lease.view[:] = datagram
                lease.send()
        tx.flush()
        pieces = [region[at : at + 1111] for at in range(0, len(region), 1111)]
        sent = [*one, *many, *pieces, *slices, *one[:50]]
        wait_until(lambda: len(lengths(log)) >= len(sent))
        wait_until(lambda: out.stat().st_size >= sum(map(len, sent)))
    assert lengths(log) == [len(datagram) for datagram in sent]
    assert out.read_bytes() == b"".join(sent)
