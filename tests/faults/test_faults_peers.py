"""The peer does not listen, closes, resets, or does not read."""

import contextlib
import errno
import select
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from broken_networks import scheduled
from cells import Cell
from marks import frame_engines, only_io_uring, zero_copy_engines
from traffic import free_port, receive_exactly, received, wait_until

import uringzc
from uringzc import SendError, testing

NOBODY_LISTENS = 9999  # in a sandbox
BLOCK = bytes(range(256)) * 128
each_way = pytest.mark.parametrize("zero_copy", ["always", "never"])


def wait_for_error(sock: socket.socket) -> None:
    """Returns when an error waits on the socket; reading it would take it away."""
    poll = select.poll()
    poll.register(sock, 0)
    assert poll.poll(20_000)


@contextmanager
def no_sigpipe() -> Iterator[None]:
    """Python ignores that signal; programs that do not would end."""
    came: list[int] = []
    before = signal.signal(signal.SIGPIPE, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGPIPE, before)
    assert came == []


def reset(sock: socket.socket) -> None:
    """Closes it so that the other end gets a RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def waiting_datagrams(rx: socket.socket) -> int:
    """Reads all that are there, and says how many they were."""
    count = 0
    rx.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while rx.recv(2000):
            count += 1
    return count


# -- nobody listens


@pytest.mark.cell("ECONNREFUSED", "Scheduler")
def test_a_scheduler_and_a_port_where_nobody_listens(cell: Cell) -> None:
    """The error that an earlier datagram has caused ends the next request."""
    tx, rx = cell.udp()
    address = rx.getsockname()
    rx.close()
    with uringzc.Scheduler() as s, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as later:
        requests = cell.requests(s)
        requests.send(tx, cell.memory(b"first"))
        assert requests.results() == [5]
        wait_for_error(tx)
        requests.send(tx, cell.memory(b"second"))
        assert requests.results() == [5, -errno.ECONNREFUSED]
        assert isinstance(requests.completions[-1].error, ConnectionRefusedError)
        later.bind(address)
        later.settimeout(20)
        cell.next_works(lambda data: requests.send_now(tx, data), later)


@frame_engines
@pytest.mark.cell("ECONNREFUSED", "Scheduler")
def test_a_scheduler_of_frames_leaves_the_sockets_errors_to_the_program(
    cell: Cell, net: testing.Hold
) -> None:
    with cell.watch(net.socket()) as sock, scheduled(net, cell) as requests, net.receiver_socket() as rx:
        rx.settimeout(20)
        nobody = net.address[0], NOBODY_LISTENS
        sock.connect(nobody)
        requests.send(sock, cell.memory(b"x"))
        assert requests.results() == [1]
        wait_for_error(sock)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
        cell.next_works(lambda data: requests.send_now(sock, data, to=net.address), rx)


@each_way
@pytest.mark.cell("ECONNREFUSED", "UdpSender")
def test_a_udp_sender_and_a_port_where_nobody_listens(cell: Cell, zero_copy: str) -> None:
    """Reported for the earlier datagram; the one that met the error is sent again, and nothing is lost."""
    address = ("127.0.0.1", free_port())
    with cell.udp_sender(address, zero_copy=zero_copy, max_delay=None) as s:
        for number in range(3):
            s.send(b"%d" % number)
            s.flush()
            assert wait_until(s.errors)
        reported = s.reports.reported
        assert [(error.errno, error.index, error.to) for error in reported] == [
            (errno.ECONNREFUSED, -1, address)
        ] * 3
        assert all(isinstance(error, ConnectionRefusedError) for error in reported)
        assert s.stats.lost == 0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as later:
            later.bind(address)
            later.settimeout(20)
            cell.next_works(lambda data: (s.send(data), s.flush()), later)


@pytest.mark.cell("ECONNREFUSED", "UdpSender")
def test_without_on_error_the_next_flush_raises_it(cell: Cell) -> None:
    address = ("127.0.0.1", free_port())
    with cell.udp_sender(address, max_delay=None, on_error=None) as s:
        s.send(b"x")
        s.flush()
        assert wait_until(s.errors)
        with pytest.raises(ConnectionRefusedError, match="reported for an earlier datagram"):
            s.flush()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as later:
            later.bind(address)
            later.settimeout(20)
            cell.next_works(lambda data: (s.send(data), s.flush()), later)


@frame_engines
@pytest.mark.cell("ECONNREFUSED", "UdpSender")
def test_a_udp_sender_of_frames_and_a_port_where_nobody_listens(cell: Cell, net: testing.Hold) -> None:
    """The peer's ICMP message comes to the sender's socket."""
    nobody = net.address[0], NOBODY_LISTENS
    with (
        net.run(lambda: cell.udp_sender(nobody, max_delay=None)) as s,
        net.receiver_socket() as rx,
    ):
        rx.settimeout(20)
        s.send(b"nobody reads it")
        s.flush()
        assert wait_until(s.errors)
        assert [(error.errno, error.index, error.to) for error in s.reports.reported] == [
            (errno.ECONNREFUSED, -1, nobody)
        ]
        cell.next_works(lambda data: (s.sendto(data, net.address), s.flush()), rx)


@pytest.mark.cell("ECONNREFUSED", "TcpSender")
def test_a_tcp_sender_whose_connection_is_refused(cell: Cell) -> None:
    """A sender may be made while the socket connects."""
    with cell.watch(socket.socket()) as sock:
        sock.setblocking(False)
        assert sock.connect_ex(("127.0.0.1", free_port(kind=socket.SOCK_STREAM))) == errno.EINPROGRESS
        wait_for_error(sock)
        with cell.tcp_sender(sock) as s:
            with pytest.raises(ConnectionRefusedError, match="took 0 of 5 bytes"):
                s.send(b"hello")
            cell.next_fails(s.send, errno.EPIPE)


# -- the stream has ended


@pytest.mark.cell("EPIPE", "Scheduler")
def test_a_scheduler_and_a_stream_that_was_shut_down(cell: Cell) -> None:
    with no_sigpipe(), uringzc.Scheduler() as s:
        requests = cell.requests(s)
        tx = cell.tcp().tx
        tx.shutdown(socket.SHUT_WR)
        udp = cell.udp()
        udp.tx.shutdown(socket.SHUT_WR)
        requests.send(tx, cell.memory(b"hello"))
        requests.send(udp.tx, cell.memory(b"hello"))
        assert requests.results() == [-errno.EPIPE] * 2
        assert isinstance(requests.completions[-1].error, BrokenPipeError)
        cell.next_fails(lambda data: requests.send_now(tx, data), errno.EPIPE)


@pytest.mark.cell("EPIPE", "UdpSender")
def test_a_udp_sender_whose_socket_was_shut_down(cell: Cell) -> None:
    with no_sigpipe():
        tx, rx = cell.udp()
        with cell.udp_sender(sock=tx, max_delay=None) as s:
            s.send(b"before")
            s.flush()
            tx.shutdown(socket.SHUT_WR)
            s.send_many([b"one", b"two"])
            s.flush()
            assert [(error.errno, error.index) for error in s.reports.reported] == [
                (errno.EPIPE, 1),
                (errno.EPIPE, 2),
            ]
            assert all(isinstance(error, BrokenPipeError) for error in s.reports.reported)
            s.send(b"three")
            s.flush()
            cell.next_fails(lambda _: -(s.reports.reported[-1].errno or 0), errno.EPIPE)
        assert received(rx, 1) == [b"before"]


@each_way
@pytest.mark.cell("EPIPE", "TcpSender")
def test_a_tcp_sender_whose_stream_was_shut_down(cell: Cell, zero_copy: str) -> None:
    with no_sigpipe():
        tx, rx = cell.tcp()
        with cell.tcp_sender(tx, zero_copy=zero_copy) as s:
            s.send(cell.immutable(BLOCK))
            tx.shutdown(socket.SHUT_WR)
            with pytest.raises(BrokenPipeError, match="the kernel took 0 of") as caught:
                s.send(cell.immutable(BLOCK))
            assert [*map(id, s.reports.reported)] == [id(caught.value)]
            assert receive_exactly(rx, len(BLOCK)) == BLOCK
            cell.next_fails(s.send, errno.EPIPE)
            s.drain(20)


@pytest.mark.cell("ECONNRESET", "Scheduler")
def test_a_scheduler_and_a_peer_that_resets(cell: Cell) -> None:
    tx, rx = cell.tcp()
    with no_sigpipe(), uringzc.Scheduler() as s:
        requests = cell.requests(s)
        requests.send(tx, cell.memory(b"hello"))
        assert requests.results() == [5]
        reset(rx)
        wait_for_error(tx)
        requests.send(tx, cell.memory(b"hello"))
        assert requests.results() == [5, -errno.ECONNRESET]
        assert isinstance(requests.completions[-1].error, ConnectionResetError)
        cell.next_fails(lambda data: requests.send_now(tx, data), errno.EPIPE)


@each_way
@pytest.mark.cell("ECONNRESET", "TcpSender")
def test_a_tcp_sender_whose_peer_resets(cell: Cell, zero_copy: str) -> None:
    tx, rx = cell.tcp()
    with no_sigpipe(), cell.tcp_sender(tx, zero_copy=zero_copy) as s:
        assert s.send(cell.immutable(BLOCK)) == len(BLOCK)
        reset(rx)
        wait_for_error(tx)
        with pytest.raises(ConnectionResetError, match="the kernel took 0 of") as caught:
            s.send(cell.immutable(BLOCK))
        assert isinstance(caught.value, SendError)
        assert (caught.value.accepted, caught.value.total) == (0, len(BLOCK))
        s.drain(20)  # what the peer has not acknowledged is free too
        cell.next_fails(s.send, errno.EPIPE)


# -- it does not read


@pytest.mark.cell("receiver stopped", "Scheduler")
def test_a_scheduler_and_a_receiver_that_does_not_read(cell: Cell) -> None:
    """Its kernel discards datagrams that it has no room for, and reports no error."""
    tx, rx = cell.udp()
    rx.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the least there is
    with uringzc.Scheduler() as s:
        requests = cell.requests(s)
        for _ in range(50):
            requests.send(tx, cell.memory(b"x" * 1000))
        assert requests.results() == [1000] * 50
        assert 0 < waiting_datagrams(rx) < 50
        rx.settimeout(20)
        cell.next_works(lambda data: requests.send_now(tx, data), rx)


@pytest.mark.cell("receiver stopped", "UdpSender")
def test_a_udp_sender_and_a_receiver_that_does_not_read(cell: Cell) -> None:
    tx, rx = cell.udp()
    rx.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    with cell.udp_sender(sock=tx, max_delay=None) as s:
        s.send_many([b"x" * 1000] * 500)
        s.drain(20)
        assert (s.reports.reported, s.stats.lost) == ([], 0)
        assert waiting_datagrams(rx) < 500
        rx.settimeout(20)
        cell.next_works(lambda data: (s.send(data), s.flush()), rx)


@zero_copy_engines
@pytest.mark.cell("EAGAIN", "TcpSender")
@pytest.mark.cell("receiver stopped", "TcpSender")
def test_a_tcp_sender_and_a_receiver_that_does_not_read(cell: Cell) -> None:
    """The memory of what was sent is held, and the program sees that the socket is full."""
    tx, rx = cell.tcp()
    with cell.tcp_sender(tx, zero_copy="always", blocking=False) as s:
        taken = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                taken += s.send(cell.immutable(BLOCK))
        assert s.stats.in_flight > 0
        with pytest.raises(TimeoutError, match="in flight"):
            s.drain(0)
        assert len(receive_exactly(rx, taken)) == taken
        s.drain(20)
        assert select.select([s], [], [], 20)[0]
        cell.next_works(s.send, rx)


@each_way
@pytest.mark.cell("EAGAIN", "TcpSender")
@pytest.mark.cell("receiver stopped", "TcpSender")
def test_a_call_waits_until_the_receiver_reads(cell: Cell, zero_copy: str) -> None:
    tx, rx = cell.tcp()
    data = cell.immutable(BLOCK * 250)
    came = bytearray()
    tx.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)

    def read_when_it_is_full() -> None:
        assert wait_until(lambda: not select.select([], [tx], [], 0)[1])
        came.extend(receive_exactly(rx, len(data)))

    reader = threading.Thread(target=read_when_it_is_full)
    with cell.tcp_sender(tx, zero_copy=zero_copy) as s:
        reader.start()
        assert s.send(data) == len(data)
        reader.join()
        assert bytes(came) == data
        assert s.stats.waits > 0
        cell.next_works(s.send, rx)


@pytest.mark.cell("receiver stopped", "Scheduler")
def test_a_request_waits_until_the_receiver_reads(cell: Cell) -> None:
    tx, rx = cell.tcp()
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += tx.send(BLOCK, socket.MSG_DONTWAIT)
    with uringzc.Scheduler() as s:
        requests = cell.requests(s)
        requests.send(tx, cell.memory(b"last"))
        s.submit()
        requests.reap()
        assert requests.completions == []
        assert len(receive_exactly(rx, sent)) == sent
        assert requests.results() == [4]
        assert receive_exactly(rx, 4) == b"last"
        cell.next_works(lambda data: requests.send_now(tx, data), rx)


# -- without slots


@only_io_uring
@pytest.mark.cell("ECONNREFUSED", "Scheduler")
@pytest.mark.cell("EPIPE", "Scheduler")
@pytest.mark.cell("ECONNRESET", "Scheduler")
def test_a_ring_has_the_same_results(cell: Cell) -> None:
    udp, shut, peer = cell.udp(), cell.tcp(), cell.tcp()
    works = cell.udp()
    with no_sigpipe(), uringzc.Ring() as ring:
        requests = cell.raw_requests(ring)
        udp.rx.close()
        udp.tx.send(b"nobody reads it")
        shut.tx.shutdown(socket.SHUT_WR)
        reset(peer.rx)
        for sock in udp.tx, peer.tx:
            wait_for_error(sock)
        for sock in udp.tx, shut.tx, peer.tx:
            requests.send(sock, cell.memory(b"hello"))
        wanted = [errno.ECONNREFUSED, errno.EPIPE, errno.ECONNRESET]
        assert requests.results() == [-number for number in wanted]
        failed = {cqe.user_data: cqe.error for cqe in requests.cqes if cqe.error}
        assert [error.errno for _, error in sorted(failed.items())] == wanted
        cell.next_works(lambda data: requests.send_now(works.tx, data), works.rx)
