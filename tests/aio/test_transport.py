"""What a transport says about itself, and its protocol."""

import asyncio
import socket
from typing import Any

import pytest
from event_loops import LOCAL, Endpoints, turns
from recorder import Recorder

pytestmark = pytest.mark.engines()


async def test_it_is_a_datagram_transport(endpoints: Endpoints) -> None:
    transport, _ = await endpoints.open()
    assert isinstance(transport, asyncio.DatagramTransport)


async def test_the_socket_can_be_asked_and_set(endpoints: Endpoints) -> None:
    transport, _ = await endpoints.open(local_addr=LOCAL)
    sock = transport.get_extra_info("socket")
    assert (sock.family, sock.type) == (socket.AF_INET, socket.SOCK_DGRAM)
    assert sock.fileno() > 0
    assert sock.getsockname() == transport.get_extra_info("sockname")
    assert sock.getsockname()[1] > 0
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 3)
    assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_TTL) == 3


async def test_peername_is_where_it_is_connected_to(endpoints: Endpoints, peer: socket.socket) -> None:
    transport, _ = await endpoints.open(remote_addr=peer.getsockname())
    assert transport.get_extra_info("peername") == peer.getsockname()
    assert transport.get_extra_info("socket").getpeername() == peer.getsockname()
    transport, _ = await endpoints.open()
    assert transport.get_extra_info("peername") is None


async def test_unknown_extra_information_has_a_default(endpoints: Endpoints) -> None:
    transport, _ = await endpoints.open()
    assert transport.get_extra_info("sslcontext") is None
    assert transport.get_extra_info("sslcontext", "none") == "none"


async def test_addresses_are_known_after_it_was_closed(endpoints: Endpoints, peer: socket.socket) -> None:
    transport, protocol = await endpoints.open(remote_addr=peer.getsockname())
    name = transport.get_extra_info("sockname")
    transport.close()
    await protocol.called("lost")
    await turns()
    assert transport.get_extra_info("sockname") == name
    assert transport.get_extra_info("peername") == peer.getsockname()


async def test_another_protocol_gets_what_comes_then(endpoints: Endpoints, peer: socket.socket) -> None:
    transport, first = await endpoints.open()
    second: Any = Recorder()
    assert transport.get_protocol() is first
    peer.sendto(b"to the first", transport.get_extra_info("sockname"))
    await first.called("datagram")
    transport.set_protocol(second)
    assert transport.get_protocol() is second
    peer.sendto(b"to the second", transport.get_extra_info("sockname"))
    await second.called("datagram")
    transport.close()
    assert await second.called("lost") == [None]
    assert first.names == ["made", "datagram"]
    assert second.names == ["datagram", "lost"]


async def test_is_closing(endpoints: Endpoints) -> None:
    transport, protocol = await endpoints.open()
    assert not transport.is_closing()
    transport.close()
    assert transport.is_closing()
    await protocol.called("lost")
    await turns()
    assert transport.is_closing()


async def test_repr_says_in_which_state_it_is(endpoints: Endpoints) -> None:
    transport, protocol = await endpoints.open()
    opened = repr(transport)
    transport.close()
    closing = repr(transport)
    await protocol.called("lost")
    await turns()
    closed = repr(transport)
    assert len({opened, closing, closed}) == 3
    assert "Transport" in opened
    assert "clos" not in opened
    assert "closing" in closing
    assert "closed" in closed


# -- the limits of the write buffer


async def test_the_write_buffer_is_empty_at_first(endpoints: Endpoints) -> None:
    transport, _ = await endpoints.open()
    assert transport.get_write_buffer_size() == 0


LIMITS = {
    "as it was made": ({}, (16 << 10, 64 << 10)),
    "high": ({"high": 1000}, (250, 1000)),
    "low": ({"low": 1000}, (1000, 4000)),
    "both": ({"high": 9, "low": 3}, (3, 9)),
    "high of 0": ({"high": 0}, (0, 0)),
    "the same": ({"high": 5, "low": 5}, (5, 5)),
}


@pytest.mark.parametrize("case", LIMITS)
async def test_limits_of_the_write_buffer(endpoints: Endpoints, case: str) -> None:
    given, limits = LIMITS[case]
    transport, _ = await endpoints.open()
    if given:
        transport.set_write_buffer_limits(high=2, low=1)
        transport.set_write_buffer_limits(**given)
    assert transport.get_write_buffer_limits() == limits


async def test_limits_can_be_as_they_were_at_first(endpoints: Endpoints) -> None:
    transport, _ = await endpoints.open()
    transport.set_write_buffer_limits(high=2, low=1)
    transport.set_write_buffer_limits()
    assert transport.get_write_buffer_limits() == (16 << 10, 64 << 10)


@pytest.mark.parametrize("wrong", [{"high": 1, "low": 2}, {"high": -1}, {"low": -1}, {"high": 5, "low": -1}])
async def test_limits_that_make_no_sense(endpoints: Endpoints, wrong: dict[str, int]) -> None:
    transport, _ = await endpoints.open()
    with pytest.raises(ValueError, match=r"high \(.*\) must be >= low \(.*\) must be >= 0"):
        transport.set_write_buffer_limits(**wrong)
    assert transport.get_write_buffer_limits() == (16 << 10, 64 << 10)
