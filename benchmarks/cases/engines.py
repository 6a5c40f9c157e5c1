"""The engines side by side: io_uring, MSG_ZEROCOPY, and copying."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace

import uringzc
from benchmarks.bench import Bench, topic
from benchmarks.cases.udp import c_trains
from benchmarks.pairs import Contender
from benchmarks.programs.baselines import prepared_block, socket_send
from benchmarks.programs.reference import Reference
from benchmarks.programs.tcp_sender import TcpPrograms
from benchmarks.programs.udp_sender import SEGMENT, TRAIN, payloads_of
from uringzc.engines.choose import ENGINES
from uringzc.senders.sockets import RECVERR

RUNS = (1200, 8000, 65000)  # bytes of a datagram
WRITES = (64 << 10, 1 << 20)
BRIEF = 0.15  # seconds of a run


@topic("Engines")
def engines(bench: Bench) -> None:
    """The same calls with each engine: io_uring, msg_zerocopy (MSG_ZEROCOPY, where io_uring is not
    allowed), and copy. A case names the engine, or another program that ran in the same rounds. TCP is sent
    with zero_copy="always", although loopback and veth copy at delivery.

    - *copy*: the engine that copies, by sendmmsg or send.
    - *socket.send*: a loop of it.
    """
    _send_run(bench)
    payloads = payloads_of(1200)
    contenders = [bench.udp_sender(engine=name).send(name, payloads) for name in usable()]
    loop = socket_send(bench.udp_socket(bench.sink), payloads)
    _compare(bench, "send, 1200 B", contenders, [loop], against="socket.send")
    contenders = [bench.udp_sender(engine=name).send_region(name) for name in usable()]
    block = prepared_block(bench.udp_socket(bench.sink), SEGMENT, TRAIN)
    _compare(bench, f"send_region, {SEGMENT} B", contenders, [c_trains(bench), block])
    for path in (bench.paths["loopback"], bench.paths["veth"]):
        for size in WRITES:
            with ExitStack() as stack:
                programs = TcpPrograms(stack, path, size)
                contenders = [programs.sender(name, "always", name) for name in usable()]
                _compare(bench, f"TCP over {path.name}, {size >> 10} KiB", contenders)


def _send_run(bench: Bench) -> None:
    reference = bench.stack.enter_context(Reference(bench.udp_socket(bench.large_sink)))
    schedulers = {name: bench.scheduler(engine=name) for name in usable()}
    for each in schedulers.values():  # else sendmmsg, which reports one error at a time, sends one datagram
        each.sock.setsockopt(*RECVERR[socket.AF_INET], 1)
    for size in RUNS:
        contenders = [each.send_run(name, size) for name, each in schedulers.items()]
        _compare(bench, f"send_run, {size} B", contenders, [reference.contender("zc", size)])


def _compare(
    bench: Bench,
    case: str,
    engines: list[Contender],
    others: Sequence[Contender] = (),
    against: str | None = None,
) -> None:
    """Keep each program against the copying engine, which is the last; the engines also `against` another."""
    *zero_copy, copy = engines
    found = bench.compare(case, [copy, *zero_copy, *others], at_most=BRIEF, keep=False)
    runs = {"copy": found[0].samples} | {each.against: each.against_samples for each in found}
    for name in list(runs)[1:]:
        each = replace(found[0], case=f"{case}, {name}", against="copy", samples=runs[name])
        bench.keep(replace(each, against_samples=runs["copy"]))
        if against and name in ENGINES:
            bench.keep(replace(each, against=against, against_samples=runs[against]))


def usable() -> list[str]:
    """Return the engines that work here; copying, the last one, always does."""
    found = []
    for name in ENGINES:
        with suppress(OSError), uringzc.Scheduler(engine=name):
            found.append(name)
    return found
