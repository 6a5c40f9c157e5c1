"""The process forks, or is replaced by another program (exec), while sends are in flight."""

import os
import socket
from collections.abc import Callable
from contextlib import suppress

import pytest
from broken_networks import connected, scheduled
from cells import Cell
from held_memory import pinned_kib, ring_count
from marks import queued_engines
from processes import child, fork
from traffic import receive_exactly, received, stopped, tcp_connection

from uringzc import ClosedError, testing

DATAGRAM = bytes(range(250)) * 4


def in_child(*refused: Callable[[], object]) -> None:
    """In the child of a fork each of these raises ClosedError, and the parent's ring is not there."""
    pid = fork()
    if not pid:
        code = 1
        with suppress(BaseException):
            for call in refused:
                with pytest.raises(ClosedError):
                    call()
            code = 0 if not ring_count() and not pinned_kib() else 2
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@queued_engines
@pytest.mark.cell("fork in flight", "Scheduler")
def test_a_fork_while_requests_are_in_flight(cell: Cell, box: testing.Hold, rx: socket.socket) -> None:
    with connected(box, cell) as sock, scheduled(box, cell) as requests:
        s = requests.scheduler
        with stopped(box):
            requests.send(sock, cell.memory(DATAGRAM))
            s.submit()
            requests.send(sock, cell.memory(b"queued"))
            in_child(lambda: s.send(sock, b"twice"), s.submit, s.drain, lambda: s.reap_completions(wait=1))
        assert requests.results() == [len(DATAGRAM), 6]
        assert received(rx, 2) == [DATAGRAM, b"queued"]
        cell.next_works(lambda data: requests.send(sock, data) and requests.results(), rx)


@queued_engines
@pytest.mark.cell("fork in flight", "UdpSender")
def test_a_fork_while_datagrams_are_in_flight(cell: Cell, box: testing.Hold, rx: socket.socket) -> None:
    """What waits in the sender leaves once, from the parent."""
    with (
        connected(box, cell) as sock,
        box.run(lambda: cell.udp_sender(sock=sock, max_delay=None, zero_copy="always")) as s,
    ):
        with stopped(box):
            s.send(DATAGRAM)
            s.flush()
            s.send(b"waits")
            in_child(lambda: s.send(b"twice"), s.flush, s.drain)
        s.flush()
        assert received(rx, 2) == [DATAGRAM, b"waits"]
        cell.next_works(lambda data: (s.send(data), s.flush()), rx)


@pytest.mark.cell("fork in flight", "TcpSender")
def test_a_fork_while_a_stream_is_in_flight(cell: Cell, box: testing.Hold) -> None:
    with tcp_connection(box) as (tx, rx), cell.tcp_sender(tx, zero_copy="always") as s:
        with stopped(box):
            s.send(cell.immutable(DATAGRAM))
            in_child(lambda: s.send(b"twice"), s.flush, s.drain)
        assert receive_exactly(rx, len(DATAGRAM)) == DATAGRAM
        cell.next_works(s.send, rx)


# -- exec

#: says which of the descriptors that were open before it has, and whether its memory is not pinned
NEXT_PROGRAM = """
import os, sys
from held_memory import descriptors, pinned_kib
from traffic import wait_until
print(sorted({*sys.argv[1:]} & {*descriptors()}), flush=True)
print(wait_until(lambda: not pinned_kib()), flush=True)
input()
"""
EXEC = """
    import os, socket, sys, uringzc
    from held_memory import descriptors
    datagram = bytes(range(250)) * 4
    program, host, udp_port, tcp_port = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    for sock in sockets:
        sock.connect((host, udp_port))
    stream = socket.create_connection((host, tcp_port))
    s = uringzc.Scheduler()
    tx = uringzc.UdpSender(sock=sockets[0], zero_copy="always", max_delay=None)
    tcp = uringzc.TcpSender(stream, zero_copy="always")
    tx.send(b"first")
    tx.drain()
    region = s.register(1 << 20)
    region.view[:1000] = datagram
    print("ready", flush=True)
    input()
    s.send(sockets[1], region, length=1000)
    s.submit()
    tx.send(datagram)
    tx.flush()
    tx.send(b"waits in the sender, and is lost")
    tcp.send(datagram)
    s.send(sockets[1], b"queued, and lost")
    print("sent", flush=True)
    os.execv(sys.executable, [sys.executable, "-c", program, *descriptors()])
"""


@pytest.mark.cell("exec in flight", "Scheduler", "UdpSender", "TcpSender")
def test_another_program_while_sends_are_in_flight(
    cell: Cell, box: testing.Hold, rx: socket.socket, engine: str
) -> None:
    """What was submitted leaves as it was, what only waited is lost; the program gets nothing of all this.

    With a ring it begins when the kernel has released the memory: exec waits for the ring's requests.
    """
    host, port = box.address
    with box.receiver_socket(type=socket.SOCK_STREAM, port=0) as listener:
        listener.listen(1)
        listener.settimeout(20)
        arguments = NEXT_PROGRAM, host, port, listener.getsockname()[1]
        with child(EXEC, *arguments, box=box) as started, listener.accept()[0] as stream:
            stream.settimeout(20)
            assert started.line() == "ready"
            assert received(rx, 1) == [b"first"]
            with stopped(box):
                started.write_line()
                assert started.line() == "sent"
                if engine != "io_uring":
                    assert [started.line(), started.line()] == ["[]", "True"]
            if engine == "io_uring":
                assert [started.line(), started.line()] == ["[]", "True"]
            assert received(rx, 2) == [DATAGRAM] * 2
            assert receive_exactly(stream, len(DATAGRAM)) == DATAGRAM
            started.write_line()
            started.end()
            assert stream.recv(1) == b""
    with connected(box, cell) as sock, scheduled(box, cell) as requests:
        cell.next_works(lambda data: (requests.send(sock, data), requests.results()), rx)
