"""Benchmarks: no module imports a later layer, and table, picture and the kept results agree."""

import ast
import graphlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

# ruff: noqa: E402 (benchmarks needs what an installation may lack)
for needed in ("click", "matplotlib", "numpy", "pyroute2", "rich", "uvloop"):
    pytest.importorskip(needed)

from matplotlib.text import Text

import benchmarks
from benchmarks import chart, plots, results
from benchmarks.cases import TOPICS
from benchmarks.pairs import Contender, Sample, Target, compare, median_interval, progress_bars
from benchmarks.programs.batches import Shape
from benchmarks.report import HEADINGS, cells, report
from benchmarks.results import Case, Results

pytestmark = pytest.mark.engines()  # makes none
HERE = Path(benchmarks.__file__).parent
KEPT = results.read(HERE / "results.json")
#: a module may import only what stands before it, or what lies in its own folder
ORDER = ["pairs", "results", "paths", "programs", "bench", "cases", "report", "chart", "plots", "__main__"]


def imports(file: Path) -> Iterator[str]:
    """The modules of benchmarks/ that a file imports."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "benchmarks":
            for alias in node.names:
                module = f"{node.module}.{alias.name}".split(".")[1:]
                path = HERE.joinpath(*module)
                yield ".".join(module if path.is_dir() or path.with_suffix(".py").exists() else module[:-1])


GRAPH = {
    ".".join(file.relative_to(HERE).with_suffix("").parts).removesuffix(".__init__"): set(imports(file))
    for file in HERE.rglob("*.py")
}


def test_modules_import_only_earlier_layers() -> None:
    wrong = [
        (importer, imported)
        for importer, found in GRAPH.items()
        for imported in found
        if (above := imported.split(".")[0]) != (own := importer.split(".")[0])
        and ORDER.index(above) >= ORDER.index(own)
    ]
    assert wrong == []


def test_no_imports_go_round_in_a_circle() -> None:
    assert any(GRAPH.values())
    graphlib.TopologicalSorter(GRAPH).prepare()  # CycleError names the circle


def case(ratio: float, target: Target | None, high: float) -> Case:
    return replace(KEPT.cases[0], ratio=ratio, target=target, interval=(ratio - 0.01, high))


@pytest.mark.parametrize(
    ("ratio", "target", "high", "met"),
    [
        (1.5, 1.4, 1.6, True),
        (1.4, 1.4, 1.6, True),
        (1.3, 1.4, 1.6, False),  # the interval counts for a target of 1 alone
        (0.99, 1.0, 1.0, True),
        (0.98, 1.0, 0.99, False),
        (0.5, None, 0.6, None),
        (1.01, (0.99, 1.01), 1.1, True),
        (1.02, (0.99, 1.01), 1.1, False),
        (0.98, (0.99, 1.01), 1.1, False),
    ],
)
def test_what_is_met(ratio: float, target: Target | None, high: float, met: bool | None) -> None:
    assert case(ratio, target, high).met is met


def drawn(kept: Results) -> list[tuple[str, str]]:
    """How many times as fast, and the mark beside it: the picture's last two columns, from the top."""
    texts = chart.figure(kept).axes[0].findobj(Text)
    rows: dict[float, list[tuple[float, str]]] = {}
    for text in texts:
        x, y = text.get_position()
        if isinstance(text, Text) and x >= chart.FACTORS and y > chart.HEAD:
            rows.setdefault(y, []).append((x, text.get_text()))
    return [(sorted(row)[0][1], sorted(row)[1][1]) for _, row in sorted(rows.items())]


@pytest.mark.parametrize("turned", [False, True], ids=["as measured", "with every verdict turned"])
def test_table_and_picture_agree(turned: bool) -> None:
    kept = KEPT
    if turned:
        kept = replace(
            KEPT, cases=[replace(each, target=0.1 if not each.met else 1e3) for each in KEPT.cases]
        )
    shown = [
        found
        for headline in chart.HEADLINES
        for other in headline.others
        if (found := kept.find(headline.topic, headline.case, other.against))
    ]
    marks = {"\N{CHECK MARK}": "met", "\N{BALLOT X}": "missed", "": ""}
    column = HEADINGS.index("verdict")
    assert [(times, marks[mark]) for times, mark in drawn(kept)] == [
        (chart.times(each), cells(each)[column]) for each in shown
    ]
    table = report(kept, TOPICS)
    for each in kept.cases:
        assert f"| {' | '.join(cells(each))} |" in table
        assert cells(each)[column] == {True: "met", False: "missed", None: ""}[each.met]


def test_a_mark_has_one_colour() -> None:
    colours = [colour for _, colour in chart.MARKS.values()]
    assert len(set(colours)) == len(colours)


def test_the_picture_has_every_headline() -> None:
    for headline in chart.HEADLINES:
        for other in headline.others:
            assert KEPT.find(headline.topic, headline.case, other.against), (headline.case, other.against)


def test_the_report_is_that_of_the_kept_results() -> None:
    assert (HERE / "RESULTS.md").read_text() == report(KEPT, TOPICS)


def test_every_opponent_is_explained_before_its_first_row() -> None:
    for topic in TOPICS.values():
        explained = re.findall(r"\*(.+?)\*", topic.about)
        for each in KEPT.cases:
            if each.topic == topic.name:
                assert any(each.against.startswith(name) for name in explained), (topic.name, each.against)


def test_a_target_that_is_missed_has_a_reason() -> None:
    for each in KEPT.cases:
        assert each.met is not False or TOPICS[each.topic].why_missed


def test_results_are_read_as_they_are_written(tmp_path: Path) -> None:
    results.write(tmp_path / "results.json", KEPT)
    assert results.read(tmp_path / "results.json") == KEPT
    text = (tmp_path / "results.json").read_text()
    assert text == (HERE / "results.json").read_text()
    assert len(text.splitlines()) < 300


def test_an_update_replaces_what_was_measured_again() -> None:
    first, last = KEPT.cases[0], KEPT.cases[-1]
    again, new = replace(first, ratio=0.5), replace(first, case="a new one")
    found = results.updated(KEPT, replace(KEPT, cases=[again, new], by_size={1: {"zc": 2.0}}))
    topic = [case for case in KEPT.cases if case.topic == first.topic]
    assert found.cases[: len(topic) + 1] == [again, *topic[1:], new]
    assert found.cases[-1] == last
    assert found.by_size == {**KEPT.by_size, 1: {"zc": 2.0}}
    assert (found.about, found.arrivals, found.memory) == (KEPT.about, KEPT.arrivals, KEPT.memory)


def test_what_the_report_shows_of_endpoints() -> None:
    endpoints = {"asyncio": {"1": 30_000_000, "100": 30_260_000}}
    trains = {"a case": {"1": 1, "16": 0, "32": 3}, "without": {}}
    shown = report(replace(KEPT, endpoints=endpoints, trains=trains), TOPICS)
    assert "| asyncio | 30.0 | 30.3 |" in shown
    assert "- a case: 1: 25%, 32: 75%\n" in shown
    kept = results.updated(
        replace(KEPT, endpoints={}, trains={"a case": {"1": 7}}), replace(KEPT, trains=trains)
    )
    assert kept.trains == trains


def test_what_the_report_shows_of_frames() -> None:
    frames = {
        64: {"socket.send": (7e5, 1400.0), "af_xdp": (2e6, 500.0)},
        4000: {"socket.send": (6e5, 1500.0)},
    }
    shown = report(replace(KEPT, frames=frames), TOPICS)
    assert "| 64 | 700 (1400) | 2000 (500) |" in shown
    assert "| 4000 | 600 (1500) |  |" in shown
    assert results.updated(KEPT, replace(KEPT, frames=frames)).frames == {**KEPT.frames, **frames}


@pytest.mark.parametrize("changed", ["machine", "kernel"])
def test_results_of_another_machine_are_recognized(changed: str) -> None:
    here = results.about_here("")
    assert results.measured_here({**here, "python": "another", "date": "another"})
    assert not results.measured_here({**here, changed: "another"})


@pytest.mark.parametrize("batch", [8, 32, 128])
@pytest.mark.parametrize("size", [600, 1400, 8000, 65000])
def test_no_payload_is_in_flight_twice(batch: int, size: int) -> None:
    shape = Shape(size, batch)
    offsets = [offset for batch in shape.batches for offset in batch]
    for window in zip(*(offsets[i:] for i in range(shape.window)), strict=False):
        assert len(set(window)) == shape.window
    assert all(batch == list(range(batch[0], batch[-1] + 1, shape.stride)) for batch in shape.batches)
    assert max(offsets) + shape.stride <= shape.pool


def test_a_round_has_one_run_of_each() -> None:
    turns: list[str] = []

    def contender(name: str, datagrams: int) -> Contender:
        def run(_: float) -> Sample:
            turns.append(name)
            return Sample(datagrams, 1.0, 1.0)

        return Contender(name, run)

    names = ["a", "b", "c"]
    contenders = [contender(name, 10 + i) for i, name in enumerate(names)]
    # not displayed: rich's thread for that may end some time later
    found = compare("", contenders, pairs=32, seconds=0.1, progress=progress_bars())
    rounds = [tuple(turns[i : i + 3]) for i in range(3, len(turns), 3)]
    assert len(rounds) == 32
    assert all(sorted(each) == names for each in rounds)
    assert len(set(rounds)) > 1
    assert [row.against for row in found] == ["b", "c"]
    assert [row.ratios for row in found] == [[10 / 11] * 32, [10 / 12] * 32]


def words(plot: str) -> list[str]:
    """What is written in a plot, from its beginning to its end."""
    return re.findall(r"<text[^>]*>([^<]+)</text>", plot)


def test_the_plots_are_those_of_the_kept_results(tmp_path: Path) -> None:
    plots.draw(KEPT, tmp_path)
    for name in plots.PLOTS:
        kept, drawn = (HERE / "plots" / name).read_text(), (tmp_path / name).read_text()
        assert words(kept) == words(drawn) != [], "run: python -m benchmarks --redraw"
        plots.draw(KEPT, tmp_path)
        assert (tmp_path / name).read_text() == drawn
    plots.draw(Results(KEPT.about), tmp_path / "of nothing")  # of one topic, perhaps
    others = replace(KEPT, cases=[replace(each, ratio=1 / each.ratio) for each in KEPT.cases])
    assert words(plots.themed(plots.ratios(others))) != words((HERE / "plots" / "ratios.svg").read_text())


@pytest.mark.parametrize("name", plots.PLOTS)
def test_every_colour_of_a_plot_has_one_for_dark_pages(name: str) -> None:
    plot = plots.themed(plots.PLOTS[name](KEPT))
    drawing = plot.partition("</style>")[2]
    assert "var(--text)" in drawing
    assert re.findall(r"#[0-9a-fA-F]{6}\b", re.sub(r"url\(#\w+\)|href=\"#\w+\"", "", drawing)) == []


@pytest.mark.parametrize(
    ("count", "expected"), [(6, (1, 6)), (11, (2, 10)), (21, (6, 16))], ids=["6", "11", "21"]
)
def test_the_interval_of_the_median_is_that_of_order_statistics(
    count: int, expected: tuple[float, float]
) -> None:
    assert median_interval(range(1, count + 1)) == expected
