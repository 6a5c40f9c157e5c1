"""The documentation site: built without a warning, with links that lead somewhere, and all that is public."""

import re
import runpy
import subprocess
import sys
import threading
from html import unescape
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from pages import ROOT

import uringzc
from uringzc import aio, jobs, testing

pytestmark = pytest.mark.engines()

DOCS = ROOT / "docs"
MAKE = runpy.run_path(str(DOCS / "make_site.py"))
SPHINX = ("sphinx", "furo", "myst_parser", "sphinx_copybutton")
PUBLIC = (uringzc, aio, jobs, testing)
EXPORTED = [f"{module.__name__}.{name}" for module in PUBLIC for name in module.__all__]


def referenced() -> list[str]:
    """What the pages of the reference name, for autodoc."""
    text = "\n".join(file.read_text() for file in (DOCS / "reference").glob("*.rst"))
    return re.findall(r"^\.\. auto(?:class|function|exception):: (\S+)$", text, re.MULTILINE)


def test_all_that_is_exported_is_on_the_reference_once() -> None:
    named = referenced()
    assert set(EXPORTED) - set(named) == set()
    assert len(named) == len(set(named))
    assert "uringzc.UdpSender" in named
    assert "uringzc.nothing" not in named


def test_every_package_that_exports_names_is_public() -> None:
    initials = [
        file for file in (ROOT / "uringzc").rglob("__init__.py") if "\n__all__ = " in file.read_text()
    ]
    packages = {".".join(file.parent.relative_to(ROOT).parts) for file in initials}
    assert packages == {module.__name__ for module in PUBLIC}, "docs/docstrings.py names them too"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it."""
    for name in SPHINX:
        pytest.importorskip(name)
    folder = tmp_path_factory.mktemp("built") / "site"
    command = [sys.executable, "docs/make_site.py", "--to", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("index.html\n")
    return folder


@pytest.mark.slow
def test_the_site_has_every_public_name_and_method(site: Path) -> None:
    ids = {each for page in MAKE["read"](site / "docs" / "reference").values() for each in page.ids}
    methods = {
        f"uringzc.{kind.__name__}.{name}"
        for kind in (uringzc.UdpSender, uringzc.TcpSender, uringzc.Scheduler, uringzc.Ring, uringzc.Group)
        for name, value in vars(kind).items()
        if name[0] != "_" and callable(value)
    }
    assert {"uringzc.UdpSender.send", "uringzc.Ring.send_zc", "uringzc.Scheduler.flush"} <= methods
    assert {*EXPORTED, *methods} - ids == set()


@pytest.mark.slow
def test_signatures_have_the_types_of_the_source(site: Path) -> None:
    html = (site / "docs" / "reference" / "senders.html").read_text()
    text = unescape(re.sub(r"<[^>]+>|\s+", "", html))
    assert "send(data:Buffer,to:Address|None=None)→int" in text  # a compiled method
    assert "group(addresses:Iterable[Address]=())→Group" in text
    assert 'href="scheduler.html#uringzc.Notifier"' in html  # what it returns is a link


@pytest.mark.slow
def test_a_docstring_is_what_is_written(site: Path) -> None:
    html = (site / "docs" / "reference" / "scheduler.html").read_text()
    assert "<p>Fields:</p>" in html  # of a record, as a list
    assert '<code class="code docutils literal notranslate">max_inflight</code>' in re.sub(
        r'(<code class="code [^"]*">)<span class="pre">([^<]*)</span>', r"\1\2", html
    )


def made(folder: Path, **texts: str) -> dict[Path, Any]:
    """Pages with these texts."""
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text)
    pages: dict[Path, Any] = MAKE["read"](folder)
    return pages


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    good = '<p id="here"><a href="#here">a</a> <a href="two.html#there">b</a> <a href="https://no.where/x#y">c</a>'
    pages = made(tmp_path, one=good, two='<h1 id="there"><img src="one.html"></h1>')
    assert list(MAKE["broken"](pages)) == []
    pages = made(tmp_path, one='<a href="two.html#no">a</a><a href="#no">b</a><img src="no.svg">')
    assert list(MAKE["broken"](pages)) == [
        "one.html: no such place #no",
        "one.html: no file no.svg",
        "one.html: no such place two.html#no",
    ]


class Site(BaseHTTPRequestHandler):
    """Another site, with one page."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/page" else 404)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Says nothing."""


def test_links_to_other_sites_are_looked_at_if_asked_for(tmp_path: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), Site) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        pages = made(tmp_path, one=f'<a href="{url}/page#x">a</a><a href="{url}/gone">b</a>')
        try:
            assert list(MAKE["broken"](pages)) == []
            assert list(MAKE["unreachable"](pages)) == [f"{url}/gone: HTTP Error 404: Not Found"]
        finally:
            server.shutdown()
            thread.join()


def test_docstrings_are_linked_to_what_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SPHINX[:1]:
        pytest.importorskip(name)
    monkeypatch.syspath_prepend(str(DOCS))
    import docstrings

    assert docstrings.PUBLIC == PUBLIC

    def linked(text: str) -> str:
        return docstrings.linked(text, "uringzc.UdpSender.flush")

    assert linked("see ``send``") == "see :py:obj:`send <uringzc.UdpSender.send>`"
    assert linked("A SendError, of ``Scheduler.send``") == (
        "A :py:class:`SendError <uringzc.SendError>`, of :py:obj:`Scheduler.send <uringzc.Scheduler.send>`"
    )
    assert linked("``nothing`` of `SendError`, Nothing, ``flush``") == (
        "``nothing`` of `SendError`, Nothing, ``flush``"  # not itself
    )
    assert linked("``async with UdpSender(remote)``, uringzc.UdpSender") == (
        "``async with UdpSender(remote)``, :py:class:`uringzc.UdpSender <uringzc.UdpSender>`"
    )
    source = ["in [slots.md](slots.md#a-b), [udp](udp.md), [RESULTS.md](../b/RESULTS.md)"]
    docstrings.titled(None, "", source)
    assert source == ["in [](slots.md#a-b), [udp](udp.md), [](../b/RESULTS.md)"]
