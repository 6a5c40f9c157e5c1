"""A UdpSender loses nothing that it does not report, whatever the kernel answers: random schedules."""

import errno
import socket
from collections import Counter
from contextlib import ExitStack
from typing import Any

from conftest import SO_RCVBUFFORCE, force
from hypothesis import given
from hypothesis import strategies as st
from schedules import Step, few
from schedules_udp import UdpPlayer, programs
from seam import Seam

from uringzc import SendError, UdpSender

OPTIONS = st.fixed_dictionaries(
    {
        "zero_copy": st.sampled_from(["auto", "always"]),
        "max_delay": st.sampled_from([None, 0]),
        "max_inflight": st.sampled_from([4, 1024]),
    }
)


def test_a_sender_loses_nothing_in_silence(seam: Seam, engine: str) -> None:
    happened: Counter[str] = Counter()
    with ExitStack() as stack:
        receivers = [stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(3)]
        for rx in receivers:
            rx.bind(("127.0.0.1", 0))
            force(rx, SO_RCVBUFFORCE, 8 << 20)

        @few(60)
        @given(programs(engine), OPTIONS, st.sampled_from([0, 3, 8]), st.booleans())
        def check(program: list[Step], options: dict[str, Any], most: int, has_option: bool) -> None:
            reported: list[SendError] = []
            seam.reset()
            seam.hold(most=most, split=True)
            if not has_option and engine != "msg_zerocopy":  # it sets another
                seam.fail("setsockopt", errno.ENOPROTOOPT, times=1 << 30)  # UDP_SEGMENT
            with UdpSender(on_error=reported.append, **options) as sender:
                player = UdpPlayer(seam, sender, receivers, reported)
                player.play(program)
                player.end()
                happened["injected"] += sum(plan.injected for plan in player.plans)
                happened["lost"] += sender.stats.lost
                happened["resent"] += sender.stats.resent
                happened["reordered"] += sender.stats.reordered
                happened["taken"] += len(player.taken)
                happened["raised"] += player.raised

        check()
    happened["held"] = seam.held_ever
