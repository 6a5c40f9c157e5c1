"""RESULTS.md, and the table on the terminal."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.table import Table

from benchmarks.bench import Topic
from benchmarks.pairs import Target
from benchmarks.results import Case, Results

HEADINGS = (
    *("case", "against", "times", "95 % interval", "range", "target", "verdict"),
    *("thousand/s", "CPU ns", "copied"),
)

INTRODUCTION = """\
# Results

Written by `make bench` from `results.json`, which `python -m benchmarks --redraw` reads again.

![What a program gains, case by case](plots/headlines.svg)

Programs run in rounds, each once a round, in random order; *times* is the median of the ratios of two rates
in each round, then come the interval that holds the true median with 95 %, and the range. A target is met if
the median reaches it; one of 1.00 also if the interval does. Of two figures the first is the library's,
the second the other program's: thousand datagrams (TCP: writes) per second, and CPU time of the sending
process for one. *copied* is the share of the library's requests that the kernel copied after all. A *train*
is a GSO batch: datagrams of one size sent as one request, with UDP_SEGMENT.

Unless a section says otherwise, programs run in one thread and send to an ifb device in a network namespace,
which frees what it gets: truly zero-copy, and nothing else limits the rate. So the figures are what sending
costs the processor; no network is as fast.
"""

MEMORY = {
    "region": "request in flight, registered memory",
    "bytes": "request in flight, bytes",
    "notifications": "notification of a request of its own, not reaped",
}


def report(results: Results, topics: Mapping[str, Topic]) -> str:
    """Return RESULTS.md."""
    lines = [INTRODUCTION, *(f"- {name}: {value}" for name, value in results.about.items())]
    met = [case.met for case in results.cases if case.met is not None]
    if met:
        lines.append(f"- targets: {sum(met)} of {len(met)} met; the others are explained below their table")
    for topic in topics.values():
        lines += _section(topic, results)
    return "\n".join(lines) + "\n"


def _section(topic: Topic, results: Results) -> Iterator[str]:
    cases = [case for case in results.cases if case.topic == topic.name]
    extra = list(EXTRAS[topic.name](results)) if topic.name in EXTRAS else []
    if cases or extra:
        yield from ("", f"## {topic.title}", "", topic.about)
    if cases:
        yield from ("", _row(HEADINGS), "|---" * len(HEADINGS) + "|", *map(_row, map(cells, cases)))
    if extra:
        yield from ("", *extra)
    if any(case.met is False for case in cases):
        yield from ("", textwrap.fill(f"Why a target is missed: {topic.why_missed}", 110))


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"


def cells(case: Case) -> tuple[str, ...]:
    """Return the row of a case, under HEADINGS."""
    rates = [f"{rate / 1e3:,.0f}" if rate > 1e5 else f"{rate / 1e3:.3g}" for rate in case.rates or ()]
    return (
        case.case,
        case.against,
        _times(case.ratio),
        " - ".join(map(_times, case.interval)),
        " - ".join(map(_times, case.range)),
        _target(case.target),
        case.verdict,
        " / ".join(rates),
        " / ".join(f"{nanoseconds:,.0f}" for nanoseconds in case.cpu_ns or ()),
        "?" if case.copied[0] is None else f"{case.copied[0]:.0%}",
    )


def _target(target: Target | None) -> str:
    if isinstance(target, tuple):
        return " - ".join(map(_target, target))
    return "" if target is None else f"{target:.2f}"


def _times(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio >= 10 else f"{ratio:.3f}"


def _by_size(results: Results) -> Iterator[str]:
    """Yield the table by size, of the columns that the kernel's patch set of send_zc used."""
    if results.by_size:
        yield "Thousand requests per second; in brackets: against the same program's non-zc."
        yield ""
        columns = ("non-zc", "zc", "zc + flush", "C non-zc", "C zc")
        yield _row(("UDP, bytes", *columns))
        yield "|---" * (len(columns) + 1) + "|"
    for size, rates in results.by_size.items():
        shown = []
        for name in columns:
            base = rates["C non-zc" if name.startswith("C") else "non-zc"]
            gain = "" if name.endswith("non-zc") else f" ({rates[name] / base - 1:+.0%})"
            shown.append(f"{rates[name] / 1e3:.0f}{gain}")
        yield _row((str(size), *shown))


def _frames(results: Results) -> Iterator[str]:
    """Yield the table by size, of datagrams that leave as frames, and of others."""
    if results.frames:
        columns = list(next(iter(results.frames.values())))
        yield "Thousand datagrams per second to the sink with an MTU of 65535; in brackets: CPU ns for one."
        yield ""
        yield _row(("UDP, bytes", *columns))
        yield "|---" * (len(columns) + 1) + "|"
    for size, taken in results.frames.items():
        shown = (taken.get(name) for name in columns)
        yield _row(
            (str(size), *("" if one is None else f"{one[0] / 1e3:.0f} ({one[1]:.0f})" for one in shown))
        )


def _arrivals(results: Results) -> Iterator[str]:
    """Yield a line for each path."""
    if results.arrivals:
        yield "What arrives, of numbered datagrams (nothing may be lost or reordered):"
        yield ""
    for path in results.arrivals:
        yield (
            f"- {path.path}, {path.sizes[0]} to {path.sizes[1]} bytes: {path.sent:,} sent, "
            f"{path.received:,} received, {path.reordered:,} reordered"
        )


def _memory(results: Results) -> Iterator[str]:
    """Yield a line for each kind of request."""
    if results.memory:
        for kind, name in MEMORY.items():
            yield f"- {name}: {results.memory[kind]:.0f} bytes"
        requests, growth = results.memory["soak_requests"], results.memory["soak"]
        yield f"- growth over {requests:,.0f} requests: {growth:.0f} bytes"


def _endpoints(results: Results) -> Iterator[str]:
    """Yield the table of memory by loop, and a line for the trains of each case."""
    if results.endpoints:
        counts = list(next(iter(results.endpoints.values())))
        yield from ("Resident memory of a process, MB, by its number of endpoints, which have sent:", "")
        yield _row(("loop", *counts))
        yield "|---" * (len(counts) + 1) + "|"
        for loop, taken in results.endpoints.items():
            yield _row((loop, *(f"{nbytes / 1e6:.1f}" for nbytes in taken.values())))
        yield ""
    if results.trains:
        yield from ("Trains of uringzc over asyncio, by how many datagrams they have at least:", "")
    for case, trains in results.trains.items():
        total = sum(trains.values())
        shares = (f"{length}: {count / total:.0%}" for length, count in trains.items() if count)
        yield f"- {case}: {', '.join(shares)}"


#: what a topic has besides its table
EXTRAS = {
    "scheduler-sizes": _by_size,
    "auto-udp": _arrivals,
    "memory": _memory,
    "asyncio": _endpoints,
    "packet": _frames,
}


def show(results: Results) -> None:
    """Print the table, wide where that is not to a terminal."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table(*HEADINGS[:8], title="uringzc")
    for case in results.cases:
        table.add_row(*cells(case)[:8], style="red" if case.met is False else None)
    console.print(table)
