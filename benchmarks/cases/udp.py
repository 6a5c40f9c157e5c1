"""UdpSender from one thread, over the sink."""

from __future__ import annotations

import mmap
import random
import tempfile
from array import array
from dataclasses import replace
from itertools import accumulate

from benchmarks.bench import Bench, topic
from benchmarks.pairs import Comparison, Contender
from benchmarks.programs.baselines import (
    MAX_TRAIN_BYTES,
    copying,
    prepared_block,
    sendmsg_trains,
    socket_send,
)
from benchmarks.programs.process import Process
from benchmarks.programs.reference import Reference
from benchmarks.programs.udp_sender import POOL, SEGMENT, TRAIN, payloads_of
from uringzc import testing
from uringzc.kernel.features import max_segments

FILE = 64 << 20  # bytes of the mapped file
LARGEST = 1472  # bytes of a datagram that fit an MTU of 1500
OLD_WMEM_MAX = 212992  # long the default of net.core.wmem_max


@topic(
    "UDP: one call for each datagram",
    why_missed="""Of some 110 ns for 1200 bytes, the kernel takes 16: the rest is the call, and the copy,
    for which the processor fetches the datagram. A system call takes 0.7 us on this machine; the targets
    were set where it takes 2.3 us.""",
)
def udp_send(bench: Bench) -> None:
    """`UdpSender.send`, `send_many` and leases, of datagrams of one size to one destination.

    - *socket.send*: a loop of `sock.send(datagram)` on a connected socket, a system call for each datagram:
      what most programs do today.
    - *sendmsg trains*: an expert's loop without the library. It collects 44 datagrams and sends them as one
      request, `sock.sendmsg(datagrams, [UDP_SEGMENT])`; then as many as the kernel accepts in one.
    """
    for size, targets in ((1200, (28.0, 2.6)), (600, (None, None)), (200, (60.0, 4.2))):
        payloads, longest = payloads_of(size), min(max_segments(), MAX_TRAIN_BYTES // size)
        contenders = [
            bench.udp_sender().send("send", payloads),
            socket_send(bench.udp_socket(bench.sink), payloads).wanting(targets[0]),
            sendmsg_trains(bench.udp_socket(bench.sink), payloads).wanting(targets[1]),
            sendmsg_trains(bench.udp_socket(bench.sink), payloads, longest, f"sendmsg trains of {longest}"),
        ]
        bench.compare(f"send, {size} B", contenders)
    payloads = payloads_of(1200)
    trains = sendmsg_trains(bench.udp_socket(bench.sink), payloads).wanting(3.5)
    bench.compare("send_many, 1200 B", [bench.udp_sender().send_many("send_many", payloads), trains])
    loop = socket_send(bench.udp_socket(bench.sink), payloads)
    bench.compare("lease, fill and send, 1200 B", [bench.udp_sender().lease("lease", payloads), loop])


@topic("UDP: sizes and destinations that change", why_missed="Each size is a train of its own, or of two.")
def udp_mixed(bench: Bench) -> None:
    """What trains gain where they are short.

    - *socket.send*, *socket.sendto*: a loop of it, a system call for each datagram.
    - *socket.send of slices*: the same of slices of a memoryview, which has packets as a capture file does.
      The library sends them by one `send_slices`.
    """
    sizes = random.Random(8).sample(range(200, LARGEST + 1), LARGEST - 199)
    payloads = [bytes(size) for size in sizes]
    loop = socket_send(bench.udp_socket(bench.sink), payloads).wanting(2.0)
    contenders = [bench.udp_sender().send("send", payloads), loop]
    bench.compare("send, 200-1472 B, no size twice", contenders)
    _capture(bench)
    payload, addresses = bytes(1200), [(f"10.0.0.{host}", 9000) for host in range(10, 26)]
    sock = bench.udp_socket(bench.sink, connected=False)

    def to_each() -> None:
        sendto = sock.sendto
        for _ in range(64):
            for address in addresses:
                sendto(payload, address)

    fan_out = bench.udp_sender(connected=False).fan_out("fan_out", payload, addresses)
    bench.compare("fan_out to 16, 1200 B", [fan_out, copying("socket.sendto", to_each, 1024)])


def _capture(bench: Bench) -> None:
    """Packets as a capture has them: runs of full ones, small ones between, a header before each."""
    chance = random.Random(1)
    lengths: list[int] = []
    while sum(lengths) + 16 * len(lengths) < POOL - 40 * LARGEST:
        lengths += [LARGEST] * chance.randrange(1, 24) + [chance.randrange(60, LARGEST)]
    offsets = [0, *accumulate(length + 16 for length in lengths)][: len(lengths)]
    programs = bench.udp_sender()
    region, sock = programs.tx.register(POOL), bench.udp_socket(bench.sink)

    def slices() -> None:
        send, view = sock.send, region.view
        for offset, length in zip(offsets, lengths, strict=True):
            send(view[offset : offset + length])

    send_slices = programs.send_slices("send_slices", region, array("q", offsets), array("q", lengths))
    against = copying("socket.send of slices", slices, len(lengths))
    bench.compare("send_slices of a capture", [send_slices, against])


@topic(
    "UDP: payloads that are in memory already",
    why_missed="""Nearly all of the time is the kernel's: the C loop with zero-copy trains of the same
    length is the ceiling. Memory that is not registered is pinned page by page, for each train. *C, a
    request each* is the tuned loop of reference.c, which is faster than liburing's example.""",
)
def udp_region(bench: Bench) -> None:
    """`UdpSender.send_region`: memory that is cut into datagrams of 1400 bytes, without a copy.

    - *prepared block*: `sock.send` of a block of 44 datagrams, with UDP_SEGMENT set: as fast as Python can
      send without zero-copy, if the datagrams lie together already.
    - *C, a request each*: the io_uring loop of benchmarks/programs/reference.c, one zero-copy request for
      each datagram.
    - *C, zc trains of 44*: the same loop with UDP_SEGMENT; beside the mapped file from memory that is not
      registered.

    With tx-udp-segmentation off, the kernel cuts the trains instead of the device, after the copy is saved,
    and a packet for each datagram costs far more than the copy. The unprivileged process runs as the user
    nobody, may lock 8 MiB, and gets the socket buffer that this net.core.wmem_max grants (212992 was long
    the default).
    """
    block = _block(bench)
    _registered(bench, block)
    _mapped(bench, block)
    bench.sink.offload(segmentation=False)
    try:
        contenders = [bench.udp_sender().send_region("send_region"), _block(bench).wanting(1.0)]
        bench.compare("send_region, tx-udp-segmentation off", contenders, close=True)
    finally:
        bench.sink.offload(segmentation=True)
    if testing.missing("unprivileged") is None:
        _unprivileged(bench)


def _block(bench: Bench) -> Contender:
    return prepared_block(bench.udp_socket(bench.sink), SEGMENT, TRAIN)


def c_trains(bench: Bench, mode: str = "zc", pool: int = POOL) -> Contender:
    """Return reference.c with zero-copy trains."""
    reference = bench.stack.enter_context(Reference(bench.udp_socket(bench.sink), pool=pool, segment=SEGMENT))
    return reference.contender(mode, TRAIN * SEGMENT, f"C, zc trains of {TRAIN}")


def _registered(bench: Bench, block: Contender) -> None:
    each = bench.stack.enter_context(Reference(bench.udp_socket(bench.sink)))
    contenders = [
        bench.udp_sender().send_region("send_region"),
        each.contender("zc", SEGMENT, "C, a request each").wanting(42),
        block.wanting(2.4),
        c_trains(bench),
    ]
    _, base, best = bench.compare("send_region, registered", contenders)
    _keep_ceiling(bench, base, best, best.against)


def _mapped(bench: Bench, block: Contender) -> None:
    with tempfile.TemporaryFile() as file:
        for _ in range(FILE >> 20):
            file.write(bytes(1 << 20))
        file.flush()
        mapped = mmap.mmap(file.fileno(), FILE, prot=mmap.PROT_READ)
    mapped[:: mmap.PAGESIZE]  # read in all pages, as those of registered memory are
    contenders = [
        bench.udp_sender().send_region("send_region", mapped),
        block.wanting(1.6),
        c_trains(bench, "zc-unregistered", FILE),
    ]
    base, best = bench.compare("send_region, mapped file", contenders)
    _keep_ceiling(bench, base, best, f"{best.against}, not registered")


def _keep_ceiling(bench: Bench, base: Comparison, best: Comparison, case: str) -> None:
    """Keep what the C program gains over the first one's opponent, too."""
    bench.keep(replace(base, case=case, target=None, samples=best.against_samples))


def _unprivileged(bench: Bench) -> None:
    with open("/proc/sys/net/core/wmem_max") as file:
        here = int(file.read())
    for wmem_max in sorted({here, min(here, OLD_WMEM_MAX)}):
        with Process(bench.sink, "unprivileged", wmem_max) as process:
            contenders = [
                process.contender("region", "send_region"),
                process.contender("block", "prepared block").wanting(1.0),
            ]
            bench.compare(f"send_region, unprivileged, wmem_max {wmem_max}", contenders, close=True)
