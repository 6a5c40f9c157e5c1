"""A program without privileges, in a process of its own: what `send_region` makes of a small socket buffer.

`python -m benchmarks.programs.unprivileged WMEM_MAX`, as root in the network to send to. It becomes the user
nobody, locks
at most 8 MiB, and answers lines of stdin, "region SECONDS" or "block SECONDS", with a line of JSON each.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict
from functools import partial
from unittest.mock import patch

from benchmarks.cases.udp import SEGMENT, Sender
from benchmarks.pairs import Contender, Sample
from benchmarks.programs import baselines
from uringzc import UdpSender, testing
from uringzc.senders import sockets, udp

USER = 65534
MEMLOCK = 8 << 20
POOL = 2 << 20  # beside an arena of 4 MiB it is within MEMLOCK


class Nobody:
    """The process, and its two programs as contenders."""

    def __init__(self, box: testing.Sandbox, wmem_max: int) -> None:
        command = [sys.executable, "-m", "benchmarks.programs.unprivileged", str(wmem_max)]
        pipe = subprocess.PIPE
        self._process = box.run(partial(subprocess.Popen, command, stdin=pipe, stdout=pipe, text=True))

    def __enter__(self) -> Nobody:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def ask(self, program: str, seconds: float) -> Sample:
        """Run one of them for so long."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(program, seconds, file=self._process.stdin, flush=True)
        return Sample(**json.loads(self._process.stdout.readline()))

    def contender(self, program: str, name: str, target: float | None = None) -> Contender:
        """One of them: "region" or "block"."""
        return Contender(name, partial(self.ask, program), target)


def granting(wmem_max: int) -> AbstractContextManager[object]:
    """A sender gets the socket buffer that a system with that net.core.wmem_max allows, and no more."""

    def make_room(sock: socket.socket, wanted: int) -> int:
        return sockets.make_room(sock, min(wanted, 2 * wmem_max))

    return patch.object(udp, "make_room", make_room)


def main() -> None:
    """Become nobody, and serve."""
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (MEMLOCK, MEMLOCK))
    os.setgroups([])
    os.setgid(USER)
    os.setuid(USER)
    with granting(int(sys.argv[1])), ExitStack() as stack:
        sender = Sender(stack.enter_context(UdpSender(testing.Sandbox.address)))
        sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sock.connect(testing.Sandbox.address)
        programs = {
            "region": sender.region("send_region", sender.tx.register(POOL), POOL),
            "block": baselines.block(sock, SEGMENT),
        }
        for line in sys.stdin:
            program, seconds = line.split()
            print(json.dumps(asdict(programs[program].run(float(seconds)))), flush=True)


if __name__ == "__main__":
    main()
