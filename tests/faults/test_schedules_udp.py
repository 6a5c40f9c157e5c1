"""A UdpSender loses nothing that it does not report, whatever the kernel answers: random schedules."""

import errno
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from conftest import SO_RCVBUFFORCE, force
from hypothesis import given
from hypothesis import strategies as st
from marks import only_packet
from schedules import Step, few
from schedules_udp import UdpPlayer, programs
from seam import Seam

from uringzc import SendError, UdpSender, testing

OPTIONS = st.fixed_dictionaries(
    {
        "zero_copy": st.sampled_from(["auto", "always"]),
        "max_delay": st.sampled_from([None, 0]),
        "max_inflight": st.sampled_from([4, 1024]),
    }
)
Make = Callable[..., UdpSender]


def play_all(
    seam: Seam, engine: str, receivers: list[socket.socket], make: Make, errors: set[int]
) -> Counter[str]:
    """What happened in some random programs."""
    happened: Counter[str] = Counter()

    @few(30)
    @given(programs(engine), OPTIONS, st.sampled_from([0, 3, 8]), st.booleans())
    def check(program: list[Step], options: dict[str, Any], most: int, has_option: bool) -> None:
        reported: list[SendError] = []
        seam.reset()
        seam.hold(most=most, split=True)
        if not has_option and engine in ("io_uring", "copy"):  # others need other options
            seam.fail("setsockopt", errno.ENOPROTOOPT, times=1 << 30)  # UDP_SEGMENT
        with make(on_error=reported.append, **options) as sender:
            player = UdpPlayer(seam, sender, receivers, reported)
            player.errors |= errors
            player.play(program)
            player.end()
            happened["injected"] += sum(plan.injected for plan in player.plans)
            happened["failed"] += sender.stats.lost + sender.stats.resent + player.raised
            happened["taken"] += len(player.taken)
        happened["held"] = seam.held_ever

    check()
    assert happened["taken"] > 500
    assert happened["injected"] > 20
    assert happened["failed"] > 10
    return happened


def test_a_sender_loses_nothing_in_silence(seam: Seam, engine: str) -> None:
    with ExitStack() as stack:
        receivers = [stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(3)]
        for rx in receivers:
            rx.bind(("127.0.0.1", 0))
            force(rx, SO_RCVBUFFORCE, 8 << 20)
        happened = play_all(seam, engine, receivers, UdpSender, set())
    assert happened["held"] > 20 or engine == "copy"


@only_packet
@testing.requires("net_admin")
def test_a_sender_of_frames_loses_nothing_in_silence(seam: Seam, box: testing.Hold, engine: str) -> None:
    with ExitStack() as stack:
        receivers = [stack.enter_context(box.receiver_socket(port=0)) for _ in range(3)]

        def make(**options: Any) -> UdpSender:
            return box.run(lambda: UdpSender(**options))

        play_all(seam, engine, receivers, make, {errno.EMSGSIZE})
