"""The `uringzc` command: one file per subcommand."""

try:
    import click
    import rich as _  # what the subcommands print with
except ModuleNotFoundError as error:
    raise SystemExit(f"the uringzc command needs {error.name}: pip install 'uringzc[cli]'") from None

from uringzc import __version__
from uringzc.cli.demo import demo


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="uringzc")
def main() -> None:
    """Zero-copy network sends with notifier slots, over io_uring."""


main.add_command(demo)
