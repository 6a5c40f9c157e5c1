"""How often a socket is asked for its descriptor, and what stands for it once it is registered."""

import errno
import socket
from collections.abc import Iterator

import pytest
from marks import only_io_uring
from raising import raises_errno

import uringzc
from uringzc import testing

COUNT = 20


class Asked(socket.socket):
    """Counts the calls of fileno()."""

    asked = 0

    def fileno(self) -> int:
        self.asked += 1
        return super().fileno()


@pytest.fixture
def s() -> Iterator[uringzc.Scheduler]:
    with uringzc.Scheduler() as s:
        yield s


@pytest.fixture
def rx() -> Iterator[testing.Receiver]:
    with testing.receiver() as rx:
        yield rx


def sender_to(rx: testing.Receiver) -> Asked:
    sock = Asked(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(rx.address)
    return sock


@only_io_uring
def test_a_registered_socket_is_not_asked(s: uringzc.Scheduler, rx: testing.Receiver) -> None:
    with sender_to(rx) as sock:
        s.register_socket(sock)
        s.send(sock, b"first")
        before = sock.asked
        for _ in range(COUNT):
            s.send(sock, b"again")
            s.submit()
        assert sock.asked == before
        s.unregister_socket(sock)
        s.send(sock, b"last")
        s.drain()
        assert sock.asked > before
    assert rx.wait(COUNT + 2) == [b"first", *[b"again"] * COUNT, b"last"]


@only_io_uring
def test_a_registered_socket_stays_open_until_it_is_unregistered(
    s: uringzc.Scheduler, rx: testing.Receiver
) -> None:
    sock = sender_to(rx)
    s.register_socket(sock)
    s.send(sock, b"before")
    sock.close()
    s.send(sock, b"after")
    s.drain()
    s.unregister_socket(sock)
    with raises_errno(errno.EBADF, "closed"):
        s.send(sock, b"gone")
    assert rx.wait(2) == [b"before", b"after"]


def test_a_send_asks_no_other_socket(s: uringzc.Scheduler, rx: testing.Receiver) -> None:
    socks = [sender_to(rx) for _ in range(COUNT)]
    for sock in socks:  # describes each
        s.send(sock, b"first")
    s.drain()
    before = [sock.asked for sock in socks]
    for sock in socks:
        s.send(sock, b"second")
    assert all(sock.asked <= count + 2 for sock, count in zip(socks, before, strict=True))
    s.drain()
    assert len(rx.wait(2 * COUNT)) == 2 * COUNT
    for sock in socks:
        sock.close()
