"""receive() ends when a file descriptor says so, and with what came until then."""

import os
import socket
import threading

import pytest
from both_ends import put, receiving

from uringzc.jobs import receiving as module

pytestmark = pytest.mark.engines()


@pytest.mark.parametrize("closed", [False, True])
def test_it_ends_when_the_descriptor_says_so(closed: bool) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, receiving(stop=ours.fileno(), duration=60) as end:
        end.put([b"a"] * 3)
        if closed:
            theirs.close()
        else:
            theirs.send(b"x")
    assert (end.received.datagrams, end.received.stopped) == (3, "stop")


def test_it_ends_while_datagrams_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_DRAIN", 0.3)
    near, far = os.pipe()
    over = threading.Event()

    def flood(address: str) -> None:
        while not over.is_set():
            put(address, [b"a"] * 10)

    with receiving(stop=near, duration=60) as end:
        thread = threading.Thread(target=flood, args=(end.address,))
        thread.start()
        os.close(far)
        try:
            assert end.received.stopped == "stop"
        finally:
            over.set()
            thread.join()
    os.close(near)
