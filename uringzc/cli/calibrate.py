"""`uringzc calibrate`: from how many bytes on zero-copy pays by the interface to a host; senders use it."""

import json
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from statistics import median
from typing import Any

import click
from rich.console import Console
from rich.text import Text

import uringzc
from uringzc.calibration import saved
from uringzc.calibration.lookup import unused
from uringzc.calibration.saved import Calibration, Size
from uringzc.cli import output
from uringzc.cli.output import Row, rows
from uringzc.cli.traffic import SECONDS, Parsed, failed, json_option, live_line
from uringzc.doctor.measure import ENGINES, MeasuringError, Outcome, device_to, measure
from uringzc.doctor.route import DISCARD
from uringzc.errors import counted
from uringzc.jobs.job import parse_address

_STYLES = {"zero-copy": "bold green", "copy": "", "same": "dim", "unclear": "dim"}


def target_of(text: str) -> tuple[str, int]:
    """ "192.0.2.7", "192.0.2.7:9000", "fe80::1%eth0", "[fe80::1%eth0]:9000": host and port. ValueError."""
    if text.startswith("[") and text.endswith("]"):
        host, port = text[1:-1], DISCARD
    elif text.startswith("[") or text.count(":") == 1:
        host, port = parse_address(text)
    else:
        host, port = text, DISCARD
    if not host or not port:
        raise ValueError(f"{text!r} is not HOST or HOST:PORT")
    return host, port


@click.command()
@click.argument("target", metavar="HOST[:PORT]", required=False, type=Parsed("host", target_of))
@click.option(
    "--engine", "engines", multiple=True, type=click.Choice(ENGINES), help="Only this one; may be repeated."
)
@click.option("--seconds", default=3.0, show_default=True, type=SECONDS, help="To send, for each engine.")
@click.option("--dry-run", is_flag=True, help="Save nothing.")
@click.option("--show", is_flag=True, help="Print what is saved; send nothing.")
@click.option("--forget", is_flag=True, help="Remove what is saved, or only what is for the way to HOST.")
@json_option
def calibrate(
    target: str | None,
    engines: tuple[str, ...],
    seconds: float,
    dry_run: bool,
    show: bool,
    forget: bool,
    as_json: bool,
) -> None:
    """Measure from how many bytes on zero-copy costs less than a copy on the way to HOST, and save it.

    It sends UDP to HOST, port 9 (discard) if none is given, as fast as it can: not to a machine that is busy
    with something else. A UdpSender with zero_copy="auto" then uses what was found for all that leaves by
    that interface.

    \b
    Exit status: 0    it was measured, and saved
                 1    it was not: no way to HOST, datagrams refused
                 2    wrong options, or a file that cannot be written
                 130  Ctrl-C; nothing was saved
    """
    if show + forget + dry_run > 1:
        raise click.UsageError("Only one of --show, --forget and --dry-run.")
    if not (target or show or forget):
        raise click.UsageError("Name a HOST to send to, or --show or --forget.")
    console = output.console(quiet=as_json)
    to = None if target is None else target_of(target)
    try:
        if show:
            _show(console, to, as_json)
        elif forget:
            _forget(console, to, as_json)
        else:
            assert to is not None
            _calibrate(console, to, engines, seconds, dry_run, as_json)
    except KeyboardInterrupt:
        click.echo("Stopped: nothing was saved.", err=True)
        sys.exit(130)
    except MeasuringError as error:
        raise click.ClickException(f"{error}.") from error
    except OSError as error:
        raise output.os_error(error) from error
    except ValueError as error:
        raise click.UsageError(f"{error}.") from error


def _calibrate(
    console: Console,
    to: tuple[str, int],
    engines: Sequence[str],
    seconds: float,
    dry_run: bool,
    as_json: bool,
) -> None:
    path = saved.path()
    if not dry_run:
        saved.check_writable(path)
    found: list[Calibration] = []
    problems: dict[str, OSError | MeasuringError] = {}
    for engine in engines or ENGINES:
        try:
            outcome = _measure(to, engine, seconds)
        except (OSError, MeasuringError) as error:
            if engines:
                raise
            problems[engine] = error
            continue
        one = calibration_of(outcome, engine, to[0])
        found.append(one)
        _report(console, one, outcome.rounds)
    if not found:
        raise next(iter(problems.values()))
    if not dry_run:
        saved.save(path, found, uringzc.__version__)
    if as_json:
        about = {"calibrations": [one.as_dict() for one in found], "path": path, "saved": not dry_run}
        click.echo(json.dumps(about | {"failed": _sentences(problems)}, indent=2))
        return
    for sentence in _sentences(problems):
        console.print(f"Not measured: {sentence}.")
    if dry_run:
        console.print("Not saved (--dry-run).")
    else:
        console.print(f"Saved in {path}.")
        console.print(
            f"A UdpSender that starts from now on uses it for all that leaves by {found[0].interface}."
        )


def _sentences(problems: dict[str, OSError | MeasuringError]) -> list[str]:
    return [f"{engine}: {getattr(why, 'strerror', None) or why}" for engine, why in problems.items()]


def _measure(to: tuple[str, int], engine: str, seconds: float) -> Outcome:
    with live_line() as show:
        return measure(
            to,
            engine,
            seconds,
            show and (lambda done, number: show(f"{engine} to {to[0]}  {done:4.0%}  round {number}")),
        )


def calibration_of(outcome: Outcome, engine: str, host: str) -> Calibration:
    """What is saved of it."""
    machine, kernel = saved.this_machine()
    name, driver, bus, mtu = outcome.device
    sizes = (
        Size(
            one.nbytes,
            round(median(one.copy), 1),
            round(median(one.zero_copy), 1),
            round(one.saved, 3),
            "copy" if outcome.copied else one.better,
        )
        for one in outcome.measured
    )
    return Calibration(
        machine=machine,
        kernel=kernel,
        interface=name,
        driver=driver,
        bus=bus,
        mtu=mtu,
        engine=engine,
        min_zero_copy=outcome.min_zero_copy,
        copied=outcome.copied,
        at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        to=host,
        sizes=tuple(sizes),
    )


def _report(console: Console, one: Calibration, rounds: int) -> None:
    """The table, and what it says."""
    console.print(f"{one.engine} by {one.interface}, MTU {one.mtu}, {counted(rounds, 'round')}", style="bold")
    console.print("ns of CPU time for a request", style="dim")
    console.print(f"{'bytes':>7} {'copy':>7} {'zero-copy':>9} better by")
    for size in one.sizes:
        line = Text(f"{size.nbytes:>7,} {size.copy_ns:>7,.0f} {size.zero_copy_ns:>9,.0f} ")
        by = "" if one.copied or size.better in ("same", "unclear") else f" {abs(size.saved):.0%}"
        console.print(line.append(size.better + by, _STYLES[size.better]))
    console.print(f"{_conclusion(one)}.\n")


def _conclusion(one: Calibration) -> str:
    if one.copied:
        return (
            "Zero-copy never pays: the kernel copied these requests too (loopback, a device without checksum "
            "offload, a packet capture)"
        )
    if one.min_zero_copy is None:
        return "Zero-copy never pays"
    if one.sizes and one.min_zero_copy == one.sizes[0].nbytes:
        return f"Zero-copy always pays: from {one.min_zero_copy:,} bytes, the smallest that was measured"
    return f"Zero-copy pays from {one.min_zero_copy:,} bytes of a request"


def _show(console: Console, to: tuple[str, int] | None, as_json: bool) -> None:
    found = saved.read(saved.path())
    device = None if to is None else device_to(to)
    some = [one for one in found.calibrations if device is None or one.device == device]
    if as_json:
        listed = [{**one.as_dict(), "unused": unused(one)} for one in some]
        about = {"path": found.path, "ignored": found.problem, "calibrations": listed}
        click.echo(json.dumps(about, indent=2))
    elif found.problem:
        failed(console, [f"{found.path} is ignored: {found.problem}"])
    elif not some:
        console.print(f"Nothing is saved{f' for {device.name}' if device else ''}.")
    else:
        rows(console, [saved_row(one) for one in some])
        console.print(f"In {found.path}.", style="dim")
    sys.exit(bool(found.problem))


def saved_row(one: Calibration) -> Row:
    """A calibration in a line."""
    pays = f"from {one.min_zero_copy:,} bytes" if one.min_zero_copy else "never"
    why = unused(one)
    note = f"{one.date}, to {one.to}{f'; not used: {why}' if why else ''}"
    return Text(one.interface), Text(one.engine), Text(pays, "dim" if why else "bold"), Text(note, "dim")


def _forget(console: Console, to: tuple[str, int] | None, as_json: bool) -> None:
    path = saved.path()
    device = None if to is None else device_to(to)
    machine = saved.this_machine()[0]

    def matches(one: Calibration) -> bool:
        return device is None or (one.machine, one.interface) == (machine, device.name)

    count = saved.forget(path, matches, uringzc.__version__) if path else 0
    about: dict[str, Any] = {"path": path, "forgotten": count}
    if as_json:
        click.echo(json.dumps(about, indent=2))
    else:
        console.print(f"Forgot {counted(count, 'calibration')}.")
