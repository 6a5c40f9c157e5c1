"""Builds the documentation site, into build/docs: `make docs`.

Warnings are errors, and so are links that lead nowhere. Links to other
sites are left alone, unless --external is given: a build needs no network.
"""

import argparse
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[1]
SITE = ROOT / "build" / "docs"


class Page(HTMLParser):
    """The ids of a page, and where it links to."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file
        self.ids: set[str] = {"", "top"}
        self.links: set[str] = set()
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Takes note of an element."""
        for name, value in attrs:
            if name == "id" and value:
                self.ids.add(value)
            elif name in ("href", "src") and value is not None and tag != "base":
                self.links.add(value)


def build(site: Path) -> int:
    """Writes the site there; returns 0, or a status when Sphinx warns."""
    from sphinx.cmd.build import build_main

    options = ["-q", "-n", "-W", "--keep-going", "-c", str(ROOT / "docs")]
    return build_main([*options, "-d", str(site.parent / f"{site.name}-doctrees"), str(ROOT), str(site)])


def read(site: Path) -> dict[Path, Page]:
    """The pages of a site, by their files."""
    return {file: Page(file) for file in sorted(site.rglob("*.html"))}


def broken(pages: dict[Path, Page]) -> Iterator[str]:
    """The links between pages that lead nowhere: no such file, or no such place in it."""
    for page in pages.values():
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            file = (page.file.parent / unquote(parts.path)).resolve() if parts.path else page.file
            if not file.is_file():
                yield f"{page.file.name}: no file {link}"
            elif file in pages and unquote(parts.fragment) not in pages[file].ids:
                yield f"{page.file.name}: no such place {link}"


def unreachable(pages: dict[Path, Page]) -> Iterator[str]:
    """The links to other sites that do not answer. Needs the network."""
    for link in sorted({link for page in pages.values() for link in page.links if link.startswith("http")}):
        request = urllib.request.Request(link, headers={"User-Agent": "Mozilla/5.0"})
        try:
            urllib.request.urlopen(request, timeout=20).close()
        except (OSError, urllib.error.URLError) as error:
            yield f"{link}: {error}"
            if isinstance(error, urllib.error.HTTPError):
                error.close()  # it is the answer, too


def main() -> int:
    """Builds and checks the site, and says where it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--external", action="store_true", help="look at links to other sites, too")
    parser.add_argument("--to", type=Path, default=SITE, help="the folder to write to: build/docs")
    options = parser.parse_args()
    if build(options.to):
        return 1
    pages = read(options.to)
    problems = [*broken(pages), *(unreachable(pages) if options.external else ())]
    print(*problems, sep="\n", end="\n" if problems else "")
    if not problems:
        print(f"{len(pages)} pages: {options.to / 'index.html'}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
