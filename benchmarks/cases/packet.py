"""The engines packet and af_xdp: Ethernet frames through memory that is shared with the kernel."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack

import uringzc
from benchmarks.bench import Bench, topic
from benchmarks.cases.destinations import addresses_of
from benchmarks.pairs import Comparison, Contender, Sample, Target
from benchmarks.paths import read_in_process
from benchmarks.programs import destinations, trafgen
from benchmarks.programs.baselines import MAX_TRAIN_BYTES, socket_send
from benchmarks.programs.scheduler import SchedulerPrograms, large_payloads
from benchmarks.programs.udp_sender import payloads_of
from benchmarks.results import median_cpu_ns, median_rate
from uringzc import testing

SINGLES = (64, 1400)  # bytes of a datagram that leaves alone
TRAINS = 1200  # bytes of a datagram in a train
PEERS = 250  # destinations that get one datagram each
TABLE = (0, 1, 64, 1400, 4000, 8000, 16000, 32000, 65000)  # bytes of a datagram
XDP_LARGEST = 3968  # bytes that fit a frame of af_xdp, behind the headers
MANY = ((1000, 1), (16, 8))  # destinations, and datagrams to each
BRIEF = 0.12  # seconds of a run
WITHOUT = "without the qdisc"
BYPASSING = f"packet, {WITHOUT}"
BOTH = ("packet", "io_uring")


@topic(
    "Frames: packet and af_xdp",
    why_missed="""trafgen copies one packet, which is complete, again and again into the ring. The library
    copies each datagram from memory of its own, writes its headers, and accounts for its request and
    notification; UdpSender is called for each of them, from Python. What `Scheduler.send` takes from
    registered memory is copied into a frame, where io_uring sends a train from where it is.""",
)
def packet(bench: Bench) -> None:
    """Datagrams that leave as Ethernet frames, through a ring that is shared with the kernel, over the ifb
    sink, and over veth to a process that reads. All programs run on one CPU, the reader on another. Singles
    are datagrams that make no trains: `Scheduler.send_run` from registered memory, and `UdpSender.send` to
    250 destinations, one to each, then `flush`. The engine is packet, or the one that the row names.

    - *trafgen*: the packet generator of netsniff-ng, in C, with a PACKET_TX_RING: one packet, which stays
      as it is. It runs without a gap (-t), and --qdisc-path: with -t0 it would not use the ring. *trafgen,
      without the qdisc* is as it runs by default (PACKET_QDISC_BYPASS), against qdisc_bypass=True.
    - *socket.send*, *socket.sendto*: a loop of it, a system call for each datagram.
    - *io_uring*, *packet*: the same calls with that engine.

    The table has `Scheduler.send_run` by size, as the patch set of 2014 for MSG_ZEROCOPY on packet sockets
    and that of io_uring have it, beside *socket.send*. A frame of af_xdp is a page, which the kernel copies.
    """
    if bench.leave_out("all of it", engine_missing("packet")):
        return
    bench.leave_out("trafgen", trafgen.missing())
    bench.leave_out("af_xdp", engine_missing("af_xdp"))
    veth, cpus = bench.paths["veth"].box, os.sched_getaffinity(0)
    assert veth is not None
    with ExitStack() as stack:
        with trafgen.pinned(min(cpus)):
            stack.enter_context(read_in_process(veth.receiver_socket()))
        stack.enter_context(trafgen.pinned(max(cpus)))
        for name, box in (("ifb", bench.sink), ("veth", veth)):
            schedulers = _schedulers(bench, box)
            for size in SINGLES:
                _singles(bench, box, schedulers, name, size, max(cpus))
            _trains(bench, box, schedulers, name)
        _to_many(bench)
        _by_size(bench)


def engine_missing(name: str) -> str | None:
    """Return why that engine does not work here, None if it does."""
    try:
        uringzc.Scheduler(engine=name).close()
    except OSError as error:
        return error.strerror
    return None


def _schedulers(bench: Bench, box: testing.Sandbox | None = None) -> dict[str, SchedulerPrograms]:
    """Return a Scheduler of each kind; by default in the sink for large datagrams."""
    found = {
        "packet": bench.scheduler(box, engine="packet"),
        BYPASSING: bench.scheduler(box, engine="packet", qdisc_bypass=True),
        "io_uring": bench.scheduler(box, engine="io_uring"),
    }
    if not engine_missing("af_xdp"):
        found["af_xdp"] = bench.scheduler(box, engine="af_xdp")
    return found


def _singles(
    bench: Bench,
    box: testing.Sandbox,
    schedulers: dict[str, SchedulerPrograms],
    where: str,
    size: int,
    cpu: int,
) -> None:
    case = f"{size} B, {where}"
    contenders = [each.send_run(name, size) for name, each in schedulers.items() if name != "io_uring"]
    contenders.append(socket_send(bench.udp_socket(box), payloads_of(size)))
    if box is bench.sink:
        contenders += _to_each(bench, size)
    with ExitStack() as stack:
        for name, qdisc in (("trafgen", True), (f"trafgen, {WITHOUT}", False)):
            if not trafgen.missing():
                program = trafgen.Trafgen(box, size, cpu=cpu, qdisc=qdisc)
                contenders.append(stack.enter_context(program).contender(name))
        runs = _runs(bench, case, contenders)
    run, each = f"send_run, {case}", f"send to {PEERS}, {case}"
    _keep(bench, run, runs, "packet", ("trafgen", 1.0), ("socket.send", None))
    _keep(bench, f"{run}, {WITHOUT}", runs, BYPASSING, (f"trafgen, {WITHOUT}", 1.0), ("packet", None))
    _keep(bench, f"{run}, af_xdp", runs, "af_xdp", ("packet", None))
    _keep(bench, each, runs, "packet to each", ("trafgen", 1.0), ("socket.sendto", None))


def _to_each(bench: Bench, size: int) -> list[Contender]:
    turns = destinations.turns_of(size, addresses_of(PEERS), 1)
    return [
        bench.udp_sender(connected=False, engine="packet").send_to("packet to each", turns),
        destinations.sendto(bench.udp_socket(bench.sink, connected=False), turns),
    ]


def _trains(bench: Bench, box: testing.Sandbox, schedulers: dict[str, SchedulerPrograms], where: str) -> None:
    payloads, train = payloads_of(TRAINS), MAX_TRAIN_BYTES // TRAINS
    for case, sends in (
        ("send", [bench.udp_sender(engine=name, box=box).send(name, payloads) for name in BOTH]),
        ("Scheduler.send, segment", [schedulers[name].send_trains(name, TRAINS, train) for name in BOTH]),
    ):
        named = f"{case}, {TRAINS} B, {where}"
        _keep(bench, named, _runs(bench, named, sends), "packet", ("io_uring", 1.0))


def _to_many(bench: Bench) -> None:
    for count, each in MANY:
        turns = destinations.turns_of(TRAINS, addresses_of(count), each)
        sends = [bench.udp_sender(connected=False, engine=name).send_to(name, turns) for name in BOTH]
        case = f"{count} destinations, {each} each, {TRAINS} B"
        _keep(bench, case, _runs(bench, case, sends, close=False), "packet", ("io_uring", None))


def _by_size(bench: Bench) -> None:
    sock, schedulers = bench.udp_socket(bench.large_sink), _schedulers(bench)
    for size in TABLE:
        contenders = [socket_send(sock, large_payloads(size))]
        contenders += [
            schedulers[name].send_run(name, size)
            for name in (*BOTH, "af_xdp")
            if name in schedulers and (name != "af_xdp" or size <= XDP_LARGEST)
        ]
        runs = _runs(bench, f"{size} B", contenders, close=False)
        bench.results.frames[size] = {
            name: (median_rate(samples), median_cpu_ns(samples)) for name, samples in runs.items()
        }


Runs = dict[str, tuple[Sample, ...]]


def _runs(bench: Bench, case: str, contenders: Sequence[Contender], close: bool = True) -> Runs:
    """Return the runs of each program, in the same rounds."""
    found = bench.compare(case, contenders, close=close, at_most=BRIEF, keep=False)
    return {contenders[0].name: found[0].samples} | {each.against: each.against_samples for each in found}


def _keep(bench: Bench, case: str, runs: Runs, name: str, *against: tuple[str, Target | None]) -> None:
    """Keep a row for each of the programs that ran, `against` which `name` did."""
    for other, target in against:
        if name in runs and other in runs:
            bench.keep(Comparison(case, other, target, runs[name], runs[other]))
