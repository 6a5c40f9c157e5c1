"""Scheduler and Ring in programs that submit and reap after every batch of a few requests."""

from __future__ import annotations

from benchmarks.bench import Bench, topic
from benchmarks.programs.batches import RingBatches
from benchmarks.programs.example import send_zerocopy

C = "C, same flags and batch"
SIZES = (600, 1400, 8000, 65000)  # bytes of a datagram
BATCHES = ((8, 0.9), (32, 1.0), (128, 1.0))  # requests, and the target
LOOPS = ((1400, 0.9), (65000, 0.95))  # bytes of a datagram, and the target of `Scheduler.send`


@topic(
    "Scheduler: reaped after every batch",
    why_missed="""A batch of 32 takes 12,800 instructions outside of the kernel, which is some 1.4 us, where
    the C loop takes 1,700: 5,400 in the interpreter (five calls, their arguments, what they return), 2,300
    in those calls, 4,300 in the ring and the request table, of which 96 for each request, and 800 in
    libraries. Where the kernel takes 0.6 us for a send, as on this machine, that weighs three times as much
    as where it takes 1.7 us, for which the targets were set.""",
)
def scheduler_batches(bench: Bench) -> None:
    """`Scheduler.send_run` of a batch from registered memory, zero-copy; then flush, submit,
    `reap_completions` and `reap_notifications`, with the default settings of Scheduler. It waits where more
    than two batches would be in flight.

    - *C, same flags and batch*: benchmarks/programs/reference.c, a tuned io_uring loop, with the same
      payloads and as much in flight at most. It too takes everything that is due after every batch.
    """
    for batch, target in BATCHES:
        for size in SIZES:
            with bench.batches(size, batch) as (programs, reference):
                contenders = [
                    programs.send_run("send_run"),
                    reference.contender("zc", size, C).wanting(target),
                ]
                bench.compare(f"send_run, {batch} a batch, {size} B", contenders, close=True, times=2)


@topic(
    "Scheduler and Ring: loops like those of liburing programs",
    why_missed="""A call from Python for each datagram, with its arguments, takes 1,300 instructions in the
    library and as many in the interpreter, about 0.15 us, where the C loop sets two fields of an SQE. The
    example reads the clock, counts, and keeps a histogram for each batch.""",
)
def scheduler_loops(bench: Bench) -> None:
    """32 requests a batch, zero-copy from registered memory: examples/send_zerocopy.py, which has the options
    of liburing's example of that name; a `Ring` that submits and reaps after 32 calls of `send_zc`; and a
    `Scheduler` that flushes, submits and reaps after 32 calls of `send`.

    - *C, same flags and batch*: as in the section before.
    """
    for size, target in LOOPS:
        with bench.batches(size, 32) as (programs, reference):
            c = reference.contender("zc", size, C)
            example = send_zerocopy("example", bench.large_sink, size, 32)
            bench.compare(f"send_zerocopy.py -n 32, {size} B", [example, c.wanting(0.97)], close=True)
            with RingBatches(bench.udp_socket(bench.large_sink), programs.shape) as ring:
                contenders = [ring.send_zc("send_zc"), c.wanting(0.95)]
                bench.compare(f"Ring.send_zc, {size} B", contenders, close=True)
            contenders = [programs.send("send"), c.wanting(target)]
            bench.compare(f"Scheduler.send, {size} B", contenders, close=True)
