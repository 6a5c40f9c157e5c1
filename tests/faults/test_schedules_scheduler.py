"""A Scheduler keeps its rules whatever the kernel answers, and in whichever order: random schedules."""

from collections import Counter

from conftest import MakePair
from hypothesis import given
from hypothesis import strategies as st
from schedules import SLOTS, SchedulePlayer, Step, few, programs
from seam import Seam

from uringzc import Scheduler


def test_a_scheduler_keeps_its_rules(seam: Seam, make_udp: MakePair, engine: str) -> None:
    pairs = [make_udp(), make_udp()]
    happened: Counter[str] = Counter()

    @few(60)
    @given(programs(engine), st.sampled_from([4, 16, 200]))
    def check(program: list[Step], max_inflight: int) -> None:
        seam.reset()
        with Scheduler(range(SLOTS), max_inflight=max_inflight) as scheduler:
            player = SchedulePlayer(seam, scheduler, pairs)
            player.play(program)
            happened["injected"] += sum(plan.injected for plan in player.plans)
            happened["failed"] += sum(request.result < 0 for request, _, _ in player.requests.values())
            happened["sent"] += len(player.requests)
            player.end()
        happened["held"] = seam.held_ever

    check()
    assert happened["injected"] > 20
    assert happened["failed"] > 5
    assert happened["sent"] > 100
    assert happened["held"] > 20 or engine == "copy"
