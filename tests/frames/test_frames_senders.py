"""UdpSenders over frames: random programs arrive in order, and memory is free when its notifier is done.

The programs, the ways to send and the model are those of tests/senders; here they play over a device.
"""

import ctypes
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import test_udp_many_wire as many_wire
import udp_many_programs as many
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from marks import frame_engines, only_packet
from test_udp_many_model import Starts
from test_udp_many_model import run as run_many
from test_udp_model import FAMILY, FAST, Faulty, Misdirects, Pads, Swaps, run
from test_udp_wire import PATHS, WARM_UP, Path, Sent, by_lease, make_garbage, some, wire
from traffic import datagram, stopped, wait_until
from udp_programs import COMMON, OPTIONS, STOPPING, Operation

from uringzc import UdpSender, testing
from uringzc.memory import address_of

JUMBO = 65_535
HEADERS = {socket.AF_INET: 28, socket.AF_INET6: 48}
LARGEST = {"packet": 65_507, "af_xdp": 4096 - 128}


@pytest.fixture
def wide(box: testing.Hold) -> Iterator[testing.Hold]:
    """With an MTU for every size that fits into a frame."""
    box.set_mtu(JUMBO)
    yield box
    box.set_mtu(1500)


def fitting(program: list[Operation], most: int) -> list[Operation]:
    """The program with no datagram above `most` bytes."""

    def smaller(name: str, what: Any, *rest: Any) -> Operation:
        if name in ("send", "lease"):
            return (name, (min(what[0], most), what[1]), *rest)
        if name == "send_many":
            return (name, [(min(size, most), count) for size, count in what], *rest)
        if name == "slices":
            return (name, [(at, min(size, most)) for at, size in what], *rest)
        if name == "fan_out":
            return (name, min(what, most), *rest)
        if name == "region":
            return (name, what, min(rest[0], most), *rest[1:])
        return (name, what, *rest)

    return [smaller(*operation) if len(operation) > 1 else operation for operation in program]


@frame_engines
@pytest.mark.slow
def test_random_programs_arrive_over_frames(wide: testing.Hold, engine: str) -> None:
    """All sizes of the MTU, or of a frame; through a gate that stops, if the engine's frames pass it."""

    @settings(FAST, max_examples=30)
    @given(STOPPING, OPTIONS, st.booleans(), FAMILY)
    def check(program: list[Operation], options: dict[str, Any], connected: bool, family: int) -> None:
        most = min(LARGEST[engine], JUMBO - HEADERS[socket.AddressFamily(family)])
        run(fitting(program, most), options, connected=connected, family=family, box=wide)

    check()


@only_packet
@pytest.mark.slow
def test_random_programs_with_groups_arrive_over_frames(wide: testing.Hold) -> None:
    @settings(FAST, max_examples=30, phases=[Phase.generate])
    @given(many.programs([*many.GROUPED, *many.CALLS, *many.GATE, "stop", "stop"]), many.STARTS, many.OPTIONS)
    def check(program: list[Operation], starts: Starts, options: dict[str, Any]) -> None:
        run_many(program, options, starts, box=wide)

    check()


@only_packet
@pytest.mark.slow
@pytest.mark.parametrize("fault", [Swaps, Pads, Misdirects])
def test_control_a_wrong_rule_of_a_sender_is_found(box: testing.Hold, fault: type[Faulty]) -> None:
    @settings(FAST, phases=[Phase.generate], max_examples=150)
    @given(st.lists(st.one_of(*COMMON), min_size=3, max_size=6))
    def check(program: list[Operation]) -> None:
        options = {"max_delay": None, "debug": False, "arena": 256 << 10}
        run(fitting(program, 1400), options, wrap=fault, timeout=0.5, box=box)

    with pytest.raises(AssertionError, match="datagram"):
        check()


# -- every way to send, while the gate holds what was sent


@only_packet
@pytest.mark.parametrize("path", [path for path in PATHS if path is not by_lease])  # more leases than frames
@pytest.mark.parametrize("family", [socket.AF_INET, pytest.param(socket.AF_INET6, marks=pytest.mark.slow)])
@pytest.mark.parametrize("given", [False, True], ids=["own", "given"])
def test_every_way_to_send_over_frames_arrives_unchanged(
    box: testing.Hold, path: Path, family: int, given: bool
) -> None:
    with wire(box, family, JUMBO, given) as w:
        with stopped(box):
            sent = path(w.s, w.to)
            notifier = w.s.flush()
            garbage = make_garbage()
            assert not notifier.done
            assert w.s.stats.in_flight
            assert (w.receivers[0].count, w.receivers[1].count) == (WARM_UP, WARM_UP)
        w.arrived(sent)
        w.s.drain()
        assert notifier.done
        assert (w.s.stats.lost, w.s.stats.reordered, w.s.stats.syscalls) == (0, 0, 0)
        del garbage


@only_packet
@pytest.mark.parametrize("path", many_wire.PATHS)
def test_what_goes_to_many_over_frames_arrives_unchanged(box: testing.Hold, path: many_wire.Path) -> None:
    with many_wire.wire(box, mtu=JUMBO) as w:
        sent = path(w.s, w.to)
        w.s.flush()
        w.arrived(sent)
        w.s.drain()
        assert (w.s.stats.lost, w.s.stats.reordered, w.s.stats.syscalls) == (0, 0, 0)


SMALL = [path for path in PATHS if not path.__name__.startswith(("by_large", "by_fan_out", "by_slices"))]


@pytest.mark.engines("af_xdp")
@pytest.mark.parametrize("path", SMALL)
@pytest.mark.parametrize("family", [socket.AF_INET, pytest.param(socket.AF_INET6, marks=pytest.mark.slow)])
def test_every_way_to_send_single_frames_arrives_unchanged(
    box: testing.Hold, path: Path, family: int
) -> None:
    """No gate holds them, and a frame is one datagram."""
    with wire(box, family, given=False) as w:
        sent = path(w.s, w.to)
        w.s.flush().wait(10)
        garbage = make_garbage()
        w.arrived(sent)
        assert (w.s.stats.lost, w.s.stats.reordered, w.s.stats.syscalls) == (0, 0, 0)
        del garbage


@only_packet
def test_leases_are_written_where_they_are_sent_from(box: testing.Hold) -> None:
    """The frame of a lease is taken again when its notifier is done, and not before."""
    with wire(box, given=False) as w:
        used: list[int] = []
        expected: list[bytes] = []
        with stopped(box):
            for data in some(30, 1200):
                lease = w.s.lease(1200)
                used.append(address_of(lease.view))
                lease.view[:] = data
                lease.send()
                w.s.flush()
                expected.append(data)
            assert len(set(used)) == 30
        w.arrived(Sent(expected, []))
        w.s.drain()


@only_packet
def test_control_a_lease_overwritten_at_its_result_arrives_changed(box: testing.Hold) -> None:
    with wire(box, given=False) as w:
        with stopped(box):
            lease = w.s.lease(1200)
            address = address_of(lease.view)
            lease.view[:] = datagram(1, 1200)
            lease.send()
            assert not w.s.flush().done
            ctypes.memset(address, 0xFF, 1200)
        assert w.receivers[0].wait(WARM_UP + 1)[WARM_UP] == b"\xff" * 1200


@only_packet
def test_a_lease_overwritten_at_its_notification_arrives_unchanged(box: testing.Hold) -> None:
    with wire(box, given=False) as w:
        with stopped(box):
            lease = w.s.lease(1200)
            address = address_of(lease.view)
            lease.view[:] = datagram(1, 1200)
            lease.send()
            notifier = w.s.flush()
        notifier.wait(10)
        ctypes.memset(address, 0xFF, 1200)
        assert w.receivers[0].wait(WARM_UP + 1)[WARM_UP] == datagram(1, 1200)


@pytest.mark.engines("af_xdp")
def test_what_cannot_leave_at_once_leaves_after_max_delay(box: testing.Hold, rx: socket.socket) -> None:
    """Another engine has the queue of the device: the timer sends through the socket."""

    def send() -> None:
        with (
            UdpSender(box.address, engine="af_xdp") as first,
            UdpSender(box.address, engine="af_xdp", max_delay=0.001) as second,
        ):
            first.send(b"first")
            first.flush()
            second.send(b"second")
            assert [rx.recv(100), rx.recv(100)] == [b"first", b"second"]
            assert wait_until(lambda: second.stats.syscalls == 1)  # the timer counts when it has sent

    box.run(send)
