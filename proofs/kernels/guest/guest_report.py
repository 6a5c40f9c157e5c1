"""A plugin of pytest: tells the host through a serial port which test runs, and how each ended, in JSON."""

import json
from functools import cache
from typing import TextIO

import pytest

PORT = "/dev/ttyS1"
WORST = {"passed": 0, "skipped": 1, "failed": 2}

_tests: dict[str, dict[str, object]] = {}
_broken: list[pytest.CollectReport] = []


def tell(**line: object) -> None:
    """A line to the host."""
    print(json.dumps(line), file=_port(), flush=True)


@cache
def _port() -> TextIO:
    """Open until the end: what has not left yet when a serial port is closed may be lost."""
    return open(PORT, "w")


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A file that cannot be imported is a failed test."""
    if report.failed:
        _broken.append(report)


def pytest_collection_finish(session: pytest.Session) -> None:
    """How many there are."""
    tell(expected=len(session.items) + len(_broken))
    for report in _broken:
        tell(test=report.nodeid, outcome="failed", why=report.longreprtext, seconds=0.0)


def pytest_runtest_logstart(nodeid: str) -> None:
    """The host names it if the guest ends in it."""
    tell(running=nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """One line for setup, call and teardown together: the worst outcome, and why."""
    test = _tests.setdefault(report.nodeid, {"outcome": "passed", "why": "", "seconds": 0.0})
    test["seconds"] = round(float(str(test["seconds"])) + report.duration, 2)
    if WORST[report.outcome] > WORST[str(test["outcome"])]:
        test["outcome"] = report.outcome
        test["why"] = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
    if report.when == "teardown":
        tell(test=report.nodeid, **_tests.pop(report.nodeid))
