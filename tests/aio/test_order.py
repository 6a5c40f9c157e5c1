"""Under backpressure everything arrives once, in order for each peer, with the bytes that were sent."""

import random
from typing import Any

import pytest
from congestion import Congestion
from event_loops import Endpoints, read, turns
from recorder import Recorder
from traffic import datagram

pytestmark = pytest.mark.engines()

PEERS, COUNT = 16, 3000


def what_is_wrong(sent: list[bytes], came: list[bytes]) -> str:
    """The first difference of what one peer was sent and what it got; nothing if there is none."""
    for number, (expected, found) in enumerate(zip(sent, came, strict=False)):
        if expected != found:
            if found in sent:
                return f"datagram {number}: another one came"
            return f"datagram {number}: other bytes came"
    return "" if len(sent) == len(came) else f"{len(came)} of {len(sent)} came"


async def test_interleaved_to_sixteen_peers(endpoints: Endpoints, congestion: Congestion) -> None:
    receivers = [congestion.receiver(9100 + number) for number in range(PEERS)]
    addresses = [receiver.getsockname() for receiver in receivers]
    transport, protocol = await endpoints.open(sock=congestion.sock(connected=False, sndbuf=64 << 10))
    transport.set_write_buffer_limits(high=20_000)
    sent: list[list[bytes]] = [[] for _ in range(PEERS)]
    chance = random.Random(1)
    congestion.stop()
    buffer = bytearray(1400)
    for number in range(COUNT):
        size = chance.choice((8, 200, 1200, 1200, 1200, chance.randrange(8, 1400)))
        to = number % PEERS if number % 3 else chance.randrange(PEERS)
        sent[to].append(datagram(number, size))
        buffer[:size] = sent[to][-1]
        transport.sendto(memoryview(buffer)[:size], addresses[to])
        buffer[:size] = bytes(size)
        if chance.random() < 0.05:
            await turns()
        while protocol.paused:
            congestion.release()
            await protocol.called("resume", len(protocol.of("pause")))
            if chance.random() < 0.5:
                congestion.stop()
    congestion.release()
    for expected, receiver in zip(sent, receivers, strict=True):
        assert what_is_wrong(expected, await read(receiver, len(expected))) == ""
    assert protocol.of("pause")
    assert protocol.of("error") == []


@pytest.mark.parametrize("wrong", ["lost", "twice", "swapped", "changed", "nothing"])
def test_control_what_the_model_finds(wrong: str) -> None:
    sent = [datagram(number, 100) for number in range(10)]
    came = list(sent)
    if wrong == "lost":
        del came[4]
    elif wrong == "twice":
        came.insert(4, came[4])
    elif wrong == "swapped":
        came[4], came[5] = came[5], came[4]
    elif wrong == "changed":
        came[4] = came[4][:50] + b"\xff" + came[4][51:]
    assert bool(what_is_wrong(sent, came)) == (wrong != "nothing")


async def test_two_transports_that_talk_to_each_other(endpoints: Endpoints) -> None:
    """A window of 20 datagrams back and forth, thousands of them, random sizes."""
    chance = random.Random(2)
    sent = [datagram(number, chance.randrange(8, 1400)) for number in range(2000)]

    class Echo(Recorder):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.transport.sendto(data, addr)

    class Client(Recorder):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            following = len(self.of("datagram")) + 19
            if following < len(sent):
                self.transport.sendto(sent[following])

    server, _ = await endpoints.open(Echo)
    client, protocol = await endpoints.open(Client, remote_addr=server.get_extra_info("sockname"))
    for data in sent[:20]:
        client.sendto(data)
    await protocol.until(lambda: protocol.names and len(protocol.calls) == len(sent) + 1)
    assert what_is_wrong(sent, protocol.datagrams) == ""
