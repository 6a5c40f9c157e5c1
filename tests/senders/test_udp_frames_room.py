"""An engine that sends through a descriptor of its own, too: a sender waits until both have room.

The engines here have none: their tables of calls are copied and changed.
"""

import errno
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any

import pytest
from frame_arenas import PACKET, check_all_free, use_frames
from raising import raises_errno
from traffic import datagram, unsent_bytes

from uringzc import UdpSender, testing
from uringzc._uring import ffi, lib
from uringzc.engines.base import Engine


@pytest.fixture(autouse=True)
def frames(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    use_frames(monkeypatch, PACKET)
    yield
    check_all_free()


def change_calls(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any]) -> None:
    """`change` gets the table of a new engine, and returns what has to live as long."""
    start, kept = Engine._start, []

    def start_changed(engine: Engine, calls: Any) -> None:
        table = ffi.new("uzc_calls *", calls[0])
        kept.append((table, change(table)))
        start(engine, table)

    monkeypatch.setattr(Engine, "_start", start_changed)


class Charged:
    """What the engine sends through: it has no room until `take` was called."""

    def __init__(self) -> None:
        self.sock, self.far = socket.socketpair()
        self.fd = self.sock.fileno()
        self.sock.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                self.sock.send(bytes(1 << 16))
        assert unsent_bytes(self.sock) >= self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)

    def take(self) -> None:
        with suppress(BlockingIOError):
            self.far.setblocking(False)
            while True:
                self.far.recv(1 << 20)

    def close(self) -> None:
        self.sock.close()
        self.far.close()


@pytest.fixture
def charged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Charged]:
    with closing(Charged()) as made:

        def change(table: Any) -> Any:
            table.room_fileno = callback = ffi.callback(ffi.typeof(table.room_fileno), lambda _: made.fd)
            return callback

        change_calls(monkeypatch, change)
        yield made


def test_nothing_leaves_without_room(charged: Charged) -> None:
    with (
        testing.receiver(thread=False) as rx,
        UdpSender(rx.address, max_delay=None, blocking=False) as tx,
    ):
        tx.send(b"one")
        with raises_errno(errno.EAGAIN, "the network takes no more at the moment"):
            tx.flush()
        assert (tx.stats.waiting_for, tx.stats.waiting, tx.stats.requests) == ("room", 1, 0)
        assert not select.select([tx], [], [], 0)[0]
        charged.take()
        assert select.select([tx], [], [], 5)[0], "nothing says that there is room"
        tx.flush()
        assert rx.wait(1) == [b"one"]


def test_a_call_waits_for_room(charged: Charged) -> None:
    with testing.receiver(thread=False) as rx, UdpSender(rx.address, max_delay=None) as tx:
        waits = threading.Timer(0.05, charged.take)
        waits.start()
        tx.send(b"one")
        tx.flush()
        waits.join()
        assert tx.stats.waited_for["room"]
        assert rx.wait(1) == [b"one"]


def test_the_descriptor_may_be_opened_later(charged: Charged) -> None:
    """With the first path; and control: without it, nothing waits."""
    fd, charged.fd = charged.fd, -1
    with testing.receiver(thread=False) as rx, UdpSender(rx.address, max_delay=None, blocking=False) as tx:
        tx.send(b"one")
        tx.flush()
        assert rx.wait(1) == [b"one"]
        charged.fd = fd
        tx.send(b"two")
        with raises_errno(errno.EAGAIN, "the network takes no more at the moment"):
            tx.flush()
        charged.take()
        tx.flush()
        assert rx.wait(2) == [b"one", b"two"]


@pytest.mark.parametrize("refused", [2, 3, 7])
def test_without_a_free_frame_a_request_waits(monkeypatch: pytest.MonkeyPatch, refused: int) -> None:
    """Each so many calls of queue() find none, as when copies need more than there are."""
    tries = [0, 0]

    def change(table: Any) -> Any:
        real = table.queue

        def queue(engine: Any, send: Any, references: Any) -> int:
            tries[0] += 1
            if tries[0] % refused == 0:
                tries[1] += 1
                return int(lib.UZC_E_FRAMES)
            return int(real(engine, send, references))

        table.queue = callback = ffi.callback(ffi.typeof(real), queue)
        return callback

    change_calls(monkeypatch, change)
    with testing.receiver(thread=False) as rx, UdpSender(rx.address, max_delay=None) as tx:
        expected = [datagram(i, 200 + i % 7) for i in range(300)]
        tx.send_many(expected)
        tx.drain()
        assert rx.wait(300) == expected
        assert tries[1] > 20
        assert tx.stats.syscalls == 0
