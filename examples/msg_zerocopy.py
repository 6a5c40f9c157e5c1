"""The kernel's selftest msg_zerocopy, with this library: its options, lines and exit status, for tcp and udp.

    msg_zerocopy.py -4 -r -t 3 udp &
    msg_zerocopy.py -4 -D 127.0.0.1 -t 2 -z udp

That program reads ranges of numbers from the socket's error queue. Here the library reads that queue, and the
program gets notifications: every send has a notifier of its own, and zero-copy sends have a slot of their
own, so the sequence numbers there count them. `-vv` prints these as ranges, as they came back together; which
of them the kernel had merged cannot be seen. Of a merged range the kernel reports for its first send only
whether it was copied, and `-Z` judges what is known; `zc=?` if that is nothing. For a send of no bytes no
notification is expected, as there, and it is not judged.

`--engine` sends the same through io_uring, or without zero-copy at all.
"""

import argparse
import os
import select
import socket
import sys
import time
from collections.abc import Iterable

import uringzc

COPY, ZERO_COPY = 0, 1  # the slots
MAX_SIZE = 65527  # of a datagram, over IPv6
ROOM = 1 << 21  # of a socket
SLACK = 0.2  # seconds that every run is longer, as there
PATIENCE = 0.5  # seconds to wait for the last notifications
CHECKED = 64  # bytes of each datagram that a receiver compares
UDP_CORK = 1
ALPHABET = bytes(ord("a") + i % 26 for i in range(MAX_SIZE))


class Sender:
    """One socket, one scheduler, one payload that is sent again and again."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.parts = parts(options)
        self.packets = self.nbytes = 0
        self.unread = 0  # notifiers that were flushed
        self.expected = self.completions = 0  # zero-copy sends with bytes, and their notifications
        self.next_completion = 0
        self.copied: set[bool] = set()  # what was known of them
        self.status = 0

    def run(self) -> int:
        """Sends for `-t` seconds or `-n` packets; the exit status."""
        options = self.options
        end = time.monotonic() + options.seconds + SLACK
        with (
            socket.socket(options.family, options.type) as sock,
            uringzc.Scheduler((COPY, ZERO_COPY), engine=options.engine) as scheduler,
        ):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ROOM)
            prepare(sock, options, options.source)
            sock.connect((options.address, options.port))
            count = since = 0
            while time.monotonic() < end and (count < options.count or not options.count):
                self.send(scheduler, sock, end)
                count += 1
                since += len(self.parts)
                if since >= options.limit:
                    self.take(scheduler)
                    since = 0
            self.take(scheduler, wait=self.unread, timeout=PATIENCE)
            if self.completions < self.expected:
                complain(f"missing notifications: {self.completions} < {self.expected}")
                self.status = 1
        zc = "?" if self.expected and not self.copied else "y" if self.copied == {False} else "n"
        print(f"tx={self.packets} ({self.nbytes >> 20} MB) txc={self.completions} zc={zc}")
        return self.status

    def send(self, scheduler: uringzc.Scheduler, sock: socket.socket, end: float) -> None:
        """One packet, in its parts. Returns when the kernel has taken all of them."""
        options = self.options
        if options.parts:
            sock.setsockopt(socket.IPPROTO_UDP, UDP_CORK, 1)
        for number, (offset, length, zero_copy) in enumerate(self.parts):
            scheduler.send(
                *(sock, ALPHABET),
                offset=offset,
                length=length,
                zero_copy=zero_copy,
                slot=ZERO_COPY if zero_copy else COPY,
                user_data=number,
                flush=True,
            )
        self.unread += len(self.parts)
        taken = scheduler.reap_completions(wait=len(self.parts), timeout=end + PATIENCE - time.monotonic())
        if len(taken) < len(self.parts):
            complain(f"{options.address} takes no more")
            raise SystemExit(1)
        if options.parts:
            sock.setsockopt(socket.IPPROTO_UDP, UDP_CORK, 0)
        for done in taken:
            if done.error:
                raise done.error
            _, length, zero_copy = self.parts[done.user_data]
            if options.verbose and done.result != length:
                complain(f"send: ret={done.result} != {length}")
            self.packets += 1
            self.nbytes += done.result
            self.expected += zero_copy and done.result > 0

    def take(self, scheduler: uringzc.Scheduler, wait: int = 0, timeout: float | None = None) -> None:
        """Reads the notifications there are."""
        sequences: list[int] = []
        for notification in scheduler.reap_notifications(wait, timeout):
            self.unread -= 1
            if notification.slot == ZERO_COPY:
                sequences.append(notification.sequence)
                if notification.nbytes:
                    self.completions += 1
                    self.judge(notification.copied)
        for low, high in ranges(sequences):
            if low != self.next_completion:
                complain(f"gap: {low}..{high} does not append to {self.next_completion}")
            self.next_completion = high + 1
            if self.options.verbose > 1:
                complain(f"completed: {high - low + 1} (h={high} l={low})")

    def judge(self, copied: int | None) -> None:
        """What was known of one send, against `-Z`; complains once."""
        if copied is None:
            return
        self.copied.add(bool(copied))
        if self.options.expect == copied and not self.status:  # -Z 1: not copied
            complain(f"a send was {'' if copied else 'not '}copied, -Z {copied} expects otherwise")
            self.status = 1


def parts(options: argparse.Namespace) -> list[tuple[int, int, bool]]:
    """The offset and length of each part of a packet, and whether it goes zero-copy. The first is longest."""
    count = options.parts or 1
    length, extra = divmod(options.size, count)
    return [
        (
            i * length + extra * (i > 0),
            length + extra * (i == 0),
            options.zero_copy and (i % 2 == 1 or not options.mixed),
        )
        for i in range(count)
    ]


def ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """First and last of numbers that follow each other."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def receive(options: argparse.Namespace) -> int:
    """`-r`: takes what comes until the time is over, `-n` packets came, or the other side closes."""
    end = time.monotonic() + options.seconds + SLACK
    stream = options.type == socket.SOCK_STREAM
    expected = ALPHABET[: min(options.size, CHECKED)]
    buffer = bytearray(ROOM if stream else CHECKED)
    packets = nbytes = 0
    with listen(options) as sock:
        while options.count == 0 or nbytes < options.count * options.size or packets < options.count:
            if not select.select([sock], [], [], max(0, end - time.monotonic()))[0]:
                break
            size = sock.recv_into(buffer, 0, socket.MSG_TRUNC)
            if stream and not size:
                break
            if not stream and size != options.size:
                raise SystemExit(f"a datagram of {size} bytes came, not of {options.size}")
            if not stream and buffer[:size] != expected:
                raise SystemExit("a datagram came with other data")
            packets += 1
            nbytes += size
    print(f"rx={packets} ({nbytes >> 20} MB)")
    missing = nbytes < options.count * options.size or (packets < options.count and not stream)
    if missing:
        complain(f"-n {options.count}: only {packets} packets with {nbytes} bytes came")
    return int(missing)


def listen(options: argparse.Namespace) -> socket.socket:
    """The socket to read from: for tcp, of the first connection that is made."""
    sock = socket.socket(options.family, options.type)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    prepare(sock, options, options.address or "", options.port)
    if options.type == socket.SOCK_DGRAM:
        return sock
    with sock:
        sock.listen(1)
        sock.settimeout(options.seconds + SLACK)
        return sock.accept()[0]


def prepare(sock: socket.socket, options: argparse.Namespace, address: str | None, port: int = 0) -> None:
    """Binds to the interface if `-i` names one, and to this address."""
    if options.interface:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, options.interface.encode())
    if address is not None:
        sock.bind((address, port))


def complain(sentence: str) -> None:
    """To stderr."""
    print(sentence, file=sys.stderr)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options of the kernel's program, and two."""
    parser = argparse.ArgumentParser(description="Send with MSG_ZEROCOPY, and report what became of it.")
    add = parser.add_argument
    families = parser.add_mutually_exclusive_group(required=True)
    families.add_argument("-4", dest="family", action="store_const", const=socket.AF_INET)
    families.add_argument("-6", dest="family", action="store_const", const=socket.AF_INET6)
    add("-c", dest="parts", type=int, default=0, help="cork: a datagram is sent in so many parts")
    add("-C", dest="cpu", type=int, default=-1, help="run on this CPU")
    add("-D", dest="address", help="where to send to; with -r, where to receive")
    add("-S", dest="source", help="the address to send from")
    add("-i", dest="interface", help="the interface to use")
    add("-l", dest="limit", type=int, default=32, help="sends until notifications are read (%(default)s)")
    add("-m", dest="mixed", action="store_true", help="of corked parts, every second is zero-copy")
    add("-n", dest="count", type=int, default=0, help="packets to send; with -r, to expect")
    add("-p", dest="port", type=int, default=8000, help="port (%(default)s)")
    add("-r", dest="receive", action="store_true", help="receive")
    add("-s", dest="size", type=int, default=65435, help="bytes in a packet (%(default)s)")
    add("-t", dest="seconds", type=float, default=4, help="seconds (%(default)s)")
    add("-v", dest="verbose", action="count", default=0, help="print short sends; -vv: notifications too")
    add("-z", dest="zero_copy", action="store_true", help="zero-copy")
    add("-Z", dest="expect", type=int, choices=(0, 1), help="fail if a send was copied (1), or was not (0)")
    add(
        "--engine", choices=("io_uring", "msg_zerocopy", "copy"), default="msg_zerocopy", help="(%(default)s)"
    )
    add("protocol", choices=("tcp", "udp"))
    options = parser.parse_args(arguments)
    options.type = socket.SOCK_STREAM if options.protocol == "tcp" else socket.SOCK_DGRAM
    if not 0 <= options.size <= MAX_SIZE:
        parser.error(f"-s is 0 to {MAX_SIZE}, not {options.size}")
    if not 0 < options.port < 65536:
        parser.error(f"-p is 1 to 65535, not {options.port}")
    if options.parts and options.protocol == "tcp":
        parser.error("-c is for udp")
    if options.mixed and not (options.parts and options.zero_copy):
        parser.error("-m needs -c and -z")
    if not options.receive and not options.address:
        parser.error("-D says where to send to")
    return options


def main() -> int:
    """Sends or receives."""
    options = parse()
    if options.cpu >= 0:
        os.sched_setaffinity(0, [options.cpu])
    return receive(options) if options.receive else Sender(options).run()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        raise SystemExit(f"{error.strerror or error}") from error
