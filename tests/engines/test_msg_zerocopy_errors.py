"""Error queues with ICMP errors and timestamps between notifications; and limits of locked memory."""

import errno
import os
import select
import signal
import socket
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import MakePair, Pair
from marks import only_msg_zerocopy
from processes import child, run_program
from traffic import stopped, wait_readable, wait_until

import uringzc
from uringzc import testing
from uringzc.kernel import error_queue

IP_RECVERR, IPV6_RECVERR, SO_TIMESTAMPING, SCM_TIMESTAMPING = 11, 25, 37, 37
ORIGIN_LOCAL, ORIGIN_ICMP, ORIGIN_ICMP6, ORIGIN_TIMESTAMPING = 1, 2, 3, 4
TX_SOFTWARE, SOFTWARE, OPT_ID, OPT_TSONLY = 2, 16, 128, 2048
MSG_ERRQUEUE = 0x2000
REFUSED = -errno.ECONNREFUSED


@pytest.fixture
def refused() -> Iterator[socket.socket]:
    """A socket connected to a port that nobody has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tx:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as rx:
            rx.bind(("127.0.0.1", 0))
            tx.connect(rx.getsockname())
        yield tx


def errors(s: uringzc.Scheduler, sock: socket.socket) -> list[error_queue.ErrorMessage]:
    return s.errors(sock)


def unreachable() -> int:
    """ICMP messages that have come back to this machine, since it runs."""
    names, values = (
        line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Icmp: ")
    )
    return int(values[names.index("InDestUnreachs")])


def unreachable_since(before: int) -> bool:
    return unreachable() > before


def one_by_one(s: uringzc.Scheduler, sock: socket.socket, count: int, answered: bool = False) -> list[int]:
    """The results. `answered`: nobody has the port, and each send waits for the answer to the last."""
    results = []
    for i in range(count):
        before = unreachable()
        s.send(sock, bytes([i]) * 100, flush=True)
        s.submit()
        s.drain(10)
        results += [c.result for c in s.reap_completions()]
        if answered and results[-1] == 100:
            assert wait_until(partial(unreachable_since, before))
    return results


def extended(message: error_queue.ErrorMessage) -> tuple[int, ...]:
    """errno and origin of struct sock_extended_err."""
    (found,) = (
        data
        for level, kind, data in message.ancillary
        if (level, kind) in ((socket.IPPROTO_IP, IP_RECVERR), (socket.IPPROTO_IPV6, IPV6_RECVERR))
    )
    return struct.unpack_from("=IB", found)


@pytest.mark.alone  # others have ICMP errors too
@pytest.mark.parametrize("asked", [0, 1])
def test_a_pending_socket_error_fails_the_next_send(refused: socket.socket, asked: int) -> None:
    refused.setsockopt(socket.IPPROTO_IP, IP_RECVERR, asked)
    with uringzc.Scheduler() as s:
        assert one_by_one(s, refused, 6, answered=True) == [100, REFUSED] * 3
        assert len(s.reap_notifications()) == 6
        assert len(errors(s, refused)) == 3 * asked


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_icmp_errors_are_returned_as_recvmsg_has_them(make_udp: MakePair, family: int) -> None:
    v6 = family == socket.AF_INET6
    pair = make_udp(family)
    there = pair.rx.getsockname()
    pair.rx.close()
    level, option = (socket.IPPROTO_IPV6, IPV6_RECVERR) if v6 else (socket.IPPROTO_IP, IP_RECVERR)
    pair.tx.setsockopt(level, option, 1)
    with uringzc.Scheduler() as s:
        assert one_by_one(s, pair.tx, 1) == [100]
        (message,) = errors(s, pair.tx)
        assert message.data == bytes(100)
        assert extended(message) == (errno.ECONNREFUSED, ORIGIN_ICMP6 if v6 else ORIGIN_ICMP)
        assert message.flags & MSG_ERRQUEUE
        assert message.address == there
        assert errors(s, pair.tx) == []
        assert one_by_one(s, pair.tx, 1) == [100]  # once read, it is not reported again


@pytest.mark.parametrize("count", [1, 100])
def test_timestamps_are_returned_and_are_no_failures(udp_pair: Pair, count: int) -> None:
    flags = TX_SOFTWARE | SOFTWARE | OPT_ID | OPT_TSONLY
    udp_pair.tx.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, flags)
    with uringzc.Scheduler() as s:
        for _ in range(count):
            s.send(udp_pair.tx, b"x" * 100, flush=True)
        s.drain(10)
        assert sorted(n.sequence for n in s.reap_notifications()) == list(range(count))
        messages = errors(s, udp_pair.tx)
        assert {extended(m) for m in messages} == {(errno.ENOMSG, ORIGIN_TIMESTAMPING)}
        numbers = [
            struct.unpack_from("=IBBBBII", d)[-1]
            for m in messages
            for _, k, d in m.ancillary
            if k == IP_RECVERR
        ]
        assert numbers == list(range(count))
        for message in messages:
            (stamp,) = (d for level, k, d in message.ancillary if (level, k) == (socket.SOL_SOCKET, 37))
            assert any(stamp)
        assert one_by_one(s, udp_pair.tx, 1)[-1] == 100  # a timestamp is no failure


@pytest.mark.parametrize("timeout", [None, 0, 60])
def test_a_sockets_timeout_is_not_waited_for(udp_pair: Pair, timeout: float | None) -> None:
    """It stays what it is."""
    flags = TX_SOFTWARE | SOFTWARE | OPT_ID | OPT_TSONLY
    udp_pair.tx.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, flags)
    udp_pair.tx.settimeout(timeout)
    before = os.get_blocking(udp_pair.tx.fileno())
    with uringzc.Scheduler() as s:
        assert one_by_one(s, udp_pair.tx, 1) == [100]
        assert len(errors(s, udp_pair.tx)) == 1
        assert errors(s, udp_pair.tx) == []
    assert (udp_pair.tx.gettimeout(), os.get_blocking(udp_pair.tx.fileno())) == (timeout, before)


def test_each_socket_has_its_own_errors(make_udp: MakePair) -> None:
    pairs = [make_udp() for _ in range(2)]
    for pair in pairs:
        pair.tx.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        pair.rx.close()
    with uringzc.Scheduler() as s:
        for i, pair in enumerate(pairs):
            s.send(pair.tx, bytes([i]) * 10)
        s.drain(10)
        for i in (1, 0):
            assert [m.data for m in errors(s, pairs[i].tx)] == [bytes([i]) * 10]


def test_a_socket_that_never_sent_has_no_errors(udp_pair: Pair, tcp_pair: Pair) -> None:
    with uringzc.Scheduler() as s:
        assert errors(s, udp_pair.tx) == errors(s, tcp_pair.tx) == []


def test_errors_of_a_closed_socket_raise_ebadf() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.close()
    with uringzc.Scheduler() as s, pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        errors(s, sock)


@pytest.mark.parametrize("wrong", [None, 3, "socket", b"", object()], ids=lambda value: type(value).__name__)
def test_errors_of_another_type_raise_typeerror(wrong: Any) -> None:
    with uringzc.Scheduler() as s, pytest.raises(TypeError, match=r"sock must be a socket.socket, not \w+"):
        errors(s, wrong)


# In a process of its own: what failed was a use of an engine that was freed.
GONE = """
    import gc, os, socket, sys, warnings, uringzc
    warnings.simplefilter("ignore", ResourceWarning)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with uringzc.UdpSender(("127.0.0.1", 9)) as sender:
        s, closed = uringzc.Scheduler(), uringzc.Scheduler()
        closed.close()
        child = os.fork()
        if child:
            os.waitpid(child, 0)
        for engine in (closed._engine, *(() if child else (s._engine, sender._engine))):
            try:
                engine.errors(sock)
            except uringzc.ClosedError as error:
                print(error, flush=True)
        if not child:
            os._exit(0)
    print("ends")
"""


def test_errors_of_an_ended_engine_raise_closederror() -> None:
    out, said = run_program(GONE)
    parents = "belongs to the parent of this process, which forked: make a new one here"
    assert out.splitlines() == [
        "this Scheduler is closed: make a new one",  # in the child
        *(f"this Scheduler {parents}", f"this UdpSender {parents}"),
        "this Scheduler is closed: make a new one",
        "ends",
    ], said


@pytest.mark.uninstrumented("crashes on purpose")
@pytest.mark.engines("msg_zerocopy", "copy")
def test_control_unchecked_errors_of_an_ended_engine_crash() -> None:
    unguarded = """
    from uringzc.engines import base
    base.Engine._native = property(lambda self: self._out[0])
"""
    with child(unguarded + GONE) as started:
        assert started.end(-signal.SIGSEGV)[0] == ""


# The sender's rest meets an ICMP error while it is dropped, and so the error queue is read.
DROPPED = """
    import gc, socket, warnings, uringzc
    from uringzc.engines import lifetime
    warnings.simplefilter("ignore", ResourceWarning)
    other = uringzc.Scheduler()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as rx:
        rx.bind(("127.0.0.1", 0))
        to = rx.getsockname()
        s = uringzc.Scheduler()
        sender = uringzc.UdpSender(to, scheduler=s, max_delay=None)
    sender.send(b"this one the kernel refuses")
    sender.flush()
    sender.send(b"and this one fails with it")
    del s
    gc.collect()
    other.submit()
    print(len(lifetime.parked()))
    del sender
    gc.collect()
    other.close()
    print("ends")
"""


def test_an_icmp_error_while_a_sender_is_dropped_raises_nothing() -> None:
    out, said = run_program(DROPPED)
    assert out == "0\nends\n", said
    assert "Exception ignored" not in said


@only_msg_zerocopy
@testing.requires("net_admin")
def test_reading_errors_keeps_notifications(box: testing.Hold) -> None:
    """fileno() is readable with what it found, and the engine's own descriptor is closed."""
    with box.receiver_socket(), box.socket() as sock, uringzc.Scheduler() as s:
        sock.connect(box.address)
        fd = s.fileno()
        with stopped(box):
            s.send(sock, b"x", flush=True)
            s.submit()
            s.reap_completions()
            assert not select.select([fd], [], [], 0)[0]
        wait_readable(fd)
        assert errors(s, sock) == []
        wait_readable(fd)
        port = sock.getsockname()[1]
        sock.close()
        with box.socket() as other:
            other.bind(("", port))  # EADDRINUSE if the engine still held it
        assert len(s.reap_notifications()) == 1


@only_msg_zerocopy
def test_copied_is_none_where_the_kernel_merged_notifications(udp_pair: Pair) -> None:
    with uringzc.Scheduler() as s:
        for _ in range(3):
            s.send(udp_pair.tx, b"x", flush=True)
        s.submit()
        assert [n.copied for n in s.reap_notifications()] == [1, None, None]
        assert one_by_one(s, udp_pair.tx, 2)
        assert [n.copied for n in s.reap_notifications()] == [1, 1]


@only_msg_zerocopy
@testing.requires("net_admin")
def test_sends_to_a_device_are_not_copied(sink: testing.Sandbox) -> None:
    with sink.socket() as sock, uringzc.Scheduler() as s:
        sock.connect(sink.address)
        one_by_one(s, sock, 3)
        assert [n.copied for n in s.reap_notifications()] == [0, 0, 0]


MEMLOCK = """
import socket, sys, uringzc
from refusals import become_nobody
from traffic import enlarge_sndbuf
socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
for sock in socks:
    enlarge_sndbuf(sock)
    sock.connect(("10.0.0.2", 9000))
become_nobody(64 << 10)

def send(sock, count):
    for _ in range(count):
        s.send(sock, b"x" * 1000, flush=True)
    s.submit()
    print([c.result for c in s.reap_completions()] == [1000] * count, s.stats.in_flight, flush=True)

with uringzc.Scheduler() as s:
    for sock, count in zip(socks, (40, 1)):
        send(sock, count)
    sys.stdin.readline()
    s.drain()
    print("drained", flush=True)
    sys.stdin.readline()
    for sock in socks:
        send(sock, 1)
    sys.stdin.readline()
"""


@only_msg_zerocopy
@testing.requires("net_admin")
@testing.requires("unprivileged")
def test_sends_beyond_the_memlock_limit_are_copied(box: testing.Hold) -> None:
    """The rest is copied, of other sockets too, and goes zero-copy again when there is room."""
    box.stop()
    with box.receiver_socket(), child(MEMLOCK, box=box) as program:
        assert program.line() == "True 8"  # two pages each
        assert program.line() == "True 8"
        box.release()
        program.write_line()
        assert program.line() == "drained"
        box.stop()
        program.write_line()
        assert [program.line(), program.line()] == ["True 1", "True 2"]
        box.release()
        program.write_line()
        program.end()
