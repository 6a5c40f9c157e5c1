"""In place of the module tests.fixtures, which the sdist of aiocoap lacks: watches logs and references."""

import asyncio
import functools
import gc
import inspect
import logging
import weakref
from collections.abc import Callable, Iterator
from typing import Any
from unittest import IsolatedAsyncioTestCase

CLEANUPTIME = 0.01  # seconds for what is under way on loopback
_SLOW = "Executing "  # asyncio's warning of a busy machine


class Records(logging.Handler):
    """Keeps what is logged; not what it refers to, which a test expects to be freed."""

    def __init__(self) -> None:
        super().__init__()
        self.list: list[logging.LogRecord] = []

    def __iter__(self) -> Iterator[logging.LogRecord]:
        return iter(self.list)

    def emit(self, record: logging.LogRecord) -> None:
        record.msg, record.args, record.exc_info = record.getMessage(), None, None
        self.list.append(record)


class WithLogMonitoring(IsolatedAsyncioTestCase):
    """`handler` has what is logged during the test."""

    def setUp(self) -> None:
        self.handler = Records()
        logging.root.setLevel(logging.NOTSET)
        logging.root.addHandler(self.handler)
        super().setUp()

    def tearDown(self) -> None:
        super().tearDown()
        logging.root.removeHandler(self.handler)

    def assertWarned(self, message: str) -> None:  # noqa: N802
        """Assert that this was warned of, and forget it."""
        for record in self.handler:
            if record.levelno == logging.WARNING and record.msg == message:
                self.handler.list.remove(record)
                return
        self.fail(f"no warning: {message!r}")


class Destructing(WithLogMonitoring):
    """Can tell whether something is freed with the last attribute that refers to it."""

    async def _del_to_be_sure(self, what: Any) -> None:
        if isinstance(what, str):
            get, delete, label = (
                functools.partial(getattr, self, what),
                functools.partial(delattr, self, what),
                what,
            )
        else:
            get, delete = functools.partial(what["get"], self), functools.partial(what["del"], self)
            label = what["label"]
        reference = weakref.ref(get())
        delete()
        if not is_test_successful(self):
            return  # a traceback refers to it
        await asyncio.sleep(CLEANUPTIME)
        gc.collect()
        if (survivor := reference()) is not None:
            self.fail(f"{label} was not freed: {gc.get_referrers(survivor)}")


def is_test_successful(test: Any) -> bool:
    """Whether nothing has failed in a test so far."""
    outcome = test._outcome
    return bool(outcome.success)


def precise_warnings(expected: list[str]) -> Callable[[Any], Any]:
    """Exactly these are warned of; "..." at an end stands for any."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        def check(test: WithLogMonitoring, before: int) -> None:
            warned = [
                record.msg
                for record in test.handler.list[before:]
                if record.levelno >= logging.WARNING and not record.msg.startswith(_SLOW)
            ]
            same = len(warned) == len(expected) and all(map(_matches, warned, expected))
            assert same, f"warned of {warned}, not of {expected}"

        @functools.wraps(function)
        async def awaited(self: WithLogMonitoring, *args: Any) -> Any:
            before = len(self.handler.list)
            result = await function(self, *args)
            check(self, before)
            return result

        @functools.wraps(function)
        def called(self: WithLogMonitoring, *args: Any) -> Any:
            before = len(self.handler.list)
            result = function(self, *args)
            check(self, before)
            return result

        return awaited if inspect.iscoroutinefunction(function) else called

    return decorate


def _matches(message: str, expected: str) -> bool:
    if expected.endswith("..."):
        return message.startswith(expected[:-3])
    return message == expected


def no_warnings(function: Callable[..., Any]) -> Callable[..., Any]:
    """Nothing is warned of."""
    wrapped: Callable[..., Any] = precise_warnings([])(function)
    return wrapped
