"""What an endpoint costs: memory of a process with many, and lookups that have one each.

`python -m benchmarks.programs.endpoints LOOP COUNT`, in a network where 10.0.0.2:9000 takes datagrams, prints
the bytes of the process that are in memory with so many endpoints, each of which has sent two datagrams.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from typing import Any

from benchmarks.pairs import Contender, Sample
from benchmarks.programs.event_loops import new_loop
from benchmarks.programs.memory import resident
from benchmarks.programs.udp_sender import Address
from uringzc.testing import Sandbox

PATIENCE = 5  # seconds for an answer


class Lookup(asyncio.DatagramProtocol):
    """A question, sent at once, and its answer."""

    def __init__(self, question: bytes, answer: asyncio.Future[bytes]) -> None:
        self.question, self.answer = question, answer

    def connection_made(self, transport: Any) -> None:
        """Ask."""
        transport.sendto(self.question)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """It is there."""
        self.answer.set_result(data)


def lookups(name: str, address: Address, question: bytes) -> Contender:
    """Each makes an endpoint, sends a question to a server that answers it, gets the answer, and closes."""
    loop = new_loop(name)

    async def lookup() -> None:
        answer: asyncio.Future[bytes] = loop.create_future()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: Lookup(question, answer), remote_addr=address
        )
        await asyncio.wait_for(answer, PATIENCE)
        transport.close()

    async def run(seconds: float) -> Sample:
        count, cpu, start = 0, time.process_time(), time.perf_counter()
        now, until = start, start + seconds
        while now < until:
            await lookup()
            count += 1
            now = time.perf_counter()
        return Sample(count, now - start, time.process_time() - cpu)

    return Contender(name, lambda seconds: loop.run_until_complete(run(seconds)))


async def opened(count: int) -> int:
    """Return the bytes in memory with so many endpoints."""
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(most, 8 * count)), most))
    loop = asyncio.get_running_loop()
    endpoints = [
        await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=Sandbox.address)
        for _ in range(count)
    ]
    for transport, _ in endpoints:
        for _ in range(2):
            transport.sendto(bytes(1200))
    await asyncio.sleep(0.05)
    taken = resident()
    for transport, _ in endpoints:
        transport.close()
    return taken


def main() -> None:
    """Measure and print."""
    loop = new_loop(sys.argv[1])
    print(loop.run_until_complete(opened(int(sys.argv[2]))))
    loop.run_until_complete(asyncio.sleep(0.05))
    loop.close()


if __name__ == "__main__":
    main()
