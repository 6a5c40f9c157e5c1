"""When datagrams leave: at the end of the loop's turn, whatever the program does then."""

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from event_loops import LOCAL, Endpoints, arrived, read, turns
from recorder import Recorder

pytestmark = pytest.mark.engines()


async def test_what_is_sent_in_a_turn_has_left_after_one_more(
    endpoints: Endpoints, peer: socket.socket
) -> None:
    """Nothing provokes another turn: the loop's thread looks at the receiver, and lets nobody run."""
    transport, _ = await endpoints.open()
    for count in (1, 2, 50, 700):
        sent = [b"%d" % number for number in range(count)]
        for data in sent:
            transport.sendto(data, peer.getsockname())
        await turns()
        assert arrived(peer) == sent


async def test_to_new_destinations_too(endpoints: Endpoints, make_peer: Callable[..., socket.socket]) -> None:
    transport, _ = await endpoints.open()
    peers = [make_peer() for _ in range(20)]
    for number in range(5):
        for peer in peers:
            transport.sendto(b"%d" % number, peer.getsockname())
    await turns()
    for peer in peers:
        assert arrived(peer) == [b"0", b"1", b"2", b"3", b"4"]


async def test_of_all_sizes(endpoints: Endpoints, peer: socket.socket) -> None:
    transport, _ = await endpoints.open(remote_addr=peer.getsockname())
    sent = [bytes(size) for size in (0, 1, 65_507, 2, 3, 3, 3, 0, 20_000, 20_000, 1400, 0)]
    if endpoints.kind.name in ("asyncio", "uvloop"):  # see test_an_empty_datagram_is_a_datagram
        sent = [data for data in sent if data]
    for data in sent:
        transport.sendto(data)
    await turns()
    assert arrived(peer) == sent


async def test_of_two_transports(endpoints: Endpoints, peer: socket.socket) -> None:
    one, _ = await endpoints.open()
    other, _ = await endpoints.open(remote_addr=peer.getsockname())
    for number in range(5):
        one.sendto(b"one %d" % number, peer.getsockname())
        other.sendto(b"other %d" % number)
    await turns()
    assert len(arrived(peer)) == 10


async def test_what_a_callback_sends_that_runs_last(endpoints: Endpoints, peer: socket.socket) -> None:
    """In a turn that has been going on, and in one that a timer or a descriptor has begun."""
    transport, _ = await endpoints.open(remote_addr=peer.getsockname())
    loop = asyncio.get_running_loop()
    seen: list[list[bytes]] = []

    def send_and_look() -> None:
        transport.sendto(b"x")
        loop.call_soon(lambda: seen.append(arrived(peer)))

    loop.call_soon(send_and_look)
    loop.call_later(0.001, send_and_look)
    loop.call_soon_threadsafe(send_and_look)
    await asyncio.sleep(0.02)
    while len(seen) < 3:
        await turns()
    assert [data for each in seen for data in each] == [b"x"] * 3


async def test_in_datagram_received(endpoints: Endpoints, peer: socket.socket) -> None:
    """The answer has left when the loop is about to wait again."""
    loop = asyncio.get_running_loop()
    seen: list[bytes] = []

    class Echo(Recorder):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            self.transport.sendto(data, addr)
            loop.call_soon(lambda: seen.extend(arrived(peer)))

    transport, protocol = await endpoints.open(Echo)
    peer.sendto(b"question", transport.get_extra_info("sockname"))
    await protocol.called("datagram")
    await turns(2)
    assert seen == [b"question"]


async def test_a_program_that_computes_after_a_turn_keeps_nothing_back(
    endpoints: Endpoints, peer: socket.socket
) -> None:
    transport, _ = await endpoints.open(remote_addr=peer.getsockname())
    for _ in range(20):
        transport.sendto(b"x")
        await turns()
        received = threading.Event()

        def wait(received: threading.Event = received) -> None:
            peer.settimeout(10)
            peer.recv(10)
            received.set()

        thread = threading.Thread(target=wait)
        thread.start()
        thread.join()  # blocks the loop
        assert received.is_set()


# -- a loop that does not run


def open_on(endpoints: Endpoints, loop: asyncio.AbstractEventLoop, **options: Any) -> Any:
    return loop.run_until_complete(endpoints.open(**options))[0]


def test_what_is_sent_before_the_loop_stops(endpoints: Endpoints, peer: socket.socket) -> None:
    """In its last turn, with nothing behind it."""
    loop = endpoints.new_loop()
    try:
        transport = open_on(endpoints, loop, remote_addr=peer.getsockname())
        loop.call_soon(transport.sendto, b"last")
        loop.call_soon(loop.stop)
        loop.run_forever()
        if endpoints.kind.function:
            loop.run_until_complete(turns())  # a loop of the program's own does not say that it stops
        assert arrived(peer) == [b"last"]
    finally:
        endpoints.close(loop)


def test_what_a_coroutine_sends_before_it_returns(endpoints: Endpoints, peer: socket.socket) -> None:
    async def main() -> None:
        transport, _ = await endpoints.open(remote_addr=peer.getsockname())
        for number in range(3):
            transport.sendto(b"%d" % number)

    endpoints.run(main())
    assert arrived(peer) == [b"0", b"1", b"2"]


def test_what_is_sent_while_the_loop_does_not_run(endpoints: Endpoints, peer: socket.socket) -> None:
    loop = endpoints.new_loop()
    try:
        transport = open_on(endpoints, loop, remote_addr=peer.getsockname())
        for count in range(1, 4):
            for _ in range(count):
                transport.sendto(b"outside")
            loop.run_until_complete(turns())
            assert arrived(peer) == [b"outside"] * count
    finally:
        endpoints.close(loop)


def test_what_is_sent_before_the_loop_is_closed(endpoints: Endpoints, peer: socket.socket) -> None:
    loop = endpoints.new_loop()
    transport = open_on(endpoints, loop, local_addr=LOCAL)
    transport.sendto(b"before", peer.getsockname())
    endpoints.close(loop)
    assert arrived(peer) == [b"before"]


async def test_a_program_that_never_stops_sending_lets_them_leave(
    endpoints: Endpoints, peer: socket.socket
) -> None:
    """Many in one turn do not wait for its end: memory stays bounded."""
    transport, _ = await endpoints.open(remote_addr=peer.getsockname())
    data = bytes(1000)
    for _ in range(2000):
        transport.sendto(data)
    early = len(arrived(peer))
    assert early > 1000
    assert early + len(await read(peer, 2000 - early)) == 2000
