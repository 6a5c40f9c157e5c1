"""A network that takes no more, until it is released: for what happens while a transport can not send."""

import socket
from contextlib import ExitStack
from typing import Any

from event_loops import Endpoints, turns
from recorder import Recorder

from uringzc import testing


class Congestion:
    """A sandbox whose receiver has room for everything. What is sent while it is stopped waits."""

    def __init__(self, box: testing.Hold, stack: ExitStack) -> None:
        self._box = box
        self._stack = stack
        self.address: Any = box.address
        self.stop = box.stop
        self.release = box.release
        self.rx = self.receiver(box.address[1])

    def receiver(self, port: int) -> socket.socket:
        """A non-blocking socket on the far side."""
        rx = self._stack.enter_context(self._box.receiver_socket(port=port))
        rx.setblocking(False)
        return rx

    def sock(self, connected: bool = True, sndbuf: int = 16 << 10) -> socket.socket:
        """A socket with a small buffer, for a transport that owns it."""
        sock = self._box.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sndbuf)
        if connected:
            sock.connect(self.address)
        return sock

    async def fill(
        self, transport: Any, protocol: Recorder, address: Any = None, size: int = 1000, first: int = 0
    ) -> list[bytes]:
        """Stops the network, and sends numbered datagrams until the protocol is paused. They are returned."""
        self.stop()
        sent: list[bytes] = []
        pauses = len(protocol.of("pause"))
        while len(protocol.of("pause")) == pauses:
            assert len(sent) < 20_000, "never paused"
            sent.append(numbered(first + len(sent), size))
            transport.sendto(sent[-1], address)
            if len(sent) % 20 == 0:
                await turns()
        return sent


def numbered(number: int, size: int = 1000) -> bytes:
    """A datagram that says which one it is, wherever one looks."""
    return (b"%08d" % number * (size // 8 + 1))[:size]


async def open_congested(
    endpoints: Endpoints,
    congestion: Congestion,
    factory: Any = Recorder,
    connected: bool = True,
    high: int = 4000,
) -> tuple[Any, Any]:
    """An endpoint with a small write buffer, in the sandbox."""
    transport, protocol = await endpoints.open(factory, sock=congestion.sock(connected))
    transport.set_write_buffer_limits(high=high)
    return transport, protocol
