"""`uringzc recv`: counts what comes, finds what is lost, twice, out of order or wrong, and writes a file."""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import click
from rich.console import Console

from uringzc import __version__
from uringzc.cli import output, tables
from uringzc.cli.report import can_report, html_option, write_report
from uringzc.cli.traffic import (
    ADDRESS,
    SECONDS,
    Parsed,
    bits,
    duration,
    failed,
    json_option,
    live_line,
    per_second,
    row,
    so_far,
)
from uringzc.jobs.receive_job import Received, ReceiveJob, StreamReport
from uringzc.jobs.result import Interrupted, Progress
from uringzc.jobs.signals import sigterm_interrupts
from uringzc.report.files import File, ReceiveReport


def loss_share(text: str) -> float:
    """ "0.01%" or "0.0001"."""
    number = text.removesuffix("%")
    try:
        share = float(number) / (100 if number != text else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ValueError(f"{text!r} is no share of the datagrams: 0.01%, or 0.0001")
    return share


@click.command()
@click.option("--bind", required=True, type=ADDRESS, help="Where to receive; a multicast group is joined.")
@click.option(
    "--output", type=click.Path(writable=False, allow_dash=True), help="Write the payload to this file."
)
@click.option("--count", type=click.IntRange(1), help="Datagrams, then it ends.")
@click.option("--duration", type=SECONDS, help="Seconds, then it ends.")
@click.option("--idle", type=SECONDS, help="It ends when nothing came for so many seconds, after the first.")
@click.option("--loss", type=Parsed("share", loss_share), help="Fail if more is lost, as 0.01%.")
@click.option("--check", is_flag=True, help="Fail if anything is lost, twice, out of order or not numbered.")
@click.option("--interface", help="Of multicast: a name, or for IPv4 an address.")
@json_option
@html_option
@click.pass_obj
def recv(
    command: str, /, loss: str | None, check: bool, as_json: bool, html: str | None, **options: Any
) -> None:
    """Receive UDP datagrams, and say what came, and what did not.

    Datagrams of `uringzc send` are numbered, unless it sends a file without --numbered; for those it finds
    loss, order and latency, and puts the pieces of a file where they belong. Others are counted.

    It ends by --count, --duration or --idle, whichever is first. Without these, when all senders of numbered
    datagrams have said that they are done. Ctrl-C ends it at any time.

    \b
    Exit status: 0    it came as asked
                 1    it did not: nothing came, or less than --count; wrong checksums; more than --loss, or
                      what --check finds; an --output that is not complete
                 2    wrong options or address
                 130  Ctrl-C; 143  SIGTERM
    """
    try:
        job = ReceiveJob(**options)
    except ValueError as error:
        raise click.UsageError(f"{error}.") from error
    can_report(html)
    quiet = as_json or job.output == "-"
    console = output.console(quiet=quiet)
    interrupted = 0
    try:
        with sigterm_interrupts() as status:
            try:
                received = _receive(job, None if quiet else console)
            except Interrupted as stop:
                interrupted, received = status(), stop.result
            except KeyboardInterrupt:
                click.echo("Stopped.", err=True)
                sys.exit(status())
    except OSError as error:
        raise output.os_error(error, job.bind) from error
    except ValueError as error:
        raise click.UsageError(f"{error}.") from error
    wrong = failures(received, job, None if loss is None else loss_share(loss), check)
    if as_json:
        about = {"uringzc": __version__, "command": command}
        found = json.dumps({"received": received.as_dict(), "failed": wrong} | about, indent=2)
        click.echo(found, err=job.output == "-")
    else:
        shown = console if not quiet else Console(stderr=True, highlight=False, markup=False)
        report(shown, received)
        failed(shown, wrong)
    write_report([File("recv", ReceiveReport(received, tuple(wrong), __version__, command))], html)
    sys.exit(interrupted or bool(wrong))


def _receive(job: ReceiveJob, console: Console | None) -> Received:
    from uringzc.jobs import receive

    def ready(bind: str) -> None:
        click.echo(f"receiving at {bind}", err=True)

    if console is not None:
        return receive(job, progress=Lines(console), ready=ready)
    with live_line() as show:
        return receive(job, progress=show and (lambda progress: show(so_far(progress))), ready=ready)


class Lines:
    """Prints a line for each second in which something came."""

    def __init__(self, console: Console) -> None:
        self._console, self._last = console, Progress(0.0, 0, 0, None)

    def __call__(self, now: Progress) -> None:
        """To be called several times a second."""
        last = self._last
        if now.datagrams and now.seconds - last.seconds < 1:
            return
        self._last = now  # the first second begins when something comes
        if now.datagrams == last.datagrams:
            return
        seconds = now.seconds - last.seconds
        rate = per_second((now.datagrams - last.datagrams) / seconds)
        payload = bits(8 * (now.nbytes - last.nbytes) / seconds)
        lost = f"{now.lost - last.lost:,} lost" if now.lost != last.lost else ""
        self._console.print(f"{time.strftime('%H:%M:%S')}  {rate:>14}  {payload:>13}  {lost}".rstrip())


def failures(received: Received, job: ReceiveJob, loss: float | None, check: bool) -> list[str]:
    """What was asked for and did not hold, as sentences."""
    streams = received.streams
    found = [] if received.datagrams else ["nothing came"]
    if job.count is not None and received.datagrams < job.count:
        found.append(f"{received.datagrams:,} of {tables.datagrams(job.count)} came")
    if corrupt := sum(stream.corrupt for stream in streams):
        found.append(f"{tables.datagrams(corrupt)} with a wrong checksum")
    needed = 0.0 if check or (job.output is not None and streams) else loss
    if needed is not None and received.lost_share > needed:
        found.append(f"{tables.datagrams(received.lost)} lost, {received.lost_share:.4%}")
    if (check or job.output is not None) and job.count is None:
        found += [f"stream {stream.stream:08x} did not end" for stream in streams if not stream.ended]
    if check:
        found += [
            f"{tables.datagrams(count)} {what}"
            for what, count in (
                ("came twice", sum(stream.duplicates for stream in streams)),
                ("came out of order", sum(stream.reordered for stream in streams)),
                ("without a number, which nothing can be said of", received.unnumbered),
            )
            if count
        ]
    if loss is not None and not streams and received.datagrams:
        found.append("no datagram had a number, so what is lost is not known")
    return found


def report(console: Console, received: Received) -> None:
    """What came, for people."""
    interrupted = ", interrupted" if received.stopped == "interrupt" else ""
    say: Callable[..., None] = console.print
    say(f"{tables.datagrams(received.datagrams)} in {received.seconds:.2f} s{interrupted}", style="bold")
    table = [
        row("rate", per_second(received.pps)),
        row("payload", bits(received.bits_per_second), tables.size(received.nbytes)),
    ]
    if received.unnumbered:
        table.append(row("not numbered", f"{received.unnumbered:,}", "counted, and nothing else"))
    if received.dropped:
        full = f"by this socket: its buffer of {received.rcvbuf >> 10:,} KiB was full"
        table.append(row("dropped", f"{received.dropped:,}", full, "bold red"))
    if received.written:
        table.append(row("written", tables.size(received.written)))
    if received.datagrams:
        output.rows(console, table)
    for stream in received.streams:
        say(
            f"stream {stream.stream:08x} from {stream.address}{'' if stream.ended else ', which did not end'}"
        )
        output.rows(console, _stream(stream))


def _stream(stream: StreamReport) -> list[output.Row]:
    share = f"{stream.lost / stream.expected:.4%}" if stream.lost else ""
    head = f", {stream.head:,} of them before the first that came" if stream.head else ""
    table = [
        row("  came", f"{stream.datagrams:,}", f"of {stream.expected:,}"),
        row("  lost", f"{stream.lost:,}", share + head, "bold red" if stream.lost else "bold"),
    ]
    for name, count in (
        ("twice", stream.duplicates),
        ("out of order", stream.reordered),
        ("corrupt", stream.corrupt),
    ):
        if count:
            table.append(row(f"  {name}", f"{count:,}", "", "bold red"))
    if stream.latency:
        above = stream.latency_above_min
        if stream.same_clock:
            table.append(row("  latency p50", duration(stream.latency["p50"]), _percentiles(stream.latency)))
        else:
            table.append(
                row(
                    "  latency p50", f"+{duration(above['p50'])}", f"{_percentiles(above)}, above the fastest"
                )
            )
            clocks = "the fastest, by the clocks of two machines: only as right as these agree"
            table.append(row("", duration(stream.latency["min"]), clocks))
    return table


def _percentiles(latency: dict[str, float]) -> str:
    names = ("p90", "p99", "p99.9", "max")
    return ", ".join(f"{name} {duration(latency[name])}" for name in names)
