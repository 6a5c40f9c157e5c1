"""A protocol that records, and a Receiving on one end of a pair of sockets."""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
from conftest import Pair

from uringzc.aio.receiving import Receiving

UDP_SEGMENT, UDP_GRO = 103, 104
SO_PEEK_OFF = 42
PATIENCE = 20  # seconds


def send_train(tx: socket.socket, data: bytes, size: int) -> None:
    """One system call for datagrams of `size` bytes, and a rest."""
    tx.sendmsg([data], [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("H", size))])


def with_gro(pair: Pair) -> Pair:
    pair.rx.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    return pair


def wait_for(rx: socket.socket, nbytes: int) -> None:
    """Returns when so many bytes wait to be received: on a busy machine the kernel delivers later."""
    timeout = rx.gettimeout()
    rx.settimeout(None)
    rx.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, nbytes - 1)
    rx.recv(1, socket.MSG_PEEK)
    rx.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, -1)
    rx.settimeout(timeout)


def datagrams(batch: list[tuple[Any, Any]], grouped: bool) -> list[bytes]:
    return [data for group, _ in batch for data in (group if grouped else [group])]


def make_loop(kind: str) -> asyncio.AbstractEventLoop:
    if kind == "uvloop":
        loop: asyncio.AbstractEventLoop = pytest.importorskip("uvloop").new_event_loop()
        return loop
    return asyncio.SelectorEventLoop()


class Protocol(asyncio.DatagramProtocol):
    """Records datagrams and errors, and calls `on_datagram` with each datagram."""

    def __init__(self, on_datagram: Callable[[bytes], None] = lambda data: None) -> None:
        self.got: list[Any] = []
        self.on_datagram = on_datagram
        self.wanted = 0
        self.reached: asyncio.Future[None] | None = None

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.take([data])
        self.on_datagram(data)

    def error_received(self, exc: Exception) -> None:
        self.take([exc])

    def take(self, more: list[Any]) -> None:
        self.got += more
        if self.reached and len(self.got) >= self.wanted and not self.reached.done():
            self.reached.set_result(None)

    def until(self, count: int, loop: asyncio.AbstractEventLoop) -> None:
        """Runs the loop until so many were received in all."""
        self.wanted, self.reached = count, loop.create_future()
        self.take([])
        loop.run_until_complete(asyncio.wait_for(self.reached, PATIENCE))
        self.reached = None


class Grouped(Protocol):
    """Records the lists."""

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.take(["datagram_received"])

    def datagrams_received(self, datagrams: list[bytes], addr: Any) -> None:
        self.take([datagrams])
        self.on_datagram(datagrams[-1])


class Setting:
    """A Receiving on one end of a pair, and who sends to it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pair: Pair, protocol: Protocol) -> None:
        self.loop, self.pair, self.protocol = loop, pair, protocol
        pair.rx.setblocking(False)
        self.receiving = Receiving(loop, pair.rx, protocol)

    def send(self, *sent: bytes) -> None:
        """Sends datagrams, and waits until they can be received."""
        for data in sent:
            self.pair.tx.send(data)
        if any(sent):
            wait_for(self.pair.rx, len(b"".join(sent)))

    def send_train(self, data: bytes, size: int) -> None:
        send_train(self.pair.tx, data, size)
        wait_for(self.pair.rx, len(data))

    def turns(self, count: int = 5) -> None:
        """Lets the loop turn so many times."""

        async def turn() -> None:
            for _ in range(count):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turn())

    def until(self, count: int) -> list[Any]:
        self.protocol.until(count, self.loop)
        return self.protocol.got
