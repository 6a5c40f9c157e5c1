"""run(): does what a Job says, and returns what became of it."""

import os
import secrets
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from uringzc import SendError, UdpSender
from uringzc.address import Address, family_of, pack, unpack
from uringzc.errors import counted
from uringzc.jobs.clock import wait_until
from uringzc.jobs.files import make_source
from uringzc.jobs.job import Job, Rate, parse_address, parse_rate
from uringzc.jobs.result import SECOND, Interrupted, Intervals, Progress, Result
from uringzc.jobs.sources import Source

_SHOW = 0.1  # seconds between two calls of `progress`
_LAST = (0.0, 0.02, 0.1)  # seconds before each time that the end of a stream is sent: one may be lost
_LATENESS = 0.009  # seconds that a paced job makes up for, as the sender does
_LATE = 0.1  # seconds that a job may begin late
_SLOWER, _SETTLING = 1.05, 0.05  # times, and seconds more, than a job takes at the rate that was asked for


def run(job: Job, progress: Callable[[Progress], object] | None = None) -> Result:
    """Sends what the job says; returns when it has left, and the memory is free.

    `progress` is called about ten times a second. What the network refuses is counted (``Result.errors``),
    and what did not hold is said in ``Result.failed``; neither is raised. OSError or ValueError for what
    cannot be begun: an address, a file, an engine. Ctrl-C raises Interrupted, a KeyboardInterrupt that has
    the Result so far. It needs numpy.
    """
    return _Run(job, progress).run()


class _Run:
    def __init__(self, job: Job, progress: Callable[[Progress], object] | None) -> None:
        self.job, self._progress = job, progress
        self._rate = None if job.rate is None else parse_rate(job.rate)
        self._errors = Counter[str]()
        self._counts = Intervals(job.interval)
        self._late = 0.0
        self._sent = 0  # datagrams of the streams, however many destinations get them
        self._each = 1 if job.spread else len(job.to)  # destinations of a datagram
        first = secrets.randbits(32) if job.stream is None else job.stream
        self._streams = [(first + i) % 2**32 for i in range(len(job.to) if job.spread else 1)]
        limits = [job.count, job.nbytes and -(-job.nbytes // job.size)]
        if (
            self._rate and job.duration and not (job.lines or job.pcap)
        ):  # no datagram more at the end, where a slow job would wait for it
            limits.append(max(1, round(self._rate.pps(job.size) * job.duration)))
        self._limit = min((limit for limit in limits if limit), default=None)

    def run(self) -> Result:
        to = [parse_address(text) for text in self.job.to]
        with self._open(to) as tx, make_source(tx, self.job, self._streams) as source:
            if len(to) == 1:
                destinations: list[Address | None] = [None]
            else:
                destinations = [_resolved(tx, one) for one in to]
            interrupted = False
            try:
                if self.job.start_at is not None:
                    self._late = wait_until(self.job.start_at)
                self._begin()
                stopped = self._send(tx, source, destinations)
            except KeyboardInterrupt:
                interrupted, stopped = True, "interrupt"
            result = self._end(tx, source, destinations, stopped)
        if interrupted:
            raise Interrupted(result)
        return result

    def _open(self, to: list[tuple[str, int]]) -> UdpSender:
        job, rate = self.job, self._rate
        families = {family_of(address) for address in to}
        if len(families) > 1:
            raise ValueError("the destinations are IPv4 and IPv6 addresses: give each kind a job of its own")
        self._begin()
        return UdpSender(
            to[0] if len(to) == 1 else None,
            family=families.pop(),
            bind=None if job.bind is None else parse_address(job.bind),
            ttl=job.ttl,
            interface=job.interface,
            multicast_loop=job.multicast_loop,
            engine=job.engine,
            zero_copy=job.zero_copy,
            on_error=self._on_error,
            rate=rate.value * self._each if rate and rate.unit == "bit" else None,
            pps=rate.value * self._each if rate and rate.unit == "pps" else None,
            burst=None if rate is None else _burst(rate, self._each, job.size),
        )

    def _on_error(self, error: SendError) -> None:
        self._errors[os.strerror(error.errno or 0)] += 1

    def _begin(self) -> None:
        self._start_ns, self._started, self._cpu = time.time_ns(), time.monotonic(), time.thread_time_ns()
        self._shown = self._paced_from = self._started

    def _send(self, tx: UdpSender, source: Source, destinations: list[Address | None]) -> str:
        """Sends until the source or a limit ends it; says which."""
        job = self.job
        until = self._started + job.duration if job.duration else None
        for block in source.blocks(self._may_send):
            some = [destinations[block.stream]] if job.spread else destinations
            for to in some:
                block.send(to)
            block.sent(tx.flush())
            self._sent += block.datagrams
            self._counts.add(time.time_ns(), block.datagrams * len(some), block.nbytes * len(some))
            now = time.monotonic()
            if self._progress and now - self._shown >= _SHOW:
                self._shown = now
                self._progress(self._so_far(now, source.total))
            if until is not None and now >= until:
                return "duration"
            if self._limit is not None and self._sent >= self._limit:
                if until is not None and not (job.count or job.nbytes):
                    time.sleep(max(0.0, until - time.monotonic()))
                    return "duration"
                return "count" if job.count else "nbytes" if job.nbytes else "duration"
        return "end"

    def _may_send(self) -> int:
        """How many datagrams may follow. Waits for the rate, before they are made.

        The sender would wait too, but behind that: the time in a datagram is to be when it leaves.
        """
        if self._rate:
            due, now = self._paced_from + self._seconds_at_rate(self._rate), time.monotonic()
            time.sleep(max(0.0, due - now))
            self._paced_from += max(0.0, now - due - _LATENESS)
        return (1 << 40) if self._limit is None else max(1, self._limit - self._sent)

    def _seconds_at_rate(self, rate: Rate) -> float:
        """How long what was sent takes at the rate that was asked for."""
        counts = self._counts
        return (counts.datagrams if rate.unit == "pps" else 8 * counts.nbytes) / self._each / rate.value

    def _so_far(self, now: float, total: int | None) -> Progress:
        known = [limit for limit in (self._limit, total) if limit]
        counts = self._counts
        whole = min(known) * self._each if known else None
        return Progress(now - self._started, counts.datagrams, counts.nbytes, whole)

    def _end(self, tx: UdpSender, source: Source, destinations: list[Address | None], stopped: str) -> Result:
        """What was done, when the kernel holds nothing any more; says to the receivers that this was all."""
        with suppress(TimeoutError):
            tx.drain(5.0)
        seconds = max(1e-9, time.monotonic() - self._started)
        end_ns = self._start_ns + round(seconds * SECOND)
        cpu_ns, stats, counts = time.thread_time_ns() - self._cpu, tx.stats, self._counts
        if more := stats.datagrams - counts.datagrams:  # of a block that an interrupt has cut short
            counts.add(end_ns, more, stats.nbytes - counts.nbytes)
            if len(source.numbers) == len(destinations) == 1:
                source.numbers[0] = stats.datagrams
        explain = tx.explain()
        if source.numbered:
            self._send_last(tx, source, destinations, stopped == "interrupt")
        pps, bits = counts.datagrams / seconds, 8 * counts.nbytes / seconds
        lost = tx.stats.lost
        return Result(
            start_ns=self._start_ns,
            end_ns=end_ns,
            pps=pps,
            bits_per_second=bits,
            datagrams=counts.datagrams,
            nbytes=counts.nbytes,
            interval_ns=counts.ns,
            counts=counts.counts(),
            lost=lost,
            errors=dict(self._errors),
            cpu_ns=cpu_ns,
            trains=stats.trains,
            mean_train=stats.mean_train,
            requests=stats.requests,
            syscalls=stats.syscalls,
            zero_copy=stats.zero_copy,
            copied=stats.copied,
            engine=tx._engine.name,
            explain=explain,
            stream=self._streams[0],
            stopped=stopped,
            failed=tuple(self._failures(lost, seconds, stopped)),
        )

    def _failures(self, lost: int, seconds: float, stopped: str) -> list[str]:
        failed = [f"{counted(lost, 'datagram')} could not be sent"] if lost else []
        failed += [f"{text}: {counted(times, 'time')}" for text, times in self._errors.items()]
        if self._late > _LATE:
            failed.append(f"the job began {self._late:.1f} s after its start_at")
        if self._rate and stopped != "interrupt" and self.job.file != "-":  # who writes there may be slow
            planned = self.job.duration if stopped == "duration" else None
            due = self._seconds_at_rate(self._rate)
            if (planned or seconds) > _SLOWER * due + _SETTLING:
                failed.append(f"the rate was {due / (planned or seconds):.1%} of {self.job.rate}")
        return failed

    def _send_last(
        self, tx: UdpSender, source: Source, destinations: list[Address | None], at_once: bool
    ) -> None:
        """Says that the streams have ended, several times: nobody answers."""
        for pause in _LAST[:1] if at_once else _LAST:
            time.sleep(pause)
            for stream in range(len(self._streams)):
                for to in [destinations[stream]] if self.job.spread else destinations:
                    tx.send(source.last(stream), to)
            tx.flush()


def _burst(rate: Rate, each: int, size: int) -> int:
    """What the sender lets leave at once: twice what the job makes up for, so that it seldom waits again."""
    datagrams = max(2, 2 * _LATENESS * rate.pps(size) * each)
    return round(datagrams if rate.unit == "pps" else datagrams * size)


def _resolved(tx: UdpSender, to: Address) -> Address:
    """A name is looked up once, not with each block."""
    return unpack(pack(int(tx.sock.family), to))
