"""When datagrams are sent: by the timer, at the end of a program however it ends, and with a full arena."""

import gc
import os
import select
import socket
import threading
import time
import warnings
from typing import Any

import pytest
from marks import only_io_uring, zero_copy_engines
from processes import run_program
from traffic import stopped, warm_up

import uringzc
from uringzc import testing


def quiet(rx: testing.Receiver) -> bool:
    return not select.select([rx.sock], [], [], 0)[0]


# -- the timer


@pytest.mark.parametrize("count", [1, 3, 200])
def test_the_timer_sends_what_waits(count: int) -> None:
    with testing.receiver() as rx, uringzc.UdpSender(rx.address) as tx:
        sent = [b"%04d" % number for number in range(count)]
        for datagram in sent:
            tx.send(datagram)
        assert rx.wait(count) == sent  # the program does not call again
        for datagram in sent:
            tx.send(datagram)
        assert rx.wait(2 * count) == sent + sent


def test_control_without_max_delay_it_waits() -> None:
    with testing.receiver(thread=False) as rx, uringzc.UdpSender(rx.address, max_delay=None) as tx:
        tx.send(b"stays")
        time.sleep(0.05)  # fifty times what the timer would have waited
        assert quiet(rx)
        assert tx.stats.waiting == 1
        tx.flush()
        assert rx.wait(1) == [b"stays"]


@pytest.mark.parametrize("delay", [1e-9, 1e-12])
def test_the_shortest_max_delay_is_kept(delay: float) -> None:
    """Not none, although it is less than the clock's resolution."""
    with testing.receiver() as rx, uringzc.UdpSender(rx.address, max_delay=delay) as tx:
        tx.send(b"soon")
        assert rx.wait(1) == [b"soon"]


def test_senders_that_share_a_scheduler_have_a_timer_too() -> None:
    with testing.receiver() as rx, uringzc.Scheduler() as s:
        some = [uringzc.UdpSender(rx.address, scheduler=s) for _ in range(3)]
        for number, tx in enumerate(some):
            tx.send(b"%d" % number)
        assert sorted(rx.wait(3)) == [b"0", b"1", b"2"]


def test_the_timer_does_not_wait_for_an_iterable_that_takes_its_time() -> None:
    with testing.receiver() as rx, uringzc.UdpSender(rx.address) as tx:

        def slowly() -> object:
            yield b"first"
            assert rx.wait(1) == [b"first"]  # although send_many has not returned
            yield b"second"

        assert tx.send_many(slowly()) == 2  # type: ignore[arg-type]


def test_the_timer_keeps_the_order_under_load() -> None:
    """It comes in between, again and again, and never sends what is behind before what is in front."""
    count = 30_000
    with testing.receiver() as rx, uringzc.UdpSender(rx.address, max_delay=0.0001) as tx:
        sent = [b"%06d" % number for number in range(count)]
        for at in range(0, count, 100):
            for datagram in sent[at : at + 100]:
                tx.send(datagram)
            rx.wait(max(0, at - 2000))  # the receiver keeps up
        assert rx.wait(count) == sent
        assert tx.stats.syscalls > 0


# -- how a program ends

ENDS = {
    "the interpreter exits": "tx.send(b'last')",
    "an exception ends it": "tx.send(b'last'); raise SystemExit(0)",
    "it is dropped": "tx.send(b'last'); del tx; gc.collect()",
    "its thread ends": "del tx; t = threading.Thread(target=elsewhere); t.start(); t.join()",
    "a daemon thread is left": "del tx; t = threading.Thread(target=stays, daemon=True); t.start(); e.wait()",
    "its scheduler is closed": "s = uringzc.Scheduler(); tx = make(scheduler=s); tx.send(b'last'); s.close()",
}
PROGRAM = """
import gc, sys, threading, warnings, uringzc
warnings.simplefilter("ignore")
def make(**more):
    return uringzc.UdpSender(("127.0.0.1", int(sys.argv[1])), max_delay=None, **more)
kept = []
e = threading.Event()
def elsewhere():
    kept.append(make())
    kept[0].send(b"last")
def stays():
    elsewhere()
    e.set()
    threading.Event().wait()
tx = make()
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
def test_what_was_taken_is_sent_however_the_program_ends(end: str) -> None:
    with testing.receiver() as rx:
        run_program(PROGRAM + ENDS[end], rx.address[1])
        assert rx.wait(1) == [b"last"]


@pytest.mark.slow
def test_a_fork_sends_nothing_twice() -> None:
    program = PROGRAM + (
        "import os\ntx.send(b'one')\npid = os.fork()\n"
        "if not pid:\n"
        "    try: tx.send(b'two')\n"
        "    except uringzc.ClosedError: os._exit(7 if tx.closed or True else 0)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])); tx.send(b'end'); tx.close()"
    )
    with testing.receiver() as rx:
        out, _ = run_program(program, rx.address[1])
        assert out.strip() == "7"
        assert rx.wait(2) == [b"one", b"end"]
        assert quiet(rx)


def test_closing_a_sender_that_can_not_send_says_what_was_lost(box: testing.Hold) -> None:
    with box.socket() as sock:
        sock.connect(box.address)
        tx = uringzc.UdpSender(sock=sock, max_delay=None)
        tx.send(b"x")
        sock.close()
        with pytest.raises(OSError, match="closed") as caught:
            tx.flush()
        assert caught.value.errno == 9  # EBADF
        with pytest.raises(OSError, match=r"closed|could not be sent"):
            tx.close()
        assert tx.closed
        tx.close()


# -- the arena


def test_an_arena_full_of_leases_is_named_in_the_error(box: testing.Hold) -> None:
    with testing.receiver() as rx, uringzc.UdpSender(rx.address, arena=256 << 10) as tx:
        leases = [tx.lease(32 << 10) for _ in range(8)]
        with pytest.raises(BlockingIOError, match="leases"):
            tx.lease(1)
        with pytest.raises(BlockingIOError, match="leases"):
            tx.send(b"no place")
        leases.pop().send(4)
        assert tx.send(b"place") == 5


@zero_copy_engines
def test_one_slow_notification_holds_one_block(box: testing.Hold) -> None:
    """The arena goes round and round for others, while the kernel keeps a datagram for one."""
    near = ("10.0.0.1", 9100)  # this side of the gate: loopback
    with (
        testing.receiver(sock=box.run(lambda: bound(near))) as rx,
        testing.receiver(sock=box.receiver_socket()) as far,
        box.run(lambda: uringzc.UdpSender(box.address, arena=256 << 10, zero_copy="always")) as tx,
    ):
        warm_up(tx, far)
        with stopped(box):
            tx.send(bytes(1400))
            tx.flush()
            for _ in range(2000):  # ten times the arena
                tx.sendto(bytes(1400), near)
            tx.flush()
            rx.wait(2000)
            assert tx.stats.in_flight >= 1
            assert tx.stats.waits < 500
        far.wait(2)
        tx.drain(5)


def bound(address: tuple[str, int]) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
    sock.bind(address)
    return sock


@zero_copy_engines
def test_a_full_arena_waits_for_the_network_and_loses_nothing(box: testing.Hold) -> None:
    count = 1000
    with (
        testing.receiver(sock=box.receiver_socket()) as rx,
        box.run(lambda: uringzc.UdpSender(box.address, arena=256 << 10, zero_copy="always")) as tx,
    ):
        tx.send(bytes(1000))
        tx.flush()
        rx.wait(1)
        box.stop()
        release = threading.Timer(0.05, box.release)
        release.start()
        sent = [b"%04d" % number + bytes(996) for number in range(count)]
        tx.send_many(sent)
        tx.flush()
        release.join()
        assert rx.wait(count + 1)[1:] == sent
        assert tx.stats.waits > 0


def test_open_notifiers_of_the_program_can_block_a_sender(udp_pair: tuple[socket.socket, ...]) -> None:
    with testing.receiver() as rx, uringzc.Scheduler(max_inflight=8, completions="none") as s:
        tx = uringzc.UdpSender(rx.address, scheduler=s, zero_copy="always", max_delay=None)
        for _ in range(8):
            s.send(udp_pair[0], b"not flushed")
        s.submit()
        tx.send(b"waits")
        with pytest.raises(BlockingIOError):
            tx.flush()
        s.flush(0)
        s.drain()
        assert len(s.reap_notifications()) == 1
        tx.flush()
        assert rx.wait(1) == [b"waits"]


def test_many_senders_share_an_arena_that_has_not_a_block_for_each() -> None:
    with testing.receiver() as rx, uringzc.Scheduler() as s:
        some = [
            uringzc.UdpSender(rx.address, scheduler=s, max_delay=None, arena=256 << 10) for _ in range(40)
        ]
        for turn in range(3):
            for number, tx in enumerate(some):
                tx.send(b"%d %d" % (turn, number))
        for tx in some:
            tx.flush()
        assert len(rx.wait(120)) == 120


# -- nobody comes back for what waits


def drop_while_stopped(box: testing.Hold, sent: list[bytes], **options: Any) -> tuple[int, list[str]]:
    """How many of `sent` come from a sender that is dropped, and the warnings of what it could not send."""
    box.release()
    with (
        testing.receiver(sock=box.receiver_socket()) as rx,
        box.socket() as sock,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        sock.connect(rx.address)
        tx = uringzc.UdpSender(sock=sock, **options)
        box.stop()
        tx.send_many(sent)
        del tx
        gc.collect()
        box.release()
        sock.send(b"last")
        while b"last" not in (came := rx.datagrams):
            rx.wait(len(came) + 1)
    assert came == [*sent[: len(came) - 1], b"last"]
    return len(came) - 1, [str(each.message) for each in caught if "could not be sent" in str(each.message)]


@pytest.mark.parametrize("max_delay", [None, 0.001])
def test_a_dropped_sender_does_not_wait_for_a_first_datagram_to_arrive(
    box: testing.Hold, max_delay: float | None
) -> None:
    sent = [bytes([number]) * 1473 for number in range(5)]  # no trains: larger than the path takes
    assert drop_while_stopped(box, sent, max_delay=max_delay) == (5, [])


def test_what_a_dropped_sender_has_no_room_for_is_lost_with_a_warning(box: testing.Hold) -> None:
    sent = [bytes(1473 + number) for number in range(40)]
    came, said = drop_while_stopped(box, sent, max_delay=None, sndbuf=4608)
    assert 0 < came < 40
    lost = f"{40 - came} datagrams of a UdpSender that was not closed could not be sent: "
    assert [text.startswith(lost) for text in said] == [True]


# -- limits


@pytest.mark.slow
@only_io_uring
@testing.requires("unprivileged")
@pytest.mark.parametrize("kib", [8192, 1024, 320, 64])
def test_an_arena_that_may_not_be_locked_is_smaller_or_not_registered(kib: int) -> None:
    """The ring itself counts against the limit as well."""
    program = """
import encodings.idna, sys, uringzc
from refusals import become_nobody
become_nobody(int(sys.argv[2]) << 10)
try:
    with uringzc.UdpSender(("127.0.0.1", int(sys.argv[1])), max_inflight=64) as tx:
        for number in range(100): tx.send(b"%04d" % number + bytes(996))
        tx.flush()
        print(tx.explain())
except OSError as error:
    print(error)
"""
    with testing.receiver() as rx:
        out, _ = run_program(program, rx.address[1], kib)
        if "RLIMIT_MEMLOCK" in out and "UdpSender" not in out and "arena" not in out:
            assert kib < 256  # not even the ring
            return
        assert len(rx.wait(100)) == 100
        assert ("not registered" in out) == (kib < 320)
        assert ("arena of 4096 KiB" in out) == (kib > 4096)


def test_a_failed_constructor_leaves_nothing() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for wrong in (
        {"zero_copy": "maybe"},
        {"arena": 1},
        {"max_delay": -1},
        {"ttl": 256},
        {"interface": "no-such-device"},
        {"bind": ("192.0.2.1", 1)},
        {"family": 1},
        {"remote": ("127.0.0.1", 70000)},
    ):
        with pytest.raises((ValueError, OSError)):
            uringzc.UdpSender(**wrong)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
