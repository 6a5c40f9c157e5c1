"""What passes with the stock loop and not with ours, and the table of all runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.table import Table
from runs import Outcomes, Run
from suites import SUITES

#: the loops: (stock, ours)
LOOPS = {"asyncio": "uringzc over asyncio", "uvloop": "uringzc over uvloop"}
BEGIN, END = "<!-- make test-drop-in ARGS=--write -->", "<!-- end -->"
HEADINGS = (
    *("suite", "version", "CPython", "loop", "passed: stock", "passed: ours", "failed: with ours alone"),
    *("failed: with both", "skipped", "datagram transports: stock", "datagram transports: ours"),
)


@dataclass
class Comparison:
    """A suite with a stock loop and with ours over it."""

    stock_run: Run
    our_run: Run
    stock: Outcomes
    ours: Outcomes
    flaky: list[str] = field(default_factory=list)  # failed with ours alone, and passed when run once more

    @property
    def lost(self) -> list[str]:
        """The tests that a program would lose by the change: those it must not have."""
        return [test for test in self.suspects if test not in self.flaky]

    @property
    def suspects(self) -> list[str]:
        """Those that pass with the stock loop, and not with ours; and whose failure is new."""
        tests = {**self.stock.tests, **self.ours.tests}
        return [test for test in tests if self._is_lost(test)]

    def _is_lost(self, test: str) -> bool:
        stock, ours = self.stock.tests.get(test, "not run"), self.ours.tests.get(test, "not run")
        return (stock == "passed" and ours != "passed") or (ours == "failed" and stock != "failed")

    @property
    def failed_with_both(self) -> list[str]:
        """Those that say nothing of ours."""
        return [
            test
            for test, outcome in self.stock.tests.items()
            if outcome == self.ours.tests.get(test) == "failed"
        ]

    @property
    def problem(self) -> str:
        """Why this proves nothing, if so."""
        for run, outcomes in ((self.stock_run, self.stock), (self.our_run, self.ours)):
            if outcomes.stopped:
                tests = f"{outcomes.finished} of {outcomes.collected} tests"
                return f"{run.loop}: stopped after {run.suite.limit:.0f} s, with {tests}"
            if not outcomes.count("passed"):
                return f"{run.loop}: no test has passed"
        if self.stock.others and not self.ours.ours:
            return f"{self.our_run.loop}: it made none of the {self.ours.others} datagram transports"
        return ""

    def cells(self) -> list[str]:
        """A row of the table."""
        run, stock, ours = self.stock_run, self.stock, self.ours
        alone = str(len(self.lost)) + (f" (and {len(self.flaky)} once)" if self.flaky else "")
        others = f" (and {ours.others} stock)" if ours.others else ""
        return [
            *(
                run.suite.name,
                run.environment.version_of(run.suite),
                run.environment.interpreter.name,
                run.loop,
            ),
            *(str(stock.count("passed")), str(ours.count("passed")), alone, str(len(self.failed_with_both))),
            *(str(ours.count("skipped") + ours.count("xfailed")), str(stock.others), f"{ours.ours}{others}"),
        ]


def table(comparisons: Sequence[Comparison]) -> Table:
    """For the terminal."""
    made = Table(*HEADINGS)
    for one in comparisons:
        made.add_row(*one.cells(), style="" if not (one.lost or one.problem) else "red")
    return made


def updated(page: str, comparisons: Sequence[Comparison]) -> str:
    """A page of the documentation with these rows in its table, beside those of other interpreters."""
    before, rest = page.split(BEGIN)
    block, after = rest.split(END)
    old = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.split("\n") if "|" in line]
    rows = {_key(row): row for row in [*old[2:], *(one.cells() for one in comparisons)]}
    right = ["---"] * 4 + ["---:"] * (len(HEADINGS) - 4)
    ordered = sorted(rows.values(), key=_order)
    lines = [f"| {' | '.join(row)} |" for row in (HEADINGS, right, *ordered)]
    return "\n".join([before + BEGIN, *lines, END + after])


def _key(row: Sequence[str]) -> tuple[str, ...]:
    suite, _version, python, loop, *_counts = row
    return suite, python.rpartition(".")[0] + "t" * python.endswith("t"), loop


def _order(row: Sequence[str]) -> tuple[object, ...]:
    suite, _version, python, loop, *_counts = row
    names = [suite.name for suite in SUITES]
    return names.index(suite), [int(number) for number in python.rstrip("t").split(".")], loop
