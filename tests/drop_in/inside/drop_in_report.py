"""A plugin of pytest: what comes of each test goes to the file DROP_IN_REPORT, a line of JSON at a time.

So the results that there are survive a suite that hangs or crashes.
"""

import json
import os
from typing import Any

import pytest


def pytest_configure() -> None:
    """Refuse to run with another loop: what goes wrong in sitecustomize.py does not end the interpreter."""
    import sitecustomize

    if sitecustomize.in_effect != os.environ["DROP_IN_LOOP"]:
        raise pytest.UsageError("the loop was not swapped")


def write(**what: Any) -> None:
    """Add a line."""
    with open(os.environ["DROP_IN_REPORT"], "a") as file:
        file.write(json.dumps(what) + "\n")


def pytest_collection_finish(session: pytest.Session) -> None:
    write(collected=len(session.items))


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        write(test=report.nodeid, outcome="failed", text=report.longreprtext)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    outcome: str = report.outcome
    if outcome == "skipped" and hasattr(report, "wasxfail"):
        outcome = "xfailed"
    write(test=report.nodeid, outcome=outcome, text=report.longreprtext if report.failed else "")


def pytest_runtest_logfinish(nodeid: str) -> None:
    write(finished=nodeid)
