"""Random programs that send to many destinations and to groups, and a player that keeps a model of them."""

import errno
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import strategies as st
from udp_programs import BYTES, COUNT, KIND, MEMORY, SENT, SIZE, SPAN, Operation, Player, runs

from uringzc import SendError, testing

PLACES = 6  # destinations
GROUPS = 3
#: without SO_BROADCAST the kernel refuses each datagram to it when it is sent; and where there is no route
FORBIDDEN = ("255.255.255.255", 9)

# -- programs

TO = st.integers(0, PLACES - 1)
TURNS = st.lists(TO, min_size=1, max_size=12)  # the destinations of consecutive datagrams, again and again
GROUP = st.integers(0, GROUPS - 1)
SMALL = st.sampled_from([0, 1, 64, 200, 512, 700, 1200, 1472, 1473])
SIZES = st.lists(SMALL, min_size=1, max_size=3) | st.lists(SIZE, min_size=1, max_size=3)
TIMES = st.integers(1, 40) | st.sampled_from([64, 128, 129, 300])
MEMBERS = st.frozensets(TO)
SEGMENT = st.sampled_from([1, 200, 1200, 1473, 16384, 65507])

CALLS: dict[str, st.SearchStrategy[Operation]] = {
    "turns": st.tuples(st.just("turns"), TURNS, SIZES, TIMES, KIND),
    "paired": st.tuples(st.just("paired"), TURNS, SIZES, TIMES, KIND),
    "send": st.tuples(st.just("send"), runs(), TO, KIND, st.booleans()),
    "send_many": st.tuples(st.just("send_many"), st.lists(runs(), max_size=2), TO, KIND),
    "fan_out": st.tuples(st.just("fan_out"), SIZE, st.lists(TO, max_size=8), KIND),
    "lease": st.tuples(st.just("lease"), runs(), st.lists(SENT, min_size=1, max_size=4), TO, st.booleans()),
    "region": st.tuples(st.just("region"), SPAN, SEGMENT, TO, st.booleans()),
    "slices": st.tuples(
        st.just("slices"),
        st.lists(st.tuples(st.integers(0, len(MEMORY) - 65507), SIZE), max_size=4),
        st.integers(1, 20),
        TO,
        st.just("q"),
    ),
    "flush": st.just(("flush",)),
    "drain": st.just(("drain",)),
    "refused": st.tuples(st.just("refused"), SMALL, st.integers(1, 5)),
}
GROUP_CALLS: dict[str, st.SearchStrategy[Operation]] = {
    "to_group": st.tuples(st.just("to_group"), GROUP, SIZES, TIMES, KIND),
    "many_to_group": st.tuples(st.just("many_to_group"), GROUP, SIZES, TIMES, KIND),
    "mixed": st.tuples(st.just("mixed"), GROUP, TURNS, SIZES, TIMES),
    "add": st.tuples(st.just("add"), GROUP, TO),
    "remove": st.tuples(st.just("remove"), GROUP, TO),
    "new_group": st.tuples(st.just("new_group"), GROUP, MEMBERS),
}
GATE: dict[str, st.SearchStrategy[Operation]] = {name: st.just((name,)) for name in ("stop", "release")}
STARTS = st.lists(MEMBERS, min_size=GROUPS, max_size=GROUPS)  # the members of each group
EVERY = CALLS | GROUP_CALLS | GATE
INTERLEAVED = ["turns"] * 8 + ["paired"] * 4 + [*CALLS]
GROUPED = ["to_group"] * 3 + ["mixed"] * 5 + [*GROUP_CALLS]


def calls(names: list[str]) -> st.SearchStrategy[Operation]:
    return st.sampled_from(names).flatmap(EVERY.__getitem__)


def programs(names: list[str], at_least: int = 4) -> st.SearchStrategy[list[Operation]]:
    return st.lists(calls(names), min_size=at_least, max_size=12)


OPTIONS = st.fixed_dictionaries(
    {
        "zero_copy": st.sampled_from(["auto", "always", "never"]),
        "strict_order": st.sampled_from([False, False, False, True]),
        "max_delay": st.sampled_from([None, 0.001, 0]),
        "blocking": st.booleans(),
        "arena": st.sampled_from([256 << 10, 4 << 20]),
        "max_inflight": st.sampled_from([None, None, 4]),
        "debug": st.sampled_from([False, False, True]),
    }
)


class ManyPlayer(Player):
    """A Player of programs for many destinations, and for groups if `starts` has their first members."""

    def __init__(
        self,
        sender: Any,
        came: list[testing.Receiver],
        box: testing.Hold | None = None,
        few: bool = False,
        timed: bool = False,
        starts: Sequence[frozenset[int]] = (),
    ) -> None:
        super().__init__(sender, came, box, few, timed)
        self.members = [set(start) for start in starts]
        self.groups = [sender.group([self.to[i] for i in start]) for start in starts]
        self.forbidden: list[tuple[int, int]] = []  # number and size of the datagrams that are refused
        self.errors: list[SendError] = []  # the sender's on_error appends to it

    @property
    def count(self) -> int:
        """Datagrams so far."""
        return sum(map(len, self.taken)) + len(self.forbidden)

    @property
    def nbytes(self) -> int:
        """Bytes so far."""
        return sum(len(data) for each in self.taken for data in each) + sum(n for _, n in self.forbidden)

    def sizes(self, sizes: list[int], times: int, copies: int = 1) -> list[int]:
        """So many times one of these, and not more than fits a receiver's buffer."""
        at_most = copies * max(1, sum(sizes) // len(sizes))
        times = max(1, min(times, COUNT, BYTES // at_most))
        return [sizes[i % len(sizes)] for i in range(times)]

    def take(self, call: Any, to: Sequence[int], expected: bytes, result: int) -> None:
        """A call that takes one datagram for each of `to`, or would wait and takes nothing."""
        try:
            assert call() == result
        except BlockingIOError:
            assert self.box or self.few, "nothing to wait for"
            return
        for i in to:
            self.taken[i].append(expected)

    # the operations

    def fan_out(self, size: int, to: list[int], kind: str) -> None:
        self.release()  # it waits until all that was taken before has left
        super().fan_out(size, to, kind)

    def turns(self, turns: list[int], sizes: list[int], times: int, kind: str) -> None:
        """Destinations take turns; sizes too, which end trains."""
        for i, size in enumerate(self.sizes(sizes, times)):
            data, expected = self.make(size, kind)
            to = turns[i % len(turns)]
            self.take(lambda d=data, t=to: self.sender.send(d, self.to[t]), [to], expected, size)
            if kind != "bytes":
                memoryview(data)[:] = bytes(memoryview(data).nbytes)

    def paired(self, turns: list[int], sizes: list[int], times: int, kind: str) -> None:
        """By send_many, with an address for each."""
        kind = "bytearray" if kind == "view" else kind
        pairs = [self.make(size, kind) for size in self.sizes(sizes, times)]
        lists = [turns[i % len(turns)] for i in range(len(pairs))]
        self.partly(
            lambda: self.sender.send_many([data for data, _ in pairs], [self.to[i] for i in lists]),
            lists,
            [expected for _, expected in pairs],
        )

    def to_group(self, group: int, sizes: list[int], times: int, kind: str) -> None:
        members = sorted(self.members[group])
        for size in self.sizes(sizes, times, len(members) or 1):
            data, expected = self.make(size, kind)
            self.take(lambda d=data: self.groups[group].send(d), members, expected, size)
            if kind != "bytes":
                memoryview(data)[:] = bytes(memoryview(data).nbytes)

    def many_to_group(self, group: int, sizes: list[int], times: int, kind: str) -> None:
        kind = "bytearray" if kind == "view" else kind
        members = self.members[group]
        pairs = [self.make(size, kind) for size in self.sizes(sizes, times, len(members) or 1)]
        count = len(pairs)
        try:
            assert self.groups[group].send_many(data for data, _ in pairs) == count
        except BlockingIOError as error:
            assert self.box or self.few, "nothing to wait for"
            count = error.characters_written
        for to in members:
            self.taken[to] += [expected for _, expected in pairs[:count]]
        for data, _ in pairs:
            if kind != "bytes":
                memoryview(data)[:] = bytes(memoryview(data).nbytes)

    def mixed(self, group: int, turns: list[int], sizes: list[int], times: int) -> None:
        """The group and single destinations, members of it or not, take turns."""
        members = sorted(self.members[group])
        for i, size in enumerate(self.sizes(sizes, times, (len(members) + 1) // 2 or 1)):
            data, expected = self.make(size)
            if i % 2:
                self.take(lambda d=data: self.groups[group].send(d), members, expected, size)
            else:
                to = turns[i % len(turns)]
                self.take(lambda d=data, t=to: self.sender.send(d, self.to[t]), [to], expected, size)

    def changes(self, call: Callable[[], object]) -> bool:
        """Whether a group's members could be changed: the datagrams that it has gathered leave it first."""
        try:
            call()
        except BlockingIOError:
            assert self.box or self.few, "nothing to wait for"
            return False
        return True

    def add(self, group: int, to: int) -> None:
        if self.changes(lambda: self.groups[group].add(self.to[to])):
            self.members[group].add(to)
        self.check_members(group)

    def remove(self, group: int, to: int) -> None:
        if to not in self.members[group]:
            with pytest.raises(KeyError):
                self.groups[group].remove(self.to[to])
        elif self.changes(lambda: self.groups[group].remove(self.to[to])):
            self.members[group].remove(to)
        self.check_members(group)

    def new_group(self, group: int, members: frozenset[int]) -> None:
        """The one before is dropped, with what waits."""
        self.groups[group] = self.sender.group()
        self.members[group] = set()
        for to in members:
            self.add(group, to)

    def check_members(self, group: int) -> None:
        made, members = self.groups[group], self.members[group]
        assert len(made) == len(members)
        assert [address in made for address in self.to] == [i in members for i in range(len(self.to))]

    def refused(self, size: int, times: int) -> None:
        """Each of these becomes a SendError."""
        for _ in range(times):
            number = self.count
            with suppress(BlockingIOError):
                assert self.sender.send(bytes(size), FORBIDDEN) == size
                self.forbidden.append((number, size))

    def check_refused(self) -> None:
        """Every one is reported, with its number, and nothing else is."""
        refused = errno.ENETUNREACH if self.box else errno.EACCES
        assert {(error.errno, error.to) for error in self.errors if error.index >= 0} <= {
            (refused, FORBIDDEN)
        }
        assert {error.errno for error in self.errors} <= {refused}
        reported = sorted((error.index, error.size) for error in self.errors if error.index >= 0)
        if self.groups:  # whose datagrams are counted when they are sent
            assert sorted(size for _, size in reported) == sorted(size for _, size in self.forbidden)
        else:
            assert reported == self.forbidden
