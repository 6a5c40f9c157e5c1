"""The receiving process of `uringzc demo`: checks what arrives, and reports its progress to the sender.

A datagram is its number, counted from 0, and the next piece of the file. A number without a piece asks if the
datagrams before it arrived.

Lines of JSON go to standard output. First ``{"port": ..., "room": ...}``, where `room` is how many datagrams
the socket's buffer can hold; then, repeatedly, how many were received; at last the verdict. The process ends
when its standard input does: with the sender, however that ends.

This file is run by its path, and imports nothing but the standard library.
"""

import hashlib
import json
import math
import os
import select
import socket
import struct
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

NUMBER = struct.Struct("!Q")
#: asked for as SO_RCVBUF; the kernel grants what net.core.rmem_max allows
BUFFER = 8 << 20
_PAGE = 4096
_SO_MEMINFO, _DROPS = 55, 8


@dataclass(frozen=True)
class Plan:
    """Which datagrams a file becomes. Both sides have it."""

    file_size: int
    size: int  #: of a datagram, its number included
    times: int  #: how often the file is sent

    @property
    def piece(self) -> int:
        """Bytes of the file in a full datagram."""
        return self.size - NUMBER.size

    @property
    def per_pass(self) -> int:
        """Datagrams for the file once."""
        return -(-self.file_size // self.piece)

    @property
    def datagrams(self) -> int:
        """All of them."""
        return self.times * self.per_pass

    @property
    def nbytes(self) -> int:
        """Bytes of the file, as often as it is sent."""
        return self.times * self.file_size

    def offset(self, number: int) -> int:
        """Where in the file a datagram's piece begins."""
        return number % self.per_pass * self.piece

    def length(self, number: int) -> int:
        """A datagram's size: the last one of the file may be shorter."""
        return NUMBER.size + min(self.piece, self.file_size - self.offset(number))


def room_for(size: int, granted: int) -> int:
    """How many datagrams a socket buffer of `granted` bytes (of getsockopt) holds at least.

    The kernel charges whole pages and its own header, and may release a quarter of a receive buffer late.
    """
    pages = -(-size // _PAGE) + 1
    return max(1, granted * 3 // 4 // (pages * _PAGE + _PAGE // 2))


class Verifier:
    """Compares what arrives with the plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.taken = 0
        self.fault: str | None = None
        self.digests: set[str] = set()  # one, if every pass was the same
        self._digest = hashlib.sha256()

    @property
    def settled(self) -> bool:
        """Whether there is a verdict."""
        return self.fault is not None or self.taken == self.plan.datagrams

    def take(self, datagram: memoryview) -> None:
        """Accepts the datagram that is due; any other is a fault."""
        if len(datagram) < NUMBER.size:
            self.fault = f"a datagram of {len(datagram)} bytes arrived, which was never sent"
            return
        (number,) = NUMBER.unpack_from(datagram)
        due = self.taken
        if number > due:
            self.fault = self._missing(due, number - 1)
        elif len(datagram) == NUMBER.size:
            return  # the question; everything did arrive
        elif number < due:
            self.fault = f"datagram {number} arrived when {due} was due: twice, or out of order"
        elif len(datagram) != self.plan.length(number):
            self.fault = f"datagram {number} has {len(datagram)} bytes instead of {self.plan.length(number)}"
        else:
            self._accept(datagram[NUMBER.size :])

    def _missing(self, first: int, last: int) -> str:
        which = f"datagram {first}" if first == last else f"{last - first + 1} datagrams, {first} to {last},"
        return f"{which} of {self.plan.datagrams} did not arrive"

    def _accept(self, piece: memoryview) -> None:
        self._digest.update(piece)
        self.taken += 1
        if self.taken % self.plan.per_pass == 0:
            self.digests.add(self._digest.hexdigest())
            self._digest = hashlib.sha256()


def receive(sock: socket.socket, verifier: Verifier, every: int) -> None:
    """Receives until there is a verdict, or the sender has ended; reports after each `every` datagrams."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(sys.stdin, 0)  # poll reports its end without being asked to
    buffer = memoryview(bytearray(1 << 16))
    reported = 0
    while not verifier.settled:
        try:
            verifier.take(buffer[: sock.recv_into(buffer, 0, socket.MSG_DONTWAIT)])
            idle = False
        except BlockingIOError:
            idle = True
        if verifier.taken - reported >= (1 if idle else every):
            reported = verifier.taken
            report(reported)
        elif idle and any(fd != sock.fileno() for fd, _ in poll.poll()):
            return


def report(value: Any) -> None:
    """One line for the sender."""
    os.write(1, json.dumps(value).encode() + b"\n")


def main() -> None:
    """Arguments: the address to bind, and the plan's fields."""
    host, *numbers = sys.argv[1:]
    with suppress(BrokenPipeError):  # the sender is gone
        try:
            serve(host, Plan(*map(int, numbers)))
        except OSError as error:
            report({"errno": error.errno, "error": f"the receiving process: {error.strerror}"})


def serve(host: str, plan: Plan) -> None:
    """Receives at a free port of `host`, as the plan says, and gives the verdict."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        sock.bind((host, 0))
        room = room_for(plan.size, sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF))
        verifier = Verifier(plan)
        report({"port": sock.getsockname()[1], "room": room})
        receive(sock, verifier, every=math.ceil(room / 4))
        drops = struct.unpack_from("9I", sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36))[_DROPS]
        report(
            {
                "taken": verifier.taken,
                "fault": verifier.fault,
                "drops": drops,
                "sha256": sorted(verifier.digests),
                "cpu": time.process_time(),
            }
        )
        sys.stdin.read()  # late datagrams must find a socket


if __name__ == "__main__":
    main()
