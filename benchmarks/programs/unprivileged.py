"""`send_region` and its baseline in an unprivileged process, with the socket buffer that it can get.

`python -m benchmarks.programs.unprivileged WMEM_MAX`, run as root in the network to send to: it becomes the
user nobody, with 8 MiB of RLIMIT_MEMLOCK, and answers each line of stdin, "region SECONDS" or "block
SECONDS", with a sample, a line of JSON.
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

from benchmarks.pairs import Contender, Sample
from benchmarks.programs.baselines import prepared_block
from benchmarks.programs.udp_sender import SEGMENT, TRAIN, UdpPrograms
from uringzc import UdpSender, testing
from uringzc.senders import sockets, udp_setup

NOBODY = 65534  # the user
MEMLOCK = 8 << 20
POOL = 2 << 20  # with an arena of 4 MiB it is within MEMLOCK


class Unprivileged:
    """The process, and its two programs as contenders."""

    def __init__(self, box: testing.Sandbox, wmem_max: int) -> None:
        command = [sys.executable, "-m", "benchmarks.programs.unprivileged", str(wmem_max)]
        pipe = subprocess.PIPE
        self._process = box.run(partial(subprocess.Popen, command, stdin=pipe, stdout=pipe, text=True))

    def __enter__(self) -> Unprivileged:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def contender(self, program: str, name: str) -> Contender:
        """One of them: "region" or "block"."""
        return Contender(name, partial(self._run, program))

    def _run(self, program: str, seconds: float) -> Sample:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(program, seconds, file=self._process.stdin, flush=True)
        return Sample(**json.loads(self._process.stdout.readline()))


def limited(wmem_max: int) -> AbstractContextManager[object]:
    """Limit the socket buffers of new senders to what a system with that net.core.wmem_max grants."""

    def make_room(sock: socket.socket, wanted: int) -> int:
        return sockets.make_room(sock, min(wanted, 2 * wmem_max))

    return patch.object(udp_setup, "make_room", make_room)


def main() -> None:
    """Drop all privileges, and run what stdin names."""
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (MEMLOCK, MEMLOCK))
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    with limited(int(sys.argv[1])), ExitStack() as stack:
        sender = UdpPrograms(stack.enter_context(UdpSender(testing.Sandbox.address)))
        sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sock.connect(testing.Sandbox.address)
        programs = {
            "region": sender.send_region("send_region", sender.tx.register(POOL)),
            "block": prepared_block(sock, SEGMENT, TRAIN),
        }
        for line in sys.stdin:
            program, seconds = line.split()
            print(json.dumps(asdict(programs[program].run(float(seconds)))), flush=True)


if __name__ == "__main__":
    main()
