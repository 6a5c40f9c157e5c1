"""Reference cycles through sockets, callbacks and buffers are collected, with rings, arenas and memory."""

# ruff: noqa: PT012, PT031 - what is to be raised or warned of comes at the end of what leads to it

import gc
import socket
import weakref
from typing import Any

import pytest
from conftest import Pair
from held_memory import is_held, ring_fds
from marks import only_io_uring

import uringzc
from uringzc import UdpSender
from uringzc._send import UdpBatcher
from uringzc.engines import lifetime
from uringzc.senders import udp


class Socket(socket.socket):
    """One that can have attributes."""

    held: Any = None


class Buffer(bytearray):
    """Memory that can have attributes."""

    held: Any = None


def test_a_registered_socket_may_refer_to_its_scheduler(udp_pair: Pair) -> None:
    sock = Socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(udp_pair.rx.getsockname())
    sock.held = s = uringzc.Scheduler()
    s.register_socket(sock)
    s.send(sock, b"x", flush=True)
    s.drain()
    gone = weakref.ref(s)
    sock.close()
    with pytest.warns(ResourceWarning, match="Scheduler was not closed"):
        del sock, s
        gc.collect()
    lifetime.release_parked()  # of its engine, which was dropped and has the socket
    gc.collect()
    assert gone() is None  # since CPython 3.15 a weak reference outlives the finalizers
    udp_pair.receive(1)


class Program:
    """What a program with a callback is like."""

    def __init__(self, pair: Pair) -> None:
        self.tx = UdpSender(pair.rx.getsockname(), on_error=self.failed, max_delay=None)
        self.lease = self.tx.lease(100)

    def failed(self, error: uringzc.SendError) -> None:
        raise error


def test_a_senders_callback_may_refer_to_its_lease(udp_pair: Pair) -> None:
    program = Program(udp_pair)
    program.tx.send(b"x")
    program.tx.close()
    gone = weakref.ref(program)
    del program
    gc.collect()
    assert gone() is None
    udp_pair.receive(1)


def test_memory_may_refer_to_its_region() -> None:
    buffer = Buffer(8192)
    with uringzc.Scheduler() as s:
        buffer.held = s.register(buffer)
        assert is_held(buffer)
        gone = weakref.ref(buffer)
        del buffer
        gc.collect()
        assert gone() is None
        s.submit()


@only_io_uring
def test_a_sender_dropped_in_a_cycle_closes_its_ring(udp_pair: Pair) -> None:
    """Its ring is closed by the next call of the thread."""
    before = ring_fds()
    with pytest.warns(ResourceWarning, match="not closed"):
        sock = Socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.connect(udp_pair.rx.getsockname())
        sock.held = UdpSender(sock=sock, max_delay=None)
        sock.held.send(b"x")
        sock.held.flush()
        sock.held.lease(10)
        sock.close()
        del sock
        gc.collect()
    lifetime.release_parked()
    assert ring_fds() == before
    udp_pair.receive(1)


def test_an_interrupted_constructor_releases_its_slot(
    monkeypatch: pytest.MonkeyPatch, udp_pair: Pair
) -> None:
    """Its slot is another's, before anything could be attached to it."""
    with uringzc.Scheduler() as s:
        for _ in range(5000):  # more than there are slots for senders
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):

                def interrupted(**options: Any) -> None:
                    UdpBatcher(**options)
                    raise KeyboardInterrupt

                patch.setattr(udp, "UdpBatcher", interrupted)
                UdpSender(udp_pair.rx.getsockname(), scheduler=s)
        with UdpSender(udp_pair.rx.getsockname(), scheduler=s) as tx:
            tx.send(b"x")
    udp_pair.receive(1)
