"""What is found of a stream is what a simple model finds, whatever is lost, repeated and out of order."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from uringzc.jobs import streams
from uringzc.jobs.streams import Samples, Stream

pytestmark = pytest.mark.engines()


def take(stream: Stream, numbers: list[int]) -> None:
    count = len(numbers)
    ones = np.ones(count, np.int64)
    stream.take(np.array(numbers, np.uint64), 100 * ones, 2000 * ones, np.full(count, 500, np.uint64))


def model(batches: list[list[int]]) -> tuple[int, int, int, int]:
    seen, highest, duplicates, reordered = set[int](), -1, 0, 0
    for number in (number for batch in batches for number in batch):
        duplicates += number in seen
        reordered += number not in seen and number < highest
        seen.add(number)
        highest = max(highest, number)
    return len(seen), highest + 1, duplicates, reordered


numbers = st.one_of(st.integers(0, 30), st.integers(0, 3000))
runs = st.builds(lambda first, count: list(range(first, first + count)), numbers, st.integers(1, 40))


@given(st.lists(st.one_of(runs, st.lists(numbers, min_size=1, max_size=40)), min_size=1, max_size=12))
def test_as_the_model(batches: list[list[int]]) -> None:
    stream = Stream(1, "", True)
    for batch in batches:
        take(stream, batch)
    found = stream.report()
    assert (found.datagrams, found.expected, found.duplicates, found.reordered) == model(batches)
    assert found.lost == found.expected - found.datagrams
    assert found.nbytes == 100 * found.datagrams
    assert found.head == min(number for batch in batches for number in batch)
    assert found.latency["min"] == found.latency["max"] == 1500


def test_the_window_goes_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "WINDOW", 64)
    stream = Stream(1, "", True)
    for first in range(0, 1000, 40):
        take(stream, list(range(first, first + 40)))
    take(stream, [999, 950, 5000, 4990, 4990])  # 5000: further than the window
    found = stream.report()
    assert (found.datagrams, found.duplicates, found.reordered, found.expected) == (1002, 3, 1, 5001)
    take(stream, list(range(5001, 5201)))  # more than the window at once
    assert stream.report().datagrams == 1202


def test_the_end_says_what_was_lost_behind_the_last_that_came() -> None:
    stream = Stream(1, "", True)
    take(stream, [2, 3])
    assert (stream.lost, stream.report().head) == (2, 2)
    stream.end = 10
    assert (stream.lost, stream.expected, stream.report().ended) == (8, 10, True)


def test_samples_are_spread_over_all_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_SAMPLES", 1000)
    samples = Samples()
    assert samples.percentiles() == {}
    for first in range(0, 100_000, 777):
        samples.add(np.arange(first, min(100_000, first + 777), dtype=np.int64))
    found = samples.percentiles()
    assert (found["min"], found["max"]) == (0, 99_999)
    assert found["p50"] == pytest.approx(50_000, rel=0.02)
    assert found["p99"] == pytest.approx(99_000, rel=0.02)
