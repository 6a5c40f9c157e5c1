"""Datagrams to many destinations, and what Python programs do with them without the library.

A turn is what a program has to send before it does something else: datagrams with their addresses. Each
function returns a program that sends turn after turn, on unconnected UDP sockets of its own if not said
otherwise.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from array import array
from collections.abc import Mapping, Sequence
from itertools import cycle, islice

from benchmarks.pairs import Contender
from benchmarks.programs.baselines import UDP_SEGMENT, copying
from benchmarks.programs.udp_sender import Address, Turn, payloads_of
from uringzc.address import pack

MMSGHDR, IOVEC = 64, 16  # bytes of a struct mmsghdr, and of a struct iovec


def turns_of(size: int, addresses: Sequence[Address], each: int) -> list[Turn]:
    """Return turns of `each` datagrams for every address, to one after the other, of 4 MiB or one turn."""
    payloads, length = payloads_of(size), each * len(addresses)
    datagrams = zip(cycle(payloads), cycle(addresses), strict=False)
    return [list(islice(datagrams, length)) for _ in range(max(1, len(payloads) // length))]


def sendto(sock: socket.socket, turns: Sequence[Turn]) -> Contender:
    """`socket.sendto` of each."""

    def chunk() -> None:
        send = sock.sendto
        for turn in turns:
            for payload, address in turn:
                send(payload, address)

    return copying("socket.sendto", chunk, _count(turns))


def connected(socks: Mapping[Address, socket.socket], turns: Sequence[Turn]) -> Contender:
    """`socket.send`, by a connected socket for each address, which the program has beside the payload."""
    sends = [[(payload, socks[address].send) for payload, address in turn] for turn in turns]

    def chunk() -> None:
        for turn in sends:
            for payload, send in turn:
                send(payload)

    return copying("socket.send", chunk, _count(turns))


def sendmmsg(sock: socket.socket, turns: Sequence[Turn]) -> Contender:
    """`sendmmsg`, which Python's sockets lack, through ctypes: one system call a turn, of tables that stay.

    A datagram takes three stores, 0.2 us. Its bytes are sent from where CPython has them; to copy them into
    the table's memory takes 0.25 us more, to make the structures anew 2.4 us more.
    """
    longest = max(map(len, turns))
    messages, pieces = array("Q", bytes(longest * MMSGHDR)), array("Q", bytes(longest * IOVEC))
    table, first_piece = messages.buffer_info()[0], pieces.buffer_info()[0]
    names = {to: array("B", pack(int(sock.family), to)) for to in {to for turn in turns for _, to in turn}}
    places = {to: name.buffer_info()[0] for to, name in names.items()}
    length = len(names[turns[0][0][1]])
    for i in range(longest):
        messages[8 * i + 1 : 8 * i + 4] = array("Q", [length, first_piece + IOVEC * i, 1])
    call = ctypes.CDLL(None, use_errno=True).sendmmsg
    call.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
    fd, header = sock.fileno(), bytes.__basicsize__ - 1

    def chunk() -> None:
        for turn in turns:
            i = 0
            for payload, address in turn:
                messages[8 * i] = places[address]
                pieces[2 * i] = id(payload) + header
                pieces[2 * i + 1] = len(payload)
                i += 1
            if call(fd, table, i, 0) != len(turn) or not names:  # which hold the places
                raise OSError(ctypes.get_errno(), "sendmmsg")

    return copying("sendmmsg", chunk, _count(turns))


def sendmsg_trains(sock: socket.socket, turns: Sequence[Turn]) -> Contender:
    """An expert's: the payloads of a turn, of one size, in a list for each address, sent as one request."""
    control = _segment(len(turns[0][0][0]))

    def chunk() -> None:
        send = sock.sendmsg
        for turn in turns:
            trains: dict[Address, list[bytes]] = {}
            for payload, address in turn:
                if address in trains:
                    trains[address].append(payload)
                else:
                    trains[address] = [payload]
            for address, train in trains.items():
                send(train, control, 0, address)

    return copying("sendmsg trains", chunk, _count(turns))


def sendmsg_trains_to_all(
    sock: socket.socket, addresses: Sequence[Address], turns: Sequence[Sequence[bytes]]
) -> Contender:
    """The same where each address gets all payloads of a turn: nothing has to be collected."""
    control = _segment(len(turns[0][0]))

    def chunk() -> None:
        send = sock.sendmsg
        for turn in turns:
            for address in addresses:
                send(turn, control, 0, address)

    return copying("sendmsg trains", chunk, _count(turns) * len(addresses))


def _segment(size: int) -> list[tuple[int, int, bytes]]:
    return [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", size))]


def _count(turns: Sequence[Sequence[object]]) -> int:
    return sum(map(len, turns))
