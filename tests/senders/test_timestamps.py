"""Transmit timestamps: each tells when the right train left, also after sends that failed."""

import errno
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from conftest import MakePair, Pair
from traffic import stopped, unsent_bytes, wait_until

import uringzc
from uringzc import SendError, TransmitTimestamp, UdpSender, testing
from uringzc.senders.timestamps import FLAGS, SO_TIMESTAMPING, Timestamps

FORBIDDEN = ("255.255.255.255", 9)  #: EACCES, before the kernel counts the send
FAMILIES = [socket.AF_INET, socket.AF_INET6]


class Log:
    """What on_timestamp was called with, and between which moments each datagram was sent."""

    def __init__(self) -> None:
        self.stamps: list[TransmitTimestamp] = []
        self.sent: dict[int, tuple[int, int]] = {}

    @contextmanager
    def sending(self, tx: UdpSender) -> Iterator[None]:
        """The block sends some, and this flushes them."""
        first, before = tx.stats.datagrams, time.time_ns()
        yield
        tx.flush()
        after = time.time_ns()
        self.sent |= dict.fromkeys(range(first, tx.stats.datagrams), (before, after))

    @property
    def numbers(self) -> list[int]:
        return [number for stamp in self.stamps for number in stamp.numbers]

    def check(self) -> None:
        """No datagram has two, each one's is of the time when it was sent, and they are in order."""
        assert len(set(self.numbers)) == len(self.numbers)
        for stamp in self.stamps:
            assert stamp.kind == "software"
            for number in stamp.numbers:
                before, after = self.sent[number]
                assert before <= stamp.time_ns <= after
        times = [stamp.time_ns for stamp in sorted(self.stamps, key=lambda stamp: stamp.numbers[0])]
        assert times == sorted(times)

    def complete(self) -> bool:
        """Whether each datagram has one; a timestamp may come a moment after its send has returned."""
        return sorted(self.numbers) == list(self.sent)


@contextmanager
def sender(log: Log, to: Any, sock: socket.socket | None = None, **options: Any) -> Iterator[UdpSender]:
    with UdpSender(to, sock=sock, max_delay=None, on_timestamp=log.stamps.append, **options) as tx:
        yield tx


def settled(log: Log, tx: UdpSender) -> bool:
    return wait_until(lambda: tx.flush() and log.complete())


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("zero_copy", ["auto", "always"])
@pytest.mark.parametrize("family", FAMILIES)
def test_trains_and_singles_have_one_each(make_udp: MakePair, family: int, zero_copy: str, own: bool) -> None:
    pair = make_udp(family)
    to, log = pair.rx.getsockname(), Log()
    with sender(log, to, None if own else pair.tx, zero_copy=zero_copy) as tx:
        for size, count in [(0, 1), (100, 1), (1000, 30), (20_000, 1), (1200, 1), (1200, 2), (900, 140)] * 3:
            with log.sending(tx):
                tx.send_many([bytes(size)] * count)
        assert settled(log, tx)
        log.check()
        one, train = log.stamps[1:3]
        assert (one.numbers, one.nbytes) == (range(1, 2), 100)
        assert (train.numbers, train.nbytes) == (range(2, 32), 30_000)
        assert one.to is None or one.to[:2] == to[:2]
        assert len(log.stamps) < len(log.numbers) / 10  # one for a train


@pytest.mark.parametrize("own", [True, False])
def test_interleaved_destinations(make_udp: MakePair, own: bool) -> None:
    """Each timestamp has the address, and the numbers of what went there, irregular ones too."""
    pairs = [make_udp() for _ in range(3)]
    addresses = [pair.rx.getsockname() for pair in pairs]
    log, to = Log(), []
    with sender(log, None, None if own else make_udp(connected=False).tx) as tx:
        for _ in range(20):
            with log.sending(tx):
                for i in range(40):
                    to.append(addresses[i * i % 7 % 3])
                    tx.send(bytes(1000), to[-1])
        assert settled(log, tx)
    assert tuple in {type(stamp.numbers) for stamp in log.stamps}
    for stamp in log.stamps:
        assert {to[number] for number in stamp.numbers} == {stamp.to}
        assert stamp.nbytes == 1000 * len(stamp.numbers)


def test_groups(make_udp: MakePair) -> None:
    """A datagram to a group is one for each member: each member's train has its own numbers."""
    pairs = [make_udp() for _ in range(3)]
    addresses = [pair.rx.getsockname() for pair in pairs]
    log = Log()
    with sender(log, None) as tx:
        group = tx.group(addresses)
        for _ in range(20):
            with log.sending(tx):
                group.send_many([bytes(1000)] * 10)
        assert settled(log, tx)
        log.check()
    for address in addresses:
        of = [number for stamp in log.stamps if stamp.to == address for number in stamp.numbers]
        assert len(of) == 200


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("zero_copy", ["auto", "always"])
def test_ten_thousand_datagrams(udp_pair: Pair, own: bool, zero_copy: str) -> None:
    """Most in batches that leave when they are full; what the receiver has no room for too."""
    log = Log()
    with sender(log, udp_pair.rx.getsockname(), None if own else udp_pair.tx, zero_copy=zero_copy) as tx:
        with log.sending(tx):
            for number in range(10_000):
                tx.send(bytes(200 + number // 7 % 3))
        assert settled(log, tx)
        log.check()


@pytest.mark.parametrize("own", [True, False])
def test_what_the_timer_sends(udp_pair: Pair, own: bool) -> None:
    """The owner's next call reports it."""
    stamps: list[TransmitTimestamp] = []
    sock = None if own else udp_pair.tx
    with UdpSender(udp_pair.rx.getsockname(), sock=sock, on_timestamp=stamps.append) as tx:
        before = time.time_ns()
        for _ in range(5):
            tx.send_many([bytes(1000)] * 5)
            assert [len(data) for data in udp_pair.receive(5)] == [1000] * 5
        after = time.time_ns()
        assert wait_until(lambda: tx.flush() and sum(len(stamp.numbers) for stamp in stamps) == 25)
        assert [number for stamp in stamps for number in stamp.numbers] == list(range(25))
        assert all(before <= stamp.time_ns <= after for stamp in stamps)


def test_senders_that_share_a_scheduler(make_udp: MakePair) -> None:
    pairs, logs = [make_udp() for _ in range(3)], [Log() for _ in range(3)]
    with uringzc.Scheduler() as s:
        some = [
            UdpSender(
                pair.rx.getsockname(),
                scheduler=s,
                max_delay=None,
                zero_copy="always",
                on_timestamp=log.stamps.append,
            )
            for pair, log in zip(pairs, logs, strict=True)
        ]
        for _ in range(20):
            for tx, log in zip(some, logs, strict=True):
                with log.sending(tx):
                    tx.send_many([bytes(1000)] * 7)
        for tx, log in zip(some, logs, strict=True):
            assert settled(log, tx)
            log.check()


# -- sends that fail


@pytest.fixture(params=[True, False])
def tx_and_log(request: pytest.FixtureRequest, net: testing.Hold) -> Iterator[tuple[UdpSender, Log]]:
    """A sender to a network whose MTU shrinks, of its own socket or the program's."""
    net.release()
    log = Log()
    with net.socket() as sock, net.receiver_socket():
        options: dict[str, Any] = {"max_delay": None, "on_timestamp": log.stamps.append}
        options |= {} if request.param else {"sock": sock}
        tx = net.run(lambda: UdpSender(net.address, on_error=lambda _: None, **options))
        with tx:
            yield tx, log


def fail_in_between(net: testing.Hold, tx: UdpSender, log: Log) -> list[int]:
    """Trains, some of which the path cannot take. Returns the numbers of what was sent after that."""
    after: list[int] = []
    for mtu in range(1450, 1300, -50):
        for size in 100, mtu - 40, 200:
            with log.sending(tx):
                tx.send_many([bytes(size)] * 5)
        net.set_mtu(mtu - 25)
        with log.sending(tx):
            for size in 100, mtu - 28, 200:  # that in the middle is refused (EMSGSIZE), and its id used up
                tx.send_many([bytes(size)] * 3)
            tx.send(b"x", FORBIDDEN)
        first = tx.stats.datagrams
        for size in 100, 150, 1:
            with log.sending(tx):
                tx.send_many([bytes(size)] * 2)
        after += range(first, tx.stats.datagrams)
    return after


def test_none_is_told_for_the_wrong_train(net: testing.Hold, tx_and_log: tuple[UdpSender, Log]) -> None:
    """Not after a train that the kernel counts, and refuses; and what comes after that has its own again."""
    tx, log = tx_and_log
    after = fail_in_between(net, tx, log)
    assert tx.stats.unsegmented >= 3
    assert wait_until(lambda: tx.flush() and {*after} <= {*log.numbers})
    log.check()


def test_control_ids_that_are_not_restarted_are_wrong(
    net: testing.Hold, tx_and_log: tuple[UdpSender, Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Timestamps, "failed", lambda _: None)
    tx, log = tx_and_log
    after = fail_in_between(net, tx, log)
    tx.drain()
    assert not {*after} <= {*log.numbers}


def test_after_a_destination_that_refuses(make_udp: MakePair, engine: str) -> None:
    """The error comes while a batch is being sent: sendmmsg() hides it, and the engine sends again."""
    pair, nobody = make_udp(), make_udp()
    nobody.rx.close()
    errors: list[SendError] = []
    log = Log()
    with sender(log, None, on_error=errors.append) as tx:
        for _ in range(50):
            with log.sending(tx):
                for size in 2000, 3000, 4000, 5000:
                    tx.send_many([bytes(size)] * 3, nobody.tx.getpeername())
                    tx.send_many([bytes(size)] * 3, pair.rx.getsockname())
        tx.flush()
        log.check()
        assert {error.errno for error in errors} == {errno.ECONNREFUSED}
        assert tx.stats.lost == 0
        assert (tx._engine.retried() > 0) == (engine != "io_uring")
        named = [error.to for error in errors if error.to]
        assert {*named} == {nobody.tx.getpeername()}
        assert len(named) <= 200  # each ICMP error once


def hold_across_a_failure(net: testing.Hold, log: Log) -> None:
    """Held by the network, then a failure, then more: ids of before and after are the same."""
    with net.socket() as sock, net.receiver_socket():
        sock.connect(net.address)
        with sender(log, None, sock, on_error=lambda _: None) as tx:
            with log.sending(tx):
                tx.send(b"first")  # arrives: the destination is known
            with stopped(net):
                for i in range(3):
                    with log.sending(tx):
                        tx.send_many([bytes(100)] * (i + 2))
                with log.sending(tx):
                    tx.send(b"x", FORBIDDEN)
                for i in range(3):
                    with log.sending(tx):
                        tx.send_many([bytes(200)] * (i + 2))
                assert log.numbers == [0]
            assert wait_until(lambda: not unsent_bytes(sock))
            tx.flush()
            with log.sending(tx):
                tx.send(b"last")
            assert wait_until(lambda: tx.flush() and log.numbers[-1:] == [20])


def test_timestamps_of_before_a_failure_are_not_taken_for_later_ones(net: testing.Hold) -> None:
    log = Log()
    hold_across_a_failure(net, log)
    assert log.numbers == [0, 20]


def test_control_ids_of_before_are_the_same(net: testing.Hold, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Timestamps, "_is_late", lambda *_: False)
    log = Log()
    hold_across_a_failure(net, log)
    assert len({*log.numbers}) < len(log.numbers)


def test_what_leaves_late_is_reported_late(net: testing.Hold) -> None:
    """Behind a stopped queue: the time is when the device got it."""
    log = Log()
    net.release()
    with (
        net.socket() as sock,
        net.receiver_socket(),
        sender(log, net.address, sock, zero_copy="never") as tx,
    ):
        with log.sending(tx):
            tx.send(b"first")
        with stopped(net):
            with log.sending(tx):
                tx.send_many([bytes(1000)] * 300)
            assert log.numbers == [0]
            released = time.time_ns()
        assert settled(log, tx)
        assert all(stamp.time_ns >= released for stamp in log.stamps[1:])
        times = [stamp.time_ns for stamp in log.stamps]
        assert times == sorted(times)


# -- the program's side


def test_callbacks_run_as_others_do(udp_pair: Pair) -> None:
    """Calls of the sender inside raise BusyError; what one raises, the call raises, and the rest waits."""
    seen: list[TransmitTimestamp] = []

    def callback(stamp: TransmitTimestamp) -> None:
        with pytest.raises(uringzc.BusyError):
            tx.send(b"inside")
        seen.append(stamp)
        if len(seen) == 1:
            raise ZeroDivisionError

    with UdpSender(udp_pair.rx.getsockname(), max_delay=None, on_timestamp=callback) as tx:
        for size in 10, 20, 30:
            tx.send(bytes(size))
        with pytest.raises(ZeroDivisionError):
            wait_until(lambda: not tx.flush())
        assert wait_until(lambda: tx.flush() and len(seen) == 3)
    assert [stamp.nbytes for stamp in seen] == [10, 20, 30]


@pytest.mark.uninstrumented("between two sends are more than 10 us, which is a pause")
def test_the_time_that_callbacks_take_is_no_pause_after_which_a_datagram_leaves_at_once(
    udp_pair: Pair,
) -> None:
    stamps: list[TransmitTimestamp] = []

    def slow(stamp: TransmitTimestamp) -> None:
        stamps.append(stamp)
        time.sleep(0.0005)

    def trains_of_100_datagrams() -> int:
        stamps.clear()
        for _ in range(100):
            tx.send(bytes(100))
        assert wait_until(lambda: tx.flush() and sum(len(stamp.numbers) for stamp in stamps) == 100)
        return len(stamps)

    # an hour: where the machine is slow, the timer would send each while the callback of the last runs
    with UdpSender(udp_pair.rx.getsockname(), max_delay=3600, on_timestamp=slow) as tx:
        # 100, if each left at once. Once is enough: where others use the processor there are other pauses
        assert any(trains_of_100_datagrams() < 80 for _ in range(50))


def test_the_program_still_gets_errors(make_udp: MakePair) -> None:
    """And no timestamps among them."""
    nobody = make_udp()
    nobody.rx.close()
    errors: list[SendError] = []
    log = Log()
    with sender(log, nobody.tx.getpeername(), on_error=errors.append) as tx:
        with log.sending(tx):
            tx.send(b"x")
        assert wait_until(lambda: tx.flush() and errors)
        assert settled(log, tx)
        (message,) = tx.errors()
        assert message.data == b"x"
        assert tx.errors() == []
        assert [error.to for error in errors] == [nobody.tx.getpeername()]


def test_the_programs_socket_is_left_as_it_was(udp_pair: Pair) -> None:
    log = Log()
    for _ in range(2):
        with sender(log, None, udp_pair.tx) as tx:
            assert udp_pair.tx.getsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING) == FLAGS
            tx.send(b"x")
            with pytest.raises(ValueError, match="the socket has SO_TIMESTAMPING set"):
                UdpSender(sock=udp_pair.tx, on_timestamp=print)
        assert udp_pair.tx.getsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING) == 0
    assert log.numbers == [0, 0]


def test_timestamps_that_others_left_in_the_queue_are_none_of_the_senders(udp_pair: Pair) -> None:
    udp_pair.tx.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, FLAGS)
    for _ in range(5):
        udp_pair.tx.send(b"others")
    udp_pair.tx.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, 0)
    log = Log()
    with sender(log, None, udp_pair.tx) as tx:
        with log.sending(tx):
            tx.send(b"x")
        assert settled(log, tx)
        log.check()


def test_a_sender_that_does_not_wait_is_not_woken_by_them(net: testing.Hold) -> None:
    log = Log()
    net.release()
    tx = net.run(
        lambda: UdpSender(net.address, blocking=False, max_delay=None, on_timestamp=log.stamps.append)
    )
    with tx, net.receiver_socket():
        with log.sending(tx):
            tx.send(b"first")
        with stopped(net):
            tx.send(b"x")
            tx.flush()
        poll = select.poll()
        poll.register(tx.sock, 0)
        assert poll.poll(10_000)  # it is in the error queue
        assert not select.select([tx.fileno()], [], [], 0.01)[0]
        assert wait_until(lambda: tx.flush() and log.numbers == [0, 1])


@pytest.mark.engines
def test_on_timestamp_is_a_function() -> None:
    with pytest.raises(TypeError, match="on_timestamp is a function or None, not 1"):
        UdpSender(on_timestamp=1)  # type: ignore[arg-type]
