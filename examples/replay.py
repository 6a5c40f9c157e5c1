"""Replays a capture: the UDP payloads of a pcap file, to one address, from the mapped file itself.

    replay.py capture.pcap 192.0.2.7 9000              # with the capture's own timing
    replay.py capture.pcap 192.0.2.7 9000 --speed 10   # ten times as fast
    replay.py capture.pcap 192.0.2.7 9000 --speed 0 --loop 100   # as fast as it goes, a hundred times
    replay.py capture.pcap 192.0.2.7 9000 --rate 500Mbit         # at a steady rate; or --pps 200kpps

It needs dpkt (pip install dpkt), and shows a progress bar if rich is installed. The file is read once, to
find the payloads; then `send_slices` sends them by offset and length, and no Python runs for each datagram.
It takes captures of Ethernet (also with VLAN tags), of Linux's "any" device (cooked) and of bare IP; IPv4 and
IPv6. Fragments, datagrams that the capture cut short, and what is not UDP are counted and skipped.
"""

import argparse
import bisect
import mmap
import os
import stat
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import uringzc

try:
    import dpkt
except ImportError:
    sys.exit("replay.py reads captures with dpkt, which is not installed: pip install dpkt")

LINKS = {1: (12, 14), 113: (14, 16), 276: (0, 20)}  # offset of the protocol, and of the payload
BARE = (12, 14, 101, 228, 229)  # only IP
TAGS = (b"\x81\x00", b"\x88\xa8")
TICK = 0.001  # seconds: what is due within one is sent together


@dataclass
class Index:
    """Where the payloads are in the file, and when they were captured, in seconds from the first."""

    offsets: "array[int]" = field(default_factory=lambda: array("q"))
    lengths: "array[int]" = field(default_factory=lambda: array("q"))
    times: "array[float]" = field(default_factory=lambda: array("d"))
    skipped: Counter[str] = field(default_factory=Counter)


def index(capture: mmap.mmap) -> Index:
    """Reads the capture from its beginning."""
    found = Index()
    reader = dpkt.pcap.Reader(capture)
    link, first, latest = reader.datalink(), None, 0.0
    if link not in LINKS and link not in BARE:
        sys.exit(f"captures of link type {link} are not understood")
    with suppress(dpkt.NeedData):  # the last record may be cut off
        for timestamp, frame in reader:
            first = float(timestamp) if first is None else first
            latest = max(latest, float(timestamp) - first)  # the clock may have been set back
            piece = payload(link, frame)
            if isinstance(piece, str):
                found.skipped[piece] += 1
                continue
            found.offsets.append(capture.tell() - len(frame) + piece[0])
            found.lengths.append(piece[1])
            found.times.append(latest)
    return found


def payload(link: int, frame: bytes) -> tuple[int, int] | str:
    """Where in the frame its UDP payload is, and how long; or why it has none."""
    try:
        start = 0
        if link in LINKS:
            kind_at, start = LINKS[link]
            while (kind := frame[kind_at : kind_at + 2]) in TAGS:
                kind_at, start = start + 2, start + 4
            if kind not in (b"\x08\x00", b"\x86\xdd"):
                return "not UDP"
        six = frame[start] >> 4 == 6
        ip = dpkt.ip6.IP6(frame[start:]) if six else dpkt.ip.IP(frame[start:])
        if dpkt.ip.IP_PROTO_FRAGMENT in ip.extension_hdrs if six else ip.mf or ip.offset:
            return "fragments"
        if not isinstance(ip.data, dpkt.udp.UDP):
            return "cut short" if getattr(ip, "p", 0) == dpkt.ip.IP_PROTO_UDP else "not UDP"
    except (dpkt.UnpackError, IndexError):
        return "not UDP"
    size = 40 + ip.plen if six else ip.len
    behind = ip.data.data  # to the end of the IP packet; the frame may go on, with padding
    if start + size > len(frame) or not 8 <= ip.data.ulen <= 8 + len(behind):
        return "cut short"
    return start + size - len(behind), ip.data.ulen - 8


def replay(
    tx: uringzc.UdpSender,
    capture: mmap.mmap,
    what: Index,
    speed: float,
    before: int,
    show: Callable[[int], object],
) -> None:
    """Sends all of it once; `before`: how many datagrams were sent before."""
    if speed == 0:
        tx.send_slices(capture, what.offsets, what.lengths, progress=lambda done: show(before + done))
        return
    start, done = time.monotonic(), 0
    while done < len(what.times):
        due = bisect.bisect_right(what.times, (time.monotonic() - start + TICK) * speed)
        if due > done:
            tx.send_slices(capture, what.offsets[done:due], what.lengths[done:due])
            tx.flush()  # all of it leaves now
            done = due
            show(before + done)
        if done < len(what.times):
            time.sleep(max(0.0, start + what.times[done] / speed - time.monotonic()))


@contextmanager
def progress(total: int) -> Iterator[Callable[[int], object]]:
    """A function that shows how many are done: a bar if rich is installed, else a line per second."""
    try:
        from rich.progress import MofNCompleteColumn, Progress
    except ImportError:
        said = time.monotonic()

        def line(done: int) -> None:
            nonlocal said
            if time.monotonic() - said >= 1:
                said = time.monotonic()
                print(f"{done} of {total} datagrams", flush=True)

        yield line
    else:
        with Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as bar:
            task = bar.add_task("replaying", total=total)
            yield lambda done: bar.update(task, completed=done)


def main() -> None:
    """Finds the payloads, sends them, prints what was done."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("capture", help="a pcap file")
    parser.add_argument("host", help="an address, or a multicast group")
    parser.add_argument("port", type=int, help="a UDP port")
    parser.add_argument("--speed", type=float, default=1.0, help="times the original (1); 0: at once")
    parser.add_argument("--rate", help="bits of payload per second instead of its timing: 500Mbit, 100MiB")
    parser.add_argument("--pps", help="datagrams per second instead of its timing: 200kpps")
    parser.add_argument("--loop", type=int, default=1, help="how often (1)")
    options = parser.parse_args()
    if options.rate or options.pps:
        options.speed = 0
    if options.speed < 0:
        parser.error(f"--speed is a factor, or 0, not {options.speed:g}")
    if not 0 < options.port < 65536:
        parser.error(f"port is 1 to 65535, not {options.port}")

    try:
        with open(options.capture, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError("it cannot be mapped")
            capture = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        what = index(capture)
    except OSError as error:
        sys.exit(f"{options.capture}: {error.strerror}")
    except (ValueError, dpkt.Error):
        sys.exit(f"{options.capture} is no pcap file")
    total = len(what.offsets)
    skipped = "".join(f", {count} skipped: {why}" for why, count in what.skipped.items())
    print(f"{total} UDP datagrams, {sum(what.lengths)} bytes{skipped}")
    errors: Counter[str] = Counter()
    with uringzc.UdpSender(
        (options.host, options.port),
        rate=options.rate,
        pps=options.pps,
        on_error=lambda error: errors.update([os.strerror(error.errno or 0)]),
    ) as tx:
        started = time.monotonic()
        with progress(total * options.loop) as show:
            for lap in range(options.loop):
                replay(tx, capture, what, options.speed, lap * total, show)
            tx.drain()
        seconds, stats = time.monotonic() - started, tx.stats
        print(f"{stats.datagrams} datagrams, {stats.nbytes} bytes in {seconds:.3f} s, {stats.lost} lost")
        for text, count in errors.items():
            print(f"{count} times: {text}")
        print(tx.explain())


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except (OSError, ValueError) as error:  # a file, an address, a rate, a permission
        sys.exit(str(error))
