"""What this process has at a moment, and what has grown."""

import ctypes
import json
import statistics
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import combinations
from os import listdir
from pathlib import Path

from uringzc.engines import lifetime

from .program import Program


class _Mallinfo(ctypes.Structure):
    _fields_ = tuple((f"{i}", ctypes.c_size_t) for i in range(10))


def give_back_free_memory() -> None:
    """What malloc() keeps of freed memory, in an arena for each thread, is resident no more."""
    with suppress(AttributeError):  # another C library has no such call
        ctypes.CDLL(None).malloc_trim(0)


def malloc_bytes() -> int:
    """Bytes that C has allocated and not freed; 0 where the C library does not say (glibc before 2.33)."""
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return 0
    mallinfo.restype = _Mallinfo
    info = mallinfo()
    return int(getattr(info, "4") + getattr(info, "7"))  # hblkhd, uordblks


@dataclass
class Sample:
    """One line."""

    seconds: float
    operations: int  #: datagrams, requests, writes
    datagrams: int  #: that receivers had to get
    swallowed: int  #: that went where nobody receives
    nbytes: int
    arrived: int
    lost: int  #: and reported
    excused: int  #: not arrived while a fault drops
    late: int
    wrong: int  #: what must not happen
    faults: int
    open: int  #: engines
    parked: int
    rss: int  #: KiB
    pinned: int  #: KiB, VmPin
    locked: int  #: KiB, VmLck
    descriptors: int
    threads: int
    maps: int
    blocks: int  #: of memory that Python objects have
    malloc: int  #: bytes that C code has


def sample(program: Program, since: float) -> Sample:
    """Of this moment; the program is settled."""
    world, ledger = program.world, program.world.ledger
    give_back_free_memory()
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())

    def kib(name: str) -> int:
        return int(status[name].split()[0])

    with open("/proc/self/maps") as file:
        maps = sum(1 for _ in file)
    return Sample(
        seconds=round(time.monotonic() - since, 1),
        operations=world.operations,
        datagrams=ledger.datagrams,
        swallowed=world.swallowed,
        nbytes=ledger.nbytes,
        arrived=ledger.arrived,
        lost=ledger.lost,
        excused=ledger.excused,
        late=ledger.late,
        wrong=sum(ledger.wrong.values()),
        faults=world.faults.counts.total() + sum(world.events.values()),
        open=sum(not engine.closed for engine in list(lifetime._living)),
        parked=len(lifetime.parked()),
        rss=kib("VmRSS"),
        pinned=kib("VmPin"),
        locked=kib("VmLck"),
        descriptors=len(listdir("/proc/self/fd")) - 1,
        threads=threading.active_count(),
        maps=maps,
        malloc=malloc_bytes(),
        blocks=sys.getallocatedblocks(),
    )


#: What must not grow: how much it may all the same, and how much for each operation. What is resident is not
#: exact: some of what was freed lies between what was not.
TOLERANCES = {
    "rss": (16 << 10, 0.0),
    "pinned": (0, 0.0),
    "locked": (0, 0.0),
    "descriptors": (0, 0.0),
    "threads": (0, 0.0),
    "parked": (0, 0.0),
    "maps": (8, 0.0),
    "blocks": (2000, 1 / 4000),
    "malloc": (256 << 10, 8 / 1000),
}


def growth(samples: list[Sample], name: str) -> float:
    """From the first to the last, by the median of the slopes between any two (Theil and Sen).

    Of what may not grow at all: how many more the last third has, at least, than the first.
    """
    if TOLERANCES[name] == (0, 0.0):
        counts, third = [int(getattr(one, name)) for one in samples], -(-len(samples) // 3)
        return min(counts[-third:]) - min(counts[:third])
    points = [(one.operations, getattr(one, name)) for one in samples]
    if len(points) > 200:
        points = points[:: len(points) // 100]
    slopes = [(y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(points, 2) if x2 > x1]
    return statistics.median(slopes) * (points[-1][0] - points[0][0]) if slopes else 0.0


def grown(samples: list[Sample]) -> dict[str, tuple[float, float]]:
    """After a warm-up of a tenth: what has grown more than it may, with how much, and what it may."""
    warm = [one for one in samples if one.seconds >= samples[-1].seconds / 10]
    if len(warm) < 3:
        return {}
    operations = warm[-1].operations - warm[0].operations
    found = {}
    for name, (allowed, each) in TOLERANCES.items():
        most = allowed + each * operations
        if (more := growth(warm, name)) > most:
            found[name] = (more, most)
    return found


def read(path: Path) -> list[Sample]:
    """The lines of a file."""
    return [Sample(**json.loads(line)) for line in path.read_text().splitlines()]


def write(path: Path, one: Sample) -> None:
    """Adds a line."""
    with path.open("a") as file:
        file.write(json.dumps(asdict(one)) + "\n")
