"""Both ends of a job over loopback, and a way between them that loses, repeats or changes datagrams."""

import os
import pty
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from uringzc import testing
from uringzc.jobs import Job, Received, ReceiveJob, Result, receive, run


@dataclass
class Receiving:
    """A receiver in a thread: where it is, and in the end what came."""

    address: str
    future: "Future[Received]"

    @property
    def received(self) -> Received:
        """What came, when it is over."""
        return self.future.result(20)

    def put(self, datagrams: Sequence[bytes]) -> None:
        """Sends it these, as they are."""
        put(self.address, datagrams)


def put(address: str, datagrams: Sequence[bytes]) -> None:
    """Sends these to "HOST:PORT", as they are."""
    host, _, port = address.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for datagram in datagrams:
            sock.sendto(datagram, (host, int(port)))


@contextmanager
def receiving(bind: str = "127.0.0.1:0", stop: int | None = None, **options: Any) -> Iterator[Receiving]:
    """receive() in a thread, ready; it ends before this does."""
    ready, address = threading.Event(), list[str]()

    def note(bind: str) -> None:
        address.append(bind)
        ready.set()

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(receive, ReceiveJob(bind, **options), None, note, stop)
        future.add_done_callback(lambda _: ready.set())
        assert ready.wait(20)
        if not address:
            future.result()
        yield Receiving(address[0], future)
        future.result(20)


def both(*, receiver: dict[str, Any] | None = None, **job: Any) -> tuple[Result, Received]:
    """A job, and what came of it."""
    with receiving(**(receiver or {})) as end:
        result = run(Job(to=end.address, **job))
    return result, end.received


def sent_by(**job: Any) -> list[bytes]:
    """The datagrams of a job, as they leave."""
    with testing.receiver() as rx:
        result = run(Job(to=f"127.0.0.1:{rx.address[1]}", **job))
        rx.wait(result.datagrams)
        return rx.wait(result.datagrams + 3 if rx.datagrams[0][:4] == b"ucz1" else result.datagrams)


def on_the_way(change: Callable[[list[bytes]], Sequence[bytes]], **job: Any) -> Received:
    """What a receiver finds when the datagrams of a job are changed on the way."""
    datagrams = change(sent_by(**job))
    with receiving() as end:
        end.put(datagrams)
    return end.received


def on_a_terminal(columns: int, *arguments: str) -> tuple[str, str]:
    """What `uringzc` leaves on it, roughly, and all that was written."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "uringzc", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "COLUMNS": str(columns), "TERM": "xterm", "NO_COLOR": "1"},
    )
    os.close(theirs)
    said = b""
    try:
        while chunk := os.read(ours, 65536):
            said += chunk
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.wait(30) in (0, 1)  # a busy machine may be slower than asked
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said.decode()), said.decode()
