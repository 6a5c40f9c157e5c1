"""The sending end of a bench: its connection to the receiving end (``far_end.py``), and one measurement."""

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

from uringzc import __version__
from uringzc.address import is_own, joined, no_host
from uringzc.jobs.bench_report import BenchRound, Machine
from uringzc.jobs.far_end import PORT, PROTOCOL, keep_alive
from uringzc.jobs.job import Job
from uringzc.jobs.json_lines import JsonLines, PeerError
from uringzc.jobs.machine import this_machine
from uringzc.jobs.receive_job import Received
from uringzc.jobs.result import Interrupted, Progress, Result
from uringzc.jobs.sending import run
from uringzc.jobs.socket_send import ENGINE, run_socket

MARGIN = 10.0  #: seconds that the other end receives longer than is sent
_LONGEST = 16 << 20  # bytes of a line: what came, of up to 1024 streams
_CONNECT = 5.0  # seconds
_HELLO, _ANSWER = 15.0, 30.0  # seconds


class NearEnd:
    """A connection to where somebody runs `uringzc bench --serve`.

    Without a `port` it is the default one; if nobody serves there and the host is this machine, a process of
    its own does, and ends with it. OSError: no connection; PeerError: there is something else.
    """

    def __init__(self, host: str, port: int | None = None) -> None:
        with ExitStack() as on_error:
            sock = on_error.enter_context(_connected(host, port, on_error))
            keep_alive(sock)
            #: numeric
            self.host: str = sock.getpeername()[0].removeprefix("::ffff:")
            self._lines = JsonLines(sock, _LONGEST)
            hello = self._answer(_HELLO)
            if hello.get("bench") != PROTOCOL:
                other = _plain(hello.get("uringzc", "something else"))
                raise PeerError(f"there runs uringzc {other}, which does not fit {__version__} here")
            self.peer = _machine(hello.get("machine"))
            self.machine = this_machine(self.host)
            self._on_close = on_error.pop_all()

    def __enter__(self) -> "NearEnd":
        return self

    def __exit__(self, *error: object) -> None:
        self._on_close.close()

    def measure(
        self,
        engine: str,
        size: int,
        seconds: float,
        rate: str | None = None,
        zero_copy: str = "auto",
        progress: Callable[[Progress], object] | None = None,
    ) -> BenchRound:
        """One run. `engine`: as of a Job, or "socket".

        OSError or ValueError: it cannot be sent so; the next measurement may be. PeerError: the other end is
        gone. Ctrl-C raises Interrupted, with the round until then.
        """
        self._send({"receive": {"seconds": seconds + MARGIN, "interval": 0.1}})
        port = self._answer(_ANSWER).get("port")
        if type(port) is not int or not 0 < port <= 0xFFFF:
            raise PeerError(f"the other end receives at port {_plain(port)}")
        plain = engine == ENGINE
        try:
            job = Job(
                to=joined(self.host, port),
                size=size,
                duration=seconds,
                rate=rate,
                engine="auto" if plain else engine,
                zero_copy=zero_copy,
            )
            result: Result = (run_socket if plain else run)(job, progress)
        except Interrupted as stop:
            raise Interrupted(BenchRound(stop.result, self._received())) from None
        except (OSError, ValueError):
            self._received()
            raise
        return BenchRound(result, self._received())

    def _received(self) -> Received:
        self._send({"done": True})
        try:
            return Received.from_dict(self._answer(_ANSWER)["received"])
        except (KeyError, TypeError, AttributeError) as error:
            raise PeerError("the other end says what came in a way that is not understood") from error

    def _send(self, values: dict[str, Any]) -> None:
        try:
            self._lines.send(values)
        except PeerError as error:
            with suppress(PeerError):
                self._answer(0.1)  # it may have said why
            raise PeerError(f"the other end: {error}") from error

    def _answer(self, seconds: float) -> dict[str, Any]:
        try:
            answer = self._lines.receive(seconds)
        except PeerError as error:
            raise PeerError(f"the other end: {error}") from error
        if answer is None:
            raise PeerError("the other end has closed the connection")
        if "error" in answer:
            raise PeerError(f"the other end says: {_plain(answer['error'])}")
        return answer


def _connected(host: str, port: int | None, on_exit: ExitStack) -> socket.socket:
    try:
        return socket.create_connection((host, port or PORT), _CONNECT)
    except socket.gaierror as error:
        raise no_host(host, error) from error
    except ConnectionRefusedError as error:
        found = socket.getaddrinfo(host, 0, 0, socket.SOCK_STREAM)
        own = next((str(to[0]) for *_, to in found if is_own(str(to[0]))), None)
        if port is not None or own is None:
            at = joined(host, port or PORT)
            serve = "uringzc bench --serve" if port is None else f"uringzc bench --serve :{port}"
            text = f"{at}: nobody serves there. Run `{serve}` on that machine, then this again"
            raise ConnectionRefusedError(error.errno, text) from error
        return socket.create_connection(on_exit.enter_context(_Process(own)).address, _CONNECT)
    except OSError as error:
        number = error.errno or errno.ETIMEDOUT
        raise OSError(number, f"{joined(host, port or PORT)}: {os.strerror(number)}") from error


class _Process:
    """A process that serves a bench. It ends when its standard input is closed."""

    def __init__(self, host: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "uringzc.jobs.far_end", joined(host, 0)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for this process alone
        )
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self._process.communicate()
            raise OSError(0, f"the receiving process ended by itself, status {self._process.returncode}")
        self.address: tuple[str, int] = tuple(json.loads(line)["address"])

    def __enter__(self) -> "_Process":
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


def _machine(values: Any) -> Machine:
    """What the other end says that it is."""
    try:
        texts = {name: _plain(values[name]) for name in ("cpu", "kernel", "python", "interface")}
        return Machine(cpus=int(values["cpus"]), mtu=int(values["mtu"]), **texts)
    except (KeyError, TypeError, ValueError) as error:
        raise PeerError("the other end does not say what machine it is") from error


def _plain(text: object) -> str:
    """What the other end has written, for a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text)[:300])
