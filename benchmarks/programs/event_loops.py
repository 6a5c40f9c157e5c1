"""Event loops to compare, and `transport.sendto` in them as contenders.

A program is the same in all of them. Each contender has a loop of its own, and runs it while it is measured.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import uvloop

import uringzc.aio
from benchmarks.pairs import Contender, Sample
from benchmarks.programs.udp_sender import Turn

#: by the name of the opponent: the stock loops, and the library's over each of them
STOCK = ("asyncio", "uvloop")
OURS = {"asyncio": "uringzc", "uvloop": "uringzc over uvloop"}
LOOPS = (*OURS.values(), *STOCK)


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    """Return a loop of LOOPS.

    asyncio receives into a new block of 256 KiB each time. glibc maps and unmaps that, which takes 11 us, in
    a process that has never freed a larger one. Here each has, so that asyncio is at its best.
    """
    bytes(1 << 20)
    if name == "asyncio":
        return asyncio.SelectorEventLoop()
    if name == "uvloop":
        return uvloop.new_event_loop()
    return uringzc.aio.new_event_loop(base=asyncio.SelectorEventLoop if name == "uringzc" else uvloop.Loop)


def trains_of(transport: Any) -> dict[str, int]:
    """Return its trains (GSO batches) by length, as in `UdpStats`; a stock transport has none."""
    stats = getattr(transport, "stats", None)
    return {str(length): count for length, count in stats.trains.items()} if stats else {}


class Writer(asyncio.DatagramProtocol):
    """A protocol that honours `pause_writing`."""

    def __init__(self) -> None:
        self.paused, self.resumed = False, asyncio.Event()

    def pause_writing(self) -> None:
        """The transport has enough."""
        self.paused = True
        self.resumed.clear()

    def resume_writing(self) -> None:
        """It takes more."""
        self.paused = False
        self.resumed.set()

    def error_received(self, exc: Exception) -> None:
        """Nothing may be lost."""
        raise exc


class Sending:
    """A loop with an endpoint on `sock`. Leaving the `with` block closes them."""

    def __init__(self, name: str, sock: socket.socket) -> None:
        self.name, self.loop = name, new_loop(name)
        self.transport: Any
        self.transport, self.protocol = self.loop.run_until_complete(
            self.loop.create_datagram_endpoint(Writer, sock=sock)
        )

    def __enter__(self) -> Sending:
        return self

    def __exit__(self, *_: object) -> None:
        self.transport.close()
        self.loop.run_until_complete(asyncio.sleep(0.01))
        self.loop.close()

    def trains(self) -> dict[str, int]:
        """Return what `trains_of` does."""
        return trains_of(self.transport)

    def sendto(self, turns: Sequence[Sequence[bytes]]) -> Contender:
        """`sendto` of each to where the socket is connected, the loop turns after each turn."""

        async def chunk() -> None:
            sendto = self.transport.sendto
            for turn in turns:
                for payload in turn:
                    sendto(payload)
                await asyncio.sleep(0)

        return self._contender(chunk, sum(map(len, turns)))

    def sendto_each(self, turns: Sequence[Turn]) -> Contender:
        """`sendto` of each to its address, the loop turns after each turn."""

        async def chunk() -> None:
            sendto = self.transport.sendto
            for turn in turns:
                for payload, address in turn:
                    sendto(payload, address)
                await asyncio.sleep(0)

        return self._contender(chunk, sum(map(len, turns)))

    def sendto_until_paused(self, payloads: Sequence[bytes]) -> Contender:
        """`sendto` of each, and the loop turns only when the transport has paused, or at the end."""

        async def chunk() -> None:
            sendto, protocol = self.transport.sendto, self.protocol
            for payload in payloads:
                sendto(payload)
                if protocol.paused:
                    await protocol.resumed.wait()
            await asyncio.sleep(0)

        return self._contender(chunk, len(payloads))

    def _contender(self, chunk: Callable[[], Awaitable[None]], datagrams: int) -> Contender:
        return contender(self.loop, self.name, chunk, datagrams, self._sent)

    async def _sent(self) -> None:
        while self.transport.get_write_buffer_size():
            await asyncio.sleep(0)


class Awaiting:
    """A loop with an awaitable sender on `sock`. Leaving the `with` block closes them."""

    def __init__(self, sock: socket.socket) -> None:
        self.loop = new_loop("uringzc")
        self.tx = self.loop.run_until_complete(uringzc.aio.UdpSender(sock=sock).__aenter__())

    def __enter__(self) -> Awaiting:
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.run_until_complete(self.tx.close())
        self.loop.close()

    def send(self, payloads: Sequence[bytes]) -> Contender:
        """`await send` of each, which does not suspend while there is room; the loop turns at the end."""

        async def chunk() -> None:
            send = self.tx.send
            for payload in payloads:
                await send(payload)
            await asyncio.sleep(0)

        return contender(self.loop, "await send", chunk, len(payloads), self.tx.flush)


def contender(
    loop: asyncio.AbstractEventLoop,
    name: str,
    chunk: Callable[[], Awaitable[None]],
    datagrams: int,
    sent: Callable[[], Awaitable[object]],
) -> Contender:
    """Return calls of `chunk`, which sends so many datagrams; `sent` returns when all have left."""

    async def send(seconds: float) -> Sample:
        chunks, cpu, start = 0, time.process_time(), time.perf_counter()
        now, until = start, start + seconds
        while now < until:
            await chunk()
            chunks += 1
            now = time.perf_counter()
        await sent()
        now = time.perf_counter()
        return Sample(chunks * datagrams, now - start, time.process_time() - cpu)

    return Contender(name, lambda seconds: loop.run_until_complete(send(seconds)))
