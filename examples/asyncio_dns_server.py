"""The DNS server of dns_server.py with asyncio: an ordinary protocol, on a loop that batches what it sends.

    asyncio_dns_server.py                                  # a zone to try, on port 5353 of this machine
    asyncio_dns_server.py --zone example.com.zone --host 192.0.2.1 --port 53
    asyncio_dns_server.py --loop asyncio                   # the same on the stock loop, to compare

It needs dnslib (pip install dnslib). Only the loop is uringzc's: the queries that have come are read
together, and their answers leave together at the end of the loop's turn. The zone, and what is answered, is
dns_server.py's, which has to lie beside this file.
"""

import argparse
import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from dns_server import Zone, read

import uringzc.aio

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uringzc": uringzc.aio.new_event_loop,
    "asyncio": asyncio.SelectorEventLoop,
}


class DnsServer(asyncio.DatagramProtocol):
    """Answers each query as it comes."""

    transport: asyncio.DatagramTransport
    answers = 0

    def __init__(self, zone: Zone) -> None:
        self.zone = zone

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        """There may be many queries in one turn of the loop: the socket has to hold them."""
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)

    def datagram_received(self, query: bytes, client: tuple[Any, ...]) -> None:
        """A query, or something else."""
        if answer := self.zone.answer(query):
            self.transport.sendto(answer, client)
            self.answers += 1

    def error_received(self, error: Exception) -> None:
        """A client has gone."""
        print(error, file=sys.stderr)


async def serve(zone: Zone, host: str, port: int) -> None:
    """Answers until Ctrl-C."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGINT, stop.set)
    transport, server = await loop.create_datagram_endpoint(lambda: DnsServer(zone), local_addr=(host, port))
    host, port, *_ = transport.get_extra_info("sockname")
    print(f"{zone.soa.rname} on {host}, port {port}", flush=True)
    await stop.wait()
    print(f"{server.answers} answers")
    if isinstance(transport, uringzc.aio.DatagramTransport):
        print(transport.explain())
    transport.close()


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--zone", help="a file of records (one to try, example.com)")
    parser.add_argument("--host", default="127.0.0.1", help="own address (127.0.0.1)")
    parser.add_argument("--port", type=int, default=5353, help="own port (5353); 0: a free one")
    parser.add_argument("--loop", choices=LOOPS, default="uringzc", help="whose event loop (uringzc)")
    options = parser.parse_args()
    if not 0 <= options.port < 65536:
        parser.error(f"--port is 0 to 65535, not {options.port}")
    return options


if __name__ == "__main__":
    options = parse()
    try:
        with contextlib.closing(LOOPS[options.loop]()) as loop:
            loop.run_until_complete(serve(read(options.zone), options.host, options.port))
    except OSError as error:  # an address, a permission
        sys.exit(str(error))
