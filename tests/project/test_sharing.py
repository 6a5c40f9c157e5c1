"""Test processes at the same time: one that has the machine alone waits for the others, and they for it."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import Child, child
from traffic import wait_until

pytestmark = pytest.mark.engines()

ENTERS = """
    import pathlib, sys, sharing
    sharing._HERE = pathlib.Path(sys.argv[1])
    with sharing.machine(alone=sys.argv[2] == "alone"):
        print("in", flush=True)
        sys.stdin.readline()
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Not that of these tests, who have taken it already."""
    (tmp_path / "sharing.py").touch()
    (tmp_path / "conftest.py").touch()
    return tmp_path


def is_free(file: Path, kind: int) -> bool:
    with file.open() as opened:
        try:
            fcntl.flock(opened, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextmanager
def entered(place: Path, how: str) -> Iterator[Child]:
    with child(ENTERS, place, how) as program:
        assert program.line() == "in"
        yield program


def test_tests_run_beside_each_other(place: Path) -> None:
    with entered(place, "with others"), entered(place, "with others"):
        assert not is_free(place / "conftest.py", fcntl.LOCK_EX)


def test_who_is_alone_waits_and_is_waited_for(place: Path) -> None:
    with entered(place, "with others") as first, child(ENTERS, place, "alone") as alone:
        assert wait_until(lambda: not is_free(place / "sharing.py", fcntl.LOCK_SH))  # nobody else enters
        assert is_free(place / "conftest.py", fcntl.LOCK_SH)  # it has not yet
        first.write_line()
        first.end()
        assert alone.line() == "in"
        assert not is_free(place / "conftest.py", fcntl.LOCK_SH)
        assert is_free(place / "sharing.py", fcntl.LOCK_EX)  # for who waits behind it
        alone.write_line()
        alone.end()
    with entered(place, "with others"):
        pass
