"""Datagrams that are recognised wherever they arrive, and what became of each.

A datagram has a header (stream, number, size), and bytes that follow from it. So a receiver knows of each
whether it was sent, whether it came before, and whether a byte of it is another one.
"""

import random
import socket
import struct
from collections import Counter
from dataclasses import dataclass, field

HEADER = struct.Struct("<IQI")  # stream, number, size
MIN_SIZE = HEADER.size
_PATTERN = random.Random(15).randbytes(1 << 17)
_MIDDLE = 1 << 16


def datagram(stream: int, number: int, size: int) -> bytes:
    """At least MIN_SIZE bytes, which no other datagram has."""
    at = (stream * 7919 + number * 31) % _MIDDLE
    return HEADER.pack(stream, number, size) + _PATTERN[at : at + size - MIN_SIZE]


def recognise(data: bytes) -> tuple[int, int] | None:
    """Stream and number of a datagram; None if it is not what `datagram` made."""
    if len(data) < MIN_SIZE:
        return None
    stream, number, _ = HEADER.unpack_from(data)
    return (stream, number) if datagram(stream, number, len(data)) == data else None


@dataclass
class Stream:
    """Datagrams of one sender: those that have not arrived yet, as pairs of number and receiver."""

    sent: int = 0  #: numbers that were used
    expected: set[tuple[int, int]] = field(default_factory=set)
    excused: set[tuple[int, int]] = field(default_factory=set)  #: for which nobody waits any more
    reported: Counter[int] = field(default_factory=Counter)  #: lost, as the sender said, by receiver


class Ledger:
    """All streams. What must not happen is counted in `wrong`, with the first cases as text in `examples`."""

    def __init__(self) -> None:
        self.datagrams = self.nbytes = self.arrived = self.late = self.lost = self.excused = 0
        self.wrong: Counter[str] = Counter()
        self.examples: list[str] = []
        self._streams: dict[int, Stream] = {}
        self._next = 0

    def open(self) -> int:
        """A new stream."""
        self._next += 1
        self._streams[self._next] = Stream()
        return self._next

    def make(self, stream: int, size: int, *receivers: int) -> bytes:
        """The next datagram, which is expected once at each of the receivers."""
        one = self._streams[stream]
        number, one.sent = one.sent, one.sent + 1
        for receiver in receivers:
            one.expected.add((number, receiver))
        self.datagrams += len(receivers)
        self.nbytes += size * len(receivers)
        return datagram(stream, number, size)

    def last(self, stream: int) -> int:
        """The number of the datagram that was made last."""
        return self._streams[stream].sent - 1

    def unmake(self, stream: int, number: int, *receivers: int) -> None:
        """It was refused, and not taken: it must not arrive."""
        for receiver in receivers:
            self._streams[stream].expected.remove((number, receiver))

    def refused(self, stream: int, number: int, receiver: int) -> None:
        """The sender has said of this datagram that it failed: it may have arrived, or not."""
        one = self._streams[stream]
        if (number, receiver) in one.expected:
            one.expected.remove((number, receiver))
            one.excused.add((number, receiver))
            self.lost += 1

    def report(self, stream: int, receiver: int, count: int = 1) -> None:
        """The sender has said that it lost so many, to that receiver."""
        self._streams[stream].reported[receiver] += count

    def arrive(self, data: bytes, receiver: int) -> None:
        """What a receiver got."""
        found = recognise(data)
        if found is None:
            self.fail("changed", f"{len(data)} bytes that nobody sent: {data[:40]!r}")
            return
        stream, number = found
        one = self._streams.get(stream)
        if one is None:  # it has ended, and nobody waited for it any more
            self.late += 1
        elif (number, receiver) in one.expected:
            one.expected.remove((number, receiver))
            self.arrived += 1
        elif (number, receiver) in one.excused:
            one.excused.remove((number, receiver))
            self.late += 1
        else:
            known = "duplicate" if number < one.sent else "not sent"
            self.fail(known, f"number {number} of stream {stream}, at receiver {receiver}")

    def missing(self, stream: int) -> int:
        """How many have not arrived, and were not reported."""
        one = self._streams[stream]
        expected = Counter(receiver for _, receiver in one.expected)
        return sum(max(0, count - one.reported[receiver]) for receiver, count in expected.items())

    def settle(self, stream: int, excuse: bool, what: str) -> None:
        """Nothing of the stream is on its way any more. `excuse`: a fault may have dropped some."""
        one = self._streams[stream]
        missing = self.missing(stream)
        if missing and not excuse:
            self.fail("lost", f"{missing} of {what}, of which {sum(one.reported.values())} were reported")
        self.lost += len(one.expected) - missing
        self.excused += missing
        one.excused |= one.expected
        one.expected.clear()
        one.reported.clear()

    def close(self, stream: int) -> None:
        """Nothing else will be sent."""
        del self._streams[stream]

    def forget_excused(self) -> None:
        """The network is empty: what has not come will not."""
        for one in self._streams.values():
            one.excused.clear()

    def fail(self, kind: str, text: str) -> None:
        """Something that must not happen."""
        self.wrong[kind] += 1
        if len(self.examples) < 20:
            self.examples.append(f"{kind}: {text}")


class Receivers:
    """The sockets of a network's far side; `take` tells the ledger what came."""

    def __init__(self, ledger: Ledger, sockets: list[socket.socket]) -> None:
        self.ledger = ledger
        self.sockets = sockets
        self.addresses = [sock.getsockname() for sock in sockets]
        for sock in sockets:
            sock.setblocking(False)

    def take(self) -> int:
        """Everything that is there; how many datagrams."""
        count = 0
        for number, sock in enumerate(self.sockets):
            try:
                while True:
                    self.ledger.arrive(sock.recv(1 << 16), number)
                    count += 1
            except BlockingIOError:
                pass
            except OSError:  # a fault has closed it
                continue
        return count

    def close(self) -> None:
        """All of them."""
        for sock in self.sockets:
            sock.close()
