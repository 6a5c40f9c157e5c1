"""Receiving: what a protocol gets, when, and what may interrupt it; on asyncio's loop and on uvloop's."""

import asyncio
import gc
import itertools
import os
import socket
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import MakePair, Pair
from receive_setting import Grouped, Protocol, Setting, make_loop, wait_for

from uringzc.aio import receiving
from uringzc.aio.receiving import Receiving

pytestmark = pytest.mark.engines()


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    loop = make_loop(request.param)
    yield loop
    loop.close()


Make = Callable[[Protocol], Setting]


@pytest.fixture
def make(loop: asyncio.AbstractEventLoop, make_udp: MakePair) -> Iterator[Make]:
    made: list[Setting] = []

    def make(protocol: Protocol) -> Setting:
        made.append(Setting(loop, make_udp(), protocol))
        made[-1].receiving.start()
        return made[-1]

    yield make
    for setting in made:
        setting.receiving.close()


NUMBERS = [b"%d" % i for i in range(30)]
MANY = [b"%d" % i for i in range(300)]


# -- delivery


def test_nothing_is_delivered_before_the_start(loop: asyncio.AbstractEventLoop, udp_pair: Pair) -> None:
    setting = Setting(loop, udp_pair, Protocol())
    setting.send(b"early")
    setting.turns()
    assert setting.protocol.got == []
    setting.receiving.start()
    assert setting.until(1) == [b"early"]
    setting.receiving.close()


def test_datagrams_come_in_their_order_with_their_address(make: Make) -> None:
    protocol = Protocol()
    setting = make(protocol)
    addresses = set()
    protocol.datagram_received = lambda data, addr: (protocol.take([data]), addresses.add(addr))[0]  # type: ignore
    setting.send(*NUMBERS)
    setting.send_train(b"aabbc", 2)
    setting.pair.tx.send(b"")
    assert setting.until(34) == [*NUMBERS, b"aa", b"bb", b"c", b""]
    assert addresses == {setting.pair.tx.getsockname()}


def has_gro(setting: Setting) -> bool:
    return bool(setting.pair.rx.getsockopt(socket.IPPROTO_UDP, receiving.UDP_GRO))


@pytest.mark.parametrize("protocol", [Protocol, Grouped])
def test_gro_is_set_when_several_have_come(make: Make, protocol: type[Protocol]) -> None:
    setting = make(protocol())
    setting.send(b"alone")
    setting.until(1)
    assert not has_gro(setting)
    setting.send(b"1", b"2")
    setting.until(2)
    setting.turns(2)
    assert has_gro(setting)


def test_with_gro_a_wake_up_has_more_than_it_reads_messages(make: Make) -> None:
    setting = make(Grouped())
    setting.send(b"1", b"2")
    setting.until(1)
    setting.send_train(bytes(64 * 100), 100)
    assert setting.until(2)[1] == [bytes(100)] * 64


def test_a_protocol_that_can_gets_lists(make: Make) -> None:
    setting = make(Grouped())
    setting.send(b"1", b"2", b"3")
    assert setting.until(1) == [[b"1", b"2", b"3"]]


def test_a_single_datagram_is_a_list_of_one(make: Make) -> None:
    setting = make(Grouped())
    setting.send(b"1")
    assert setting.until(1) == [[b"1"]]


# -- pauses


def test_a_pause_inside_a_callback_keeps_the_rest(make: Make) -> None:
    setting = make(Protocol(lambda data: setting.receiving.pause_reading() if data == b"3" else None))
    setting.send(*NUMBERS)
    setting.until(4)
    setting.turns()
    assert setting.protocol.got == NUMBERS[:4]
    assert not setting.receiving.is_reading()
    setting.send(b"later")
    setting.receiving.resume_reading()
    assert setting.receiving.is_reading()
    assert setting.until(31) == [*NUMBERS, b"later"]


def test_a_pause_between_the_turns_of_a_delivery(make: Make, slow: None) -> None:
    setting = make(Protocol())
    setting.send(*MANY)
    setting.until(1)
    setting.receiving.pause_reading()
    before = setting.protocol.got[:]
    setting.turns()
    assert setting.protocol.got == before != MANY
    setting.receiving.resume_reading()
    assert setting.until(len(MANY)) == MANY


def test_a_pause_that_ends_in_the_same_callback(make: Make) -> None:
    def pause(data: bytes) -> None:
        setting.receiving.pause_reading()
        setting.receiving.resume_reading()

    setting = make(Protocol(pause))
    setting.send(*NUMBERS)
    assert setting.until(30) == NUMBERS
    setting.turns()
    assert setting.protocol.got == NUMBERS


def test_a_pause_while_nothing_comes(make: Make) -> None:
    setting = make(Protocol())
    setting.turns()
    for _ in range(2):
        setting.receiving.pause_reading()
    setting.send(b"x")
    setting.turns()
    assert setting.protocol.got == []
    for _ in range(2):
        setting.receiving.resume_reading()
    assert setting.until(1) == [b"x"]


def test_a_pause_before_the_start_holds(loop: asyncio.AbstractEventLoop, udp_pair: Pair) -> None:
    setting = Setting(loop, udp_pair, Protocol())
    setting.receiving.pause_reading()
    setting.send(b"x")
    setting.receiving.start()
    setting.turns()
    assert setting.protocol.got == []
    setting.receiving.resume_reading()
    assert setting.until(1) == [b"x"]
    setting.receiving.close()


# -- the end


def test_nothing_comes_after_close_inside_a_callback(make: Make) -> None:
    setting = make(Protocol(lambda data: setting.receiving.close() if data == b"3" else None))
    setting.send(*NUMBERS)
    setting.until(4)
    setting.send(b"later")
    setting.turns()
    assert setting.protocol.got == NUMBERS[:4]
    assert not setting.receiving.is_reading()


def test_nothing_comes_after_close_between_the_turns_of_a_delivery(make: Make, slow: None) -> None:
    setting = make(Protocol())
    setting.send(*MANY)
    setting.until(1)
    setting.receiving.close()
    before = setting.protocol.got[:]
    setting.turns()
    assert setting.protocol.got == before != MANY


def test_all_is_without_effect_after_close(make: Make) -> None:
    setting = make(Protocol())
    setting.receiving.close()
    setting.receiving.close()
    setting.receiving.start()
    setting.receiving.pause_reading()
    setting.receiving.resume_reading()
    setting.send(b"x")
    setting.turns()
    assert setting.protocol.got == []


def test_close_before_the_start(loop: asyncio.AbstractEventLoop, udp_pair: Pair) -> None:
    setting = Setting(loop, udp_pair, Protocol())
    setting.receiving.close()
    setting.receiving.start()
    setting.send(b"x")
    setting.turns()
    assert setting.protocol.got == []


def test_close_while_paused(make: Make) -> None:
    setting = make(Protocol(lambda data: setting.receiving.pause_reading()))
    setting.send(*NUMBERS)
    setting.until(1)
    setting.receiving.close()
    setting.receiving.resume_reading()
    setting.turns()
    assert setting.protocol.got == NUMBERS[:1]


def test_close_closes_what_it_opened(loop: asyncio.AbstractEventLoop, udp_pair: Pair) -> None:
    before = os.listdir("/proc/self/fd")
    setting = Setting(loop, udp_pair, Protocol())
    setting.receiving.close()
    assert os.listdir("/proc/self/fd") == before


# -- other callbacks of the loop have their turn


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clock, all that is done takes a second."""
    clock = itertools.count()
    monkeypatch.setattr(receiving, "monotonic", lambda: float(next(clock)))


class Turns:
    """How many datagrams had come at each turn of the loop."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.seen: list[int] = []
        self.turn()

    def turn(self) -> None:
        self.seen.append(len(self.setting.protocol.got))
        self.setting.loop.call_soon(self.turn)

    def most(self) -> int:
        """Between two turns."""
        return max(b - a for a, b in itertools.pairwise(self.seen))


def test_a_long_delivery_lets_the_loop_turn(make: Make, slow: None) -> None:
    setting = make(Protocol())
    setting.send(*NUMBERS)
    setting.send_train(bytes(6400), 100)
    turns = Turns(setting)
    assert setting.until(94) == [*NUMBERS, *[bytes(100)] * 64]
    assert turns.most() == receiving.CALLS


def test_control_a_short_one_does_not(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "monotonic", lambda: 0.0)
    setting = make(Protocol())
    setting.send(b"1", b"2")  # from now on the train is one message
    setting.until(2)
    setting.send_train(bytes(6400), 100)
    turns = Turns(setting)
    setting.until(66)
    setting.turns(1)
    assert turns.most() == 64


def test_nor_does_one_list_follow_another(make: Make, make_udp: MakePair, slow: None) -> None:
    setting = make(Grouped())
    others = [make_udp(connected=False).tx for _ in range(5)]
    for tx in others:
        tx.sendto(b"x", setting.pair.rx.getsockname())
    wait_for(setting.pair.rx, 5)
    turns = Turns(setting)
    setting.until(5)
    assert turns.most() == 1


def test_nor_do_pauses_make_several_deliveries_of_one(make: Make) -> None:
    def pause(data: bytes) -> None:
        setting.receiving.pause_reading()
        setting.receiving.resume_reading()

    setting = make(Protocol(pause))
    setting.send(*NUMBERS)
    turns = Turns(setting)
    setting.until(30)
    assert turns.most() == 1


def test_nothing_is_read_while_something_is_left(make: Make, slow: None) -> None:
    late = iter([b"late"])
    setting = make(Protocol(lambda data: setting.send(*late)))
    setting.send(*NUMBERS)
    read: list[int] = []
    receiver = setting.receiving._receiver

    class Counting:
        def receive(self, grouped: bool) -> Any:
            read.append(len(setting.protocol.got))
            return receiver.receive(grouped)

    setting.receiving._receiver = Counting()  # type: ignore[assignment]
    assert setting.until(31) == [*NUMBERS, b"late"]
    assert [count for count in read if 0 < count < 30] == []


def test_a_flood_does_not_keep_another_transport_or_a_timer_from_running(make: Make, slow: None) -> None:
    """Each datagram that came is followed by another."""
    flooded = make(Protocol(lambda data: flooded.send(b"x")))
    other = make(Protocol())
    flooded.send(*NUMBERS)
    flooded.until(100)
    other.send(b"x")
    other.until(1)
    at = len(flooded.protocol.got)
    flooded.loop.run_until_complete(asyncio.sleep(0.01))
    assert len(flooded.protocol.got) > at  # it went on


# -- what a protocol raises


@pytest.fixture
def reported(loop: asyncio.AbstractEventLoop) -> list[BaseException]:
    """The exceptions that the loop's exception handler was called with."""
    found: list[BaseException] = []
    loop.set_exception_handler(lambda _, context: found.append(context["exception"]))
    return found


def test_an_exception_is_reported_and_the_rest_delivered(make: Make, reported: list[BaseException]) -> None:
    def fail(data: bytes) -> None:
        if data in (b"3", b"4", b"29"):
            raise ValueError(data)

    setting = make(Protocol(fail))
    setting.send(*NUMBERS)
    assert setting.until(30) == NUMBERS
    setting.turns(1)
    assert [str(error) for error in reported] == ["b'3'", "b'4'", "b'29'"]
    setting.send(b"more")
    assert setting.until(31)[30:] == [b"more"]


def test_an_exception_for_a_single_datagram(make: Make, reported: list[BaseException]) -> None:
    def fail(data: bytes) -> None:
        raise ValueError(data)

    setting = make(Protocol(fail))
    for i in range(3):
        setting.send(b"x")
        setting.until(i + 1)
    setting.turns(1)
    assert [type(error) for error in reported] == [ValueError] * 3


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_loop_does(
    make: Make, reported: list[BaseException], kind: type[BaseException]
) -> None:
    def fail(data: bytes) -> None:
        if data == b"3":
            raise kind

    setting = make(Protocol(fail))
    setting.send(*NUMBERS)
    with pytest.raises(kind):
        setting.until(30)
    assert setting.until(30) == NUMBERS
    assert reported == []


# -- errors of the socket


def refuse(setting: Setting) -> socket.socket:
    """An answer that nobody is there, to a datagram of the receiving socket, which is connected."""
    peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    peer.bind(("127.0.0.1", 0))
    setting.pair.rx.connect(peer.getsockname())
    peer.close()
    setting.pair.rx.send(b"to nobody")
    return peer


def test_errors_of_the_socket_are_the_protocols(make: Make) -> None:
    setting = make(Protocol())
    for count in 1, 2:
        refuse(setting)
        setting.until(count)
    assert [type(each) for each in setting.protocol.got] == [ConnectionRefusedError] * 2


def test_it_goes_on_after_an_error(make: Make) -> None:
    setting = make(Protocol())
    refuse(setting)
    setting.until(1)
    setting.pair.rx.connect(setting.pair.tx.getsockname())
    setting.send(b"x")
    assert setting.until(2)[1:] == [b"x"]


def test_an_exception_for_an_error_is_reported(make: Make, reported: list[BaseException]) -> None:
    protocol = Protocol()

    def fail(exc: Exception) -> None:
        protocol.take([exc])
        raise ValueError

    protocol.error_received = fail  # type: ignore[method-assign]
    setting = make(protocol)
    refuse(setting)
    setting.until(1)
    setting.turns(1)
    assert [type(error) for error in reported] == [ValueError]


def test_what_is_in_the_error_queue_is_for_another(loop: asyncio.AbstractEventLoop, udp_pair: Pair) -> None:
    protocol, queued = Protocol(), []

    def read_error_queue() -> None:
        queued.append(udp_pair.rx.recvmsg(1 << 10, 1 << 10, socket.MSG_ERRQUEUE))
        protocol.take(["queue"])

    udp_pair.rx.setblocking(False)
    udp_pair.rx.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
    setting = Setting(loop, udp_pair, protocol)
    setting.receiving = Receiving(loop, udp_pair.rx, protocol, read_error_queue)
    setting.receiving.start()
    refuse(setting)
    error, queue = setting.until(2)
    assert (type(error), queue, len(queued)) == (ConnectionRefusedError, "queue", 1)
    setting.pair.rx.connect(setting.pair.tx.getsockname())
    setting.send(b"x")
    assert setting.until(3)[2:] == [b"x"]
    setting.receiving.close()


# -- another protocol


@pytest.mark.parametrize("second", [Protocol, Grouped])
@pytest.mark.parametrize("first", [Protocol, Grouped])
def test_another_protocol_gets_the_rest(
    make: Make, make_udp: MakePair, first: type[Protocol], second: type[Protocol]
) -> None:
    other = second()
    setting = make(first(lambda data: setting.receiving.set_protocol(other) if data == b"1" else None))
    for pair, data in ((setting.pair, b"0"), (make_udp(connected=False), b"1"), (setting.pair, b"2")):
        pair.tx.sendto(data, setting.pair.rx.getsockname())
    wait_for(setting.pair.rx, 3)
    other.until(1, setting.loop)
    setting.send(b"3")
    other.until(2, setting.loop)
    assert setting.protocol.got == ([[b"0"], [b"1"]] if first is Grouped else [b"0", b"1"])
    assert other.got == ([[b"2"], [b"3"]] if second is Grouped else [b"2", b"3"])
    assert setting.receiving.protocol is other


# -- memory


def test_no_memory_is_kept(make: Make) -> None:
    protocol = Protocol()
    protocol.datagram_received = lambda data, addr: None  # type: ignore[method-assign]
    setting = make(protocol)

    def some(count: int) -> None:
        for _ in range(count):
            setting.send_train(bytes(20_000), 1000)
            setting.turns(3)

    some(20)
    tracemalloc.start()
    try:
        some(10)
        before, _ = tracemalloc.get_traced_memory()
        some(100)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 20_000


def test_it_is_freed_after_close(loop: asyncio.AbstractEventLoop, udp_pair: Pair) -> None:
    protocol = Protocol()
    setting = Setting(loop, udp_pair, protocol)
    setting.receiving.start()
    setting.send(*NUMBERS)
    setting.until(30)
    setting.receiving.close()
    freed = weakref.ref(protocol), weakref.ref(setting.receiving)
    del protocol, setting
    loop.run_until_complete(asyncio.sleep(0))
    gc.collect()
    assert [reference() for reference in freed] == [None, None]
