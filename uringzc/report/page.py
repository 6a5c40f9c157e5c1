"""A web page of results: one file that needs no other, and asks no server for anything."""

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources

import jinja2

from uringzc import __version__
from uringzc.report.bench_parts import bench_parts
from uringzc.report.files import File
from uringzc.report.theme import drawing, variables
from uringzc.report.transfer_parts import transfer_parts


def page(files: Sequence[File]) -> str:
    """The page of these results, as HTML. It needs jinja2, matplotlib and numpy."""
    with drawing():
        benches = [file for file in files if file.kind == "bench"]
        transfers = [file for file in files if file.kind != "bench"]
        parts = [*bench_parts(benches), *transfer_parts(transfers)]
    folder = resources.files("uringzc.report")
    script, css = ((folder / name).read_text("utf-8") for name in ("page.js", "page.css"))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string((folder / "page.html").read_text("utf-8"))
    light, dark = variables()
    return template.render(
        title=", ".join(dict.fromkeys(part.heading for part in parts if part.commands or part.lines)),
        parts=parts,
        script=script,
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        css=css,
        light=light,
        dark=dark,
        version=__version__,
    )
