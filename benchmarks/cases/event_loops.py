"""Datagram endpoints of asyncio: the library's beside those of the stock loops."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from benchmarks.bench import Bench, topic
from benchmarks.cases.destinations import addresses_of
from benchmarks.pairs import Comparison, Contender, Sample
from benchmarks.paths import Path, read_in_process
from benchmarks.programs.asked import Asked
from benchmarks.programs.destinations import turns_of
from benchmarks.programs.download import Download
from benchmarks.programs.echo import EchoServer, Load
from benchmarks.programs.endpoints import lookups
from benchmarks.programs.event_loops import LOOPS, OURS, STOCK, Awaiting, Sending
from benchmarks.programs.latency import Latency, replies
from benchmarks.programs.server import server
from benchmarks.programs.udp_sender import payloads_of

Targets = Mapping[str, float | None]  # by opponent
SHORT = 0.2  # seconds of a run
SHORTER = 0.05  # of one where many are needed, and what is compared differs by little
BURST = 32  # datagrams between two turns of the loop
CHUNK = 512  # turns of one datagram between two reads of the clock
PEERS, MANY = 16, 1000
SENT = (("single datagrams", 200, False), ("trains", 1200, True))  # by the client, and their bytes
SOCKETS, WINDOW = 8, 16  # of the client, and its requests under way on each
PATIENCE = 5  # seconds for an answer
ENDPOINTS = (1, 100, 1000)


@topic(
    "asyncio: transport.sendto, servers, and aioquic",
    why_missed="""A turn of the loop with one train takes 4 us: waiting for events is 0.5 of them, the rest is
    one request through the ring, with its result and notification. The loop itself takes 2.5 us more, over
    uvloop 1 us, and each datagram 0.08 us: six times uvloop takes some 80 datagrams a turn. One alone leaves
    by the same system call as asyncio's, in a call that does more. aioquic takes 90 us of CPU time for a
    datagram, both sides together, and the network 8 of them: the table above. More than that is gained where
    timers and acknowledgements come less often. Over uvloop, whose clock has milliseconds, that differs from
    one connection to the next, and so do its figures: 0.8 to 1.5 of uvloop's own.""",
)
def asyncio(bench: Bench) -> None:
    """Programs with `loop.create_datagram_endpoint`, the same in each loop, which alone differs: in
    `uringzc.aio.new_event_loop()`, or "over uvloop" in `new_event_loop(base=uvloop.Loop)`.

    - *asyncio*: the standard library's `asyncio.SelectorEventLoop`: a system call for each datagram, and one
      datagram received in a turn. It is at its best: in a process that has never freed a block of more than
      256 KiB, receiving takes 11 us more for each.
    - *uvloop*: `uvloop.Loop`, which does the same over libuv, and receives up to 32 in a turn.

    "32 a turn": so many `transport.sendto`, then `await asyncio.sleep(0)`; "until paused": 4 MiB of them, and
    the loop turns only where the transport has called `pause_writing`, and at the end; "by address": on a
    socket that is not connected. To peers they go in turn, one to each, until each has so many. The loopback
    has a receiver in another process, and its kernel work is the sender's, as is the price of cutting trains
    (GSO batches) for a socket that does not know them.

    The echo server answers each datagram in `datagram_received`, in a process that has a CPU for itself. Its
    client is benchmarks/programs/requests.c on the other CPU, with 16 requests under way on each of 8
    sockets. "A CPU second" is one of the server's, "a second" one of the clock. A ping-pong is one request at
    a time; CPU time is the client's there. "An endpoint for each question": `create_datagram_endpoint`, one
    `sendto` in `connection_made`, one answer of a server in another process, `close`.

    `await UdpSender.send` of `uringzc.aio` is beside uvloop's `transport.sendto` "until paused", and beside
    the same call without a loop:

    - *UdpSender.send*: of `uringzc`, in a loop of Python.

    aioquic, as it is, downloads over loopback, server and client in a process each: kilobytes for each
    second of CPU time of both; and for each second that the server spends in `transport.sendto` and in
    sending what has gathered, by the clock of its thread. What all of the time is, in percent, by perf:

    | | server, asyncio | server, uringzc | client, asyncio | client, uringzc |
    |---|---|---|---|---|
    | Python, a sixth of it building packets | 78 | 84 | 90 | 92 |
    | encryption | 4 | 4 | 3 | 3 |
    | sending | 5 | 5 | 1 | 1 |
    | receiving, waiting | 3 | 2 | 3 | 1 |
    | the kernel else | 10 | 5 | 3 | 3 |
    """
    for measure in (_one_peer, _loopback, _peers, _awaited, _echo, _lookups, _aioquic):
        with ExitStack() as stack:
            measure(bench, stack)
    for name in LOOPS:
        bench.results.endpoints[name] = {str(count): _resident(bench, name, count) for count in ENDPOINTS}


def _one_peer(bench: Bench, stack: ExitStack) -> None:
    connected, unconnected = _sendings(bench, stack), _sendings(bench, stack, connected=False)
    for size in (1200, 200):
        payloads = payloads_of(size)
        turns = [payloads[i : i + BURST] for i in range(0, len(payloads), BURST)]
        case = f"{BURST} a turn, {size} B"
        with _trains(bench, case, connected[0]):
            target = {"uvloop": 6.0 if size == 1200 else None}
            _compare(bench, case, [each.sendto(turns) for each in connected], target)
        if size == 1200:
            _until_paused(bench, "until paused, 1200 B", connected, {"uvloop": 6.0})
            to_one = [[(payload, bench.sink.address) for payload in turn] for turn in turns]
            contenders = [each.sendto_each(to_one) for each in unconnected]
            _compare(bench, f"{case}, by address", contenders)
    alone = [[payload] for payload in payloads[:CHUNK]]
    contenders = [each.sendto(alone) for each in connected]
    _compare(bench, "1 a turn, 200 B", contenders, {"asyncio": 1.0}, close=True, at_most=SHORTER)


def _loopback(bench: Bench, stack: ExitStack) -> None:
    """With a receiver in another process."""
    sendings = []
    for name in LOOPS:
        receiver, sock = Path("loopback").receiver_socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.connect(receiver.getsockname())
        stack.enter_context(read_in_process(receiver))
        sendings.append(stack.enter_context(Sending(name, sock)))
    _until_paused(bench, "until paused, 1200 B, loopback", sendings)


def _until_paused(
    bench: Bench, case: str, sendings: Sequence[Sending], targets: Targets | None = None
) -> None:
    with _trains(bench, case, sendings[0]):
        _compare(bench, case, [each.sendto_until_paused(payloads_of(1200)) for each in sendings], targets)


def _peers(bench: Bench, stack: ExitStack) -> None:
    sendings = _sendings(bench, stack, connected=False)
    for size, each, target in ((1200, 8, 3.0), (200, 8, 3.0), (1200, 2, None)):
        case = f"{PEERS} peers, {each} each a turn, {size} B"
        turns = turns_of(size, addresses_of(PEERS), each)
        with _trains(bench, case, sendings[0]):
            _compare(bench, case, [one.sendto_each(turns) for one in sendings], {"uvloop": target})
    turns = turns_of(1200, addresses_of(MANY), 1)
    _compare(bench, f"{MANY} peers, 1 each a turn, 1200 B", [one.sendto_each(turns) for one in sendings])


def _echo(bench: Bench, stack: ExitStack) -> None:
    servers = [stack.enter_context(EchoServer(name)) for name in LOOPS]
    for sent, size, trains in SENT:
        case = f"echo of {sent}, {size} B"
        loads = [Load(one, sockets=SOCKETS, window=WINDOW, size=size, trains=trains) for one in servers]
        with _trains(bench, case, servers[0]):
            contenders = [one.contender for one in loads]
            count = _compare(bench, f"{case}, a CPU second", contenders, {"uvloop": 1.5})
        _keep(bench, f"{case}, a second", {one.server.name: tuple(one.rates[-count:]) for one in loads})
    timed = [_ping_pong(stack, one) for one in servers]
    case, contenders = "ping-pong, 200 B", [one.contender for one in timed]
    count = _compare(bench, f"{case}, p50", contenders, close=True, times=2, at_most=SHORTER)
    _keep(bench, f"{case}, p99", {one.contender.name: tuple(one.tails[-count:]) for one in timed})


def _ping_pong(stack: ExitStack, server: EchoServer) -> Latency:
    sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sock.settimeout(PATIENCE)
    sock.connect(server.address)
    return replies(server.name, sock, bytes(200), 1)


def _lookups(bench: Bench, stack: ExitStack) -> None:
    address = stack.enter_context(server("socket")).getpeername()
    contenders = [lookups(name, address, bytes(40)) for name in LOOPS]
    _compare(bench, "an endpoint for each question", contenders)


def _awaited(bench: Bench, stack: ExitStack) -> None:
    payloads = payloads_of(1200)
    uvloop = stack.enter_context(Sending("uvloop", bench.udp_socket(bench.sink)))
    contenders = [
        stack.enter_context(Awaiting(bench.udp_socket(bench.sink))).send(payloads),
        uvloop.sendto_until_paused(payloads),
        bench.udp_sender().send("UdpSender.send", payloads),
    ]
    bench.compare("await UdpSender.send, 1200 B", contenders, at_most=SHORT)


def _aioquic(bench: Bench, stack: ExitStack) -> None:
    if importlib.util.find_spec("aioquic") is None:
        print("aioquic is not there: not measured")
        return
    case = "aioquic, 20 MB"
    downloads = [stack.enter_context(Download(name)) for name in LOOPS]
    with _trains(bench, case, downloads[0].server):
        contenders = [one.contender for one in downloads]
        count = _compare(bench, f"{case}, both sides", contenders, {"asyncio": 1.35})
    sends = {one.contender.name: tuple(one.sends[-count:]) for one in downloads}
    _keep(bench, f"{case}, the server's sends", sends)


def _sendings(bench: Bench, stack: ExitStack, connected: bool = True) -> list[Sending]:
    return [stack.enter_context(Sending(name, bench.udp_socket(bench.sink, connected))) for name in LOOPS]


def _resident(bench: Bench, name: str, count: int) -> int:
    command = [sys.executable, "-m", "benchmarks.programs.endpoints", name, str(count)]
    run = partial(subprocess.run, command, check=True, stdout=subprocess.PIPE)
    return int(bench.sink.run(run).stdout)


def _compare(
    bench: Bench,
    case: str,
    contenders: Sequence[Contender],
    targets: Targets | None = None,
    close: bool = False,
    times: int = 1,
    at_most: float = SHORT,
) -> int:
    """Compare a program in the loops of LOOPS, in that order. Return how many runs of each are kept."""
    found = bench.compare(case, contenders, close=close, times=times, at_most=at_most, keep=False)
    runs = {contenders[0].name: found[0].samples} | {each.against: each.against_samples for each in found}
    _keep(bench, case, runs, targets)
    return len(found[0].samples)


def _keep(
    bench: Bench, case: str, runs: Mapping[str, tuple[Sample, ...]], targets: Targets | None = None
) -> None:
    """Keep ours over asyncio beside both stock loops, and ours over uvloop beside uvloop."""
    for stock in STOCK:
        target = (targets or {}).get(stock)
        bench.keep(Comparison(case, stock, target, runs[OURS["asyncio"]], runs[stock]))
    bench.keep(Comparison(f"{case}, over uvloop", "uvloop", None, runs[OURS["uvloop"]], runs["uvloop"]))


@contextmanager
def _trains(bench: Bench, case: str, program: Sending | Asked) -> Iterator[None]:
    """Keep how long its trains were meanwhile."""
    before = Counter(program.trains())
    yield
    bench.results.trains[case] = dict(Counter(program.trains()) - before)
