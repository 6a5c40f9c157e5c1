"""UdpSender with many destinations, over the sink."""

from __future__ import annotations

import resource
import socket
from collections.abc import Mapping, Sequence

from benchmarks.bench import Bench, topic
from benchmarks.pairs import Contender
from benchmarks.programs import destinations as programs
from benchmarks.programs.udp_sender import Address, Turn, payloads_of

SIZES = (200, 1200)  # bytes of a datagram
MEMBERS = 16
BURSTS = ((8, 5.0), (32, 12.0))  # datagrams for each destination, and the target
GROUP = ((200, 8, 6.0), (1200, 32, 20.0), (1200, 44, None))  # bytes, payloads of a turn, the target
MANY = 1000


def addresses_of(count: int) -> list[Address]:
    """Return so many addresses in the sink."""
    return [(f"10.0.0.{10 + i % 200}", 9000 + i // 200) for i in range(count)]


@topic(
    "UDP: many destinations, and groups",
    why_missed="""Of 120 ns for 1200 bytes in trains of 32, most is the call and the copy, as to one
    destination; a burst of 8 leaves a request for each 8 datagrams, of 0.6 us. `sendto` takes 0.95 us on
    this machine; the targets were set where it takes 2.3 us. Where each destination gets one datagram, the
    kernel does as much for it as for `sendto`, but for entering it, and the copy into the arena is added.""",
)
def destinations(bench: Bench) -> None:
    """`UdpSender.send(data, to)` to several destinations in turn, one datagram to each, until each has as
    many as the case says, then `flush`; without end, it never flushes. A group sends its payloads to all
    of its 16 members, then flushes.

    - *socket.sendto*: a loop of it, a system call for each datagram.
    - *socket.send*: the same by a connected socket for each destination, which spares the kernel the search
      for a route: the fastest that makes no trains.
    - *sendmmsg*: the same by one system call a turn, through ctypes, which is faster than the packages
      that have it.
    - *sendmsg trains*: an expert's loop. It collects the datagrams of each destination in a list, which it
      sends as one request, with UDP_SEGMENT; for the members of a group the list is the same.
    - *one destination*: the same sender, with one.
    """
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(most, 2 * MANY)), most))
    socks = {address: bench.udp_socket(bench.sink, connected=False) for address in addresses_of(MANY)}
    for address, sock in socks.items():
        sock.connect(address)
    for size in SIZES:
        for each, target in BURSTS:
            case = f"{MEMBERS} destinations, {each} datagrams each, {size} B"
            turns = programs.turns_of(size, addresses_of(MEMBERS), each)
            trains = programs.sendmsg_trains(_unconnected(bench), turns)
            bench.compare(case, [*_one_by_one(bench, socks, turns, target), trains])
    for size in SIZES:
        turns = programs.turns_of(size, list(socks), 1)
        case = f"{MANY} destinations, a datagram each, {size} B"
        bench.compare(case, _one_by_one(bench, socks, turns, 1.0), close=True)
    for size in SIZES:
        _without_end(bench, size)
    for size, each, group_target in GROUP:
        _group(bench, size, each, group_target)


def _one_by_one(
    bench: Bench, socks: Mapping[Address, socket.socket], turns: Sequence[Turn], target: float
) -> list[Contender]:
    """Return the library's `send`, and all that Python has that makes no trains."""
    return [
        bench.udp_sender(connected=False).send_to("send", turns),
        programs.sendto(_unconnected(bench), turns).wanting(target),
        programs.connected(socks, turns),
        programs.sendmmsg(_unconnected(bench), turns).wanting(target),
    ]


def _without_end(bench: Bench, size: int) -> None:
    three, one = (programs.turns_of(size, addresses_of(count), 1) for count in (3, 1))
    contenders = [
        bench.udp_sender(connected=False).send_to("send", three, flush=False),
        bench.udp_sender(connected=False).send_to("one destination", one, flush=False).wanting(0.85),
    ]
    bench.compare(f"3 destinations without end, {size} B", contenders)


def _group(bench: Bench, size: int, each: int, target: float | None) -> None:
    payloads, addresses = payloads_of(size), addresses_of(MEMBERS)
    turns = [payloads[i : i + each] for i in range(0, len(payloads) - each, each)]
    to_each = [[(payload, address) for payload in turn for address in addresses] for turn in turns]
    contenders = [
        bench.udp_sender(connected=False).group("Group.send", addresses, turns),
        programs.sendto(_unconnected(bench), to_each).wanting(target),
        programs.sendmsg_trains_to_all(_unconnected(bench), addresses, turns),
    ]
    bench.compare(f"group of {MEMBERS}, {each} payloads, {size} B", contenders)


def _unconnected(bench: Bench) -> socket.socket:
    return bench.udp_socket(bench.sink, connected=False)
