"""How an endpoint is set up: what is called in which order, and that a set-up that fails leaves nothing."""

import asyncio
import contextlib
import gc
import socket
from typing import Any

import pytest
from event_loops import LOCAL, Endpoints, descriptors, read, settle, turns
from recorder import Recorder

pytestmark = pytest.mark.engines()


def bound() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(LOCAL)
    return sock


def sockets() -> list[str]:
    """The open ones, when everything that can be collected is."""
    gc.collect()
    return sorted(link for link in descriptors().values() if link.startswith("socket:"))


async def test_connection_made_is_called_by_the_loop_and_before_the_endpoint_is_returned(
    endpoints: Endpoints,
) -> None:
    protocol = Recorder()

    def factory() -> Recorder:
        asyncio.get_running_loop().call_soon(protocol.note, "soon")
        return protocol

    transport, returned = await endpoints.open(factory)
    assert returned is protocol
    assert protocol.calls == [("soon", None), ("made", transport)]


async def test_reading_begins_after_connection_made(endpoints: Endpoints, peer: socket.socket) -> None:
    sock = bound()
    peer.sendto(b"early", sock.getsockname())
    _, protocol = await endpoints.open(sock=sock)
    assert await protocol.called("datagram") == [(b"early", peer.getsockname())]
    assert protocol.names == ["made", "datagram"]


async def test_datagrams_can_be_sent_in_connection_made(endpoints: Endpoints, peer: socket.socket) -> None:
    class Greeting(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.sendto(b"one", peer.getsockname())
            transport.sendto(b"two", peer.getsockname())

    await endpoints.open(Greeting)
    assert await read(peer, 2) == [b"one", b"two"]


async def test_a_transport_that_is_closed_in_connection_made_reads_nothing(
    endpoints: Endpoints, peer: socket.socket
) -> None:
    class Leaving(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.close()

    sock = bound()
    peer.sendto(b"early", sock.getsockname())
    _, protocol = await endpoints.open(Leaving, sock=sock)
    assert await protocol.called("lost") == [None]
    assert protocol.names == ["made", "lost"]


async def test_a_transport_that_is_paused_in_connection_made_reads_when_it_is_resumed(
    endpoints: Endpoints, peer: socket.socket
) -> None:
    class NotYet(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.pause_reading()

    sock = bound()
    peer.sendto(b"early", sock.getsockname())
    transport, protocol = await endpoints.open(NotYet, sock=sock)
    await settle()
    assert protocol.names == ["made"]
    transport.resume_reading()
    await protocol.called("datagram")


async def test_a_protocol_factory_that_raises(endpoints: Endpoints) -> None:
    def factory() -> Any:
        raise LookupError("no protocol")

    before = sockets()
    with pytest.raises(LookupError, match="no protocol"):
        await endpoints.open(factory)
    assert sockets() == before


async def test_a_protocol_factory_that_raises_leaves_the_socket_of_the_program(endpoints: Endpoints) -> None:
    def factory() -> Any:
        raise LookupError("no protocol")

    with bound() as sock:
        with pytest.raises(LookupError, match="no protocol"):
            await endpoints.open(factory, sock=sock)
        assert sock.fileno() > 0


async def test_connection_made_that_raises_is_reported_and_the_endpoint_works(
    endpoints: Endpoints, peer: socket.socket
) -> None:
    class Failing(Recorder):
        def connection_made(self, transport: Any) -> None:
            raise LookupError("in connection_made")

    transport, protocol = await endpoints.open(Failing)
    assert str(endpoints.take_problem()) == "in connection_made"
    peer.sendto(b"in", transport.get_extra_info("sockname"))
    await protocol.called("datagram")
    transport.sendto(b"out", peer.getsockname())
    assert await read(peer) == [b"out"]


@pytest.mark.parametrize("after", range(5))
@pytest.mark.parametrize("how", ["local", "remote", "name", "sock"])
async def test_a_cancelled_set_up_closes_the_socket(endpoints: Endpoints, how: str, after: int) -> None:
    """Cancelled in whichever turn: either there is an endpoint, or nothing is left."""
    options: dict[str, Any] = {
        "local": {"local_addr": LOCAL},
        "remote": {"remote_addr": ("127.0.0.1", 9)},
        "name": {"local_addr": ("localhost", 0)},
        "sock": {},
    }[how]
    if how == "name":  # the thread that resolves names
        await asyncio.get_running_loop().getaddrinfo("localhost", 0)
    await endpoints.open()  # what the loop opens for its first endpoint
    before = sockets()
    if how == "sock":
        options = {"sock": bound()}
    task = asyncio.ensure_future(endpoints.open(**options))
    await turns(after)
    if task.cancel():
        with contextlib.suppress(asyncio.CancelledError):
            await task
    if not task.cancelled():
        task.result()[0].abort()
    if "sock" in options and after == 0:
        options["sock"].close()  # the endpoint never had it
    del task, options
    await settle()
    assert sockets() == before


async def test_many_endpoints_leave_nothing(endpoints: Endpoints, peer: socket.socket) -> None:
    await endpoints.open()
    before = sockets()
    for _ in range(20):
        transport, protocol = await endpoints.open(remote_addr=peer.getsockname())
        transport.sendto(b"x")
        transport.close()
        await protocol.called("lost")
    assert sockets() == before
    assert await read(peer, 20) == [b"x"] * 20
