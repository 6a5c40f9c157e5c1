"""What sendto takes, where it sends to, and that the bytes are those of the call."""

import array
import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Any

import pytest
from event_loops import LOCAL, Endpoints, arrived, read, settle, turns
from recorder import Recorder

pytestmark = pytest.mark.engines()


# -- the data


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_bytes_like_objects_are_sent(endpoints: Endpoints, peer: socket.socket, kind: Any) -> None:
    transport, _ = await endpoints.open(remote_addr=peer.getsockname())
    transport.sendto(kind(b"some bytes"))
    assert await read(peer) == [b"some bytes"]


async def test_a_view_of_wider_items_is_sent_as_its_bytes(endpoints: Endpoints, peer: socket.socket) -> None:
    transport, _ = await endpoints.open(remote_addr=peer.getsockname())
    numbers = array.array("I", range(50))
    transport.sendto(memoryview(numbers))
    transport.sendto(memoryview(bytes(range(100)))[20:40])
    transport.sendto(memoryview(bytes(range(12))).cast("B", (3, 4)))
    assert await read(peer, 3) == [numbers.tobytes(), bytes(range(20, 40)), bytes(range(12))]


@pytest.mark.parametrize("data", ["text", 5, None, [b"list"], array.array("B", b"array"), object()])
async def test_other_types_are_refused(endpoints: Endpoints, peer: socket.socket, data: Any) -> None:
    transport, _ = await endpoints.open(remote_addr=peer.getsockname())
    expected = f"data argument must be a bytes-like object, not '{type(data).__name__}'"
    with pytest.raises(TypeError, match=f"^{expected}$"):
        transport.sendto(data)
    transport.sendto(b"the next")
    assert await read(peer) == [b"the next"]


async def test_an_empty_datagram_is_a_datagram(endpoints: Endpoints, peer: socket.socket) -> None:
    transport, _ = await endpoints.open(remote_addr=peer.getsockname())
    for data in (b"", b"one", b"", b"", b"two", b""):
        transport.sendto(data)
    assert await read(peer, 6) == [b"", b"one", b"", b"", b"two", b""]


async def test_an_empty_datagram_can_be_alone(endpoints: Endpoints, peer: socket.socket) -> None:
    transport, _ = await endpoints.open()
    transport.sendto(b"", peer.getsockname())
    assert await read(peer) == [b""]


async def test_the_largest_datagram(endpoints: Endpoints, peer: socket.socket) -> None:
    transport, _ = await endpoints.open(remote_addr=peer.getsockname())
    transport.sendto(b"before")
    transport.sendto(bytes(65_507))
    transport.sendto(b"behind")
    assert await read(peer, 3) == [b"before", bytes(65_507), b"behind"]


@pytest.mark.parametrize("size", [65_508, 70_000, 1 << 20])
async def test_too_large_a_datagram_is_an_error_of_its_own(
    endpoints: Endpoints, peer: socket.socket, size: int
) -> None:
    transport, protocol = await endpoints.open(remote_addr=peer.getsockname())
    transport.sendto(b"before")
    transport.sendto(bytes(size))
    transport.sendto(b"behind")
    assert await read(peer, 2) == [b"before", b"behind"]
    (error,) = await protocol.called("error")
    assert isinstance(error, OSError)
    assert error.errno == errno.EMSGSIZE
    await settle()
    assert protocol.names == ["made", "error"]
    assert not transport.is_closing()


# -- memory that is used again


def reuse(sendto: Callable[[Any], object], buffer: bytearray, count: int, kind: Callable[[Any], Any]) -> None:
    """Sends from one buffer, which is changed at once."""
    for number in range(count):
        buffer[:] = number.to_bytes(4, "big") * (len(buffer) // 4)
        sendto(kind(buffer))
    buffer[:] = b"\xff" * len(buffer)


def written(size: int, count: int) -> list[bytes]:
    return [number.to_bytes(4, "big") * (size // 4) for number in range(count)]


@pytest.mark.parametrize("size", [4, 1200, 20_000, 60_000])
@pytest.mark.parametrize("kind", [lambda buffer: buffer, memoryview], ids=["bytearray", "memoryview"])
async def test_a_buffer_can_be_changed_when_sendto_returns(
    endpoints: Endpoints, peer: socket.socket, size: int, kind: Callable[[Any], Any]
) -> None:
    transport, _ = await endpoints.open(remote_addr=peer.getsockname())
    reuse(transport.sendto, bytearray(size), 20, kind)
    assert await read(peer, 20) == written(size, 20)


async def test_control_what_is_sent_later_from_a_buffer_is_changed(peer: socket.socket) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(peer.getsockname())
        loop = asyncio.get_running_loop()
        reuse(lambda data: loop.call_soon(sock.send, data), bytearray(1200), 20, memoryview)
        assert await read(peer, 20) != written(1200, 20)


async def test_a_buffer_can_be_resized_when_sendto_returns(endpoints: Endpoints, peer: socket.socket) -> None:
    transport, _ = await endpoints.open(remote_addr=peer.getsockname())
    buffer = bytearray(b"x" * 30_000)
    transport.sendto(buffer)
    buffer.clear()  # BufferError while somebody has a view
    assert await read(peer) == [b"x" * 30_000]


# -- the address


async def test_a_connected_transport_sends_to_its_peer_alone(
    endpoints: Endpoints, peer: socket.socket, make_peer: Callable[..., socket.socket]
) -> None:
    other = make_peer()
    transport, _ = await endpoints.open(remote_addr=peer.getsockname())
    transport.sendto(b"without")
    transport.sendto(b"with none", None)
    transport.sendto(b"with its peer", peer.getsockname())
    with pytest.raises(ValueError, match=r"Invalid address: must be None or \('127\.0\.0\.1', \d+\)"):
        transport.sendto(b"elsewhere", other.getsockname())
    assert await read(peer, 3) == [b"without", b"with none", b"with its peer"]
    assert arrived(other) == []


async def test_an_unconnected_transport_sends_to_each_address(
    endpoints: Endpoints, make_peer: Callable[..., socket.socket]
) -> None:
    peers = [make_peer() for _ in range(5)]
    transport, _ = await endpoints.open()
    for number in range(50):
        peer = peers[number % 5]
        transport.sendto(b"%d" % number, peer.getsockname())
    for index, peer in enumerate(peers):
        assert await read(peer, 10) == [b"%d" % number for number in range(index, 50, 5)]


async def test_equal_tuples_are_one_address(endpoints: Endpoints, peer: socket.socket) -> None:
    transport, _ = await endpoints.open()
    host, port = peer.getsockname()
    sent = [b"%03d" % number for number in range(200)]
    for data in sent:
        transport.sendto(data, (str(host), int(port)))
    assert await read(peer, 200) == sent


async def test_an_address_is_not_known_by_the_memory_of_its_tuple(
    endpoints: Endpoints, make_peer: Callable[..., socket.socket]
) -> None:
    """Tuples that are made for one call: the next one has the same id()."""
    peers = [make_peer() for _ in range(8)]
    ports = [peer.getsockname()[1] for peer in peers]
    transport, _ = await endpoints.open()
    for number in range(400):
        transport.sendto(b"%d" % number, ("127.0.0.1", ports[number * 5 % 8]))
        if number % 50 == 0:
            await turns()
    for index, peer in enumerate(peers):
        expected = [b"%d" % number for number in range(400) if number * 5 % 8 == index]
        assert await read(peer, 50) == expected


async def test_the_address_that_a_datagram_came_from_is_one_to_send_to(
    endpoints: Endpoints, peer: socket.socket
) -> None:
    class Echo(Recorder):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.transport.sendto(data, addr)

    transport, _ = await endpoints.open(Echo)
    peer.connect(transport.get_extra_info("sockname"))
    sent = [b"%03d" % number for number in range(100)]
    for data in sent:
        peer.send(data)
    assert await read(peer, 100) == sent


async def test_a_host_name_is_resolved_by_sendto(endpoints: Endpoints, peer: socket.socket) -> None:
    transport, protocol = await endpoints.open()
    transport.sendto(b"by name", ("localhost", peer.getsockname()[1]))
    assert await read(peer) == [b"by name"]
    assert protocol.names == ["made"]


async def test_the_empty_host_name_is_this_machine(endpoints: Endpoints, peer: socket.socket) -> None:
    transport, _ = await endpoints.open()
    transport.sendto(b"to 0.0.0.0", ("", peer.getsockname()[1]))
    assert await read(peer) == [b"to 0.0.0.0"]


async def test_an_address_of_another_family_is_an_error_of_its_own(
    endpoints: Endpoints, peer: socket.socket
) -> None:
    transport, protocol = await endpoints.open()
    transport.sendto(b"IPv6", ("::1", 9))
    transport.sendto(b"IPv4", peer.getsockname())
    assert await read(peer) == [b"IPv4"]
    (error,) = await protocol.called("error")
    assert isinstance(error, OSError)
    assert not transport.is_closing()


WRONG: dict[str, Any] = {
    "str": "127.0.0.1",
    "int": 5,
    "one": ("127.0.0.1",),
    "port of another type": ("127.0.0.1", "9"),
    "port that does not exist": ("127.0.0.1", 70_000),
    "host of another type": (5, 9),
    "host with a NUL": ("127.0.0.1\0.example", 9),
    "host with a surrogate": ("127.0.0.1\udcff", 9),
}


@pytest.mark.parametrize("case", WRONG)
async def test_what_is_no_address_is_reported(endpoints: Endpoints, peer: socket.socket, case: str) -> None:
    """asyncio closes the transport then, and calls the loop's exception handler."""
    transport, protocol = await endpoints.open()
    raised: list[Exception] = []
    try:
        transport.sendto(b"where?", WRONG[case])
    except (TypeError, ValueError, OverflowError) as error:
        raised.append(error)
    await settle()
    reported = [one["exception"] for one in endpoints.problems] + protocol.of("error")
    endpoints.problems.clear()
    assert len(raised + reported) == 1
    assert arrived(peer) == []


async def test_an_unconnected_transport_needs_an_address(endpoints: Endpoints) -> None:
    transport, protocol = await endpoints.open()
    raised: list[Exception] = []
    try:
        transport.sendto(b"where?")
    except (TypeError, ValueError, OSError) as error:
        raised.append(error)
    await settle()
    reported = [one["exception"] for one in endpoints.problems] + protocol.of("error")
    endpoints.problems.clear()
    assert len(raised + reported) == 1


# -- a list of them, which is our own


async def test_many_at_once(endpoints: Endpoints, peer: socket.socket) -> None:
    if not endpoints.ours:
        return
    transport, _ = await endpoints.open()
    sent = [b"%03d" % number for number in range(150)]
    transport.sendto(b"first", peer.getsockname())
    transport.sendto_many(sent, peer.getsockname())
    transport.sendto(b"last", peer.getsockname())
    assert await read(peer, 152) == [b"first", *sent, b"last"]
    connected, _ = await endpoints.open(remote_addr=peer.getsockname())
    connected.sendto_many(bytearray(b"%d" % number) for number in range(3))
    assert await read(peer, 3) == [b"0", b"1", b"2"]
    with pytest.raises(ValueError, match="Invalid address"):
        connected.sendto_many([b"x"], LOCAL)
