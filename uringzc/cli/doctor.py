"""`uringzc doctor`: what works here, what does not, why, and what would change that."""

import json
import platform
import socket
import sys
from dataclasses import asdict, dataclass

import click
from rich.console import Console
from rich.text import Text

import uringzc
from uringzc.calibration import saved
from uringzc.cli import output
from uringzc.cli.calibrate import saved_row
from uringzc.cli.output import Row, rows
from uringzc.doctor.route import DISCARD, Route
from uringzc.engines.tables import MAX_PAYLOAD
from uringzc.errors import counted
from uringzc.kernel.reasons import Reason
from uringzc.senders.policy import TRIAL
from uringzc.senders.udp_setup import ARENA

_AUTO = 'engine="auto"'
_FRAMES = {"packet": "frames, packet", "af_xdp": "frames, af_xdp"}
_YES, _NO = Text("yes", "bold green"), Text("no", "bold red")
_OFFLOADS = (
    ("checksum offload", "checksum"),
    ("scatter-gather", "scatter_gather"),
    ("UDP segmentation", "segmentation"),
)


@dataclass(frozen=True)
class Sender:
    """What a UdpSender to the host would do."""

    size: int  #: bytes of a datagram that fills the MTU
    train: int  #: datagrams of that size in a train (a GSO batch: sent as one request)
    zero_copy: bool
    why: str
    explain: str  #: its explain(), before it has sent anything


@click.command()
@click.argument("host", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(host: str | None, as_json: bool) -> None:
    """Say what works here, what does not, and what would change it; with HOST, also on the route there.

    Nothing is sent to HOST.

    \b
    Exit status: 0  it can send: with io_uring, or without
                 1  it cannot, or there is no way to HOST
                 2  wrong options
    """
    try:
        capabilities = uringzc.probe(host)
        sender = _sender(capabilities, host) if host and capabilities.engine != "none" else None
    except OSError as error:
        raise click.ClickException(f"{error.strerror or error}.") from error
    except (ValueError, ModuleNotFoundError) as error:
        raise click.ClickException(f"{error}.") from error
    if as_json:
        about = {
            "version": uringzc.__version__,
            "kernel": platform.release(),
            "machine": platform.machine(),
            "python": platform.python_version(),
        }
        found = saved.load()
        planned = {
            "calibration": {
                "path": found.path,
                "ignored": found.problem,
                "calibrations": [one.as_dict() for one in found.calibrations],
            },
            "sender": None if sender is None else asdict(sender),
        }
        click.echo(json.dumps(about | capabilities.as_dict() | planned, indent=2))
    else:
        _print_report(output.console(), capabilities, sender)
    sys.exit(capabilities.engine == "none")


def _sender(capabilities: uringzc.Capabilities, host: str) -> Sender:
    route = capabilities.route
    assert route is not None
    with uringzc.UdpSender((host, DISCARD)) as tx:
        explain = tx.explain()
    limits = capabilities.limits
    why = ""
    if capabilities.engine == "copy":
        why = "the engine does nothing but copy"
    elif capabilities.engine == "msg_zerocopy" and limits.memlock_sends == 0:
        why = "too little memory may be locked for one send, so every send is copied (RLIMIT_MEMLOCK)"
    elif route.copies:
        why = f"{route.copies.text}; a sender sees it after {TRIAL} requests, and it copies from then on"
    train = min(limits.segments, max(1, MAX_PAYLOAD[socket.AF_INET] // route.payload))
    return Sender(route.payload, train, not why, why or f"{route.device} takes the memory as it is", explain)


def _print_report(console: Console, capabilities: uringzc.Capabilities, sender: Sender | None) -> None:
    def headline(text: str) -> None:
        console.print(f"\n{text}", style="bold")

    where = f"Linux {platform.release()}, Python {platform.python_version()}"
    headline(f"uringzc {uringzc.__version__}, {where}")
    rows(console, _engines(capabilities))
    headline("Limits")
    rows(console, _limits(capabilities))
    if calibrated := _calibrated():
        headline("Calibrated: where zero-copy pays")
        rows(console, calibrated)
    if capabilities.route:
        headline(f"The way to {capabilities.route.host}")
        rows(console, _route(capabilities.route, sender) + _frames(capabilities))
    if sender:
        headline("A UdpSender says")
        console.print(sender.explain)
    if not capabilities.details:
        console.print("\nNothing is in the way.", style="bold green")
        return
    headline("What is in the way, and what would change it")
    rows(console, _findings(capabilities.details))


def _engines(capabilities: uringzc.Capabilities) -> list[Row]:
    table = []
    for name, reason in capabilities.engines.items():
        note = f"what {_AUTO} picks" if name == capabilities.engine else ""
        if name in _FRAMES:
            trains = _no_trains(capabilities.limits.frame_segments) if name == "packet" else ""
            note = f"never {_AUTO}: Ethernet frames, past the firewall{trains}"
        if reason:
            note = f"{reason.name}: see below" if reason in capabilities.details else str(reason)
        table.append(_row(name, not reason, note))
    return table


def _no_trains(segments: int) -> str:
    return "; no trains before Linux 6.2" if segments == 1 else ""


def _frames(capabilities: uringzc.Capabilities) -> list[Row]:
    """How each engine that sends frames would send to the host."""
    table = []
    for name, path in capabilities.frames.items():
        assert capabilities.route is not None
        note = f"by {path.device} to {path.mac}, the MAC of {capabilities.route.next_hop}"
        if not path.framed:
            note = path.why
        elif path.zero_copy is not None:
            note += "; without a copy" if path.zero_copy else "; copied by the kernel (XDP_COPY)"
        table.append(_row(_FRAMES[name], path.framed, note))
    return table


def _limits(capabilities: uringzc.Capabilities) -> list[Row]:
    limits = capabilities.limits
    memlock = "no limit" if limits.memlock is None else _kib(limits.memlock)
    sends, why = limits.optmem_sends, f"net.core.optmem_max is {limits.optmem_max}"
    if limits.memlock_sends is not None and (sends is None or limits.memlock_sends < sends):
        sends, why = limits.memlock_sends, "by locked memory"
    arena = f"of the {_kib(ARENA)} that a UdpSender asks for"
    return [
        _row("trains", f"{limits.segments} datagrams" if limits.segments > 1 else False, "UDP_SEGMENT"),
        _row("locked memory", memlock, "RLIMIT_MEMLOCK, per user"),
        *([_row("registered arena", _kib(limits.arena), arena)] if capabilities.engine == "io_uring" else []),
        _row("send buffer", _kib(limits.sndbuf), f"net.core.wmem_max is {limits.wmem_max}"),
        _row("MSG_ZEROCOPY", "not known" if sends is None else counted(sends, "send"), f"in flight, {why}"),
    ]


def _calibrated() -> list[Row]:
    """What `uringzc calibrate` has saved."""
    found = saved.load()
    if found.problem:
        return [_row("ignored", False, f"{found.path}: {found.problem}")]
    return [saved_row(one) for one in found.calibrations]


def _route(route: Route, sender: Sender | None) -> list[Row]:
    table = [
        _row("address", route.address, ""),
        _row("device", route.device, route.kind),
        _row("MTU", f"{route.mtu}", f"up to {route.payload} bytes in a datagram that is not fragmented"),
        *(_row(text, getattr(route, name), "") for text, name in _OFFLOADS),
    ]
    if sender:
        table.append(_row("trains", f"{sender.train} x {sender.size}", "datagrams, bytes"))
        table.append(_row("zero-copy", sender.zero_copy, sender.why))
    return table


def _findings(details: tuple[Reason, ...]) -> list[Row]:
    table: list[Row] = []
    for reason in details:
        table.append((Text(reason.name), Text(reason.text)))
        if reason.fix:
            table.append((Text(), Text(reason.fix, "green")))
    return table


def _row(name: str, value: str | bool | None, note: str) -> Row:
    """A bool is yes or no; None is not known."""
    if isinstance(value, str):
        said = Text(value, "bold")
    else:
        said = Text("not known", "dim") if value is None else _YES if value else _NO
    return Text(name), said, Text(note, "dim")


def _kib(nbytes: int) -> str:
    return f"{nbytes >> 10} KiB"
