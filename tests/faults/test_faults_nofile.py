"""No descriptors are left (RLIMIT_NOFILE), and no thread can be started (RLIMIT_NPROC)."""

import contextlib
import errno
import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from broken_networks import connected
from cells import Cell
from conftest import ENGINES
from marks import frame_engines, zero_copy_engines
from processes import run_program
from traffic import receive_exactly, received, stopped

import uringzc
from uringzc import testing

BLOCK = bytes(range(256)) * 100


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """This process can make so many in the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    with ExitStack() as gaps:
        while (fd := os.dup(2)) < highest:
            gaps.callback(os.close, fd)
        os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (fd + count, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def with_fewer_and_fewer(use: Callable[[], None]) -> None:
    """Where one is missing it raises EMFILE, and leaves nothing; with enough, it works."""
    failed = 0
    while True:
        try:
            with descriptors_left(failed):
                use()
            break
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
        failed += 1
    assert failed


def discard(*sockets: socket.socket) -> None:
    """What has come to them is read."""
    for sock in sockets:
        with contextlib.suppress(BlockingIOError):
            while sock.recv(1 << 20, socket.MSG_DONTWAIT):
                pass


@pytest.mark.cell("no descriptors", "Scheduler")
def test_a_scheduler_with_too_few_descriptors(cell: Cell) -> None:
    tx, rx = cell.udp()
    tx.setblocking(False)

    def use() -> None:
        discard(rx)
        with uringzc.Scheduler() as s:
            s.fileno()
            requests = cell.requests(s)
            requests.send(tx, cell.memory(b"sent"))
            assert requests.results() == [4]
            s.errors(tx)

    rx.setblocking(False)
    with_fewer_and_fewer(use)
    discard(rx)
    cell.next_works(tx.send, rx)


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.cell("no descriptors", "UdpSender")
def test_a_udp_sender_with_too_few_descriptors(blocking: bool, cell: Cell) -> None:
    tx, rx = cell.udp()
    rx.setblocking(False)

    def use() -> None:
        discard(rx)
        with uringzc.UdpSender(rx.getsockname(), blocking=blocking) as s:
            s.send(b"sent")
            s.fileno()
            s.errors()

    with_fewer_and_fewer(use)
    discard(rx)
    cell.next_works(tx.send, rx)


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.cell("no descriptors", "TcpSender")
def test_a_tcp_sender_with_too_few_descriptors(blocking: bool, cell: Cell) -> None:
    tx, rx = cell.tcp()

    def use() -> None:
        with cell.tcp_sender(tx, blocking=blocking, zero_copy="always") as s:
            assert s.send(cell.immutable(BLOCK)) == len(BLOCK)
            assert receive_exactly(rx, len(BLOCK)) == BLOCK

    with_fewer_and_fewer(use)
    with cell.tcp_sender(tx) as s:
        cell.next_works(s.send, rx)


@frame_engines
@pytest.mark.cell("no descriptors", "Scheduler", "UdpSender")
def test_frames_with_too_few_descriptors(cell: Cell, box: testing.Hold, rx: socket.socket) -> None:
    def use() -> None:
        with box.run(lambda: uringzc.UdpSender(box.address, blocking=False)) as s:
            s.send(b"sent")
            s.drain(20)
            assert received(rx, 1) == [b"sent"]

    with_fewer_and_fewer(use)
    with box.run(lambda: cell.udp_sender(box.address)) as s:
        cell.next_works(lambda data: (s.send(data), s.flush()), rx)


@zero_copy_engines
@pytest.mark.cell("no descriptors", "Scheduler", "UdpSender", "TcpSender")
def test_what_is_open_goes_on_without_descriptors(cell: Cell) -> None:
    """MSG_ZEROCOPY needs one for each socket in flight: without it, what is sent is copied."""
    (udp, udp_rx), (tcp, tcp_rx) = cell.udp(), cell.tcp()
    with (
        uringzc.Scheduler() as s,
        cell.udp_sender(sock=udp, scheduler=s, zero_copy="always") as datagrams,
        cell.tcp_sender(tcp, scheduler=s, zero_copy="always") as stream,
    ):
        requests = cell.requests(s)
        with descriptors_left(0):
            requests.send(udp, cell.memory(b"sent"))
            assert requests.results() == [4]
            datagrams.send(BLOCK)
            datagrams.drain()
            stream.send(cell.immutable(BLOCK))
            assert receive_exactly(tcp_rx, len(BLOCK)) == BLOCK
            stream.drain()
            assert received(udp_rx, 2) == [b"sent", BLOCK]
            cell.next_works(lambda data: (datagrams.send(data), datagrams.flush()), udp_rx)
            cell.next_works(stream.send, tcp_rx)


@pytest.mark.engines("msg_zerocopy", "copy")
@pytest.mark.cell("no descriptors", "Scheduler")
def test_a_request_that_would_wait_fails_without_a_descriptor(
    cell: Cell, box: testing.Hold, rx: socket.socket
) -> None:
    """Its socket could be closed meanwhile, and is kept open by a descriptor of the engine's."""
    with connected(box, cell) as sock, box.run(uringzc.Scheduler) as s:
        requests = cell.requests(s)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        with stopped(box), descriptors_left(0):
            for _ in range(10):
                requests.send(sock, cell.memory(BLOCK[:1000]), zero_copy=False)
            results = requests.results()
        sent = results.count(1000)
        assert results == [1000] * sent + [-errno.EMFILE] * (10 - sent)
        assert received(rx, sent) == [BLOCK[:1000]] * sent
        cell.next_works(lambda data: requests.send(sock, data) and requests.results(), rx)


# -- no thread


NO_THREADS = """
    import os, resource, sys, threading
    import encodings.idna, uringzc
    from cells import watched
    from refusals import become_nobody
    from traffic import receive_exactly, received

    become_nobody()
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    try:
        threading.Thread(target=print).start()
        sys.exit("a thread was started")
    except RuntimeError:
        pass

    def use(cell):
        (udp, udp_rx), (tcp, tcp_rx) = cell.udp(), cell.tcp()
        with uringzc.Scheduler(max_inflight=64) as s:
            requests = cell.requests(s)
            requests.send(udp, cell.memory(b"sent"))
            assert requests.results() == [4]
            assert received(udp_rx, 1) == [b"sent"]
        with cell.udp_sender(sock=udp, max_inflight=64, arena=256 << 10) as s:
            for _ in range(100):
                s.send(b"sent")
            s.flush()
            assert received(udp_rx, 100) == [b"sent"] * 100
            assert "RLIMIT_NPROC" in s.explain()
            cell.next_works(lambda data: (s.send(data), s.flush()), udp_rx)
        with cell.tcp_sender(tcp, scheduler=None, zero_copy="always") as s:
            cell.next_works(s.send, tcp_rx)

    for os.environ["URINGZC_ENGINE"] in sys.argv[1:]:
        with watched() as cell:
            use(cell)
            cell.check()
    print("works")
"""


@testing.requires("unprivileged")
@pytest.mark.engines()  # noqa: PT023 - with no names: the child has them all
@pytest.mark.cell("no threads", "Scheduler", "UdpSender", "TcpSender")
def test_without_threads(cell: Cell) -> None:
    """Only max_delay needs one: without it, the sender's next call keeps it. One child for all engines."""
    engines = [name for name, what in ENGINES.items() if not what or not testing.missing(what)]
    out, errors = run_program(NO_THREADS, *engines)
    assert out == "works\n", errors
    tx, rx = cell.udp()
    cell.next_works(tx.send, rx)
