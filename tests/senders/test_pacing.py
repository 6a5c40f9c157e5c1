"""What rate, pps and burst may be, and the times that they stand for."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uringzc.senders.pacing import LATENESS, LONGEST, MS, Pacing, make_pacing

pytestmark = pytest.mark.engines()

HEADROOM = re.compile(r"bursts of at most (\d+)")


def paced(rate: Any = None, pps: Any = None, burst: Any = None) -> Pacing:
    pacing = make_pacing(rate, pps, burst)
    assert pacing is not None
    return pacing


@pytest.mark.parametrize(
    ("rate", "bits"),
    [
        (1, 1),
        (2_500_000_000, 2.5e9),
        (1e6, 1e6),
        ("8bit", 8),
        ("800kbit", 800e3),
        ("800Mbit", 800e6),
        ("2.5Gbit", 2.5e9),
        ("10B", 80),
        ("10kB", 80e3),
        ("10MB", 80e6),
        ("10GB", 80e9),
        ("100KiB", 800 * 1024),
        ("100MiB", 800 * 1024**2),
        ("1GiB", 8 * 1024**3),
    ],
)
def test_rates_are_bits_or_have_trafgens_units(rate: object, bits: float) -> None:
    pacing = paced(rate)
    assert 8 * pacing.per_second == pytest.approx(bits)
    assert pacing.counts_bytes


@pytest.mark.parametrize(
    ("pps", "datagrams"),
    [(1000, 1e3), (0.5, 0.5), ("7pps", 7), ("200kpps", 200e3), ("1.5Mpps", 1.5e6), ("0.1pps", 0.1)],
)
def test_pps_is_datagrams(pps: object, datagrams: float) -> None:
    pacing = paced(pps=pps)
    assert pacing.per_second == pytest.approx(datagrams)
    assert not pacing.counts_bytes


def test_neither_is_no_pacing() -> None:
    assert make_pacing(None, None, None) is None


@pytest.mark.parametrize(
    "wrong", ["", "Gbit", "1", "1 Gbit", "1gbit", "1GBit", "-1Gbit", "1e3bit", "1Gbit/s", "1,5Gbit", "१Gbit"]
)
def test_a_str_that_is_no_rate_is_refused_with_what_is_accepted(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"rate is bits .*2\.5Gbit.*KiB") as caught:
        make_pacing(wrong, None, None)
    assert repr(wrong) in str(caught.value)


def test_a_unit_of_the_other_option_is_refused_with_its_name() -> None:
    with pytest.raises(ValueError, match=r"give that as pps="):
        make_pacing("200kpps", None, None)
    with pytest.raises(ValueError, match=r"give that as rate="):
        make_pacing(None, "1Gbit", None)


@pytest.mark.parametrize(
    "wrong", [0, -1, 0.5, 1e13, float("inf"), float("nan"), 10**400, "0bit", "1000000GB"]
)
def test_a_rate_out_of_range_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"rate is 1 to 1e\+12 bits"):
        make_pacing(wrong, None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [0, -5, 1e10, "0pps", "10000Mpps"])
def test_pps_out_of_range_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"pps is 0\.001 to 1e\+09 datagrams"):
        make_pacing(None, wrong, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [True, b"1Gbit", [1], 1j])
def test_another_type_is_refused(wrong: object) -> None:
    with pytest.raises(TypeError, match="rate is bits of payload per second"):
        make_pacing(wrong, None, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="pps is datagrams per second"):
        make_pacing(None, wrong, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="burst is bytes with rate, datagrams with pps"):
        make_pacing(None, 1000, wrong)  # type: ignore[arg-type]


def test_both_and_a_burst_alone_are_refused() -> None:
    with pytest.raises(ValueError, match="give one of them"):
        make_pacing("1Gbit", "1kpps", None)
    with pytest.raises(ValueError, match="burst needs a rate or pps"):
        make_pacing(None, None, 10)
    with pytest.raises(ValueError, match="burst is 1 or more"):
        make_pacing(None, 1000, 0)


def test_by_default_a_pause_gives_one_ms_and_lateness_nine_more() -> None:
    for pacing in (paced("800Mbit"), paced(pps="10kpps")):
        assert (pacing.burst, pacing.lateness) == (MS, LATENESS)


def test_a_train_is_one_ms_and_two_are_gathered_of_several_datagrams() -> None:
    assert paced("800Mbit")[-2:] == (100_000, 200_000)
    assert paced("8Mbit")[-2:] == (1000, 1000)
    assert paced(pps="10kpps")[-2:] == (10, 20)
    assert paced(pps=1000)[-2:] == paced(pps=10)[-2:] == (1, 1)


def test_a_burst_is_all_the_credit_there_is_and_has_room_for_two_trains() -> None:
    pacing = paced(pps="1Mpps", burst=100)
    assert (pacing.burst, pacing.lateness, pacing.most) == (100_000, 0, 50)
    assert paced(pps="1Mpps", burst=1).most == 1
    assert paced("8Mbit", burst=10**30).burst == LONGEST
    assert paced("8Mbit", burst=10**9).most == 1000


@given(
    st.sampled_from(["rate", "pps"]),
    st.floats(1, 1e9) | st.integers(1, 10**9),
    st.none() | st.integers(1, 10**9),
)
def test_what_is_compiled_fits_and_is_described(option: str, number: float, burst: int | None) -> None:
    pacing = paced(**{option: number}, burst=burst)
    ns, _, credit, lateness, most, gather = pacing.compiled
    assert ns > 0
    assert 0 <= credit <= LONGEST
    assert credit + lateness < 1 << 62
    assert 1 <= most < 1 << 63
    assert most == 1 or most * ns <= MS * 1.001
    assert burst is None or most == 1 or 2 * most <= burst
    assert gather == most or (gather == 2 * most and burst is None)
    assert HEADROOM.search(str(pacing))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rate": "2.5Gbit"}, "2.5 Gbit/s of payload"),
        ({"rate": 800_000}, "800 kbit/s of payload"),
        ({"pps": 200_000, "burst": 64}, "200 kpps of payload: trains of at most 32 datagrams"),
        ({"pps": 5}, "5 pps"),
    ],
)
def test_the_text_says_rate_train_and_burst(options: dict[str, Any], text: str) -> None:
    assert text in str(paced(**options))
