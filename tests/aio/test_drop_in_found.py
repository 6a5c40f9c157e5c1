"""What the test suites of other packages ask of create_datagram_endpoint, and found missing once."""

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest

import uringzc.aio
from uringzc.aio import endpoint
from uringzc.kernel import features


class Base(asyncio.SelectorEventLoop):
    """A stock loop with an option of its own, as uvloop's reuse_address."""

    asked: Any = None

    async def create_datagram_endpoint(self, *args: Any, reuse_address: Any = None, **options: Any) -> Any:
        self.asked = reuse_address
        return await super().create_datagram_endpoint(*args, **options)


@pytest.fixture
def loop() -> Iterator[Any]:
    made: Any = uringzc.aio.new_event_loop(base=Base)
    yield made
    made.close()


def test_a_transport_is_also_an_asyncio_transport(loop: Any) -> None:
    async def main() -> None:
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        )
        transport.close()
        assert isinstance(transport, uringzc.aio.DatagramTransport)
        assert isinstance(transport, asyncio.Transport)

    loop.run_until_complete(main())


@pytest.mark.parametrize("option", [{"family": socket.AF_INET}, {"local_addr": ("127.0.0.1", 0)}])
def test_options_beside_a_socket_are_refused_before_it_is_looked_at(loop: Any, option: Any) -> None:
    class Sock:
        type = socket.SOCK_DGRAM

    with pytest.raises(ValueError, match="socket modifier keyword arguments"):
        loop.run_until_complete(
            loop.create_datagram_endpoint(asyncio.DatagramProtocol, sock=Sock(), **option)
        )


def test_a_stream_socket_is_refused_in_the_words_of_the_stock_loop(loop: Any) -> None:
    stock = asyncio.SelectorEventLoop()
    words = []
    with socket.socket() as sock:
        for one in (stock, loop):
            with pytest.raises(ValueError, match="ocket was expected") as refused:
                one.run_until_complete(one.create_datagram_endpoint(asyncio.DatagramProtocol, sock=sock))
            words.append(str(refused.value))
    stock.close()
    assert words[0] == words[1]


def test_an_option_of_the_stock_loop_alone_is_left_to_it(loop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(endpoint, "_tell_once", told.append)

    async def main() -> Any:
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0), reuse_address=False
        )
        transport.close()
        return transport

    transport = loop.run_until_complete(main())
    assert loop.asked is False
    assert not isinstance(transport, uringzc.aio.DatagramTransport)
    assert told == ["the option reuse_address"]


def test_an_option_that_no_loop_knows_is_a_type_error(loop: Any) -> None:
    with pytest.raises(TypeError, match="no_such_option"):
        loop.run_until_complete(loop.create_datagram_endpoint(asyncio.DatagramProtocol, no_such_option=1))


def test_the_kernel_is_probed_with_a_socket_that_never_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    timeouts = []

    class Sock(socket.socket):
        def sendto(self, *args: Any) -> int:
            timeouts.append(self.gettimeout())
            return super().sendto(*args)

    monkeypatch.setattr(socket, "socket", Sock)
    assert features.max_segments.__wrapped__() in (64, 128)
    assert timeouts == [0]
