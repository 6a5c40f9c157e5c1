"""What is received: delivered in order, paused and resumed, and exceptions of the protocol stop nothing."""

import asyncio
import itertools
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest
from event_loops import LOCAL, Endpoints, settle
from recorder import Recorder

from uringzc.aio.loops import running_loop
from uringzc.testing.receiving import make_room

pytestmark = pytest.mark.engines()


def send_numbers(peer: socket.socket, transport: Any, numbers: range) -> list[bytes]:
    sent = [b"%04d" % number for number in numbers]
    for data in sent:
        peer.sendto(data, transport.get_extra_info("sockname"))
    return sent


async def test_datagrams_are_delivered_in_order_with_their_sender(
    endpoints: Endpoints, make_peer: Callable[..., socket.socket]
) -> None:
    transport, protocol = await endpoints.open()
    one, other = make_peer(), make_peer()
    for number in range(100):
        send_numbers(other if number % 3 else one, transport, range(number, number + 1))
    await protocol.called("datagram", 100)
    assert protocol.of("datagram") == [
        (b"%04d" % number, (other if number % 3 else one).getsockname()) for number in range(100)
    ]
    assert all(type(data) is bytes and type(addr) is tuple for data, addr in protocol.of("datagram"))


@pytest.mark.parametrize("size", [0, 1, 1472, 9000, 65_507])
async def test_every_size_is_received_whole(endpoints: Endpoints, peer: socket.socket, size: int) -> None:
    transport, protocol = await endpoints.open()
    sent = [bytes([number]) * size for number in range(3)]
    for data in sent:
        peer.sendto(data, transport.get_extra_info("sockname"))
    await protocol.called("datagram", 3)
    assert protocol.datagrams == sent


async def test_a_connected_transport_receives_of_its_peer_alone(
    endpoints: Endpoints, peer: socket.socket, make_peer: Callable[..., socket.socket]
) -> None:
    transport, protocol = await endpoints.open(remote_addr=peer.getsockname())
    make_peer().sendto(b"from another", transport.get_extra_info("sockname"))
    peer.sendto(b"from the peer", transport.get_extra_info("sockname"))
    assert await protocol.called("datagram") == [(b"from the peer", peer.getsockname())]


@pytest.fixture
def number_of_a_closed_socket(endpoints: Endpoints) -> Callable[[], int]:
    """Makes a socket that the running loop watches, closes it, and returns the number of its descriptor."""
    if not endpoints.ours:
        pytest.skip("a stock transport receives nothing then")

    def make() -> int:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        asyncio.get_running_loop().add_reader(sock.fileno(), int)
        number = sock.fileno()
        sock.close()
        return number

    return make


async def test_a_socket_has_the_number_of_one_that_was_closed_while_it_was_watched(
    endpoints: Endpoints, peer: socket.socket, number_of_a_closed_socket: Callable[[], int]
) -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(LOCAL)
    sock.setblocking(False)
    number = number_of_a_closed_socket()
    os.dup2(sock.fileno(), number)
    sock.close()
    transport, protocol = await endpoints.open(sock=socket.socket(fileno=number))
    peer.sendto(b"x", transport.get_extra_info("sockname"))
    assert await protocol.called("datagram") == [(b"x", peer.getsockname())]


async def test_a_descriptor_of_a_sender_has_such_a_number(
    number_of_a_closed_socket: Callable[[], int],
) -> None:
    event, readable = os.eventfd(1), asyncio.Event()
    number = number_of_a_closed_socket()
    os.dup2(event, number)
    stop = running_loop().watch(number, readable.set, None)
    await readable.wait()
    stop()
    os.close(number)
    os.close(event)


async def test_pause_reading_and_resume_reading(endpoints: Endpoints, peer: socket.socket) -> None:
    transport, protocol = await endpoints.open()
    assert transport.is_reading()
    transport.pause_reading()
    transport.pause_reading()
    assert not transport.is_reading()
    sent = send_numbers(peer, transport, range(50))
    await settle()
    assert protocol.datagrams == []
    transport.resume_reading()
    transport.resume_reading()
    assert transport.is_reading()
    await protocol.called("datagram", 50)
    assert protocol.datagrams == sent


async def test_pause_reading_holds_from_the_call_on(endpoints: Endpoints, peer: socket.socket) -> None:
    """Inside datagram_received too, whatever was read together."""

    class Sip(Recorder):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            self.transport.pause_reading()

    transport, protocol = await endpoints.open(Sip)
    sent = send_numbers(peer, transport, range(10))
    for number in range(10):
        await protocol.called("datagram", number + 1)
        await settle()
        assert protocol.datagrams == sent[: number + 1]
        transport.resume_reading()


async def test_resume_reading_in_the_turn_of_pause_reading(endpoints: Endpoints, peer: socket.socket) -> None:
    class Blink(Recorder):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            self.transport.pause_reading()
            self.transport.resume_reading()

    transport, protocol = await endpoints.open(Blink)
    sent = send_numbers(peer, transport, range(100))
    await protocol.called("datagram", 100)
    await settle()
    assert protocol.datagrams == sent


async def test_a_transport_that_is_closed_while_paused(endpoints: Endpoints, peer: socket.socket) -> None:
    transport, protocol = await endpoints.open()
    transport.pause_reading()
    send_numbers(peer, transport, range(5))
    transport.close()
    transport.resume_reading()
    assert await protocol.called("lost") == [None]
    await settle()
    assert protocol.names == ["made", "lost"]


async def test_another_protocol_gets_what_follows_in_the_same_turn(
    endpoints: Endpoints, peer: socket.socket
) -> None:
    second = Recorder()

    class First(Recorder):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            self.transport.set_protocol(second)

    transport, first = await endpoints.open(First)
    sent = send_numbers(peer, transport, range(10))
    await second.called("datagram", 9)
    assert first.datagrams == sent[:1]
    assert second.datagrams == sent[1:]


async def test_datagram_received_that_raises_is_reported_and_the_next_are_delivered(
    endpoints: Endpoints, peer: socket.socket
) -> None:
    class Failing(Recorder):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            if int(data) % 3 == 0:
                raise LookupError(data.decode())

    transport, protocol = await endpoints.open(Failing)
    sent = send_numbers(peer, transport, range(10))
    await protocol.called("datagram", 10)
    await settle()
    assert protocol.datagrams == sent
    assert [str(one["exception"]) for one in endpoints.problems] == ["0000", "0003", "0006", "0009"]
    endpoints.problems.clear()


async def test_the_loop_has_its_turn_while_much_is_received(
    endpoints: Endpoints, peer: socket.socket
) -> None:
    """Callbacks that are due run between datagrams, not behind the last of thousands."""
    transport, protocol = await endpoints.open()
    make_room(transport.get_extra_info("socket"))
    transport.pause_reading()
    send_numbers(peer, transport, range(3000))
    seen: list[int] = []

    def look() -> None:
        seen.append(len(protocol.datagrams))
        if seen[-1] < 3000:
            loop.call_soon(look)

    loop = asyncio.get_running_loop()
    transport.resume_reading()
    loop.call_soon(look)
    await protocol.called("datagram", 3000)
    steps = [after - before for before, after in itertools.pairwise(seen)]
    assert max(steps) < 2500
