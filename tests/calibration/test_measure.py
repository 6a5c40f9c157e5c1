"""Measuring sends what it says, with both kinds of requests; no test decides by which of them is faster."""

import socket
from collections import Counter

import pytest

from uringzc import UdpSender, UdpStats, testing
from uringzc.doctor import measure as measuring
from uringzc.doctor.crossover import shapes
from uringzc.doctor.measure import LEAST, MeasuringError, measure
from uringzc.kernel.features import max_segments

SHORT = 0.001  # seconds: as few rounds and requests as there may be


@pytest.fixture
def senders(monkeypatch: pytest.MonkeyPatch) -> list[UdpSender]:
    """Those that it opens."""
    made: list[UdpSender] = []
    make = measuring._sender

    def keep(*arguments: object) -> UdpSender:
        made.append(make(*arguments))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(measuring, "_sender", keep)
    return made


@pytest.mark.engines("io_uring", "msg_zerocopy")
@testing.requires("net_admin")
def test_both_kinds_are_measured_side_by_side(
    sink: testing.Sandbox, engine: str, senders: list[UdpSender]
) -> None:
    seen: list[tuple[float, int]] = []
    stats: list[UdpStats] = []

    def note(done: float, number: int) -> None:
        seen.append((done, number))
        stats[:] = [tx.stats for tx in senders]

    found = sink.run(lambda: measure(sink.address, engine, SHORT, note))
    every = shapes(1472, max_segments())
    assert found.device.name == sink.device
    assert [one.nbytes for one in found.measured] == [shape.nbytes for shape in every]
    for one in found.measured:
        assert len(one.copy) == len(one.zero_copy) == found.rounds == LEAST
        assert min(*one.copy, *one.zero_copy) > 0
    assert not found.copied
    assert [number for _, number in seen] == [n + 1 for n in range(LEAST) for _ in every]
    assert seen[-1][0] == 1.0
    copy, zero_copy = stats
    assert copy.zero_copy == 0
    assert zero_copy.zero_copy == zero_copy.requests == sum(zero_copy.trains.values()) > LEAST * len(every)
    assert (zero_copy.copied, copy.lost, zero_copy.lost) == (0, 0, 0)
    probes = LEAST - 1  # and one at the end
    longest = max(size for size in copy.trains if copy.trains[size])
    assert copy.trains | {longest: copy.trains[longest] + probes} == zero_copy.trains  # the same requests
    assert copy.datagrams + probes * every[-1].datagrams == zero_copy.datagrams
    assert copy.trains[1] > copy.trains[32] > 0


@pytest.mark.engines("io_uring", "msg_zerocopy")
def test_over_loopback_the_kernel_copies_and_so_it_never_pays(engine: str) -> None:
    with testing.receiver(limit=0) as rx:
        found = measure(rx.address, engine, SHORT)
    assert found.copied
    assert found.min_zero_copy is None
    assert found.device.name == "lo"


@pytest.mark.engines
@testing.requires("send_zc")
def test_a_port_where_nobody_listens_does_not_matter() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::1", 0))
        nobody = sock.getsockname()[:2]
    assert measure(nobody, "io_uring", SHORT).copied


@pytest.mark.engines
@testing.requires("net_admin")
@testing.requires("send_zc")
def test_large_datagrams_need_no_trains() -> None:
    with testing.sink(mtu=65535) as box:
        found = box.run(lambda: measure(box.address6, "io_uring", SHORT))
    assert found.measured[-1].nbytes == 65487
    assert found.measured[-1].nbytes == max(one.nbytes for one in found.measured)


@pytest.mark.engines
@testing.requires("net_admin")
@testing.requires("send_zc")
def test_where_the_device_has_lost_its_checksums_the_kernel_copies() -> None:
    with testing.sink() as box:
        box.offload(checksum=False)
        assert box.run(lambda: measure(box.address, "io_uring", SHORT)).copied


@pytest.mark.engines
def test_what_the_network_refuses_is_said() -> None:
    measuring._check(Counter({111: 7}))  # ECONNREFUSED
    with pytest.raises(MeasuringError, match="refuses what is sent: No route to host, 2 times"):
        measuring._check(Counter({111: 7, 113: 2}))


@pytest.mark.engines
@testing.requires("net_admin")
@testing.requires("send_zc")
def test_no_way_to_the_host(sink: testing.Sandbox) -> None:
    with pytest.raises(OSError, match="unreachable"):
        sink.run(lambda: measure(("192.0.2.1", 9), "io_uring", SHORT))
