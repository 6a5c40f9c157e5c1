"""Sockets used before, with two engines or descriptors, closed with sends in flight, or full."""

import errno
import os
import socket
import struct
import threading
from contextlib import ExitStack
from typing import Any

import pytest
from conftest import Pair
from marks import only_msg_zerocopy, zero_copy_engines
from processes import fork
from traffic import enlarge_sndbuf, receive_exactly, received, stopped, tcp_connection

import uringzc
from uringzc import testing
from uringzc.engines.base import Engine
from uringzc.kernel import error_queue

sandboxed = testing.requires("net_admin")
SO_ZEROCOPY, MSG_ZEROCOPY, UDP_CORK = 60, 0x4000000, 1


def send(s: uringzc.Scheduler, sock: socket.socket, *data: Any, **options: Any) -> list[int]:
    """Each with a notification of its own; the results of those that have one."""
    for each in data:
        s.send(sock, each, flush=True, **options)
    s.submit()
    return [c.result for c in s.reap_completions()]


def read_to_the_end(rx: socket.socket) -> None:
    while rx.recv(1 << 16):
        pass


# -- used before


@only_msg_zerocopy
@sandboxed
@pytest.mark.parametrize("unread", [False, True])
@pytest.mark.parametrize("own", [0, 5])
def test_a_datagram_socket_may_have_sent_zero_copy_before(
    box: testing.Hold, rx: socket.socket, own: int, unread: bool
) -> None:
    with box.socket() as sock, uringzc.Scheduler() as s:
        sock.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
        sock.connect(box.address)
        for i in range(own):
            sock.send(b"own%d" % i, MSG_ZEROCOPY)
        received(rx, own)
        if not unread:
            error_queue.read(sock)
        with stopped(box):
            assert send(s, sock, b"1", b"2") == [1, 1]
            assert s.stats.in_flight == 2
            assert len(s.reap_notifications()) == 0
        s.drain(10)
        assert [n.sequence for n in s.reap_notifications()] == [0, 1]


@only_msg_zerocopy
@sandboxed
@pytest.mark.parametrize("before", [False, True])
def test_a_stream_may_have_had_so_zerocopy_before(box: testing.Hold, before: bool) -> None:
    with tcp_connection(box) as (tx, rx), uringzc.Scheduler() as s:
        if before:
            tx.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
        with stopped(box):
            assert send(s, tx, b"x" * 5000, b"y" * 5000) == [5000, 5000]
            assert s.stats.in_flight == 2
        s.drain(10)
        assert receive_exactly(rx, 10000) == b"x" * 5000 + b"y" * 5000


@only_msg_zerocopy
@sandboxed
def test_the_second_engine_of_a_socket_copies(box: testing.Hold, rx: socket.socket) -> None:
    with box.socket() as sock:
        sock.connect(box.address)
        with uringzc.Scheduler() as first, uringzc.Scheduler() as second:
            with stopped(box):
                send(first, sock, b"1", b"2")
                send(second, sock, b"3", b"4")
                send(first, sock, b"5")
                assert (first.stats.in_flight, second.stats.in_flight) == (3, 0)
                assert [n.copied for n in second.reap_notifications()] == [1, 1]
            first.drain(10)
        with uringzc.Scheduler() as third:
            with stopped(box):
                send(third, sock, b"6", b"7")
                assert third.stats.in_flight == 2
            third.drain(10)
        assert received(rx, 7) == [b"1", b"2", b"3", b"4", b"5", b"6", b"7"]


@only_msg_zerocopy
@sandboxed
def test_engines_may_use_a_socket_one_after_another(box: testing.Hold, rx: socket.socket) -> None:
    with box.socket() as sock:
        sock.connect(box.address)
        for i in range(20):
            with uringzc.Scheduler() as s:
                send(s, sock, *[b"x"] * i)
                s.drain(10)
                with stopped(box):
                    send(s, sock, b"held")
                    assert s.stats.in_flight == 1
                s.drain(10)


# -- descriptors


@zero_copy_engines
@sandboxed
def test_a_descriptor_may_be_reused_while_sends_are_in_flight(box: testing.Hold, rx: socket.socket) -> None:
    with uringzc.Scheduler() as s, ExitStack() as stack:
        with stopped(box):
            numbers = set()
            for i in range(6):
                sock = box.socket()
                numbers.add(sock.fileno())
                sock.connect(box.address)
                send(s, sock, b"%d" % i, b"+%d" % i)
                sock.close()
            assert len(numbers) < 6
            assert s.stats.in_flight == 12
            last = stack.enter_context(box.socket())
            send(s, last, b"last", to=box.address)
        s.drain(10)
        assert len(received(rx, 13)) == 13
        assert sorted(n.sequence for n in s.reap_notifications()) == list(range(13))


@sandboxed
def test_waiting_requests_of_a_closed_socket_leave_through_it(
    box: testing.Hold, rx: socket.socket, tcp_pair: Pair
) -> None:
    with uringzc.Scheduler() as s:
        with stopped(box):
            sock = box.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20000)
            send(s, sock, *[b"x" * 1000] * 40, to=box.address)
            assert s.stats.in_flight > 8
            number = sock.fileno()
            sock.close()
            assert os.dup2(tcp_pair.tx.fileno(), number) == number
        s.drain(10)
        os.close(number)
        assert received(rx, 40) == [b"x" * 1000] * 40
        assert tcp_pair.empty()


@zero_copy_engines
@sandboxed
def test_two_descriptors_of_a_socket_share_its_ids(box: testing.Hold, rx: socket.socket) -> None:
    with box.socket() as sock, uringzc.Scheduler() as s:
        sock.connect(box.address)
        other = sock.dup()
        with stopped(box):
            for i in range(6):
                assert send(s, other if i % 2 else sock, b"%d" % i) == [1]
            assert s.stats.in_flight == 6
            other.close()
            send(s, sock, b"6")
        s.drain(10)
        assert received(rx, 7) == [b"%d" % i for i in range(7)]


# -- full sockets


@zero_copy_engines
@sandboxed
def test_a_full_socket_does_not_block_others(
    box: testing.Hold, rx: socket.socket, udp_pair: Pair, engine: str
) -> None:
    with box.socket() as sock, uringzc.Scheduler() as s:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20000)
        sock.connect(box.address)
        with stopped(box):
            for i in range(40):
                s.send(sock, b"%3d" % i * 300, user_data=i)
                s.send(udp_pair.tx, b"%d" % i, user_data=100 + i, slot=0)
            s.submit()
            assert udp_pair.receive(40) == [b"%d" % i for i in range(40)]
            done = {c.user_data for c in s.reap_completions()}
            assert set(range(100, 140)) <= done
            assert len(done) < 80
        s.drain(10)
        came = received(rx, 40)  # a ring's requests that wait may overtake each other
        assert (sorted(came) if engine == "io_uring" else came) == [b"%3d" % i * 300 for i in range(40)]


@only_msg_zerocopy
@sandboxed
@pytest.mark.parametrize("abort", [False, True])
def test_closing_with_linger_0_resets_the_connection(box: testing.Hold, abort: bool) -> None:
    with box.receiver_socket(type=socket.SOCK_STREAM, port=0) as listener, uringzc.Scheduler() as s:
        listener.listen(1)
        tx = box.socket(type=socket.SOCK_STREAM)
        enlarge_sndbuf(tx)
        tx.connect(listener.getsockname())
        rx, _ = listener.accept()
        with rx:
            rx.settimeout(20)
            with stopped(box):
                send(s, tx, b"x" * 5000)
                assert s.stats.in_flight == 1
                tx.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", abort, 0))
                tx.close()
                s.reap_completions()
                assert s.stats.in_flight == 1
            if not abort:
                s.drain(10)
                assert receive_exactly(rx, 5000) == b"x" * 5000
                assert rx.recv(1) == b""
                return
            s.drain(10)
            with pytest.raises(ConnectionResetError):
                read_to_the_end(rx)


@only_msg_zerocopy
@sandboxed
def test_linger_0_releases_memory_of_a_peer_that_stopped_reading(box: testing.Hold) -> None:
    with tcp_connection(box, window=4096) as (tx, _), uringzc.Scheduler() as s:
        assert send(s, tx, *[b"x" * 100_000] * 5) == [100_000] * 5
        assert s.stats.in_flight == 5
        tx.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        tx.close()
        s.drain(10)


@only_msg_zerocopy
@sandboxed
def test_linger_0_does_not_reset_a_socket_with_another_descriptor(box: testing.Hold) -> None:
    with box.receiver_socket(type=socket.SOCK_STREAM, port=0) as listener, uringzc.Scheduler() as s:
        listener.listen(1)
        tx = box.socket(type=socket.SOCK_STREAM)
        tx.connect(listener.getsockname())
        rx, _ = listener.accept()
        with rx, tx.dup() as other:
            rx.settimeout(20)
            with stopped(box):
                send(s, tx, b"x" * 5000)
                tx.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                tx.close()
                s.reap_completions()
                assert s.stats.in_flight == 1
            s.drain(10)
            other.sendall(b"and this")
            assert receive_exactly(rx, 5008) == b"x" * 5000 + b"and this"


@only_msg_zerocopy
@sandboxed
def test_linger_0_is_found_among_many_connections(box: testing.Hold) -> None:
    """All are asked before the engine sleeps: nothing else would wake it."""
    with box.receiver_socket(type=socket.SOCK_STREAM, port=0) as listener, uringzc.Scheduler() as s:
        listener.listen(300)
        pairs = []
        for _ in range(300):
            tx = box.socket(type=socket.SOCK_STREAM)
            tx.connect(listener.getsockname())
            pairs.append((tx, listener.accept()[0]))
        with stopped(box):
            for tx, _ in pairs:
                send(s, tx, b"x" * 1000)
                tx.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            assert s.stats.in_flight == 300
            pairs[0][0].close()
            s.reap_notifications(wait=1, timeout=0.01)
        s.drain(10)
        with pytest.raises(ConnectionResetError):
            read_to_the_end(pairs[0][1])
        for tx, rx in pairs:
            tx.close()
            rx.close()


@pytest.mark.slow
@sandboxed
def test_waiting_does_not_poll_in_a_loop(
    box: testing.Hold, rx: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered = 0
    enter = Engine._enter

    def counted(self: Engine, *args: int) -> int:
        nonlocal entered
        entered += 1
        return enter(self, *args)

    monkeypatch.setattr(Engine, "_enter", counted)
    with box.socket() as sock, uringzc.Scheduler() as s:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20000)
        sock.connect(box.address)
        box.stop()
        timer = threading.Timer(0.3, box.release)
        timer.start()
        for _ in range(40):
            s.send(sock, b"x" * 1000)
        s.drain(20)
        timer.join()
        assert entered < 200, entered


# -- datagrams of nothing, and in parts


def test_empty_datagrams_arrive_between_others(udp_pair: Pair) -> None:
    data = [b"", b"1", b"", b"", b"2", b""]
    with uringzc.Scheduler() as s:
        for _ in range(20):
            assert send(s, udp_pair.tx, *data) == [0, 1, 0, 0, 1, 0]
            assert udp_pair.receive(6) == data
            s.drain(10)
            assert len(s.reap_notifications()) == 6


@pytest.mark.parametrize("failing", [False, True])
def test_corked_parts_are_one_datagram(udp_pair: Pair, failing: bool) -> None:
    with uringzc.Scheduler() as s:
        for _ in range(3):
            udp_pair.tx.setsockopt(socket.IPPROTO_UDP, UDP_CORK, 1)
            parts = [b"a" * 1000, b"b" * 100, b"c"]
            if failing:
                parts.append(b"d" * 65000)
            results = send(s, udp_pair.tx, *parts)
            assert results[:3] == [1000, 100, 1]
            assert results[3:] == [-errno.EMSGSIZE][: len(parts) - 3]
            udp_pair.tx.setsockopt(socket.IPPROTO_UDP, UDP_CORK, 0)
            if not failing:
                assert udp_pair.receive(1) == [b"".join(parts)]
            s.drain(10)
            assert udp_pair.empty()
            assert send(s, udp_pair.tx, b"whole") == [5]
            assert udp_pair.receive(1) == [b"whole"]
            s.drain(10)


# -- families, forks


@zero_copy_engines
@sandboxed
@pytest.mark.parametrize("host", ["v6", "mapped"])
def test_failed_sends_use_up_ids_over_ipv6_too(box: testing.Hold, host: str) -> None:
    family = socket.AF_INET6 if host == "v6" else socket.AF_INET
    to = box.address6 if host == "v6" else ("::ffff:" + box.address[0], box.address[1])
    with box.receiver_socket(family) as rx, box.socket(socket.AF_INET6) as sock, uringzc.Scheduler() as s:
        rx.settimeout(10)
        for _ in range(2):
            with stopped(box):
                assert send(s, sock, b"1", b"2", to=to) == [1, 1]
                s.send(sock, b"x" * 4000, to=to, segment=2000, flush=True)  # uses up a number
                s.submit()
                assert [c.result for c in s.reap_completions()] == [-errno.EMSGSIZE]
                assert send(s, sock, b"3", to=to) == [1]
                assert s.stats.in_flight == 3
            s.drain(10)
            assert received(rx, 3) == [b"1", b"2", b"3"]


@only_msg_zerocopy
@sandboxed
def test_a_forked_child_copies_and_the_parent_goes_on(box: testing.Hold, rx: socket.socket) -> None:
    with box.socket() as sock, uringzc.Scheduler() as s:
        sock.connect(box.address)
        with stopped(box):
            send(s, sock, b"1", b"2")
            child = fork()
            if not child:
                code = 1
                try:
                    with uringzc.Scheduler() as own:  # the parent's socket: copies
                        code = 2 * (send(own, sock, b"child") != [5]) + 4 * (own.stats.in_flight != 0)
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            send(s, sock, b"3")
            assert s.stats.in_flight == 3
        s.drain(10)
        assert received(rx, 4) == [b"1", b"2", b"child", b"3"]
        assert len(s.reap_notifications()) == 3
