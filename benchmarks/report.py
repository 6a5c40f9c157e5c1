"""What was found, as Markdown, a table on the terminal, JSON and a picture."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import rich
from rich.table import Table

from benchmarks import pairs
from benchmarks.pairs import Row, Sample

REASONS = {
    "1": """The kernel's part of a send is the same; what is left is the accounts: a request's entry is
written when it is queued, at each of its two completions, and when it is released, which the C loop
does not do: 40 to 55 ns of user time for each request, against less than 10.""",
    "2": "Both sides carry the accounts' fixed cost, so the ratio follows C's where sizes are large.",
    "3": """A notification costs its notifier: opened, posted, read, freed; and a namedtuple, if each
is wanted.""",
    "4": """The library adds about 0.15 microseconds to what the kernel takes for a zero-copy request.
Where the target is missed, the C loop's rate for that size (first table) is the ceiling: on this
machine the kernel's two completions per request cost nearly as much as the copy and the system call
that they save.""",
    "5": "The kernel's part of a train is most of it; the rest is a copy and a call for each datagram.",
    "6": "The kernel's part of a train is most of it; the rest is a copy for each datagram.",
    "7": """Nearly all of it is the kernel's: the C loop with zero-copy trains of the same length, which
the rows below compare with the block too, is the ceiling. What is not registered is pinned page by page,
for each train. `C, a request each` is the tuned loop of the first table, not liburing's example, which is
slower.""",
    "7b": """Where the device cannot cut up trains the kernel does, after the copy is saved, and a packet for
each datagram costs far more than the copy. The user nobody is a process without capabilities, with 8 MiB
to lock and the socket buffer that a net.core.wmem_max of so much grants (212992 was long the default).""",
    "8": "Each size is a train of its own, or of two.",
    "9": """The first requests to a destination are zero-copy, until the notifications tell that the kernel
copies; now and then a few ask again.""",
    "10": """Half of `send` is done with the GIL held; only what the kernel does runs side by side, and a
thread that waits for the GIL sleeps: how long it takes to wake up decides. Two processes of the C loop,
below, show what the machine has for two: it is shared, and that moves.""",
    "11": """A datagram alone goes out by one system call, as with `socket.send`; what is more is a second
call from Python, and the copy into the arena.""",
    "12": "More entries in use are more cache misses.",
    "14": """`auto` copies by the same system call as `sendall`, but for the few writes that ask whether it is
still better.""",
}

VERDICTS = {True: "yes", False: "no", None: ""}

INTRODUCTION = """\
# Results

Written by `make bench`; drawn in `results.png`, with every run in `results.json`. Programs run in
turn, A B A B; each figure is the median of the ratios of neighbouring runs, with their range, and the
interval that holds the true median with 95 %. The sink is an ifb device in a network namespace: truly
zero-copy, and never read. Against itself the C program has given 0.997 (0.88 to 1.02), so a target of
1.00 is called met when the interval holds it.

Loopback and veth copy at delivery, whatever is asked for: nothing is gained there, and what is looked for is
that nothing is lost. Of `zero_copy="auto"` (target 9, against what is better of "never" and "always"; 14) a
run ends when the last byte has left the sender's side, and a process reads what comes. `hold` is a veth pair
behind a gate of 213 MB/s. Engines are compared with the one that copies; what they send over TCP is asked to
be zero-copy, and copied at delivery.
"""

BY_SIZE = """\
## Thousand requests a second, by size (the patch set's dummy table)

C posts a notification for each zero-copy request, as mainline does, so its zc is also its zc + flush.
In brackets: against the same program's non-zc.
"""


@dataclass(frozen=True)
class Arrivals:
    """Numbered datagrams on one path: how many were sent and came, and how often one came before its turn."""

    path: str
    size: int
    sent: int
    came: int
    overtaken: int


@dataclass
class Found:
    """What was measured: rows by target, runs by size and program, bytes by kind of request."""

    runs: str
    soak: int
    rows: dict[str, list[Row]] = field(default_factory=dict)
    sweep: dict[int, dict[str, tuple[Sample, ...]]] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    arrivals: list[Arrivals] = field(default_factory=list)

    def add(self, target: str, *rows: Row) -> None:
        """Keep rows under a target."""
        self.rows.setdefault(target, []).extend(rows)

    @property
    def all_rows(self) -> list[Row]:
        """Every row, in order."""
        return [row for _, rows in self.in_order for row in rows]

    @property
    def in_order(self) -> list[tuple[str, list[Row]]]:
        """Targets and their rows; the rows without one, of "-", are last."""
        return sorted(self.rows.items(), key=lambda item: item[0] == "-")


def met(row: Row) -> bool | None:
    """Whether the target, if any, is reached; one of 1.00, if the interval of the median holds it."""
    if row.target is None:
        return None
    return row.median >= row.target or (row.target == 1 and row.interval.high >= 1)


def report(found: Found) -> str:
    """Return RESULTS.md."""
    lines = [
        INTRODUCTION,
        *(f"- {name}: {value}" for name, value in about(found).items()),
        "",
        BY_SIZE,
        *sweep_table(found.sweep),
        "",
        "## Targets",
        "",
        "| # | what | against | ratio | range | 95 % interval | target | met | copied |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [line(target, row) for target, rows in found.in_order for row in rows]
    lines += ["", "## Lost or reordered (target 9: nothing)", "", *arrivals_of(found.arrivals)]
    lines += ["", "## Memory beyond the payload (target 13: at most 128 bytes, no growth)", ""]
    names = {
        "region": "held request, registered memory",
        "bytes": "held request, bytes",
        "notifications": "unread notification of a request of its own",
    }
    lines += [f"- {names[kind]}: {found.memory[kind]:.0f} bytes" for kind in names]
    lines += [f"- growth over {found.soak:,} requests: {found.memory['soak']:.0f} bytes", ""]
    missed = [t for t, rows in found.rows.items() if any(met(row) is False for row in rows)]
    lines += ["## What fell short, and why", ""]
    lines += [f"- **{target}**: {REASONS[target]}" for target in missed] or ["Nothing."]
    return "\n".join(lines) + "\n"


def about(found: Found) -> dict[str, str]:
    """Return what the figures depend on."""
    with open("/proc/cpuinfo") as file:
        models = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    model = models[0] if models else platform.machine()
    return {
        "machine": f"{os.cpu_count()} x {model}, Linux {platform.release()}",
        "python": platform.python_version(),
        "runs": found.runs,
    }


def sweep_table(sweep: dict[int, dict[str, tuple[Sample, ...]]]) -> Iterator[str]:
    """Yield the lines of the table by size."""
    columns = ("non-zc", "zc", "zc + flush", "C non-zc", "C zc")
    yield "| UDP, bytes | " + " | ".join(columns) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    for size, runs in sweep.items():
        rate = {name: statistics.median(taken.rate for taken in runs[name]) for name in columns}
        shown = []
        for name in columns:
            base = rate["C non-zc" if name.startswith("C") else "non-zc"]
            gain = "" if rate[name] == base else f" ({rate[name] / base - 1:+.0%})"
            shown.append(f"{rate[name] / 1e3:.0f}{gain}")
        yield f"| {size} | " + " | ".join(shown) + " |"


def arrivals_of(arrivals: list[Arrivals]) -> Iterator[str]:
    """Yield a line for each path, and one for what went wrong."""
    for path in dict.fromkeys(each.path for each in arrivals):
        some = [each for each in arrivals if each.path == path]
        sent, came = (sum(getattr(each, name) for each in some) for name in ("sent", "came"))
        overtaken = sum(each.overtaken for each in some)
        sizes = f"{min(each.size for each in some)} to {max(each.size for each in some)} bytes"
        yield f"- {path}, {sizes}: {sent:,} sent, {came:,} came, {overtaken:,} out of order"
    for each in arrivals:
        if each.came != each.sent or each.overtaken:
            yield f"- **not as it should be**: {each}"


def line(target: str, row: Row) -> str:
    """Return a row of the table of targets."""
    copied = row.subject_samples[0].copied_share
    cells = [
        target,
        row.what,
        row.reference,
        f"{row.median:.3f}",
        f"{min(row.ratios):.3f}-{max(row.ratios):.3f}",
        f"{row.interval.low:.3f}-{row.interval.high:.3f}",
        f"{row.target:.2f}" if row.target is not None else "",
        VERDICTS[met(row)],
        "?" if copied is None else f"{copied:.0%}",
    ]
    return "| " + " | ".join(cells) + " |"


def show(found: Found) -> None:
    """Print the targets' table."""
    table = Table("#", "what", "against", "ratio", "range", "target", "met", title="uringzc")
    for target, rows in found.in_order:
        for row in rows:
            spread = f"{min(row.ratios):.2f}-{max(row.ratios):.2f}"
            wanted, reached = "" if row.target is None else f"{row.target:.2f}", VERDICTS[met(row)]
            cells = (target, row.what, row.reference, f"{row.median:.3f}", spread, wanted, reached)
            table.add_row(*cells, style="red" if met(row) is False else None)
    rich.print(table)


def write_report(found: Found, out: Path, whole: bool) -> None:
    """Write results.json and results.png, and RESULTS.md if everything was measured."""
    facts = about(found) | {f"memory, {kind}": f"{figure:.0f} bytes" for kind, figure in found.memory.items()}
    facts |= {f"arrivals {n}": line[2:] for n, line in enumerate(arrivals_of(found.arrivals), 1)}
    if found.rows:
        show(found)
        pairs.write(out / "results.json", found.all_rows, facts)
        pairs.draw(out / "results.png", found.all_rows, "uringzc")
    if whole:
        (out / "RESULTS.md").write_text(report(found))
        print(f"written: {out / 'RESULTS.md'}, results.json, results.png")
