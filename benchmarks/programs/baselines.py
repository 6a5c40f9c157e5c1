"""What Python programs do without the library, done well: the programs that it is compared with.

Each takes a connected UDP socket of its own: some set options on it. Payloads are sent in turn, over and
over: how many there are, and so whether they stay in the cache, is the caller's choice. A train (GSO batch)
is datagrams of one size that leave as one request, with UDP_SEGMENT.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Sequence
from itertools import cycle, islice

from benchmarks.pairs import Contender, sample

CHUNK = 2000  # sends, or datagrams in trains, between two reads of the clock
MAX_TRAIN_BYTES = 65507  # of one send
UDP_SEGMENT = 103  # <linux/udp.h>


def socket_send(sock: socket.socket, payloads: Sequence[bytes]) -> Contender:
    """`socket.send` of one payload after the other. (`map` instead of the loop gains 1 %.)"""
    some = list(islice(cycle(payloads), max(CHUNK, len(payloads))))

    def chunk() -> None:
        send = sock.send
        for payload in some:
            send(payload)

    return copying("socket.send", chunk, len(some))


def sendmsg_trains(
    sock: socket.socket, payloads: Sequence[bytes], train: int = 44, name: str = "sendmsg trains"
) -> Contender:
    """An expert's `send(datagram)`: it collects payloads of one size, and sends `train` of them by `sendmsg`.

    Assigning to a list that stays is 5 % faster than append and clear; joining each train and sending it as
    one block 2 to 7 %; a slice of a list that is there already 30 %. Longer trains are faster: at 1200 B 54
    instead of 44 by 7 %, at 200 B 128 by 40 %.
    """
    size = len(payloads[0])
    if any(len(payload) != size for payload in payloads) or not 0 < train * size <= MAX_TRAIN_BYTES:
        raise ValueError(f"{train} datagrams of one size do not make a train of {MAX_TRAIN_BYTES} bytes")
    some = list(islice(cycle(payloads), max(CHUNK, len(payloads)) // train * train))
    control = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", size))]
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

    return copying(name, chunk, len(some))


def prepared_block(sock: socket.socket, size: int, train: int) -> Contender:
    """Send one block of `train` datagrams, prepared beforehand, again and again: UDP_SEGMENT is set once."""
    block = bytes(size * train)
    sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)

    def chunk() -> None:
        send = sock.send
        for _ in range(CHUNK):
            send(block)

    return copying("prepared block", chunk, CHUNK * train)


def copying(name: str, chunk: Callable[[], object], datagrams: int) -> Contender:
    """Return calls of `chunk`, which sends so many datagrams, all copied by the kernel."""
    return Contender(name, lambda seconds: sample(seconds, chunk, datagrams, copied_share=1.0))
