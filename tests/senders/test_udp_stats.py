"""What stats and explain() say of the trains that have left, and of what waits and why."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from traffic import sender_without_timer, stopped, wait_until, warm_up

from uringzc import UdpSender, UdpStats, testing
from uringzc.kernel.features import max_segments

SIZE = 1400
NONE = dict.fromkeys((1, 2, 4, 8, 16, 32, 64, 128), 0)


def numbered(number: int) -> bytes:
    return number.to_bytes(4, "little").ljust(SIZE, b"\xa5")


@contextmanager
def sender_into(net: testing.Hold, **options: Any) -> Iterator[tuple[UdpSender, testing.Receiver]]:
    """A sender whose socket is not connected, and the receiver."""
    with (
        testing.receiver(sock=net.receiver_socket()) as rx,
        net.socket() as sock,
        UdpSender(net.address, sock=sock, max_delay=None, **options) as tx,
    ):
        yield tx, rx


# -- trains, by length


def test_nothing_has_left_yet() -> None:
    with testing.receiver() as rx, sender_without_timer(rx.sock) as tx:
        tx.send(b"waits")
        assert (tx.stats.trains, tx.stats.mean_train) == (NONE, 0.0)
        assert "Sent to" not in tx.explain()


def test_trains_are_counted_by_their_length() -> None:
    lengths = (1, 1, 2, 3, 3, 4, 7, 8, 15, 16, 31, 32, 63, max_segments())
    with testing.receiver() as rx, sender_without_timer(rx.sock) as tx:
        for length in lengths:
            tx.send_many([b"as a train"] * length)
            tx.flush()
        expected = {1: 2, 2: 3, 4: 2, 8: 2, 16: 2, 32: 2, 64: 0, 128: 0}
        expected[max_segments()] += 1
        assert tx.stats.trains == expected
        assert tx.stats.mean_train == sum(lengths) / len(lengths)
        assert len(rx.wait(sum(lengths))) == sum(lengths)
        text = tx.explain()
    assert f"Sent to 1 destination: 14 trains, of {tx.stats.mean_train:.1f} datagrams on average" in text
    assert "(2 of 1, 3 of 2 to 3, 2 of 4 to 7, " in text


def test_a_train_that_the_timer_sends_is_counted() -> None:
    with testing.receiver() as rx, UdpSender(rx.address, max_delay=0.01) as tx:
        for _ in range(50):  # the first leaves at once
            tx.send(b"late")
        rx.wait(50)
        assert wait_until(lambda: tx.stats.waiting == 0)
        assert tx.stats.syscalls > 1
        assert tx.stats.mean_train * sum(tx.stats.trains.values()) == pytest.approx(50)


def test_a_datagram_of_no_bytes_is_counted() -> None:
    with testing.receiver() as rx, sender_without_timer(rx.sock, zero_copy="always") as tx:
        for _ in range(3):
            tx.send(b"")
        tx.flush()
        rx.wait(3)
        assert (tx.stats.trains, tx.stats.mean_train) == ({**NONE, 1: 3}, 1.0)


def test_interleaved_destinations_have_a_train_each() -> None:
    with testing.receiver() as a, testing.receiver() as b, testing.receiver() as c:
        some = (a, b, c)
        with UdpSender(max_delay=None) as tx:
            for _ in range(8):
                for rx in some:
                    tx.send(b"one of eight", rx.address)
            tx.flush()
            for rx in some:
                assert len(rx.wait(8)) == 8
            assert (tx.stats.trains, tx.stats.mean_train) == ({**NONE, 8: 3}, 8.0)
            assert (
                "Sent to 3 destinations: 3 trains, of 8.0 datagrams on average (3 of 8 to 15)" in tx.explain()
            )


def test_single_datagrams_to_many_destinations_are_counted_one_by_one() -> None:
    """However many of them a system call sends."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("0.0.0.0", 0))
    with testing.receiver(sock=sock) as rx, UdpSender(max_delay=None) as tx:
        for turn in range(1, 3):
            for host in range(1, 101):
                tx.send(b"to each", (f"127.0.0.{host}", sock.getsockname()[1]))
            tx.flush()
            assert len(rx.wait(100 * turn)) == 100 * turn
            assert tx.stats.trains == {**NONE, 1: 100 * turn}
        assert (tx.stats.mean_train, tx.stats.destinations) == (1.0, 100)


def test_a_group_has_a_train_for_each_member() -> None:
    with testing.receiver() as a, testing.receiver() as b, UdpSender(max_delay=None) as tx:
        group = tx.group([a.address, b.address])
        for _ in range(5):
            group.send(b"to both")
        tx.flush()
        assert len(a.wait(5)) == len(b.wait(5)) == 5
        assert (tx.stats.trains, tx.stats.mean_train) == ({**NONE, 4: 2}, 5.0)


@testing.requires("net_admin")
def test_a_train_that_is_refused_counts_as_what_it_was_sent_as(net: testing.Hold) -> None:
    """Above the MTU no train leaves: each datagram is sent alone."""
    net.set_mtu(1300)
    net.release()
    with sender_into(net) as (tx, rx):
        tx.send_many([numbered(i) for i in range(20)])
        tx.flush()
        rx.wait(20)
        assert tx.stats.unsegmented >= 1
        assert (tx.stats.trains, tx.stats.mean_train) == ({**NONE, 1: 20}, 1.0)


# -- what waits


@pytest.mark.parametrize(("max_delay", "why"), [(3600, "max_delay"), (None, "flush")])
def test_what_gathers_waits_for_its_time(max_delay: float | None, why: str) -> None:
    with testing.receiver() as rx, UdpSender(rx.address, max_delay=max_delay) as tx:
        assert (tx.stats.waiting, tx.stats.waiting_for) == (0, "")
        for _ in range(50):  # the first leaves at once
            tx.send(b"3")
        assert tx.stats.waiting > 0
        assert tx.stats.waiting_for == why
        assert f"Waiting for {'max_delay' if max_delay else 'a flush'}" in tx.explain()
        tx.flush()
        assert (tx.stats.waiting, tx.stats.waiting_for) == (0, "")
        assert "Waiting" not in tx.explain()


def counts(stats: UdpStats) -> dict[str, int]:
    assert stats.waits == sum(stats.waited_for.values())
    return {name: times for name, times in stats.waited_for.items() if times}


@testing.requires("net_admin")
def test_what_finds_the_socket_full_waits_for_room(net: testing.Hold) -> None:
    net.release()
    with sender_into(net, sndbuf=20_000, blocking=False) as (tx, rx):
        warm_up(tx, rx)
        with stopped(net):
            with suppress(BlockingIOError):
                while True:
                    tx.send(numbered(0))
            assert tx.stats.waiting_for == "room"
            assert "Waiting for room in the socket's buffer" in tx.explain()
            assert counts(tx.stats) == {}  # no call has waited
        assert wait_until(lambda: flushed(tx))
        assert tx.stats.waiting_for == ""
        tx.send(numbered(1))
        assert tx.stats.waiting_for == "flush"  # room is there


def flushed(tx: UdpSender) -> bool:
    with suppress(BlockingIOError):
        tx.flush()
    return not tx.stats.waiting


@testing.requires("net_admin")
def test_a_call_that_waits_for_room_is_counted(net: testing.Hold) -> None:
    net.release()
    with sender_into(net, sndbuf=20_000) as (tx, rx):
        warm_up(tx, rx)
        with released_later(net):
            tx.send_many([numbered(i) for i in range(500)])
            tx.flush()
        assert list(counts(tx.stats)) == ["room"]
        assert "for room in the socket's buffer" in tx.explain()


@contextmanager
def released_later(net: testing.Hold) -> Iterator[None]:
    """Nothing arrives, for some time."""
    net.stop()
    release = threading.Timer(0.05, net.release)
    release.start()
    yield
    release.join()


@testing.requires("net_admin")
def test_what_follows_the_first_datagram_waits_for_its_arrival(net: testing.Hold) -> None:
    with sender_into(net, blocking=False) as (tx, _):
        with stopped(net):
            net.forget_neighbour()
            tx.send(numbered(0))
            tx.flush()
            tx.send(numbered(1))
            with pytest.raises(BlockingIOError):
                tx.flush()
            assert (tx.stats.waiting_for, counts(tx.stats)) == ("arrival", {})
        assert wait_until(lambda: flushed(tx))
        assert tx.stats.waiting_for == ""


@testing.requires("net_admin")
def test_a_call_that_waits_for_an_arrival_is_counted(net: testing.Hold) -> None:
    with sender_into(net) as (tx, _):
        net.forget_neighbour()
        with released_later(net):
            tx.send(numbered(0))
            tx.flush()
            tx.send(numbered(1))
            tx.flush()
        assert list(counts(tx.stats)) == ["arrival"]
        assert "for the first datagram to their destination" in tx.explain()


def test_statistics_can_be_keys() -> None:
    with testing.receiver() as rx, sender_without_timer(rx.sock) as tx:
        assert len({tx.stats, tx.stats}) == 1
        tx.send(b"x")
        assert len({tx.stats, tx.stats}) == 1
