"""The search for the largest rate without more loss, on a way whose limit is known."""

from dataclasses import replace
from typing import Any

import pytest
from bench_figures import came, sent, stream

from uringzc.jobs import BenchRound, Interrupted, Limit, LimitTry
from uringzc.jobs.bench import LimitSearch

pytestmark = pytest.mark.engines()


class Way:
    """An end that sends at `fastest` datagrams per second at most, of which a way `carries` some."""

    def __init__(self, carries: float, fastest: float = 1e6, dropped: int = 0, paced: float = 1e9) -> None:
        self.carries, self.fastest, self.dropped, self.paced = carries, fastest, dropped, paced

    def measure(self, engine: str, size: int, seconds: float, rate: str | None, *_: object) -> BenchRound:
        asked = self.fastest if rate is None else float(rate.removesuffix("pps"))
        pps = min(asked, self.fastest if rate is None else self.paced)
        arrived = round(min(pps, self.carries) * seconds)
        lost = round(pps * seconds) - arrived
        received = replace(came(stream(7, arrived)), dropped=self.dropped if lost else 0)
        return BenchRound(sent(datagrams=round(pps * seconds), pps=pps), received)


def search(way: Any, loss: float = 0.0) -> Limit:
    made = LimitSearch(way, "copy", 1200, 1.0, loss)
    made.run(lambda *_: None, lambda _: None)
    return made.limit


@pytest.mark.parametrize(
    ("carries", "dropped", "bound"), [(123_456, 0, "loss"), (50, 0, "loss"), (9e5, 3, "receiver")]
)
def test_it_is_found_and_held_twice(carries: float, dropped: int, bound: str) -> None:
    found = search(Way(carries, dropped=dropped))
    assert carries / 1.05 <= found.pps <= carries
    assert found.bound == bound
    assert [one.pps for one in found.tries if one.held].count(found.pps) == 2
    assert len(found.tries) < 30


def test_what_may_be_lost_is_not_looked_for() -> None:
    found = search(Way(100_000), loss=0.5)
    assert 190_000 <= found.pps <= 200_000


def test_a_sender_that_is_slower_than_the_way() -> None:
    found = search(Way(1e6, fastest=5e5))
    assert (found.pps, found.bound) == (5e5, "sender")
    assert [one.held for one in found.tries] == [True, True]


def test_a_rate_that_is_not_reached_is_not_held() -> None:
    found = search(Way(8e5, paced=4e5))
    assert 4e5 / 1.05 <= found.pps <= 4e5 / 0.95
    assert found.bound == "sender"


def test_where_nothing_comes_there_is_none() -> None:
    found = search(Way(0))
    assert (found.pps, found.bound, len(found.tries)) == (0.0, "loss", 1)


def test_where_no_rate_holds_it_ends() -> None:
    class Noisy(Way):
        def measure(self, *options: Any) -> BenchRound:
            each = super().measure(*options)
            return replace(each, received=came(stream(7, each.result.datagrams * 9 // 10)))

    found = search(Noisy(1e9))
    assert found.pps == 0.0
    assert len(found.tries) < 40


def test_a_rate_that_was_missed_once_is_tried_again() -> None:
    class Slow(Way):
        tries = 0

        def measure(self, *options: Any) -> BenchRound:
            self.tries += 1
            self.paced = 1e9 if self.tries % 4 else 1.0
            return super().measure(*options)

    found = search(Slow(1e5))
    assert 1e5 / 1.05 <= found.pps <= 1e5


def test_ctrl_c_keeps_the_tries() -> None:
    class Stopped(Way):
        def measure(self, *options: Any) -> BenchRound:
            if options[3] is not None:
                raise Interrupted(None)
            return super().measure(*options)

    made = LimitSearch(Stopped(1e5), "copy", 1200, 1.0, 0.0)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        made.run(lambda *_: None, lambda _: None)
    assert made.limit.tries == (LimitTry(1e6, 1e6, 0.9, 0, False),)
