"""A server of asyncio that answers each datagram by the same one, in a process of its own over loopback.

`python -m benchmarks.programs.echo LOOP FD`, with a loop of event_loops.py. It answers stdin with the
CPU time that it has taken, in seconds, and its trains by length.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from typing import Any

from benchmarks.pairs import Contender, Sample
from benchmarks.programs.asked import Asked, answer_stdin, on_cpu
from benchmarks.programs.event_loops import new_loop, trains_of
from benchmarks.programs.reference import build

LARGE = 16 << 20
SO_RCVBUFFORCE = 33


class Echo(asyncio.DatagramProtocol):
    """Answers each datagram, as most servers are written."""

    def connection_made(self, transport: Any) -> None:
        """The endpoint is there."""
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Answer."""
        self.transport.sendto(data, addr)


class EchoServer(Asked):
    """Such a process, on the first CPU."""

    def __init__(self, name: str) -> None:
        self.name = name
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, LARGE)
            sock.bind(("127.0.0.1", 0))
            self.address = sock.getsockname()
            super().__init__(0, "echo", name, sock.fileno(), fds=(sock.fileno(),))


class Load:
    """A server under load by requests.c on the second CPU, measured by the server's CPU time.

    `rates` has the answers per second of each run, the warm-up first.
    """

    def __init__(self, server: EchoServer, *, sockets: int, window: int, size: int, trains: bool) -> None:
        self.server, self.rates = server, list[Sample]()
        port = server.address[1]
        self._command = on_cpu(1, build("requests.c"), port, sockets, window, size, int(trains))
        self.contender = Contender(server.name, self._run)

    def _run(self, seconds: float) -> Sample:
        before = self.server.ask()["cpu_seconds"]
        done = subprocess.run([*self._command, str(seconds)], check=True, stdout=subprocess.PIPE)
        answer = json.loads(done.stdout)
        cpu = self.server.ask()["cpu_seconds"] - before
        if answer["lost"]:
            raise RuntimeError(f"{self.server.name}: requests or answers were lost: {answer}")
        self.rates.append(Sample(answer["answers"], answer["seconds"], cpu))
        return Sample(answer["answers"], cpu, cpu)


async def serve(sock: socket.socket) -> None:
    """Answer, until stdin ends."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Echo, sock=sock)

    async def state() -> dict[str, Any]:
        return {"cpu_seconds": time.process_time(), "trains": trains_of(transport)}

    await answer_stdin(state)
    transport.close()


def main() -> None:
    """Run the server."""
    loop = new_loop(sys.argv[1])
    sock = socket.socket(fileno=int(sys.argv[2]))
    sock.setblocking(False)
    loop.run_until_complete(serve(sock))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


if __name__ == "__main__":
    main()
