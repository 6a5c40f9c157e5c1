"""The picture of the headline cases, as bars that someone who has never seen the library understands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.results import Case, Results

# Okabe and Ito's palette: distinct for all kinds of colour vision, and in grey.
LIBRARY, TODAY, TUNED = "#0072B2", "#9A9A9A", "#E69F00"
LEGEND = {LIBRARY: "with uringzc", TODAY: "as usual today", TUNED: "tuned by hand, or in C"}
MARKS = {"met": ("\N{CHECK MARK}", "#007A5A"), "missed": ("\N{BALLOT X}", "#C04A00"), "": ("", "black")}
TEXT, QUIET = "#202020", "#5A5A5A"

TITLE = "How fast can a Python program send?"
SUBTITLE = "Sending in one thread: longer bars are better. Bars are to scale within each case."
NOTES = """\
{machine}, {kernel}, Python {python}, {date}. Medians of runs that alternate.
UDP goes to a virtual device that frees every packet at once: rates are what sending costs the processor, \
not what a network carries.
\N{CHECK MARK} reaches the target that the project has set, \N{BALLOT X} does not yet. \
RESULTS.md has all cases, their targets and intervals."""


@dataclass(frozen=True)
class Other:
    """A program beside the library's: its name in results.json, and in the picture."""

    against: str
    label: str
    colour: str = TODAY


@dataclass(frozen=True)
class Headline:
    """One case of the picture."""

    title: str
    detail: str
    topic: str
    case: str
    label: str  # of the library's bar
    others: tuple[Other, ...]
    nbytes: int  # of a datagram or write; 0: the time of a call is shown instead
    unit: str = "datagrams"


LOOP = Other("socket.send", "socket.send(data)")
HEADLINES = (
    Headline(
        "Small datagrams",
        "200 bytes, one call for each",
        *("udp-send", "send, 200 B", "UdpSender.send(data)"),
        (LOOP, Other("sendmsg trains of 128", "tuned loop: sendmsg, UDP_SEGMENT", TUNED)),
        200,
    ),
    Headline(
        "Datagrams that fit an Internet path",
        "1,200 bytes, one call for each",
        *("udp-send", "send, 1200 B", "UdpSender.send(data)"),
        (LOOP, Other("sendmsg trains of 54", "tuned loop: sendmsg, UDP_SEGMENT", TUNED)),
        1200,
    ),
    Headline(
        "The same without io_uring",
        "1,200 bytes, sent with MSG_ZEROCOPY",
        *("engines", "send, 1200 B, msg_zerocopy", "UdpSender.send(data)", (LOOP,)),
        1200,
    ),
    Headline(
        "Many destinations in turn",
        "1,200 bytes to one of 16, 32 each, then flush",
        *("destinations", "16 destinations, 32 datagrams each, 1200 B", "UdpSender.send(data, to)"),
        (
            Other("socket.sendto", "socket.sendto(data, to)"),
            Other("sendmsg trains", "tuned loop: sendmsg, UDP_SEGMENT", TUNED),
        ),
        1200,
    ),
    Headline(
        "One payload, many receivers",
        "32 of 1,200 bytes to a group of 16, then flush",
        *("destinations", "group of 16, 32 payloads, 1200 B", "Group.send(data)"),
        (
            Other("socket.sendto", "socket.sendto(data, to), 16 times"),
            Other("sendmsg trains", "tuned: sendmsg, UDP_SEGMENT", TUNED),
        ),
        1200,
    ),
    Headline(
        "Data already in memory",
        "cut into datagrams of 1,400 bytes",
        *("udp-region", "send_region, registered", "UdpSender.send_region(memory)"),
        (
            Other("prepared block", "tuned: send of blocks, UDP_SEGMENT", TUNED),
            Other("C, zc trains of 44", "the same in C, with io_uring", TUNED),
        ),
        1400,
    ),
    Headline(
        "Large datagrams",
        "65,000 bytes, from registered memory",
        *("scheduler-calls", "send, 65000 B, registered", "Scheduler.send(...)", (LOOP,)),
        65000,
    ),
    Headline(
        "Many requests by one call",
        "1,200 bytes, a request for each datagram",
        *("scheduler-sizes", "send_run, 1200 B", "Scheduler.send_run(...)"),
        (Other("C, same flags and batch", "the same in C, with io_uring", TUNED),),
        1200,
    ),
    Headline(
        "TCP within one machine",
        "writes of 256 KiB; the kernel must copy",
        *("auto-tcp", "TcpSender.send over loopback, 256 KiB", "TcpSender.send(data)"),
        (Other("socket.sendall", "socket.sendall(data)"),),
        *(256 << 10, "writes"),
    ),
    Headline(
        "One datagram at a time",
        "1,200 bytes, nothing to batch",
        *("udp-single", "send and flush, p50", "UdpSender.send(data), flush()", (LOOP,)),
        *(0, "calls"),
    ),
)

# Columns, as parts of the width; lines, in units of a bar's height.
LABELS, BARS, BAR_WIDTH, FACTORS = 0.475, 0.485, 0.25, 0.96
HEAD, GAP, FOOT = 5.4, 1.1, 2.9


def figure(results: Results) -> Figure:
    """Return the picture of the headline cases that were measured."""
    shown: list[tuple[Headline, list[tuple[Other, Case]]]] = []
    for headline in HEADLINES:
        found = [
            (other, results.find(headline.topic, headline.case, other.against)) for other in headline.others
        ]
        cases = [(other, case) for other, case in found if case and case.rates]
        shown += [(headline, cases)] if cases else []
    height = HEAD + FOOT + sum(len(cases) + 1 + GAP for _, cases in shown)
    page = Figure(figsize=(13, 0.31 * height), dpi=110, facecolor="white")
    axes = page.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 1), ylim=(height, 0))
    axes.set_axis_off()
    _head(axes)
    y = HEAD
    for headline, cases in shown:
        _headline(axes, y, headline, cases)
        y += len(cases) + 1 + GAP
    notes = NOTES.format_map(_Known(results.about))
    axes.text(0.02, y, notes, va="top", color=QUIET, size=9.5, linespacing=1.4)
    return page


class _Known(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return "?"


def _head(axes: Axes) -> None:
    axes.text(0.02, 1.1, TITLE, va="center", size=20, weight="bold", color=TEXT)
    axes.text(0.02, 2.4, SUBTITLE, va="center", size=11.5, color=QUIET)
    for number, (colour, name) in enumerate(LEGEND.items()):
        axes.barh(3.7, 0.018, left=0.02 + 0.16 * number, height=0.7, color=colour)
        axes.text(0.044 + 0.16 * number, 3.7, name, va="center", size=12, color=TEXT)
    axes.text(0.98, 3.7, "times as fast", va="center", ha="right", size=11, color=TEXT)


def _headline(axes: Axes, y: float, headline: Headline, cases: Sequence[tuple[Other, Case]]) -> None:
    axes.plot([0.02, 0.98], [y - GAP / 2 - 0.5] * 2, color="#DDDDDD", lw=0.8)
    axes.text(0.02, y, headline.title, va="center", size=12.5, weight="bold", color=TEXT)
    axes.text(0.02, y + 1, headline.detail, va="center", size=10.5, color=QUIET)
    rates = [case.rates for _, case in cases if case.rates]
    scale = BAR_WIDTH / max(max(pair) for pair in rates)
    _bar(axes, y, headline.label, LIBRARY, rates[0][0], scale, headline)
    for line, ((other, case), (_, rate)) in enumerate(zip(cases, rates, strict=True), 1):
        _bar(axes, y + line, other.label, other.colour, rate, scale, headline)
        axes.text(FACTORS, y + line, times(case), va="center", ha="right", size=14, weight="bold", color=TEXT)
        mark, colour = MARKS[case.verdict]
        axes.text(FACTORS + 0.008, y + line, mark, va="center", size=13, color=colour)


def _bar(
    axes: Axes, y: float, label: str, colour: str, rate: float, scale: float, headline: Headline
) -> None:
    weight = "bold" if colour == LIBRARY else "normal"
    axes.text(LABELS, y, label, va="center", ha="right", size=10.5, color=TEXT, weight=weight)
    axes.barh(y, rate * scale, left=BARS, height=0.72, color=colour)
    shown = f"{amount(rate)} {headline.unit}/s" if colour == LIBRARY else f"{amount(rate)}/s"
    if not headline.nbytes:
        shown += f", {1e6 / rate:.1f} \N{MICRO SIGN}s"
    elif colour == LIBRARY:
        shown += f", {rate * headline.nbytes / 1e9:.2g} GB/s"
    axes.text(BARS + rate * scale + 0.006, y, shown, va="center", size=9.5, color=TEXT)


def amount(rate: float) -> str:
    """Return 12.3 million, or 455,000, or 4,680."""
    return f"{rate / 1e6:.1f} million" if rate >= 1e6 else f"{float(f'{rate:.3g}'):,.0f}"


def times(case: Case) -> str:
    """Return how many times as fast the library is."""
    digits = 0 if case.ratio >= 10 else 1 if case.ratio >= 1 else 2
    return f"{case.ratio:.{digits}f}\N{MULTIPLICATION SIGN}"
