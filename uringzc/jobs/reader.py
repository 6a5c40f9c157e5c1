"""Reads what waits on a UDP socket into one buffer, trains that the kernel joined (UDP_GRO) as they come.

Datagrams lie one behind the other, those of a train and those of the next, so that numpy sees a stream of one
size as rows. No object is made for a datagram: `recvmsg_into` is called once for each train.
"""

import socket
import time
from dataclasses import dataclass

import numpy as np

from uringzc.address import Address
from uringzc.jobs.header import Bytes, Words

UDP_GRO = 104  #: of <linux/udp.h>
_LARGEST = 1 << 16  # of a train
_BUFFER = 4 << 20
_CONTROL = socket.CMSG_SPACE(4)


@dataclass(frozen=True)
class Batch:
    """Datagrams in the order in which they came. It is valid until the reader reads again."""

    memory: Bytes
    starts: Words  #: where in it each begins
    sizes: Words
    came: Words  #: ns of CLOCK_REALTIME
    train: Words  #: of each datagram: the index of its address
    addresses: list[Address]

    def __len__(self) -> int:
        return len(self.starts)


class Reader:
    """A socket, and what was read from it and not taken."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._view = memoryview(bytearray(_BUFFER))
        self._memory = np.frombuffer(self._view, np.uint8)
        self._clear()

    def _clear(self) -> None:
        self._end = 0
        self._trains: list[tuple[int, int, int, int]] = []  # start, bytes, bytes of a datagram, when it came
        self._addresses: list[Address] = []

    @property
    def full(self) -> bool:
        """There is no room for a train."""
        return self._end + _LARGEST > _BUFFER

    def __bool__(self) -> bool:
        return bool(self._trains)

    def read(self) -> bool:
        """Reads what waits, until it is full. Whether anything came."""
        some = len(self._trains)
        receive, view = self._sock.recvmsg_into, self._view
        while not self.full:
            try:
                size, control, _, address = receive([view[self._end :]], _CONTROL, socket.MSG_DONTWAIT)
            except (BlockingIOError, ConnectionRefusedError):
                break
            piece = size
            for level, kind, data in control:
                if level == socket.IPPROTO_UDP and kind == UDP_GRO:
                    piece = int.from_bytes(data[:2], "little")
            self._trains.append((self._end, size, piece or 1, time.time_ns()))
            self._addresses.append(address)
            self._end += size
        return len(self._trains) > some

    def take(self, most: int | None) -> Batch:
        """What was read, up to `most` datagrams; the rest is forgotten."""
        starts, sizes, pieces, came = np.array(self._trains, np.int64).reshape(-1, 4).T
        counts = np.maximum(1, -(-sizes // pieces))
        train = np.repeat(np.arange(len(counts)), counts)[:most]
        behind = np.cumsum(counts) - counts
        offsets = (np.arange(len(train)) - behind[train]) * pieces[train]
        each = np.minimum(pieces[train], sizes[train] - offsets)
        batch = Batch(self._memory, starts[train] + offsets, each, came[train], train, self._addresses)
        self._clear()
        return batch
