"""Errors of the network go to error_received, once each, and stop nothing else."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable
from typing import Any

import pytest
from congestion import Congestion
from event_loops import LOCAL, Endpoints, read, read_from, settle, turns
from recorder import Recorder
from traffic import free_port

pytestmark = pytest.mark.engines()


def unused_address() -> tuple[str, int]:
    """Where nobody listens, nor another test."""
    return LOCAL[0], free_port()


async def test_a_peer_that_refuses_is_reported_once_for_each_event(endpoints: Endpoints) -> None:
    transport, protocol = await endpoints.open(remote_addr=unused_address())
    for count in (1, 2, 3):
        transport.sendto(b"anybody?")
        await protocol.called("error", count)
        await settle()
        assert len(protocol.of("error")) == count
    assert all(isinstance(error, ConnectionRefusedError) for error in protocol.of("error"))
    assert all(error.errno == errno.ECONNREFUSED for error in protocol.of("error"))
    assert not transport.is_closing()


async def test_a_peer_that_refused_may_come_back(
    endpoints: Endpoints, make_peer: Callable[..., socket.socket]
) -> None:
    address = unused_address()
    transport, protocol = await endpoints.open(remote_addr=address)
    transport.sendto(b"anybody?")
    await protocol.called("error")
    peer = make_peer(address)
    transport.sendto(b"and now?")
    ((data, sender),) = await read_from(peer)
    assert data == b"and now?"
    peer.sendto(b"yes", sender)
    await protocol.called("datagram")
    assert protocol.datagrams == [b"yes"]


async def test_peers_that_refuse_stop_no_other(
    endpoints: Endpoints, make_peer: Callable[..., socket.socket]
) -> None:
    """The kernel reports no refusal on an unconnected socket: one client's is no error of a server."""
    transport, protocol = await endpoints.open()
    peers = [make_peer() for _ in range(3)]
    dead = [unused_address() for _ in range(3)]
    for number in range(60):
        transport.sendto(b"%d" % number, dead[number % 3])
        transport.sendto(b"%d" % number, peers[number % 3].getsockname())
        if number % 10 == 0:
            await turns()
    for index, peer in enumerate(peers):
        assert await read(peer, 20) == [b"%d" % number for number in range(index, 60, 3)]
    await settle()
    assert protocol.names == ["made"]


async def test_an_address_without_a_route(endpoints: Endpoints, congestion: Congestion) -> None:
    transport, protocol = await endpoints.open(sock=congestion.sock(connected=False))
    for number in range(10):
        transport.sendto(b"%d" % number, congestion.address)
        if number == 5:
            transport.sendto(b"nowhere", ("192.0.2.1", 9))
    assert await read(congestion.rx, 10) == [b"%d" % number for number in range(10)]
    (error,) = await protocol.called("error")
    assert isinstance(error, OSError)
    assert error.errno == errno.ENETUNREACH
    await settle()
    assert len(protocol.of("error")) == 1


async def test_a_broadcast_that_is_not_allowed(endpoints: Endpoints, congestion: Congestion) -> None:
    transport, protocol = await endpoints.open(sock=congestion.sock(connected=False))
    transport.sendto(b"all", ("10.0.0.255", 9000))
    transport.sendto(b"one", congestion.address)
    assert await read(congestion.rx) == [b"one"]
    (error,) = await protocol.called("error")
    assert isinstance(error, PermissionError)


async def test_error_received_may_send(endpoints: Endpoints, peer: socket.socket) -> None:
    class Again(Recorder):
        def error_received(self, exc: Exception) -> None:
            super().error_received(exc)
            self.transport.sendto(b"smaller", peer.getsockname())

    transport, protocol = await endpoints.open(Again)
    transport.sendto(bytes(70_000), peer.getsockname())
    assert await read(peer) == [b"smaller"]
    assert protocol.names == ["made", "error"]


async def test_error_received_may_repeat_what_fails(endpoints: Endpoints) -> None:
    """A refused peer that is asked again for each refusal: no recursion, and the loop goes on."""

    class Stubborn(Recorder):
        def error_received(self, exc: Exception) -> None:
            super().error_received(exc)
            if len(self.of("error")) < 50:
                self.transport.sendto(b"anybody?")

    transport, protocol = await endpoints.open(Stubborn, remote_addr=unused_address())
    transport.sendto(b"anybody?")
    await protocol.called("error", 50)
    await settle()
    assert len(protocol.of("error")) == 50


@pytest.mark.parametrize("call", ["close", "abort"])
async def test_a_transport_can_be_ended_in_error_received(endpoints: Endpoints, call: str) -> None:
    class Ending(Recorder):
        def error_received(self, exc: Exception) -> None:
            super().error_received(exc)
            getattr(self.transport, call)()

    transport, protocol = await endpoints.open(Ending, remote_addr=unused_address())
    transport.sendto(b"anybody?")
    transport.sendto(b"anybody?")
    assert await protocol.called("lost") == [None]
    await settle()
    assert protocol.names[-1] == "lost"
    assert protocol.names.count("lost") == 1


async def test_error_received_that_raises_does_not_end_the_transport(
    endpoints: Endpoints, peer: socket.socket
) -> None:
    class Failing(Recorder):
        def error_received(self, exc: Exception) -> None:
            super().error_received(exc)
            raise LookupError("in error_received")

    transport, protocol = await endpoints.open(Failing)
    with contextlib.suppress(LookupError):  # asyncio calls it inside sendto
        transport.sendto(bytes(70_000), peer.getsockname())
    await protocol.called("error")
    await turns(2)
    if endpoints.problems:
        assert str(endpoints.take_problem()) == "in error_received"
    transport.sendto(b"goes on", peer.getsockname())
    assert await read(peer) == [b"goes on"]


async def test_errors_are_not_raised_by_sendto(endpoints: Endpoints, peer: socket.socket) -> None:
    transport, protocol = await endpoints.open(remote_addr=unused_address())
    for _ in range(20):
        transport.sendto(b"anybody?")
        await asyncio.sleep(0)
    await protocol.called("error")
    assert not transport.is_closing()
    assert endpoints.problems == []


async def test_an_error_is_for_the_protocol_of_that_moment(endpoints: Endpoints) -> None:
    transport, first = await endpoints.open(remote_addr=unused_address())
    second: Any = Recorder()
    transport.set_protocol(second)
    transport.sendto(b"anybody?")
    await second.called("error")
    assert first.names == ["made"]
