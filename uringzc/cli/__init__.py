"""The `uringzc` command: one file per subcommand."""

try:
    import click

    from uringzc.cli import demo, doctor
except ModuleNotFoundError as error:
    if error.name not in ("click", "rich"):
        raise
    raise SystemExit(f"the uringzc command needs {error.name}: pip install 'uringzc[cli]'") from None

from uringzc import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="uringzc")
def main() -> None:
    """Zero-copy network sends with notifier slots, over io_uring."""


main.add_command(demo.demo)
main.add_command(doctor.doctor)
