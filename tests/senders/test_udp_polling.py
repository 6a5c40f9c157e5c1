"""Senders that do not wait: fileno() is readable when a call is worth a try, and not while it is not."""

import select
import socket
import threading
from contextlib import suppress
from typing import NamedTuple

import pytest
from marks import zero_copy_engines
from traffic import is_readable, stopped, wait_readable, warm_up

from uringzc import SendError, UdpSender, testing

pytestmark = testing.requires("net_admin")

SIZE = 1400
IP_RECVERR = 11


class Came(NamedTuple):
    sends: int
    wake_ups: int


def numbered(number: int) -> bytes:
    return number.to_bytes(4, "little").ljust(SIZE, b"\xa5")


def send_all(tx: UdpSender, count: int, fileno: int | None = None) -> Came:
    """As a program with an event loop sends: where a call would wait, it polls and tries again."""
    poll = select.poll()
    poll.register(tx.fileno() if fileno is None else fileno, select.POLLIN)
    sends = wake_ups = 0
    while sends < count or tx.stats.waiting:
        try:
            if sends < count:
                tx.send(numbered(sends))
                sends += 1
            else:
                tx.flush()
        except BlockingIOError:
            assert poll.poll(20_000), "the descriptor never became readable"
            wake_ups += 1
    return Came(sends, wake_ups)


def later(box: testing.Hold) -> threading.Timer:
    timer = threading.Timer(0.05, box.release)
    timer.start()
    return timer


def polling(box: testing.Hold, **options: object) -> UdpSender:
    return box.run(
        lambda: UdpSender(box.address, blocking=False, max_delay=None, **options)  # type: ignore[arg-type]
    )


def idle(tx: UdpSender) -> bool:
    """Nothing is in flight, and its descriptor does not say that there is something to do."""
    tx.drain(5)
    return not is_readable(tx.fileno())


@pytest.mark.slow
@pytest.mark.parametrize("zero_copy", ["auto", "always"])
@pytest.mark.parametrize("answers", ["late", "never"])
def test_a_cold_destination_wakes_the_program_when_a_datagram_arrived(
    net: testing.Hold, answers: str, zero_copy: str
) -> None:
    """Woken when the first datagram has left, or when that was waited for long enough."""
    count = 880
    with testing.receiver(sock=net.receiver_socket()) as rx, polling(net, zero_copy=zero_copy) as tx:
        net.stop()
        net.forget_neighbour()
        release = later(net) if answers == "late" else None
        came = send_all(tx, count)
        assert 0 < came.wake_ups <= 20, came
        if release:
            release.join()
            assert rx.wait(count) == [numbered(number) for number in range(count)]
        else:
            net.release()
        assert idle(tx)


def test_control_a_socket_that_has_room_is_always_writable(net: testing.Hold) -> None:
    """What a program gets that polls the socket itself, as fileno() did."""
    count = 880
    with testing.receiver(sock=net.receiver_socket()), polling(net) as tx, select.epoll() as poll:
        poll.register(tx._sock, select.EPOLLOUT)
        net.stop()
        net.forget_neighbour()
        release = later(net)
        assert send_all(tx, count, poll.fileno()).wake_ups > 100
        release.join()


def check_held_back(net: testing.Hold, rx: testing.Receiver, tx: UdpSender, count: int) -> None:
    """So many datagrams, which find no room until the network delivers: each wake-up is progress."""
    net.stop()
    release = later(net)
    came = send_all(tx, count)
    assert 0 < came.wake_ups <= 2 * tx.stats.requests, came
    release.join()
    assert rx.wait(count + 1)[1:] == [numbered(number) for number in range(count)]
    assert idle(tx)


@pytest.mark.parametrize("zero_copy", ["always", "never"])
def test_a_full_socket_wakes_the_program_when_there_is_room(net: testing.Hold, zero_copy: str) -> None:
    count = 3000
    with (
        testing.receiver(sock=net.receiver_socket()) as rx,
        net.socket() as sock,
        UdpSender(net.address, sock=sock, blocking=False, max_delay=None, zero_copy=zero_copy) as tx,
    ):
        warm_up(tx, rx)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 106_496)
        check_held_back(net, rx, tx, count)


@zero_copy_engines
def test_a_full_arena_wakes_the_program_when_there_is_room(net: testing.Hold) -> None:
    count = 1000
    with (
        testing.receiver(sock=net.receiver_socket()) as rx,
        polling(net, zero_copy="always", arena=256 << 10) as tx,
    ):
        warm_up(tx, rx)
        check_held_back(net, rx, tx, count)


def test_a_batch_of_which_a_part_has_left_takes_more(net: testing.Hold) -> None:
    """The first train has left, and is waited for; the program may go on until there are 48 behind it, and
    one that is open."""
    with testing.receiver(sock=net.receiver_socket()), polling(net) as tx:
        net.stop()
        net.forget_neighbour()
        with suppress(BlockingIOError):
            for size in range(1, 100):  # a longer one begins a train of its own
                tx.send(bytes(size))
        assert (tx.stats.datagrams, tx.stats.waiting) == (50, 49)
        net.release()


@zero_copy_engines
def test_memory_that_comes_back_while_a_cold_destination_is_awaited(net: testing.Hold) -> None:
    """It wakes the program, once, and says nothing of the destination."""
    nobody = testing.devices.End("10.0.0.77", "fd00::77", "")  # of this network
    with testing.receiver(sock=net.receiver_socket()) as rx, polling(net, zero_copy="always") as tx:
        for count in (1, 2):  # the second finds out that the first has arrived
            tx.send(b"warm")
            tx.flush()
            rx.wait(count)
        net.stop()
        tx.send(numbered(0), (nobody.ip, 9))
        tx.flush()
        tx.send(numbered(1))
        tx.flush()
        tx.send(numbered(2), (nobody.ip, 9))
        with pytest.raises(BlockingIOError):
            tx.flush()
        assert not is_readable(tx.fileno())
        net.release()
        rx.wait(3)
        assert send_all(tx, 0).wake_ups <= 5
        net.run(lambda: testing.devices.delete_neighbours(net.device, nobody))  # and what waits for it


@zero_copy_engines
def test_drain_wakes_the_program_when_memory_is_released(net: testing.Hold) -> None:
    """Woken when memory has come back, and not while it is away."""
    with testing.receiver(sock=net.receiver_socket()) as rx, polling(net, zero_copy="always") as tx:
        warm_up(tx, rx)
        with stopped(net):
            tx.send(numbered(1))
            tx.flush()
            assert not is_readable(tx.fileno())
            with pytest.raises(BlockingIOError, match="in flight"):
                tx.drain()
            assert not is_readable(tx.fileno())
        wait_readable(tx.fileno())
        tx.drain()
        assert not is_readable(tx.fileno())
        rx.wait(2)


def test_errors_that_the_program_has_not_read_wake_nobody(net: testing.Hold) -> None:
    """The error queue of its socket is the program's: to poll, it is an event for as long as that likes."""
    net.release()
    reported: list[SendError] = []
    with (
        net.socket() as sock,
        testing.receiver(sock=net.receiver_socket()) as rx,
        UdpSender(
            net.address,
            sock=sock,
            blocking=False,
            max_delay=None,
            zero_copy="never",
            on_error=reported.append,
        ) as tx,
        select.epoll() as plain,
    ):
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        sock.sendto(b"?", (net.address[0], 9))
        plain.register(sock, 0)
        assert plain.poll(20)
        tx.send(b"x")
        tx.flush()
        rx.wait(1)
        assert not is_readable(tx.fileno())
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
        with stopped(net):
            with suppress(BlockingIOError):
                while True:
                    tx.send(numbered(0))
            assert not is_readable(tx.fileno())
            assert plain.poll(0)  # the control: still unread
        wait_readable(tx.fileno())
        send_all(tx, 0)
        assert idle(tx)


def test_a_call_that_succeeds_takes_nothing_from_one_that_waits(net: testing.Hold) -> None:
    """A program of several tasks: while one is to flush, others send what still finds place."""
    with polling(net) as tx, testing.receiver(sock=net.receiver_socket()) as rx:
        net.stop()
        net.forget_neighbour()
        for number in range(3):
            with suppress(BlockingIOError):
                tx.send(numbered(number))
                tx.flush()
        assert tx.stats.waiting == 2
        tx.send(numbered(3))
        net.release()
        wait_readable(tx.fileno())
        tx.flush()
        assert rx.wait(4) == [numbered(number) for number in range(4)]
        assert idle(tx)


def test_a_flush_that_was_refused_wakes_the_program_although_more_was_taken_then(net: testing.Hold) -> None:
    """A send that is taken does not end the wait of the flush before it."""
    with net.socket() as sock, testing.receiver(sock=net.receiver_socket()) as rx:
        sock.connect(net.address)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 << 10)
        with UdpSender(sock=sock, blocking=False, max_delay=None, sndbuf=None, on_waiting=lambda: None) as tx:
            net.stop()
            count = 0
            refused = False
            while not refused:
                tx.send(numbered(count))
                count += 1
                if count % 20 == 0:
                    try:
                        tx.flush()
                    except BlockingIOError:
                        refused = True
            for _ in range(120):  # some trains
                tx.send(numbered(count))
                count += 1
            net.release()
            while tx.stats.waiting:
                wait_readable(tx.fileno())
                with suppress(BlockingIOError):
                    tx.flush()
            rx.wait(count)
