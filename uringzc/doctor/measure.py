"""Measures where copying and zero-copy cross, by sending: what `uringzc calibrate` does.

The measure is the CPU time of the sending thread, with what it spends in the kernel, for one request: time
that passes is that of the network where this is the slower one, and says nothing about copies. Both kinds of
requests leave from the same registered memory through senders that are open all the time, and a round is
over when the kernel holds no memory any more, so that notifications are paid for. Rounds go through all
sizes, and each size is measured with both, now one first and now the other.
"""

import errno
import os
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from uringzc.address import Address
from uringzc.calibration.lookup import outgoing
from uringzc.doctor.crossover import LARGEST, Measured, Shape, shapes, threshold
from uringzc.engines.attached import MIN_ARENA
from uringzc.engines.netlink import UnframedError
from uringzc.errors import SendError, counted
from uringzc.kernel.features import max_segments
from uringzc.kernel.interface import Interface, interface
from uringzc.kernel.rtnetlink import RefusedError
from uringzc.memory import Region
from uringzc.scheduler import Scheduler
from uringzc.senders.sockets import path_mtu
from uringzc.senders.udp import UdpSender
from uringzc.senders.udp_setup import MAX_INFLIGHT
from uringzc.senders.udp_socket import SocketOptions, open_udp

#: that can send zero-copy, and do not by frames
ENGINES = ("io_uring", "msg_zerocopy")
ROUNDS = 15  # that the time is meant for
LEAST = 9  # rounds, however long they take
_MEMORY = 4 << 20  # bytes to send from, as a sender's arena: it does not all stay in the fastest cache
_REQUESTS = 32  # between two looks at the clock
_SNDBUF = 1 << 20  # so that little waits where the network is slow
_TIMEOUT = 10.0  # seconds until the memory of a round is free
_HEADERS = {4: 28, 6: 48}

#: which share is done, and which round it is
Progress = Callable[[float, int], object]


@dataclass(frozen=True)
class Outcome:
    """What was measured with one engine."""

    device: Interface
    rounds: int
    copied: bool  #: the kernel copied most of the zero-copy requests
    measured: tuple[Measured, ...]

    @property
    def min_zero_copy(self) -> int | None:
        """Bytes of a request from which on zero-copy costs less; None: it never does."""
        return None if self.copied else threshold(self.measured)


class MeasuringError(Exception):
    """Nothing can be concluded from what was sent: why, as part of a sentence."""


def measure(to: Address, engine: str, seconds: float, progress: Progress | None = None) -> Outcome:
    """Sends to an address for about so many seconds, or as long as LEAST rounds take.

    OSError: the engine does not work here, or there is no way to the host. MeasuringError. It sends as fast
    as it can; that nobody receives at the port (ICMP port unreachable) does not matter.
    """
    with ExitStack() as stack:
        errors = Counter[int]()
        scheduler = stack.enter_context(Scheduler(engine=engine, max_inflight=MAX_INFLIGHT))
        memory = _memory(scheduler)
        copy, zero_copy = (
            _Contender(stack.enter_context(_sender(to, scheduler, mode, errors)), memory)
            for mode in ("never", "always")
        )
        device = _device(copy.tx.sock)
        payload = path_mtu(copy.tx.sock) - _HEADERS[4 if "." in str(copy.tx.sock.getsockname()[0]) else 6]
        segments = max_segments()
        every = shapes(min(payload, LARGEST), segments)
        for one in (copy, zero_copy):  # resolves the neighbour
            one.block(Shape(1, 1), 0.0)
            one.block(every[-1], 0.0)
        _check(errors)
        if copy.tx.stats.unsegmented or zero_copy.tx.stats.unsegmented:
            every = [shape for shape in every if shape.datagrams == 1]
        times: list[tuple[list[float], list[float]]] = [([], []) for _ in every]
        start, rounds = time.monotonic(), 0
        length = seconds / (2 * ROUNDS * len(every))
        while rounds < LEAST or time.monotonic() < start + seconds:
            for number, (shape, (of_copy, of_zero_copy)) in enumerate(zip(every, times, strict=True)):
                both = [(copy, of_copy), (zero_copy, of_zero_copy)]
                for contender, found in both if rounds % 2 else reversed(both):
                    found.append(contender.block(shape, length))
                if progress is not None:
                    enough = (rounds + (number + 1) / len(every)) / LEAST
                    progress(min(1.0, enough, (time.monotonic() - start) / seconds), rounds + 1)
            rounds += 1
            zero_copy.probe(every[-1])
            _check(errors)
        if not zero_copy.probes:
            raise MeasuringError("no zero-copy request has left: the kernel sends none on this route")
        measured = (Measured(shape.nbytes, *pair) for shape, pair in zip(every, times, strict=True))
        copied = 2 * zero_copy.probes_copied > zero_copy.probes
        return Outcome(device, rounds, copied, tuple(measured))


class _Contender:
    """A sender that copies, or one that does not."""

    def __init__(self, tx: UdpSender, memory: Region) -> None:
        self.tx, self._memory, self._at = tx, memory, 0
        self.probes = self.probes_copied = 0

    def probe(self, shape: Shape) -> None:
        """One request, to see whether the kernel copies it: of several, MSG_ZEROCOPY may say it of one."""
        before = self.tx.stats
        self.block(shape, 0.0, 1)
        after = self.tx.stats
        self.probes += after.zero_copy - before.zero_copy
        self.probes_copied += after.copied - before.copied

    def block(self, shape: Shape, seconds: float, least: int = _REQUESTS) -> float:
        """Sends such requests for so long, and `least` of them; returns ns of CPU time for each."""
        tx, native, count, room = self.tx, self.tx._native, 0, len(self._memory)
        each = min(least, room // shape.nbytes)
        length = each * shape.nbytes
        native.set_limits(0, shape.datagrams, LARGEST)  # trains of so many, and not longer ones
        until, start = time.monotonic() + seconds, time.thread_time_ns()
        while True:
            at = self._at if self._at + length <= room else 0
            tx.send_region(self._memory, at, length, shape.size)
            self._at, count = at + length, count + each
            if time.monotonic() >= until:
                break
        try:
            tx.drain(_TIMEOUT)
        except TimeoutError as error:
            raise MeasuringError(f"the kernel does not give memory back: {error}") from None
        return (time.thread_time_ns() - start) / count


def _memory(scheduler: Scheduler) -> Region:
    """As much as may be locked here."""
    size = _MEMORY
    while True:
        try:
            memory = scheduler.register(size)
            memory.view[:] = (
                b"\xa5" * size
            )  # else all of its pages may be the same one, the kernel's of zeros
            return memory
        except OSError as error:
            if error.errno != errno.ENOMEM or size <= MIN_ARENA:
                raise
            size //= 2


def _sender(to: Address, scheduler: Scheduler, mode: str, errors: "Counter[int]") -> UdpSender:
    def note(error: SendError) -> None:
        errors[error.errno or 0] += 1

    return UdpSender(
        to,
        scheduler=scheduler,
        zero_copy=mode,
        arena=MIN_ARENA,
        sndbuf=_SNDBUF,
        max_delay=None,
        on_error=note,
    )


def device_to(to: Address) -> Interface:
    """The interface that datagrams to an address leave by. OSError, MeasuringError."""
    with open_udp(to, SocketOptions()) as sock:
        return _device(sock)


def _device(sock: socket.socket) -> Interface:
    try:
        return interface(sock, outgoing(sock, None))
    except (RefusedError, UnframedError) as error:
        raise MeasuringError(f"the interface that it leaves by is not known: {error}") from None


def _check(errors: "Counter[int]") -> None:
    refused = [
        f"{os.strerror(code)}, {counted(times, 'time')}"
        for code, times in errors.items()
        if code != errno.ECONNREFUSED
    ]
    if refused:
        raise MeasuringError(f"the network refuses what is sent: {'; '.join(refused)}")
