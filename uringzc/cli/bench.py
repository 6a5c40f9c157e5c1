"""`uringzc bench`: what engines reach with datagrams of several sizes; the largest rate without more loss."""

import json
import os
import sys
import time
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from rich.console import Console

from uringzc import __version__
from uringzc.address import joined
from uringzc.cli import bench_tables, output
from uringzc.cli.bench_options import (
    fitting_sizes,
    parse_engines,
    parse_peer,
    parse_sizes,
    working_engines,
)
from uringzc.cli.bench_tables import Screen
from uringzc.cli.recv import loss_share
from uringzc.cli.traffic import RATE, Parsed, failed
from uringzc.errors import counted
from uringzc.jobs.bench_report import BenchReport, BenchRun, Limit
from uringzc.jobs.job import SIZE

if TYPE_CHECKING:
    from uringzc.jobs.near_end import NearEnd

LOSS = 0.0001
_OVERHEAD = 0.4  # seconds of a run besides those that it sends


@click.command()
@click.argument("host", required=False, metavar="HOST[:PORT]", type=Parsed("host", parse_peer))
@click.option(
    "--serve",
    is_flag=False,
    flag_value="",
    metavar="[HOST:PORT]",
    type=Parsed("host", parse_peer),
    help="Be the receiving end [default: at every address, port 5217].",
)
@click.option(
    "--size",
    "sizes",
    multiple=True,
    metavar="LIST",
    type=Parsed("sizes", parse_sizes),
    help="Bytes in a datagram: 64,1200 or 100-1400:100 [default: 64 to 8900, what fits the MTU].",
)
@click.option(
    "--engine",
    "engines",
    multiple=True,
    metavar="LIST",
    type=Parsed("engines", parse_engines),
    help='Engines, or "socket": socket.send of Python [default: io_uring, msg_zerocopy, copy that work '
    "here, and socket].",
)
@click.option(
    "--zero-copy", default="auto", show_default=True, type=click.Choice(["auto", "always", "never"])
)
@click.option(
    "--seconds", default=1.0, show_default=True, type=click.FloatRange(0.05, 500), help="Of each run."
)
@click.option(
    "--rounds",
    default=3,
    show_default=True,
    type=click.IntRange(1, 1000),
    help="Runs of each engine and size; the median counts.",
)
@click.option("--rate", type=RATE, help="200kpps, 2.5Gbit or 300MB per second [default: as fast as it goes].")
@click.option("--find-limit", is_flag=True, help="Look for the largest rate at which no more is lost.")
@click.option(
    "--loss",
    type=Parsed("share", loss_share),
    help="Fail if more is lost, as 1%; with --find-limit: what may be lost [default there: 0.01%].",
)
@click.option(
    "--json",
    "json_file",
    is_flag=False,
    flag_value="-",
    metavar="[FILE]",
    help="Print one JSON object, or write it to FILE besides.",
)
def bench(host: str | None, serve: str | None, json_file: str | None, **options: Any) -> None:
    """Measure what engines reach on the way to HOST, with datagrams of several sizes.

    Run `uringzc bench --serve` on HOST first. If HOST is this machine, that is not needed.

    Without --rate it sends as fast as it can, which fills the network to HOST.

    \b
    Exit status: 0    it was measured, and what was asked for held
                 1    it was not: no connection, a run that failed, the rate not reached, more than --loss;
                      with --find-limit: no rate held
                 2    wrong options
                 130  Ctrl-C; what was measured until then is printed
    """
    if serve is not None:
        if host is not None:
            raise click.UsageError("--serve is the receiving end, which has no HOST to send to.")
        if given := _given({"json_file", *options}):
            raise click.UsageError(f"--serve is the receiving end: {given[0]} is for the other.")
        _serve(serve)
    if host is None:
        took = json_file not in (None, "-")
        hint = f" --json has taken {json_file!r} as its FILE: put HOST before it." if took else ""
        raise click.UsageError(f"Missing argument 'HOST[:PORT]', or --serve.{hint}")
    options["sizes"] = _flat(parse_sizes(text) for text in options["sizes"])
    options["engines"] = _flat(parse_engines(text) for text in options["engines"])
    if options["find_limit"]:
        _check_find_limit(options)
    to_stdout = json_file == "-"
    try:
        report, interrupted = _measure(host, output.console(quiet=to_stdout), json_file, options)
    except OSError as error:
        raise output.os_error(error) from error
    except KeyboardInterrupt:
        click.echo("Stopped.", err=True)
        sys.exit(130)
    if json_file is not None:
        text = json.dumps(report.as_dict(), indent=2)
        if to_stdout:
            click.echo(text)
        else:
            _write(json_file, text)
    sys.exit(130 if interrupted else 1 if report.failed else 0)


def _flat(lists: Any) -> list[Any]:
    """All of them once, in their order."""
    return list(dict.fromkeys(value for values in lists for value in values))


def _check_find_limit(options: dict[str, Any]) -> None:
    for name, what in (("sizes", "--size"), ("engines", "--engine")):
        if len(options[name]) > 1:
            raise click.UsageError(f"--find-limit is for one {what}.")
    if given := _given({"rate", "rounds"}):
        raise click.UsageError(f"--find-limit tries each rate that may hold twice: leave {given[0]} out.")


def _given(names: set[str]) -> list[str]:
    """Those of the options that are on the command line, as they are written there."""
    context = click.get_current_context()
    return [
        option.opts[0]
        for option in context.command.params
        if option.name in names and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
    ]


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w") as file:
            file.write(text + "\n")
    except OSError as error:
        raise output.os_error(error) from error


def _measure(
    host: str, console: Console, json_file: str | None, options: dict[str, Any]
) -> tuple[BenchReport, bool]:
    """The report, and whether Ctrl-C has ended it. What is for people is printed."""
    from uringzc.jobs.json_lines import PeerError
    from uringzc.jobs.near_end import NearEnd

    at = datetime.now(timezone.utc).isoformat(timespec="seconds")
    name, port = parse_peer(host)
    try:
        with NearEnd(name, port) as end:
            if json_file not in (None, "-"):
                open(str(json_file), "a").close()  # better said now than when all is measured
            measured = (_find_limit if options["find_limit"] else _sweep)(console, host, end, options)
            runs, limit, wrong, interrupted = measured
            about = (__version__, at, host, options["seconds"], end.machine, end.peer)
            report = BenchReport(*about, runs, limit, tuple(wrong))
    except PeerError as error:
        raise click.ClickException(f"{host}: {error}.") from error
    bench_tables.report(console, report)
    failed(console, wrong)
    return report, interrupted


#: runs, the limit, what did not hold, whether Ctrl-C has ended it
Measured = tuple[tuple[BenchRun, ...], Limit | None, list[str], bool]


def _sweep(console: Console, host: str, end: "NearEnd", options: dict[str, Any]) -> Measured:
    from uringzc.jobs.bench import Sweep

    engines = options["engines"] or working_engines()
    sizes = options["sizes"] or fitting_sizes(end.machine.mtu, ":" in end.host)
    seconds, loss = options["seconds"], options["loss"]
    sweep = Sweep(engines, sizes, seconds, options["rounds"], options["rate"], options["zero_copy"])
    takes = sweep.total * (seconds + _OVERHEAD)
    console.print(
        f"{host}: {counted(sweep.total, 'run')} of {seconds:g} s, about {bench_tables.minutes(takes)}",
        style="bold",
    )
    screen = Screen(lambda: bench_tables.matrix(sweep), sweep.total, console)
    interrupted = False
    try:
        with screen:
            sweep.run(end, screen.watch, lambda run: screen.line(bench_tables.run_line(run)))
    except KeyboardInterrupt:
        interrupted = True
    wrong = list(sweep.failed)
    if loss is not None:
        wrong += [
            f"{run.engine}, {run.size} bytes: {lost:.4%} lost"
            for run in sweep.runs
            if (lost := run.spread(lambda each: each.lost_share).median) > loss_share(loss)
        ]
    if interrupted:
        wrong.append("stopped by Ctrl-C")
    return sweep.runs, None, wrong, interrupted


def _find_limit(console: Console, host: str, end: "NearEnd", options: dict[str, Any]) -> Measured:
    from uringzc.jobs.bench import LimitSearch
    from uringzc.jobs.json_lines import PeerError

    loss = LOSS if options["loss"] is None else loss_share(options["loss"])
    engine = options["engines"][0] if options["engines"] else working_engines()[0]
    size = options["sizes"][0] if options["sizes"] else SIZE
    seconds = options["seconds"]
    search = LimitSearch(end, engine, size, seconds, loss, options["zero_copy"])
    console.print(
        f"{host}: {engine}, {size:,} bytes, tries of {seconds:g} s, of which {100 * loss:g}% may be lost",
        style="bold",
    )
    screen = Screen(lambda: bench_tables.tries(search.tries), None, console)
    wrong, interrupted = [], False
    try:
        with screen:
            search.run(screen.watch, lambda one: screen.line(bench_tables.try_line(one)))
    except KeyboardInterrupt:
        interrupted = True
        wrong.append("stopped by Ctrl-C")
    except (PeerError, OSError, ValueError) as error:
        wrong.append(f"{engine}, {size} bytes: {getattr(error, 'strerror', None) or error}")
    limit = search.limit
    if not limit.pps and not wrong:
        slow = limit.bound == "sender"
        which = "that the sender reached" if slow else f"at which {100 * loss:g}% or less is lost"
        wrong.append(f"no rate was found {which}")
    return (), limit, wrong, interrupted


def _serve(bind: str) -> None:
    from uringzc.jobs.far_end import PORT, FarEnd

    host, port = parse_peer(bind)

    def say(line: str) -> None:
        with suppress(OSError):
            click.echo(f"{time.strftime('%H:%M:%S')}  {line}", err=True)

    try:
        with FarEnd(joined(host, PORT if port is None else port), say) as end:
            at = joined(*end.address) if host else f"port {end.address[1]} of every address of this machine"
            click.echo(f"serving at {at} (TCP and UDP), until Ctrl-C", err=True)
            if not host:
                click.echo(
                    "Whoever reaches it can send to it and have it counted; nothing is written. "
                    "--serve HOST serves at one address.",
                    err=True,
                )
            end.serve()
    except OSError as error:
        at = joined(host, PORT if port is None else port) if host else f"port {port or PORT}"
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise click.ClickException(f"{at} cannot be served: {why}.") from error
    except KeyboardInterrupt:
        pass
    sys.exit(130)
