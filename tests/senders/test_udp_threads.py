"""Senders in several threads: each sends what it was given, whatever the other threads do meanwhile."""

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

import pytest
from conftest import Pair
from traffic import datagram, one_processor, received

from uringzc import UdpSender

COUNT = 200  # datagrams of a round: some trains, and less than a receive buffer holds
ROUNDS = 30

MakePair = Callable[[], Pair]


@contextmanager
def signals(interval: float = 0.001) -> Iterator[list[int]]:
    came: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: came.append(number))
    signal.setitimer(signal.ITIMER_REAL, interval, interval)
    try:
        yield came
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def exchange(pair: Pair, rounds: int = ROUNDS) -> int:
    """Send rounds of datagrams, by `send` and `send_many`, and read each from the receiver.

    Returns how many were the same.
    """
    same = 0
    with UdpSender(sock=pair.tx) as tx:
        for turn in range(rounds):
            data = [datagram(turn * COUNT + i, 1200) for i in range(COUNT)]
            if turn % 3 == 0:
                for each in data:
                    tx.send(each)
            else:
                assert tx.send_many(data if turn % 3 == 1 else tuple(data)) == COUNT
            tx.flush()
            same += sum(map(bytes.__eq__, received(pair.rx, COUNT), data))
    return same


@pytest.mark.parametrize("cpus", ["one CPU", "all CPUs"])
@pytest.mark.parametrize("threads", [2, 4])
def test_each_thread_sends_what_it_was_given(make_udp: MakePair, threads: int, cpus: str) -> None:
    pairs = [make_udp() for _ in range(threads)]
    with one_processor() if cpus == "one CPU" else nullcontext(), ThreadPoolExecutor(threads) as pool:
        with signals() as came:
            ended = [pool.submit(exchange, pair) for pair in pairs]
            assert [each.result() for each in ended] == [COUNT * ROUNDS] * threads
        assert came


def test_a_thread_that_computes_and_one_that_has_stopped_sending(make_udp: MakePair) -> None:
    """Neither releases the GIL by sending, so waiting for that ends by itself."""
    first, *others = [make_udp() for _ in range(3)]
    has_sent, ended = threading.Event(), threading.Event()

    def stop_sending() -> int:
        with UdpSender(sock=first.tx) as tx:
            tx.send_many([b"once"] * 100)
            tx.flush()
            has_sent.set()
            ended.wait()
            return tx.send(b"again")

    def compute() -> int:
        total = 0
        while not ended.is_set():
            total += sum(range(1000))
        return total

    with ThreadPoolExecutor(4) as pool:
        stopped = pool.submit(stop_sending)
        has_sent.wait()
        computed: Future[int] = pool.submit(compute)
        sent = [pool.submit(exchange, pair, 6) for pair in others]
        try:
            assert [each.result() for each in sent] == [COUNT * 6] * 2
        finally:
            ended.set()
        assert stopped.result() == 5
        assert computed.result()
    assert first.receive(101)[-1] == b"again"
