"""A plugin of pytest for instrumented builds: skips tests that cannot run there, and ends with a search for
leaks, because pytest-xdist's processes end without one.
"""

import ctypes

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test marked `uninstrumented` has its reason there."""
    for item in items:
        if mark := item.get_closest_marker("uninstrumented"):
            item.add_marker(pytest.mark.skip(reason=f"instrumented: {mark.args[0]}"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Reports what nothing points to any more, in the processes that ran tests."""
    search = getattr(ctypes.CDLL(None), "__lsan_do_recoverable_leak_check", None)
    if search and (hasattr(session.config, "workerinput") or not session.config.option.numprocesses):
        search()
