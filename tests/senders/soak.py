"""Many datagrams through one sender, into a network that swallows them: memory stays flat, nothing is lost.

`python tests/senders/soak.py --count 100000000`. Needs root, or `unshare --map-root-user`.
"""

import argparse
import gc
import resource
from collections.abc import Callable
from dataclasses import dataclass

import uringzc
from uringzc import testing

DESTINATIONS = 3
SIZES = (1200, 64, 700, 1200, 0, 8000, 1472, 20_000)  # one after the other, each in a run
RUN = 500
GROWTH = 2 << 20
BLOCK = 64 << 10


def resident() -> int:
    """Bytes of this process that are in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@dataclass
class Result:
    """What was seen."""

    sent: int
    nbytes: int
    warm: int  #: resident bytes after a tenth
    end: int  #: and at the end
    held: int  #: bytes of the arena that are not free at the end
    stats: uringzc.UdpStats

    def check(self) -> None:
        """Asserts that memory is flat, all of it is back, and nothing is lost."""
        assert self.end - self.warm <= GROWTH, f"grew by {(self.end - self.warm) >> 10} KiB"
        assert self.held <= BLOCK, "more of the arena is held than the block that is being filled"
        stats = self.stats
        assert (stats.waiting, stats.in_flight, stats.lost) == (0, 0, 0), stats
        assert (stats.datagrams, stats.nbytes) == (self.sent, self.nbytes), stats


def lap(tx: uringzc.UdpSender, region: uringzc.Region, number: int) -> tuple[int, int]:
    """Some thousand datagrams by each way to send; how many, and their bytes."""
    to = (testing.Sandbox.address[0], 9000 + number % DESTINATIONS)
    size = SIZES[number % len(SIZES)]
    data = bytes(size)
    for _ in range(RUN):
        tx.send(data, to)
    count = tx.send_many([data] * RUN, to)
    for _ in range(RUN // 5):
        with tx.lease(size) as lease:
            lease.view[:1] = b"x"[:size]
            lease.send(size, to)
    regional = tx.send_region(region, segment=1200, to=to)
    return RUN + count + RUN // 5 + regional, (RUN + count + RUN // 5) * size + len(region)


def soak(
    count: int,
    report: Callable[[int, int, uringzc.UdpSender], None] = lambda sent, memory, tx: None,
    lap: Callable[[uringzc.UdpSender, uringzc.Region, int], tuple[int, int]] = lap,
) -> Result:
    """Sends at least so many. Calls `report` from time to time with that count and the resident bytes."""
    sent = nbytes = warm = number = 0
    with testing.sink() as box, box.socket() as sock, uringzc.UdpSender(sock=sock) as tx:
        region = tx.register(2400 * 1200)
        while sent < count:
            datagrams, size = lap(tx, region, number)
            sent, nbytes, number = sent + datagrams, nbytes + size, number + 1
            if not warm and sent >= count // 10:
                tx.drain()
                gc.collect()
                warm = resident()
            if number % 100 == 0:
                report(sent, resident(), tx)
        tx.drain()
        gc.collect()
        end = resident()
        held = tx._arena.memory.length - tx._arena.free
        return Result(sent, nbytes, warm, end, held, tx.stats)


def main() -> None:
    """The command line."""
    from rich.progress import Progress

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10**8, help="datagrams (default: %(default)s)")
    count = parser.parse_args().count
    with Progress() as progress:
        task = progress.add_task("soak", total=count)

        def report(sent: int, memory: int, tx: uringzc.UdpSender) -> None:
            arena, stats = tx._arena, tx.stats
            text = f"RSS {memory >> 10} KiB, arena {arena.free >> 10} KiB free, {stats.in_flight} in flight"
            progress.update(task, completed=sent, description=f"{text}, {stats.lost} lost")

        result = soak(count, report)
    grown = (result.end - result.warm) >> 10
    print(f"{result.sent} datagrams, {result.nbytes} bytes; resident memory grew by {grown} KiB")
    print(result.stats)
    result.check()


if __name__ == "__main__":
    main()
