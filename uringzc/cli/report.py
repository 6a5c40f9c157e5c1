"""`uringzc report`: a web page and a picture of results; also what --html and --picture of others do."""

import importlib.util
from collections.abc import Sequence

import click

from uringzc.cli import output
from uringzc.cli.diff import RESULT, read
from uringzc.report.files import File

MOST_FILES = 8  #: that a reader can compare
_OUTPUT = click.Path(writable=False, dir_okay=False)
html_option = click.option("--html", type=_OUTPUT, help="Write a web page of it to this file.")
picture_option = click.option("--picture", type=_OUTPUT, help="Write plots of it to FILE.png, .svg or .pdf.")


@click.command()
@click.argument("results", nargs=-1, required=True, type=RESULT, metavar="RESULT...")
@html_option
@picture_option
def report(results: tuple[str, ...], html: str | None, picture: str | None) -> None:
    """Make a web page, or a picture, of results.

    RESULT is a file that `uringzc bench`, `send` or `recv` has printed with --json. The page is one file,
    with tables and plots, and needs no network. Several results are shown beside each other: benches of two
    versions, or both ends of a transfer. A picture is of benches.
    """
    if html is None and picture is None:
        raise click.UsageError("what to write? --html FILE, --picture FILE, or both.")
    if len(results) > MOST_FILES:
        raise click.UsageError(f"no more than {MOST_FILES} results can be compared at once.")
    files = read(results)
    can_report(html, picture)
    write_report(files, html, picture)


def can_report(html: str | None, picture: str | None = None) -> None:
    """Says before anything is measured what keeps these from being written. UsageError, ClickException."""
    paths = [path for path in (html, picture) if path is not None]
    for name in ("jinja2", "matplotlib", "numpy") if paths else ():
        if importlib.util.find_spec(name) is None:
            raise click.ClickException(f"this needs {name}: pip install 'uringzc[report]'.")
    if picture is not None:
        from uringzc.report.picture import can_draw

        if not can_draw(picture):
            raise click.UsageError(f"{picture}: a picture is FILE.png, FILE.svg or FILE.pdf.")
    for path in paths:
        try:
            open(path, "a").close()
        except OSError as error:
            raise output.os_error(error) from error


def write_report(files: Sequence[File], html: str | None, picture: str | None = None) -> None:
    """Writes what is asked for. UsageError, ClickException."""
    try:
        if html is not None:
            from uringzc.report.page import page

            text = page(files)
            with open(html, "w", encoding="utf-8") as file:
                file.write(text)
        if picture is not None:
            from uringzc.report.picture import draw

            benches = [file for file in files if file.kind == "bench"]
            if not benches:
                raise click.UsageError("--picture is of results of uringzc bench; --html shows others too.")
            draw(benches, picture)
    except OSError as error:
        raise output.os_error(error) from error
