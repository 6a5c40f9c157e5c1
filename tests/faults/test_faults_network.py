"""The network breaks: the link is down, the route, the device or the namespace is gone."""

import errno
import socket

import pytest
from broken_networks import (
    TCP_USER_TIMEOUT,
    add_route,
    connected,
    delete_device,
    delete_route,
    device_changes,
    follow,
    link_down,
    link_up,
    scheduled,
    udp_sender,
)
from cells import Cell
from frame_paths import set_neighbour, wait_for_carrier
from marks import all_engines, holding_engines
from traffic import receive_exactly, received, send_until_one_waits, tcp_connection, unsent_bytes, wait_until
from watched_faces import TcpSender, UdpSender

from uringzc import SendError, testing
from uringzc.testing.devices import NEAR

pytestmark = testing.requires("net_admin")
BLOCK = bytes(range(256)) * 128
#: ENETDOWN, ENXIO: of frames, whose device is noticed to be gone before their route
GONE = {errno.ENETUNREACH, errno.ENETDOWN, errno.ENXIO}
each_break = pytest.mark.parametrize("broken", ["link", "device"])
each_way = pytest.mark.parametrize("zero_copy", ["always", "never"])


def sent(s: UdpSender, data: bytes = b"while it is broken") -> list[tuple[int | None, int]]:
    """Sends and flushes: the errors that were reported for it, and for which datagram."""
    before = len(s.reports.reported)
    s.send(data)
    s.flush()
    return [(error.errno, error.index) for error in s.reports.reported[before:]]


def scheduler_without_a_way(net: testing.Hold, cell: Cell, broken: str) -> None:
    """Every request completes with an error while it is broken, and is sent when it is not."""
    with net.receiver_socket() as rx, connected(net, cell) as sock, scheduled(net, cell) as requests:
        rx.settimeout(20)
        requests.send(sock, cell.memory(b"before"))
        assert requests.results() == [6]
        assert received(rx, 1) == [b"before"]
        requests.send(sock, cell.memory(b"queued"), flush=False)
        BREAK[broken](net)
        follow(requests.scheduler)
        requests.send(sock, cell.memory(b"broken"), flush=False)
        requests.send(sock, cell.memory(b"broken"))
        queued, *later = requests.results()[1:]
        assert {-result for result in later} <= GONE
        if (queued, broken) == (6, "route"):  # a frame had its headers already
            assert received(rx, 1) == [b"queued"]
        else:
            assert -queued in GONE
        if broken in MEND:
            MEND[broken](net)
            cell.next_works(lambda data: requests.send_now(sock, data), rx)
        else:
            cell.next_fails(lambda data: requests.send_now(sock, data), errno.ENETUNREACH)


def udp_sender_without_a_way(net: testing.Hold, cell: Cell, broken: str) -> None:
    """Each datagram that was lost is reported, once; the sender goes on."""
    with net.receiver_socket() as rx, udp_sender(net, cell) as s:
        rx.settimeout(20)
        assert sent(s, b"before") == []
        assert received(rx, 1) == [b"before"]
        BREAK[broken](net)
        follow(s)
        for number in 1, 2:
            ((code, index),) = sent(s)
            assert (code in GONE, index) == (True, number)
        s.send_many([bytes(1000)] * 10)
        s.flush()
        assert [error.index for error in s.reports.reported[2:]] == [*range(3, 13)]
        assert s.stats.lost == 12
        if broken in MEND:
            MEND[broken](net)
            cell.next_works(lambda data: s.send(data) and s.flush(), rx)
        else:
            s.send(b"next")
            s.flush()
            cell.next_fails(lambda _: -(s.reports.reported[-1].errno or 0), errno.ENETUNREACH)


def send_until_it_raises(s: TcpSender, cell: Cell) -> None:
    """What the kernel takes before it gives up."""
    while True:
        s.send_buffers([cell.immutable(BLOCK) for _ in range(64)])


def stream_that_waits(net: testing.Hold, cell: Cell, broken: str, zero_copy: str) -> None:
    """TCP keeps what it has, and sends it again: the program sees nothing but time."""
    with tcp_connection(net) as (tx, rx), cell.tcp_sender(tx, zero_copy=zero_copy) as s:
        cell.watch(tx)
        s.send(b"before")
        assert receive_exactly(rx, 6) == b"before"
        BREAK[broken](net)
        s.send(cell.immutable(BLOCK))
        held = s.flush()
        assert held.done == (s.stats.requests == 0)  # zero-copy: the memory is held until the peer has it
        MEND[broken](net)
        assert receive_exactly(rx, len(BLOCK)) == BLOCK
        held.wait(20)
        cell.next_works(s.send, rx)


def stream_that_ends(net: testing.Hold, cell: Cell, broken: str, zero_copy: str) -> None:
    """With TCP_USER_TIMEOUT the stream ends with an error that says how much the kernel took."""
    with tcp_connection(net) as (tx, rx), cell.tcp_sender(tx, zero_copy=zero_copy) as s:
        cell.watch(tx)
        tx.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT)
        s.send(b"before")
        assert receive_exactly(rx, 6) == b"before"
        BREAK[broken](net)
        with pytest.raises(TimeoutError, match="Connection timed out: the kernel took") as caught:
            send_until_it_raises(s, cell)
        error = caught.value
        assert isinstance(error, SendError)
        assert s.reports.reported == [error]
        assert error.accepted < error.size
        cell.next_fails(s.send, errno.EPIPE)
        s.drain(20)


BREAK = {"link": link_down, "route": delete_route, "device": delete_device}
MEND = {"link": link_up, "route": add_route}


@all_engines
@pytest.mark.cell("link down", "Scheduler")
def test_a_scheduler_and_a_link_that_is_down(cell: Cell, net: testing.Hold) -> None:
    scheduler_without_a_way(net, cell, "link")


@all_engines
@pytest.mark.cell("link down", "UdpSender")
def test_a_udp_sender_and_a_link_that_is_down(cell: Cell, net: testing.Hold) -> None:
    udp_sender_without_a_way(net, cell, "link")


@each_way
@pytest.mark.cell("link down", "TcpSender")
def test_a_tcp_sender_and_a_link_that_is_down(cell: Cell, net: testing.Hold, zero_copy: str) -> None:
    stream_that_waits(net, cell, "link", zero_copy)


@pytest.mark.cell("link down", "TcpSender")
def test_a_tcp_sender_and_a_link_that_stays_down(cell: Cell, net: testing.Hold) -> None:
    stream_that_ends(net, cell, "link", "always")


@all_engines
@pytest.mark.cell("route gone", "Scheduler")
def test_a_scheduler_and_a_route_that_is_gone(cell: Cell, net: testing.Hold) -> None:
    scheduler_without_a_way(net, cell, "route")


@all_engines
@pytest.mark.cell("route gone", "UdpSender")
def test_a_udp_sender_and_a_route_that_is_gone(cell: Cell, net: testing.Hold) -> None:
    udp_sender_without_a_way(net, cell, "route")


@pytest.mark.cell("route gone", "TcpSender")
def test_a_tcp_sender_and_a_route_that_is_gone(cell: Cell, net: testing.Hold) -> None:
    stream_that_waits(net, cell, "route", "always")


@all_engines
@pytest.mark.cell("device gone", "Scheduler")
def test_a_scheduler_and_a_device_that_is_gone(cell: Cell, net: testing.Hold) -> None:
    scheduler_without_a_way(net, cell, "device")


@all_engines
@pytest.mark.cell("device gone", "UdpSender")
def test_a_udp_sender_and_a_device_that_is_gone(cell: Cell, net: testing.Hold) -> None:
    udp_sender_without_a_way(net, cell, "device")


@each_way
@pytest.mark.cell("device gone", "TcpSender")
def test_a_tcp_sender_and_a_device_that_is_gone(cell: Cell, net: testing.Hold, zero_copy: str) -> None:
    stream_that_ends(net, cell, "device", zero_copy)


@all_engines
@pytest.mark.cell("link down", "Scheduler", "UdpSender")
def test_a_link_without_a_carrier_discards(cell: Cell, net: testing.Hold) -> None:
    """As if the cable was pulled: the kernel takes what is sent, and tells nobody."""
    with (
        net.receiver_socket() as rx,
        connected(net, cell) as sock,
        connected(net, cell) as udp,
        scheduled(net, cell) as requests,
        udp_sender(net, cell, sock=udp, scheduler=requests.scheduler) as s,
    ):
        rx.settimeout(20)
        assert sent(s, b"before") == []
        assert received(rx, 1) == [b"before"]
        link_down(net.peer)
        for _ in range(20):
            requests.send(sock, cell.memory(1000))
        assert requests.results() == [1000] * 20
        s.send_many([bytes(1000)] * 20)
        s.drain(20)
        requests.reap(notifications=20)
        assert len(requests.notifications) == 20
        assert (s.reports.reported, s.stats.lost) == ([], 0)
        assert wait_until(lambda: unsent_bytes(sock) == unsent_bytes(udp) == 0)  # the device has taken all
        link_up(net.peer)
        net.run(lambda: wait_for_carrier(net.device))
        set_neighbour(net.peer, NEAR.ip, NEAR.mac)
        cell.next_works(lambda data: s.send(data) and s.flush(), rx)


@holding_engines
@each_break
@pytest.mark.cell("link down", "Scheduler")
@pytest.mark.cell("device gone", "Scheduler")
def test_memory_of_requests_that_the_device_holds_is_free(cell: Cell, net: testing.Hold, broken: str) -> None:
    """What waits in its queue is lost, after its result, and notified of."""
    with net.receiver_socket(), connected(net, cell) as sock, scheduled(net, cell) as requests:
        net.stop()
        for _ in range(20):
            requests.send(sock, cell.memory(1000))
        assert requests.results() == [1000] * 20
        assert requests.notifications == []
        BREAK[broken](net)
        requests.reap(notifications=20)
        assert len(requests.notifications) == 20
        follow(requests.scheduler)
        cell.next_fails(lambda data: requests.send_now(sock, data), errno.ENETUNREACH)


@holding_engines
@each_break
@pytest.mark.cell("link down", "UdpSender")
@pytest.mark.cell("device gone", "UdpSender")
def test_memory_of_trains_that_the_device_holds_is_free(cell: Cell, net: testing.Hold, broken: str) -> None:
    with net.receiver_socket() as rx, udp_sender(net, cell, zero_copy="always") as s:
        rx.settimeout(20)
        assert sent(s, b"before") == []
        assert received(rx, 1) == [b"before"]
        s.drain(20)
        net.stop()
        s.send_many([bytes(1000)] * 100)
        held = s.flush()
        assert not held.done
        BREAK[broken](net)
        held.wait(20)
        assert s.reports.reported == []
        follow(s)
        cell.next_fails(lambda data: -(sent(s, data)[0][0] or 0), errno.ENETUNREACH)


@all_engines
@pytest.mark.cell("link down", "UdpSender")
def test_each_kind_of_send_is_reported_once(cell: Cell, net: testing.Hold, engine: str) -> None:
    """And its memory is free."""
    region = cell.memory(bytes(8000))
    with net.receiver_socket() as rx, udp_sender(net, cell) as s, s.register(region) as registered:
        rx.settimeout(20)
        assert sent(s, b"before") == []
        assert received(rx, 1) == [b"before"]
        s.drain(20)
        free = s._arena.free
        link_down(net)
        follow(s)
        group = s.group([(net.address[0], port) for port in range(9100, 9105)])
        s.send_many([bytes(700)] * 40)
        s.send(cell.immutable(bytes(3000 if engine == "af_xdp" else 20_000)))
        lease = s.lease(1000)
        lease.send()
        unsent = s.lease(1000)
        s.send_region(registered, segment=1000)
        s.send_slices(registered, [0, 4000, 100], [10, 20, 30])
        group.send(b"to all")
        group.send_many([bytes(500)] * 3)
        s.flush()
        s.drain(20)
        del unsent
        lost = [error.index for error in s.reports.reported]
        assert sorted(lost) == list(range(1, s.stats.datagrams))
        assert s.stats.datagrams == 1 + 40 + 1 + 1 + 8 + 3 + 5 + 15
        assert {error.errno for error in s.reports.reported} <= GONE | {errno.EMSGSIZE}
        assert s._arena.free >= free - (64 << 10)
        link_up(net)
        cell.next_works(lambda data: s.send(data) and s.flush(), rx)


@pytest.mark.cell("link down", "UdpSender")
def test_what_the_timer_could_not_send_is_reported_by_the_next_call(cell: Cell, net: testing.Hold) -> None:
    with net.receiver_socket() as rx, udp_sender(net, cell, max_delay=0.001) as s:
        rx.settimeout(20)
        assert sent(s, b"before") == []
        assert received(rx, 1) == [b"before"]
        link_down(net)
        waited = send_until_one_waits(s)
        assert wait_until(lambda: not s.stats.waiting)
        s.flush()
        assert [error.index for error in s.reports.reported] == list(range(1, waited + 1))
        assert {error.errno for error in s.reports.reported} == {errno.ENETUNREACH}
        link_up(net)
        cell.next_works(lambda data: s.send(data) and s.flush(), rx)


# -- the namespace goes: what has a socket there goes on


@all_engines
@pytest.mark.cell("namespace gone", "Scheduler")
def test_a_scheduler_whose_namespace_is_gone(cell: Cell, net: testing.Hold) -> None:
    with net.receiver_socket() as rx, connected(net, cell) as sock, scheduled(net, cell) as requests:
        rx.settimeout(20)
        requests.send(sock, cell.memory(b"before"))
        net.close()
        net.peer.close()
        requests.send(sock, cell.memory(b"queued"))
        assert requests.results() == [6, 6]
        assert received(rx, 2) == [b"before", b"queued"]
        cell.next_works(lambda data: requests.send_now(sock, data), rx)


@all_engines
@pytest.mark.cell("namespace gone", "UdpSender")
def test_a_udp_sender_whose_namespace_is_gone(cell: Cell, net: testing.Hold) -> None:
    with net.receiver_socket() as rx, udp_sender(net, cell) as s:
        rx.settimeout(20)
        assert sent(s, b"before") == []
        net.close()
        net.peer.close()
        assert received(rx, 1) == [b"before"]
        cell.next_works(lambda data: s.send(data) and s.flush(), rx)


@pytest.mark.cell("namespace gone", "TcpSender")
def test_a_tcp_sender_whose_namespace_is_gone(cell: Cell, net: testing.Hold) -> None:
    with tcp_connection(net) as (tx, rx), cell.tcp_sender(tx, zero_copy="always") as s:
        cell.watch(tx)
        s.send(b"before")
        net.close()
        net.peer.close()
        s.send(cell.immutable(BLOCK))
        assert receive_exactly(rx, 6 + len(BLOCK)) == b"before" + BLOCK
        cell.next_works(s.send, rx)
        s.drain(20)


@all_engines
@pytest.mark.cell("namespace gone", "Scheduler", "UdpSender")
def test_the_namespace_of_the_receiver_is_gone_and_the_device_with_it(cell: Cell, net: testing.Hold) -> None:
    with (
        device_changes(net) as wait,
        connected(net, cell) as sock,
        scheduled(net, cell) as requests,
        udp_sender(net, cell) as s,
    ):
        net.peer.close()
        while any(name == net.device for _, name in net.run(socket.if_nameindex)):
            wait()
        requests.send(sock, cell.memory(b"lost"))
        follow(requests.scheduler)
        follow(s)
        assert -requests.results()[0] in GONE
        assert [(code in GONE, index) for code, index in sent(s)] == [(True, 0)]
        cell.next_fails(lambda data: requests.send_now(sock, data), errno.ENETUNREACH)
