"""A saved calibration decides which requests of a UdpSender are zero-copy; one for anything else does not."""

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from calibrations import calibration, keep

from uringzc import UdpSender, testing
from uringzc.calibration.lookup import outgoing, unused
from uringzc.calibration.saved import Calibration
from uringzc.doctor.measure import device_to
from uringzc.kernel.interface import Interface, interface

pytestmark = [pytest.mark.engines("io_uring", "msg_zerocopy"), testing.requires("net_admin")]
SIZE = 1400
SMALL, LARGE = 3, 4  # datagrams of a train: the calibrations' 5000 bytes are between
EACH = 8  # trains of each
BETWEEN = 5000


class Sent(NamedTuple):
    """What a sender did: requests that were zero-copy, by the kernel's word, and what it says."""

    zero_copy: int
    copying: int
    explain: str


def send(tx: UdpSender, *to: Any) -> Sent:
    """Trains on both sides of the threshold, to each address."""
    for count in [SMALL, LARGE] * EACH:
        for address in to or [None]:
            tx.send_many([bytes(SIZE)] * count, address)
            tx.flush()
    tx.drain(10)
    stats = tx.stats
    assert stats.copied == 0
    assert stats.requests == 2 * EACH * max(1, len(to))
    return Sent(stats.zero_copy, stats.copying, tx.explain())


def connected(box: testing.Sandbox, **options: Any) -> Sent:
    def go() -> Sent:
        with UdpSender(box.address, max_delay=None, **options) as tx:
            return send(tx)

    return box.run(go)


@pytest.fixture
def device(sink: testing.Sandbox) -> Interface:
    return sink.run(lambda: device_to(sink.address))


@pytest.fixture
def without(sink: testing.Sandbox, engine: str) -> int:
    """Zero-copy requests of a sender that knows of no calibration: the engine's own threshold."""
    return {"io_uring": 2 * EACH, "msg_zerocopy": 0}[engine]


def test_the_device_of_a_route(sink: testing.Sandbox, device: Interface) -> None:
    assert device == Interface("ifb0", "ifb", "", 1500)
    assert sink.run(lambda: device_to(sink.address6)) == device
    assert sink.run(lambda: device_to(("127.0.0.1", 9))) == Interface("lo", "", "", 65536)


def test_the_threshold_is_that_of_the_file(
    sink: testing.Sandbox, device: Interface, engine: str, without: int, calibration_file: Path
) -> None:
    plain = connected(sink)
    assert plain.zero_copy == without
    assert "easured" not in plain.explain
    keep(calibration_file, calibration(device, engine, BETWEEN))
    sent = connected(sink)
    assert sent.zero_copy == EACH
    assert sent.copying == 0
    text = "Measured 2026-11-22 on ifb0 (uringzc calibrate): zero-copy from 5,000 bytes of a request;"
    assert text in sent.explain


def test_a_request_of_just_as_many_bytes_is_zero_copy(
    sink: testing.Sandbox, device: Interface, engine: str, calibration_file: Path
) -> None:
    keep(calibration_file, calibration(device, engine, LARGE * SIZE))
    assert connected(sink).zero_copy == EACH
    keep(calibration_file, calibration(device, engine, LARGE * SIZE + 1))
    assert connected(sink).zero_copy == 0


def test_where_zero_copy_never_pays_all_is_copied(
    sink: testing.Sandbox, device: Interface, engine: str, calibration_file: Path
) -> None:
    keep(calibration_file, calibration(device, engine, None))
    sent = connected(sink)
    assert (sent.zero_copy, sent.copying) == (0, 1)
    assert (
        "on ifb0 (uringzc calibrate): zero-copy never pays, so all requests by it are copied." in sent.explain
    )
    assert "The kernel would copy" not in sent.explain


@pytest.mark.parametrize("mode", ["always", "never"])
def test_what_the_program_asks_for_comes_first(
    mode: str, sink: testing.Sandbox, device: Interface, engine: str, calibration_file: Path
) -> None:
    keep(calibration_file, calibration(device, engine, BETWEEN))
    sent = connected(sink, zero_copy=mode)
    assert sent.zero_copy == (2 * EACH if mode == "always" else 0)
    assert "easured" not in sent.explain


ELSEWHERE: dict[str, Callable[[Calibration], Calibration]] = {
    "machine": lambda one: replace(one, machine="another"),
    "kernel": lambda one: replace(one, kernel="6.1.0"),
    "interface": lambda one: replace(one, interface="ifb1"),
    "driver": lambda one: replace(one, driver="mlx5_core"),
    "bus": lambda one: replace(one, bus="0000:00:03.0"),
    "mtu": lambda one: replace(one, mtu=9000),
    "engine": lambda one: replace(one, engine="copy"),
}


@pytest.mark.parametrize("what", ELSEWHERE)
def test_what_was_measured_elsewhere_is_not_used(
    what: str,
    sink: testing.Sandbox,
    device: Interface,
    engine: str,
    without: int,
    calibration_file: Path,
) -> None:
    one = ELSEWHERE[what](calibration(device, engine, BETWEEN))
    keep(calibration_file, one)
    sent = connected(sink)
    assert sent.zero_copy == without
    assert "easured" not in sent.explain
    assert bool(sink.run(lambda: unused(one))) == (what != "engine")


def test_each_destination_has_that_of_its_interface(
    sink: testing.Sandbox, device: Interface, engine: str, calibration_file: Path
) -> None:
    lo = Interface("lo", "", "", 65536)
    keep(calibration_file, calibration(device, engine, BETWEEN), calibration(lo, engine, None))

    def go() -> Sent:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as rx, UdpSender(max_delay=None) as tx:
            rx.bind(("127.0.0.1", 0))
            return send(tx, rx.getsockname(), sink.address)

    sent = sink.run(go)
    assert (sent.zero_copy, sent.copying) == (EACH, 1)
    assert "on ifb0 (uringzc calibrate): zero-copy from" in sent.explain
    assert "on lo (uringzc calibrate): zero-copy never pays" in sent.explain


def test_ipv6_and_a_socket_of_the_program(
    sink: testing.Sandbox, device: Interface, engine: str, calibration_file: Path
) -> None:
    keep(calibration_file, calibration(device, engine, BETWEEN))

    def go() -> list[Sent]:
        found = []
        for connect in (False, True):
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
                if connect:
                    sock.connect(sink.address6)
                with UdpSender(None if connect else sink.address6, sock=sock, max_delay=None) as tx:
                    assert connect or not sock.getsockname()[1]  # the program may still bind it
                    found.append(send(tx))
        return found

    assert [sent.zero_copy for sent in sink.run(go)] == [EACH, EACH]


def test_a_socket_bound_to_a_device(
    sink: testing.Sandbox, device: Interface, engine: str, calibration_file: Path
) -> None:
    keep(calibration_file, calibration(device, engine, BETWEEN))
    assert connected(sink, device=sink.device).zero_copy == EACH


def test_a_socket_of_another_network_namespace_has_none(
    sink: testing.Sandbox, device: Interface, engine: str, without: int, calibration_file: Path
) -> None:
    """Its routes cannot be asked for from this thread: nothing is taken from those of this namespace."""
    keep(calibration_file, calibration(device, engine, BETWEEN))
    with sink.run(lambda: UdpSender(max_delay=None)) as tx:
        sent = send(tx, sink.address)
    assert sent.zero_copy == without
    assert "easured" not in sent.explain


def test_an_unreachable_destination_is_found_out_when_it_is_sent_to(
    sink: testing.Sandbox, device: Interface, engine: str, calibration_file: Path
) -> None:
    keep(calibration_file, calibration(device, engine, BETWEEN))

    def go() -> None:
        with UdpSender() as tx:
            tx.send(b"nowhere", ("192.0.2.1", 9))
            with pytest.raises(OSError, match="unreachable"):
                tx.drain(5)

    sink.run(go)


def test_the_multicast_interface_counts(
    sink: testing.Sandbox, device: Interface, engine: str, calibration_file: Path
) -> None:
    def go() -> Interface:
        with UdpSender(("239.1.2.3", 9000), interface=sink.device) as tx:
            return interface(tx.sock, outgoing(tx.sock, None))

    assert sink.run(go) == device
