"""From measurements to a threshold, with made numbers: what noise may not do, and what must be found."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uringzc.doctor.crossover import FIRST, LARGEST, MARGIN, Measured, shapes, threshold

pytestmark = pytest.mark.engines()
SIZES = [shape.nbytes for shape in shapes(1472, 64)]


def measured(
    copy: Callable[[int], float], zero_copy: Callable[[int], float], noise: float = 0.0, rounds: int = 9
) -> list[Measured]:
    """Times by size, each of them disturbed by up to that share."""
    some = random.Random(1)

    def times(of: Callable[[int], float], nbytes: int) -> list[float]:
        return [of(nbytes) * some.uniform(1 - noise, 1 + noise) for _ in range(rounds)]

    return [Measured(nbytes, times(copy, nbytes), times(zero_copy, nbytes)) for nbytes in SIZES]


def growing(nbytes: int) -> float:
    return 1000 + 0.1 * nbytes


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.05])
def test_where_they_cross(noise: float) -> None:
    found = threshold(measured(growing, lambda nbytes: 1800, noise))
    assert found is not None
    assert SIZES.index(found) in (SIZES.index(8832), SIZES.index(11776))  # the curves cross at 8000


def test_always_and_never() -> None:
    assert threshold(measured(growing, lambda nbytes: 500)) == SIZES[0]
    assert threshold(measured(growing, lambda nbytes: 9000)) is None
    assert threshold([]) is None


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.2])
def test_noise_decides_nothing(noise: float) -> None:
    """Both cost the same: a size of 16 may seem to differ, and no more."""
    both = measured(growing, growing, noise)
    assert sum(one.better not in ("same", "unclear") for one in both) <= 1


def test_less_than_the_margin_is_the_same() -> None:
    assert threshold(measured(growing, lambda nbytes: growing(nbytes) * (1 - MARGIN + 0.01))) is None
    assert threshold(measured(growing, lambda nbytes: growing(nbytes) * (1 - MARGIN - 0.01))) == SIZES[0]


def test_a_round_that_was_disturbed_changes_nothing() -> None:
    both = measured(growing, lambda nbytes: 1800)
    disturbed = [one._replace(zero_copy=[9e6, *one.zero_copy[1:]]) for one in both]
    assert threshold(disturbed) == threshold(both)


def test_rounds_that_do_not_agree_decide_nothing() -> None:
    assert Measured(1000, [100.0] * 9, [50.0] * 7 + [150.0] * 2).better == "unclear"
    assert Measured(1000, [100.0] * 9, [50.0] * 8 + [150.0]).better == "zero-copy"
    assert Measured(1000, [100.0] * 9, [150.0] * 8 + [50.0]).better == "copy"


def test_a_size_that_was_disturbed_does_not_hide_the_others() -> None:
    both = measured(growing, lambda nbytes: 1800)
    at = SIZES.index(35328)
    both[at] = both[at]._replace(zero_copy=[1.1 * one for one in both[at].copy])
    assert threshold(both) == 8832


def test_the_threshold_is_a_size_where_zero_copy_costs_less() -> None:
    """Not one of those before, which are the same."""
    both = measured(lambda nbytes: 1000 if nbytes < 9000 else 2000, lambda nbytes: 1000)
    assert threshold(both) == 11776


@given(st.integers(1, 65535), st.sampled_from([1, 64, 128]))
def test_requests_that_are_measured(payload: int, segments: int) -> None:
    found = shapes(payload, segments)
    nbytes = [shape.nbytes for shape in found]
    assert nbytes == sorted(set(nbytes))
    assert nbytes[-1] <= LARGEST
    payload = min(payload, LARGEST)
    most = min(segments, LARGEST // payload)
    assert nbytes[-1] == most * payload
    assert all(shape.size <= payload and shape.datagrams <= segments for shape in found)
    assert all(shape.datagrams == 1 or shape.size == payload for shape in found)
    assert nbytes[0] == min(FIRST, payload) or payload < 2 * FIRST
    assert len(found) <= 24
