"""Users of uringzc.aio: transports of an event loop, and the awaitable sender."""

# ruff: noqa: D102 - users.User documents the methods that each has

import asyncio
from collections.abc import Callable
from typing import Any

import uringzc
import uringzc.aio

from .ledger import MIN_SIZE
from .users import PATIENCE, User


class Reports(asyncio.DatagramProtocol):
    """What a transport reports; nobody answers."""

    def __init__(self, failed: Callable[[uringzc.SendError], None]) -> None:
        self.failed = failed

    def error_received(self, exc: Exception) -> None:
        """Of some datagram that was sent."""
        if isinstance(exc, uringzc.SendError):
            self.failed(exc)


class LoopUser(User):
    """A transport on a socket of the network, or UdpSender, in a loop that lives on. The engine is "auto"."""

    loop: Any = None

    def open(self) -> None:
        self.loop = uringzc.aio.new_event_loop()
        self.loop.run_until_complete(self._begin())

    async def _begin(self) -> None:
        sock = self.world.net.socket()
        sock.setblocking(False)
        sock.bind(("10.0.0.1", 0))
        self.transport, self.protocol = await self.loop.create_datagram_endpoint(
            lambda: Reports(self._failed), sock=sock
        )
        self.own = self.world.net.socket()
        self.remote = self.world.receiver()
        to = self.receivers.addresses[self.remote]
        self.tx: Any = uringzc.aio.UdpSender(to, sock=self.own, on_error=self._failed)
        await self.tx.__aenter__()
        if self.lasting:  # else these are made when it first has to wait: in any minute, or never
            self.tx._sender.fileno()
            self.transport._open().fileno()

    def _failed(self, error: uringzc.SendError) -> None:
        if error.index >= 0:
            receiver = self.receivers.addresses.index(error.to) if error.to else self.remote
            self.ledger.report(self.stream, receiver)

    def use(self) -> None:
        self.loop.run_until_complete(self._use())

    async def _use(self) -> None:
        for _ in range(self.chance.randrange(1, 6)):
            size = self.chance.choice((MIN_SIZE, 200, 1200))
            for _ in range(self.chance.randrange(1, 60)):
                receiver = self.world.receiver() if self.chance.random() < 0.3 else self.remote
                data = bytearray(self.ledger.make(self.stream, size, receiver))
                self.transport.sendto(data, self.receivers.addresses[receiver])
                data[:] = b"\xff" * size
                self.world.operations += 1
            await asyncio.sleep(0)
            for _ in range(self.chance.randrange(1, 60)):
                await self.tx.send(self.ledger.make(self.stream, size, self.remote))
                self.world.operations += 1

    def finish(self) -> None:
        self.loop.run_until_complete(self._finish())

    async def _finish(self) -> None:
        await self.tx.drain(PATIENCE)
        for _ in range(int(PATIENCE / 0.01)):
            if not self.transport.get_write_buffer_size():
                return
            await asyncio.sleep(0.01)
        raise TimeoutError("a transport holds datagrams")

    def close(self) -> None:
        """Ends the loop too."""

        async def end() -> None:
            await self.tx.__aexit__(None, None, None)
            self.transport.close()
            await asyncio.sleep(0)

        self.loop.run_until_complete(end())
        self.own.close()
        self.loop.close()
