"""Uses every sender and engine at once, with random faults: nothing may grow, be lost or be changed.

Each datagram that arrives is compared byte by byte. Of each that does not arrive the sender must have
reported it, or a fault must explain it. What a notification gives back is overwritten at once. The faults:
links, neighbours, MTU and offloads that change; queues that are full or stopped; receivers that close;
signals, forks, threads that end, senders that are dropped, network namespaces that end.

Memory, descriptors, threads and pinned pages are measured once a minute, while only those users are open
that last as long as the run. All lines are written to build/soak.jsonl. How small a leak is found, behind
the first tenth of the run: a single descriptor, thread, pinned or locked page or parked engine, if it is lost
before the last third. One Python object, or 110 bytes of C memory, for every 1000 operations, from three
million operations on (half a minute); in an hour one object for every 3900, or 9 bytes for every 1000.
"""

import argparse
import os
import sys
import time
import warnings
from pathlib import Path

from rich.console import Console

from proofs import page
from proofs.signals import interruptible

from . import measures
from .measures import Sample
from .picture import draw
from .program import Program, engines_here, program
from .wraps import wrap_all

FOLDER = page.ROOT / "build"
COLUMNS = (
    *("time", "operations", "to receivers", "MB", "faults", "RSS MiB", "fds", "threads", "pinned KiB"),
    *("engines", "parked", "reported", "excused", "wrong"),
)


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m proofs.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--hours", type=float, default=1.0, help="how long (default: %(default)s)")
    parser.add_argument("--seed", default=None, help="decides what is done, and which faults happen")
    parser.add_argument("--engine", action="append", help="only this engine; may be repeated")
    parser.add_argument("--write", action="store_true", help="write what it said into docs/proof.md")
    parser.add_argument(
        "--leak", type=int, default=0, help="a control: lose an object after so many operations"
    )
    parser.add_argument(
        "--limits",
        action="store_true",
        help="drive counters of 32 bits past their end first: 20 minutes of a processor",
    )
    return parser.parse_args()


class Leak:
    """A control: an object that nobody needs any more, every so many operations."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.kept: list[bytes] = []

    def go_on(self, operations: int) -> None:
        """Up to so many."""
        while self.every and len(self.kept) < operations // self.every:
            self.kept.append(b"%040d" % len(self.kept))


def run(running: Program, seconds: float, path: Path, show: Console, leak: Leak) -> None:
    """Until the time is over; a line every minute, or ten seconds of what takes less than ten."""
    since = time.monotonic()
    period = min(60.0 if seconds >= 600 else 10.0, seconds / 12)
    following = since
    while True:
        now = time.monotonic()
        if now >= following or now - since >= seconds:
            with running.settled():
                one = measures.sample(running, since)
                measures.write(path, one)
            show.print(line(one), highlight=False)
            following += period * max(1, -(-(time.monotonic() - following) // period))
            if now - since >= seconds:
                return
        running.step()
        leak.go_on(running.world.operations)


def line(one: Sample) -> str:
    """One line of the table."""
    cells = (
        f"{one.seconds / 60:.1f} min",
        f"{one.operations:,}",
        f"{one.datagrams:,}",
        f"{one.nbytes / 1e6:.0f}",
        *(one.faults, f"{one.rss / 1024:.1f}", one.descriptors, one.threads, one.pinned, one.open),
        *(one.parked, one.lost, one.excused, one.wrong),
    )
    return "  ".join(f"{cell!s:>{max(len(title), 9)}}" for cell, title in zip(cells, COLUMNS, strict=True))


def summary(running: Program, samples: list[Sample], show: Console) -> tuple[bool, str]:
    """Whether it holds, and that in a sentence."""
    world, last = running.world, samples[-1]
    ledger, faults = world.ledger, world.faults
    for name, count in sorted((faults.counts + type(faults.counts)(world.events)).items()):
        show.print(f"{count:8} {name}", highlight=False)
    for text in (*ledger.examples, *faults.problems[:5]):
        show.print(f"[red]{text}", highlight=False)
    warm = [one for one in samples if one.seconds >= last.seconds / 10]
    for name in measures.TOLERANCES:
        more = measures.growth(warm, name) if len(warm) > 2 else 0.0
        show.print(f"{name}: {getattr(last, name):,}, grew by {more:,.0f}", highlight=False)
    grown = measures.grown(samples)
    for name, (more, most) in grown.items():
        show.print(f"[red]{name} grew by {more:.0f}, more than {most:.0f}", highlight=False)
    holds = not (ledger.wrong or grown or faults.problems)
    said = (
        f"{last.seconds / 60:.0f} min, {', '.join(running.engines)}: {last.operations:,} operations, "
        f"{last.datagrams:,} datagrams compared, {last.faults:,} faults; {last.lost:,} reported lost, "
        f"{last.excused:,} dropped by a fault, {sum(ledger.wrong.values())} wrong; "
        + (f"grew: {', '.join(grown)}" if grown else "nothing grew")
        + (f"; {len(faults.problems)} faults could not be made" if faults.problems else "")
    )
    return holds, said


def main() -> int:
    """0 if it holds."""
    options = arguments()
    interruptible()
    show = Console(soft_wrap=True)
    warnings.simplefilter("ignore", ResourceWarning)  # users are dropped on purpose
    seed = options.seed or str(int.from_bytes(os.urandom(4), "little"))
    missing = engines_here()
    engines = [name for name, why in missing.items() if not why]
    for name, why in missing.items():
        if why:
            show.print(f"without {name}: {why}", highlight=False)
    if options.engine:
        engines = [name for name in options.engine if name in engines]
    if not engines:
        show.print("no engine can be used here")
        return 2
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / "soak.jsonl"
    path.unlink(missing_ok=True)
    if options.limits:
        wrapped = wrap_all(lambda text: show.print(text, highlight=False))
        if options.write:
            page.write("make soak ARGS=--limits", wrapped)
    show.print(f"seed {seed}; {', '.join(engines)}", highlight=False)
    show.print("  ".join(f"{title:>9}" for title in COLUMNS), highlight=False)
    with program(seed, engines) as running:
        interrupted = False
        try:
            run(running, options.hours * 3600, path, show, Leak(options.leak))
        except KeyboardInterrupt:
            interrupted = True
        samples = measures.read(path)
        holds, said = summary(running, samples, show)
    draw(samples, FOLDER / "soak.png")
    show.print(f"{path}, {path.with_suffix('.png')}", highlight=False)
    show.print(("It holds: " if holds else "[red]It does not hold: ") + said, highlight=False)
    if options.write and not interrupted:
        page.write("make soak", said)
    return 130 if interrupted else 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
