"""`send_region` and its baseline in an unprivileged process, with the socket buffer that it can get.

`python -m benchmarks.programs.unprivileged WMEM_MAX`, run as root in the network to send to: it becomes the
user nobody, with 8 MiB of RLIMIT_MEMLOCK. Its programs are "region" and "block"; see process.py.
"""

from __future__ import annotations

import os
import resource
import socket
import sys
from contextlib import AbstractContextManager, ExitStack
from unittest.mock import patch

from benchmarks.programs.baselines import prepared_block
from benchmarks.programs.process import answer
from benchmarks.programs.udp_sender import SEGMENT, TRAIN, UdpPrograms
from uringzc import UdpSender, testing
from uringzc.senders import sockets, udp_setup

NOBODY = 65534  # the user
MEMLOCK = 8 << 20
POOL = 2 << 20  # with an arena of 4 MiB it is within MEMLOCK


def limited(wmem_max: int) -> AbstractContextManager[object]:
    """Limit the socket buffers of new senders to what a system with that net.core.wmem_max grants."""

    def make_room(sock: socket.socket, wanted: int) -> int:
        return sockets.make_room(sock, min(wanted, 2 * wmem_max))

    return patch.object(udp_setup, "make_room", make_room)


def main() -> None:
    """Drop all privileges, and run the programs."""
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (MEMLOCK, MEMLOCK))
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    with limited(int(sys.argv[1])), ExitStack() as stack:
        sender = UdpPrograms(stack.enter_context(UdpSender(testing.Sandbox.address)))
        sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sock.connect(testing.Sandbox.address)
        region = sender.send_region("send_region", sender.tx.register(POOL))
        answer({"region": region, "block": prepared_block(sock, SEGMENT, TRAIN)})


if __name__ == "__main__":
    main()
