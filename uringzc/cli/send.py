"""`uringzc send`: a file, standard input, a capture or generated payload, as datagrams."""

import json
import sys
from datetime import datetime
from time import time
from typing import Any

import click
from rich.console import Console

from uringzc import __version__
from uringzc.cli import output, tables
from uringzc.cli.traffic import (
    ADDRESS,
    RATE,
    SECONDS,
    Parsed,
    bits,
    failed,
    json_option,
    live_line,
    per_second,
    row,
    so_far,
)
from uringzc.errors import counted
from uringzc.jobs.job import MOST, SIZE, Job
from uringzc.jobs.result import Interrupted, Result
from uringzc.jobs.signals import sigterm_interrupts

DURATION = 10.0  #: seconds, of generated payload without a limit


def start_time(text: str) -> float:
    """Seconds of CLOCK_REALTIME: given as such, as a date and time (ISO 8601), or as +seconds from now."""
    try:
        if text.startswith("+"):
            return time() + float(text)
        return float(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise ValueError(
            f"{text!r} is no time: +5 (seconds from now), 2026-11-22T18:30:00, or seconds since 1970"
        ) from None


def share_of(text: str) -> tuple[int, int]:
    """ "2/4" is the second of four parts: (1, 4)."""
    part, slash, parts = text.partition("/")
    if not slash or not (part.isascii() and part.isdigit() and parts.isascii() and parts.isdigit()):
        raise ValueError(f"{text!r} is no share: 1/4 to 4/4 are the four quarters")
    if not 1 <= int(part) <= int(parts):
        raise ValueError(f"{text!r} is no share: the parts are counted from 1 to {parts}")
    return int(part) - 1, int(parts)


@click.command()
@click.argument("target", metavar="HOST:PORT", type=ADDRESS)
@click.argument("file", required=False, type=click.Path(readable=False, allow_dash=True))
@click.option(
    "--size", default=SIZE, show_default=True, type=click.IntRange(1, MOST), help="Bytes in a datagram."
)
@click.option("--rate", type=RATE, help="200kpps (datagrams), 2.5Gbit or 300MB (payload) per second.")
@click.option("--count", type=click.IntRange(1), help="Datagrams, then it ends.")
@click.option("--bytes", "nbytes", type=click.IntRange(1), help="Bytes, then it ends.")
@click.option("--duration", type=SECONDS, help="Seconds, then it ends [default: 10, without FILE].")
@click.option("--to", multiple=True, type=ADDRESS, help="One more destination; may be repeated.")
@click.option("--spread", is_flag=True, help="Destinations take turns, instead of getting the same.")
@click.option("--numbered", is_flag=True, help="FILE's pieces get a header, by which recv finds losses.")
@click.option("--lines", is_flag=True, help="Each line of FILE is a datagram.")
@click.option("--pcap", is_flag=True, help="FILE is a capture: send the UDP payloads in it, when they came.")
@click.option("--speed", default=1.0, show_default=True, help="With --pcap: times the original; 0: at once.")
@click.option(
    "--repeat",
    default=1,
    show_default=True,
    type=click.IntRange(0),
    help="Send FILE so often; 0: until a limit.",
)
@click.option("--share", type=Parsed("i/n", share_of), help="The i-th of n parts of FILE, as 1/4.")
@click.option("--start-at", type=Parsed("time", start_time), help="When to begin: a time, or +SECONDS.")
@click.option("--engine", default="auto", show_default=True, help="See uringzc doctor.")
@click.option(
    "--zero-copy", default="auto", show_default=True, type=click.Choice(["auto", "always", "never"])
)
@click.option("--bind", type=ADDRESS, help="The address to send from.")
@click.option("--ttl", type=click.IntRange(0, 255), help="Of unicast and multicast.")
@click.option("--interface", help="That multicast leaves by: a name, or for IPv4 an address.")
@click.option("--no-loop", is_flag=True, help="Multicast is not for receivers of this machine.")
@json_option
@click.pass_obj
def send(command: str, /, as_json: bool, **options: Any) -> None:
    """Send FILE to HOST:PORT as UDP datagrams, or standard input (-), or generated payload without FILE.

    HOST may be a multicast group. Generated datagrams of 40 bytes and more carry a number, a time and a
    checksum: `uringzc recv` counts what is lost, and how long the rest took.

    \b
    Exit status: 0    it was sent, as asked
                 1    it was not: datagrams refused, the rate not reached
                 2    wrong options or file
                 130  Ctrl-C; 143  SIGTERM
    """
    job = make_job(options)
    console = output.console(quiet=as_json)
    interrupted = 0
    try:
        with sigterm_interrupts() as status:
            try:
                result = _run(job)
            except Interrupted as stop:
                interrupted, result = status(), stop.result
            except KeyboardInterrupt:
                click.echo("Stopped.", err=True)
                sys.exit(status())
    except OSError as error:
        raise output.os_error(error) from error
    except ValueError as error:
        raise click.UsageError(f"{error}.") from error
    if as_json:
        found = {"job": job.as_dict(), "result": result.as_dict()}
        click.echo(json.dumps(found | {"uringzc": __version__, "command": command}, indent=2))
    else:
        report(console, job, result)
    sys.exit(interrupted or bool(result.failed))


def make_job(options: dict[str, Any]) -> Job:
    """The job that the options describe. UsageError."""
    target, more, no_loop = options.pop("target"), options.pop("to"), options.pop("no_loop")
    share, start_at = options.pop("share"), options.pop("start_at")
    if options["file"] is None and not (options["count"] or options["nbytes"] or options["duration"]):
        options["duration"] = DURATION
    if options["file"] == "-" and sys.stdin.isatty() and not options["numbered"]:
        options["lines"] = True  # what is typed is sent, line by line
    try:
        return Job(
            to=(target, *more),
            share=share_of(share) if share else (0, 1),
            start_at=start_time(start_at) if start_at else None,
            multicast_loop=False if no_loop else None,
            **options,
        )
    except ValueError as error:
        raise click.UsageError(f"{error}.") from error


def _run(job: Job) -> Result:
    from uringzc.jobs import run

    if job.file == "-":  # what is typed, or who writes there, has the terminal
        return run(job)
    with live_line() as show:
        return run(job, progress=show and (lambda progress: show(so_far(progress))))


def report(console: Console, job: Job, result: Result) -> None:
    """What was sent, for people."""
    to = job.to[0] if len(job.to) == 1 else counted(len(job.to), "destination")
    stopped = ", interrupted" if result.stopped == "interrupt" else ""
    console.print(
        f"{tables.datagrams(result.datagrams)} to {to} in {result.seconds:.2f} s{stopped}", style="bold"
    )
    if result.datagrams:
        mean = result.nbytes / result.datagrams
        pieces = f"{tables.size(result.nbytes)}, {mean:,.0f} bytes in a datagram"
        copied = result.copied_share
        how = "none of the requests" if copied is None else f"of {result.zero_copy:,} zero-copy requests"
        output.rows(
            console,
            [
                row("rate", per_second(result.pps)),
                row("payload", bits(result.bits_per_second), pieces),
                row("trains", f"{result.mean_train:.1f}", "datagrams in each, on average"),
                row("copied", "all" if copied is None else f"{copied:.0%}", how),
                row("CPU", f"{result.cpu_ns_per_datagram:,.0f} ns", "for a datagram"),
                row("engine", result.engine),
            ],
        )
    failed(console, result.failed)
