"""When a datagram leaves: at once after a pause, in its call with max_delay=0, else with those around it.

max_delay is an hour here: what arrives without a flush has left within its call. A pause is longer than the
rule's (PAUSE, microseconds), however long the machine makes it. That a datagram behind others waits cannot be
forced, since this process may be stopped between two calls: it is tried until one does.
"""

import errno
import itertools
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Barrier

import pytest
from raising import raises_errno
from traffic import datagram, stopped, wait_until
from udp_everyone import at_each, everyone

from uringzc import BusyError, Scheduler, SendError, UdpSender, testing
from uringzc._send import UdpBatcher, late
from uringzc.senders import timer

HOUR = 3600.0
FORBIDDEN = ("255.255.255.255", 9)


def pause() -> None:
    time.sleep(0.002)


@contextmanager
def sender(**options: object) -> Iterator[tuple[UdpSender, socket.socket]]:
    """A sender that has been quiet, and a socket that it sends to."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as rx:
        rx.bind(("127.0.0.1", 0))
        rx.settimeout(5)
        testing.receiving.make_room(rx)
        options = {"max_delay": HOUR} | options
        with UdpSender(rx.getsockname(), **options) as tx:  # type: ignore[arg-type]
            pause()
            yield tx, rx


def flushed(tx: UdpSender) -> None:
    with suppress(BlockingIOError):
        tx.flush()


# -- after a pause


@pytest.mark.parametrize("blocking", [True, False])
def test_a_datagram_after_a_pause_leaves_within_its_call(blocking: bool) -> None:
    with sender(blocking=blocking) as (tx, rx):
        for i in range(20):
            data = datagram(i, (0, 10, 1200, 1473, 20_000, 65_507)[i % 6])
            assert tx.send(bytearray(data)) == len(data)
            assert rx.recv(65536) == data
            assert tx.stats.waiting == 0
            pause()
        assert tx.stats.datagrams == 20


def test_one_to_another_destination_after_a_pause_leaves_within_its_call() -> None:
    """Each is new to the sender."""
    with everyone() as all_of_them, UdpSender(max_delay=HOUR) as tx:
        for i in range(20):
            pause()
            tx.send(datagram(i, 100), all_of_them.address(i))
            assert all_of_them.receive(1) == {i: [datagram(i, 100)]}
            assert tx.stats.waiting == 0


def test_a_lease_after_a_pause_leaves_within_its_call() -> None:
    with sender() as (tx, rx):
        with tx.lease(100) as lease:
            lease.view[:] = datagram(1, 100)
            lease.send(50)
        assert rx.recv(100) == datagram(1, 100)[:50]


def test_what_follows_directly_waits_and_keeps_the_order() -> None:
    """The first leaves at once; what gathers behind it leaves when it is flushed, as a train."""
    made = [datagram(i, 5) for i in range(100)]
    with sender() as (tx, rx):
        for _ in range(1000):
            pause()
            for data in made:
                tx.send(data)
            before = tx.stats
            tx.flush()
            after = tx.stats
            assert [rx.recv(100) for _ in made] == made
            assert before.waiting < len(made)
            assert after.requests + after.syscalls - before.requests - before.syscalls <= 1
            if before.waiting:
                break
        else:
            pytest.fail("nothing ever waits")


@pytest.mark.uninstrumented("the program is slower than the network")
def test_behind_one_that_waits_everything_waits() -> None:
    """A pause ends nothing: what waits leaves first, or else the order would be lost."""
    with sender() as (tx, rx):
        sent = [b"0"]
        tx.send(b"0")
        while tx.stats.waiting == 0:
            assert len(sent) < 100_000, "nothing ever waits"
            sent.append(b"%d" % len(sent))
            tx.send(sent[-1])
        for _ in range(5):
            pause()
            sent.append(b"%d" % len(sent))
            tx.send(sent[-1])
        tx.flush()
        assert [rx.recv(100) for _ in sent] == sent


def test_none_flushes_nothing_by_itself() -> None:
    """max_delay=None: only flush, drain and close."""
    with sender(max_delay=None) as (tx, rx):
        pause()
        for i in range(10):
            tx.send(b"%d" % i)
            pause()
        assert tx.stats.waiting == 10
        rx.setblocking(False)
        with pytest.raises(BlockingIOError):
            rx.recv(10)
        tx.flush()
        assert [rx.recv(10) for _ in range(10)] == [b"%d" % i for i in range(10)]


def test_answers_leave_at_once() -> None:
    """A server with the default settings, but for an hour of delay; its client waits for each answer."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        UdpSender(sock=server, max_delay=HOUR) as tx,
    ):
        server.bind(("127.0.0.1", 0))
        client.connect(server.getsockname())
        client.settimeout(5)
        for i in range(200):
            client.send(b"question %d" % i)
            question, peer = server.recvfrom(100)
            time.sleep(0.0002)  # it thinks
            tx.send(b"answer to " + question, peer)
            assert client.recv(100) == b"answer to question %d" % i


def test_a_burst_after_a_pause_is_no_slower_in_requests() -> None:
    """The first alone, or the first 33 if the machine is slow, the rest in full trains."""
    sent = [datagram(i, 1000) for i in range(600)]
    with sender() as (tx, rx):
        tx.send_many([bytes(1000)] * 60)
        tx.drain()
        pause()
        before = tx.stats
        for data in sent:
            tx.send(data)
        tx.flush()
        after = tx.stats
        for _ in range(60):
            rx.recv(2000)
        assert [rx.recv(2000) for _ in sent] == sent
        assert after.requests + after.syscalls - before.requests - before.syscalls <= 150


def test_a_program_that_waits_for_each_datagram_waits_for_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its datagrams follow each other as fast as a producer's. They gather in a trial only."""
    found: list[object] = []

    def counted() -> UdpBatcher:
        batcher = late()
        found.append(batcher)
        return batcher

    monkeypatch.setattr(timer, "late", counted)
    with sender(max_delay=0.01) as (tx, rx):
        for number in range(2000):
            data = b"%d" % number
            tx.send(data)
            assert rx.recv(9) == data
        # after 32, 256 more, 2048 more; and some of it again, if the machine stopped the program in a trial
        assert len(found) <= 25


def test_a_program_that_sends_without_waiting_gathers() -> None:
    """A loop in Python, too, that takes longer for each datagram than a tight one."""
    with sender() as (tx, rx):
        for number in range(3000):
            tx.send(struct.pack("I", number))
        tx.flush()
        assert tx.stats.requests + tx.stats.syscalls < 1500
        assert [struct.unpack("I", rx.recv(9))[0] for _ in range(3000)] == list(range(3000))


def test_an_error_of_one_that_left_at_once_is_reported_as_of_others() -> None:
    """By the next flush, or on_error; send() itself does not raise it."""
    errors: list[SendError] = []
    with UdpSender(max_delay=HOUR) as tx:
        pause()
        assert tx.send(b"x", FORBIDDEN) == 1
        with pytest.raises(SendError) as caught:
            tx.flush()
        assert (caught.value.index, caught.value.size, caught.value.to) == (0, 1, FORBIDDEN)
    with UdpSender(max_delay=HOUR, on_error=errors.append) as tx, everyone() as all_of_them:
        for i in range(10):
            pause()
            assert tx.send(b"four", FORBIDDEN if i % 2 else all_of_them.address(0)) == 4
        tx.flush()
        assert [(error.index, error.to) for error in errors] == [(i, FORBIDDEN) for i in range(1, 10, 2)]
        assert all_of_them.receive(5) == {0: [b"four"] * 5}
        assert (tx.stats.lost, tx.stats.datagrams) == (5, 10)


@pytest.mark.parametrize("max_delay", [None, 0, HOUR])
def test_a_closed_socket_is_reported(max_delay: float | None) -> None:
    """By flush; a datagram whose call raises was not taken."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, testing.receiver() as rx:
        tx = UdpSender(rx.address, sock=sock, max_delay=max_delay)
        tx.send(b"one")
        tx.flush()
        rx.wait(1)
        sock.close()
        taken = 1
        for _ in range(3):
            pause()
            with suppress(OSError):
                tx.send(b"two")
                taken += 1
        datagrams = tx.stats.datagrams
        with raises_errno(errno.EBADF, "closed"):
            tx.flush()
        with pytest.raises(SendError, match="3 datagrams could not be sent"):
            tx.close()
        assert datagrams == taken == 4


# -- max_delay=0


@pytest.mark.parametrize("blocking", [True, False])
def test_without_a_delay_everything_leaves_within_its_call(blocking: bool) -> None:
    """Also datagrams directly behind each other, of any size and by any call."""
    with everyone() as all_of_them, UdpSender(max_delay=0, blocking=blocking) as tx:
        to = all_of_them.addresses(3)
        group = tx.group(to)
        region = tx.register(bytearray(datagram(1, 3000)))

        def check(call: object, *counts: int) -> None:
            assert tx.stats.waiting == 0, call
            came = all_of_them.receive(sum(counts))
            assert {j: len(each) for j, each in came.items()} == {j: n for j, n in enumerate(counts) if n}

        for _ in range(50):
            check(tx.send(b"x", to[0]), 1, 0, 0)
            check(tx.sendto(bytearray(1200), to[1]), 0, 1, 0)
            check(tx.send(bytes(30_000), to[2]), 0, 0, 1)
            check(tx.send_many([bytes(100)] * 10, to[0]), 10, 0, 0)
            check(tx.send_many([bytes(100)] * 9, to * 3), 3, 3, 3)
            with tx.lease(100) as lease:
                check(lease.send(to=to[1]), 0, 1, 0)
            check(tx.send_region(region, segment=1000, to=to[0]), 3, 0, 0)
            check(tx.send_slices(region, [0, 1000], [1000, 100], to=to[0]), 2, 0, 0)
            check(group.send(b"payload"), 1, 1, 1)
            check(group.send_many([b"pay", b"load"]), 2, 2, 2)
            check(tx.fan_out(b"payload", to), 1, 1, 1)
        assert all_of_them.empty()


def test_without_a_delay_one_call_still_makes_trains() -> None:
    with everyone() as all_of_them, UdpSender(max_delay=0) as tx:
        to = all_of_them.addresses(4)
        group = tx.group(to)
        calls: list[Callable[[], object]] = [
            lambda: tx.send_many([bytes(1000)] * 48, to[0]),
            lambda: tx.send_many([bytes(1000)] * 48, to * 12),
            lambda: group.send_many([bytes(1000)] * 12),
        ]
        for call in calls:
            call()
        all_of_them.receive(48 * 3)
        for call, most in zip(calls, (1, 4, 4), strict=True):
            before = tx.stats
            call()
            after = tx.stats
            assert after.requests + after.syscalls - before.requests - before.syscalls <= most
            assert after.waiting == 0
            all_of_them.receive(48)


def test_without_a_delay_the_order_is_kept() -> None:
    expected = [datagram(i, (100, 100, 100, 1200, 0, 20_000)[i % 6]) for i in range(600)]
    with sender(max_delay=0) as (tx, rx):
        for i in range(0, 600, 4):
            tx.send(expected[i])
            tx.send_many(expected[i + 1 : i + 3])
            with tx.lease(len(expected[i + 3])) as lease:
                lease.view[:] = expected[i + 3]
                lease.send()
            assert tx.stats.waiting == 0
        assert [rx.recv(65536) for _ in range(600)] == expected


@testing.requires("net_admin")
@pytest.mark.parametrize("max_delay", [0, HOUR])
def test_without_room_it_says_so_or_takes_it(net: testing.Hold, max_delay: float) -> None:
    """blocking=False over a stopped network: what a call has taken arrives, in order, and nothing else."""
    taken: list[bytes] = []
    with (
        testing.receiver(sock=net.receiver_socket()) as rx,
        net.socket() as sock,
        UdpSender(net.address, sock=sock, max_delay=max_delay, blocking=False) as tx,
    ):
        net.release()
        for i in range(2):
            tx.send(b"warm-up")
            flushed(tx)
            rx.wait(i + 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 30_000)
        with stopped(net):
            for i in range(300):
                data = datagram(i, (1400, 700, 1400)[i % 3])
                with suppress(BlockingIOError):
                    tx.send(data)
                    taken.append(data)
                if i % 50 == 49:
                    pause()

        def left() -> bool:
            flushed(tx)
            return tx.stats.waiting == 0

        assert wait_until(left)
        assert rx.wait(2 + len(taken))[2:] == taken
        assert tx.stats.datagrams == 2 + len(taken)
        assert len(taken) > 0


# -- a cold neighbour, threads, signals


@testing.requires("net_admin")
@pytest.mark.parametrize("max_delay", [0, 0.001, HOUR])
def test_a_cold_neighbour_loses_nothing(net: testing.Hold, max_delay: float) -> None:
    """The first leaves at once, and is the only one until it has arrived; the kernel keeps few others."""
    count = 400
    with (
        testing.receiver(sock=net.receiver_socket()) as rx,
        net.run(lambda: UdpSender(net.address, max_delay=max_delay)) as tx,
    ):
        net.release()
        for start in (0, count):
            pause()
            net.forget_neighbour()  # through an open gate the answer comes before the first send returns
            for i in range(start, start + count):
                tx.send(datagram(i, 1400))
            tx.flush()
        assert rx.wait(2 * count) == [datagram(i, 1400) for i in range(2 * count)]


@testing.requires("net_admin")
def test_the_first_datagram_to_a_cold_neighbour_leaves_at_once(net: testing.Hold) -> None:
    """Behind a stopped gate: a burst after it waits until it has arrived."""
    count = 400
    with (
        testing.receiver(sock=net.receiver_socket()) as rx,
        net.run(lambda: UdpSender(net.address, max_delay=HOUR, blocking=False)) as tx,
    ):
        net.stop()
        net.forget_neighbour()
        tx.send(b"first")
        taken = [b"first"]
        for i in range(count):
            with suppress(BlockingIOError):
                tx.send(datagram(i, 1400))
                taken.append(datagram(i, 1400))
        net.release()

        def left() -> bool:
            flushed(tx)
            return tx.stats.waiting == 0

        assert wait_until(left)
        assert rx.wait(len(taken)) == taken


def test_threads_with_a_sender_each() -> None:
    """Every one of their datagrams after a pause leaves within its call."""
    barrier = Barrier(4)

    def answer(number: int) -> int:
        with sender() as (tx, rx):
            barrier.wait()
            for i in range(50):
                pause()
                tx.send(struct.pack("II", number, i))
                assert rx.recv(100) == struct.pack("II", number, i)
            return tx.stats.datagrams

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(answer, range(4))) == [50] * 4


def test_senders_that_share_a_scheduler() -> None:
    """Each has a pause of its own; neither's datagrams wait for the other's flush."""
    with testing.receiver() as rx, Scheduler() as s:
        both = [UdpSender(rx.address, scheduler=s, max_delay=HOUR) for _ in range(2)]
        for i in range(20):
            pause()
            both[i % 2].send(b"%d" % i)
            assert rx.wait(i + 1)[-1] == b"%d" % i
        for tx in both:
            tx.close()


def test_a_signal_handler_that_sends() -> None:
    """While the program sleeps: each leaves within its call."""
    with sender() as (tx, rx):
        numbers = itertools.count()
        before = signal.signal(signal.SIGALRM, lambda *_: tx.send(b"%d" % next(numbers)))
        try:
            for i in range(50):
                signal.setitimer(signal.ITIMER_REAL, 0.002)
                assert rx.recv(100) == b"%d" % i
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def test_a_signal_handler_that_sends_among_the_programs_own() -> None:
    """It comes between two calls, wherever that is: both have their order, and nothing is lost."""
    count = 20_000
    with sender(max_delay=0.001) as (tx, rx):
        numbers, inside = 0, False

        def handler(*_: object) -> None:
            nonlocal numbers, inside
            if inside:  # the next signal does not wait for its end
                return
            inside = True
            with suppress(BusyError):  # it came while a call was in the kernel
                tx.send(b"handler %d" % numbers)
                numbers += 1
            inside = False

        before = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        try:
            for i in range(count):
                tx.send(b"program %d" % i)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        tx.drain()
        came = [rx.recv(100) for _ in range(tx.stats.datagrams)]
        program = [data for data in came if data.startswith(b"program")]
        assert program == [b"program %d" % i for i in range(count)]
        assert [data for data in came if data.startswith(b"handler")] == [
            b"handler %d" % i for i in range(numbers)
        ]
        assert numbers == len(came) - count


def test_a_group_after_a_pause_leaves_within_its_call() -> None:
    with everyone() as all_of_them, UdpSender(max_delay=HOUR) as tx:
        group = tx.group(all_of_them.addresses(5))
        for i in range(10):
            pause()
            group.send(b"%d" % i)
            assert all_of_them.receive(5) == at_each(5, [b"%d" % i])
            assert tx.stats.waiting == 0
