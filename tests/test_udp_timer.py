"""The timer: what it survives, what it costs, and senders that have none."""

import errno
import socket

import pytest
from helpers import until

from uringzc import SendError, UdpSender

# -- what it survives


def test_a_refused_datagram_does_not_end_it() -> None:
    """What the peer's host answers is read by the owner; max_delay is kept meanwhile, and after."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = nobody.getsockname()
    with UdpSender(address) as tx:
        for number in range(20):
            tx.send(b"x")
            assert until(lambda: not tx.stats.waiting, 5), f"datagram {number} waits"
        with pytest.raises(SendError) as caught:
            tx.flush()
        told = [caught.value, *caught.value.others]
        assert {(error.errno, error.index, error.to) for error in told} == {(errno.ECONNREFUSED, -1, address)}
        assert tx.stats.lost == 0
