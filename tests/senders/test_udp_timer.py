"""The timer: what it costs, what it survives, how senders end with it, and senders that have none."""

import errno
import gc
import socket
import threading
import time
import warnings
import weakref
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from processes import run_program
from traffic import free_port, send_until_one_waits, wait_until

import uringzc
from uringzc import SendError, UdpSender, testing
from uringzc._send import UdpBatcher, late
from uringzc.senders import timer
from uringzc.senders.udp_slow_path import PATIENCE

NAME = "uringzc timer"


def timers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == NAME]


def wake_ups() -> int:
    """How often the timer's thread has slept."""
    total = 0
    for thread in timers():
        status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
        total += int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return total


# -- what it costs


@pytest.mark.slow
def test_a_lone_datagram_wakes_it_twice() -> None:
    """When it begins to wait, and when it is late; and an idle sender never does."""
    count = 10
    with testing.receiver(thread=False) as rx, UdpSender(rx.address) as tx:
        tx.send(b"first")
        rx.wait(1)
        before = wake_ups()
        for number in range(count):
            tx.send(b"x")
            rx.wait(number + 2)
            time.sleep(0.03)  # a program that sends little
        assert wake_ups() - before <= 2 * count + 5


def test_one_thread_serves_every_sender() -> None:
    with testing.receiver() as rx, ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(UdpSender(rx.address)).send(b"x")
        rx.wait(5)
        assert len(timers()) == 1


@pytest.mark.slow
@testing.requires("net_admin")
def test_retries_get_rarer() -> None:
    """Behind the first datagram to a neighbour that does not answer: 0.2 s, at a max_delay of 1 ms."""
    with testing.hold() as net, net.run(lambda: UdpSender(net.address)) as tx:
        net.stop()
        net.forget_neighbour()
        tx.send(b"first")
        assert wait_until(lambda: not tx.stats.waiting)
        before = wake_ups()
        tx.send(b"second")
        assert wait_until(lambda: not tx.stats.waiting)
        assert wake_ups() - before <= 50


@pytest.mark.slow
@testing.requires("net_admin")
def test_a_full_queue_is_retried_and_loses_nothing() -> None:
    """The timer does not sleep where it would keep others waiting, and tries again."""
    with (
        testing.hold() as net,
        testing.receiver(sock=net.receiver_socket()) as rx,
        net.socket() as filler,
        net.run(lambda: UdpSender(net.address)) as tx,
    ):
        for count in (1, 2):  # the second finds out that the first has arrived
            tx.send(b"warm")
            rx.wait(count)
        net.limit(20_000)
        net.stop()
        filler.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR: a full queue is reported
        filled = 0
        with suppress(OSError):
            while filler.sendto(bytes(1400), net.address):
                filled += 1
        tx.send(b"waits".ljust(1400))
        time.sleep(1.5 * PATIENCE)  # longer than a call of the program waits for it
        assert (tx.stats.waiting, tx.stats.lost) == (1, 0)
        net.limit()
        net.release()
        assert rx.wait(2 + filled + 1)[-1] == b"waits".ljust(1400)


# -- what it survives


def test_an_icmp_error_does_not_end_the_timer() -> None:
    """What the peer's host answers is read by the owner; max_delay is kept meanwhile, and after."""
    address = ("127.0.0.1", free_port())
    with UdpSender(address) as tx:
        for number in range(20):
            tx.send(b"x")
            assert wait_until(lambda: not tx.stats.waiting, 5), f"datagram {number} waits"
        with pytest.raises(SendError) as caught:
            tx.flush()
        reported = [caught.value, *caught.value.others]
        assert {(error.errno, error.index) for error in reported} == {(errno.ECONNREFUSED, -1)}
        # None, "where the socket is connected to": of one that was in the queue when the one before was read
        assert {error.to for error in reported} <= {address, None}
        assert tx.stats.lost == 0


def test_a_closed_socket_does_not_end_the_timer() -> None:
    with testing.receiver() as rx, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(rx.address)
        with UdpSender(rx.address) as other:
            tx = UdpSender(sock=sock, max_delay=0.01)
            sent = send_until_one_waits(tx, b"waits") - 1
            sock.close()
            for number in range(4):
                sent += send_until_one_waits(other, b"%d" % number)
                rx.wait(sent)
            with pytest.raises(OSError, match="closed"):
                tx.close()


def test_a_long_call_does_not_delay_other_senders(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timer passes it by, serves the others, and comes back when the call has ended: not before."""
    real = socket.getaddrinfo
    came: list[object] = []

    def counted() -> UdpBatcher:
        came.append(None)
        return late()

    monkeypatch.setattr(timer, "late", counted)
    with testing.receiver() as rx, testing.receiver() as elsewhere, ExitStack() as stack:
        tx, other = (stack.enter_context(UdpSender(to.address)) for to in (rx, elsewhere))

        def slow(*args: Any) -> Any:
            for _ in range(3):  # it comes for the first sender's too, and finds it inside
                count = elsewhere.count
                elsewhere.wait(count + send_until_one_waits(other, b"served"))
            return real(*args)

        sent = send_until_one_waits(tx, b"first")
        monkeypatch.setattr(socket, "getaddrinfo", slow)
        tx.send(b"second", ("localhost", rx.address[1]))
        assert rx.wait(sent + 1) == [b"first"] * sent + [b"second"]
        assert len(came) <= 20  # it was late for the others six times, and once in vain


def test_memory_is_released_by_the_owner_thread() -> None:
    """That may run code of the program's, which the timer does not."""
    dropped: list[str] = []

    class Memory(bytearray):
        def __del__(self) -> None:
            dropped.append(threading.current_thread().name)

    with testing.receiver() as rx, UdpSender(rx.address) as tx:
        tx.send_region(Memory(100_000), segment=1000)
        assert wait_until(lambda: not tx.stats.waiting)
        assert not dropped
        tx.flush()
        tx.drain()
        assert dropped == ["MainThread"]


# -- how senders end with it


def test_senders_may_be_dropped_while_the_timer_sends() -> None:
    """What they took arrives, and dropping them waits for nobody."""
    count = 300

    def drop(number: int) -> None:
        tx = UdpSender(rx.address, sock=sock, scheduler=s, max_delay=1e-6)
        tx.send(b"%d" % number)

    with (
        testing.receiver() as rx,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        uringzc.Scheduler() as s,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # they were not closed
        for number in range(count):
            drop(number)
        assert sorted(rx.wait(count)) == sorted(b"%d" % number for number in range(count))


@pytest.mark.slow
def test_what_waits_is_sent_when_the_interpreter_exits() -> None:
    """The timer's thread sleeps then; what waits is sent."""
    program = """
    import sys, threading, uringzc
    ready = threading.Barrier(3)
    def send():
        tx = uringzc.UdpSender(("127.0.0.1", int(sys.argv[1])), max_delay=3600)
        tx.send(b"last")
        ready.wait()
        return tx
    def stay():
        tx = send()
        threading.Event().wait()
    for _ in range(2):
        threading.Thread(target=stay, daemon=True).start()
    tx = send()
    """
    with testing.receiver() as rx:
        _, errors = run_program(program, rx.address[1])
        assert rx.wait(3) == [b"last"] * 3
        assert {line for line in errors.splitlines() if "ResourceWarning" not in line} == set()


@pytest.mark.slow
def test_a_forked_child_has_its_own_timer() -> None:
    """Also where the parent's was at work at that moment."""
    program = """
    import os, sys, warnings, uringzc
    from traffic import send_until_one_waits, wait_until
    warnings.simplefilter("ignore", DeprecationWarning)
    address = ("127.0.0.1", int(sys.argv[1]))
    tx = uringzc.UdpSender(address, max_delay=1e-6)
    for _ in range(10):
        tx.send(b"parent")
        child = os.fork()
        if not child:
            own = uringzc.UdpSender(address)
            own.send(b"child")
            os._exit(0 if wait_until(lambda: not own.stats.waiting) else 1)
        assert os.waitpid(child, 0)[1] == 0
    tx.close()
    """
    with testing.receiver() as rx:
        run_program(program, rx.address[1])
        assert sorted(rx.wait(20)) == [b"child"] * 10 + [b"parent"] * 10


def test_a_sender_whose_socket_is_closed_can_be_dropped() -> None:
    """It ends all the same, and nothing is raised that nobody could catch."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, testing.receiver() as rx:
        sock.connect(rx.address)
        tx = UdpSender(sock=sock, max_delay=None)
        tx.send(b"x")
        sock.close()
        gone = weakref.ref(tx)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it was not closed
            del tx
            gc.collect()
        assert gone() is None
        with uringzc.Scheduler() as s:
            s.submit()


# -- no thread


NO_THREAD = """
import encodings.idna, resource, socket, time, uringzc
from refusals import become_nobody
from traffic import send_until_one_waits, wait_until
rx = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
rx.bind(("127.0.0.1", 0))
rx.settimeout(10)
become_nobody()
hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
resource.setrlimit(resource.RLIMIT_NPROC, (0, hard))
tx = uringzc.UdpSender(rx.getsockname(), max_inflight=64, arena=256 << 10, max_delay=0.01)
"""


@pytest.mark.slow
@testing.requires("unprivileged")
def test_without_a_thread_the_next_call_keeps_max_delay() -> None:
    """max_delay is kept by the sender's next call, and explain() says so; later there is a thread again."""
    program = NO_THREAD + (
        "sent = send_until_one_waits(tx, b'one')\n"
        "assert 'RLIMIT_NPROC' in tx.explain(), tx.explain()\n"
        "time.sleep(0.02)\n"  # too long, and nobody is there
        "assert tx.stats.waiting == 1\n"
        "lease = tx.lease(10)\n"  # any call of the sender
        "for _ in range(sent): assert rx.recv(9) == b'one'\n"
        "assert tx.stats.waiting == 0\n"
        "lease.release()\n"
        "sent = send_until_one_waits(tx, b'two'); tx.send(b'six')\n"
        "time.sleep(0.02)\n"
        "tx.send(b'ten')\n"
        "for _ in range(sent): assert rx.recv(9) == b'two'\n"
        "print(rx.recv(9).decode())\n"
        "resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))\n"
        "tx.flush(); print(rx.recv(9).decode())\n"
        "other = uringzc.UdpSender(rx.getsockname())\n"  # which starts the thread, and lets it sleep again
        "other.send(b'other'); print(rx.recv(9).decode())\n"
        "sent = 0\n"
        "while 'RLIMIT_NPROC' in tx.explain():\n"
        "    sent += bool(tx.send(b'x'))\n"
        "    time.sleep(0.005)\n"
        "for _ in range(sent): rx.recv(9)\n"  # also what waited when the sender got its timer
        "print('all')\n"
        "other.close(); tx.close(); rx.close()\n"
    )
    out, errors = run_program(program)
    assert out.split() == ["six", "ten", "other", "all"]
    assert not errors


@pytest.mark.slow
@testing.requires("unprivileged")
def test_a_program_without_threads_sends_everything() -> None:
    program = (
        NO_THREAD
        + "for _ in range(1000): tx.send(b'x' * 100)\ntx.close(); rx.close(); print(tx.stats.datagrams)"
    )
    out, errors = run_program(program)
    assert out.split() == ["1000"]
    assert not errors
