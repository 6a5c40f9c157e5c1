"""How long one datagram takes, and answers of a server."""

from __future__ import annotations

from benchmarks.bench import Bench, topic
from benchmarks.pairs import Comparison
from benchmarks.programs import latency
from benchmarks.programs.latency import Latency
from benchmarks.programs.server import server

SHORT = 0.05  # seconds of a run: many are needed, and what is compared differs by little
AT_ONCE = (4, 16)  # requests


@topic(
    "UDP: one datagram, sent at once",
    why_missed="""A datagram alone leaves by one system call, as with `socket.send`, which takes 0.7 us on
    this machine; what is more, 0.25 us, is a second call from Python, and the copy into the arena.""",
)
def udp_single(bench: Bench) -> None:
    """1200 bytes, timed call by call: the rate is the inverse of the median time (p50) of a call, or of the
    time that 99 % of the calls stay below (p99). `send` and `flush` one after the other; and `send` alone
    after a pause of 20 us, when the datagram has left as it returns.

    - *socket.send*: one call of it, after the same pause.
    """
    payload = bytes(1200)
    tx, sock = bench.udp_sender().tx, bench.udp_socket(bench.sink)
    _percentiles(
        bench, "send and flush", latency.send_and_flush(tx, payload), latency.socket_send(sock, payload), 1.0
    )
    ours, base = latency.send_after_pause(tx, payload), latency.socket_send_after_pause(sock, payload)
    _percentiles(bench, "send after a pause", ours, base, 1.0)


@topic(
    "UDP: a server that answers",
    why_missed="""A lone answer is copied into the arena, and the clock is read twice: some 0.2 us beside a
    system call of 0.9 us. An answer takes 6.5 us here while both processes stay awake, and 77 us when a CPU
    has gone to sleep: whether it does is what the wide intervals show.""",
)
def udp_replies(bench: Bench) -> None:
    """Requests of 200 bytes over loopback to a server in another process, which answers each by
    `UdpSender.send(data, to)` with the default settings, or with max_delay=0, and never flushes: the time
    from a request to its reply, of which the rate is the inverse. One request at a time, or several before
    the first reply is read. CPU time is the client's.

    - *socket.sendto*: the same client, and a server that answers by it.
    """
    payload = bytes(200)
    with server("sender") as to_sender, server("sender", 0) as to_prompt, server("socket") as to_socket:
        for sock, setting in ((to_sender, ""), (to_prompt, ", max_delay=0")):
            for count in (1, *AT_ONCE):
                case = f"{count} requests at once{setting}" if count > 1 else f"a request{setting}"
                ours = latency.replies("send", sock, payload, count)
                base = latency.replies("socket.sendto", to_socket, payload, count)
                _percentiles(bench, case, ours, base, 0.91 if count == 1 else None)


def _percentiles(bench: Bench, case: str, ours: Latency, base: Latency, target: float | None) -> None:
    """Compare the medians, which have the target, and then the 99th percentiles of the same runs."""
    contenders = [ours.contender, base.contender.wanting(target)]
    (median,) = bench.compare(f"{case}, p50", contenders, close=True, times=5, at_most=SHORT)
    runs = len(median.samples)
    tails = tuple(ours.tails[-runs:]), tuple(base.tails[-runs:])  # without the warm-up
    bench.keep(Comparison(f"{case}, p99", median.against, None, *tails))
