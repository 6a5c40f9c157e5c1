"""`uringzc doctor`: what works here, what does not, why, and what would change that."""

import json
import platform
import sys
from dataclasses import asdict, dataclass

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import uringzc
from uringzc.policy import TRIAL
from uringzc.probe import Reason
from uringzc.route import Route
from uringzc.udp import ARENA

_DISCARD = 9  # a port: nothing is sent to it
_LARGEST = 65507
_YES, _NO, _UNKNOWN = "[green]yes[/]", "[red]no[/]", "[dim]not known[/]"
_OFFLOADS = (
    ("checksum offload", "checksum"),
    ("scatter-gather", "scatter_gather"),
    ("UDP segmentation", "segmentation"),
)


@dataclass(frozen=True)
class Sender:
    """What a UdpSender to the host would do."""

    size: int  #: bytes of a datagram that fills the MTU
    train: int  #: datagrams of that size in a train
    zero_copy: bool
    why: str
    explain: str  #: what it says itself, before it has sent anything


@click.command()
@click.argument("host", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(host: str | None, as_json: bool) -> None:
    """Say what works here, what does not, and what would change it; with HOST, also what is on the way there.

    Nothing is sent to HOST.

    \b
    Exit status: 0  it can send: with io_uring, or without
                 1  it can not, or there is no way to HOST
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
        told = {"sender": None if sender is None else asdict(sender)}
        click.echo(json.dumps(about | capabilities.as_dict() | told, indent=2))
    else:
        _tell(Console(highlight=False), capabilities, sender)
    sys.exit(capabilities.engine == "none")


def _sender(capabilities: uringzc.Capabilities, host: str) -> Sender:
    way = capabilities.route
    assert way is not None
    with uringzc.UdpSender((host, _DISCARD)) as tx:
        explain = tx.explain()
    if capabilities.engine == "copy":
        why = "the engine does nothing but copy"
    elif way.copies:
        why = f"{way.copies.text}; the first {TRIAL} requests tell a sender so, and it copies from then on"
    else:
        why = f"{way.device} takes the memory as it is"
    train = min(capabilities.limits.segments, max(1, _LARGEST // way.payload))
    zero_copy = capabilities.engine != "copy" and not way.copies
    return Sender(way.payload, train, zero_copy, why, explain)


# -- for people


def _tell(console: Console, capabilities: uringzc.Capabilities, sender: Sender | None) -> None:
    def headline(text: str) -> None:
        console.print(f"\n[bold]{escape(text)}[/]", soft_wrap=True)

    where = f"Linux {platform.release()}, Python {platform.python_version()}"
    headline(f"uringzc {uringzc.__version__}, {where}")
    console.print(_engines(capabilities))
    headline("Limits")
    console.print(_limits(capabilities))
    if capabilities.route:
        headline(f"The way to {capabilities.route.host}")
        console.print(_way(capabilities.route, sender))
    if sender:
        headline("A UdpSender says")
        console.print(escape(sender.explain))
    if not capabilities.details:
        console.print("\n[bold green]Nothing is in the way.[/]")
        return
    headline("What is in the way, and what would change it")
    console.print(_findings(capabilities.details))


def _engines(capabilities: uringzc.Capabilities) -> Table:
    table = _pairs()
    for name, reason in capabilities.engines.items():
        note = 'what engine="auto" picks' if name == capabilities.engine else ""
        if reason:
            note = f"{reason.name}: see below" if reason in capabilities.details else str(reason)
        table.add_row(name, _NO if reason else _YES, escape(note))
    return table


def _limits(capabilities: uringzc.Capabilities) -> Table:
    table, limits = _pairs(), capabilities.limits
    memlock = "no limit" if limits.memlock is None else _kib(limits.memlock)
    sends = "not known" if limits.optmem_sends is None else f"{limits.optmem_sends} sends"
    table.add_row("trains", f"{limits.segments} datagrams" if limits.segments > 1 else _NO, "UDP_SEGMENT")
    table.add_row("locked memory", memlock, "RLIMIT_MEMLOCK, per user")
    if capabilities.engine == "io_uring":
        table.add_row(
            "registered arena", _kib(limits.arena), f"of the {_kib(ARENA)} that a UdpSender asks for"
        )
    table.add_row("send buffer", _kib(limits.sndbuf), f"net.core.wmem_max is {limits.wmem_max}")
    table.add_row("MSG_ZEROCOPY", sends, f"in flight, net.core.optmem_max is {limits.optmem_max}")
    return table


def _way(way: Route, sender: Sender | None) -> Table:
    table = _pairs()
    table.add_row("address", way.address, "")
    table.add_row("device", way.device, way.kind)
    table.add_row("MTU", f"{way.mtu}", f"up to {way.payload} bytes in a datagram that is not fragmented")
    for text, name in _OFFLOADS:
        on = getattr(way, name)
        table.add_row(text, _UNKNOWN if on is None else _YES if on else _NO, "")
    if sender:
        table.add_row("trains", f"{sender.train} x {sender.size}", "datagrams, bytes")
        table.add_row("zero-copy", _YES if sender.zero_copy else _NO, escape(sender.why))
    return table


def _findings(details: tuple[Reason, ...]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for reason in details:
        table.add_row(reason.name, escape(reason.text))
        if reason.fix:
            table.add_row("", f"[green]{escape(reason.fix)}[/]")
    return table


def _pairs() -> Table:
    table = Table(box=None, show_header=False, padding=(0, 3, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(style="dim")
    return table


def _kib(nbytes: int) -> str:
    return f"{nbytes >> 10} KiB"
