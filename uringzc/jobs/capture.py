"""The UDP payloads of a capture (pcap or pcapng): where they are in the file, and when they were captured.

It takes captures of Ethernet (also with VLAN tags), of Linux's "any" device (cooked) and of bare IP; IPv4 and
IPv6. Fragments, datagrams that the capture cut short, and what is not UDP are counted and skipped. Reading it
needs dpkt; sending is by offset and length, from the mapped file.
"""

import bisect
import mmap
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from uringzc import UdpSender
from uringzc.address import Address
from uringzc.jobs import pcapng
from uringzc.jobs.job import Job
from uringzc.jobs.sources import Block, Source, in_block

_LINKS = {1: (12, 14), 113: (14, 16), 276: (0, 20)}  # offset of the protocol, and of the payload
_BARE = (12, 14, 101, 228, 229)  # only IP
_TAGS = (b"\x81\x00", b"\x88\xa8")
_LONG = 1e6  # seconds: no capture pauses longer, but a time in it may be wrong
_TICK = 0.001  # seconds: what is due within one is sent together


@dataclass
class Index:
    """Where the payloads are in the file, and when they were captured, in seconds from the first."""

    offsets: "array[int]" = field(default_factory=lambda: array("q"))
    lengths: "array[int]" = field(default_factory=lambda: array("q"))
    times: "array[float]" = field(default_factory=lambda: array("d"))
    skipped: Counter[str] = field(default_factory=Counter)


def read_index(capture: Any, name: str) -> Index:
    """Reads the capture, a mapped file, from its beginning. ValueError for what is no capture."""
    try:
        import dpkt
    except ModuleNotFoundError:
        raise ValueError("captures are read with dpkt, which is not installed: pip install dpkt") from None
    found = Index()
    first, latest = None, 0.0
    for link, seconds, offset, length in _packets(dpkt, capture, name):
        if seconds is not None:
            first = seconds if first is None else first
            latest = max(latest, seconds - first)  # the clock may have been set back
        piece = _payload(dpkt, link, capture[offset : offset + length])
        if isinstance(piece, str):
            found.skipped[piece] += 1
            continue
        found.offsets.append(offset + piece[0])
        found.lengths.append(piece[1])
        found.times.append(latest)
    unknown = [why for why in found.skipped if why.startswith("link type")]
    if unknown and not found.offsets:
        raise ValueError(f"{name} is a capture of {unknown[0]}, which is not understood")
    return found


def _packets(dpkt: Any, capture: Any, name: str) -> Iterator[pcapng.Packet]:
    """Those of a pcapng or a pcap file. ValueError."""
    try:
        if capture[:4] == pcapng.SECTION:
            yield from pcapng.packets(capture)
            return
        reader = dpkt.pcap.Reader(capture)
    except (ValueError, dpkt.Error):
        raise ValueError(f"{name} is no pcap file") from None
    with suppress(dpkt.NeedData):  # the last record may be cut off
        for timestamp, frame in reader:
            yield pcapng.Packet(reader.datalink(), float(timestamp), capture.tell() - len(frame), len(frame))


def _payload(dpkt: Any, link: int, frame: bytes) -> tuple[int, int] | str:
    """Where in the frame its UDP payload is, and how long; or why it has none."""
    if link not in _LINKS and link not in _BARE:
        return f"link type {link}"
    try:
        start = 0
        if link in _LINKS:
            kind_at, start = _LINKS[link]
            while (kind := frame[kind_at : kind_at + 2]) in _TAGS:
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


class Capture(Source):
    """The payloads, with the capture's own timing, or at the job's rate."""

    def __init__(self, tx: UdpSender, job: Job, streams: list[int]) -> None:
        super().__init__(tx, job, streams)
        assert job.file is not None
        with open(job.file, "rb") as file:
            try:
                self._memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError:  # it is empty
                raise ValueError(f"{job.file} is no pcap file") from None
        self._index = read_index(self._memory, job.file)
        self.skipped = self._index.skipped
        self.total = len(self._index.offsets) * job.repeat or None

    def blocks(self, most: Callable[[], int]) -> Iterator[Block]:
        """As often as it is repeated."""
        index, done = self._index, 0
        speed = 0.0 if self.job.rate is not None else self.job.speed
        while index.offsets and (self.job.repeat == 0 or done < self.job.repeat):
            start, at = time.monotonic(), 0
            while at < len(index.offsets):
                if speed:
                    due = start + index.times[at] / speed - time.monotonic()
                    time.sleep(min(max(0.0, due), _LONG))
                    behind = bisect.bisect_right(index.times, (time.monotonic() - start + _TICK) * speed)
                else:
                    behind = at + in_block(self.job)
                some = slice(at, min(behind, at + most(), len(index.offsets)))
                lengths = index.lengths[some]
                yield Block(len(lengths), sum(lengths), self._sends(some))
                at = some.stop
            done += 1

    def _sends(self, some: slice) -> Callable[[Address | None], object]:
        offsets, lengths = self._index.offsets[some], self._index.lengths[some]
        return lambda to: self.tx.send_slices(self._memory, offsets, lengths, to)
