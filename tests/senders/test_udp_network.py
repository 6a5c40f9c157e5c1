"""UdpSender on networks that are slow, cold, narrow, without offloads, full, or without a receiver."""

import errno
import itertools
import socket
import struct
import threading
from collections.abc import Callable

import pytest
from marks import only_io_uring

import uringzc
from uringzc import testing

pytestmark = testing.requires("net_admin")

SIZE = 1400
Setup = Callable[[testing.Hold], object]


def numbered(number: int, size: int = SIZE) -> bytes:
    return struct.pack("<I", number).ljust(size, b"\xa5")


def numbers(datagrams: list[bytes]) -> list[int]:
    return [struct.unpack_from("<I", datagram)[0] for datagram in datagrams]


def inversions(came: list[int]) -> int:
    return sum(before > after for before, after in itertools.pairwise(came))


def sender(box: testing.Hold, **options: object) -> uringzc.UdpSender:
    return box.run(lambda: uringzc.UdpSender(box.address, **options))  # type: ignore[arg-type]


#: how each request leaves, and what spoils the network for it
SLOW: dict[str, tuple[str, Setup, int]] = {
    "zero-copy": ("always", lambda box: None, SIZE),
    "copying": ("never", lambda box: None, SIZE),
    "auto": ("auto", lambda box: None, SIZE),
    "without checksum offload": ("always", lambda box: box.offload(checksum=False), SIZE),
    "without scatter-gather": ("always", lambda box: box.offload(scatter_gather=False), SIZE),
    "without segmentation": ("always", lambda box: box.offload(segmentation=False), SIZE),
    "above the MTU": ("always", lambda box: None, 4000),
}


@pytest.mark.uninstrumented("the program is slower than the network")
@pytest.mark.slow
@pytest.mark.parametrize("how", SLOW)
def test_order_is_kept_where_the_network_is_slower_than_the_program(net: testing.Hold, how: str) -> None:
    zero_copy, setup, size = SLOW[how]
    setup(net)
    count = 6000 if size == SIZE else 600
    with testing.receiver(sock=net.receiver_socket()) as rx, net.socket() as sock:
        sock.connect(net.address)
        with uringzc.UdpSender(sock=sock, zero_copy=zero_copy) as tx:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 106_496)  # what everybody has
            for number in range(count):
                tx.send(numbered(number, size))
                if number == count // 2:
                    assert tx.stats.waits > 0  # the socket was full
                    net.release()
            tx.flush()
            assert numbers(rx.wait(count)) == list(range(count))
            assert (tx.stats.reordered, tx.stats.resent, tx.stats.lost) == (0, 0, 0)


@only_io_uring
def test_control_without_admission_order_is_lost(net: testing.Hold) -> None:
    """The same network and socket, sent through a Scheduler: poll-armed requests overtake each other."""
    count = 2000
    with testing.receiver(sock=net.receiver_socket()) as rx, net.socket() as sock:
        sock.connect(net.address)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 100_000)  # whatever wmem_default is
        with uringzc.Scheduler(completions="none") as s:
            for number in range(count):
                s.send(sock, numbered(number), zero_copy=False)
            net.release()
            s.drain(20)
            assert inversions(numbers(rx.wait(count))) > 0


def test_a_socket_buffer_smaller_than_a_datagram_loses_nothing(net: testing.Hold) -> None:
    with testing.receiver(sock=net.receiver_socket()) as rx, net.socket() as sock:
        sock.connect(net.address)
        with uringzc.UdpSender(sock=sock) as tx:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the kernel makes it 4608
            for number in range(200):
                tx.send(numbered(number))
            tx.flush()
            assert tx.stats.sndbuf < 5000
            assert numbers(rx.wait(200)) == list(range(200))


def let_in_later(box: testing.Hold) -> threading.Timer:
    timer = threading.Timer(0.05, box.release)
    timer.start()
    return timer


def test_a_cold_neighbour_loses_nothing(net: testing.Hold) -> None:
    count = 880
    with testing.receiver(sock=net.receiver_socket()) as rx, sender(net) as tx:
        net.stop()
        net.forget_neighbour()
        release = let_in_later(net)  # the answer of the neighbour takes its time
        for number in range(count):
            tx.send(numbered(number))
        tx.flush()
        release.join()
        assert numbers(rx.wait(count)) == list(range(count))
        assert tx.stats.waits > 0


def test_control_a_cold_neighbour_swallows_a_burst(net: testing.Hold) -> None:
    count = 880
    with testing.receiver(sock=net.receiver_socket()) as rx, net.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, 32, 16 << 20)  # SO_SNDBUFFORCE
        sock.connect(net.address)
        net.stop()
        net.forget_neighbour()
        for number in range(count):
            sock.send(numbered(number))
        net.release()
        sock.send(numbered(count))
        came: list[int] = []
        while count not in came:
            came = numbers(rx.wait(len(came) + 1))
        assert len(came) < count // 2


@pytest.mark.uninstrumented("no train is made of datagrams between which are pauses")
@pytest.mark.parametrize("zero_copy", ["always", "never"])
def test_an_mtu_below_the_segment_sends_single_datagrams(net: testing.Hold, zero_copy: str) -> None:
    """On a socket that is not connected nothing is known of the path before the first train."""
    net.set_mtu(1300)
    net.release()
    with (
        testing.receiver(sock=net.receiver_socket()) as rx,
        net.socket() as sock,
        uringzc.UdpSender(net.address, sock=sock, zero_copy=zero_copy) as tx,
    ):
        for number in range(300):
            tx.send(numbered(number))
        tx.flush()
        rx.wait(300)
        assert tx.stats.unsegmented >= 1
        for number in range(300, 400):
            tx.send(numbered(number, 1200))  # these fit, and go in trains again
        before = tx.stats.requests
        tx.flush()
        assert numbers(rx.wait(400)) == list(range(400))
        assert tx.stats.requests - before <= 3
        assert tx.stats.reordered == 0


def test_an_mtu_that_shrinks_while_trains_are_in_flight_loses_nothing(net: testing.Hold) -> None:
    with testing.receiver(sock=net.receiver_socket()) as rx, sender(net) as tx:
        tx.send(numbered(0))
        tx.flush()
        rx.wait(1)
        net.stop()
        for number in range(1, 2000):
            tx.send(numbered(number))
            if number == 1000:
                net.set_mtu(1300)
        net.release()
        tx.flush()
        assert numbers(rx.wait(2000)) == list(range(2000))
        assert tx.stats.unsegmented >= 1
        assert tx.stats.lost == 0


def test_icmp_errors_are_reported_and_fail_no_datagram(net: testing.Hold) -> None:
    """Also where others are to get datagrams of the same sender."""
    errors: list[uringzc.SendError] = []
    net.release()
    with (
        testing.receiver(sock=net.receiver_socket()) as rx,
        net.socket() as sock,
        uringzc.UdpSender(net.address, sock=sock, on_error=errors.append) as tx,
    ):
        sock.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR: else only a connected socket gets it
        nobody = (net.address[0], 9)
        for number in range(1000):
            tx.send(numbered(number))
            tx.sendto(b"?", nobody)
        tx.flush()
        assert sorted(numbers(rx.wait(1000))) == list(range(1000))
        while not errors:  # the answers come when they come
            tx.sendto(b"?", nobody)
            tx.flush()
        assert {error.errno for error in errors} == {errno.ECONNREFUSED}
        assert tx.stats.lost == 0


def test_a_connected_socket_raises_connection_refused(net: testing.Hold) -> None:
    net.release()
    tx = net.run(lambda: uringzc.UdpSender((net.address[0], 9)))

    def send_until_told() -> None:
        while True:
            tx.send(b"?")
            tx.flush()

    with pytest.raises(uringzc.SendError) as caught:
        send_until_told()
    assert caught.value.errno == errno.ECONNREFUSED
    assert caught.value.to == (net.address[0], 9)
    tx.close()


@pytest.mark.parametrize("zero_copy", ["always", "never"])
def test_a_full_queue_is_reported_for_each_lost_datagram(net: testing.Hold, zero_copy: str) -> None:
    """Full, it refuses: each datagram arrives, or is reported."""
    net.limit(100_000)
    net.release()
    errors: list[uringzc.SendError] = []
    count = 2000
    with (
        testing.receiver(sock=net.receiver_socket()) as rx,
        sender(net, on_error=errors.append, zero_copy=zero_copy) as tx,
    ):
        for number in range(count):
            tx.send(numbered(number))
        tx.flush()
        came = numbers(rx.wait(count - len(errors)))
        reported = [error.index for error in errors]
        assert sorted(came + reported) == list(range(count))
        assert tx.stats.resent > 0
        assert tx.stats.lost == len(errors)


def test_control_the_tiny_limit_drops_in_silence(net: testing.Hold) -> None:
    net.limit(100_000)
    count = 2000
    with testing.receiver(sock=net.receiver_socket()) as rx, net.socket() as sock:
        sock.connect(net.address)
        net.stop()
        for number in range(count):
            sock.send(numbered(number))
        net.release()
        net.limit()
        sock.send(numbered(count))
        came: list[int] = []
        while count not in came:
            came = numbers(rx.wait(len(came) + 1))
        assert len(came) < count
