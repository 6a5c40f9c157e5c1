"""Sockets, destinations and devices that take turns in one ring: each datagram leaves by its own path."""

import errno
import socket
import struct
from collections.abc import Iterator

import pytest
from frame_tools import Capture, is_udp_to, leaves_as_a_frame, scheduler, send_all, udp_port
from marks import frame_engines, only_packet
from traffic import datagram, received

import uringzc
from uringzc import testing
from uringzc.testing.devices import FAR, NEAR, End, bring_up

pyroute2 = pytest.importorskip("pyroute2")
NEAR2 = NEAR._replace(ip="10.0.2.1", ip6="fd02::1")
FAR2 = FAR._replace(ip="10.0.2.2", ip6="fd02::2")
TAG = 5


@pytest.fixture
def second(net: testing.Hold) -> Iterator[socket.socket]:
    """A receiver behind a second device, veth1, which has no gate."""
    far = {"ifname": "veth1", "address": FAR.mac, "net_ns_fd": net.peer.fd}
    net.run(lambda: bring_up("veth1", NEAR2, FAR2, kind="veth", address=NEAR.mac, peer=far))
    net.peer.run(lambda: bring_up("veth1", FAR2, NEAR2))
    with net.peer.socket() as rx:
        rx.bind((FAR2.ip, testing.PORT))
        rx.settimeout(10)
        yield rx


@pytest.fixture
def tagged(net: testing.Hold) -> Iterator[socket.socket]:
    """A receiver behind a VLAN of the device."""
    name = f"veth0.{TAG}"

    def make(here: End, there: End) -> None:
        bring_up(name, here, there, kind="vlan", link=socket.if_nametoindex("veth0"), vlan_id=TAG)

    try:
        net.run(lambda: make(NEAR2, FAR2))
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        pytest.skip("needs VLAN devices, which this kernel does not have (CONFIG_VLAN_8021Q)")
    net.peer.run(lambda: make(FAR2, NEAR2))
    with net.peer.socket() as rx:
        rx.bind((FAR2.ip, testing.PORT))
        rx.settimeout(10)
        yield rx


@only_packet
def test_devices_take_turns_in_one_ring(net: testing.Hold, second: socket.socket) -> None:
    with net.receiver_socket() as first, net.socket() as tx, scheduler(net) as s:
        first.settimeout(10)
        sent: dict[End, list[bytes]] = {FAR: [], FAR2: []}
        for i in range(90):
            to = FAR if i // (1 + i % 3) % 2 else FAR2
            sent[to].append(datagram(i, 100 + i))
            s.send(tx, sent[to][-1], to=(to.ip, testing.PORT), flush=True)
        s.submit()
        assert received(first, len(sent[FAR])) == sent[FAR]
        assert received(second, len(sent[FAR2])) == sent[FAR2]
        assert {n.failed for n in s.reap_notifications(wait=90)} == {0}


@only_packet
def test_a_device_that_is_held_does_not_hold_the_other(net: testing.Hold, second: socket.socket) -> None:
    with net.receiver_socket() as first, net.socket() as tx, scheduler(net) as s:
        first.settimeout(10)
        net.stop()
        for i in range(40):
            s.send(tx, datagram(i, 1000), to=((FAR, FAR2)[i % 2].ip, testing.PORT), user_data=i, flush=True)
        s.submit()
        assert received(second, 20) == [datagram(i, 1000) for i in range(1, 40, 2)]
        assert s.stats.in_flight >= 20
        net.release()
        assert received(first, 20) == [datagram(i, 1000) for i in range(0, 40, 2)]
        assert len(s.reap_notifications(wait=40)) == 40


@only_packet
def test_a_device_that_is_down_does_not_fail_the_other(net: testing.Hold, second: socket.socket) -> None:
    def down() -> None:
        with pyroute2.IPRoute() as ip:
            ip.link("set", index=socket.if_nametoindex("veth0"), state="down")

    with net.receiver_socket(), net.socket() as tx, scheduler(net) as s:
        for i in range(30):
            s.send(tx, datagram(i, 1000), to=((FAR, FAR2)[i % 2].ip, testing.PORT), user_data=i, flush=True)
        net.run(down)  # they are queued
        s.submit()
        results = [done.result for done in sorted(s.reap_completions(wait=30))]
        assert received(second, 15) == [datagram(i, 1000) for i in range(1, 30, 2)]
        assert results[1::2] == [1000] * 15
        assert {*results[::2]} <= {-errno.ENETDOWN, -errno.ENXIO, -errno.ENETUNREACH}
        assert len(s.reap_notifications(wait=30)) == 30


@frame_engines
def test_a_vlan_device_tags_the_frames(net: testing.Hold, tagged: socket.socket) -> None:
    with net.socket() as tx, Capture(net.peer) as capture, scheduler(net) as s:
        tx.connect((FAR2.ip, testing.PORT))
        send_all(s, tx, [datagram(i, size) for i, size in enumerate((0, 100, 1472))])
        assert received(tagged, 3) == [datagram(i, size) for i, size in enumerate((0, 100, 1472))]
        assert leaves_as_a_frame(s, tx)
        frames = capture.take(3, is_udp_to(testing.PORT))
        addresses = bytes.fromhex((FAR.mac + NEAR.mac).replace(":", ""))
        assert {frame[:18] for frame in frames} == {addresses + struct.pack("!HHH", 0x8100, TAG, 0x0800)}
        s.drain()


@frame_engines
def test_many_destinations_of_one_socket(box: testing.Hold) -> None:
    """Thousands of paths over one neighbour, and each datagram to its port."""
    ports = range(20_000, 23_000)
    with box.socket() as tx, Capture(box.peer) as capture, scheduler(box, completions="failed") as s:
        for start in range(ports.start, ports.stop, 50):
            for port in range(start, start + 50):
                s.send(tx, b"%5d" % port, to=(FAR.ip, port), flush=True)
            s.drain()
            frames = capture.take(50, is_udp_to(*range(start, start + 50)))
            assert [udp_port(frame) for frame in frames] == list(range(start, start + 50))
            assert [int(frame[42:47]) for frame in frames] == list(range(start, start + 50))
        assert s.stats.failed == 0


@frame_engines
def test_a_socket_that_is_connected_again_sends_to_its_new_peer(box: testing.Hold) -> None:
    with (
        box.receiver_socket() as one,
        box.receiver_socket(port=9001) as two,
        box.socket() as tx,
        scheduler(box) as s,
    ):
        for rx in (one, two):
            rx.settimeout(10)
        for i in range(6):
            tx.connect((box.address[0], 9000 + i % 2))
            send_all(s, tx, [b"%d" % i])
        assert received(one, 3) == [b"0", b"2", b"4"]
        assert received(two, 3) == [b"1", b"3", b"5"]
        s.drain()


@frame_engines
def test_a_descriptor_that_is_used_again_has_the_path_of_its_new_socket(
    box: testing.Hold, rx: socket.socket
) -> None:
    """Its source is another port, and another socket gets the answers."""
    with scheduler(box) as s:
        seen = []
        for i in range(5):
            with box.socket() as tx:
                tx.connect(box.address)
                number = tx.fileno()
                send_all(s, tx, [b"%d" % i])
                s.drain()
                data, sender = rx.recvfrom(100)
                assert (data, sender) == (b"%d" % i, tx.getsockname())
                seen.append((number, sender))
        assert len({sender for _, sender in seen}) > 1


@frame_engines
def test_an_address_without_a_route_is_an_error(net: testing.Hold) -> None:
    reported: list[uringzc.SendError] = []
    with net.socket() as tx, scheduler(net) as s:
        s.send(tx, b"x", to=("192.0.2.1", 9), flush=True)
        s.send(tx, b"x", to=("255.255.255.255", 9), flush=True)
        s.submit()
        results = [done.result for done in s.reap_completions(wait=2)]
        assert results[0] == -errno.ENETUNREACH
        assert results[1] in (-errno.EACCES, -errno.ENETUNREACH)
        assert [n.failed for n in s.reap_notifications(wait=2)] == [1, 1]
    with net.run(lambda: uringzc.UdpSender(on_error=reported.append, max_delay=None)) as sender:
        sender.send(b"x", ("192.0.2.1", 9))
        sender.flush()
        sender.drain()
        # and once for the socket's error queue, as with the other engines
        assert [error.errno for error in reported if error.size] == [errno.ENETUNREACH]
