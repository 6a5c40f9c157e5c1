"""Leases: registered memory that the program fills, and how it is released."""

import gc
import socket
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from conftest import Pair
from processes import in_thread

import uringzc
from uringzc import ClosedError, UdpSender
from uringzc.engines.attached import MIN_ARENA


def sender(pair: Pair) -> UdpSender:
    return UdpSender(pair.rx.getsockname(), arena=MIN_ARENA, max_delay=None)


def fill(s: UdpSender) -> list[uringzc.Lease]:
    """Leases of the whole arena."""
    leases: list[uringzc.Lease] = []
    with suppress(BlockingIOError):
        while len(leases) < 100:
            leases.append(s.lease(60_000))
    assert len(leases) < 100
    return leases


def test_a_with_block_releases_a_lease_unsent(udp_pair: Pair) -> None:
    with sender(udp_pair) as s:
        with s.lease(100) as lease:
            view = lease.view
            assert s._arena.leases == 1
        assert s._arena.leases == 0
        with pytest.raises(ValueError, match="released"):
            view[0] = 1
        with pytest.raises(ValueError, match="sent or released"):
            lease.send()
        lease.release()
    assert udp_pair.empty()


@pytest.mark.parametrize("how", ["here", "thread", "cycle"])
def test_a_dropped_lease_returns_to_the_arena(udp_pair: Pair, how: str) -> None:
    """The arena is whole again: it can be leased as before."""
    with sender(udp_pair) as s:
        leases = fill(s)
        count = len(leases)
        if how == "cycle":
            holder: list[Any] = [leases.copy()]
            holder.append(holder)
            del holder
        if how == "thread":
            in_thread(leases.clear)
        leases.clear()
        gc.collect()
        assert s._arena.leases == 0
        assert len(fill(s)) == count
    assert udp_pair.empty()


def test_an_arena_full_of_leases_refuses_sends(udp_pair: Pair) -> None:
    """Nothing else can be sent; one released lease is enough."""
    with sender(udp_pair) as s:
        leases = fill(s)
        with pytest.raises(BlockingIOError):
            s.send_many([b"x" * 10_000] * 10)
        s.drain()
        leases.pop().release()
        s.send(b"y")
        for lease in leases:
            lease.release()
        s.drain()
    came = []
    while not udp_pair.empty():
        came.append(udp_pair.rx.recv(1 << 16))
    assert came[-1] == b"y"
    assert set(came[:-1]) <= {b"x" * 10_000}


def test_send_releases_the_view(udp_pair: Pair) -> None:
    with sender(udp_pair) as s:
        lease = s.lease(10)
        view = lease.view
        view[:] = b"0123456789"
        for length in (11, -1, 2**64):
            with pytest.raises(ValueError, match="length"):
                lease.send(length)
        assert lease.send(4, to=udp_pair.rx.getsockname()) == 4
        for late in (lambda: view.__setitem__(0, 1), lambda: lease.view, lease.send):
            with pytest.raises(ValueError, match=r"released|sent"):
                late()
    assert udp_pair.receive(1) == [b"0123"]
    assert udp_pair.empty()


@pytest.mark.parametrize("kind", ["slice", "array"])
def test_a_lease_with_an_exported_view_can_not_be_sent(udp_pair: Pair, kind: str) -> None:
    with sender(udp_pair) as s:
        lease = s.lease(10)
        over: Any = lease.view[2:4] if kind == "slice" else np.frombuffer(lease.view, np.uint8)
        lease.view[:] = b"0123456789"
        for call in (lease.send, lease.release):
            with pytest.raises(BufferError):
                call()
        assert (s.stats.datagrams, s.stats.waiting) == (0, 0)
        del over
        assert lease.send() == 10
    assert udp_pair.receive(1) == [b"0123456789"]
    assert udp_pair.empty()


def test_a_lease_outlives_its_sender(udp_pair: Pair) -> None:
    with sender(udp_pair) as s:
        lease = s.lease(10)
    with pytest.raises(ClosedError):
        lease.send()
    del s
    gc.collect()
    lease.view[:] = b"x" * 10
    lease.release()
    assert udp_pair.empty()


def test_leases_of_one_size_make_trains(udp_pair: Pair) -> None:
    with UdpSender(udp_pair.rx.getsockname(), zero_copy="always", max_delay=None) as s:
        for i in range(40):
            lease = s.lease(1000)
            lease.view[:] = bytes([i]) * 1000
            lease.send()
        s.drain()
        assert s.stats.requests <= 2
    assert udp_pair.receive(40) == [bytes([i]) * 1000 for i in range(40)]


@pytest.mark.parametrize("hostile", ["view", "release"])
def test_code_inside_send_can_neither_write_nor_release_the_lease(udp_pair: Pair, hostile: str) -> None:
    """A signal handler, or as here the socket's fileno(), can neither write to it nor give it back."""
    came: list[Exception | None] = []

    class Socket(socket.socket):
        lease: uringzc.Lease | None = None

        def fileno(self) -> int:
            if self.lease is not None:
                try:
                    if hostile == "view":
                        self.lease.view[:] = b"!" * len(self.lease)
                    else:
                        self.lease.release()
                    came.append(None)
                except ValueError as error:
                    came.append(error)
            return super().fileno()

    with Socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(udp_pair.rx.getsockname())
        with UdpSender(sock=sock, arena=MIN_ARENA, max_delay=None) as s:
            s.send(b"first")  # the socket is known to be connected
            sizes = [100 + n for n in range(200)]  # growing: each is a train of its own, and batches fill
            for size in sizes:
                lease = s.lease(size)
                lease.view[:] = bytes([size % 251]) * size
                sock.lease = lease
                assert lease.send() == size
                sock.lease = None
            s.drain()
            assert s._arena.leases == 0
            s.drain()
        assert came  # it was tried
        if hostile == "view":
            assert all(isinstance(error, ValueError) for error in came)
    assert udp_pair.receive(201)[1:] == [bytes([size % 251]) * size for size in sizes]
