"""Kinds of addresses: IPv6, IPv4 mapped into it, multicast and broadcast."""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
from event_loops import LOCAL, Endpoints, read, read_from
from recorder import Recorder

pytestmark = pytest.mark.engines()

LOCAL6 = ("::1", 0)
MakePeer = Callable[..., socket.socket]


async def test_ipv6_addresses_have_four_parts(endpoints: Endpoints, make_peer: MakePeer) -> None:
    peer = make_peer(LOCAL6, socket.AF_INET6)
    transport, protocol = await endpoints.open(local_addr=LOCAL6)
    assert len(transport.get_extra_info("sockname")) == 4
    transport.sendto(b"four parts", peer.getsockname())
    transport.sendto(b"two parts", peer.getsockname()[:2])
    ((first, address), (second, same)) = await read_from(peer, 2)
    assert (first, second) == (b"four parts", b"two parts")
    assert address == same == transport.get_extra_info("sockname")
    peer.sendto(b"back", address)
    assert await protocol.called("datagram") == [(b"back", peer.getsockname())]


async def test_a_connected_ipv6_transport(endpoints: Endpoints, make_peer: MakePeer) -> None:
    peer = make_peer(LOCAL6, socket.AF_INET6)
    transport, protocol = await endpoints.open(remote_addr=peer.getsockname()[:2])
    assert transport.get_extra_info("peername") == peer.getsockname()
    transport.sendto(b"one")
    transport.sendto(b"two", transport.get_extra_info("peername"))
    ((_, address), (_, _)) = await read_from(peer, 2)
    peer.sendto(b"back", address)
    assert await protocol.called("datagram") == [(b"back", peer.getsockname())]


async def test_one_socket_for_both_families(endpoints: Endpoints, make_peer: MakePeer) -> None:
    """IPv4 addresses are mapped; the answer goes to the address that the datagram came from."""

    class Echo(Recorder):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            self.transport.sendto(data, addr)

    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", 0))
    _, protocol = await endpoints.open(Echo, sock=sock)
    port = sock.getsockname()[1]
    four, six = make_peer(), make_peer(LOCAL6, socket.AF_INET6)
    for number in range(10):
        four.sendto(b"four %d" % number, ("127.0.0.1", port))
        six.sendto(b"six %d" % number, ("::1", port))
    assert await read(four, 10) == [b"four %d" % number for number in range(10)]
    assert await read(six, 10) == [b"six %d" % number for number in range(10)]
    hosts = {addr[0] for _, addr in protocol.of("datagram")}
    assert hosts == {"::ffff:127.0.0.1", "::1"}


async def test_a_mapped_address_of_the_programs(endpoints: Endpoints, peer: socket.socket) -> None:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    transport, protocol = await endpoints.open(sock=sock)
    port = peer.getsockname()[1]
    transport.sendto(b"mapped", ("::ffff:127.0.0.1", port))
    transport.sendto(b"mapped, four parts", ("::ffff:127.0.0.1", port, 0, 0))
    assert await read(peer, 2) == [b"mapped", b"mapped, four parts"]
    assert protocol.names == ["made"]


async def test_multicast_by_options_of_the_socket(endpoints: Endpoints, make_peer: MakePeer) -> None:
    group = "239.255.43.21"
    members = [make_peer((group, 0))]
    port = members[0].getsockname()[1]
    membership = socket.inet_aton(group) + socket.inet_aton("127.0.0.1")
    members[0].setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    receiving, protocol = await endpoints.open(local_addr=LOCAL)
    transport, _ = await endpoints.open(family=socket.AF_INET)
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, struct.pack("b", 0))
    sent = [b"%d" % number for number in range(20)]
    for data in sent:
        transport.sendto(data, (group, port))
        transport.sendto(data, receiving.get_extra_info("sockname"))
    assert await read(members[0], 20) == sent
    await protocol.called("datagram", 20)
    assert protocol.datagrams == sent


async def test_a_member_of_a_multicast_group_receives(endpoints: Endpoints) -> None:
    group = "239.255.43.22"
    transport, protocol = await endpoints.open(local_addr=("0.0.0.0", 0))
    membership = socket.inet_aton(group) + socket.inet_aton("127.0.0.1")
    transport.get_extra_info("socket").setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        sock.sendto(b"to all", (group, transport.get_extra_info("sockname")[1]))
        await protocol.called("datagram")
    assert protocol.datagrams == [b"to all"]


async def test_broadcast_where_it_is_allowed(endpoints: Endpoints, make_peer: MakePeer) -> None:
    peer = make_peer(("0.0.0.0", 0))
    address = ("127.255.255.255", peer.getsockname()[1])
    refused, refused_protocol = await endpoints.open()
    refused.sendto(b"to all", address)
    (error,) = await refused_protocol.called("error")
    assert isinstance(error, PermissionError)
    transport, protocol = await endpoints.open(local_addr=LOCAL, allow_broadcast=True)
    transport.sendto(b"to all", address)
    transport.sendto(b"again", address)
    assert await read(peer, 2) == [b"to all", b"again"]
    assert protocol.names == ["made"]


async def test_broadcast_can_be_allowed_later(endpoints: Endpoints, make_peer: MakePeer) -> None:
    peer = make_peer(("0.0.0.0", 0))
    address = ("127.255.255.255", peer.getsockname()[1])
    transport, protocol = await endpoints.open()
    transport.sendto(b"to all", address)
    await protocol.called("error")
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    transport.sendto(b"to all", address)
    assert await read(peer) == [b"to all"]
    await asyncio.sleep(0)
    assert len(protocol.of("error")) == 1
