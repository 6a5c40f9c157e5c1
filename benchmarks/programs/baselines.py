"""What the library is compared with: Python's own ways to send datagrams, done well, and the C reference.

Every contender wants a connected UDP socket that nobody else uses: some set options on it. Payloads go out in
turn, over and over: how many, and so whether they stay in the cache, is for the caller to choose.
"""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import socket
import struct
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from benchmarks.pairs import Contender, Sample, sample

CHUNK = 2000  # sends, or datagrams in trains, between two looks at the clock
MOST_BYTES = 65507  # of one send
UDP_SEGMENT = 103  # <linux/udp.h>


def plain(sock: socket.socket, payloads: Sequence[bytes], name: str = "socket.send") -> Contender:
    """Send one payload after the other. (`map` instead of the loop gains 1 %.)"""
    some = list(islice(cycle(payloads), max(CHUNK, len(payloads))))

    def chunk() -> None:
        send = sock.send
        for payload in some:
            send(payload)

    return _copying(name, chunk, len(some))


def gather(
    sock: socket.socket, payloads: Sequence[bytes], train: int = 44, name: str = "gather loop"
) -> Contender:
    """Send payloads of one size in trains of `train`, by an expert's `send(datagram)` that collects them.

    Assigning to a list that stays beats append and clear by 5 %. Longer trains are faster: at 1200 B 54
    instead of 44 by 7 %, at 200 B 128 by 40 %.
    """
    some, control = _whole_trains(payloads, train), _segments(payloads, train)
    waiting, count, sendmsg = [b""] * train, 0, sock.sendmsg

    def send(datagram: bytes) -> None:
        nonlocal count
        waiting[count] = datagram
        count += 1
        if count == train:
            sendmsg(waiting, control)
            count = 0

    def chunk() -> None:
        for payload in some:
            send(payload)

    return _copying(name, chunk, len(some))


def joined(
    sock: socket.socket, payloads: Sequence[bytes], train: int = 44, name: str = "join loop"
) -> Contender:
    """As `gather`, but join each train and send it as one block: a copy more, and still 2 to 7 % faster."""
    some = _whole_trains(payloads, train)
    sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, _size_in(payloads, train))
    waiting: list[bytes] = []
    append, clear, join, transmit = waiting.append, waiting.clear, b"".join, sock.send

    def send(datagram: bytes) -> None:
        append(datagram)
        if len(waiting) == train:
            transmit(join(waiting))
            clear()

    def chunk() -> None:
        for payload in some:
            send(payload)

    return _copying(name, chunk, len(some))


def sliced(
    sock: socket.socket, payloads: Sequence[bytes], train: int = 44, name: str = "sendmsg of slices"
) -> Contender:
    """Send slices of a list that is there already, without a call for each datagram: 1.3 times `gather`."""
    some, control = _whole_trains(payloads, train), _segments(payloads, train)

    def chunk() -> None:
        sendmsg = sock.sendmsg
        for at in range(0, len(some), train):
            sendmsg(some[at : at + train], control)

    return _copying(name, chunk, len(some))


def block(sock: socket.socket, size: int = 1400, train: int = 44, name: str = "prepared block") -> Contender:
    """Send one block of `train` datagrams, prepared before, again and again."""
    whole = bytes(_size_in([bytes(size)], train) * train)
    sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)

    def chunk() -> None:
        send = sock.send
        for _ in range(CHUNK):
            send(whole)

    return _copying(name, chunk, CHUNK * train)


def _copying(name: str, chunk: Callable[[], object], datagrams: int) -> Contender:
    return Contender(name, lambda seconds: sample(seconds, chunk, datagrams, copied_share=1.0))


def _size_in(payloads: Sequence[bytes], train: int) -> int:
    size = len(payloads[0])
    if any(len(payload) != size for payload in payloads) or not 0 < train * size <= MOST_BYTES:
        raise ValueError(f"{train} datagrams of one size do not make a train of {MOST_BYTES} bytes")
    return size


def _segments(payloads: Sequence[bytes], train: int) -> list[tuple[int, int, bytes]]:
    return [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", _size_in(payloads, train)))]


def _whole_trains(payloads: Sequence[bytes], train: int) -> list[bytes]:
    return list(islice(cycle(payloads), max(CHUNK, len(payloads)) // train * train))


@functools.cache
def build() -> Path:
    """Compile reference.c for this processor, once, to where it stays until the interpreter exits."""
    folder = Path(tempfile.mkdtemp(prefix="uringzc-bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    program, source = folder / "reference", Path(__file__).with_name("reference.c")
    subprocess.run(["cc", "-O3", "-march=native", source, "-luring", "-o", program], check=True)
    return program


class Reference:
    """The C reference as a process that waits for runs; it sends on `sock`, which it shares until `close`.

    `segment` sets UDP_SEGMENT, and a request then counts as the datagrams it becomes. `pool_mib`: 4 is hot
    memory, 256 cold. Only with `report_usage` is it known what the kernel copied.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        batch: int = 32,
        window: int = 64,
        pool_mib: int = 4,
        segment: int = 0,
        report_usage: bool = False,
    ) -> None:
        fd = sock.fileno()
        numbers = {"batch": batch, "window": window, "pool": pool_mib, "segment": segment, "fd": fd}
        options = [f"--{name}={number}" for name, number in numbers.items()]
        self._segment = segment
        self._process = subprocess.Popen(
            [build(), "--serve", *options, *["--report-usage"] * report_usage],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[fd],
            text=True,
        )

    def __enter__(self) -> Reference:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def ask(self, mode: str, size: int, limit: float, verb: str = "run") -> dict[str, Any]:
        """Run for `limit` seconds, or with verb "count" for as many requests, and return all it reports.

        Modes: copy, zc, zc-unregistered. A send that fails raises RuntimeError.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(verb, mode, size, limit, file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline() or '{"error": "it has ended"}')
        if answer["error"]:
            raise RuntimeError(f"C reference, {mode} of {size} bytes: {answer['error']}")
        return answer

    def contender(self, mode: str, size: int, name: str | None = None) -> Contender:
        """Return the reference as a contender."""
        trains = -(-size // self._segment) if self._segment else 1

        def run(seconds: float) -> Sample:
            answer = self.ask(mode, size, seconds)
            sent = answer["requests"] * trains
            return Sample(sent, answer["seconds"], answer["cpu_seconds"], answer["copied_share"])

        return Contender(name or f"C {mode}", run)
