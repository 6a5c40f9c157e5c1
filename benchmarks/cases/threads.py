"""Two threads, each with an engine of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

import uringzc
from benchmarks.bench import Bench, topic
from benchmarks.pairs import Contender
from benchmarks.programs.reference import Reference
from benchmarks.programs.threads import Threads
from benchmarks.programs.udp_sender import UdpPrograms, payloads_of
from uringzc import testing

COUNTS = (("two", 2), ("one", 1))
FREE = not getattr(sys, "_is_gil_enabled", lambda: True)()  # the interpreter runs threads at the same time


@topic(
    "Two threads",
    why_missed="""The copy of a datagram is done with the GIL held: of the CPU time of 1200 bytes, 114 of
    130 ns by `send`, 100 of 116 by `send_many`. So two threads can reach 1.15 at most. `send_run` spends
    its time in the kernel, and two processes of the C loop show what the machine has for two.""",
)
def threads(bench: Bench) -> None:
    """Two threads that send, each by its own sender, socket and device. Cases that say so ran in an
    interpreter without the GIL.

    - *one*: the same program in one thread. Of the C program it is one process, against two.

    Through one device two threads, or two processes, share its queue and its lock in the kernel.
    """
    workers = bench.stack.enter_context(Threads(2))
    boxes = [bench.sink, bench.stack.enter_context(testing.sink(mtu=1500))]
    socks = [bench.udp_socket(box) for box in boxes]
    _compare(bench, "send_run", workers, workers.send_run(socks, 1200), 1.9)
    payloads = payloads_of(1200)
    senders = [box.run(partial(uringzc.UdpSender, box.address)) for box in boxes]
    workers.closing([tx.close for tx in senders])
    programs = [UdpPrograms(tx).send("send", payloads) for tx in senders]
    _compare(bench, "UdpSender.send", workers, programs, 1.8 if FREE else 1.3)
    programs = [UdpPrograms(tx).send_many("send_many", payloads) for tx in senders]
    _compare(bench, "UdpSender.send_many", workers, programs, 1.8 if FREE else 1.4)
    for case, used in (("", boxes), (", one device", [bench.sink, bench.sink])):
        references = [bench.stack.enter_context(Reference(bench.udp_socket(box))) for box in used]
        programs = [reference.contender("zc", 1200) for reference in references]
        two, one = (workers.together(name, programs[:count], processes=True) for name, count in COUNTS)
        bench.compare(f"C, 1200 B, 2 processes{case}", [two, one], close=True)


def _compare(bench: Bench, call: str, workers: Threads, programs: Sequence[Contender], target: float) -> None:
    case = f"{call}, 1200 B, 2 threads{', free-threaded' if FREE else ''}"
    two, one = (workers.together(name, programs[:count]) for name, count in COUNTS)
    bench.compare(case, [two, one.wanting(target)], close=True)
