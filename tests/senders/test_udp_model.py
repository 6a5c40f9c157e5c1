"""Random programs on a UdpSender: to each destination arrives exactly what was taken, in its order.

The model is a list of datagrams for each destination; the sockets and the kernel are real. The controls play
the same programs on senders with a wrong rule, and must end in a difference.
"""

import socket
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from udp_programs import (
    COMMON,
    OPTIONS,
    PROGRAMS,
    STOPPING,
    Operation,
    Player,
    content,
)
from udp_receivers import compare, receivers

import uringzc
from uringzc import testing


def run(
    program: list[Operation],
    options: dict[str, Any],
    *,
    connected: bool = True,
    family: int = socket.AF_INET,
    box: testing.Hold | None = None,
    wrap: Callable[[uringzc.UdpSender], Any] = lambda sender: sender,
    timeout: float = 1.0,
) -> None:
    """Plays a program, and compares. `connected`: a socket of the sender's own; else one of the program's."""
    with ExitStack() as stack:
        came = stack.enter_context(receivers(box, family))
        to = [rx.address for rx in came]
        if box:
            stack.callback(box.release)
        if connected:
            make = partial(uringzc.UdpSender, to[0], **options)
            sender = stack.enter_context(box.run(make) if box else make())
        else:
            sock = stack.enter_context(
                box.socket(family) if box else socket.socket(family, socket.SOCK_DGRAM)
            )
            make = partial(uringzc.UdpSender, to[0], sock=sock, **options)
            sender = stack.enter_context(box.run(make) if box else make())
        few, timed = (bool(options.get(name)) for name in ("max_inflight", "max_delay"))
        player = Player(wrap(sender), came, box, few, timed)
        taken = player.play(program)
        compare(taken, came, timeout)
        stats = sender.stats
        assert (stats.waiting, stats.in_flight, stats.lost) == (0, 0, 0)
        assert stats.datagrams == sum(map(len, taken))
        assert stats.nbytes == sum(len(data) for each in taken for data in each)
        # all but the block that is being filled
        assert sender._arena.free >= player.free - (64 << 10)
        assert sender._arena.leases == 0


FAST = settings(max_examples=150, suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow])
FAMILY = st.sampled_from([socket.AF_INET, socket.AF_INET, socket.AF_INET6])


@pytest.mark.slow
def test_random_programs_arrive_over_loopback() -> None:
    @FAST
    @given(PROGRAMS, OPTIONS, st.booleans(), FAMILY)
    def check(program: list[Operation], options: dict[str, Any], connected: bool, family: int) -> None:
        run(program, options, connected=connected, family=family)

    check()


@pytest.mark.slow
@testing.requires("net_admin")
def test_random_programs_arrive_over_a_device(box: testing.Hold) -> None:
    """Past an MTU, and through a gate that stops: with blocking=False calls then take a part, or nothing."""

    @settings(FAST, max_examples=12)
    @given(STOPPING, OPTIONS, st.booleans())
    def check(program: list[Operation], options: dict[str, Any], connected: bool) -> None:
        run(program, options, connected=connected, box=box)

    check()


# -- the controls


class Faulty:
    """A sender with a wrong rule for what send() gets."""

    def __init__(self, sender: uringzc.UdpSender) -> None:
        self._real = sender
        self._kept: list[tuple[Any, Any]] = []

    def __getattr__(self, name: str) -> Any:
        self.send_kept()
        return getattr(self._real, name)

    def send(self, data: Any, to: Any = None) -> int:
        self._kept.append((data, to))
        if len(self._kept) == 2:
            self.send_kept()
        return memoryview(data).nbytes

    def sendto(self, data: Any, to: Any) -> int:
        return self.send(data, to)

    def send_kept(self) -> None:
        kept, self._kept = self._kept, []
        for data, to in kept:
            self._real.send(data, to)


class Swaps(Faulty):
    def send_kept(self) -> None:
        self._kept.reverse()
        super().send_kept()


class Merges(Faulty):
    def send_kept(self) -> None:
        if len(self._kept) == 2 and self._kept[0][1] == self._kept[1][1]:
            (one, to), (two, _) = self._kept
            if len(one) + len(two) < 65507:
                self._kept = [(bytes(one) + bytes(two), to)]
        super().send_kept()


class DropsEmpty(Faulty):
    def send_kept(self) -> None:
        self._kept = [(data, to) for data, to in self._kept if len(data)]
        super().send_kept()


class Pads(Faulty):
    """As if a shorter datagram did not end a train."""

    def send_kept(self) -> None:
        if len(self._kept) == 2 and len(self._kept[1][0]) < len(self._kept[0][0]):
            (one, _), (two, to) = self._kept
            self._kept[1] = (bytes(two).ljust(len(one), b"\0"), to)
        super().send_kept()


class Misdirects(Faulty):
    """As if neighbours of one size went to one destination."""

    def send_kept(self) -> None:
        if len(self._kept) == 2 and len(self._kept[0][0]) == len(self._kept[1][0]):
            self._kept[1] = (self._kept[1][0], self._kept[0][1])
        super().send_kept()


class DoesNotCopy(Faulty):
    """Faulty itself: what it keeps was reused meanwhile."""


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Swaps, Merges, DropsEmpty, Pads, Misdirects, DoesNotCopy])
def test_control_a_wrong_rule_is_found(fault: type[Faulty]) -> None:
    @settings(FAST, phases=[Phase.generate], max_examples=150)
    @given(st.lists(st.one_of(*COMMON), min_size=3, max_size=6))
    def check(program: list[Operation]) -> None:
        options = {"max_delay": None, "debug": False, "arena": 256 << 10}
        run(program, options, wrap=fault, timeout=0.2)  # loopback delivers at once

    with pytest.raises(AssertionError, match="datagram"):
        check()


# -- what reading the code found, and a random program hardly meets


def test_a_train_stays_in_its_block() -> None:
    """A lease ends where the next block begins, which is empty: nothing may be joined there."""
    with (
        testing.receiver(thread=False) as rx,
        testing.receiver(thread=False) as other,
        uringzc.UdpSender(rx.address, max_delay=None, arena=256 << 10) as sender,
    ):
        leases = [sender.lease(1024) for _ in range(64)]  # all of the first block
        sender.lease(1024).send(0)  # the next one begins, and is empty again
        sender.flush()
        leases.pop().send()
        expected = [content(i, 1024) for i in range(5)]
        for data in expected:
            sender.send(data)
        sender.send(bytearray(65000), other.address)  # the block is left
        sender.flush()
        assert rx.wait(7)[2:] == expected


@testing.requires("net_admin")
def test_slices_say_how_many_were_taken(box: testing.Hold) -> None:
    """With blocking=False and no room: what was not taken is not counted."""
    with (
        box.socket() as sock,
        testing.receiver(sock=box.receiver_socket(), thread=False) as rx,
        uringzc.UdpSender(box.address, sock=sock, max_delay=None, blocking=False, arena=256 << 10) as sender,
    ):
        player = Player(sender, [rx], box)
        box.stop()
        pieces = [(i * 100, 1000 - i) for i in range(600)]
        player.slices(pieces, 1, 0, "q")
        player.play([])
        compare(player.taken, [rx])
