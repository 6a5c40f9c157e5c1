"""Every folder of tests has quick ones: `make test-quick` leaves out what is marked slow, and no more."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.engines()
TESTS = Path(__file__).parents[1]
FEW = 4
FOLDERS = sorted({file.parent.name for file in TESTS.glob("*/test_*.py")})


def functions_of(folder: Path) -> Iterator[tuple[bool, bool]]:
    """Of each test function: whether it is slow, and whether it runs on every engine."""
    for file in folder.glob("test_*.py"):
        tree = ast.parse(file.read_text())
        of_file = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Assign)]
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_"):
                marks = [mark for mark in of_file if mark.startswith("pytestmark")]
                marks += [ast.unparse(mark) for mark in node.decorator_list]
                yield (
                    "pytest.mark.slow" in marks,
                    not any(word in mark for mark in marks for word in ("engines", "only_")),
                )


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_has_quick_tests(folder: str) -> None:
    assert sum(not slow for slow, _ in functions_of(TESTS / folder)) >= FEW


@pytest.mark.parametrize("folder", ["engines", "scheduler", "senders", "slots"])
def test_quick_tests_run_on_every_engine(folder: str) -> None:
    assert sum(every and not slow for slow, every in functions_of(TESTS / folder)) >= FEW
