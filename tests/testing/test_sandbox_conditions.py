"""The conditions a sandbox makes for a sender: MTU, offloads, a full queue, a neighbour to find."""

import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from raising import raises_errno

import uringzc
from uringzc import testing

pytestmark = [pytest.mark.engines(), testing.requires("net_admin")]

UDP_SEGMENT = 103
IP_MTU = 14
ASK_FOR_ERRORS: dict[int, tuple[int, int]] = {
    socket.AF_INET: (socket.IPPROTO_IP, 11),  # IP_RECVERR
    socket.AF_INET6: (socket.IPPROTO_IPV6, 25),  # IPV6_RECVERR
}
FAMILIES = pytest.mark.parametrize("family", ASK_FOR_ERRORS, ids=["v4", "v6"])


@pytest.fixture
def box() -> Iterator[testing.Hold]:
    with testing.hold() as box:
        yield box


@pytest.fixture
def sink() -> Iterator[testing.Sandbox]:
    with testing.sink() as sink:
        yield sink


def where(box: testing.Sandbox, family: int) -> tuple[str, int]:
    return box.address6 if family == socket.AF_INET6 else box.address


def was_copied(
    box: testing.Sandbox, family: int = socket.AF_INET, size: int = 1400, segment: int = 0
) -> bool:
    """What the notification says of one zero-copy send."""
    with box.socket(family) as sock, uringzc.Scheduler() as s:
        s.send(sock, bytearray(size), to=where(box, family), segment=segment, flush=True)
        (notification,) = s.reap_notifications(wait=1, timeout=5)
    assert notification.failed == 0
    if notification.copied is None:
        pytest.skip("needs a kernel that says what it copied: run Linux 6.2 or later")
    return notification.copied == 1


def received(box: testing.Sandbox) -> int:
    """How many packets its device counts; an ifb counts what it is given."""
    line = box.run(lambda: Path("/proc/thread-self/net/dev").read_text()).partition(f"{box.device}:")[2]
    return int(line.split()[1])


def refused(sock: socket.socket, data: bytes, to: tuple[str, int]) -> bool:
    """Whether the send fails because a queue is full."""
    try:
        sock.sendto(data, socket.MSG_DONTWAIT, to)
    except OSError as error:
        if error.errno != errno.ENOBUFS:
            raise
        return True
    return False


def wait_for_last(rx: testing.Receiver) -> list[bytes]:
    """All that came before b"last". Not for a receiver with a thread, whose count changes meanwhile."""
    while rx.datagrams[-1:] != [b"last"]:
        rx.wait(rx.count + 1)
    return rx.datagrams[:-1]


def numbers(datagrams: list[bytes]) -> list[int]:
    return [int.from_bytes(data[:4], "big") for data in datagrams]


# -- MTU


@FAMILIES
def test_mtu_shrinks_and_grows_while_a_socket_is_connected(box: testing.Hold, family: int) -> None:
    level, headers = (socket.IPPROTO_IPV6, 48) if family == socket.AF_INET6 else (socket.IPPROTO_IP, 28)
    option, ask = (23, 24) if family == socket.AF_INET6 else (10, IP_MTU)  # IPV6_ or IP_MTU_DISCOVER; _MTU
    box.release()
    with box.socket(family) as sock, testing.receiver(sock=box.receiver_socket(family)) as rx:
        sock.setsockopt(level, option, 2)  # _PMTUDISC_DO
        sock.connect(where(box, family))
        for count, mtu in enumerate([1500, 1280, 9000, 65535, 1500]):
            box.set_mtu(mtu)
            assert sock.getsockopt(level, ask) == mtu
            longest = min(mtu - headers, 65507)
            sock.send(bytes(longest))
            assert len(rx.wait(count + 1)[-1]) == longest
            if mtu < 65535:
                with pytest.raises(OSError, match="too long"):
                    sock.send(bytes(longest + 1))


def test_what_was_held_arrives_though_the_mtu_shrank(box: testing.Hold) -> None:
    with box.socket() as sock, testing.receiver(sock=box.receiver_socket()) as rx:
        box.stop()
        sock.sendto(bytes(1472), box.address)
        box.set_mtu(1280)
        box.release()
        assert rx.wait(1) == [bytes(1472)]


@testing.requires("send_zc")
def test_longer_than_the_mtu_is_copied(sink: testing.Sandbox) -> None:
    assert not was_copied(sink)
    sink.set_mtu(1280)
    assert was_copied(sink)
    sink.set_mtu(9000)
    assert not was_copied(sink, size=8000)


@pytest.mark.parametrize("mtu", [1279, 65536])
def test_an_mtu_out_of_range_is_refused(box: testing.Hold, mtu: int) -> None:
    with pytest.raises(ValueError, match=str(mtu)):
        box.set_mtu(mtu)


# -- offloads


@testing.requires("send_zc")
@FAMILIES
@pytest.mark.parametrize("feature", ["checksum", "scatter_gather"])
def test_without_an_offload_the_kernel_copies(sink: testing.Sandbox, family: int, feature: str) -> None:
    assert not was_copied(sink, family)
    sink.offload(**{feature: False})
    assert was_copied(sink, family)
    sink.offload(**{feature: True})
    assert not was_copied(sink, family)


@testing.requires("send_zc")
@FAMILIES
def test_without_segmentation_the_kernel_cuts_and_does_not_copy(sink: testing.Sandbox, family: int) -> None:
    for on, packets in [(True, 1), (False, 10), (True, 1)]:
        sink.offload(segmentation=on)
        before = received(sink)
        assert not was_copied(sink, family, size=14_000, segment=1400)
        assert packets <= received(sink) - before < packets + 5  # and what IPv6 has to say


def test_a_hold_without_offloads_receives_no_trains(box: testing.Hold) -> None:
    box.release()
    box.offload(checksum=False, scatter_gather=False, segmentation=False)
    with box.socket() as sock, testing.receiver(sock=box.receiver_socket()) as rx:
        sock.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 1400)
        before = received(box.peer)
        sock.sendto(bytes(14_000), box.address)
        assert rx.wait(10) == [bytes(1400)] * 10
        assert received(box.peer) - before >= 10  # and not a train


def test_an_offload_that_needs_another_is_refused(sink: testing.Sandbox) -> None:
    sink.offload(checksum=False)
    with raises_errno(errno.EOPNOTSUPP, "cannot switch tx-udp-segmentation of ifb0 on"):
        sink.offload(segmentation=True)
    sink.offload(checksum=True)
    sink.offload(segmentation=True)
    sink.offload()


# -- a neighbour to find


@FAMILIES
def test_a_forgotten_neighbour_loses_a_burst(box: testing.Hold, family: int) -> None:
    to = where(box, family)
    with box.socket(family) as sock, testing.receiver(sock=box.receiver_socket(family), thread=False) as rx:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 212_992)  # so that it is not what fills up
        box.stop()
        box.forget_neighbour()
        for number in range(200):
            assert sock.sendto(number.to_bytes(4, "big") + bytes(1396), socket.MSG_DONTWAIT, to) == 1400
        box.release()
        rx.wait(1)
        sock.sendto(b"last", to)
        came = numbers(wait_for_last(rx))
    assert 0 < len(came) < 100
    assert came == list(range(200))[-len(came) :]  # the oldest are lost


@FAMILIES
def test_a_found_neighbour_loses_nothing(box: testing.Hold, family: int) -> None:
    with box.socket(family) as sock, testing.receiver(sock=box.receiver_socket(family)) as rx:
        for turn in range(2):  # what was found can be forgotten again
            box.stop()
            box.forget_neighbour()
            box.forget_neighbour()
            sock.sendto(b"look", where(box, family))
            box.release()
            rx.wait(201 * turn + 1)
            for number in range(200):
                sock.sendto(number.to_bytes(4, "big") + bytes(1396), where(box, family))
            assert numbers(rx.wait(201 * (turn + 1))[-200:]) == list(range(200))


# -- a full queue


@FAMILIES
@pytest.mark.parametrize("ask", [True, False], ids=["asked", "silent"])
def test_a_full_queue_drops_and_says_so_if_asked(box: testing.Hold, family: int, ask: bool) -> None:
    to = where(box, family)
    with box.socket(family) as sock, testing.receiver(sock=box.receiver_socket(family), thread=False) as rx:
        sock.setsockopt(*ASK_FOR_ERRORS[family], ask)
        box.stop()
        box.limit(20_000)
        reported = sum(refused(sock, bytes(1000), to) for _ in range(100))
        rx.read()
        assert rx.count == 0  # the gate stayed shut
        box.limit()
        assert not refused(sock, b"last", to)
        box.release()
        arrived = len(wait_for_last(rx))
    assert 0 < arrived < 20  # of 1,000 bytes, and headers
    assert reported == (100 - arrived if ask else 0)


@pytest.mark.parametrize("ask", [True, False], ids=["asked", "silent"])
def test_a_burst_is_faster_than_a_slow_gate_with_a_limit(box: testing.Hold, ask: bool) -> None:
    with box.socket() as sock, testing.receiver(sock=box.receiver_socket(), thread=False) as rx:
        sock.setsockopt(*ASK_FOR_ERRORS[socket.AF_INET], ask)
        box.limit(20_000)
        reported = sum(refused(sock, bytes(1000), box.address) for _ in range(1000))
        box.limit()
        assert not refused(sock, b"last", box.address)
        lost = 1000 - len(wait_for_last(rx))
    assert lost > 0
    assert reported == (lost if ask else 0)


def test_a_limit_leaves_what_waits_already(box: testing.Hold) -> None:
    with box.socket() as sock, testing.receiver(sock=box.receiver_socket()) as rx:
        box.stop()
        for number in range(40):
            sock.sendto(number.to_bytes(4, "big") + bytes(996), box.address)
        box.limit(1)
        sock.sendto(b"dropped", box.address)
        box.release()
        assert numbers(rx.wait(40)) == list(range(40))


@pytest.mark.parametrize("nbytes", [0, -1, (1 << 30) + 1])
def test_a_limit_out_of_range_is_refused(box: testing.Hold, nbytes: int) -> None:
    with pytest.raises(ValueError, match=f"not {nbytes}"):
        box.limit(nbytes)
