"""Reads the pages of the documentation, and checks them: each check returns its problems."""

import ast
import asyncio
import importlib
import inspect
import io
import re
import shlex
import subprocess
import sys
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import NamedTuple

import uringzc
from uringzc import aio, jobs, testing

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
LANGUAGES = {"python", "sh", "console", "c", "{toctree}"}  # the last one is read by `make docs`


class Block(NamedTuple):
    """Code between fences."""

    language: str
    line: int
    text: str


def blocks(text: str) -> list[Block]:
    """The blocks of a page, each with the line where it begins."""
    found, begun = [], None
    for number, line in enumerate(text.splitlines(), 1):
        if not line.startswith("```"):
            if begun:
                begun[2].append(line)
        elif begun:
            found.append(Block(begun[0], begun[1], "\n".join(begun[2]) + "\n"))
            begun = None
        else:
            begun = (line[3:], number + 1, list[str]())
    return [*found, Block("not closed", begun[1], "")] if begun else found


def prose(text: str) -> str:
    """A page without its blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def spans(text: str) -> list[str]:
    """What is set as code in it."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(text))]


def languages(text: str) -> list[str]:
    """Blocks that no test runs."""
    return [f"line {b.line}: {b.language!r}" for b in blocks(text) if b.language not in LANGUAGES]


# -- commands


def commands(text: str) -> Iterator[str]:
    """Every command that a page names: in blocks, after a prompt, or in a sentence."""
    for block in blocks(text):
        lines = block.text.splitlines()
        if block.language == "sh":
            yield from filter(None, lines)
        elif block.language == "console":
            yield from (line[2:] for line in lines if line.startswith("$ "))
    yield from (span for span in spans(text) if re.match(r"(make|uringzc|pip) \w", span))


@cache
def _help(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.stdout if done.returncode == 0 else ""


#: what each target hands ARGS to
ARGS_OF = {
    "demo": ("-m", "uringzc", "demo"),
    "test": ("-m", "pytest"),
    "test-quick": ("-m", "pytest"),
    "test-drop-in": ("tests/drop_in",),
    "bench": ("-m", "benchmarks"),
    "docs": ("docs/make_site.py",),
    **{path.stem: ("-m", f"proofs.{path.stem}") for path in (ROOT / "proofs").iterdir()},
}


def _options(words: list[str], *tool: str) -> list[str]:
    text = _help(*tool)
    named = [word.partition("=")[0] for word in words if word.startswith("-")]
    return [f"no option {name}" for name in named if not re.search(rf"(?<![\w-]){name}(?![\w-])", text)]


def _make(words: list[str]) -> Iterator[str]:
    makefile = (ROOT / "Makefile").read_text()
    targets = [word for word in words if "=" not in word]
    for target in targets:
        if not re.search(rf"^(\w+ )*{target}( \w+)*:", makefile, re.MULTILINE):
            yield f"no target {target}"
    for name, _, value in (word.partition("=") for word in words if "=" in word):
        if not re.search(rf"^{name} =", makefile, re.MULTILINE):
            yield f"no variable {name}"
        elif name == "ARGS":
            yield from _options(shlex.split(value), *ARGS_OF[targets[0]])
            yield from missing_paths(shlex.split(value))


def _uringzc(words: list[str]) -> Iterator[str]:
    if not re.search(rf"^  {words[0]} ", _help("-m", "uringzc"), re.MULTILINE):
        yield f"no command {words[0]}"
    else:
        yield from _options(words[1:], "-m", "uringzc", words[0])


def _pip(words: list[str]) -> Iterator[str]:
    extras = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    for word in words[1:]:
        named = re.fullmatch(r"\.(?:\[([\w,]+)\])?", word)
        if not named:
            yield f"pip install {word}"
        elif named[1]:
            yield from (f"no extra {extra}" for extra in named[1].split(",") if extra not in extras)


def _sysctl(words: list[str]) -> Iterator[str]:
    known = "".join(file.read_text() for file in (ROOT / "uringzc" / "kernel").glob("*.py"))
    yield from (f"sysctl {word}" for word in words if f'"{word.partition("=")[0]}"' not in known)


def _python(words: list[str]) -> Iterator[str]:
    script, *options = words
    yield from missing_paths([script])
    yield from _options([word for word in options if word != "--"], script)


TOOLS: dict[str, Callable[[list[str]], Iterator[str]]] = {
    "make": _make,
    "uringzc": _uringzc,
    "pip": _pip,
    "python": _python,
    "sysctl": _sysctl,
}


def wrong_commands(text: str) -> list[str]:
    """Targets, commands, options and extras that are not there."""
    problems = []
    for command in commands(text):
        tool, *words = shlex.split(command, comments=True)
        if tool not in TOOLS:
            problems.append(f"{command}: no test knows {tool}")
        else:
            problems += [f"{command}: {problem}" for problem in TOOLS[tool](words)]
    return problems


# -- files and links

_FILE = re.compile(r"(?!\.venv)[\w.][\w.-]*(/[\w.-]+)*/?")
GENERATED = {"build", "dist"}  # folders that `make` makes
_SUFFIXES = {".py", ".pyi", ".c", ".h", ".md", ".toml", ".json", ".png", ".svg", ".in"}


@cache
def _files() -> set[str]:
    """The paths of all files."""
    left_out = {".git", ".venv", "build"}
    tops = [top for top in ROOT.iterdir() if top.name not in left_out]
    inside = [path for top in tops if top.is_dir() for path in top.rglob("*")]
    return {str(path.relative_to(ROOT)) for path in [*tops, *inside]}


@cache
def _names() -> set[str]:
    """The names of all files."""
    return {Path(path).name for path in _files()}


def missing_paths(words: list[str]) -> list[str]:
    """Of these words, those that are a path and name no file."""

    def wrong(word: str) -> bool:
        if not _FILE.fullmatch(word) or not ("/" in word or Path(word).suffix in _SUFFIXES):
            return False
        if GENERATED & {*word.split("/")}:
            return False
        return not (ROOT / word).exists() and word not in _names()

    return [f"no file {word}" for word in words if wrong(word)]


def wrong_paths(text: str) -> list[str]:
    """Files that a page names and that are not there."""
    code = [block.text for block in blocks(text) if block.language == "sh"]
    words = [word.strip(",:;") for span in [*spans(text), *code] for word in span.split()]
    return missing_paths(words)


#: a path or a name with a suffix, in the words of a comment
_MENTIONED = re.compile(r"(?<![\w./<*-])[\w-][\w./-]*\.(?:py|pyi|c|h|md|toml|json|svg)\b(?![\w(/*])")
_SYSTEM = {"Python.h", "errno.h"}  # headers of others
_C_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


def said_in(file: Path) -> Iterator[str]:
    """The docstrings and comments of a Python file, or the comments of a C file."""
    text = file.read_text()
    if file.suffix != ".py":
        yield from _C_COMMENT.findall(text)
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            yield ast.get_docstring(node) or ""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    yield from (token.string for token in tokens if token.type == tokenize.COMMENT)


def stale_paths(file: Path) -> list[str]:
    """Files that a source names in prose and that are not there. A path may begin in any folder."""
    named = {name for text in said_in(file) for name in _MENTIONED.findall(text)}
    return sorted(name for name in named - _SYSTEM if not any(ends_so(name, path) for path in _files()))


def ends_so(name: str, path: str) -> bool:
    """Whether this is the path, or the end of it from a folder on."""
    return f"/{path}".endswith(f"/{name}")


def anchors(text: str) -> set[str]:
    """What can be linked to in a page: its headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _has_anchor(file: Path, anchor: str) -> bool:
    """Whether it has such a heading; a Python file, such a function."""
    if file.suffix == ".py":
        return re.search(rf"^def {anchor}\(", file.read_text(), re.MULTILINE) is not None
    return anchor in anchors(file.read_text())


def links(text: str) -> list[str]:
    """Where a page links to."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(text))


def wrong_links(text: str, folder: Path) -> list[str]:
    """Links inside the repository that lead nowhere."""
    problems = []
    for link in links(text):
        path, _, anchor = link.partition("#")
        file = folder / path
        if link.startswith("https://"):
            continue
        if not file.exists():
            problems.append(f"no page {link}")
        elif anchor and not (_has_anchor(file, anchor) if path else anchor in anchors(text)):
            problems.append(f"no heading {link}")
    return problems


# -- names

_SOURCE = re.compile(r"[\w./-]+\.(?:c|h|py|pyi)")


def _defines(source: str, name: str) -> bool:
    python = rf"^\s*(?:def|class) {name}\b"
    native = rf"^[a-zA-Z][\w *]*[ *]{name}\([^;{{]*\{{"
    return re.search(f"{python}|{native}", source, re.MULTILINE) is not None


def wrong_functions(text: str) -> list[str]:
    """Functions that are not in the files which the same paragraph, item or row of a table names."""
    problems = []
    for part in re.split(r"\n\n|\n(?=\||- |\d+\. )", prose(text)):
        files = [ROOT / name for name in _SOURCE.findall(part) if (ROOT / name).is_file()]
        sources = [file.read_text() for file in files]
        for name in re.findall(r"`(\w+)\(\)`", part):
            if files and not any(_defines(source, name) for source in sources):
                problems.append(f"{name}() is not in {', '.join(file.name for file in files)}")
    return problems


PUBLIC = [getattr(uringzc, name) for name in uringzc.__all__] + [testing, testing.Hold, testing.Receiver]
PUBLIC += [jobs, *(getattr(jobs, name) for name in jobs.__all__)]
PUBLIC += [aio, *(getattr(aio, name) for name in aio.__all__), asyncio.DatagramProtocol]
OTHERS = {
    "anyio",
    "asyncio",
    "client",
    "functools",
    "hypercorn",
    "loop",
    "pool",
    "trio",
}  # whose calls are not ours
FIELDS = {
    field.name for kind in (uringzc.Stats, uringzc.UdpStats, uringzc.TcpStats) for field in fields(kind)
}


def _callables(name: str) -> list[Callable[..., object]]:
    """What is called so in the public interface."""
    own = [getattr(uringzc, name)] if name in uringzc.__all__ else []
    return own + [getattr(holder, name) for holder in PUBLIC if callable(getattr(holder, name, None))]


def _takes(function: Callable[..., object], keywords: list[str]) -> bool:
    parameters = inspect.signature(function).parameters
    return all(keyword in parameters for keyword in keywords)


def wrong_calls(text: str) -> list[str]:
    """Calls of things that are not public, or with keywords that they do not take."""
    problems = []
    for span in spans(text):
        try:
            call = ast.parse(span, mode="eval").body
        except SyntaxError:
            continue
        if not isinstance(call, ast.Call) or not isinstance(call.func, (ast.Name, ast.Attribute)):
            continue
        if span.partition(".")[0] in OTHERS:
            continue
        name = call.func.id if isinstance(call.func, ast.Name) else call.func.attr
        keywords = [keyword.arg for keyword in call.keywords if keyword.arg]
        if name != "help" and not any(_takes(each, keywords) for each in _callables(name)):
            problems.append(span)
    return problems


def options(text: str) -> dict[str, object]:
    """The rows of a table of options: each with its default, which is a literal, or the word "required"."""
    rows = text.partition("\n| option | type | default | meaning |\n")[2].partition("\n\n")[0]
    cells = [[cell.strip(" `") for cell in row.split("|")[1:-1]] for row in rows.splitlines()[1:]]
    return {
        name: ... if default == "required" else ast.literal_eval(default) for name, _, default, _ in cells
    }


def parameters(function: Callable[..., object]) -> dict[str, object]:
    """The parameters of a call: each with its default, or an ellipsis if it has none."""
    found = inspect.signature(function).parameters.values()
    return {each.name: ... if each.default is each.empty else each.default for each in found}


def _resolves(dotted: str) -> bool:
    found: object = uringzc
    for at, name in enumerate(dotted.split(".")[1:], 2):
        try:
            found = getattr(found, name)
        except AttributeError:
            try:
                found = importlib.import_module(".".join(dotted.split(".")[:at]))
            except ImportError:
                return False
    return True


def wrong_names(text: str) -> list[str]:
    """Names below uringzc, and statistics, that are not there."""
    named = {name for span in spans(text) for name in re.findall(r"(?<![\w/])uringzc(?:\.\w+)+", span)}
    problems = [name for name in sorted(named) if name != "uringzc.h" and not _resolves(name)]
    counted = {name for span in spans(text) for name in re.findall(r"\bstats\.(\w+)", span)} - {"py"}
    return problems + [f"stats.{name}" for name in sorted(counted - FIELDS)]
