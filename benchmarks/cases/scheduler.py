"""Scheduler, over the sink with an MTU of 65535."""

from __future__ import annotations

from benchmarks.bench import Bench, topic
from benchmarks.pairs import Comparison, relative
from benchmarks.programs.baselines import socket_send
from benchmarks.programs.reference import Reference
from benchmarks.programs.scheduler import as_array, as_objects, large_payloads
from benchmarks.results import median_rate

SIZES = (600, 1200, 4000, 8000, 16000, 32000, 65000)  # of a datagram, in bytes


@topic(
    "Scheduler: one request for each datagram",
    why_missed="""The kernel's part of a send is the same; what is left is the accounting: a request's entry
    is written when it is queued, at each of its two completions, and when it is released, which the C loop
    does not do: 40 to 55 ns of user time for each request, against less than 10. Both zc and non-zc have
    that fixed cost, so their ratio follows C's where datagrams are large.""",
)
def scheduler_sizes(bench: Bench) -> None:
    """`Scheduler.send_run` from registered memory; zc is zero-copy, non-zc is copied.

    - *C, same flags and batch*: benchmarks/programs/reference.c, a tuned io_uring loop.
    - *C's own zc / non-zc*: what zero-copy gains in that program.

    The C program gets a notification for each zero-copy request, as the kernel posts them, so its zc is its
    zc + flush too. Against itself it has given 0.997 (0.88 to 1.02).
    """
    programs = bench.scheduler()
    reference = bench.stack.enter_context(Reference(bench.udp_socket(bench.large_sink)))
    gains = []
    for size in SIZES:
        contenders = [
            programs.send_run("zc", size),
            programs.send_run("non-zc", size, zero_copy=False),
            programs.send_run_flush("zc + flush", size),
            reference.contender("copy", size, "C non-zc"),
            reference.contender("zc", size, "C zc"),
        ]
        found = bench.compare(f"{size} B", contenders, close=True, keep=False)
        runs = {"zc": found[0].samples} | {each.against: each.against_samples for each in found}
        bench.results.by_size[size] = {name: median_rate(samples) for name, samples in runs.items()}
        against = "C, same flags and batch"
        bench.keep(Comparison(f"send_run, {size} B", against, 1.0, runs["zc"], runs["C zc"]))
        gain, c_gain = relative(runs["zc"], runs["non-zc"]), relative(runs["C zc"], runs["C non-zc"])
        gains.append(Comparison(f"zc / non-zc, {size} B", "C's own zc / non-zc", 1.0, gain, c_gain, True))
    bench.keep(*gains)


@topic(
    "Scheduler: a notification for each request",
    why_missed="A notifier is opened, posted, reaped and released; then a namedtuple is made of each.",
)
def scheduler_notifications(bench: Bench) -> None:
    """`send_run` of 1200 bytes with `flush=True`.

    - *one for each batch*: one notification for 2048 requests.
    """
    programs = bench.scheduler()
    base = programs.send_run("one for each batch", 1200)
    for read, name, target in ((as_array, "read as one array", 0.95), (as_objects, "as objects", 0.88)):
        contender = programs.send_run_flush(name, 1200, read)
        case = f"a notification per request, {name}"
        bench.compare(case, [contender, base.wanting(target)], close=True)


@topic(
    "Scheduler: one call for each datagram",
    why_missed="""The library adds about 0.15 microseconds to what the kernel takes for a zero-copy request.
    The C loop's rate for that size is the ceiling: on this machine the kernel's two completions per request
    cost nearly as much as the copy and the system call that they save.""",
)
def scheduler_calls(bench: Bench) -> None:
    """`Scheduler.send`, from registered memory or from `bytes`.

    - *socket.send*: a loop of it, on a connected socket.
    """
    programs = bench.scheduler()
    for size, registered, target in (
        (1200, True, 1.2),
        (65000, True, 2.3),
        (8000, False, 1.05),
        (65000, False, 1.4),
    ):
        send = programs.send_registered if registered else programs.send_bytes
        kind = "registered" if registered else "bytes"
        loop = socket_send(bench.udp_socket(bench.large_sink), large_payloads(size))
        contenders = [send(kind, size), loop.wanting(target)]
        bench.compare(f"send, {size} B, {kind}", contenders, close=target < 1.1)


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
