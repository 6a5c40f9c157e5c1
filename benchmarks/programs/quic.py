"""aioquic, as it is: a server that sends as many bytes as a client asks for, and that client.

`python -m benchmarks.programs.quic server LOOP`, or `... client LOOP PORT`, with a loop of event_loops.py. A
client answers stdin with a download, and the CPU time that it took; a server with the CPU time that it has
taken, that of its sends alone, its trains by length, and its port.
"""

from __future__ import annotations

import asyncio
import datetime
import ssl
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeVar

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent, StreamDataReceived
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from benchmarks.programs.asked import answer_stdin
from benchmarks.programs.download import SIZE
from benchmarks.programs.event_loops import new_loop, trains_of
from uringzc.aio import transport as transports

ALPN = ["download"]
T = TypeVar("T")


class Sends:
    """CPU time of what is called through it, in nanoseconds."""

    nanoseconds = 0

    def timed(self, call: Callable[..., T]) -> Callable[..., T]:
        """Return the same call, timed."""
        clock = time.thread_time_ns

        def call_timed(*args: object) -> T:
            start = clock()
            result = call(*args)
            self.nanoseconds += clock() - start
            return result

        return call_timed


SENDS = Sends()


def _time_flushes() -> None:
    """The library's transports send when the loop calls what they have scheduled for the end of its turn."""
    module: Any = transports
    end_of_turn = module.end_of_turn

    def schedule_timed(loop: asyncio.AbstractEventLoop) -> Callable[..., object]:
        schedule = end_of_turn(loop)
        return lambda flush: schedule(SENDS.timed(flush))

    module.end_of_turn = schedule_timed


class Server(QuicConnectionProtocol):
    """Sends as many bytes as are asked for."""

    def connection_made(self, endpoint: Any) -> None:
        """Time what is sent."""
        timed: Any = SimpleNamespace(sendto=SENDS.timed(endpoint.sendto))
        super().connection_made(timed)

    def quic_event_received(self, event: QuicEvent) -> None:
        """Send."""
        if isinstance(event, StreamDataReceived) and event.end_stream:
            self._quic.send_stream_data(event.stream_id, bytes(int(event.data)), end_stream=True)
            self.transmit()


class Client(QuicConnectionProtocol):
    """Counts what comes; `done` ends with the stream."""

    done: asyncio.Future[int]

    def download(self, size: int) -> asyncio.Future[int]:
        """Ask for so many bytes."""
        self.received, self.done = 0, asyncio.get_running_loop().create_future()
        stream = self._quic.get_next_available_stream_id()
        self._quic.send_stream_data(stream, str(size).encode(), end_stream=True)
        self.transmit()
        return self.done

    def quic_event_received(self, event: QuicEvent) -> None:
        """Count."""
        if isinstance(event, StreamDataReceived):
            self.received += len(event.data)
            if event.end_stream:
                self.done.set_result(self.received)


async def run_server() -> None:
    """Serve, until stdin ends."""
    _time_flushes()
    configuration = QuicConfiguration(is_client=False, alpn_protocols=ALPN)
    configuration.certificate, configuration.private_key = certificate()
    server = await serve("127.0.0.1", 0, configuration=configuration, create_protocol=Server)
    endpoint: Any = server._transport
    port = endpoint.get_extra_info("sockname")[1]

    async def state() -> dict[str, Any]:
        return {
            "port": port,
            "cpu_seconds": time.process_time(),
            "send_seconds": SENDS.nanoseconds / 1e9,
            "trains": trains_of(endpoint),
        }

    await answer_stdin(state)
    server.close()


async def run_client(port: int) -> None:
    """Download when stdin says so."""
    configuration = QuicConfiguration(alpn_protocols=ALPN, verify_mode=ssl.CERT_NONE)
    async with connect("127.0.0.1", port, configuration=configuration, create_protocol=Client) as client:
        assert isinstance(client, Client)

        async def download() -> dict[str, float]:
            before = time.process_time()
            if await client.download(SIZE) != SIZE:
                raise RuntimeError("the download is not whole")
            return {"cpu_seconds": time.process_time() - before}

        await answer_stdin(download)


def certificate() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Return one for localhost, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    today = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(today).not_valid_after(today + datetime.timedelta(days=1))
    return builder.sign(key, hashes.SHA256()), key


def main() -> None:
    """Run one of them."""
    loop = new_loop(sys.argv[2])
    loop.run_until_complete(run_server() if sys.argv[1] == "server" else run_client(int(sys.argv[3])))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


if __name__ == "__main__":
    main()
