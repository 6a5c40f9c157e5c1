"""run_socket(): a job by ``socket.send`` of Python, a call for each datagram: to compare with."""

import os
import socket
import time
from collections import Counter
from collections.abc import Callable

from uringzc.address import family_of
from uringzc.errors import counted
from uringzc.jobs.job import Job, parse_address, parse_rate
from uringzc.jobs.result import SECOND, Interrupted, Intervals, Progress, Result

ENGINE = "socket"
_CALLS = 64  # between two looks at the clock
_SHOW = 0.1  # seconds between two calls of `progress`
_LATENESS = 0.009  # seconds that are made up for, as in a job
_SLOWER = 1.05


def run_socket(job: Job, progress: Callable[[Progress], object] | None = None) -> Result:
    """As run(), for a job with one destination, a `duration` and perhaps a `rate`, and nothing else.

    Its datagrams have no numbers: to make these in Python would take longer than to send.
    """
    to = parse_address(job.to[0])
    pps = parse_rate(job.rate).pps(job.size) if job.rate else None
    seconds, data, counts = job.duration or 0.0, os.urandom(job.size), Intervals(job.interval)
    errors = Counter[str]()
    with socket.socket(family_of(to), socket.SOCK_DGRAM) as sock:
        sock.connect(to)
        send, stopped = sock.send, "duration"
        start_ns, start, cpu = time.time_ns(), time.monotonic(), time.thread_time_ns()
        shown, paced_from, sent = start, start, 0
        try:
            while (now := time.monotonic()) < start + seconds:
                due = _CALLS
                if pps is not None:
                    paced_from = max(paced_from, now - sent / pps - _LATENESS)
                    due = min(_CALLS, int(pps * (now - paced_from)) + 1 - sent)
                if due <= 0:
                    time.sleep(0.001)
                    continue
                before = sent
                try:
                    for _ in range(due):
                        send(data)
                        sent += 1
                except OSError as error:
                    errors[os.strerror(error.errno or 0)] += 1
                counts.add(time.time_ns(), sent - before, (sent - before) * job.size)
                if progress and now - shown >= _SHOW:
                    shown = now
                    progress(Progress(now - start, counts.datagrams, counts.nbytes, None))
        except KeyboardInterrupt:
            stopped = "interrupt"
        took, cpu_ns = max(1e-9, time.monotonic() - start), time.thread_time_ns() - cpu
    failed = [f"{text}: {counted(times, 'time')}" for text, times in errors.items()]
    count = counts.datagrams
    if pps and stopped == "duration" and count * _SLOWER < pps * took:
        failed.append(f"the rate was {count / took / pps:.1%} of {job.rate}")
    result = Result(
        start_ns=start_ns,
        end_ns=start_ns + round(took * SECOND),
        pps=count / took,
        bits_per_second=8 * counts.nbytes / took,
        datagrams=count,
        nbytes=counts.nbytes,
        interval_ns=counts.ns,
        counts=counts.counts(),
        lost=0,
        errors=dict(errors),
        cpu_ns=cpu_ns,
        trains={1: count},
        mean_train=1.0 if count else 0.0,
        requests=0,
        syscalls=count,
        zero_copy=0,
        copied=0,
        engine=ENGINE,
        explain="socket.send, a system call for each datagram.",
        stream=-1,
        stopped=stopped,
        failed=tuple(failed),
    )
    if stopped == "interrupt":
        raise Interrupted(result)
    return result
