"""A sender whose arena is made of frames: one train in each, taken in turn, and all of it are requests."""

import ctypes
import errno
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from frame_arenas import (
    AF_XDP,
    FEW,
    HEADROOM,
    PACKET,
    Frames,
    Shape,
    check_all_free,
    frames_of,
    make_blocks,
    use_frames,
)
from raising import raises_errno
from traffic import datagram, send_until_one_waits, wait_until
from udp_everyone import everyone

from uringzc import Scheduler, UdpSender, testing
from uringzc._send import Arena
from uringzc.engines.base import Engine
from uringzc.kernel.features import UDP_SEGMENT

Address = tuple[str, int]


@pytest.fixture(autouse=True)
def frames(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Of the shape that a test's parameter names, else as the engine packet has them."""
    use_frames(monkeypatch, getattr(request, "param", PACKET))
    yield
    check_all_free()


def with_frames(*shapes: Shape) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("frames", shapes, indirect=True)


def numbers_in(frames: Frames, frame: int, size: int) -> list[int]:
    """Which datagrams of that size lie in a frame, one behind the other."""
    payload, found = bytes(frames.payload(frame)), []
    for at in range(0, len(payload) - size, size):
        number = int.from_bytes(payload[at : at + 4], "little")
        if payload[at : at + size] != datagram(number, size):
            assert set(payload[at:]) == {0xA5}, "something else lies behind it"
            break
        found.append(number)
    return found


# -- where datagrams lie


def test_each_open_train_has_a_frame_of_its_own() -> None:
    """However they are interleaved, and whatever lies between: a lease, an empty datagram, a group."""
    with everyone() as rx, UdpSender(family=socket.AF_INET, max_delay=None) as tx:
        frames = frames_of(tx)
        group = tx.group(rx.addresses(3))
        lease = tx.lease(500)
        for i in range(200):
            tx.send(datagram(i, 300), rx.address(10 + i % 20))
            if i == 50:
                group.send(datagram(1000, 300))
            if i == 100:
                tx.send(b"", rx.address(5))
        lease.view[:300] = datagram(1001, 300)
        lease.send(300, rx.address(6))
        tx.send(datagram(1002, 300), rx.address(6))  # joins it
        held = {frame: numbers_in(frames, frame, 300) for frame in frames.used()}
        assert sorted(map(sorted, held.values())) == sorted(
            [[1001, 1002], [1000], [], *([i for i in range(200) if i % 20 == to] for to in range(20))]
        )
        assert tx.stats.requests == 0
        tx.flush()
        came = rx.receive(206)
        assert came[6] == [datagram(1001, 300), datagram(1002, 300)]
        assert [came[i] for i in range(3)] == [[datagram(1000, 300)]] * 3
        for to in range(20):
            assert came[10 + to] == [datagram(i, 300) for i in range(200) if i % 20 == to]
        assert tx.stats.syscalls == 0


def test_control_trains_of_registered_memory_share_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were frames such blocks, the test above would see it."""
    monkeypatch.setattr(Engine, "make_arena", make_blocks)
    with everyone() as rx, UdpSender(family=socket.AF_INET, max_delay=None) as tx:
        for i in range(40):
            tx.send(datagram(i, 300), rx.address(i % 20))
        first = ctypes.string_at(tx._arena.memory.address, 65536)
        block = Frames(Shape(HEADROOM + 65536, 1, 1), None, memoryview(bytes(HEADROOM) + first))
        with pytest.raises(AssertionError, match="something else"):
            numbers_in(block, 0, 300)
        tx.flush()
        rx.receive(40)


def test_frames_are_taken_in_turn() -> None:
    """A new one each time, though the one before is free again, while any is in use."""
    with testing.receiver(thread=False) as rx, UdpSender(rx.address, max_delay=None) as tx:
        frames, taken = frames_of(tx), []
        with tx.lease(1):
            for i in range(PACKET.frames + 10):
                tx.send(datagram(i, 100))
                taken += [frame for frame in frames.used() if frame]
                tx.drain()
        assert taken == [*range(1, PACKET.frames), *range(1, 12)]
        assert rx.wait(PACKET.frames + 10) == [datagram(i, 100) for i in range(PACKET.frames + 10)]


def test_where_none_is_in_use_the_engine_says_with_which_frame_to_begin() -> None:
    with testing.receiver(thread=False) as rx, UdpSender(rx.address, max_delay=None) as tx:
        frames = frames_of(tx)
        for first in (5, 0, 7):
            frames.refs[PACKET.frames] = first
            tx.send(b"first")
            tx.send(b"longer, and so in another frame")
            assert frames.used() == [first, first + 1]
            tx.drain()


def test_frames_that_the_engine_uses_are_left_out() -> None:
    with testing.receiver(thread=False) as rx, UdpSender(rx.address, max_delay=None) as tx:
        frames = frames_of(tx)
        others = [0, 1, 3, PACKET.frames - 1]
        for i in others:
            frames.refs[i] = 1
        for size in (100, 200, 300, 400):
            tx.send(bytes(size))
        frames.refs[2] += 1  # the engine refers to a sender's, too
        tx.drain()
        assert frames.used() == sorted([2, *others])
        for i in (2, *others):
            assert frames.refs[i] == 1
            frames.refs[i] = 0
        rx.wait(4)


@with_frames(FEW)
def test_no_more_frames_are_in_use_than_the_limit() -> None:
    """To more destinations than may be open; half of the limit is, and the oldest wait in the batch."""
    with everyone() as rx, UdpSender(family=socket.AF_INET, max_delay=None) as tx:
        frames, most = frames_of(tx), 0
        for i in range(600):
            tx.send(datagram(i, 900), rx.address(i * 7 % 20))
            most = max(most, len(frames.used()))
            assert frames.arena.free == (FEW.limit - len(frames.used())) * FEW.capacity
        tx.flush()
        came = rx.receive(600)
        for to in range(20):
            assert came[to] == [datagram(i, 900) for i in range(600) if i * 7 % 20 == to]
        assert most == FEW.limit
        assert tx.stats.syscalls == 0


@with_frames(FEW)
def test_leases_have_frames_and_may_take_all() -> None:
    with testing.receiver(thread=False) as rx, UdpSender(rx.address, max_delay=None) as tx:
        frames = frames_of(tx)
        leases = [tx.lease(10) for _ in range(FEW.limit)]
        with raises_errno(errno.EAGAIN, "leases that were not sent hold the whole arena"):
            tx.lease(10)
        with raises_errno(errno.EAGAIN, "leases that were not sent hold the whole arena"):
            tx.send(b"no frame")
        assert len(frames.used()) == FEW.limit
        thread = threading.Thread(target=leases.pop)  # the last reference, in another thread
        thread.start()
        thread.join()
        tx.send(b"one")
        for lease in leases:
            lease.release()
        tx.drain()
        assert rx.wait(1) == [b"one"]


@with_frames(FEW)
def test_senders_of_one_engine_share_its_frames() -> None:
    """What one has staged leaves when another needs the frame."""
    with ExitStack() as stack:
        rx = stack.enter_context(everyone())
        shared = stack.enter_context(Scheduler([0]))
        senders = [
            stack.enter_context(UdpSender(family=socket.AF_INET, scheduler=shared, max_delay=None))
            for _ in range(3)
        ]
        expected: dict[int, list[bytes]] = {}
        for i in range(300):
            to = i * 5 % 12
            senders[to % 3].send(datagram(i, 700), rx.address(to))
            expected.setdefault(to, []).append(datagram(i, 700))
        for sender in senders:
            sender.flush()
        assert rx.receive(300) == expected
        assert [sender.stats.syscalls for sender in senders] == [0, 0, 0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"stride": 0},
        {"stride": 4096},  # less than a block's capacity
        {"stride": 65536, "headroom": 128},
        {"stride": 1 << 30},
        {"capacity": 0},
        {"limit": 2},  # of no frames
        {"refs": 4096},
    ],
)
def test_a_wrong_arena_is_refused(wrong: dict[str, int]) -> None:
    with UdpSender(family=socket.AF_INET) as tx, pytest.raises(ValueError, match=r"arena|frames"):
        Arena(tx._arena.memory, **wrong)


# -- everything is a request


@pytest.mark.parametrize("max_delay", [None, 0, 3600])
def test_single_datagrams_are_requests(max_delay: float | None) -> None:
    """Those that leave at once, too, and those that are alone at a flush."""
    with testing.receiver(thread=False) as rx, UdpSender(rx.address, max_delay=max_delay) as tx:
        for i in range(50):
            tx.send(datagram(i, 40))
            if i % 5 == 0:
                tx.flush()
        tx.drain()
        assert rx.wait(50) == [datagram(i, 40) for i in range(50)]
        assert (tx.stats.syscalls, tx.stats.waiting) == (0, 0)
        assert tx.stats.requests > (40 if max_delay == 0 else 9)


def test_the_socket_has_no_segment_option() -> None:
    """A datagram that leaves through it must not be cut."""
    with testing.receiver(thread=False) as rx, UdpSender(rx.address, max_delay=None) as tx:
        for i in range(100):
            tx.send(datagram(i, 1000))
        tx.drain()
        assert tx.sock.getsockopt(socket.IPPROTO_UDP, UDP_SEGMENT) == 0
        assert rx.wait(100) == [datagram(i, 1000) for i in range(100)]
        assert tx.stats.requests < 10


def test_large_bytes_are_staged() -> None:
    """The engine would copy what is held."""
    with testing.receiver(thread=False) as rx, UdpSender(rx.address, max_delay=None) as tx:
        data, more = datagram(1, 40_000), [datagram(2, 20_000)]
        before = sys.getrefcount(data), sys.getrefcount(more[0])
        tx.send(data)
        tx.send_many(more)
        tx.send_slices(memoryview(data), [0], [30_000])
        assert (sys.getrefcount(data), sys.getrefcount(more[0])) == before
        tx.drain()
        assert rx.wait(3) == [data, *more, data[:30_000]]


def test_the_timer_sends_through_the_socket() -> None:
    with testing.receiver() as rx, UdpSender(rx.address, max_delay=0.001) as tx:
        count = send_until_one_waits(tx)
        rx.wait(count)
        assert wait_until(lambda: tx.stats.syscalls == 1)


# -- sizes


@with_frames(AF_XDP)
def test_a_datagram_that_is_larger_than_a_frame_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = AF_XDP.capacity
    monkeypatch.setattr(Engine, "max_segments", lambda _: 1)
    with testing.receiver(thread=False) as rx, UdpSender(rx.address, max_delay=None) as tx:
        for wrong in (bytes(largest + 1), bytearray(65507), bytes(40_000)):
            with raises_errno(
                errno.EMSGSIZE, f"larger than a frame of the engine can carry .{largest} bytes"
            ):
                tx.send(wrong)
            with raises_errno(
                errno.EMSGSIZE, f"larger than a frame of the engine can carry .{largest} bytes"
            ):
                tx.fan_out(wrong, [rx.address])
        with pytest.raises(ValueError, match=f"0 to {largest} bytes"):
            tx.lease(largest + 1)
        with pytest.raises(ValueError, match=f"1 to {largest} bytes"):
            tx.send_region(bytes(20_000), segment=largest + 1)
        expected = [datagram(i, largest - i % 3) for i in range(50)] + [datagram(i, 100) for i in range(50)]
        tx.send_many(expected)
        lease = tx.lease(largest)
        lease.view[:] = datagram(99, largest)
        lease.send()
        tx.drain()
        assert rx.wait(101) == [*expected, datagram(99, largest)]
        assert (tx.stats.requests, tx.stats.syscalls) == (101, 0)


@with_frames(AF_XDP)
def test_a_train_is_not_larger_than_a_frame() -> None:
    with testing.receiver(thread=False) as rx, UdpSender(rx.address, max_delay=None) as tx:
        expected = [datagram(i, 700) for i in range(100)]
        tx.send_many(expected)
        tx.send_region(b"".join(expected), segment=700)
        tx.drain()
        assert rx.wait(200) == expected * 2
        assert tx.stats.requests == 2 * 20  # of 5, where 6 would not fit
        assert tx.stats.trains[4] == 40


# -- options


def test_timestamps_are_refused(engine: str) -> None:
    with pytest.raises(ValueError, match=f"{engine} frames carry no transmit timestamps; use engine='io_uri"):
        UdpSender(("127.0.0.1", 9), on_timestamp=print)


def test_qdisc_bypass_is_a_bool_for_the_engine_packet() -> None:
    with pytest.raises(TypeError, match="qdisc_bypass is a bool, not 1"):
        UdpSender(("127.0.0.1", 9), qdisc_bypass=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="qdisc_bypass is for engine='packet'"):
        UdpSender(("127.0.0.1", 9), qdisc_bypass=True)
    with Scheduler([0]) as shared, pytest.raises(ValueError, match="qdisc_bypass is the scheduler's"):
        UdpSender(("127.0.0.1", 9), scheduler=shared, qdisc_bypass=True)
