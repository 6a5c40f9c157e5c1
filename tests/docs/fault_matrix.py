"""Reads the tables of docs/faults.md, and the marks of the tests that they link to."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import marks
import pytest
from conftest import ENGINES
from pages import ROOT

PAGE = ROOT / "docs" / "faults.md"
COLUMNS = ("Scheduler", "UdpSender", "TcpSender")
_LINK = re.compile(r"\[([^\]]+)\]\(\.\./(tests/[\w./]+)#(\w+)\)")


class Cell(NamedTuple):
    """Of a table: its words, and the tests that it names: link text, file, function."""

    fault: str
    column: str
    text: str
    tests: list[tuple[str, str, str]]


def cells(page: str) -> list[Cell]:
    """All cells of the tables."""
    found = []
    for row in re.findall(r"^\| \*\*.*$", page, re.MULTILINE):
        first, *texts = (text.strip() for text in row.strip("|").split(" | "))
        fault = re.match(r"\*\*(.+?)\*\*", first.strip(" |"))
        assert fault, row
        assert len(texts) == len(COLUMNS), f"{fault[1]}: {len(texts)} cells"
        for column, text in zip(COLUMNS, texts, strict=True):
            found.append(Cell(fault[1], column, text.strip(" |"), _LINK.findall(text)))
    return found


class Test(NamedTuple):
    """A test with the mark `cell`."""

    file: str
    name: str
    fault: str
    columns: tuple[str, ...]
    engines: tuple[str, ...]
    uses_cell: bool  #: the fixture


def marked_tests(folder: Path) -> list[Test]:
    """All of a folder, a test with several such marks several times."""
    return [test for file in sorted(folder.rglob("test_*.py")) for test in _tests_of(file)]


def _tests_of(file: Path) -> Iterator[Test]:
    text = file.read_text()
    if "mark.cell(" not in text:
        return
    tree = ast.parse(text)
    of_file: list[ast.expr] = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            of_file += node.value.elts if isinstance(node.value, ast.List) else [node.value]
    for node in tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        engines = _engines([*node.decorator_list, *of_file])
        uses_cell = "cell" in [argument.arg for argument in node.args.args]
        for mark in node.decorator_list:
            if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.cell":
                fault, *columns = (ast.literal_eval(argument) for argument in mark.args)
                name = str(file.relative_to(ROOT)) if file.is_relative_to(ROOT) else file.name
                yield Test(name, node.name, fault, tuple(columns), engines, uses_cell)


def _engines(decorators: list[ast.expr]) -> tuple[str, ...]:
    """What the first mark of engines says."""
    for mark in decorators:
        text = ast.unparse(mark)
        if text.startswith("pytest.mark.engines("):
            assert isinstance(mark, ast.Call)
            return tuple(ast.literal_eval(argument) for argument in mark.args)
        named = getattr(marks, text, None) if text.isidentifier() else None
        if isinstance(named, pytest.MarkDecorator) and named.name == "engines":
            return named.args
    return tuple(ENGINES)


def link_text(engines: tuple[str, ...]) -> str:
    """The words of a link to a test that runs on these: "test" stands for the three engines of sockets."""
    rest = [engine for engine in engines if engine not in ENGINES]
    if set(ENGINES) <= set(engines) or not engines:
        return ", ".join(["test", *rest])
    return ", ".join(engines)


def problems(page: str, tests: list[Test]) -> list[str]:
    """Cells without a test, tests without a cell, and links that say something else than the test."""
    found = []
    linked = set()
    for cell in cells(page):
        where = f"{cell.fault}, {cell.column}"
        if not cell.tests and not cell.text.startswith("cannot occur: "):
            found.append(f"{where}: no test")
        for text, file, name in cell.tests:
            linked.add((cell.fault, cell.column, file, name))
            of_cell = [
                test
                for test in tests
                if (test.file, test.name, test.fault) == (file, name, cell.fault)
                and cell.column in test.columns
            ]
            if not of_cell:
                found.append(f"{where}: {file} has no {name} with this mark")
            elif text != link_text(of_cell[0].engines):
                found.append(f"{where}: {name} runs on {link_text(of_cell[0].engines)}, not {text}")
    for test in tests:
        if not test.uses_cell:
            found.append(f"{test.file}: {test.name} does not use the fixture cell")
        for column in test.columns:
            if (test.fault, column, test.file, test.name) not in linked:
                found.append(f"{test.fault}, {column}: {test.name} of {test.file} is not on the page")
    return found
