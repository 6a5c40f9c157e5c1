"""Every way to send arrives unchanged, whatever the program does to its memory while nothing is delivered."""

import ctypes
import gc
import mmap
import os
import random
import socket
import tempfile
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest
from marks import zero_copy_engines
from traffic import datagram, stopped

import uringzc
from uringzc import testing
from uringzc.engines.attached import MIN_ARENA

pytestmark = testing.requires("net_admin")

PORTS = (testing.PORT, testing.PORT + 1)
LARGE = 20_000  # sent from where it is, if it cannot change
WARM_UP = 4  # datagrams to each destination before a test
JUMBO = 50_000  # an MTU above it: what is fragmented the kernel copies, and nothing would be seen
Address = tuple[str, int]


class Sent(NamedTuple):
    """What must arrive, at the first port and at the second."""

    first: list[bytes]
    second: list[bytes]


Path = Callable[[uringzc.UdpSender, list[Address]], Sent]


def some(count: int, size: int, start: int = 0) -> list[bytes]:
    return [datagram(start + i, size) for i in range(count)]


def scribble(memory: bytearray) -> None:
    memory[:] = b"\xff" * len(memory)


def by_send(s: uringzc.UdpSender, to: list[Address]) -> Sent:
    """Small ones of several sizes, out of one bytearray that is overwritten after each call."""
    expected = some(100, 1200) + some(3, 7, 100) + some(50, 900, 200) + some(1, 1400, 300) + some(60, 64, 400)
    for data in expected:
        mutable = bytearray(data)
        assert s.send(mutable) == len(data)
        scribble(mutable)
    return Sent(expected, [])


def by_send_bytes(s: uringzc.UdpSender, to: list[Address]) -> Sent:
    """The same size again and again: the shortest way through the compiled part."""
    for data in some(300, 1200):
        s.send(data)
    return Sent(some(300, 1200), [])


def by_views(s: uringzc.UdpSender, to: list[Address]) -> Sent:
    """Other buffers, which are copied too: views of a piece, arrays, matrices."""
    mutable = bytearray(b"".join(some(40, 1000)))
    for i in range(40):
        s.send(memoryview(mutable)[i * 1000 : (i + 1) * 1000])
    numbers = array("I", range(250))
    s.send(numbers)
    expected = [*some(40, 1000), numbers.tobytes()]
    matrix: Any = np.arange(240, dtype=np.uint16).reshape(12, 20)
    s.send(matrix)
    expected.append(matrix.tobytes())
    scribble(mutable)
    numbers[0] = 2**32 - 1
    matrix[:] = 0xFFFF
    return Sent(expected, [])


def by_sendto(s: uringzc.UdpSender, to: list[Address]) -> Sent:
    """Two destinations in turn, one and seven."""
    sent = Sent([], [])
    for i, data in enumerate(some(160, 1100)):
        mutable = bytearray(data)
        which = i % 8 == 0
        assert (s.sendto(mutable, 0, to[which]) if i % 3 else s.sendto(mutable, to[which])) == 1100
        sent[which].append(data)
        scribble(mutable)
    return sent


def by_send_many(s: uringzc.UdpSender, to: list[Address]) -> Sent:
    """To one address, from an iterator that overwrites what it gave out."""

    def give() -> Iterator[bytearray]:
        mutable = bytearray(1200)
        for data in some(200, 1200):
            mutable[:] = data
            yield mutable
            scribble(mutable)

    assert s.send_many(give(), to[1]) == 200
    assert s.send_many(some(100, 800, 500)) == 100
    return Sent(some(100, 800, 500), some(200, 1200))


def by_send_many_paired(s: uringzc.UdpSender, to: list[Address]) -> Sent:
    """An address for each."""
    mutable = [bytearray(data) for data in some(150, 1000)]
    assert s.send_many(mutable, [to[i // 5 % 2] for i in range(150)]) == 150
    for data in mutable:
        scribble(data)
    whole = some(150, 1000)
    return Sent(
        [whole[i] for i in range(150) if i // 5 % 2 == 0], [whole[i] for i in range(150) if i // 5 % 2]
    )


def by_fan_out(s: uringzc.UdpSender, to: list[Address]) -> Sent:
    """A payload of both kinds, small and large, mutable and not."""
    expected = []
    for i, size in enumerate((1300, LARGE)):
        data = datagram(i, size)
        mutable = bytearray(datagram(10 + i, size))
        expected += [datagram(i, size), bytes(mutable)]
        s.fan_out(data, to)
        s.fan_out(mutable, to)
        scribble(mutable)
    return Sent(expected, expected)


def by_lease(s: uringzc.UdpSender, to: list[Address]) -> Sent:
    """Filled in place; its view is of no use afterwards."""
    for data in some(120, 1200):
        lease = s.lease(1300)
        view = lease.view
        view[:1200] = data
        assert lease.send(1200) == 1200
        with pytest.raises(ValueError, match="released"):
            view[:1200] = b"\xff" * 1200
    whole = s.lease(1200)
    whole.view[:] = datagram(500, 1200)
    assert whole.send(to=to[1]) == 1200
    return Sent(some(120, 1200), [datagram(500, 1200)])


def by_region(s: uringzc.UdpSender, to: list[Address]) -> Sent:
    """Registered memory, from an offset, with a shorter one at the end; the sender alone keeps it."""
    expected = [*some(300, 1200), datagram(300, 1200)[:500]]
    data = b"".join(expected)
    region = s.register(100 + len(data))
    region.view[100:] = data
    assert s.send_region(region, 100, segment=1200) == 301
    return Sent(expected, [])


def by_region_of_a_bytearray(s: uringzc.UdpSender, to: list[Address]) -> Sent:
    region = s.register(bytearray(b"".join(some(100, 1000))))
    assert s.send_region(region, segment=1000, to=to[1]) == 100
    assert s.send_region(region, 5000, 1000) == 1
    return Sent([datagram(5, 1000)], some(100, 1000))


def by_mapped_file(s: uringzc.UdpSender, to: list[Address]) -> Sent:
    """Nothing is registered; the file and its map are gone before anything leaves."""
    with tempfile.TemporaryFile() as file:
        file.write(b"".join(some(200, 1400)))
        file.flush()
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    assert s.send_region(mapped, segment=1400) == 200
    return Sent(some(200, 1400), [])


def by_array(s: uringzc.UdpSender, to: list[Address]) -> Sent:
    """A numpy array, and one datagram of it."""
    numbers: Any = np.frombuffer(b"".join(some(100, 1200)), np.uint32).copy()
    assert s.send_region(numbers, segment=1200) == 100
    row: Any = np.full(300, 7, np.uint32)
    expected = row.tobytes()
    assert s.send_region(row, to=to[1]) == 1
    return Sent(some(100, 1200), [expected])


def by_slices(s: uringzc.UdpSender, to: list[Address]) -> Sent:
    """Pieces that do not touch, large ones among them."""
    chance = random.Random(1)
    memory: Any = np.frombuffer(chance.randbytes(300_000), np.uint8).copy()
    sizes: Any = np.array(
        [*sorted(chance.choices((60, 900, 1400), k=200)), LARGE, 1400, 1400, LARGE], np.int32
    )
    offsets: Any = np.array([chance.randrange(300_000 - size) for size in sizes.tolist()], np.uint64)
    expected = [
        memory[at : at + size].tobytes() for at, size in zip(offsets.tolist(), sizes.tolist(), strict=True)
    ]
    assert s.send_slices(memory, offsets, sizes) == 204
    offsets[:], sizes[:] = 0, 1
    return Sent(expected, [])


def by_large_bytes(s: uringzc.UdpSender, to: list[Address]) -> Sent:
    """From where it is; the sender alone keeps it."""
    for i in range(10):
        assert s.send(datagram(i, LARGE)) == LARGE
    s.send(datagram(10, LARGE), to[1])
    s.send_many((datagram(i, LARGE) for i in range(20, 25)), to[1])
    return Sent(some(10, LARGE), [datagram(10, LARGE), *some(5, LARGE, 20)])


def by_large_mutable(s: uringzc.UdpSender, to: list[Address]) -> Sent:
    """Copied."""
    mutable = bytearray(LARGE)
    numbers: Any = np.zeros(LARGE, np.uint8)
    for data in some(10, LARGE):
        mutable[:] = data
        s.send(mutable)
        numbers[:] = memoryview(data)
        s.send(numbers, to[1])
        scribble(mutable)
        numbers[:] = 0xFF
    return Sent(some(10, LARGE), some(10, LARGE))


PATHS: list[Path] = [
    by_send,
    by_send_bytes,
    by_views,
    by_sendto,
    by_send_many,
    by_send_many_paired,
    by_fan_out,
    by_lease,
    by_region,
    by_region_of_a_bytearray,
    by_mapped_file,
    by_array,
    by_slices,
    by_large_bytes,
    by_large_mutable,
]
FRAGMENTED = (by_large_bytes, by_large_mutable)  # at an MTU of 1500, and so copied


def make_garbage() -> list[bytes]:
    """Takes the memory that was just given up, and writes to it."""
    gc.collect()
    return [b"\xfe" * size for size in (64, 900, 1000, 1200, LARGE, 120_000, 300_000) for _ in range(20)]


class Wire(NamedTuple):
    """A sender whose destinations are known, and their receivers."""

    s: uringzc.UdpSender
    to: list[Address]
    receivers: list[testing.Receiver]

    def arrived(self, sent: Sent) -> None:
        """All of it, in order, and nothing else."""
        for rx, expected in zip(self.receivers, sent, strict=True):
            came = rx.wait(WARM_UP + len(expected))[WARM_UP:]
            assert list(map(len, came)) == list(map(len, expected))
            assert [i for i in range(len(came)) if came[i] != expected[i]] == []


@contextmanager
def wire(
    box: testing.Hold, family: int = socket.AF_INET, mtu: int = 1500, given: bool = True, arena: int = 4 << 20
) -> Iterator[Wire]:
    """`given`: the sender has a socket of the program's, not connected; else its own, connected."""
    # "auto" would copy most of this with MSG_ZEROCOPY, and what is small and single with io_uring; and the
    # timer all that waits for too long: these are tests of memory that is held
    options: dict[str, Any] = {"arena": arena, "debug": False, "max_delay": None}
    if os.environ["URINGZC_ENGINE"] != "copy":
        options["zero_copy"] = "always"
    host = box.address6[0] if family == socket.AF_INET6 else box.address[0]
    to = [(host, port) for port in PORTS]
    with ExitStack() as stack:
        box.set_mtu(mtu)
        stack.callback(box.set_mtu, 1500)
        sockets = [box.receiver_socket(family, port=port) for port in PORTS]
        receivers = [stack.enter_context(testing.receiver(sock=sock)) for sock in sockets]
        if given:
            sock = stack.enter_context(closing(box.socket(family)))
            s = stack.enter_context(box.run(lambda: uringzc.UdpSender(to[0], sock=sock, **options)))
        else:
            s = stack.enter_context(box.run(lambda: uringzc.UdpSender(to[0], **options)))
        for count in (2, WARM_UP):  # the second time it is found that the first datagram has arrived
            for address in (None, to[0], to[1], to[1]):
                s.send(b"warm-up", address)
            s.drain()
            for rx in receivers:
                rx.wait(count)
        yield Wire(s, to, receivers)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("family", [socket.AF_INET, pytest.param(socket.AF_INET6, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("given", "mtu"),
    [
        pytest.param(False, 1500, marks=pytest.mark.slow, id="own"),
        pytest.param(True, JUMBO, id="given, jumbo"),
    ],
)
def test_every_way_to_send_arrives_unchanged(
    box: testing.Hold, path: Path, family: int, given: bool, mtu: int, engine: str
) -> None:
    with wire(box, family, mtu, given) as w:
        with stopped(box):
            sent = path(w.s, w.to)
            notifier = w.s.flush()
            garbage = make_garbage()
            if path not in FRAGMENTED or mtu == JUMBO:
                held = engine != "copy"
                assert notifier.done is not held
                assert bool(w.s.stats.in_flight) is held
            assert (w.receivers[0].count, w.receivers[1].count) == (WARM_UP, WARM_UP)
        w.arrived(sent)
        w.s.drain()
        assert notifier.done
        assert (w.s.stats.lost, w.s.stats.reordered) == (0, 0)
        del garbage


def test_all_ways_to_send_of_one_sender_arrive_unchanged(box: testing.Hold, engine: str) -> None:
    """One sender, so that what one way leaves behind is what the next one finds."""
    with wire(box) as w:
        expected = Sent([], [])
        with stopped(box):
            for path in PATHS:
                sent = path(w.s, w.to)
                expected.first.extend(sent.first)
                expected.second.extend(sent.second)
            notifier = w.s.flush()
            make_garbage()
            assert notifier.done is (engine == "copy")
        w.arrived(expected)


def test_the_arena_is_filled_again_when_it_is_free(box: testing.Hold) -> None:
    """Much more than the arena holds, over a network that delivers late."""
    with wire(box, arena=MIN_ARENA) as w:
        chance = random.Random(2)
        expected = []
        for i in range(4000):
            expected.append(datagram(i, chance.choice((1200, 1200, 1200, 333))))
            w.s.send(expected[-1])
        w.s.flush()
        w.arrived(Sent(expected, []))
        assert w.s.stats.nbytes > 8 * MIN_ARENA


@zero_copy_engines
def test_control_the_arena_is_read_late(box: testing.Hold) -> None:
    """Were it filled again too early, the tests above would see it."""
    with wire(box) as w:
        with stopped(box):
            expected = by_send(w.s, w.to).first
            w.s.flush()
            memory = w.s._arena.memory
            ctypes.memset(memory.address, 0xFF, memory.length)
        came = w.receivers[0].wait(WARM_UP + len(expected))[WARM_UP:]
        assert list(map(len, came)) == list(map(len, expected))
        assert b"\xff" * 1200 in came


@zero_copy_engines
def test_control_a_region_is_read_late(box: testing.Hold) -> None:
    """Registered memory is not copied: overwritten before the notifier is done, it is what arrives."""
    with wire(box) as w:
        region = w.s.register(100 * 1200)
        region.view[:] = b"".join(some(100, 1200))
        with stopped(box):
            w.s.send_region(region, segment=1200)
            notifier = w.s.flush()
            assert not notifier.done
            region.view[:] = b"\xff" * len(region)
        came = w.receivers[0].wait(WARM_UP + 100)[WARM_UP:]
        assert came != some(100, 1200)
        assert b"\xff" * 1200 in came
        notifier.wait(10)
        region.view[:] = b"".join(some(100, 1200, 500))
        w.s.send_region(region, segment=1200)  # and when it is done, the memory is free
        w.s.flush().wait(10)
        region.view[:] = b"\xff" * len(region)
        assert w.receivers[0].wait(WARM_UP + 200)[WARM_UP + 100 :] == some(100, 1200, 500)


@zero_copy_engines
@pytest.mark.parametrize("mutable", [False, True])
def test_control_large_bytes_are_not_copied(box: testing.Hold, mutable: bool) -> None:
    """Changed behind Python's back, large bytes arrive changed; a bytearray was copied."""
    with wire(box, mtu=JUMBO) as w:
        data = datagram(1, LARGE)
        kept = bytes(bytearray(data))
        copied = bytearray(data)
        with stopped(box):
            w.s.send(copied if mutable else data)
            w.s.flush()
            where = np.frombuffer(copied if mutable else data, np.uint8)
            ctypes.memset(where.ctypes.data, 0xFF, LARGE)
            del where
        came = w.receivers[0].wait(WARM_UP + 1)[WARM_UP]
        assert (came == kept) is mutable
