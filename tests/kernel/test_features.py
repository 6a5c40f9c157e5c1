"""What the probe finds is what sends find: a wrong answer would make them fail."""

import socket

import pytest
from conftest import MakePair

import uringzc


@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_trains_of_registered_memory_leave_by_a_socket_of_the_program(
    make_udp: MakePair, family: int, connected: bool
) -> None:
    pair = make_udp(family, connected)
    with uringzc.Scheduler() as s:
        region = s.register(4096)
        region.view[:4] = b"abcd"
        to = None if connected else pair.rx.getsockname()
        s.send(pair.tx, region, length=4, segment=2, to=to, zero_copy=True, flush=True)
        s.submit()
        (completion,) = s.reap_completions(wait=1)
        (notification,) = s.reap_notifications(wait=1)
    assert (completion.result, notification.failed) == (4, 0)
    assert pair.receive(2) == [b"ab", b"cd"]
