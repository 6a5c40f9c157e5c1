"""No byte outside of the memory that was given is sent, or read: nobody can read the pages beside it."""

import ctypes
import errno
import mmap
import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Pair
from raising import raises_errno
from traffic import receive_exactly, sender_without_timer

import uringzc

PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

#: offset and length of what is inside, up to both ends
INSIDE = [(0, 1), (0, PAGE), (0, 0), (1, PAGE - 1), (PAGE - 1, 1), (PAGE, 0), (PAGE // 2, PAGE // 2)]
#: and of what is not all inside
OUTSIDE = [
    *((0, PAGE + 1), (1, PAGE), (PAGE - 1, 2), (PAGE, 1), (PAGE + 1, 0), (-1, 1), (-1, 2), (-PAGE, PAGE)),
    *((0, 2 * PAGE), (2 * PAGE, 1), (0, -1), (PAGE, -PAGE), (0, 1 << 32), (1 << 32, 1), (1, (1 << 63) - 1)),
    *(((1 << 63) - 1, 1), (0, 1 << 64), (1 << 64, 1), (PAGE - 1, (1 << 64) - PAGE + 2)),
]
#: size, count, stride and offset of runs that end at the last byte
RUNS = [(PAGE, 1, 0, 0), (64, PAGE // 64, 64, 0), (100, 3, 1000, PAGE - 2100), (1, 2, PAGE - 1, 0)]
OUTSIDE_RUNS = [
    *((PAGE + 1, 1, 0, 0), (64, PAGE // 64 + 1, 64, 0), (100, 3, 1000, PAGE - 2099), (1, 2, PAGE, 0)),
    *((1, (1 << 32) - 1, 1, 0), (1, 2, (1 << 32) - 1, 0), ((1 << 32) - 1, 2, (1 << 32) - 1, (1 << 63) - 1)),
]


class Guarded:
    """A page of random bytes, between two that end whoever reads them."""

    def __init__(self) -> None:
        self._pages = mmap.mmap(-1, 3 * PAGE)
        self.bytes = random.Random(7).randbytes(PAGE)
        self._pages[PAGE : 2 * PAGE] = self.bytes
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._pages))
        for neighbour in (0, 2):
            assert _libc.mprotect(self._address + neighbour * PAGE, PAGE, 0) == 0  # PROT_NONE

    def view(self, before: int = 0, behind: int = 0) -> Any:
        """The page, and so many bytes of its neighbours."""
        return (ctypes.c_char * (before + PAGE + behind)).from_address(self._address + PAGE - before)


@pytest.fixture
def guarded() -> Iterator[Guarded]:
    page = Guarded()
    yield page
    assert bytes(page.view()) == page.bytes


def send_inside(s: uringzc.Scheduler, sock: socket.socket, memory: Any, largest: int = PAGE) -> list[slice]:
    """Sends what reaches both ends, `largest` bytes at most at once; the places of what is to arrive."""
    sent = []
    for offset, length in INSIDE:
        if length <= largest:
            s.send(sock, memory, offset=offset, length=length)
            sent.append(slice(offset, offset + length))
    for size, count, stride, offset in RUNS:
        if size <= largest:
            assert s.send_run(sock, memory, size, count, stride, offset=offset) == count
            sent += [slice(offset + i * stride, offset + i * stride + size) for i in range(count)]
    if s.engine == "af_xdp":  # it has no trains
        return sent
    s.send(sock, memory, offset=PAGE - 1100, segment=500)
    return sent + [slice(at, min(at + 500, PAGE)) for at in range(PAGE - 1100, PAGE, 500)]


def refuse_outside(s: uringzc.Scheduler, sock: socket.socket, memory: Any) -> None:
    """What is not all inside cannot be queued."""
    for offset, length in OUTSIDE:
        with pytest.raises(ValueError, match=r"must be from 0|are not all in"):
            s.send(sock, memory, offset=offset, length=length)
    for size, count, stride, offset in OUTSIDE_RUNS:
        with pytest.raises(ValueError, match=r"must be from 0|are not all in"):
            s.send_run(sock, memory, size, count, stride, offset=offset)


@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
@pytest.mark.parametrize("registered", [False, True], ids=["buffer", "region"])
def test_a_scheduler_sends_what_is_inside_and_refuses_what_is_not(
    guarded: Guarded, udp_pair: Pair, registered: bool, debug: bool
) -> None:
    with uringzc.Scheduler(debug=debug) as s:
        memory = s.register(guarded.view()) if registered else guarded.view()
        sent = send_inside(s, udp_pair.tx, memory)
        refuse_outside(s, udp_pair.tx, memory)
        s.flush(0)
        s.drain()
        assert s.stats.failed == 0
        assert udp_pair.receive(len(sent)) == [guarded.bytes[part] for part in sent]
    assert udp_pair.empty()


def test_a_udp_sender_sends_what_is_inside_and_refuses_what_is_not(guarded: Guarded, udp_pair: Pair) -> None:
    with sender_without_timer(udp_pair.rx, zero_copy="always") as s:
        for memory in (guarded.view(), s.register(guarded.view())):
            s.send_region(memory, segment=1000)
            s.send_slices(memory, *zip(*INSIDE, strict=True))
            for offset, length in OUTSIDE:
                with pytest.raises((ValueError, OverflowError)):
                    s.send_slices(memory, [0, offset], [1, length])
        s.send(guarded.view())
        s.drain()
    expected = [guarded.bytes[at : at + 1000] for at in range(0, PAGE, 1000)]
    expected += [guarded.bytes[offset : offset + length] for offset, length in INSIDE]
    expected += [*expected, guarded.bytes]
    assert udp_pair.receive(len(expected)) == expected
    assert udp_pair.empty()


def test_a_tcp_sender_sends_what_is_inside(guarded: Guarded, tcp_pair: Pair, engine: str) -> None:
    with uringzc.TcpSender(tcp_pair.tx, engine=engine, zero_copy="always") as s:
        s.send(guarded.view())
        s.send_buffers([memoryview(guarded.view()).cast("B")[-1:], guarded.view()])
    tcp_pair.tx.shutdown(socket.SHUT_WR)
    assert receive_exactly(tcp_pair.rx, 2 * PAGE + 1) == guarded.bytes + guarded.bytes[-1:] + guarded.bytes
    assert tcp_pair.rx.recv(1) == b""


@pytest.mark.parametrize(("before", "behind"), [(1, 0), (0, 1)])
def test_control_a_byte_more_is_an_error(guarded: Guarded, udp_pair: Pair, before: int, behind: int) -> None:
    """The kernel cannot have read it, and cannot register it."""
    memory = guarded.view(before, behind)
    with raises_errno(errno.EFAULT, "Bad address"):
        udp_pair.tx.send(memory)
    with uringzc.Scheduler(debug=False) as s:
        if s.engine == "io_uring":
            assert not s.register(memory).registered
        s.send(udp_pair.tx, memory, flush=True)
        assert [c.result for c in s.reap_completions(wait=1)] == [-errno.EFAULT]
        assert [n.failed for n in s.reap_notifications(wait=1)] == [1]
        s.send(udp_pair.tx, memory, offset=before, length=PAGE, flush=True)
        assert [c.result for c in s.reap_completions(wait=1)] == [PAGE]
    assert udp_pair.receive(1) == [guarded.bytes]
    assert udp_pair.empty()
