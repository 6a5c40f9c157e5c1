"""receive(): does what a ReceiveJob says, and returns what came.

What waits is read (``reader.py``) and collected for some milliseconds; then all of it is looked at together
(``arrivals.py``), so that numpy has much to do in each call.
"""

import ipaddress
import math
import select
import socket
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

from uringzc.address import family_of, joined
from uringzc.jobs.arrivals import Arrivals
from uringzc.jobs.job import parse_address
from uringzc.jobs.output import Output
from uringzc.jobs.reader import UDP_GRO, Reader
from uringzc.jobs.receive_job import Received, ReceiveJob
from uringzc.jobs.result import SECOND, Interrupted, Intervals, Progress

_SO_MEMINFO, _DROPS = 55, 8
_SO_RCVBUFFORCE = 33
_RCVBUF = 64 << 20
_COLLECT = 0.005  # seconds
_QUIET = 0.2  # seconds after the end of all streams, or after `stop`: more may be on the way
_DRAIN = 3.0  # seconds after `stop`, whatever comes
_SHOW = 0.1  # seconds between two calls of `progress`


def receive(
    job: ReceiveJob,
    progress: Callable[[Progress], object] | None = None,
    ready: Callable[[str], object] | None = None,
    stop: int | None = None,
) -> Received:
    """Receives until the job says that it is over, and returns what came.

    `ready` is called with the address as soon as datagrams can come: senders may begin. `progress` is called
    about ten times a second. `stop`: a file descriptor; when it can be read, or its other end is closed, it
    is over as soon as nothing comes for 0.2 s, and 3 s later in any case. OSError or ValueError for an
    address or an output that cannot be used. Ctrl-C raises Interrupted, a KeyboardInterrupt that has what was
    Received so far. UDP_GRO, Linux 5.0, is used if it is there. It needs numpy.
    """
    with ExitStack() as stack:
        output = None if job.output is None else stack.enter_context(Output(job.output))
        sock = stack.enter_context(open_receiver(job))
        run = _Run(job, sock, output, progress, stop)
        try:
            if ready:
                ready(run.bind)
            stopped = run.run()
        except KeyboardInterrupt:
            run.look()
            raise Interrupted(run.received("interrupt")) from None
        return run.received(stopped)


def open_receiver(job: ReceiveJob) -> socket.socket:
    """A socket bound as the job says, member of the group if it is one."""
    host, port = parse_address(job.bind)
    family = family_of((host, port))
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        _make_room(sock, job.rcvbuf)
        with suppress(OSError):  # Linux before 5.0 has none
            sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        group = _group(host)
        if group is None and job.interface is not None:
            raise ValueError(f"interface is for a multicast group, and {host or 'any address'} is none")
        if group is not None:
            _join(sock, group, job.interface or "")
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _make_room(sock: socket.socket, nbytes: int | None) -> None:
    wanted = nbytes or _RCVBUF
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, wanted)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, wanted)


def _group(host: str) -> "ipaddress.IPv4Address | ipaddress.IPv6Address | None":
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        return address if address.is_multicast else None
    return None


def _join(
    sock: socket.socket, group: "ipaddress.IPv4Address | ipaddress.IPv6Address", interface: str
) -> None:
    """The socket receives what is sent to the group; so may others of this machine."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    near = None
    with suppress(ValueError):
        near = ipaddress.IPv4Address(interface)
    try:
        index = socket.if_nametoindex(interface) if interface and near is None else 0
    except OSError as error:
        raise OSError(error.errno, f"no interface {interface!r}") from error
    if group.version == 6:
        member = group.packed + struct.pack("=I", index)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
    else:
        member = struct.pack("=4s4si", group.packed, near.packed if near else bytes(4), index)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)


class _Run:
    def __init__(
        self,
        job: ReceiveJob,
        sock: socket.socket,
        output: Output | None,
        progress: Callable[[Progress], object] | None,
        stop: int | None,
    ) -> None:
        self.job, self._sock, self._output, self._progress = job, sock, output, progress
        self._stop, self._stopped_at = stop, math.inf
        self.bind = joined(*sock.getsockname()[:2])
        self._reader = Reader(sock)
        self._counts = Intervals(job.interval)
        self._arrivals = Arrivals(output.write, output.append) if output is not None else Arrivals(None, None)
        self._came = self._began = time.monotonic()  # when datagrams came last
        self._cpu = time.thread_time_ns()
        self._start_ns = self._end_ns = 0
        self._shown = self._began

    def run(self) -> str:
        """Receives until it is over; returns why."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        if self._stop is not None:
            poll.register(self._stop, select.POLLIN)
        oldest = 0.0  # of what was read, and not looked at
        while True:
            now = time.monotonic()
            if self._reader and (now - oldest >= _COLLECT or self._reader.full):
                self.look()
            if stopped := self._over(now):
                self.look()
                return stopped
            self._show(now)
            events = dict(poll.poll(1000 * (_COLLECT if self._reader else self._patience(now))))
            if self._stop is not None and self._stop in events:
                poll.unregister(self._stop)
                self._stop, self._stopped_at = None, time.monotonic()
            if self._sock.fileno() not in events:
                continue
            first = not self._reader
            if self._reader.read():
                self._came = time.monotonic()
                oldest = self._came if first else oldest

    def _patience(self, now: float) -> float:
        """Seconds until something is due."""
        due = [_SHOW] if self._progress or self._arrivals.streams else [3600.0]
        if self.job.duration is not None:
            due.append(self._began + self.job.duration - now)
        if self.job.idle is not None and self._start_ns:
            due.append(self._came + self.job.idle - now)
        if self._stopped_at < math.inf:
            due.append(max(self._came, self._stopped_at) + _QUIET - now)
        return max(0.001, min(due))

    def _over(self, now: float) -> str:
        """Why it is, or ""."""
        job, arrivals = self.job, self._arrivals
        if job.count is not None and arrivals.datagrams >= job.count:
            return "count"
        if job.duration is not None and now - self._began >= job.duration:
            return "duration"
        if now - self._stopped_at >= _DRAIN:
            return "stop"
        if self._reader:
            return ""
        if job.idle is not None and self._start_ns and now - self._came >= job.idle:
            return "idle"
        if now - max(self._came, self._stopped_at) >= _QUIET:
            return "stop"
        limited = job.count is not None or job.duration is not None or job.idle is not None
        ended = arrivals.streams and all(stream.end is not None for stream in arrivals.streams.values())
        return "ended" if ended and not limited and now - self._came >= _QUIET else ""

    def look(self) -> None:
        """Counts what was read."""
        if not self._reader:
            return
        rest = self._reader.take()
        while len(rest):
            wanted = len(rest) if self.job.count is None else self.job.count - self._arrivals.datagrams
            if wanted <= 0:
                break
            batch, rest = rest.split(wanted)  # of which some may be ends of streams, which are not counted
            count, nbytes = self._arrivals.take(batch)
            if count:
                self._start_ns = self._start_ns or int(batch.came[0])
                self._end_ns = int(batch.came[-1])
                self._counts.add(int(batch.came[-1]), count, nbytes)

    def _show(self, now: float) -> None:
        if self._progress and now - self._shown >= _SHOW:
            self._shown = now
            arrivals = self._arrivals
            lost = sum(stream.lost for stream in arrivals.streams.values())
            so_far = (arrivals.datagrams, arrivals.nbytes, self.job.count, lost)
            self._progress(Progress(now - self._began, *so_far))

    def received(self, stopped: str) -> Received:
        """What came until now."""
        arrivals, counts = self._arrivals, self._counts
        seconds = max(1e-9, (self._end_ns - self._start_ns) / SECOND)
        several = arrivals.datagrams > 1 and self._end_ns > self._start_ns
        meminfo = struct.unpack_from("9I", self._sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36))
        return Received(
            bind=self.bind,
            start_ns=self._start_ns,
            end_ns=self._end_ns,
            pps=counts.datagrams / seconds if several else 0.0,
            bits_per_second=8 * counts.nbytes / seconds if several else 0.0,
            datagrams=counts.datagrams,
            nbytes=counts.nbytes,
            interval_ns=counts.ns,
            counts=counts.counts(),
            unnumbered=arrivals.unnumbered,
            streams=tuple(stream.report() for stream in arrivals.streams.values()),
            dropped=meminfo[_DROPS],
            rcvbuf=self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF),
            written=self._output.written if self._output else 0,
            cpu_ns=time.thread_time_ns() - self._cpu,
            stopped=stopped,
        )
