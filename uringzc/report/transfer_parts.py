"""The parts of a page about results of `uringzc send` and `uringzc recv`, both ends beside each other."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timezone

from uringzc.jobs.receive_job import StreamReport
from uringzc.jobs.result import SECOND
from uringzc.report import plots
from uringzc.report.bench_parts import distinct
from uringzc.report.files import File, ReceiveReport, SendReport
from uringzc.report.numbers import bits, duration, per_second, percent
from uringzc.report.parts import Cell, Part, Plot, Table, number, text
from uringzc.report.theme import ENGINES, OTHERS, inline

_COLOURS = [ENGINES[name] for name in ("io_uring", "msg_zerocopy", "packet", "af_xdp", "socket")]
_COLOURS += [*OTHERS, ENGINES["copy"]]
#: of Result.stopped and Received.stopped
_UNTIL = {
    "end": "until the end of its data",
    "ended": "until its senders had done",
    "nbytes": "until --bytes",
    "interrupt": "until Ctrl-C",
    "stop": "until it was stopped",
    "error": "until an error",
} | {name: f"until --{name}" for name in ("count", "duration", "idle")}


def transfer_parts(files: Sequence[File]) -> Iterator[Part]:
    """What each file is of, the rate of all over time, then the streams that came."""
    if not files:
        return
    names = distinct([file.name for file in files])
    for name, file in zip(names, files, strict=True):
        yield _about(file, name if len(files) > 1 else "")
    yield Part("Rate over time", plots=(_over_time(files, names),))
    for at, (name, file) in enumerate(zip(names, files, strict=True)):
        own = f" ({name})" if len(files) > 1 else ""
        if isinstance(file.report, ReceiveReport) and file.report.received.streams:
            yield _streams(file.report, at, own)
        elif isinstance(file.report, SendReport) and file.report.result.trains:
            yield _trains(file.report, at, own)


def _about(file: File, name: str) -> Part:
    report, own = file.report, f" ({name})" if name else ""
    if isinstance(report, SendReport):
        result, job = report.result, report.job
        to = job.to[0] if len(job.to) == 1 else f"{len(job.to)} destinations"
        heading, failed = f"uringzc send to {to}{own}", result.failed
        counted, figures = result, _of_sender(report)
    else:
        assert isinstance(report, ReceiveReport)
        heading, failed = f"uringzc recv at {report.received.bind}{own}", report.failed
        counted, figures = report.received, _of_receiver(report)  # type: ignore[assignment]
    version = f", uringzc {report.uringzc}" if report.uringzc else ""
    until = _UNTIL.get(counted.stopped, counted.stopped)
    line = f"{_moment(counted.start_ns)}{version}, {counted.seconds:.2f} s, {until}"
    rate = ("rate", per_second(counted.pps), f"{counted.datagrams:,} datagrams")
    payload = ("payload", bits(counted.bits_per_second), f"{counted.nbytes:,} bytes")
    commands = (report.command,) if report.command else ()
    return Part(heading, (line,), commands, failed, (rate, payload, *figures))


def _moment(ns: int) -> str:
    try:
        return (
            f"{datetime.fromtimestamp(ns // SECOND, timezone.utc):%Y-%m-%d %H:%M:%S} UTC" if ns else "never"
        )
    except (ValueError, OverflowError, OSError):
        return "at an unknown time"


def _of_sender(report: SendReport) -> Iterator[tuple[str, str, str]]:
    result = report.result
    yield "CPU", duration(result.cpu_ns_per_datagram), "for a datagram"
    yield "engine", result.engine, f"{result.mean_train:.1f} datagrams in a train, on average"
    if result.copied_share is not None:
        yield "copied", percent(result.copied_share), f"of {result.zero_copy:,} zero-copy requests"
    if result.lost:
        yield "not sent", f"{result.lost:,}", ", ".join(result.errors)


def _of_receiver(report: ReceiveReport) -> Iterator[tuple[str, str, str]]:
    received = report.received
    if received.streams:
        yield "lost", f"{received.lost:,}", percent(received.lost_share)
    if received.dropped:
        full = f"by this socket: its buffer of {received.rcvbuf >> 10:,} KiB was full"
        yield "dropped", f"{received.dropped:,}", full
    if received.unnumbered:
        yield "not numbered", f"{received.unnumbered:,}", "counted, and nothing else"
    if received.datagrams:
        yield "CPU", duration(received.cpu_ns / received.datagrams), "of the receiver, for a datagram"


def _over_time(files: Sequence[File], names: Sequence[str]) -> Plot:
    figure, axes = plots.sheet(3.2)
    lines = []
    for at, (name, file) in enumerate(zip(names, files, strict=True)):
        report = file.report
        if isinstance(report, SendReport):
            lines.append((f"{name}: sent", _COLOURS[at % len(_COLOURS)], "--", report.result))
        elif isinstance(report, ReceiveReport):
            lines.append((f"{name}: came", _COLOURS[at % len(_COLOURS)], "-", report.received))  # type: ignore[arg-type]
    plots.over_time(axes, lines)
    if len(lines) > 1:
        plots.legend(axes)
    heading = "Datagrams per second"
    note = "Each from its own beginning." if len(lines) > 1 else ""
    return Plot(heading, inline(figure, "rate", heading), note)


def _streams(report: ReceiveReport, at: int, own: str) -> Part:
    streams = report.received.streams
    timed = [stream for stream in streams if stream.latency]
    timed = sorted(timed, key=lambda stream: -stream.datagrams)[: plots.MOST_STREAMS]
    drawn = []
    if timed:
        figure, axes = plots.sheet(1.2 + 0.32 * len(timed))
        plots.latencies(axes, timed)
        plots.legend(axes)
        heading = "Latency, from the time in a datagram to its reading"
        few = f"The {len(timed)} largest of {len(streams)} streams." if len(timed) < len(streams) else ""
        clocks = "" if all(stream.same_clock for stream in timed) else _CLOCKS
        drawn.append(Plot(heading, inline(figure, f"latency{at}", heading), f"{few} {clocks}".strip()))
    headers = ("stream", "from", "came", "sent", "lost", "twice", "out of order", "corrupt", "ended")
    percentiles = ("p50", "p90", "p99", "p99.9", "max")
    rows = tuple(_stream(stream, percentiles) for stream in streams)
    table = Table(f"streams-{at}", "Streams", (*headers, *percentiles), rows)
    return Part(f"Streams that came{own}", plots=tuple(drawn), tables=(table,))


_CLOCKS = (
    "Of streams from elsewhere: how much more than the fastest datagram took, since the clocks may differ."
)


def _stream(stream: StreamReport, percentiles: Sequence[str]) -> tuple[Cell, ...]:
    found = stream.latency if stream.same_clock else stream.latency_above_min
    sign = "" if stream.same_clock else "+"
    share = percent(stream.lost / stream.expected) if stream.lost and stream.expected else ""
    head = f"{share}, {stream.head:,} before the first" if stream.lost and stream.head else share
    return (
        text(f"{stream.stream:08x}"),
        text(stream.address),
        number(stream.datagrams, f"{stream.datagrams:,}"),
        number(stream.expected, f"{stream.expected:,}"),
        number(stream.lost, f"{stream.lost:,}", head, "bad" if stream.lost else ""),
        *(
            number(count, f"{count:,}", style="bad" if count else "")
            for count in (stream.duplicates, stream.reordered, stream.corrupt)
        ),
        text("yes" if stream.ended else "no", style="" if stream.ended else "bad"),
        *(
            number(found.get(name), f"{sign}{duration(found[name])}" if name in found else "")
            for name in percentiles
        ),
    )


def _trains(report: SendReport, at: int, own: str) -> Part:
    figure, axes = plots.sheet(3.0)
    plots.lengths(axes, report.result.trains, ENGINES.get(report.result.engine, _COLOURS[0]))
    heading = "Share of the trains (GSO batches) by their length"
    plot = Plot(heading, inline(figure, f"trains{at}", heading))
    return Part(f"Trains that were sent{own}", plots=(plot,))
