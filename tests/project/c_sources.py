"""A reader of C sources: what each file includes, defines, declares and uses.

No compiler: the rules are those of the code here. Macros that define functions are static, and a name that is
a file's own (static, or declared in the same function) is not used of another file.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

_NOT_CODE = re.compile(r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", re.DOTALL)
_DIRECTIVE = re.compile(r"^[ \t]*#(?:\\\n|[^\n])*", re.MULTILINE)
_INCLUDE = re.compile(r"^[ \t]*#[ \t]*include[ \t]*([<\"])([^>\"]+)[>\"]", re.MULTILINE)
_FUNCTION = re.compile(r"(\w+)\s*\((?:[^()]|\([^()]*\))*\)\s*$")
_VARIABLE = re.compile(r"(\w+)\s*(?:\[[^]]*\]\s*)*$")
_NAME = re.compile(r"(?<![\w.])(?<!->)[A-Za-z_]\w*")  # no member of a struct
_LOCAL = re.compile(r"\b(?!(?:return|else|case|goto|sizeof)\b)[A-Za-z_]\w*(?:\s*\*+\s*|\s+)(\w+)\s*[;=,)\[]")


@dataclass
class Source:
    """One file."""

    includes: list[str] = field(default_factory=list)  # of ours, as they are written
    system: list[str] = field(default_factory=list)  # <...>
    defines: set[str] = field(default_factory=set)  # functions and variables that other files can use
    declares: set[str] = field(default_factory=set)
    uses: set[str] = field(default_factory=set)


def _items(code: str) -> Iterator[tuple[str, str]]:
    """Each definition and declaration at file level: what is before its braces, and them, or nothing."""
    depth = start = 0
    head: str | None = None
    for found in re.finditer(r"[{};]", code):
        depth += {"{": 1, "}": -1, ";": 0}[found[0]]
        if found[0] == "{" and depth == 1 and head is None:
            head, start = code[start : found.start()].strip(), found.start()
        elif depth == 0 and (found[0] == ";" or (head and _FUNCTION.search(head))):
            between = code[start : found.start()]
            yield (between.strip(), "") if head is None else (head, between)
            start, head = found.end(), None


def parse(text: str) -> Source:
    """The source, from its text."""
    source = Source()
    for mark, name in _INCLUDE.findall(text):
        (source.system if mark == "<" else source.includes).append(name)
    code = _NOT_CODE.sub(" ", text)
    own = set()
    source.uses |= {name for line in _DIRECTIVE.findall(code) for name in _NAME.findall(line)}
    for head, body in _items(_DIRECTIVE.sub("", code)):
        static, declared = re.search(r"\bstatic\b", head), head.startswith("extern ")
        function = "=" not in head and _FUNCTION.search(head)
        if re.match(r"(?:typedef|_Static_assert)\b|(?:struct|union|enum)\b[^=(]*$", head):
            continue
        if function:
            names, declared = {function[1]}, not body
        else:
            before = re.sub(r"\([^()]*\)", "", head.partition("=")[0])
            names = {found[1] for found in map(_VARIABLE.search, before.split(",")) if found}
        if static:
            own |= names
        else:
            (source.declares if declared else source.defines).update(names)
        if function and declared:
            continue
        local = set(_LOCAL.findall(head + body)) if function else names
        source.uses |= set(_NAME.findall(body if function else head + body)) - local - names
    source.uses -= own
    return source


def folder(file: str) -> str:
    return file.rpartition("/")[0]


def unit(file: str) -> str:
    """A header counts with the .c file of its name."""
    return file.rpartition(".")[0]


class Edge(NamedTuple):
    """A file needs another one."""

    file: str
    to: str
    why: str

    def __str__(self) -> str:
        return f"{self.file} {self.why} of {self.to}" if self.why else f"{self.file} includes {self.to}"


class Tree:
    """The sources below a folder, by their path from there."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.sources = {name: parse(text) for name, text in texts.items()}
        self.homes: dict[str, list[str]] = {}  # of what other files can use: the files that define it
        for file, source in self.sources.items():
            for name in source.defines:
                self.homes.setdefault(name, []).append(file)
        includes = [Edge(file, to, "") for file, source in self.sources.items() for to in source.includes]
        self.edges = includes + [
            Edge(file, self.home(name, file), f"uses {name}")
            for file, source in self.sources.items()
            for name in sorted(source.uses & self.homes.keys() - source.defines)
        ]

    @classmethod
    def read(cls, root: Path) -> "Tree":
        return cls({file.relative_to(root).as_posix(): file.read_text() for file in root.rglob("*.[ch]")})

    def home(self, name: str, user: str) -> str:
        """The file that defines a name as `user` means it: in its folder, if two modules have the name."""
        files = self.homes.get(name, ["no file"])
        return next((file for file in files if folder(file) == folder(user)), files[0])

    def upward(self, order: Iterable[Iterable[str]]) -> list[Edge]:
        """The edges between folders that do not lead to an earlier rank of `order`."""
        ranks = {name: rank for rank, names in enumerate(order) for name in names}

        def rank(file: str) -> int:
            return ranks[file if file in ranks else folder(file)]

        return [
            edge
            for edge in self.edges
            if folder(edge.file) != folder(edge.to) and rank(edge.to) >= rank(edge.file)
        ]

    def circles(self) -> list[str]:
        """The files of a folder that all need each other, as one line; what a header's inline function uses
        counts for the .c file of its name, if there is one.
        """
        needs: dict[str, set[str]] = {}
        for file, to, why in self.edges:
            if folder(file) == folder(to) and (not why or f"{unit(file)}.c" in self.sources):
                needs.setdefault(unit(file), set()).add(unit(to))

        def reached(start: str) -> set[str]:
            found: set[str] = set()
            new = {start}
            while new:
                new = {to for one in new for to in needs.get(one, set()) - {one}} - found
                found |= new
            return found

        reach = {start: reached(start) for start in needs}
        groups = {
            " ".join(sorted(to for to in found if start in reach.get(to, ())))
            for start, found in reach.items()
            if start in found
        }
        return sorted(groups)
