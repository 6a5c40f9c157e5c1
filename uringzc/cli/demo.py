"""`uringzc demo`: a real file leaves through notifier slots, and arrives in another process byte for byte."""

import errno
import glob
import hashlib
import json
import os
import stat
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from typing import Any, BinaryIO

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from uringzc.cli import output, tables
from uringzc.cli.compare import ROUNDS, NoSinkError, compare
from uringzc.cli.demo_peer import Peer
from uringzc.cli.demo_receiver import Plan
from uringzc.cli.sources import LostError, Windows
from uringzc.cli.transfer import Result, SlotTotals, Transfer, open_scheduler

#: large, because each datagram costs the same; whole pages, because the kernel charges those
SIZE = 15 * 4096
#: bytes: a smaller file is sent again and again
ENOUGH = 2_000_000_000
_MAX_LIBRARY = 512_000_000
#: u64, whatever the program likes; here the last digits are the slot's number
TAG = 0xF11E0000

LOOPBACK = (
    "Loopback copies, so `copied` is 100%: a receiver on the same machine could otherwise keep the sender's "
    "memory for as long as it does not read."
)
SINK = "Into a device that only frees what it gets, nothing has to be copied"
LEGEND = (
    f"The best of {ROUNDS} runs each. Windows: the file is read into registered memory, as above. "
    "Mapped: it is sent from where the kernel keeps it."
)


class NotHereError(click.ClickException):
    """Ends the command: what it needs is missing here."""

    exit_code = 3


@click.command()
@click.argument("file", required=False, type=click.Path(readable=False))
@click.option("--slots", default=4, show_default=True, type=click.IntRange(1, 1024), help="Notifier slots.")
@click.option(
    "--size", default=SIZE, show_default=True, type=click.IntRange(64, 65487), help="Bytes in a datagram."
)
@click.option("--times", type=click.IntRange(1), help="How often to send FILE [default: once].")
@click.option("--ipv6", is_flag=True, help="Over ::1 instead of 127.0.0.1.")
@click.option("--no-sink", is_flag=True, help="Leave out the comparison, which needs privileges.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def demo(
    file: str | None, slots: int, size: int, times: int | None, ipv6: bool, no_sink: bool, as_json: bool
) -> None:
    """Send FILE over loopback to another process, and watch the notifications of its memory.

    The other process checks every datagram and the SHA-256. Without FILE, it is the largest shared library
    that is found here, often enough for about 2 GB.

    \b
    Exit status: 0  everything arrived
                 1  something was lost or wrong
                 2  wrong options or file
                 3  it cannot be done here
    """
    console = output.console(quiet=as_json)
    try:
        found = Demo(console, slots, size, ipv6).run(file, times, not no_sink)
    except LostError as error:
        raise click.ClickException(f"the file did not arrive as it was sent: {error}.") from error
    except OSError as error:
        less = "; smaller --slots and --size need less" if error.errno == errno.ENOMEM else ""
        raise NotHereError(f"{error.strerror or error}{less}.") from error
    except KeyboardInterrupt:
        click.echo("Stopped; the receiving process has ended too.", err=True)
        sys.exit(130)
    if as_json:
        click.echo(json.dumps(found, indent=2))


class Demo:
    """One run of the command: sends, checks, compares, and prints the results."""

    def __init__(self, console: Console, slots: int, size: int, ipv6: bool) -> None:
        self._console, self._size, self._ipv6 = console, size, ipv6
        self._live = console.is_terminal and not console.quiet
        self._tags = [TAG + slot for slot in range(slots)]

    def run(self, path: str | None, times: int | None, sink: bool) -> dict[str, Any]:
        """Returns everything, for JSON."""
        with open_file(path or largest_library()) as file:
            length = os.fstat(file.fileno()).st_size
            plan = Plan(length, self._size, times or (1 if path else -(-ENOUGH // length)))
            self._introduce(file.name, "" if path else ", the largest shared library here", plan)
            with self._busy("reading it for its SHA-256"):
                digest = sha256(file)
            slots, result, verdict = self._send(file, plan)
            check(verdict, digest)
            self._report(result, verdict, digest)
            compared = self._compare(file, plan) if sink else None
        return {
            "file": {"path": file.name, "bytes": length, "sha256": digest, "times": plan.times},
            "datagram": plan.size,
            "slots": [asdict(slot) for slot in slots],
            "loopback": result.as_dict(),
            "receiver": verdict,
            "sink": compared,
        }

    def _introduce(self, name: str, why: str, plan: Plan) -> None:
        say = self._console.print
        say(f"\n{name}", style="bold", soft_wrap=True)
        say(f"{tables.size(plan.file_size)}{why}, sent {tables.times(plan.times)} to another process")
        say(f"as {tables.datagrams(plan.datagrams)} of {plan.length(0):,} bytes, from registered memory\n")

    def _send(self, file: BinaryIO, plan: Plan) -> tuple[list[SlotTotals], Result, dict[str, Any]]:
        with Peer(plan, self._ipv6) as peer, open_scheduler(plan, self._tags) as scheduler:
            source = Windows(scheduler, file, plan)
            transfer = Transfer(scheduler, peer.sock, source, plan, self._tags)
            try:
                with self._progress(transfer, plan):
                    result = transfer.run(peer.room)
            except ConnectionRefusedError:
                peer.verdict(transfer.sent)  # LostError, which says how the receiver ended
                raise
            verdict = peer.verdict(transfer.sent)
        return transfer.slots, result, verdict

    @contextmanager
    def _progress(self, transfer: Transfer, plan: Plan) -> Iterator[None]:
        """Progress bar and slots, live on a terminal; elsewhere the slots, when all is sent."""
        bar = tables.progress()
        task = bar.add_task("", total=plan.nbytes)

        def screen() -> RenderableType:
            sent = min(transfer.sent * plan.piece, plan.nbytes)
            bar.update(task, completed=sent, size=f"{tables.size(sent)} of {tables.size(plan.nbytes)}")
            return Group(bar, tables.slots(transfer.slots))

        if self._live:
            with Live(get_renderable=screen, console=self._console, refresh_per_second=8):
                yield
        else:
            yield
            self._console.print(tables.slots(transfer.slots))

    def _busy(self, doing: str) -> AbstractContextManager[object]:
        return self._console.status(doing) if self._live else nullcontext()

    def _report(self, result: Result, verdict: dict[str, Any], digest: str) -> None:
        say = self._console.print
        count = tables.datagrams(result.datagrams)
        say(Text.assemble(("Everything arrived", "bold green"), f", in order and byte for byte: {count},"))
        say(f"SHA-256 {digest}\n")
        say(tables.figures(result, verdict["cpu"]))
        if result.copied:
            say(f"\n{LOOPBACK}", style="dim")

    def _compare(self, file: BinaryIO, plan: Plan) -> dict[str, Any] | None:
        try:
            with self._busy("comparing"):
                results = compare(file, plan, self._tags, self._ipv6)
        except NoSinkError as error:
            self._console.print(f"\nA comparison of zero-copy with copying {error}.", style="dim")
            return None
        self._console.print(f"\n{SINK}", style="bold")
        self._console.print(tables.comparison(results))
        self._console.print(LEGEND, style="dim")
        return {" ".join(kind): result.as_dict() for kind, result in results.items()}


def check(verdict: dict[str, Any], digest: str) -> None:
    """LostError if the pieces arrived, all and in order, but are not the file."""
    if verdict["sha256"] != [digest]:
        arrived = " and ".join(verdict["sha256"])
        raise LostError(
            f"every datagram arrived in order, but with SHA-256 {arrived} instead of {digest}; "
            "either bytes were changed on the way, or the file while it was sent"
        )


def sha256(file: BinaryIO) -> str:
    """Of the whole file."""
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def open_file(path: str) -> BinaryIO:
    """A regular file that is not empty; BadParameter for any other."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise click.BadParameter(f"{path} is not a regular file.", param_hint="FILE")
        if not status.st_size:
            raise click.BadParameter(f"{path} is empty.", param_hint="FILE")
        return open(path, "rb", buffering=0)
    except OSError as error:
        raise click.BadParameter(f"{path} cannot be read: {error.strerror}.", param_hint="FILE") from error


def largest_library() -> str:
    """The largest readable shared library up to 512 MB: Linux has some wherever it has Python."""
    wanted = [sysconfig.get_config_var(name) for name in ("LIBDIR", "DESTSHARED")]
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    wanted += ["/usr/lib", "/usr/lib64", f"/usr/lib/{multiarch}", "/lib", f"/lib/{multiarch}"]
    found = [os.path.realpath(path) for top in wanted if top for path in glob.glob(f"{top}/*.so*")]
    found = [path for path in found if os.path.isfile(path) and os.access(path, os.R_OK)]
    sizes = {path: os.path.getsize(path) for path in [os.path.realpath(sys.executable), *found]}
    return max((path for path in sizes if sizes[path] <= _MAX_LIBRARY), key=lambda path: (sizes[path], path))
