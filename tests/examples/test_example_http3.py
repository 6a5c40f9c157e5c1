"""examples/http3_server.py: aioquic's client downloads files from it, and gets their bytes, on each loop."""

import asyncio
import contextlib
import random
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from test_examples import free_port
from test_examples_udp import Program, finish, started

import uringzc.aio

pytest.importorskip("aioquic")
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent

pytestmark = [pytest.mark.slow, pytest.mark.engines()]
PROGRAM = "http3_server.py"
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uringzc": uringzc.aio.new_event_loop,
    "asyncio": asyncio.SelectorEventLoop,
}


class Client(QuicConnectionProtocol):
    """A connection that asks for files."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.http = H3Connection(self._quic)
        self.answers: dict[int, tuple[dict[bytes, bytes], bytearray, asyncio.Future[None]]] = {}

    async def ask(self, path: str, method: str = "GET") -> tuple[int, dict[bytes, bytes], bytes]:
        """Status, headers and content."""
        stream = self._quic.get_next_available_stream_id()
        headers: dict[bytes, bytes] = {}
        content, done = bytearray(), asyncio.get_running_loop().create_future()
        self.answers[stream] = headers, content, done
        request = {":method": method, ":scheme": "https", ":authority": "localhost", ":path": path}
        fields = [(name.encode(), value.encode()) for name, value in request.items()]
        self.http.send_headers(stream, fields, end_stream=True)
        self.transmit()
        await done
        return int(headers[b":status"]), headers, bytes(content)

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ConnectionTerminated):
            for _, _, done in self.answers.values():
                if not done.done():
                    done.set_exception(ConnectionError(event.reason_phrase))
        for each in self.http.handle_event(event):
            self.http_event_received(each)

    def http_event_received(self, event: H3Event) -> None:
        assert isinstance(event, (HeadersReceived, DataReceived))
        headers, content, done = self.answers[event.stream_id]
        if isinstance(event, HeadersReceived):
            headers.update(event.headers)
        else:
            content += event.data
        if event.stream_ended:
            done.set_result(None)


def with_client(loop: str, port: int, use: Callable[[Client], Any]) -> Any:
    """What `use` returns, of a client on that loop."""
    configuration = QuicConfiguration(alpn_protocols=H3_ALPN, verify_mode=ssl.CERT_NONE)

    async def run() -> Any:
        host = "127.0.0.1"
        async with connect(host, port, configuration=configuration, create_protocol=Client) as client:
            return await asyncio.wait_for(use(client), 60)  # type: ignore[arg-type]

    with contextlib.closing(LOOPS[loop]()) as running:
        return running.run_until_complete(run())


@contextmanager
def serving(folder: Path, loop: str) -> Iterator[tuple[int, Program]]:
    port = free_port(socket.SOCK_DGRAM)
    with started(PROGRAM, folder, "--port", port, "--loop", loop) as process:
        assert process.stdout
        line = process.stdout.readline()
        assert line == f"{folder} on https://127.0.0.1:{port}\n", line + process.communicate()[1]
        yield int(port), process


def check_downloads(folder: Path, server_loop: str, client_loop: str) -> None:
    """Files of 2 and 1 MB and an empty one, at the same time, by one connection."""
    sizes = {"two": 2_000_003, "one": 1_000_000, "none": 0}
    for name, size in sizes.items():
        (folder / name).write_bytes(random.Random(name).randbytes(size))

    async def ask(client: Client) -> list[Any]:
        return await asyncio.gather(*(client.ask(f"/{name}") for name in sizes))

    with serving(folder, server_loop) as (port, process):
        answers = with_client(client_loop, port, ask)
        process.send_signal(signal.SIGINT)
        output = finish(process)
    for name, (status, headers, content) in zip(sizes, answers, strict=True):
        assert (status, int(headers[b"content-length"])) == (200, sizes[name])
        assert content == (folder / name).read_bytes()
    assert f"3 responses, {sum(sizes.values())} bytes\n" in output


def test_files_arrive_whole(tmp_path: Path) -> None:
    check_downloads(tmp_path, "uringzc", "uringzc")


@pytest.mark.engines("copy")
@pytest.mark.parametrize(("server", "client"), [("asyncio", "uringzc"), ("uringzc", "asyncio")])
def test_files_arrive_whole_with_a_stock_loop(tmp_path: Path, server: str, client: str) -> None:
    check_downloads(tmp_path, server, client)


@pytest.mark.engines("copy")
def test_only_files_of_the_directory_are_served(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    (folder / "inside").mkdir(parents=True)
    (folder / "index.html").write_text("<p>hello")
    (folder / "inside" / "a b.txt").write_text("text")
    (tmp_path / "secret").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "secret")

    async def ask(client: Client) -> None:
        status, headers, content = await client.ask("/")
        assert (status, headers[b"content-type"], content) == (200, b"text/html", b"<p>hello")
        status, headers, content = await client.ask("/inside/a%20b.txt?query")
        assert (status, headers[b"content-type"], content) == (200, b"text/plain", b"text")
        for wrong in ("/../secret", "/%2e%2e/secret", "/link", "/inside", "/none", "/%00"):
            assert (await client.ask(wrong))[::2] == (404, b"no such file\n")
        assert (await client.ask("/", "POST"))[0] == 405

    with serving(folder, "uringzc") as (port, process):
        with_client("uringzc", port, ask)
        process.send_signal(signal.SIGINT)
        assert "9 responses, " in finish(process)
