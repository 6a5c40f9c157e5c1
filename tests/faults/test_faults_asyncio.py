"""What a datagram protocol of asyncio gets: the errors of the UdpSender below its transport."""

import asyncio
import errno
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from broken_networks import add_route, connected, delete_route
from cells import Cell
from event_loops import turns
from recorder import Recorder
from traffic import free_port, received

from uringzc import aio, testing


class Endpoint:
    """A transport and its protocol, with a loop that runs while a method does."""

    def __init__(self, sock: socket.socket) -> None:
        self._loop = aio.new_event_loop()
        made = self._loop.create_datagram_endpoint(Recorder, sock=sock)
        transport, self.protocol = self._loop.run_until_complete(made)
        self.transport: Any = transport

    def send(self, *datagrams: bytes) -> None:
        """In one turn of the loop, which sends them at its end."""

        async def main() -> None:
            for data in datagrams:
                self.transport.sendto(data)
            await turns(2)

        self._loop.run_until_complete(main())

    def until(self, condition: Callable[[Recorder], object]) -> None:
        """Runs the loop until the condition holds."""
        waiting = self.protocol.until(lambda: condition(self.protocol))
        self._loop.run_until_complete(asyncio.wait_for(waiting, 20))

    def errors(self, count: int) -> Sequence[OSError]:
        """So many calls of error_received, and no more."""
        self.until(lambda protocol: len(protocol.of("error")) >= count)
        found = self.protocol.of("error")
        assert len(found) == count
        return found

    def close(self) -> None:
        self.transport.close()
        self.until(lambda protocol: "lost" in protocol.names)
        assert self.protocol.of("lost") == [None]
        self._loop.close()


@contextmanager
def endpoint(sock: socket.socket) -> Iterator[Endpoint]:
    """Of a connected socket, which the transport closes."""
    made = Endpoint(sock)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.cell("ECONNREFUSED", "UdpSender")
def test_a_protocol_and_a_port_where_nobody_listens(cell: Cell) -> None:
    address = ("127.0.0.1", free_port())
    sock = cell.watch(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sock.connect(address)
    sock.setblocking(False)
    with endpoint(sock) as end, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as later:
        end.send(b"nobody reads it")
        assert [error.errno for error in end.errors(1)] == [errno.ECONNREFUSED]
        later.bind(address)
        later.settimeout(20)
        cell.next_works(end.send, later)


@testing.requires("net_admin")
@pytest.mark.cell("route gone", "UdpSender")
def test_a_protocol_and_a_route_that_is_gone(cell: Cell, net: testing.Hold) -> None:
    """Once for each turn of the loop in which something was lost."""
    sock = connected(net, cell)
    sock.setblocking(False)
    with net.receiver_socket() as rx, endpoint(sock) as end:
        rx.settimeout(20)
        delete_route(net)
        end.send(b"lost")
        end.send(b"too")
        assert {error.errno for error in end.errors(2)} == {errno.ENETUNREACH}
        add_route(net)
        cell.next_works(end.send, rx)


@pytest.mark.cell("EAGAIN", "UdpSender")
def test_a_protocol_is_paused_until_there_is_room(cell: Cell, box: testing.Hold, rx: socket.socket) -> None:
    sock = connected(box, cell)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 << 10)
    sock.setblocking(False)
    with endpoint(sock) as end:
        end.transport.set_write_buffer_limits(4000)
        box.stop()
        sent = 0
        while not end.protocol.paused:
            end.send(*[b"%04d" % (sent + number) * 200 for number in range(20)])
            sent += 20
        box.release()
        end.until(lambda protocol: not protocol.paused)
        assert end.protocol.names == ["made", "pause", "resume"]
        arrived: list[bytes] = []
        while len(arrived) < sent:
            end.send()
            arrived += received(rx, 1)
        assert arrived == [b"%04d" % number * 200 for number in range(sent)]
        cell.next_works(end.send, rx)
