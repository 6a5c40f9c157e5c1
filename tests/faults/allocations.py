"""An operation again and again, with the first, the second, ... allocation of the two modules failing."""

import errno
import gc
import os
from collections.abc import Callable
from itertools import count
from typing import TypeVar

import pytest
from schedules import was_injected
from seam import Seam

from uringzc.engines import lifetime

T = TypeVar("T")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Failing:
    """Has one allocation fail, and calls again what said so."""

    def __init__(self, seam: Seam) -> None:
        self.seam = seam
        self.said = 0  # by exceptions

    def __call__(self, call: Callable[[], T]) -> T | None:
        """The result; None: it failed for want of memory."""
        try:
            return call()
        except (MemoryError, OSError) as error:
            if not was_injected(error, {errno.ENOMEM}):
                raise
            self.said += 1
            return None

    def until(self, call: Callable[[], T]) -> T:
        while (result := self(call)) is None:
            assert self.said == 1, "the next call fails too"
        return result


def each_allocation(seam: Seam, operation: Callable[[Failing], None], at_least: int) -> None:
    """With one more allocation that succeeds each time. `at_least`: so many say so by an exception."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(lifetime, "track", lifetime._living.add)  # fixtures would keep each engine
        _each_allocation(seam, operation, at_least)


def _each_allocation(seam: Seam, operation: Callable[[Failing], None], at_least: int) -> None:
    said = 0
    operation(Failing(seam))  # what is allocated once in the process
    for after in count():
        gc.collect()
        before = seam.allocated, descriptors()
        failing = Failing(seam)
        with seam.fail("allocation", errno.ENOMEM, after=after) as plan:
            operation(failing)
        gc.collect()
        more = seam.allocated - before[0], descriptors() - before[1]  # fewer: what was there before is gone
        assert max(more) <= 0, (
            f"leaked after allocation {after}: {more[0]} allocations, {more[1]} descriptors"
        )
        assert failing.said <= plan.injected
        said += failing.said
        if not plan.injected:
            break
    assert said >= at_least
    assert after > at_least
