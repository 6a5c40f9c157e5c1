"""examples/market_data.py: by multicast or unicast, each receiver gets its channels whole and in order."""

import itertools
import socket
import struct
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from test_examples_udp import nobody, run, started
from traffic import wait_until

from uringzc import testing

pytestmark = [pytest.mark.slow, pytest.mark.engines()]
PROGRAM = "market_data.py"
MESSAGE = struct.Struct("!QQ8sqI")
GROUPS = ["239.255.77.11", "239.255.77.12", "239.255.77.13"]
COUNT = 6000


def member(group: str) -> socket.socket:
    """Receives what is sent to the group on loopback, at a free port."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    joined = socket.inet_aton(group) + socket.inet_aton("127.0.0.1")
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)
    sock.bind((group, 0))
    return sock


@contextmanager
def receivers(count: int) -> Iterator[list[testing.Receiver]]:
    with ExitStack() as stack:
        yield [stack.enter_context(testing.receiver()) for _ in range(count)]


def name_of(rx: testing.Receiver) -> str:
    return "{}:{}".format(*rx.address)


def check(datagrams: list[bytes], *channels: int) -> None:
    """All of these channels, each in order, in the order in which they were sent, and nothing else."""
    messages = [MESSAGE.unpack(datagram) for datagram in datagrams]
    assert all(a[1] <= b[1] for a, b in itertools.pairwise(messages))
    numbers: dict[int, list[int]] = {}
    for number, _, symbol, *_ in messages:
        numbers.setdefault(zlib.crc32(symbol.rstrip(b"\0")) % 3, []).append(number)
    assert sorted(numbers) == sorted(channels)
    assert all(each == list(range(len(each))) for each in numbers.values())


def test_three_multicast_groups_get_their_channels() -> None:
    with ExitStack() as stack:
        members = [stack.enter_context(testing.receiver(sock=member(group))) for group in GROUPS]
        options = ("--count", COUNT, "--interface", "127.0.0.1", "--ttl", 0)
        output = run(PROGRAM, *map(name_of, members), *options)
        assert output.startswith(f"{COUNT} datagrams, {COUNT * MESSAGE.size} bytes, 0 lost\n")
        assert wait_until(lambda: sum(rx.count for rx in members) >= COUNT)
        for channel, rx in enumerate(members):
            check(rx.datagrams, channel)
    assert sum(rx.count for rx in members) == COUNT


def test_without_multicast_every_receiver_gets_its_channels() -> None:
    """Channels of three, one and two receivers, of which one has two channels."""
    with receivers(5) as all_of_them:
        both, second, third, fourth, fifth = all_of_them
        names = [name_of(rx) for rx in all_of_them]
        output = run(PROGRAM, ",".join(names[:3]), names[3], f"{names[0]},{names[4]}", "--count", COUNT)
        assert wait_until(lambda: second.count + fourth.count + fifth.count >= COUNT)
        check(both.wait(second.count + fifth.count), 0, 2)
        check(second.datagrams, 0)
        assert third.wait(second.count) == second.datagrams
        check(fourth.datagrams, 1)
        check(fifth.datagrams, 2)
    counts = [rx.count for rx in all_of_them]
    assert counts[0] == counts[1] + counts[4]
    assert counts[1] + counts[3] + counts[4] == COUNT
    assert output.startswith(f"{sum(counts)} datagrams, {sum(counts) * MESSAGE.size} bytes, 0 lost\n")


def test_the_others_get_everything_beside_a_receiver_that_is_gone() -> None:
    """Its errors are of the socket: what they make fail is sent again, maybe behind what came later."""
    with receivers(2) as (first, second):
        channel = ",".join([name_of(first), ":".join(map(str, nobody())), name_of(second)])
        with started(PROGRAM, channel, "--count", COUNT) as process:
            output, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
        for rx in (first, second):
            numbers = sorted(MESSAGE.unpack(datagram)[0] for datagram in rx.wait(COUNT))
            assert numbers == list(range(COUNT))
    assert output.startswith(f"{3 * COUNT} datagrams, {3 * COUNT * MESSAGE.size} bytes, 0 lost\n")
    assert error
    assert all("Connection refused" in line for line in error.splitlines())
