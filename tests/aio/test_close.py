"""How a transport ends: what is still sent, what is called, and what works afterwards."""

import asyncio
import socket
from typing import Any

import pytest
from event_loops import Endpoints, arrived, descriptors, read, settle, turns
from recorder import Recorder

pytestmark = pytest.mark.engines()


async def test_close_sends_what_was_given_to_it(endpoints: Endpoints, peer: socket.socket) -> None:
    transport, protocol = await endpoints.open()
    sent = [b"%03d" % number for number in range(300)]
    for data in sent:
        transport.sendto(data, peer.getsockname())
    transport.close()
    assert await protocol.called("lost") == [None]
    assert arrived(peer) == sent


async def test_connection_lost_is_called_by_the_loop(endpoints: Endpoints) -> None:
    transport, protocol = await endpoints.open()
    transport.close()
    assert protocol.names == ["made"]
    await turns()
    assert protocol.calls[1:] == [("lost", None)]


async def test_abort_calls_connection_lost_by_the_loop(endpoints: Endpoints) -> None:
    transport, protocol = await endpoints.open()
    transport.abort()
    assert transport.is_closing()
    assert protocol.names == ["made"]
    await turns()
    assert protocol.calls[1:] == [("lost", None)]


ENDS = ["close close", "close abort", "abort close", "abort abort", "close turn close", "abort turn abort"]


@pytest.mark.parametrize("calls", ENDS)
async def test_connection_lost_is_called_once(endpoints: Endpoints, peer: socket.socket, calls: str) -> None:
    transport, protocol = await endpoints.open()
    transport.sendto(b"x", peer.getsockname())
    for call in calls.split():
        if call == "turn":
            await turns(2)
        else:
            getattr(transport, call)()
    await settle()
    assert protocol.calls[1:] == [("lost", None)]


async def test_the_socket_is_open_in_connection_lost_and_closed_behind_it(endpoints: Endpoints) -> None:
    seen = []

    class Looking(Recorder):
        def connection_lost(self, exc: Exception | None) -> None:
            seen.append(self.transport.get_extra_info("socket").fileno())
            super().connection_lost(exc)

    transport, protocol = await endpoints.open(Looking)
    transport.close()
    await protocol.called("lost")
    await turns(2)
    assert seen[0] > 0
    assert transport.get_extra_info("socket").fileno() == -1


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_a_transport_whose_socket_was_closed_under_it_ends(
    endpoints: Endpoints, peer: socket.socket, end: str
) -> None:
    """What waits is lost. Nothing of the transport is left: on a stock loop it has the only engine."""
    before = descriptors()
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.connect(peer.getsockname())
    transport, protocol = await endpoints.open(sock=sock)
    for _ in range(3):  # the first one leaves at once, and the others have a sender
        transport.sendto(b"x")
    sock.close()
    getattr(transport, end)()
    await protocol.called("lost")
    await turns(2)
    if endpoints.kind.function:
        assert descriptors() == before


@pytest.mark.parametrize("call", ["close", "abort"])
async def test_a_transport_ends_if_its_close_is_interrupted(
    endpoints: Endpoints, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    if not endpoints.ours:
        pytest.skip("a stock transport may stay open then")

    def interrupt() -> None:
        raise KeyboardInterrupt

    transport, protocol = await endpoints.open()
    with monkeypatch.context() as patch:
        patch.setattr(transport._receiving, "close", interrupt)
        with pytest.raises(KeyboardInterrupt):
            getattr(transport, call)()
    assert await protocol.called("lost") == [None]


async def test_the_port_is_free_behind_connection_lost(endpoints: Endpoints) -> None:
    transport, protocol = await endpoints.open()
    name = transport.get_extra_info("sockname")
    for _ in range(5):
        transport.close()
        await protocol.called("lost")
        await turns(2)
        transport, protocol = await endpoints.open(local_addr=name)


async def test_nothing_is_received_once_it_is_closed(endpoints: Endpoints, peer: socket.socket) -> None:
    transport, protocol = await endpoints.open()
    for _ in range(5):
        peer.sendto(b"too late", transport.get_extra_info("sockname"))
    transport.close()
    await settle()
    assert protocol.names == ["made", "lost"]


@pytest.mark.parametrize("call", ["close", "abort"])
async def test_what_is_sent_after_close_is_dropped(
    endpoints: Endpoints, peer: socket.socket, call: str
) -> None:
    transport, protocol = await endpoints.open(remote_addr=peer.getsockname())
    getattr(transport, call)()
    transport.sendto(b"too late")
    await protocol.called("lost")
    await turns(2)
    transport.sendto(b"even later")
    await settle()
    assert arrived(peer) == []


async def test_without_a_peer_it_is_sent_until_connection_lost(
    endpoints: Endpoints, peer: socket.socket
) -> None:
    transport, protocol = await endpoints.open()
    transport.close()
    transport.sendto(b"in time", peer.getsockname())
    await protocol.called("lost")
    await settle()
    assert arrived(peer) == [b"in time"]


async def test_without_a_peer_it_is_dropped_then(endpoints: Endpoints, peer: socket.socket) -> None:
    transport, protocol = await endpoints.open()
    transport.close()
    await protocol.called("lost")
    await turns(2)
    transport.sendto(b"too late", peer.getsockname())
    await settle()
    assert arrived(peer) == []


async def test_an_error_after_close_is_reported_too(endpoints: Endpoints, peer: socket.socket) -> None:
    """The protocol closes the transport because of the first."""
    transport, protocol = await endpoints.open()
    for _ in range(2):
        transport.sendto(bytes(70000), peer.getsockname())
        transport.close()
    await protocol.called("lost")
    assert len(protocol.of("error")) == 2


async def test_a_program_that_goes_on_sending_is_warned(
    endpoints: Endpoints, peer: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    transport, _ = await endpoints.open(remote_addr=peer.getsockname())
    transport.close()
    for _ in range(4):
        transport.sendto(b"too late")
    assert caplog.records == []
    for _ in range(6):
        transport.sendto(b"too late")
    await turns(2)
    records = {(record.name, record.levelname, record.getMessage()) for record in caplog.records}
    assert records == {("asyncio", "WARNING", "socket.send() raised exception.")}


async def test_data_of_another_type_is_refused_after_close_too(endpoints: Endpoints) -> None:
    transport, protocol = await endpoints.open(remote_addr=("127.0.0.1", 9))
    transport.close()
    await protocol.called("lost")
    with pytest.raises(TypeError, match="bytes-like"):
        transport.sendto("text")


CALLS = {
    "close": lambda t: t.close(),
    "abort": lambda t: t.abort(),
    "is_closing": lambda t: t.is_closing(),
    "is_reading": lambda t: t.is_reading(),
    "pause_reading": lambda t: t.pause_reading(),
    "resume_reading": lambda t: t.resume_reading(),
    "get_write_buffer_size": lambda t: t.get_write_buffer_size(),
    "get_write_buffer_limits": lambda t: t.get_write_buffer_limits(),
    "get_extra_info": lambda t: t.get_extra_info("socket"),
    "repr": repr,
}


@pytest.mark.parametrize("name", CALLS)
async def test_methods_of_a_closed_transport(endpoints: Endpoints, name: str) -> None:
    transport, protocol = await endpoints.open()
    transport.close()
    first = CALLS[name](transport)
    await protocol.called("lost")
    await turns(2)
    second = CALLS[name](transport)
    if name not in ("repr", "get_extra_info"):
        assert first == second
    await settle()
    assert protocol.names == ["made", "lost"]
    assert first != 1 or name == "is_closing"


async def test_connection_lost_that_raises_is_reported_and_the_socket_closed(endpoints: Endpoints) -> None:
    class Failing(Recorder):
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            raise LookupError("in connection_lost")

    transport, protocol = await endpoints.open(Failing)
    transport.close()
    await protocol.called("lost")
    await turns(2)
    assert str(endpoints.take_problem()) == "in connection_lost"
    assert transport.get_extra_info("socket").fileno() == -1


async def test_what_is_sent_in_connection_lost_is_dropped(endpoints: Endpoints, peer: socket.socket) -> None:
    class Farewell(Recorder):
        def connection_lost(self, exc: Exception | None) -> None:
            self.transport.sendto(b"farewell")
            self.transport.close()
            self.transport.abort()
            super().connection_lost(exc)

    transport, protocol = await endpoints.open(Farewell, remote_addr=peer.getsockname())
    transport.close()
    await protocol.called("lost")
    await settle()
    assert protocol.names == ["made", "lost"]
    assert arrived(peer) == []


async def test_a_transport_can_be_closed_in_datagram_received(
    endpoints: Endpoints, peer: socket.socket
) -> None:
    class Once(Recorder):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            self.transport.sendto(b"answer", addr)
            self.transport.close()

    transport, protocol = await endpoints.open(Once)
    for number in range(5):
        peer.sendto(b"%d" % number, transport.get_extra_info("sockname"))
    assert await protocol.called("lost") == [None]
    assert protocol.datagrams == [b"0"]
    assert await read(peer) == [b"answer"]


async def test_a_transport_can_be_aborted_in_datagram_received(
    endpoints: Endpoints, peer: socket.socket
) -> None:
    class Once(Recorder):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            self.transport.abort()

    transport, protocol = await endpoints.open(Once)
    for number in range(5):
        peer.sendto(b"%d" % number, transport.get_extra_info("sockname"))
    assert await protocol.called("lost") == [None]
    await settle()
    assert protocol.datagrams == [b"0"]


async def test_another_endpoint_can_be_made_in_connection_lost(
    endpoints: Endpoints, peer: socket.socket
) -> None:
    """As programs do that connect again."""
    again: list[asyncio.Task[Any]] = []

    class Again(Recorder):
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            again.append(asyncio.ensure_future(endpoints.open(remote_addr=peer.getsockname())))

    transport, protocol = await endpoints.open(Again, remote_addr=peer.getsockname())
    transport.abort()
    await protocol.called("lost")
    transport, _ = await again[0]
    transport.sendto(b"again")
    assert await read(peer) == [b"again"]
