"""Test processes at the same time (pytest-xdist) share the machine, unless a test has it alone."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: of this process among them: 0, 1, ...
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_HERE = Path(__file__).parent


@contextmanager
def machine(alone: bool) -> Iterator[None]:
    """Beside the tests of other processes, or, when those that run have ended, without any."""
    with (_HERE / "sharing.py").open() as door, (_HERE / "conftest.py").open() as room:
        fcntl.flock(door, fcntl.LOCK_EX)  # behind one that waits to be alone nobody enters
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(room, fcntl.LOCK_UN)  # a child that lives on has inherited it
