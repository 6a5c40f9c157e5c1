"""Memory per request in flight, beyond the payload: one line of JSON, from a process of its own.

`python -m benchmarks.programs.memory KIND REQUESTS`, in a network where 10.0.0.2:9000 takes datagrams. Kinds:
region, bytes (requests held by one notifier); notifications (one per request, not reaped); soak (so many
requests through one scheduler: growth since the first tenth of them).
"""

from __future__ import annotations

import json
import resource
import socket
import sys

import uringzc
from uringzc.testing import Sandbox

HELD = 65536
SIZE = 1200


def resident() -> int:
    """Return the bytes of this process that are in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def held(sock: socket.socket, kind: str) -> float:
    """Return bytes for each of HELD requests that are held, the rings and tables included."""
    payload = bytes(SIZE)
    with uringzc.Scheduler(completions="none", max_inflight=64) as warm:  # what is loaded once
        warm.send(sock, warm.register(4096), length=SIZE, flush=True)
        warm.send(sock, payload, flush=True)
        warm.reap_notifications(wait=2)
    before = resident()
    with uringzc.Scheduler(completions="none", max_inflight=HELD) as s:
        if kind == "bytes":
            for _ in range(HELD):
                s.send(sock, payload)
        else:
            region = s.register(4096)
            flush = kind == "notifications"
            assert s.send_run(sock, region, SIZE, HELD, stride=0, flush=flush) == HELD
        s.drain()
        return (resident() - before) / HELD


def soak(sock: socket.socket, requests: int) -> float:
    """Return by how many bytes memory grew from a tenth of the requests to the end."""
    after_a_tenth = done = 0
    with uringzc.Scheduler(completions="none") as s:
        region = s.register(4 << 20)
        payload = bytes(SIZE)
        while done < requests:
            done += s.send_run(sock, region, SIZE, 2000, flush=True)
            for _ in range(48):
                s.send(sock, payload)
            done += 48
            s.flush(0)
            s.drain()
            s.reap_notifications()
            if not after_a_tenth and done >= requests / 10:
                after_a_tenth = resident()
        return resident() - after_a_tenth


def main() -> None:
    """Measure and print."""
    kind, requests = sys.argv[1], int(sys.argv[2])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(Sandbox.address)
        figure = soak(sock, requests) if kind == "soak" else held(sock, kind)
    print(json.dumps({"kind": kind, "requests": requests if kind == "soak" else HELD, "bytes": figure}))


if __name__ == "__main__":
    main()
