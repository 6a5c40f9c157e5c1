"""Random programs for many destinations and groups: each gets what it was sent, in the order of the calls.

As test_udp_model.py, whose player this one's is made of. The controls play the same programs on senders with
a wrong rule, and must end in a difference.
"""

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from udp_many_programs import (
    CALLS,
    GATE,
    GROUPED,
    INTERLEAVED,
    OPTIONS,
    PLACES,
    STARTS,
    ManyPlayer,
    calls,
    programs,
)
from udp_programs import Operation
from udp_receivers import compare, receivers

from uringzc import Scheduler, SendError, UdpSender, testing

Starts = list[frozenset[int]]
NO_GROUP: Starts = []


def run(
    program: list[Operation],
    options: dict[str, Any],
    starts: Starts = NO_GROUP,
    *,
    own: bool = True,
    box: testing.Hold | None = None,
    wrap: Callable[[UdpSender], Any] = lambda sender: sender,
    timeout: float = 1.0,
) -> None:
    """Plays a program, and compares. `own`: a socket of the sender's own; else one of the program's."""
    errors: list[SendError] = []
    with ExitStack() as stack:
        came = stack.enter_context(receivers(box, count=PLACES))
        if box:
            stack.callback(box.release)
        sock = None
        if box or not own:
            sock = box.socket() if box else socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            stack.enter_context(sock)
        make = partial(UdpSender, came[0].address, sock=sock, on_error=errors.append, **options)
        sender = stack.enter_context(box.run(make) if box else make())
        few, timed = (bool(options.get(name)) for name in ("max_inflight", "max_delay"))
        player = ManyPlayer(wrap(sender), came, box, few, timed, starts)
        player.errors = errors
        compare(player.play(program), came, timeout)
        check_settled(sender, player)


def check_settled(sender: UdpSender, player: ManyPlayer, senders: int = 1) -> None:
    """The numbers agree, nothing is in flight, and memory is free but for a block that each sender fills."""
    stats = sender.stats
    assert (stats.waiting, stats.in_flight, stats.lost) == (0, 0, len(player.forbidden))
    assert (stats.datagrams, stats.nbytes) == (player.count, player.nbytes)
    assert sender._arena.free >= player.free - (64 << 10) * senders
    assert sender._arena.leases == 0
    player.check_refused()


FAST = settings(max_examples=60, suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow])


@pytest.mark.slow
def test_interleaved_destinations_over_loopback() -> None:
    @FAST
    @given(programs(INTERLEAVED), OPTIONS, st.booleans())
    def check(program: list[Operation], options: dict[str, Any], own: bool) -> None:
        run(program, options, own=own)

    check()


@pytest.mark.slow
def test_groups_among_destinations_over_loopback() -> None:
    @FAST
    @given(programs([*GROUPED, *CALLS]), STARTS, OPTIONS, st.booleans())
    def check(program: list[Operation], starts: Starts, options: dict[str, Any], own: bool) -> None:
        run(program, options, starts, own=own)

    check()


@pytest.mark.slow
@testing.requires("net_admin")
def test_groups_among_destinations_over_a_device(box: testing.Hold, engine: str) -> None:
    """Past an MTU, and through a gate that stops: with blocking=False calls then take a part, or nothing."""

    @settings(FAST, max_examples=30, phases=[Phase.generate])
    @given(programs([*GROUPED, *CALLS, *GATE, "stop", "stop", "stop"]), STARTS, OPTIONS)
    def check(program: list[Operation], starts: Starts, options: dict[str, Any]) -> None:
        if engine == "msg_zerocopy":  # fragments are held until they were read, which is done here
            options["blocking"] = False
        run(program, options, starts, box=box)

    check()


@pytest.mark.slow
def test_two_senders_that_share_a_scheduler() -> None:
    """And its arena: each gives way to the other, and their programs take turns."""
    both = st.lists(st.tuples(st.integers(0, 1), calls([*GROUPED, *CALLS])), min_size=4, max_size=12)
    shared = st.fixed_dictionaries(
        {"max_delay": st.sampled_from([None, 0.001, 0]), "zero_copy": st.sampled_from(["auto", "always"])}
    )

    @settings(FAST, max_examples=25)
    @given(both, st.tuples(STARTS, STARTS), st.tuples(shared, shared), st.sampled_from([256 << 10, 4 << 20]))
    def check(
        program: list[tuple[int, Operation]],
        starts: tuple[Starts, Starts],
        options: tuple[dict[str, Any], dict[str, Any]],
        arena: int,
    ) -> None:
        with ExitStack() as stack:
            scheduler = stack.enter_context(Scheduler())
            players, errors = [], list[list[SendError]]([[], []])
            for i in range(2):
                came = stack.enter_context(receivers(None, count=PLACES))
                sender = UdpSender(
                    came[0].address, scheduler=scheduler, arena=arena, on_error=errors[i].append, **options[i]
                )
                stack.enter_context(sender)
                players.append(
                    ManyPlayer(sender, came, starts=starts[i], timed=bool(options[i]["max_delay"]))
                )
                players[i].errors = errors[i]
            for which, (name, *arguments) in program:
                getattr(players[which], name)(*arguments)
            for player in players:
                compare(player.play([]), player.came)
            for player in players:
                check_settled(player.sender, player, senders=2)

    check()


# -- the controls


class FaultyGroup:
    """A group with a wrong rule."""

    def __init__(self, sender: UdpSender, addresses: Sequence[Any]) -> None:
        self.sender = sender
        self.real = sender.group(addresses)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def __len__(self) -> int:
        return len(self.real)

    def __contains__(self, address: object) -> bool:
        return address in self.real

    def __iter__(self) -> Iterator[Any]:
        return iter(self.real)

    def send_many(self, datagrams: Any) -> int:
        return len([self.send(data) for data in datagrams])

    def send(self, data: Any) -> int:
        return self.real.send(data)


class FaultySender:
    """A sender that makes such groups."""

    def __init__(self, sender: UdpSender, kind: type[FaultyGroup]) -> None:
        self._real = sender
        self._kind = kind
        self.groups: list[FaultyGroup] = []

    def group(self, addresses: Sequence[Any] = ()) -> FaultyGroup:
        self.groups.append(self._kind(self._real, addresses))
        return self.groups[-1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class ForgetsTheLast(FaultyGroup):
    """As if the last member's train were not made."""

    def send(self, data: Any) -> int:
        for address in list(self.real)[:-1]:
            self.sender.send(data, address)
        return len(bytes(data))


class KeepsMembers(FaultyGroup):
    """As if a member were removed, or added, when the sender is flushed."""

    def remove(self, address: Any) -> None:
        if address not in self.real:
            raise KeyError(address)


class SendsTheNext(FaultyGroup):
    """As if the place of a payload were used again for the next one: what is sent is one behind."""

    kept = b""

    def send(self, data: Any) -> int:
        before, self.kept = self.kept, bytes(data)
        self.real.send((before + self.kept)[: len(self.kept)])
        return len(self.kept)


class SendsTwice(FaultyGroup):
    """As if an overlap made two datagrams of one."""

    def send(self, data: Any) -> int:
        self.real.send(data)
        for address in list(self.real)[:1]:
            self.sender.send(data, address)
        return len(bytes(data))


class Overtakes(FaultyGroup):
    """As if single datagrams to a member did not wait for what its group has gathered."""

    kept: bytes | None = None

    def send(self, data: Any) -> int:
        before, self.kept = self.kept, bytes(data)
        if before is not None:
            self.real.send(before)
        return len(self.kept)

    def __del__(self) -> None:
        if self.kept is not None and not self.sender.closed:
            self.real.send(self.kept)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [ForgetsTheLast, KeepsMembers, SendsTheNext, SendsTwice, Overtakes])
def test_control_a_wrong_rule_of_a_group_is_found(fault: type[FaultyGroup]) -> None:
    @settings(FAST, phases=[Phase.generate], max_examples=150)
    @given(programs(GROUPED), STARTS)
    def check(program: list[Operation], starts: Starts) -> None:
        options = {"max_delay": None, "debug": False, "arena": 256 << 10}
        run(program, options, starts, wrap=lambda sender: FaultySender(sender, fault), timeout=0.2)

    with pytest.raises(AssertionError):
        check()
