"""A TcpSender sends every byte once and in order, whatever the kernel answers: random schedules."""

from collections import Counter

from conftest import MakePair
from hypothesis import given
from hypothesis import strategies as st
from schedules import Step, few
from schedules_tcp import TcpPlayer, programs
from seam import Seam

from uringzc import TcpSender


def test_a_stream_is_whole_and_in_order(seam: Seam, make_tcp: MakePair, engine: str) -> None:
    happened: Counter[str] = Counter()
    pair = make_tcp()
    pair.tx.setsockopt(1, 7, 4 << 20)
    pair.rx.setblocking(False)

    @few(30)
    @given(programs(engine), st.sampled_from(["auto", "always"]), st.booleans())
    def check(program: list[Step], zero_copy: str, blocking: bool) -> None:
        seam.reset()
        with TcpSender(pair.tx, zero_copy=zero_copy, blocking=blocking) as sender:
            player = TcpPlayer(seam, sender, pair.rx, blocking)
            player.play(program)
            player.end()
            happened["injected"] += sum(plan.injected for plan in player.plans)
            happened["raised"] += player.raised
            happened["requests"] += sender.stats.requests
            happened["bytes"] += len(player.accepted)

    check()
    assert happened["bytes"] > 1_000_000
    assert happened["injected"] > 20
    assert happened["raised"] > 5
    assert happened["requests"] > 20 or engine == "copy"
