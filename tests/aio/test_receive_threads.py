"""Receivers and loops of several threads do not disturb each other."""

import threading
from typing import Any

import pytest
from conftest import MakePair, Pair
from receive_setting import Protocol, Setting, datagrams, make_loop, send_train, with_gro

from uringzc._send import DatagramReceiver

pytestmark = pytest.mark.engines()


def test_threads_do_not_mix_what_they_read(make_udp: MakePair) -> None:
    turns, failures = 300, []
    start = threading.Barrier(4)

    def read_own(pair: Pair, mark: int) -> None:
        receiver = DatagramReceiver(pair.rx.fileno())
        start.wait()
        for turn in range(turns):
            sent = [bytes([mark, turn % 251]) * 500 for _ in range(20)]
            send_train(pair.tx, b"".join(sent), 1000)
            got: list[bytes] = []
            while len(got) < len(sent):
                got += datagrams(receiver.receive(False), False)
            if got != sent:
                failures.append((mark, turn))

    pairs = [with_gro(make_udp()) for _ in range(4)]
    threads = [threading.Thread(target=read_own, args=(pair, i)) for i, pair in enumerate(pairs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_threads_may_read_the_same_socket(udp_pair: Pair) -> None:
    tx, rx = udp_pair
    receiver, count = DatagramReceiver(rx.fileno()), 2000
    got: list[bytes] = []
    done = threading.Event()

    def read_some() -> None:
        while not done.is_set():
            got.extend(datagrams(receiver.receive(False), False))
            if len(got) >= count:
                done.set()

    threads = [threading.Thread(target=read_some) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(count):
        tx.send(i.to_bytes(4, "big"))
    assert done.wait(20)
    for thread in threads:
        thread.join()
    assert sorted(got) == [i.to_bytes(4, "big") for i in range(count)]


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_each_thread_has_a_loop(kind: str, make_udp: MakePair) -> None:
    make_loop(kind).close()  # skips where there is none
    results: dict[int, list[Any]] = {}
    sent = [[bytes([mark, i]) * 100 for i in range(250)] for mark in range(4)]

    def run(mark: int, pair: Pair) -> None:
        loop = make_loop(kind)
        setting = Setting(loop, pair, Protocol())
        setting.receiving.start()
        for i in range(0, 250, 25):
            setting.send_train(b"".join(sent[mark][i : i + 25]), 200)
        results[mark] = setting.until(250)
        setting.receiving.close()
        loop.close()

    threads = [threading.Thread(target=run, args=(mark, make_udp())) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results.get(mark) for mark in range(4)] == sent
