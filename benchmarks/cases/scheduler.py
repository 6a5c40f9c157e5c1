"""Scheduler, over the sink with an MTU of 65535."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.bench import Bench, topic
from benchmarks.cases.batches import C
from benchmarks.pairs import Comparison, relative
from benchmarks.programs.baselines import socket_send
from benchmarks.programs.scheduler import as_array, as_objects, large_payloads
from benchmarks.results import median_rate

SIZES = (600, 1200, 4000, 8000, 16000, 32000, 65000)  # of a datagram, in bytes
READS = ((as_array, "read as one array", 0.95), (as_objects, "as objects", 0.88))


@topic(
    "Scheduler: one request for each datagram",
    why_missed="""The kernel's part of a send is the same; what is left is what a batch and a request cost
    the library, as above. Both zc and non-zc have that fixed cost, so their ratio follows C's where
    datagrams are large.""",
)
def scheduler_sizes(bench: Bench) -> None:
    """`Scheduler.send_run` from registered memory, flushed, submitted and reaped after every batch of 32; zc
    is zero-copy, non-zc is copied, zc + flush has a notification for each request.

    - *C, same flags and batch*: as in the sections before.
    - *C's own zc / non-zc*: what zero-copy gains in that program.

    The C program gets a notification for each zero-copy request, as the kernel posts them, so its zc is its
    zc + flush too.
    """
    gains = []
    for size in SIZES:
        with bench.batches(size, 32) as (programs, reference):
            contenders = [
                programs.send_run("zc"),
                programs.send_run("non-zc", zero_copy=False),
                programs.send_run("zc + flush", flush=True),
                reference.contender("copy", size, "C non-zc"),
                reference.contender("zc", size, "C zc"),
            ]
            found = bench.compare(f"{size} B", contenders, close=True, keep=False)
        runs = {"zc": found[0].samples} | {each.against: each.against_samples for each in found}
        bench.results.by_size[size] = {name: median_rate(samples) for name, samples in runs.items()}
        bench.keep(Comparison(f"send_run, {size} B", C, 1.0, runs["zc"], runs["C zc"]))
        gain, c_gain = relative(runs["zc"], runs["non-zc"]), relative(runs["C zc"], runs["C non-zc"])
        gains.append(Comparison(f"zc / non-zc, {size} B", "C's own zc / non-zc", 1.0, gain, c_gain, True))
    bench.keep(*gains)


@topic(
    "Scheduler: a notification for each request",
    why_missed="""A notifier is opened, posted, reaped and released, in about 0.06 us, and a namedtuple is
    made of each in 0.1 us; of 32 as one array, most is what numpy takes for an array.""",
)
def scheduler_notifications(bench: Bench) -> None:
    """`send_run` of 1200 bytes with `flush=True`, reaped after 2048 requests, or after 32.

    - *one for each batch*: one notification for each 2048 requests, or 32.
    """
    name = "one for each batch"
    programs = bench.scheduler()
    base = programs.send_run(name, 1200)
    for read, how, target in READS:
        contender = programs.send_run_flush(how, 1200, read)
        case = f"a notification per request, {how}"
        bench.compare(case, [contender, base.wanting(target)], close=True)
    with bench.batches(1200, 32) as (batches, _):
        base = batches.send_run(name)
        for read, how, target in READS:
            contender = batches.send_run(how, read, flush=True)
            case = f"32 a batch, a notification per request, {how}"
            bench.compare(case, [contender, base.wanting(target)], close=True)


@topic(
    "Scheduler: one call for each datagram",
    why_missed="""A call from Python and the library add about 0.15 us to what the kernel takes for a
    zero-copy request, 0.6 us on this machine. The C loop's rate is the ceiling: the kernel's two
    completions for each request cost nearly as much as the copy and the system call that they save.""",
)
def scheduler_calls(bench: Bench) -> None:
    """`Scheduler.send`, from registered memory or from `bytes`, reaped after 2048 requests, or after 32.

    - *socket.send*: a loop of it, on a connected socket. What the C loop of the sections before gains over
      it, in the same rounds, is the ceiling.
    """
    programs = bench.scheduler()
    for size, kind, target in (
        (1200, "registered", 1.15),
        (65000, "registered", 1.9),
        (8000, "bytes", 1.2),
        (65000, "bytes", 1.3),
    ):
        registered = kind == "registered"
        with bench.batches(size, 32) as (batches, reference):
            contenders = [
                programs.send_registered(kind, size) if registered else programs.send_bytes(kind, size),
                batches.send("32 a batch") if registered else batches.send_bytes("32 a batch"),
                reference.contender("zc" if registered else "zc-unregistered", size, "C"),
                socket_send(bench.udp_socket(bench.large_sink), large_payloads(size)).wanting(target),
            ]
            short, c, loop = bench.compare(f"send, {size} B, {kind}", contenders, keep=False)
        bench.keep(loop)
        for case, row in ((f"{loop.case}, 32 a batch", short), (f"C zc, {size} B, {kind}", c)):
            bench.keep(replace(loop, case=case, target=None, samples=row.against_samples))


@topic("Scheduler: many slots, many requests held", why_missed="More entries in use are more cache misses.")
def scheduler_scale(bench: Bench) -> None:
    """The cost of a request of 1200 bytes, with many slots in use or many requests in flight.

    - *32 slots*, *32 held*: the same program with few.
    """
    few, many = bench.scheduler(tags=range(32)), bench.scheduler(tags=range(32768), max_inflight=40000)
    contenders = [many.slots("32768", 1200, 32768), few.slots("32 slots", 1200, 32).wanting(1 / 1.1)]
    bench.compare("send, 32768 slots", contenders, close=True)
    few, many = bench.scheduler(max_inflight=64), bench.scheduler(max_inflight=65536)
    contenders = [many.held("65536", 1200, 65536), few.held("32 held", 1200, 32).wanting(1 / 1.1)]
    bench.compare("send_run, 65536 held", contenders, close=True)
