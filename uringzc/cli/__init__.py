"""The `uringzc` command: a file for each subcommand, and `output` for what they print.

Of `demo` are also `demo_receiver`, `demo_peer`, `transfer`, `sources`, `compare` and `tables`; of `bench`
are `bench_options` and `bench_tables`; of `send` and `recv` is `traffic`. What these three do is in
`uringzc/jobs/`, and that of `diff` and `report` in `uringzc/report/`.
"""

import os
import shlex
import sys
import traceback
from contextlib import suppress
from typing import Any

try:
    import click

    from uringzc.cli import bench, calibrate, demo, diff, doctor, recv, report, send
    from uringzc.cli.output import OutputError
except ModuleNotFoundError as error:
    missing = (error.name or "").partition(".")[0]
    if missing not in ("click", "rich"):
        raise
    raise SystemExit(f"the uringzc command needs {missing}: pip install 'uringzc[cli]'") from None

from uringzc import __version__


def _while_printing(error: OSError) -> bool:
    """Whether click.echo() raised it, and not what a command does besides."""
    *_, (innermost, _line) = traceback.walk_tb(error.__traceback__)
    return innermost.f_globals.get("__name__") == "click.utils"


class Commands(click.Group):
    """Ends with one line where standard output cannot be written to. A context's `obj`: the command line."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """As in click."""
        line = shlex.join(["uringzc", *args])  # before it is parsed, which empties args
        return super().make_context(info_name, args, parent, obj=line, **extra)

    def main(self, *args: Any, **options: Any) -> Any:
        """As in click, which prints its own errors."""
        try:
            return super().main(*args, **options)
        except (OSError, OutputError) as error:
            if isinstance(error, OSError) and not _while_printing(error):
                raise
            why = error.strerror if isinstance(error, OSError) else error
            with suppress(OSError):  # it may be the same file
                click.echo(f"Error: standard output cannot be written to: {why}.", err=True)
            with suppress(OSError), open(os.devnull, "w") as nowhere:  # else the interpreter flushes it again
                os.dup2(nowhere.fileno(), sys.stdout.fileno())
            sys.exit(1)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="uringzc")
def main() -> None:
    """Zero-copy network sends with notifier slots, over io_uring or MSG_ZEROCOPY."""


main.add_command(bench.bench)
main.add_command(calibrate.calibrate)
main.add_command(demo.demo)
main.add_command(diff.diff)
main.add_command(doctor.doctor)
main.add_command(recv.recv)
main.add_command(report.report)
main.add_command(send.send)
