"""A Scheduler keeps its rules whatever the kernel answers, and in whichever order: random schedules."""

import errno
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

from conftest import MakePair, Pair
from hypothesis import given
from hypothesis import strategies as st
from marks import only_packet
from schedules import SLOTS, SchedulePlayer, Step, few, programs
from seam import Seam

from uringzc import Scheduler, testing

IP_RECVERR = 11


def play_all(
    seam: Seam, engine: str, pairs: list[Pair], make: Callable[[int], Scheduler], errors: set[int]
) -> Counter[str]:
    """What happened in some random programs. `make`: with max_inflight."""
    happened: Counter[str] = Counter()

    @few(30)
    @given(programs(engine), st.sampled_from([4, 16, 200]))
    def check(program: list[Step], max_inflight: int) -> None:
        seam.reset()
        with make(max_inflight) as scheduler:
            player = SchedulePlayer(seam, scheduler, pairs)
            player.errors |= errors
            player.play(program)
            happened["injected"] += sum(plan.injected for plan in player.plans)
            happened["failed"] += sum(request.result < 0 for request, _, _ in player.requests.values())
            happened["sent"] += len(player.requests)
            player.end()
        happened["held"] = seam.held_ever

    check()
    return happened


def test_a_scheduler_keeps_its_rules(seam: Seam, make_udp: MakePair, engine: str) -> None:
    def make(max_inflight: int) -> Scheduler:
        return Scheduler(range(SLOTS), max_inflight=max_inflight)

    pairs = [make_udp(), make_udp()]
    pairs[1].tx.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)  # several datagrams in one sendmmsg()
    happened = play_all(seam, engine, pairs, make, set())
    assert happened["sent"] > 200
    assert happened["injected"] > 20
    assert happened["failed"] > 5
    assert happened["held"] > 10 or engine == "copy"


@only_packet
@testing.requires("net_admin")
def test_a_scheduler_of_frames_keeps_its_rules(seam: Seam, box: testing.Hold, engine: str) -> None:
    with ExitStack() as stack:
        pairs = []
        for _ in range(2):
            rx = stack.enter_context(box.receiver_socket(port=0))
            rx.settimeout(10)
            tx = stack.enter_context(box.socket())
            tx.connect(rx.getsockname())
            pairs.append(Pair(tx, rx))

        def make(max_inflight: int) -> Scheduler:
            return box.run(lambda: Scheduler(range(SLOTS), max_inflight=max_inflight))

        happened = play_all(seam, engine, pairs, make, {errno.EMSGSIZE})
    assert happened["sent"] > 200
    assert happened["injected"] > 20
    assert happened["failed"] > 5
