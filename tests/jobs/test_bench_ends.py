"""Both ends of a bench: what they say to each other, and that neither falls to what is no bench."""

import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict

import pytest
from bench_figures import MACHINE
from traffic import wait_until

from uringzc.jobs import Interrupted, far_end
from uringzc.jobs.bench import Sweep
from uringzc.jobs.far_end import FarEnd
from uringzc.jobs.json_lines import PeerError
from uringzc.jobs.near_end import NearEnd

pytestmark = pytest.mark.engines()
ASKED = b'{"receive": {"seconds": 5, "interval": 0.1}}\n'
HELLO = json.dumps({"uringzc": "0.1.0", "bench": 1, "machine": asdict(MACHINE)}).encode() + b"\n"


class Serving:
    """A FarEnd in a thread, and what it said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.end = FarEnd("127.0.0.1:0", self.said.append)
        self.thread = threading.Thread(target=self.end.serve)
        self.thread.start()
        self.host, self.port = self.end.address

    def works(self) -> None:
        """Somebody else is served."""
        with NearEnd(self.host, self.port) as end:
            each = end.measure("copy", 100, 0.05, "1kpps")
        assert 0 < each.came == each.result.datagrams

    def connection(self) -> socket.socket:
        """Somebody who was said hello to."""
        sock = socket.create_connection((self.host, self.port), 10)
        assert b'"bench": 1' in sock.recv(4096)
        return sock


@pytest.fixture
def serving() -> Iterator[Serving]:
    made = Serving()
    try:
        yield made
    finally:
        made.end.close()
        made.thread.join(20)
        assert not made.thread.is_alive()


def test_measurements_one_after_the_other(serving: Serving) -> None:
    with NearEnd(serving.host, serving.port) as end:
        first = end.measure("copy", 1200, 0.05, "2kpps", "never")
        second = end.measure("socket", 64, 0.05, "2kpps")
    assert (first.result.engine, second.result.engine) == ("copy", "socket")
    for each in (first, second):
        assert each.came == each.result.datagrams > 0
        assert each.received.stopped == "stop"
    assert first.received.bind == f"127.0.0.1:{serving.port}"  # what a firewall was opened for
    assert first.received.streams[0].ended
    assert second.received.unnumbered == second.came
    assert end.peer.cpus == end.machine.cpus
    assert wait_until(lambda: "127.0.0.1: 2 runs, and left" in serving.said)


def test_a_port_of_udp_that_is_taken(serving: Serving) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((serving.host, serving.port))
        serving.works()


def test_an_engine_that_cannot_is_no_end_of_the_connection(serving: Serving) -> None:
    with NearEnd(serving.host, serving.port) as end:
        with pytest.raises(ValueError, match="engine is 'auto'"):
            end.measure("none", 100, 0.05)
        assert end.measure("copy", 100, 0.05, "1kpps").came


def test_a_sweep_goes_round_by_round_and_leaves_out_what_cannot(serving: Serving) -> None:
    began: list[tuple[str, int]] = []
    sweep = Sweep(["copy", "none", "socket"], [64, 1200], 0.02, 2, "1kpps")
    with NearEnd(serving.host, serving.port) as end:
        sweep.run(
            end, lambda engine, size, _, at: None if at else began.append((engine, size)), lambda _: None
        )
    once = [(engine, size) for size in (64, 1200) for engine in ("copy", "none", "socket")]
    assert began == once + [each for each in once if each[0] != "none"]
    assert [(run.size, run.engine, len(run.rounds)) for run in sweep.runs] == [
        (size, engine, 2) for size in (64, 1200) for engine in ("copy", "socket")
    ]
    assert [sentence.partition(": ")[0] for sentence in sweep.failed if "engine is" in sentence] == [
        "none, 64 bytes",
        "none, 1200 bytes",
    ]


# -- the receiving end, and whoever reaches its port


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"\n", "no JSON"),
        (b"GET / HTTP/1.1\r\n", "no JSON"),
        (b"\xff\xfe\n", "no JSON"),
        (b"[" * 4000 + b"\n", "no JSON"),
        (b"[1]\n", "no JSON object"),
        (b"x" * 5000, "more than 4,096 bytes"),
        (b"{}\n", "a request that is not"),
        (b'{"receive": {"seconds": 1, "interval": 1, "output": "/tmp/x"}}\n', "a request that is not"),
        (b'{"receive": {"seconds": 1e9, "interval": 1}}\n', "are 0.001 to 600"),
        (b'{"receive": {"seconds": NaN, "interval": 1}}\n', "are 0.001 to 600"),
        (b'{"receive": {"seconds": true, "interval": 1}}\n', "are 0.001 to 600"),
        (b'{"receive": {"seconds": "1", "interval": 1}}\n', "are 0.001 to 600"),
        (b'{"receive": {"seconds": 600, "interval": 0.001}}\n', "at most 10,000 intervals"),
        (ASKED + b'{"done": true}\n', "before the port was known"),
    ],
)
def test_what_is_no_request_is_answered_and_ends_that_connection(
    serving: Serving, line: bytes, said: str
) -> None:
    with serving.connection() as sock:
        sock.sendall(line)
        answer = json.loads(read_all(sock))
    assert said in answer["error"]
    assert wait_until(lambda: any(said in each for each in serving.said))
    serving.connection().close()


def read_all(sock: socket.socket) -> bytes:
    said = b""
    with suppress(ConnectionResetError):
        while some := sock.recv(65536):
            said += some
    return said


def test_done_that_is_something_else(serving: Serving) -> None:
    with serving.connection() as sock:
        sock.sendall(ASKED)
        sock.recv(4096)
        sock.sendall(b'{"done": 1}\n'.replace(b"1", b'"maybe"'))
        assert "not {" in json.loads(read_all(sock))["error"]
    serving.connection().close()


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("begun", [b"", ASKED[:9], ASKED])
def test_one_who_vanishes(serving: Serving, begun: bytes, reset: bool) -> None:
    with serving.connection() as sock:
        sock.sendall(begun)
        if begun == ASKED:
            assert b"port" in sock.recv(4096)
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    serving.works()  # waits half a second for the one before


def test_one_who_is_silent_loses_his_turn(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(far_end, "_FIRST", 0.1)
    with serving.connection() as sock:
        assert "no answer in time" in json.loads(read_all(sock))["error"]
    serving.connection().close()


def test_one_at_a_time(serving: Serving) -> None:
    with serving.connection(), pytest.raises(PeerError, match="another bench is served"):
        NearEnd(serving.host, serving.port)
    serving.connection().close()


def test_close_ends_what_goes_on(serving: Serving) -> None:
    with serving.connection() as sock:
        sock.sendall(ASKED)
        assert b"port" in sock.recv(4096)
        serving.end.close()
        read_all(sock)


# -- the sending end, and what it may connect to


@contextmanager
def anybody(*answers: bytes) -> Iterator[tuple[str, int]]:
    """A server that says these, one for each line that it gets but the first, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            client, _ = server.accept()
            with client, suppress(OSError):
                for answer in answers:
                    client.sendall(answer)
                    client.recv(4096)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()
        thread.join(20)


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ((), "closed the connection"),
        ((b"SSH-2.0-x\r\n",), "no JSON"),
        ((b'{"bench": 99, "uringzc": "9\\u001b[2J"}\n',), r"there runs uringzc 9\?\[2J, which"),
        ((b"{}\n",), "there runs uringzc something else"),
        ((b'{"bench": 1, "machine": {"cpu": 5}}\n',), "what machine it is"),
        ((b'{"error": "no\\u001b[2J"}\n',), r"says: no\?\[2J$"),
        ((HELLO, b'{"port": "x"}\n'), "receives at port x"),
        ((HELLO, b'{"port": 99999}\n'), "receives at port 99999"),
        ((HELLO, b'{"port": 9}\n', b'{"received": {"bind": 1}}\n'), "not understood"),
        ((HELLO, b'{"port": 9}\n', b'{"received": [1]}\n'), "not understood"),
        ((HELLO, b'{"port": 9}\n'), "closed the connection"),
    ],
)
def test_what_is_no_receiving_end_is_an_error(answers: tuple[bytes, ...], said: str) -> None:
    def measure(host: str, port: int) -> None:
        with NearEnd(host, port) as end:
            end.measure("copy", 100, 0.05, "100pps")

    with anybody(*answers) as at, pytest.raises(PeerError, match=said):
        measure(*at)


def test_nobody_there_says_what_to_do() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with pytest.raises(ConnectionRefusedError, match=f"Run `uringzc bench --serve :{port}` on that machine"):
        NearEnd("127.0.0.1", port)


def test_ctrl_c_keeps_what_was_sent_until_then(serving: Serving) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for engine in ("copy", "socket"):
        with NearEnd(serving.host, serving.port) as end, pytest.raises(Interrupted) as stop:
            end.measure(engine, 1200, 20.0, "1kpps", progress=interrupt)
        each = stop.value.result
        assert each.result.stopped == "interrupt"
        assert each.came == each.result.datagrams > 0
