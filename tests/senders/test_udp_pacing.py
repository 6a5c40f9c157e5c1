"""Pacing, by the times at which datagrams arrive: never faster than asked, and hardly slower.

A process that is not scheduled in time is slower than asked, so only what is too slow is tried again. That
nothing is too fast holds on any machine, since what leaves is charged when it has left.
"""

import errno
import gc
import signal
import socket
import threading
import time
import warnings
from array import array
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from arrivals import Arrival, arrivals_socket, largest_burst, mean_rate, read_arrivals
from marks import only_io_uring
from processes import in_thread
from traffic import is_readable, raised_by, wait_readable, wait_until

from uringzc import SendError, UdpSender, WrongThreadError, testing
from uringzc.senders.pacing import make_pacing

pytestmark = testing.requires("net_admin")  # a large receive buffer

SO_MAX_PACING_RATE = 47
CLOCKS = 1.01  # CLOCK_REALTIME may be slewed meanwhile, and a cost is a whole number of ns
DATA = bytes(32)


@pytest.fixture
def rx() -> Iterator[socket.socket]:
    with arrivals_socket() as sock:
        yield sock


def check_bursts(arrivals: list[Arrival], **options: Any) -> None:
    """No window has more than its share and a burst."""
    pacing = make_pacing(options.get("rate"), options.get("pps"), options.get("burst"))
    assert pacing
    most = (pacing.burst + pacing.lateness) / pacing.ns
    found = largest_burst(arrivals, CLOCKS * pacing.per_second, pacing.counts_bytes)
    largest = max(arrival.nbytes for arrival in arrivals) if pacing.counts_bytes else 1
    assert found <= max(most, largest) * CLOCKS


def send_for(seconds: float, rx: socket.socket, data: bytes = DATA, **options: Any) -> list[Arrival]:
    """What a loop of send() brings to `rx`."""
    count = 0
    with UdpSender(rx.getsockname(), **options) as tx:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for _ in range(10):
                tx.send(data)
            count += 10
        tx.flush()
    return read_arrivals(rx, count)


def check_rate(call: Callable[[], list[Arrival]], per_second: float, **options: Any) -> None:
    rates = []
    for _ in range(25):
        arrivals = call()
        check_bursts(arrivals, **options)
        rates.append(mean_rate(arrivals))
        if abs(rates[-1] - per_second) <= 0.01 * per_second:
            return
    pytest.fail(f"not within 1 % of {per_second:g}: {rates}")


def send_until_blocked(tx: UdpSender) -> str:
    """Returns what was raised: the sender does not wait."""
    with pytest.raises(BlockingIOError) as caught:
        tx.send_many([DATA] * 1000)
    return str(caught.value)


# -- the rate


@only_io_uring
@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("pps", [1_000, "10kpps", 100_000, "1Mpps"])
def test_the_rate_is_right_within_one_percent(rx: socket.socket, pps: Any) -> None:
    pacing = make_pacing(None, pps, None)
    assert pacing
    check_rate(lambda: send_for(0.4, rx, pps=pps), pacing.per_second, pps=pps)


@pytest.mark.slow
@pytest.mark.alone
def test_each_engine_keeps_the_rate(rx: socket.socket) -> None:
    rate = "100Mbit"
    check_rate(lambda: send_for(0.4, rx, bytes(1250), rate=rate), 10_000, rate=rate)


def test_control_without_pacing_a_loop_is_faster(rx: socket.socket) -> None:
    with UdpSender(rx.getsockname()) as tx:
        tx.send_many([DATA] * 2000)
    assert largest_burst(read_arrivals(rx, 2000), 10_000) > 200


@only_io_uring
def test_a_datagram_larger_than_a_burst_waits_for_its_time(rx: socket.socket) -> None:
    options: dict[str, Any] = {"rate": "4Mbit", "burst": 100}
    with UdpSender(rx.getsockname(), **options) as tx:
        for _ in range(6):
            tx.send(bytes(5000))  # 10 ms each
    arrivals = read_arrivals(rx, 6)
    check_bursts(arrivals, **options)
    assert arrivals[-1].time - arrivals[0].time >= 0.049


# -- bursts


@pytest.mark.parametrize("burst", [1, 2, 20])
def test_after_a_pause_a_burst_leaves_and_no_more(rx: socket.socket, burst: int) -> None:
    count, options = 50, {"pps": 2000, "burst": burst}
    with UdpSender(rx.getsockname(), **options) as tx:  # type: ignore[arg-type]
        tx.send_many([DATA] * count)
        tx.flush()
        time.sleep(0.02)
        tx.send_many([DATA] * count)
    arrivals = read_arrivals(rx, 2 * count)
    check_bursts(arrivals, **options)
    assert largest_burst(arrivals, 2000) >= burst / 2


def calls(tx: UdpSender, to: object, count: int) -> dict[str, Callable[[], object]]:
    region = tx.register(bytearray(count * len(DATA)))
    offsets, lengths = array("q", range(0, count * 32, 32)), array("q", [32] * count)

    def leases() -> None:
        for _ in range(count):
            with tx.lease(len(DATA)) as lease:
                lease.send()

    return {
        "send_many": lambda: tx.send_many([DATA] * count),
        "send_region": lambda: tx.send_region(region, segment=32),
        "send_slices": lambda: tx.send_slices(region, offsets, lengths),
        "fan_out": lambda: tx.fan_out(DATA, [to] * count),  # type: ignore[list-item]
        "lease": leases,
        "bytes that are held": lambda: [tx.send(bytes(20_000)) for _ in range(count)],
    }


@pytest.mark.parametrize(
    "call", ["send_many", "send_region", "send_slices", "fan_out", "lease", "bytes that are held"]
)
def test_every_call_is_paced(rx: socket.socket, call: str) -> None:
    options = {"pps": 4000, "burst": 10}
    with UdpSender(rx.getsockname(), **options) as tx:  # type: ignore[arg-type]
        calls(tx, rx.getsockname(), 100)[call]()
    check_bursts(read_arrivals(rx, 100), **options)


@only_io_uring
def test_destinations_share_the_rate(rx: socket.socket) -> None:
    count, options = 60, {"pps": 2000, "burst": 8}
    with arrivals_socket() as other, UdpSender(**options) as tx:  # type: ignore[arg-type]
        for _ in range(count):
            tx.send(DATA, rx.getsockname())
            tx.send(DATA, other.getsockname())
        tx.flush()
        both = read_arrivals(rx, count) + read_arrivals(other, count)
    check_bursts(both, **options)


def test_order_holds_between_trains_of_other_sizes(rx: socket.socket) -> None:
    """A single datagram could be paid for before the train that it follows."""
    count = 400
    sent = [number.to_bytes(2, "little").ljust(64 if number % 19 else 40) for number in range(count)]
    with testing.receiver() as plain, UdpSender(plain.address, pps="10kpps") as tx:
        for data in sent:
            tx.send(data)
        tx.flush()
        assert plain.wait(count) == sent


# -- another rate


@pytest.mark.parametrize("rates", [(1000, 5000), (5000, 1000)])
def test_another_rate_holds_from_the_call_on(rx: socket.socket, rates: tuple[int, int]) -> None:
    with UdpSender(rx.getsockname(), pps=rates[0], burst=4) as tx:
        for pps in rates:
            tx.set_rate(pps=pps, burst=4)
            tx.send_many([DATA] * 50)
            tx.flush()
            check_bursts(read_arrivals(rx, 50), pps=pps, burst=4)


def test_without_a_rate_what_waits_leaves_at_once(rx: socket.socket) -> None:
    with UdpSender(rx.getsockname(), pps=0.1, blocking=False) as tx:
        send_until_blocked(tx)
        tx.set_rate()
        tx.send_many([DATA] * 100)
        tx.flush()
        waiting = tx.stats.datagrams
        assert len(read_arrivals(rx, waiting)) > 0


def test_the_timer_and_fileno_follow_another_rate(rx: socket.socket) -> None:
    """Both would be a thousand seconds late."""
    with UdpSender(rx.getsockname(), pps=0.001, blocking=False) as tx:
        send_until_blocked(tx)
        time.sleep(0.01)  # the timer has tried
        tx.set_rate(pps=100)
        wait_readable(tx.fileno())
        read_arrivals(rx, tx.stats.datagrams)


def test_set_rate_is_for_the_owner(rx: socket.socket) -> None:
    with UdpSender(rx.getsockname(), pps=100) as tx:
        tx.send(DATA)
        assert in_thread(lambda: raised_by(tx.set_rate)) == [WrongThreadError]
        with pytest.raises(ValueError, match="give one of them"):
            tx.set_rate(1000, 1000)
        assert "Paced to 100 pps" in tx.explain()


# -- who waits


def test_a_sender_that_does_not_wait_says_why_and_when(rx: socket.socket) -> None:
    options = {"pps": 500, "burst": 2}
    with UdpSender(rx.getsockname(), blocking=False, max_delay=None, **options) as tx:  # type: ignore[arg-type]
        for _ in range(20):
            assert "pacing" in send_until_blocked(tx)
            wait_readable(tx.fileno())
        taken = tx.stats.datagrams
        assert taken >= 20, "a wake-up was for nothing"
        tx.drain(20)
        assert not is_readable(tx.fileno())
    check_bursts(read_arrivals(rx, taken), **options)


def test_fileno_is_not_readable_before_the_time(rx: socket.socket) -> None:
    with UdpSender(rx.getsockname(), blocking=False, max_delay=None, pps=0.01) as tx:
        send_until_blocked(tx)
        read_arrivals(rx, 1)
        time.sleep(0.05)
        assert not is_readable(tx.fileno())
        tx.set_rate()


def test_the_timer_sends_when_the_rate_allows(rx: socket.socket) -> None:
    """The program calls nothing more: five datagrams, of which a burst is four."""
    options = {"pps": 100, "burst": 4}
    with UdpSender(rx.getsockname(), **options) as tx:  # type: ignore[arg-type]
        tx.send_many([DATA] * 5)
        check_bursts(read_arrivals(rx, 5), **options)
        assert wait_until(lambda: not tx.stats.waiting)


@only_io_uring
def test_a_signal_ends_the_sleep(rx: socket.socket) -> None:
    class AlarmError(Exception):
        pass

    def alarm(number: int, frame: FrameType | None) -> None:
        raise AlarmError

    before = signal.signal(signal.SIGALRM, alarm)
    try:
        with UdpSender(rx.getsockname(), pps=0.01) as tx:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(AlarmError):
                tx.send_many([DATA] * 5)
            tx.set_rate()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@only_io_uring
def test_other_threads_run_while_it_sleeps(rx: socket.socket) -> None:
    ran = threading.Event()
    with UdpSender(rx.getsockname(), pps=10) as tx:
        thread = threading.Thread(target=ran.set)
        tx.send(DATA)
        thread.start()
        tx.send_many([DATA] * 3)
        assert ran.is_set()
        thread.join()


# -- the end


def test_close_keeps_the_rate(rx: socket.socket) -> None:
    options = {"pps": 400, "burst": 16}
    tx = UdpSender(rx.getsockname(), blocking=False, max_delay=None, **options)  # type: ignore[arg-type]
    send_until_blocked(tx)
    taken = tx.stats.datagrams
    tx.close()
    check_bursts(read_arrivals(rx, taken), **options)


def test_what_close_has_no_time_for_is_lost_with_an_error(rx: socket.socket) -> None:
    tx = UdpSender(rx.getsockname(), blocking=False, max_delay=None, pps=0.01)
    send_until_blocked(tx)
    with pytest.raises(SendError, match="could not be sent before the sender was closed") as caught:
        tx.close(timeout=0.05)
    assert caught.value.errno == errno.ETIMEDOUT


def test_a_dropped_sender_sends_what_waits(rx: socket.socket) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, warnings.catch_warnings():
        tx = UdpSender(rx.getsockname(), sock=sock, blocking=False, max_delay=None, pps=0.01)
        send_until_blocked(tx)
        taken = tx.stats.datagrams
        warnings.simplefilter("ignore")  # it was not closed
        del tx
        gc.collect()  # the exception's traceback
        assert len(read_arrivals(rx, taken)) == taken == 2


# -- what is said, and what the kernel is asked for


@pytest.mark.engines("copy")
def test_the_kernels_limit_is_above_the_payloads_rate(rx: socket.socket) -> None:
    def limit(sock: socket.socket) -> int:
        return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, 8), "little")

    with UdpSender(rx.getsockname(), rate="8Mbit") as tx:
        assert limit(tx._sock) == 4_000_000
        tx.set_rate(pps=1000)
        assert limit(tx._sock) == (1 << 64) - 1
        tx.set_rate("80Mbit")
        assert limit(tx._sock) == 40_000_000
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        before = limit(sock)
        with UdpSender(rx.getsockname(), sock=sock, rate="8Mbit"):
            assert limit(sock) == before


@pytest.mark.engines("copy")
def test_explain_says_the_rate(rx: socket.socket) -> None:
    with UdpSender(rx.getsockname(), rate="2.5Gbit", burst=200_000) as tx:
        assert "Paced to 2.5 Gbit/s of payload: trains of at most 100000 bytes" in tx.explain()
        tx.set_rate()
        assert "Paced" not in tx.explain()
    with UdpSender(rx.getsockname()) as tx:
        assert "Paced" not in tx.explain()


@pytest.mark.engines("copy")
def test_wrong_options_are_refused() -> None:
    for options in ({"rate": 1000, "pps": 1000}, {"burst": 5}, {"pps": "fast"}):
        with pytest.raises(ValueError, match=r"rate|pps"):
            UdpSender(("127.0.0.1", 9), **options)
