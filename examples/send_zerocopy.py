"""liburing's examples/send-zerocopy.c, with this library: the same options, the same line at the end.

    send_zerocopy.py -4 -R -t 3 -s 60000 udp &
    send_zerocopy.py -4 -D 127.0.0.1 -t 2 -s 60000 -n 32 udp

Where that program counts two completions for each request, this one attaches each batch to a notifier,
flushes it, and gets one notification when the batch's memory is free. So it can print a little more: how much
the kernel copied after all, how long it kept the memory, and what a byte cost the CPU.
"""

import argparse
import errno
import os
import select
import socket
import struct
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import uringzc

IN_FLIGHT = 16  # batches, at most
MAX_SIZE = 65435  # fits a datagram, and a TCP segment with all options, over IPv6
SLACK = 0.2  # seconds that every run is longer, as there
RECEIVER_SLACK = 0.4  # and a receiver's still longer
PATIENCE = 1.0  # seconds to wait for the last notifications
GONE = (errno.ECONNREFUSED, errno.EPIPE, errno.ECONNRESET)


@dataclass
class Tally:
    """What one thread did."""

    packets: int = 0
    nbytes: int = 0
    seconds: float = 0.0
    copied: int | None = 0  # packets; None: the kernel did not report it of all
    cpu: float = 0.0
    latencies: Counter[int] = field(default_factory=Counter)  # microseconds that a batch was in flight


class Sender:
    """One socket, one scheduler, one payload that is sent again and again."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.tally = Tally()
        self.in_flight: dict[int, float] = {}  # batches by their notifier's sequence -> since when
        self.connected = True

    def run(self) -> Tally:
        """Sends for `-t` seconds. Everything of this scheduler happens in this thread."""
        options = self.options
        pin_to(options.cpu)
        with (
            socket.socket(options.family, options.type) as sock,
            uringzc.Scheduler(completions="failed") as scheduler,
        ):
            sock.connect((options.address, options.port))
            scheduler.register_socket(sock)
            self.loop(scheduler, sock, self.payload(scheduler))
            scheduler.unregister_socket(sock)
            self.finish(scheduler, sock)
        return self.tally

    def payload(self, scheduler: uringzc.Scheduler) -> uringzc.Region | bytearray:
        """The alphabet, in registered memory unless `-b 0`."""
        letters = bytearray(ord("a") + i % 26 for i in range(self.options.size))
        if not self.options.registered:
            return letters
        region = scheduler.register(len(letters))
        region.view[:] = letters
        return region

    def loop(
        self, scheduler: uringzc.Scheduler, sock: socket.socket, payload: uringzc.Region | bytearray
    ) -> None:
        """Batches, each with a notifier of its own, until the time is over or the other side is gone."""
        size, count, zero_copy = self.options.size, self.options.batch, self.options.zero_copy
        in_flight, sequence = self.in_flight, 0  # a slot's notifiers are numbered from 0
        cpu, start = time.thread_time(), time.monotonic()
        now, end = start, start + self.options.seconds + SLACK
        while self.connected and now < end:
            in_flight[sequence] = now
            scheduler.send_run(sock, payload, size, count, 0, zero_copy=zero_copy)  # 0: the same bytes again
            scheduler.flush(0)
            scheduler.submit()
            sequence += 1
            now = self.reap(scheduler)
            while len(in_flight) == IN_FLIGHT and now < end:
                now = self.reap(scheduler, wait=IN_FLIGHT // 2, timeout=end - now)
        self.tally.seconds = time.monotonic() - start
        self.tally.cpu = time.thread_time() - cpu

    def finish(self, scheduler: uringzc.Scheduler, sock: socket.socket) -> None:
        """Waits for what is in flight; a TCP connection whose other side does not read is reset."""
        self.reap(scheduler, wait=len(self.in_flight), timeout=PATIENCE)
        if self.in_flight:
            sock.shutdown(socket.SHUT_RDWR)  # fails requests that wait for room and keep the socket open
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            self.reap(scheduler, wait=len(self.in_flight), timeout=PATIENCE)
        if not self.connected:
            print("Connection failure", file=sys.stderr)

    def reap(self, scheduler: uringzc.Scheduler, wait: int = 0, timeout: float | None = None) -> float:
        """Reads which batches' memory is free, and what failed of them. Returns when."""
        tally, notifications = self.tally, scheduler.reap_notifications(wait, timeout)
        now = time.monotonic()
        for _tag, sequence, _slot, requests, nbytes, copied, failed in notifications:
            tally.packets += requests - failed
            tally.nbytes += nbytes
            tally.copied = None if tally.copied is None or copied is None else tally.copied + copied
            tally.latencies[int((now - self.in_flight.pop(sequence)) * 1e6)] += 1
            if failed:
                self.check(scheduler)
        return now

    def check(self, scheduler: uringzc.Scheduler) -> None:
        """Notes that the other side is gone, or raises what failed otherwise."""
        for failure in scheduler.reap_completions():
            if -failure.result in GONE:
                self.connected = False
            elif failure.error and -failure.result != errno.EAGAIN:
                raise failure.error


class Receiver:
    """`-R`: takes what comes, on one UDP socket or `-T` TCP connections."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.patience = options.seconds + SLACK + RECEIVER_SLACK

    def run(self) -> list[Tally]:
        """One tally per connection."""
        options = self.options
        with socket.socket(options.family, options.type) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind((options.address or "", options.port))
            if options.type == socket.SOCK_DGRAM:
                return [self.receive(sock)]
            sock.listen(options.threads)
            sock.settimeout(self.patience)
            connections = [sock.accept()[0] for _ in range(options.threads)]
        with ThreadPoolExecutor(options.threads) as pool:
            return list(pool.map(self.receive, connections))

    def receive(self, sock: socket.socket) -> Tally:
        """Reads until the time is over, or the other side is."""
        tally, buffer = Tally(), bytearray(1 << 21)
        start, cpu = time.monotonic(), time.thread_time()
        with sock:
            while (left := start + self.patience - time.monotonic()) > 0:
                if not select.select([sock], [], [], left)[0]:
                    break
                nbytes = sock.recv_into(buffer)
                if not nbytes and self.options.type == socket.SOCK_STREAM:
                    break
                self.check(memoryview(buffer)[:nbytes])
                tally.packets += 1
                tally.nbytes += nbytes
        tally.seconds = time.monotonic() - start
        tally.cpu = time.thread_time() - cpu
        return tally

    def check(self, data: memoryview) -> None:
        """A datagram has the size and the first bytes that the sender's have."""
        if self.options.type == socket.SOCK_DGRAM:
            if len(data) != self.options.size:
                came = f"a datagram of {len(data)} bytes arrived, not {self.options.size}"
                raise SystemExit(f"{came}: give both sides the same -s")
            if data[:26] != b"abcdefghijklmnopqrstuvwxyz"[: len(data)]:
                raise SystemExit("a datagram arrived with other data")


def pin_to(cpu: int) -> None:
    """`-C`: the calling thread runs on this CPU only."""
    if cpu >= 0:
        os.sched_setaffinity(0, [cpu])


def report(tallies: list[Tally], sending: bool) -> None:
    """The line that the C program prints, and for a sender what it cannot say."""
    packets, nbytes = sum(tally.packets for tally in tallies), sum(tally.nbytes for tally in tallies)
    seconds = sum(tally.seconds for tally in tallies) / len(tallies)
    mb = nbytes >> 20
    print(f"packets={packets} (MB={mb}), rps={int(packets / seconds)} (MB/s={int(mb / seconds)})")
    if sending and nbytes:
        known = [tally.copied for tally in tallies if tally.copied is not None]
        copied = f"{sum(known) / packets:.0%}" if len(known) == len(tallies) else "unknown"
        cpu = sum(tally.cpu for tally in tallies) / nbytes * 1e9
        latencies = sum((tally.latencies for tally in tallies), Counter[int]())
        p50, p99 = percentile(latencies, 0.50), percentile(latencies, 0.99)
        print(f"copied={copied}, memory back after p50={p50} us p99={p99} us, CPU={cpu:.3f} ns/byte")


def percentile(counts: Counter[int], part: float) -> int:
    """The value that `part` of them do not pass."""
    left = part * counts.total()
    for value in sorted(counts):
        left -= counts[value]
        if left <= 0:
            return value
    return 0


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options of liburing's program."""
    parser = argparse.ArgumentParser(description="Send as fast as possible, zero-copy, and say how fast.")
    add = parser.add_argument
    families = parser.add_mutually_exclusive_group(required=True)
    families.add_argument("-4", dest="family", action="store_const", const=socket.AF_INET)
    families.add_argument("-6", dest="family", action="store_const", const=socket.AF_INET6)
    add("-D", dest="address", help="where to send to; with -R, where to receive")
    add("-p", dest="port", type=int, default=8000, help="port (%(default)s)")
    add("-s", dest="size", type=int, default=MAX_SIZE, help="bytes in a request (%(default)s)")
    add("-n", dest="batch", type=int, default=8, help="requests in a batch, up to 512 (%(default)s)")
    add("-z", dest="zero_copy", type=int, choices=(0, 1), default=1, help="zero-copy (%(default)s)")
    add("-b", dest="registered", type=int, choices=(0, 1), default=1, help="registered memory (%(default)s)")
    add("-l", dest="huge", type=int, choices=(0, 1), default=0, help="huge pages: not used, see the note")
    add("-d", dest="defer", action="store_true", help="DEFER_TASKRUN: always, where the kernel has it")
    add("-C", dest="cpu", type=int, default=-1, help="run on this CPU")
    add("-T", dest="threads", type=int, default=1, help="threads, each with a scheduler of its own")
    add("-R", dest="receive", action="store_true", help="receive")
    add("-t", dest="seconds", type=float, default=4, help="seconds (%(default)s)")
    add("protocol", choices=("tcp", "udp"))
    options = parser.parse_args(arguments)
    options.type = socket.SOCK_STREAM if options.protocol == "tcp" else socket.SOCK_DGRAM
    for name, value, most in (("-s", options.size, MAX_SIZE), ("-n", options.batch, 512)):
        if not 1 <= value <= most:
            parser.error(f"{name} is 1 to {most}, not {value}")
    if not 0 < options.port < 65536:
        parser.error(f"-p is 1 to 65535, not {options.port}")
    if not 1 <= options.threads <= 100:
        parser.error(f"-T is 1 to 100, not {options.threads}")
    if options.receive and options.protocol == "udp" and options.threads > 1:
        parser.error("-R with udp has one thread: all datagrams come to one socket")
    if not options.receive and not options.address:
        parser.error("-D says where to send to")
    return options


def main() -> None:
    """Sends or receives."""
    options = parse()
    if options.huge:
        print(
            "-l 1: not used; a send from a huge page is charged all of the page that lies before it",
            file=sys.stderr,
        )
    if options.protocol == "tcp" and options.batch > 1 and not options.receive:
        print("with tcp and -n > 1, data may leave in another order than it was queued", file=sys.stderr)
    if options.receive:
        return report(Receiver(options).run(), sending=False)
    with ThreadPoolExecutor(options.threads) as pool:
        senders = [pool.submit(Sender(options).run) for _ in range(options.threads)]
        return report([sender.result() for sender in senders], sending=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        raise SystemExit(f"{error.strerror or error}") from error
