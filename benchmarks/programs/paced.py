"""Programs that send so many datagrams per second, in a process of their own, which does nothing else.

`python -m benchmarks.programs.paced PPS`, in the network to send to. "sender" is UdpSender with that `pps`,
"sleep" a loop of `socket.send` that sleeps until it is time. A run lasts a second; see process.py.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import uringzc
from benchmarks.pairs import Contender, Sample, sample
from benchmarks.programs.process import answer
from uringzc.testing import Sandbox

SECOND = 1.0  # of a run, however long it should be: the rate holds over one
SIZE = 200
LOOKS = 100  # at the clock, in a run
LATE = 0.001  # seconds: what is later is not made up for


def contender(
    name: str, send: Callable[[bytes], object], pps: int, finish: Callable[[], object]
) -> Contender:
    """Return calls of `send`, as many as go out in a second."""
    payload, some = bytes(SIZE), range(max(1, pps // LOOKS))

    def chunk() -> None:
        for _ in some:
            send(payload)

    def run(_: float) -> Sample:
        cpu, start = time.process_time(), time.perf_counter()
        sent = sample(SECOND, chunk, len(some)).datagrams
        finish()
        return Sample(sent, time.perf_counter() - start, time.process_time() - cpu)

    return Contender(name, run)


def asleep(sock: socket.socket, pps: int) -> Callable[[bytes], object]:
    """Return `socket.send` that sleeps until the datagram is due, and then makes up for what is late."""
    due, clock = 0.0, time.perf_counter

    def send(payload: bytes) -> None:
        nonlocal due
        now = clock()
        due = max(due + 1 / pps, now - LATE)
        if due > now:
            time.sleep(due - now)
        sock.send(payload)

    return send


def main() -> None:
    """Run the programs."""
    pps, options = int(sys.argv[1]), dict[str, Any](pps=int(sys.argv[1]))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(Sandbox.address)
        with uringzc.UdpSender(Sandbox.address, **options) as tx:
            programs = {
                "sender": contender("UdpSender", tx.send, pps, tx.drain),
                "sleep": contender("sleep", asleep(sock, pps), pps, int),
            }
            answer(programs)


if __name__ == "__main__":
    main()
