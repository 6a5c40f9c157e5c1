"""A file server over HTTP/3: aioquic as it is, on a loop that sends its datagrams in trains.

    http3_server.py directory                              # on port 4433 of this machine
    http3_server.py directory --host 192.0.2.1 --certificate cert.pem --key key.pem
    http3_server.py directory --loop asyncio               # the same on the stock loop, to compare
    curl --http3-only --insecure https://127.0.0.1:4433/file

It needs aioquic (pip install aioquic). aioquic calls transport.sendto for each datagram, and asyncio's
transport makes a system call of each; on uringzc's loop those of one size, a QUIC connection's usual ones,
leave together (GSO). Without --certificate it makes a certificate for itself, which nobody trusts: to try.
aioquic keeps what it has to send in memory, and so the files that are being downloaded.
"""

import argparse
import asyncio
import contextlib
import functools
import ipaddress
import mimetypes
import signal
import ssl
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import uringzc.aio

try:
    from aioquic.asyncio.protocol import QuicConnectionProtocol
    from aioquic.asyncio.server import serve
    from aioquic.h3.connection import H3_ALPN, H3Connection
    from aioquic.h3.events import H3Event, HeadersReceived
    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.quic.events import ProtocolNegotiated, QuicEvent
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
except ImportError:
    sys.exit("http3_server.py speaks HTTP/3 with aioquic, which is not installed: pip install aioquic")

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uringzc": uringzc.aio.new_event_loop,
    "asyncio": asyncio.SelectorEventLoop,
}


class Site:
    """A directory of files."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.responses = self.nbytes = 0
        self.transport: asyncio.BaseTransport | None = None  # that of all connections

    def respond(self, method: bytes, path: bytes) -> tuple[int, str, bytes]:
        """Status, content type and content."""
        if method != b"GET":
            return 405, "text/plain", b"only GET\n"
        try:
            # a link that leads out of the directory is not followed either
            file = (self.root / unquote(path.partition(b"?")[0]).lstrip("/")).resolve()
            if not file.is_relative_to(self.root):
                raise FileNotFoundError
            if file.is_dir():
                file /= "index.html"
            content = file.read_bytes()
        except (OSError, ValueError):  # ValueError: a null character
            return 404, "text/plain", b"no such file\n"
        return 200, mimetypes.guess_type(file.name)[0] or "application/octet-stream", content


class Connection(QuicConnectionProtocol):
    """A client's connection, which carries any number of requests."""

    def __init__(self, site: Site, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.site = site
        self.http: H3Connection | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport is the server's."""
        super().connection_made(transport)
        self.site.transport = transport

    def quic_event_received(self, event: QuicEvent) -> None:
        """Something came."""
        if isinstance(event, ProtocolNegotiated):
            self.http = H3Connection(self._quic)
        if self.http:
            for each in self.http.handle_event(event):
                self.request_received(self.http, each)

    def request_received(self, http: H3Connection, event: H3Event) -> None:
        """Answers a request; its body is ignored. aioquic transmits when this has returned."""
        if not isinstance(event, HeadersReceived):
            return
        headers = dict(event.headers)
        status, kind, content = self.site.respond(headers[b":method"], headers[b":path"])
        answer = {":status": status, "content-type": kind, "content-length": len(content)}
        http.send_headers(
            event.stream_id, [(name.encode(), str(value).encode()) for name, value in answer.items()]
        )
        http.send_data(event.stream_id, content, end_stream=True)
        self.site.responses += 1
        self.site.nbytes += len(content)


def self_signed(host: str, folder: Path) -> tuple[Path, Path]:
    """The files of a certificate for that address, and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=10))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    form, secret = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(pem))
    files[1].write_bytes(key.private_bytes(pem, form, secret))
    return files


async def run(options: argparse.Namespace) -> None:
    """Serves until Ctrl-C."""
    configuration = QuicConfiguration(alpn_protocols=H3_ALPN, is_client=False)
    with tempfile.TemporaryDirectory() as folder:
        made = (options.certificate, options.key)
        configuration.load_cert_chain(*(made if all(made) else self_signed(options.host, Path(folder))))
    stop, site = asyncio.Event(), Site(options.directory)
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
    server = await serve(
        options.host,
        options.port,
        configuration=configuration,
        create_protocol=functools.partial(Connection, site),
    )
    print(f"{site.root} on https://{options.host}:{options.port}", flush=True)
    await stop.wait()
    print(f"{site.responses} responses, {site.nbytes} bytes")
    if isinstance(site.transport, uringzc.aio.DatagramTransport):
        print(site.transport.explain())
    server.close()


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory", type=Path, help="whose files are served")
    parser.add_argument("--host", default="127.0.0.1", help="own address (127.0.0.1)")
    parser.add_argument("--port", type=int, default=4433, help="own port (4433)")
    parser.add_argument("--certificate", type=Path, help="a PEM file (one that is made now)")
    parser.add_argument("--key", type=Path, help="the PEM file of its key")
    parser.add_argument("--loop", choices=LOOPS, default="uringzc", help="whose event loop (uringzc)")
    options = parser.parse_args()
    if not 0 < options.port < 65536:
        parser.error(f"--port is 1 to 65535, not {options.port}")
    if (options.certificate is None) != (options.key is None):
        parser.error("--certificate and --key belong together")
    if not options.directory.is_dir():
        parser.error(f"{options.directory} is no directory")
    return options


if __name__ == "__main__":
    options = parse()
    try:
        with contextlib.closing(LOOPS[options.loop]()) as loop:
            loop.run_until_complete(run(options))
    except (OSError, ssl.SSLError, ValueError) as error:  # an address, a permission, a certificate
        sys.exit(str(error))
