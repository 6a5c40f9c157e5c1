"""TcpSender and what its peer does: reads slowly, not at all, resets, closes, vanishes, answers."""

import errno
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from conftest import Pair
from held_memory import CountedBytes
from marks import zero_copy_engines
from traffic import StreamReader, receive_exactly, stopped, tcp_connection, wait_until

from uringzc import Scheduler, SendError, TcpSender, testing

if TYPE_CHECKING:
    from typing_extensions import Buffer

each_way = pytest.mark.parametrize("zero_copy", ["always", "never"])
SIZE = 1 << 20
BLOCK = bytes(range(256)) * (SIZE // 256)


@contextmanager
def narrow() -> Iterator[Pair]:
    """A connection with little room at both ends; but for many segments, else TCP waits for its timers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
        with socket.socket() as tx:
            tx.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1000)
            tx.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
            tx.connect(listener.getsockname())
            rx, _ = listener.accept()
            with rx:
                rx.settimeout(20)
                yield Pair(tx, rx)


# -- it reads slowly


@each_way
def test_a_peer_that_reads_slowly_gets_everything(engine: str, zero_copy: str) -> None:
    with narrow() as pair, StreamReader(pair.rx, 3000) as read:
        with TcpSender(pair.tx, engine=engine, zero_copy=zero_copy) as s:
            assert s.send(BLOCK) == SIZE
            assert s.send_buffers([BLOCK[:99999], bytearray(BLOCK), b"end"]) == 99999 + SIZE + 3
            assert s.stats.waits > 1
            s.shutdown()
        assert read.end() == BLOCK + BLOCK[:99999] + BLOCK + b"end"


def test_control_two_requests_at_once_are_out_of_order(engine: str) -> None:
    with narrow() as pair, StreamReader(pair.rx, 3000) as read:
        with Scheduler(engine=engine) as s:
            s.send(pair.tx, b"1" * SIZE, user_data=1)
            s.send(pair.tx, b"2" * SIZE, user_data=2, flush=True)
            first, second = sorted(s.reap_completions(wait=2))
        pair.tx.shutdown(socket.SHUT_WR)
        assert 0 < first.result < SIZE
        assert read.end() == b"1" * first.result + b"2" * second.result


@each_way
@pytest.mark.parametrize("mode", ["O_NONBLOCK", "a timeout"])
def test_the_sockets_own_timeout_is_ignored(engine: str, zero_copy: str, mode: str) -> None:
    with narrow() as pair:
        pair.tx.settimeout(0.0 if mode == "O_NONBLOCK" else 0.001)
        with StreamReader(pair.rx, 3000) as read, TcpSender(pair.tx, engine=engine, zero_copy=zero_copy) as s:
            assert s.send(BLOCK) == SIZE
            assert s.stats.waits > 1
            s.shutdown()
        assert read.end() == BLOCK


def test_a_socket_that_is_still_connecting_is_waited_for(box: testing.Hold, engine: str) -> None:
    with (
        box.receiver_socket(type=socket.SOCK_STREAM, port=0) as listener,
        box.socket(type=socket.SOCK_STREAM) as tx,
    ):
        listener.listen(1)
        tx.setblocking(False)
        box.stop()
        assert tx.connect_ex(listener.getsockname()) == errno.EINPROGRESS
        release = threading.Timer(0.05, box.release)
        release.start()
        with TcpSender(tx, engine=engine) as s:
            s.send(b"at last")
            release.join()
            assert s.stats.waits > 0
            rx, _ = listener.accept()
            with rx:
                assert rx.recv(100) == b"at last"


# -- without waiting


@each_way
def test_non_blocking_sends_take_a_part(engine: str, zero_copy: str) -> None:
    with narrow() as pair, TcpSender(pair.tx, engine=engine, zero_copy=zero_copy, blocking=False) as s:
        assert select.select([s], [], [], 20)[0]
        at = refused = 0
        received = bytearray()
        while at < SIZE:
            try:
                taken = s.send(memoryview(BLOCK)[at:])
                assert taken > 0
                at += taken
            except BlockingIOError:
                refused += 1
                ready = select.select([s.fileno(), pair.rx.fileno()], [], [], 20)[0]
                assert ready
                if pair.rx.fileno() in ready:
                    received += pair.rx.recv(1 << 16)
        assert refused > 1
        assert s.stats.nbytes == SIZE
        s.shutdown()
        while got := pair.rx.recv(1 << 16):
            received += got
        assert received == BLOCK
        assert wait_until(lambda: s.stats.in_flight == 0 or s.flush().done)
        s.drain()


@each_way
def test_non_blocking_send_buffers_takes_a_part(engine: str, zero_copy: str) -> None:
    pieces: list[Buffer] = [BLOCK[:5000], bytearray(BLOCK[5000:9000]), BLOCK[9000:]]
    with narrow() as pair, TcpSender(pair.tx, engine=engine, zero_copy=zero_copy, blocking=False) as s:
        taken = s.send_buffers(pieces)
        assert 0 < taken < SIZE
        assert s.stats.nbytes == taken
        s.shutdown()
        received = bytearray()
        while got := pair.rx.recv(1 << 16):
            received += got
        assert received == BLOCK[:taken]
        s.drain(20)


@zero_copy_engines
def test_a_non_blocking_drain_raises_while_data_is_in_flight(box: testing.Hold, engine: str) -> None:
    with (
        tcp_connection(box) as (tx, rx),
        TcpSender(tx, engine=engine, zero_copy="always", blocking=False) as s,
    ):
        with stopped(box):
            s.send(BLOCK)
            with pytest.raises(BlockingIOError, match="1 request is in flight"):
                s.drain()
        received = bytearray()
        while len(received) < SIZE:
            received += rx.recv(1 << 20)
        s.drain(20)
        s.drain()


# -- it ends


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@each_way
@pytest.mark.parametrize("end", [reset, socket.socket.close])
def test_a_peer_that_resets_or_closes_raises(
    tcp_pair: Pair, engine: str, zero_copy: str, end: Callable[[socket.socket], None]
) -> None:
    """While a call waits for it to read."""
    reported: list[SendError] = []

    def read_a_little() -> None:
        left = 1 << 16
        while left:
            left -= len(tcp_pair.rx.recv(left))
        end(tcp_pair.rx)

    thread = threading.Thread(target=read_a_little)
    with TcpSender(tcp_pair.tx, engine=engine, zero_copy=zero_copy, on_error=reported.append) as s:
        s.send(b"hello")
        thread.start()
        with pytest.raises(ConnectionError) as caught:
            s.send_buffers([CountedBytes(BLOCK) for _ in range(64)])
        thread.join()
        error = caught.value
        assert isinstance(error, SendError)
        assert isinstance(error, (ConnectionResetError, BrokenPipeError))
        assert type(OSError(error.errno, "")) in type(error).__mro__
        assert reported == [error]
        assert 0 < error.accepted < error.size == 64 * SIZE
        assert error.total == error.accepted + 5 == s.stats.nbytes
        assert f"took {error.accepted} of {error.size} bytes, {error.total} since the start" in str(error)
        with pytest.raises(BrokenPipeError, match="took 0 of 1 byte,"):
            s.send(b"x")
        caught.value.__traceback__ = None
        del caught, error
        s.drain(20)
        assert s.stats.in_flight == CountedBytes.living == 0


@pytest.mark.slow
@each_way
def test_a_peer_that_vanishes_raises_timeouterror(engine: str, zero_copy: str) -> None:
    with testing.hold() as box, tcp_connection(box) as (tx, _):
        tx.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 100)
        with TcpSender(tx, engine=engine, zero_copy=zero_copy) as s:
            s.send(b"hello")
            set_down(box.peer)
            with pytest.raises(TimeoutError) as caught:
                s.send_buffers([CountedBytes(BLOCK) for _ in range(128)])
            error = caught.value
            assert isinstance(error, SendError)
            assert error.errno == errno.ETIMEDOUT
            assert 0 < error.accepted < 128 * SIZE
            assert error.total == s.stats.nbytes == error.accepted + 5
            del caught, error
            s.drain(20)
            assert s.stats.in_flight == CountedBytes.living == 0


def set_down(box: testing.Sandbox) -> None:
    from pyroute2 import IPRoute

    def down() -> None:
        with IPRoute() as ip:
            ip.link("set", index=socket.if_nametoindex(box.device), state="down")

    box.run(down)


# -- it answers


@each_way
def test_after_shutdown_the_peer_reads_on_and_answers(tcp_pair: Pair, engine: str, zero_copy: str) -> None:
    with TcpSender(tcp_pair.tx, engine=engine, zero_copy=zero_copy) as s:
        s.send(BLOCK)
        s.shutdown()
        s.shutdown()
        with pytest.raises(BrokenPipeError):
            s.send(b"x")
        with StreamReader(tcp_pair.rx) as read:
            assert read.end() == BLOCK
        tcp_pair.rx.sendall(b"thanks")
        assert tcp_pair.tx.recv(100) == b"thanks"


def test_requests_are_on_their_way_without_a_flush(tcp_pair: Pair, engine: str) -> None:
    """Whatever is sent is on its way when the call returns: nobody has to flush."""

    def answer() -> None:
        for size in sizes:
            left = size
            while left:
                left -= len(tcp_pair.rx.recv(left))
            tcp_pair.rx.sendall(b"%08d" % size)

    sizes = [1, 100, 16 << 10, 70000, 2 << 20] * 3
    thread = threading.Thread(target=answer)
    thread.start()
    with TcpSender(tcp_pair.tx, engine=engine) as s:
        tcp_pair.tx.settimeout(20)
        for size in sizes:
            s.send_buffers([bytes(size - 1), bytearray(1)])
            assert receive_exactly(tcp_pair.tx, 8) == b"%08d" % size
    thread.join()
