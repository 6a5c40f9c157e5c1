"""The report of `uringzc bench` as plain data: JSON and back, and the figures that follow from it."""

import json
from typing import Any

import pytest
from bench_figures import MACHINE, came, sent, stream

from uringzc.jobs import (
    BenchReport,
    BenchRound,
    BenchRun,
    Limit,
    LimitTry,
    Spread,
)

pytestmark = pytest.mark.engines()


def a_report(limit: Limit | None = None) -> BenchReport:
    rounds = tuple(BenchRound(sent(pps=pps), came(stream(7, 90))) for pps in (300.0, 100.0, 200.0))
    runs = (BenchRun("io_uring", "auto", 1000, "5kpps", rounds), BenchRun("copy", "never", 64, None, rounds))
    at = "2026-11-22T18:30:00+00:00"
    return BenchReport("0.1.0", at, "192.0.2.7", 2.0, MACHINE, MACHINE, runs, limit, ("why",))


LIMIT = Limit(0.0001, "io_uring", 1200, 4e5, "loss", (LimitTry(4e5, 3.9e5, 0.0, 0, True),))


@pytest.mark.parametrize("limit", [None, LIMIT])
def test_it_survives_json(limit: Limit | None) -> None:
    report = a_report(limit)
    values = json.loads(json.dumps(report.as_dict()))
    assert BenchReport.from_dict(values) == report
    assert (values["kind"], values["runs"][0]["rounds"][0]["result"]["engine"]) == ("bench", "io_uring")


def without_runs(values: dict[str, Any]) -> object:
    del values["runs"]
    return values


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (without_runs, "'runs' is missing"),
        (lambda values: values | {"runs": 5}, "not iterable"),
        (lambda values: values | {"peer": None}, "another version"),
        (lambda values: values | {"new": 1}, "unexpected keyword argument 'new'"),
        (lambda values: values | {"kind": "else"}, "no report of uringzc bench"),
        (lambda values: [values], "no report of uringzc bench"),
    ],
)
def test_what_is_no_report_is_refused(broken: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        BenchReport.from_dict(broken(a_report().as_dict()))


def test_the_median_and_the_range_of_the_rounds() -> None:
    assert a_report().runs[0].spread(lambda each: each.result.pps) == Spread(200.0, 100.0, 300.0)


def test_what_came_is_of_this_run_alone() -> None:
    assert BenchRound(sent(), came(stream(6, 100), stream(7, 90), unnumbered=3)).came == 90
    assert BenchRound(sent(), came(unnumbered=25)).lost_share == 0.75
    assert BenchRound(sent(), came(unnumbered=101)).lost_share == 0.0  # one came twice
    assert BenchRound(sent(datagrams=0), came()).lost_share == 0.0


def test_copied_are_those_too_that_were_never_asked_to_be_zero_copy() -> None:
    assert BenchRound(sent(), came()).copied_share == 0.7
    assert BenchRound(sent(zero_copy=0, copied=0), came()).copied_share == 1.0
    assert BenchRound(sent(requests=0, syscalls=0), came()).copied_share is None
