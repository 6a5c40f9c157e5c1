"""Devices, neighbours and MTUs that change under what was queued and what is in flight.

Whatever happens: each request completes once, each notifier notifies once, nothing stays held, and the next
send works or says why.
"""

import errno
import socket
from collections.abc import Callable
from typing import Any

import pytest
from frame_tools import (
    Capture,
    follow,
    frames_in_use,
    is_udp_to,
    leaves_as_a_frame,
    scheduler,
    send_all,
    udp_sender,
)
from marks import frame_engines, only_packet
from traffic import datagram, is_readable, received, wait_until

import uringzc
from uringzc import testing
from uringzc.testing.devices import FAR, NEAR

pyroute2 = pytest.importorskip("pyroute2")
OTHER_MAC = "02:00:00:00:00:33"
NOBODY = ("10.0.0.77", 9000)


def link(box: testing.Sandbox, command: str, **what: Any) -> None:
    """`ip link` of the sandbox's device."""

    def call() -> None:
        with pyroute2.IPRoute() as ip:
            ip.link(command, index=socket.if_nametoindex(box.device), **what)

    box.run(call)


def neighbour(box: testing.Sandbox, command: str, dst: str, **what: Any) -> None:
    """`ip neighbour` of the sandbox's device."""

    def call() -> None:
        with pyroute2.IPRoute() as ip:
            ip.neigh(command, ifindex=socket.if_nametoindex(box.device), dst=dst, **what)

    box.run(call)


def up_again(box: testing.Sandbox) -> None:
    def is_up() -> bool:
        with pyroute2.IPRoute() as ip:
            (found,) = ip.get_links(socket.if_nametoindex(box.device))
            return bool(found.get_attr("IFLA_OPERSTATE") == "UP")

    link(box, "set", state="up")
    assert wait_until(lambda: box.run(is_up))


def finished(s: uringzc.Scheduler, count: int) -> list[int]:
    """The results of all requests: each has completed and notified once."""
    done = sorted(s.reap_completions(wait=count, timeout=10))
    assert [each.user_data for each in done] == list(range(count))
    notified = s.reap_notifications(wait=count, timeout=10)
    assert sorted(n.sequence for n in notified) == list(range(count))
    assert sum(n.failed for n in notified) == sum(each.result < 0 for each in done)
    assert (s.stats.in_flight, s.stats.held, s.stats.stray, frames_in_use(s)) == (0, 0, 0, 0)
    return [each.result for each in done]


def three(s: uringzc.Scheduler, sock: socket.socket, change: Callable[[], None]) -> list[int]:
    """The results of 20 requests that are in flight at the change, 20 that are queued, and 20 after it."""
    for i in range(60):
        if i == 20:
            s.submit()
        if i == 40:
            change()
        s.send(sock, datagram(i, 1000), user_data=i, flush=True)
    s.submit()
    return finished(s, 60)


@frame_engines
@pytest.mark.parametrize("gone", ["down", "deleted"])
def test_a_device_goes_down_or_away(net: testing.Hold, gone: str) -> None:
    """What the gate holds is dropped with its queue, what comes later fails, and says of what."""
    with net.receiver_socket(), net.socket() as sock, scheduler(net) as s:
        sock.connect(net.address)
        net.stop()
        results = three(
            s, sock, lambda: link(net, "set", state="down") if gone == "down" else link(net, "del")
        )
        assert results[:20] == [1000] * 20
        assert {*results[20:]} <= {-errno.ENETDOWN, -errno.ENETUNREACH, -errno.ENXIO, -errno.ENODEV}


@frame_engines
def test_a_device_that_came_up_again_is_used_again(net: testing.Hold) -> None:
    with net.receiver_socket() as rx, net.socket() as sock, scheduler(net) as s:
        rx.settimeout(10)
        sock.connect(net.address)
        send_all(s, sock, [b"before"])
        link(net, "set", state="down")
        send_all(s, sock, [b"while it is down"])
        up_again(net)
        send_all(s, sock, [b"after"])
        assert [done.result > 0 for done in s.reap_completions(wait=3)] == [True, False, True]
        assert received(rx, 2) == [b"before", b"after"]
        s.drain()


@frame_engines
def test_a_sender_reports_a_device_that_is_down_and_goes_on(net: testing.Hold) -> None:
    reported: list[uringzc.SendError] = []
    with (
        net.receiver_socket() as rx,
        udp_sender(net, max_delay=None, on_error=reported.append) as s,
    ):
        rx.settimeout(10)
        s.send(b"before")
        s.flush()
        assert received(rx, 1) == [b"before"]
        link(net, "set", state="down")
        s.send(b"while it is down")
        s.flush()
        s.drain(10)
        assert {error.errno for error in reported} <= {errno.ENETDOWN, errno.ENETUNREACH, errno.ENXIO}
        assert reported
        assert s.stats.lost == 1
        up_again(net)
        s.send(b"after")
        s.flush()
        assert received(rx, 1) == [b"after"]


@frame_engines
def test_a_sender_whose_device_is_deleted_ends(net: testing.Hold) -> None:
    """Trains that the gate holds, leases, what waits: all is lost or sent, once, and nothing stays held."""
    reported: list[uringzc.SendError] = []
    notified: list[uringzc.Notification] = []
    with (
        net.receiver_socket() as rx,
        udp_sender(net, max_delay=None, on_error=reported.append, notify=notified.append) as s,
    ):
        rx.settimeout(10)
        s.send(b"first")
        s.flush().wait(10)
        free = s._arena.free
        net.stop()
        for i in range(300):
            s.send(datagram(i, 1200))
        held = s.flush()
        leases = [s.lease(1000) for _ in range(4)]
        for i in range(300):
            s.send(datagram(i, 1000))
        link(net, "del")
        for lease in leases:
            lease.send()
        s.flush()
        s.drain(10)
        assert held.done
        assert reported
        assert s.stats.in_flight == 0
        assert s._arena.free >= free - (64 << 10)
        assert received(rx, 1) == [b"first"]
        assert sum(n.requests for n in notified) == s.stats.requests


@frame_engines
def test_a_forgotten_neighbour_is_asked_for(net: testing.Hold) -> None:
    with net.receiver_socket() as rx, net.socket() as sock, scheduler(net) as s:
        rx.settimeout(10)
        sock.connect(net.address)
        send_all(s, sock, [b"before"])
        net.forget_neighbour()
        follow(s)
        send_all(s, sock, [b"%d" % i for i in range(10)])
        assert received(rx, 11) == [b"before", *(b"%d" % i for i in range(10))]
        s.drain()
        assert all(done.result > 0 for done in s.reap_completions(wait=11))
        assert wait_until(lambda: leaves_as_a_frame(s, sock))


@frame_engines
def test_a_neighbour_with_another_mac_gets_the_frames(net: testing.Hold) -> None:
    """Some milliseconds after the kernel knows it: until then frames leave as before."""
    with (
        net.receiver_socket() as rx,
        net.socket() as sock,
        Capture(net.peer) as capture,
        scheduler(net) as s,
    ):
        rx.settimeout(10)
        sock.connect(net.address)
        send_all(s, sock, [b"before"])
        assert received(rx, 1) == [b"before"]
        link(net.peer, "set", address=OTHER_MAC)
        neighbour(net, "replace", FAR.ip, lladdr=OTHER_MAC, state="permanent")
        while not is_readable(rx.fileno()):
            send_all(s, sock, [b"after"])
            s.drain()
        assert received(rx, 1) == [b"after"]
        s.drain()
        frames = capture.take(int(s.stats.requests), is_udp_to(testing.PORT))
        macs = [frame[:6].hex(":") for frame in frames]
        assert macs == sorted(macs)
        assert (macs[0], macs[-1]) == (FAR.mac, OTHER_MAC)


@frame_engines
def test_a_neighbour_that_cannot_be_found(net: testing.Hold) -> None:
    """While the kernel asks for it, what is sent waits in the kernel; then its result says so."""
    with net.socket() as sock, scheduler(net) as s:
        sock.connect(NOBODY)
        for i in range(10):
            s.send(sock, datagram(i, 100), user_data=i, flush=True)
            s.submit()
        assert set(finished(s, 10)) <= {100, -errno.EHOSTUNREACH}
        neighbour(net, "replace", NOBODY[0], state="failed")
        send_all(s, sock, [b"x"])
        assert s.reap_completions(wait=1, timeout=10)[0].result in (1, -errno.EHOSTUNREACH)
        neighbour(net, "replace", NOBODY[0], lladdr=FAR.mac, state="permanent")
        with Capture(net.peer) as capture:
            send_all(s, sock, [b"found"])
            (frame,) = capture.take(1, lambda frame: frame.endswith(b"found"))
        assert frame[:12].hex(":") == f"{FAR.mac}:{NEAR.mac}"
        s.drain(10)


@frame_engines
def test_a_datagram_above_the_mtu_is_refused(net: testing.Hold) -> None:
    with net.receiver_socket() as rx, net.socket() as sock, scheduler(net) as s:
        rx.settimeout(10)
        sock.connect(net.address)
        for i, size in enumerate((1472, 1473, 65507, 100)):
            s.send(sock, datagram(i, size), user_data=i, flush=True)
        s.submit()
        assert finished(s, 4) == [1472, -errno.EMSGSIZE, -errno.EMSGSIZE, 100]
        assert received(rx, 2) == [datagram(0, 1472), datagram(3, 100)]


@frame_engines
def test_a_sender_reports_a_datagram_above_the_mtu(net: testing.Hold) -> None:
    """No fragments leave through the socket, and those around it arrive in their order."""
    reported: list[uringzc.SendError] = []
    with (
        net.receiver_socket() as rx,
        udp_sender(net, max_delay=None, on_error=reported.append) as s,
    ):
        rx.settimeout(10)
        for i, size in enumerate((100, 1472, 1473, 3900, 200)):
            s.send(datagram(i, size))
            s.flush()
        s.drain(10)
        assert [(error.errno, error.size) for error in reported] == [
            (errno.EMSGSIZE, 1473),
            (errno.EMSGSIZE, 3900),
        ]
        assert received(rx, 3) == [datagram(0, 100), datagram(1, 1472), datagram(4, 200)]
        assert (s.stats.lost, s.stats.syscalls) == (2, 0)


@only_packet
def test_trains_above_a_frame_or_the_kernels_limits_are_refused(net: testing.Hold) -> None:
    with net.receiver_socket() as rx, net.socket() as sock, scheduler(net) as s:
        rx.settimeout(10)
        sock.connect(net.address)
        for i, (size, segment) in enumerate(((10_000, 1473), (1290, 10), (1280, 10), (65_507, 1400))):
            s.send(sock, datagram(i, size), segment=segment, user_data=i, flush=True)
        s.submit()
        assert finished(s, 4) == [-errno.EMSGSIZE, -errno.EINVAL, 1280, 65_507]
        assert b"".join(received(rx, 128 + 47)) == datagram(2, 1280) + datagram(3, 65_507)


@frame_engines
def test_the_mtu_is_lowered_under_what_is_queued(net: testing.Hold) -> None:
    """What was queued may be dropped on its way; what is sent then is refused."""
    with net.receiver_socket(), net.socket() as sock, scheduler(net) as s:
        sock.connect(net.address)
        results = []
        for i in range(20):
            if i == 10:
                net.set_mtu(1280)
                s.submit()
                follow(s)
            s.send(sock, datagram(i, 1400), user_data=i, flush=True)
        s.submit()
        results = finished(s, 20)
        assert set(results[:10]) <= {1400, -errno.EMSGSIZE}
        assert results[10:] == [-errno.EMSGSIZE] * 10
        send_all(s, sock, [datagram(0, 1252)])
        assert s.reap_completions(wait=1)[0].result == 1252
        net.set_mtu(1500)
        follow(s)
        send_all(s, sock, [datagram(0, 1400)])
        assert s.reap_completions(wait=1)[0].result == 1400
        s.drain(10)


@frame_engines
def test_a_socket_that_is_closed_fails_what_is_queued(net: testing.Hold) -> None:
    with net.receiver_socket() as rx, net.socket() as other, scheduler(net) as s:
        rx.settimeout(10)
        sock = net.socket()
        sock.connect(net.address)
        other.connect(net.address)
        for i in range(5):
            s.send(sock, b"sent", user_data=i, flush=True)
        s.submit()
        for i in range(5, 10):
            s.send(sock, b"queued", user_data=i, flush=True)
        s.send(other, b"other", user_data=10, flush=True)
        sock.close()
        s.submit()
        assert finished(s, 11) == [4] * 5 + [-errno.EBADF] * 5 + [5]
        assert received(rx, 6) == [b"sent"] * 5 + [b"other"]


@frame_engines
def test_the_network_namespace_goes_away(net: testing.Hold) -> None:
    """The engine's sockets keep the sender's, but not the receiver's, and with that the device goes."""
    with net.socket() as sock, scheduler(net) as s:
        sock.connect(net.address)
        for i in range(5):
            s.send(sock, b"sent", user_data=i, flush=True)
        s.submit()
        net.peer.close()
        net.close()
        for i in range(5, 10):
            s.send(sock, b"later", user_data=i, flush=True)
        s.submit()
        assert finished(s, 10)[:5] == [4] * 5
