"""Random programs on a UdpSender, and a player that keeps a model of what has to arrive."""

import errno
import select
import struct
from array import array
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from raising import raises_errno
from traffic import wait_until

import uringzc
from uringzc import testing

DESTINATIONS = 3
OPERATIONS = 12
BYTES = 160_000  # of one operation: more than two trains, and all of a program fit a receiver's buffer
COUNT = 300
SO_MEMINFO, DROPS = 55, 8
MEMORY = struct.pack("<50000I", *((i * 2654435761) & 0xFFFFFFFF for i in range(50_000)))
Operation = tuple[Any, ...]
Datagrams = list[list[bytes]]

# -- programs

EDGES = [0, 1, 2, 16, 511, 512, 1200, 1472, 1473, 4096, 16383, 16384, 32753, 32754, 65506, 65507]
SIZE = st.sampled_from(EDGES) | st.integers(0, 2000) | st.integers(0, 65507)


@st.composite
def runs(draw: st.DrawFn) -> tuple[int, int]:
    """A size, and how many datagrams have it: about as many as make a train, or several."""
    size = draw(SIZE)
    full = 65507 // size if size else 1
    near = st.sampled_from([63, 64, 65, 127, 128, 129, full - 1, full, full + 1, 2 * full])
    count = draw(st.sampled_from([1, 1, 2, 3]) | near)
    return size, max(1, min(count, COUNT, BYTES // max(size, 1)))


TO = st.sampled_from([0, 0, 0, 1, 2])
KIND = st.sampled_from(["bytes", "bytes", "bytearray", "view", "array"])
SENT = st.sampled_from(["whole", "whole", "part", "empty", "dropped", "released"])
SPAN = st.tuples(st.integers(0, len(MEMORY)), st.integers(0, BYTES))
PIECE = st.tuples(st.integers(0, len(MEMORY) - 65507), SIZE)
WRONG = ["large", "type", "address", "contiguous", "many", "lease", "region", "slices", "length", "view"]

CALLS: dict[str, st.SearchStrategy[Operation]] = {
    "send": st.tuples(st.just("send"), runs(), TO, KIND, st.booleans()),
    "send_many": st.tuples(st.just("send_many"), st.lists(runs(), max_size=3), TO | st.none(), KIND),
    "fan_out": st.tuples(st.just("fan_out"), SIZE, st.lists(TO, max_size=5), KIND),
    "lease": st.tuples(st.just("lease"), runs(), st.lists(SENT, min_size=1, max_size=4), TO, st.booleans()),
    "region": st.tuples(
        st.just("region"), SPAN, st.sampled_from([1, 700, 1200, 1473, 16384, 32754, 65507]), TO, st.booleans()
    ),
    "slices": st.tuples(
        st.just("slices"), st.lists(PIECE, max_size=6), st.integers(1, 40), TO, st.sampled_from("qQiIHl")
    ),
    "flush": st.just(("flush",)),
    "drain": st.just(("drain",)),
    "wait": st.just(("wait",)),
    "wrong": st.tuples(st.just("wrong"), st.sampled_from(WRONG), TO),
}
COMMON = [CALLS["send"]] * 4 + [CALLS["send_many"]] * 2 + [CALLS["lease"]] * 2
PROGRAMS = st.lists(st.one_of(*COMMON, *CALLS.values()), max_size=OPERATIONS)
STOPPING = st.lists(
    st.one_of(*COMMON, *CALLS.values(), st.just(("stop",)), st.just(("release",))), max_size=OPERATIONS
)
OPTIONS = st.fixed_dictionaries(
    {
        "zero_copy": st.sampled_from(["auto", "always", "never"]),
        "strict_order": st.booleans(),
        "max_delay": st.sampled_from([None, 0.001]),
        "blocking": st.booleans(),
        "arena": st.sampled_from([256 << 10, 4 << 20]),
        "max_inflight": st.sampled_from([None, None, 4]),
        "debug": st.sampled_from([False, False, True]),
    }
)


def content(number: int, size: int) -> bytes:
    """Different bytes for each datagram."""
    return (struct.pack("<I", number * 2654435761 & 0xFFFFFFFF) * (size // 4 + 1))[:size]


class Player:
    """Plays a program on a sender, and keeps the model: `taken` is what has to arrive."""

    def __init__(
        self,
        sender: Any,
        came: list[testing.Receiver],
        box: testing.Hold | None = None,
        few: bool = False,
        timed: bool = False,
    ) -> None:
        self.sender = sender
        self.free = sender._arena.free  #: bytes, before the program
        self.came = came
        self.few = few  # requests may be in flight: then a call may have to wait on loopback too
        self.timed = timed  # the sender has a max_delay
        self.to = to = [rx.address for rx in came]
        self.box = box
        self.taken: Datagrams = [[] for _ in to]
        self.number = 0
        self.scratch = bytearray(65507)
        self.memory = sender.register(bytearray(MEMORY))

    def play(self, program: list[Operation]) -> Datagrams:
        for name, *arguments in program:
            getattr(self, name)(*arguments)
        if self.box:
            self.box.release()
        self.settle(self.sender.flush)
        self.settle(self.drain_for_a_while)
        return self.taken

    def drain_for_a_while(self) -> None:
        """Without end it would wait for what is held until it was read here: see settle()."""
        self.sender.drain(1 if self.sender._blocking else None)

    def settle(self, call: Callable[[], object]) -> None:
        """Calls until there is no need to wait any more."""
        while True:
            try:
                call()
                return
            except (BlockingIOError, TimeoutError):
                # with MSG_ZEROCOPY fragments are held until they were read here
                assert select.select([self.sender, *(rx.sock for rx in self.came)], [], [], 2)[0]
                for rx in self.came:
                    rx.read()

    def make(self, size: int, kind: str = "bytes") -> tuple[Any, bytes]:
        """The next datagram as a buffer, and its bytes. What can be written to is memory that is reused."""
        self.number += 1
        data = content(self.number, size)
        if kind == "bytes":
            return data, data
        if kind == "bytearray":
            return bytearray(data), data
        if kind == "array":
            return array("B", data), data
        self.scratch[:size] = data
        return memoryview(self.scratch)[:size], data

    def partly(self, call: Callable[[], Any], lists: list[int], datagrams: list[bytes]) -> None:
        """A call that takes many, or raises how many it took before it would have waited."""
        try:
            count = call()
            assert count == len(datagrams) or isinstance(count, uringzc.Notifier)
            count = len(datagrams)
        except BlockingIOError as error:
            assert self.box or self.few, "nothing to wait for"
            count = error.characters_written
        for to, data in zip(lists[:count], datagrams, strict=False):
            self.taken[to].append(data)

    # the operations

    def send(self, run: tuple[int, int], to: int, kind: str, named: bool) -> None:
        size, count = run
        for _ in range(count):
            data, expected = self.make(size, kind)
            try:
                if named:
                    assert self.sender.sendto(data, self.to[to]) == size
                else:
                    assert self.sender.send(data, self.to[to] if to else None) == size
            except BlockingIOError:
                assert self.box or self.few or self.sender._arena.leases, "nothing to wait for"
                continue
            if kind != "bytes":  # it may be reused at once
                memoryview(data)[:] = bytes(memoryview(data).nbytes)
            self.taken[to].append(expected)

    def send_many(self, several: list[tuple[int, int]], to: int | None, kind: str) -> None:
        sizes = [size for size, count in several for _ in range(count)]
        kind = "bytearray" if kind == "view" else kind  # not all the same memory
        pairs = [self.make(size, kind) for size in sizes]
        lists = [i % 7 // 3 if to is None else to for i in range(len(sizes))]
        where = [self.to[i] for i in lists] if to is None else self.to[to] if to else None
        self.partly(
            lambda: self.sender.send_many((data for data, _ in pairs), where), lists, [e for _, e in pairs]
        )
        for data, _ in pairs:
            if kind != "bytes":
                memoryview(data)[:] = bytes(memoryview(data).nbytes)

    def fan_out(self, size: int, to: list[int], kind: str) -> None:
        self.settle(self.sender.flush)  # so that what would wait says how much of this was taken
        data, expected = self.make(size, kind)
        try:
            self.partly(lambda: self.sender.fan_out(data, [self.to[i] for i in to]), to, [expected] * len(to))
        except AttributeError:  # its own flush would have waited: all are taken
            for i in to:
                self.taken[i].append(expected)

    def lease(self, run: tuple[int, int], ends: list[str], to: int, later: bool) -> None:
        """Each is filled and ends in one of these ways; `later`: the last one first, among other calls."""
        size, count = run
        held = []
        for i in range(min(count, 20 if later else count)):
            try:
                lease = self.sender.lease(size)
            except BlockingIOError:
                continue
            if later and i % 3 == 0:
                self.send((size, 1), to, "bytes", False)
            if later:
                held.append((lease, ends[i % len(ends)]))
            else:
                self.end_lease(lease, ends[i % len(ends)], to)
        while held:
            self.end_lease(*held.pop(), to)

    def end_lease(self, lease: Any, end: str, to: int) -> None:
        size = len(lease)
        _, data = self.make(size)
        lease.view[:] = data
        if end == "released":
            lease.release()
        if end in ("dropped", "released"):
            return
        length = {"whole": size, "part": size * 3 // 4, "empty": 0}[end]
        try:
            assert lease.send(length, self.to[to] if to else None) == length
        except BlockingIOError:
            assert self.box or self.few, "nothing to wait for"
            return
        self.taken[to].append(data[:length])

    def pieces(self, offset: int, length: int, segment: int) -> list[bytes]:
        end = offset + length
        return [MEMORY[at : min(at + segment, end)] for at in range(offset, end, segment)]

    def region(self, span: tuple[int, int], segment: int, to: int, registered: bool) -> None:
        offset, length = span
        length = min(length, len(MEMORY) - offset, COUNT * segment)
        memory = self.memory if registered else MEMORY
        expected = self.pieces(offset, length, segment)
        where = self.to[to] if to else None
        self.partly(
            lambda: self.sender.send_region(memory, offset, length, segment, where),
            [to] * len(expected),
            expected,
        )

    def slices(self, pieces: list[tuple[int, int]], times: int, to: int, kind: str) -> None:
        pieces = [piece for piece in pieces for _ in range(min(times, BYTES // 6 // max(piece[1], 1) + 1))]
        expected = [MEMORY[at : at + size] for at, size in pieces]
        offsets = [at for at, _ in pieces]
        sizes = array(kind, [size for _, size in pieces])
        where = self.to[to] if to else None
        self.partly(
            lambda: self.sender.send_slices(self.memory, offsets, sizes, where),
            [to] * len(expected),
            expected,
        )

    def flush(self) -> None:
        try:
            self.sender.flush()
        except BlockingIOError:
            assert self.box or self.few, "nothing to wait for"

    def drain(self) -> None:
        if self.box:
            self.box.release()
        self.settle(self.drain_for_a_while)

    def wait(self) -> None:
        """For the timer: what waits leaves by itself."""
        if self.timed and not self.box:
            assert wait_until(lambda: self.sender.stats.waiting == 0)

    def stop(self) -> None:
        if self.box and not self.sender._blocking:
            self.box.stop()

    def release(self) -> None:
        if self.box:
            self.box.release()

    def wrong(self, what: str, to: int) -> None:
        """A call that is refused takes nothing, and changes nothing."""
        sender, where = self.sender, self.to[to]
        if what == "large":
            with raises_errno(errno.EMSGSIZE, "larger than (UDP|a frame)"):
                sender.send(bytes(65528), where)
        elif what == "type":
            with pytest.raises(TypeError):
                sender.send("text", where)
        elif what == "address":
            with pytest.raises((TypeError, ValueError)):
                sender.send(b"data", ("127.0.0.1", 65536))
        elif what == "contiguous":
            with pytest.raises(BufferError):
                sender.send(memoryview(MEMORY)[:100:2], where)
        elif what == "many":
            self.wrong_many(to)
        elif what == "lease":
            with pytest.raises(ValueError, match="a lease is"):
                sender.lease(65528)
        elif what == "region":
            with pytest.raises(ValueError, match="not all in"):
                sender.send_region(self.memory, len(MEMORY) - 10, 11, 1, where)
        elif what == "slices":
            with pytest.raises(ValueError, match="piece 2"):
                sender.send_slices(self.memory, [0, 100, len(MEMORY)], [10, 10, 1], where)
        elif what in ("length", "view"):
            self.wrong_lease(what)

    def wrong_many(self, to: int) -> None:
        """What came before the error is sent."""
        (first, _), (second, _) = self.make(100), self.make(100)
        try:
            with pytest.raises(TypeError):
                self.sender.send_many([first, second, None, first], self.to[to])
        except BlockingIOError as error:
            self.taken[to] += [first, second][: error.characters_written]
        else:
            self.taken[to] += [first, second]

    def wrong_lease(self, what: str) -> None:
        try:
            lease = self.sender.lease(50)
        except BlockingIOError:
            return
        if what == "length":
            with pytest.raises(ValueError, match="length must be"):
                lease.send(51)
            return
        with lease.view[:10], pytest.raises(BufferError):
            lease.send()
