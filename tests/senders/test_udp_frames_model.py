"""Through an arena of frames, random programs and every way to send arrive as through any other.

The programs, their players and what is sent are those of the other tests of a sender.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import test_udp_many_model as many
import test_udp_many_wire as many_wire
import test_udp_model as single
import test_udp_wire as wire
from frame_arenas import PACKET, Shape, check_all_free, use_frames
from hypothesis import given, settings
from hypothesis import strategies as st
from traffic import stopped
from udp_many_programs import CALLS, GROUPED, INTERLEAVED, STARTS, programs
from udp_many_programs import OPTIONS as MANY_OPTIONS
from udp_programs import OPTIONS, PROGRAMS, Operation

from uringzc import testing

#: of a sender with a small arena: programs use all of them, several times
SOME = Shape(69632, 24, 18)


@pytest.fixture(autouse=True)
def frames(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    use_frames(monkeypatch, getattr(request, "param", PACKET))
    yield
    check_all_free()


with_few_frames = pytest.mark.parametrize("frames", [SOME], indirect=True)


@pytest.mark.slow
@with_few_frames
def test_random_programs_arrive() -> None:
    @settings(single.FAST, max_examples=30)
    @given(PROGRAMS, OPTIONS, st.booleans(), single.FAMILY)
    def check(program: list[Operation], options: dict[str, Any], connected: bool, family: int) -> None:
        single.run(program, options, connected=connected, family=family)
        check_all_free()

    check()


@pytest.mark.slow
@with_few_frames
def test_random_programs_for_many_destinations_and_groups_arrive() -> None:
    @settings(many.FAST, max_examples=30)
    @given(programs([*INTERLEAVED, *GROUPED, *CALLS]), STARTS, MANY_OPTIONS, st.booleans())
    def check(program: list[Operation], starts: many.Starts, options: dict[str, Any], own: bool) -> None:
        many.run(program, options, starts, own=own)
        check_all_free()

    check()


@testing.requires("net_admin")
@pytest.mark.parametrize("path", wire.PATHS)
def test_every_way_to_send_arrives_unchanged(box: testing.Hold, path: wire.Path, engine: str) -> None:
    """It is overwritten while nothing is delivered."""
    with wire.wire(box, mtu=wire.JUMBO) as w:
        with stopped(box):
            sent = path(w.s, w.to)
            w.s.flush()
            assert bool(w.s.stats.in_flight) is (engine != "copy")
            garbage = wire.make_garbage()
        w.arrived(sent)
        w.s.drain()
        assert (w.s.stats.lost, w.s.stats.reordered, w.s.stats.syscalls) == (0, 0, 0)
        del garbage


@testing.requires("net_admin")
@pytest.mark.parametrize("path", many_wire.PATHS)
def test_what_goes_to_many_arrives_unchanged(box: testing.Hold, path: many_wire.Path, engine: str) -> None:
    with many_wire.wire(box, mtu=50_000) as w:
        with stopped(box):
            sent = path(w.s, w.to)
            w.s.flush()
            assert bool(w.s.stats.in_flight) is (engine != "copy")
        w.arrived(sent)
        w.s.drain()
        assert (w.s.stats.lost, w.s.stats.reordered, w.s.stats.syscalls) == (0, 0, 0)


@testing.requires("net_admin")
@with_few_frames
def test_all_of_it_through_a_few_frames(box: testing.Hold) -> None:
    """Over a network that delivers late: frames come back one by one, and are filled again."""
    with many_wire.wire(box, mtu=50_000) as w:
        expected: many_wire.Sent = [[] for _ in w.to]
        for _ in range(2):
            for path in many_wire.PATHS:
                for all_of_it, sent in zip(expected, path(w.s, w.to), strict=True):
                    all_of_it.extend(sent)
        w.s.flush()
        w.arrived(expected)
        w.s.drain()
        assert w.s.stats.syscalls == 0
