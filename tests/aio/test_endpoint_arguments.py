"""What create_datagram_endpoint takes and refuses, and that a refusal leaves no socket."""

import asyncio
import contextlib
import errno
import inspect
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from event_loops import LOCAL, Endpoints, read, read_from
from recorder import Recorder

import uringzc.aio
from uringzc.aio import endpoint

pytestmark = pytest.mark.engines()


def arguments_of(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    """Of a method: without self."""
    found = inspect.signature(function).parameters.values()
    return [(one.name, one.kind, one.default) for one in found if one.name != "self"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="reuse_address is gone since CPython 3.11")
def test_the_signature_is_asyncios() -> None:
    stock = arguments_of(asyncio.BaseEventLoop.create_datagram_endpoint)
    assert arguments_of(uringzc.aio.create_datagram_endpoint) == stock


async def test_other_arguments_are_refused(endpoints: Endpoints) -> None:
    with pytest.raises(TypeError, match="argument"):
        await endpoints.open(local_addr=LOCAL, reuse_everything=True)
    with pytest.raises(TypeError, match="argument"):
        await endpoints.kind.create(Recorder, None, None, socket.AF_INET)


MODIFIERS: dict[str, Any] = {
    "local_addr": LOCAL,
    "remote_addr": ("127.0.0.1", 9),
    "family": socket.AF_INET,
    "proto": socket.IPPROTO_UDP,
    "flags": socket.AI_PASSIVE,
    "reuse_port": True,
    "allow_broadcast": True,
}


@pytest.mark.parametrize("name", MODIFIERS)
async def test_a_modifier_beside_sock_is_refused(endpoints: Endpoints, name: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        with pytest.raises(ValueError, match="socket modifier keyword arguments can not be used") as caught:
            await endpoints.open(sock=sock, **{name: MODIFIERS[name]})
        assert name in str(caught.value)
        assert sock.fileno() > 0  # still its owner's


async def test_a_stream_socket_is_refused(endpoints: Endpoints) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        with pytest.raises(ValueError, match=r"(?i)(UDP|datagram) socket was expected"):
            await endpoints.open(sock=sock)
        assert sock.fileno() > 0


async def test_no_address_and_no_family_is_refused(endpoints: Endpoints) -> None:
    with pytest.raises(ValueError, match="unexpected address family"):
        await endpoints.open(family=0)


async def test_a_family_alone_is_enough(endpoints: Endpoints, peer: socket.socket) -> None:
    transport, protocol = await endpoints.open(family=socket.AF_INET)
    transport.sendto(b"question", peer.getsockname())
    ((data, address),) = await read_from(peer)
    assert data == b"question"
    peer.sendto(b"answer", address)
    assert await protocol.called("datagram") == [(b"answer", peer.getsockname())]


@pytest.mark.parametrize("address", ["127.0.0.1", ["127.0.0.1", 0], ("127.0.0.1",), ("127.0.0.1", 0, 0), 5])
@pytest.mark.parametrize("name", ["local_addr", "remote_addr"])
async def test_an_address_is_a_pair(endpoints: Endpoints, name: str, address: Any) -> None:
    with pytest.raises(TypeError, match="2-tuple is expected"):
        await endpoints.open(**{name: address})


@pytest.mark.parametrize("name", ["local_addr", "remote_addr"])
async def test_a_host_that_is_not_found(endpoints: Endpoints, name: str) -> None:
    options: dict[str, Any] = {name: ("localhost", 9)}
    with pytest.raises(socket.gaierror):
        await endpoints.open(**options, flags=socket.AI_NUMERICHOST)


@pytest.mark.parametrize("name", ["local_addr", "remote_addr"])
@pytest.mark.parametrize("host", ["127.0.0.1\0.example", "localhost\0.example"])
async def test_a_host_with_a_nul_is_no_host(endpoints: Endpoints, name: str, host: str) -> None:
    """Stock loops take it to end there: that is another host."""
    if not endpoints.ours:
        pytest.skip("a stock loop")
    options: dict[str, Any] = {name: (host, 9)}
    with pytest.raises(ValueError, match="a host has no NUL character"):
        await endpoints.open(**options)


@pytest.mark.parametrize("name", ["local_addr", "remote_addr"])
async def test_a_port_that_does_not_exist(endpoints: Endpoints, name: str) -> None:
    options: dict[str, Any] = {name: ("127.0.0.1", 70_000)}
    with pytest.raises(OverflowError):
        await endpoints.open(**options)


async def test_addresses_of_different_families(endpoints: Endpoints) -> None:
    with pytest.raises(ValueError, match="can not get address information"):
        await endpoints.open(local_addr=LOCAL, remote_addr=("::1", 9))


async def test_an_address_of_another_family_than_asked_for(endpoints: Endpoints) -> None:
    with pytest.raises(socket.gaierror):
        await endpoints.open(local_addr=LOCAL, family=socket.AF_INET6)


async def test_an_address_that_is_not_of_this_machine(endpoints: Endpoints) -> None:
    with pytest.raises(OSError, match=r"annot assign requested address") as caught:
        await endpoints.open(local_addr=("192.0.2.1", 0))
    assert caught.value.errno == errno.EADDRNOTAVAIL


async def test_a_port_in_use(endpoints: Endpoints, peer: socket.socket) -> None:
    with pytest.raises(OSError, match="in use") as caught:
        await endpoints.open(local_addr=peer.getsockname())
    assert caught.value.errno == errno.EADDRINUSE


async def test_reuse_port_shares_one(endpoints: Endpoints) -> None:
    first, _ = await endpoints.open(local_addr=LOCAL, reuse_port=True)
    address = first.get_extra_info("sockname")
    second, _ = await endpoints.open(local_addr=address, reuse_port=True)
    assert second.get_extra_info("sockname") == address
    option = second.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
    assert option == 1
    with pytest.raises(OSError, match="in use"):
        await endpoints.open(local_addr=address)


@pytest.mark.parametrize("allow", [True, False, None])
async def test_allow_broadcast_is_a_socket_option(endpoints: Endpoints, allow: bool | None) -> None:
    transport, _ = await endpoints.open(local_addr=LOCAL, allow_broadcast=allow)
    sock = transport.get_extra_info("socket")
    assert bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)) == bool(allow)


async def test_a_remote_that_may_be_a_broadcast_is_not_connected(
    endpoints: Endpoints, make_peer: Callable[..., socket.socket]
) -> None:
    """Answers to a broadcast come from other addresses."""
    asked, other = make_peer(), make_peer()
    transport, protocol = await endpoints.open(remote_addr=asked.getsockname(), allow_broadcast=True)
    transport.sendto(b"anybody?")
    ((data, address),) = await read_from(asked)
    assert data == b"anybody?"
    other.sendto(b"here", ("127.0.0.1", address[1]))
    assert await protocol.called("datagram") == [(b"here", other.getsockname())]
    with pytest.raises(ValueError, match="Invalid address"):
        transport.sendto(b"to another one", other.getsockname())


def port_of_both_families() -> tuple[socket.socket, socket.socket]:
    """A socket on ::1 and one on 127.0.0.1, with one port."""
    while True:
        six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        six.bind(("::1", 0))
        four = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            four.bind(("127.0.0.1", six.getsockname()[1]))
        except OSError:
            six.close()
            four.close()
        else:
            return six, four


@pytest.mark.parametrize("free", [socket.AF_INET, socket.AF_INET6])
async def test_the_first_address_that_works_is_used(endpoints: Endpoints, free: int) -> None:
    """Without a host, getaddrinfo has ::1 and 127.0.0.1."""
    six, four = port_of_both_families()
    with six, four:
        port = six.getsockname()[1]
        (four if free == socket.AF_INET else six).close()
        transport, _ = await endpoints.open(local_addr=(None, port))
        assert transport.get_extra_info("socket").family == free
        assert transport.get_extra_info("sockname")[1] == port


async def test_the_first_error_is_raised_where_no_address_works(endpoints: Endpoints) -> None:
    six, four = port_of_both_families()
    with six, four, pytest.raises(OSError, match="in use"):
        await endpoints.open(local_addr=(None, six.getsockname()[1]))


async def test_a_host_name_is_resolved(endpoints: Endpoints, peer: socket.socket) -> None:
    transport, _ = await endpoints.open(
        local_addr=("localhost", 0),
        remote_addr=("localhost", peer.getsockname()[1]),
        family=socket.AF_INET,
    )
    assert transport.get_extra_info("peername") == peer.getsockname()
    transport.sendto(b"found")
    assert await read(peer) == [b"found"]


async def test_a_blocking_socket_is_made_non_blocking(endpoints: Endpoints) -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    await endpoints.open(sock=sock)
    assert sock.gettimeout() == 0


async def test_a_socket_that_was_connected_sends_without_an_address(
    endpoints: Endpoints, peer: socket.socket
) -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(peer.getsockname())
    transport, protocol = await endpoints.open(sock=sock)
    assert transport.get_extra_info("peername") == peer.getsockname()
    transport.sendto(b"to the peer")
    ((data, address),) = await read_from(peer)
    assert data == b"to the peer"
    peer.sendto(b"back", address)
    assert await protocol.called("datagram") == [(b"back", peer.getsockname())]


# -- sockets of the local machine (AF_UNIX)


async def test_paths_are_served(endpoints: Endpoints, tmp_path: Path) -> None:
    server_path, client_path = str(tmp_path / "server"), str(tmp_path / "client")
    _, server = await endpoints.open(local_addr=server_path, family=socket.AF_UNIX)
    transport, client = await endpoints.open(
        local_addr=client_path, remote_addr=server_path, family=socket.AF_UNIX
    )
    transport.sendto(b"question")
    ((data, address),) = await server.called("datagram")
    assert (data, address) == (b"question", client_path)
    server.transport.sendto(b"answer", address)
    await client.called("datagram")
    assert client.datagrams == [b"answer"]


async def test_a_stale_path_is_replaced(endpoints: Endpoints, tmp_path: Path) -> None:
    path = str(tmp_path / "server")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as left:
        left.bind(path)
    transport, protocol = await endpoints.open(local_addr=path, family=socket.AF_UNIX)
    transport.sendto(b"to itself", path)
    await protocol.called("datagram")
    assert protocol.datagrams == [b"to itself"]


async def test_a_unix_socket_of_the_program_is_served(endpoints: Endpoints, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as theirs:
        theirs.bind(str(tmp_path / "theirs"))
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.bind(str(tmp_path / "ours"))
        sock.connect(str(tmp_path / "theirs"))
        transport, protocol = await endpoints.open(sock=sock)
        transport.sendto(b"there")
        assert await read(theirs) == [b"there"]
        theirs.sendto(b"and back", str(tmp_path / "ours"))
        await protocol.called("datagram")
        assert protocol.datagrams == [b"and back"]


async def test_a_path_is_a_str(endpoints: Endpoints) -> None:
    with pytest.raises(TypeError, match="string is expected"):
        await endpoints.open(local_addr=("127.0.0.1", 0), family=socket.AF_UNIX)


async def test_the_log_says_once_that_paths_are_served_by_the_loop(
    endpoints: Endpoints, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint._tell_once.cache_clear()
    for name in ("one", "two"):
        with contextlib.suppress(TypeError):  # uvloop refuses them
            await endpoints.open(local_addr=str(tmp_path / name), family=socket.AF_UNIX)
    await endpoints.open()
    records = [record.getMessage() for record in caplog.records if record.name == "uringzc"]
    assert len(records) == endpoints.ours
    assert all("AF_UNIX" in text for text in records)
