"""The kernel has no memory: to send from, to pin pages, or for the notification. The seam says so."""

import errno

import pytest
from cells import Cell
from marks import only_io_uring, only_msg_zerocopy, zero_copy_engines
from raising import raises_errno
from seam import Plan, Seam
from traffic import receive_exactly, received

import uringzc

BLOCK = bytes(range(256)) * 128
SYSTEM_CALLS = "sendmmsg sendmsg sendto send"


def fail_requests(seam: Seam, engine: str, number: int, times: int = 1) -> Plan:
    """The next requests of the engine fail, as the kernel would let them."""
    if engine == "io_uring":
        return seam.result(-number, times=times)
    return seam.fail(SYSTEM_CALLS, number, times=times)


@pytest.mark.cell("ENOMEM", "Scheduler")
def test_a_request_for_which_the_kernel_has_no_memory(cell: Cell, seam: Seam, engine: str) -> None:
    tx, rx = cell.udp()
    with uringzc.Scheduler() as s:
        requests = cell.requests(s)
        with fail_requests(seam, engine, errno.ENOMEM, 2) as plan:
            for _ in range(2):
                requests.send(tx, cell.memory(100), zero_copy=False)
            assert requests.results() == [-errno.ENOMEM] * 2
            assert plan.injected == 2
        cell.next_works(lambda data: requests.send_now(tx, data), rx)


@only_io_uring
@pytest.mark.parametrize("after", [0, 1], ids=["the table", "the memory"])
@pytest.mark.cell("ENOMEM", "Scheduler")
def test_memory_that_cannot_be_pinned_is_refused(cell: Cell, seam: Seam, after: int) -> None:
    tx, rx = cell.udp()
    with uringzc.Scheduler() as s:
        requests = cell.requests(s)
        with seam.fail("io_uring_register", errno.ENOMEM, after=after) as plan:
            with raises_errno(errno.ENOMEM, "register"):
                s.register(cell.memory(4096))
            assert plan.injected == 1
        region = cell.watch(s.register(cell.memory(b"registered")))
        requests.send(tx, region)
        assert requests.results() == [10]
        assert received(rx, 1) == [b"registered"]
        cell.next_works(lambda data: requests.send_now(tx, data), rx)


@pytest.mark.parametrize("zero_copy", ["always", "never"])
@pytest.mark.cell("ENOMEM", "UdpSender")
def test_a_train_for_which_the_kernel_has_no_memory_is_sent_again(
    cell: Cell, seam: Seam, engine: str, zero_copy: str
) -> None:
    """By a system call, which copies: nothing is lost, and nothing reported."""
    tx, rx = cell.udp()
    with cell.udp_sender(sock=tx, max_delay=None, zero_copy=zero_copy) as s:
        with fail_requests(seam, engine, errno.ENOMEM) as plan:
            s.send_many([b"%04d" % number * 100 for number in range(20)])
            s.flush()
            assert plan.injected == 1
        assert received(rx, 20) == [b"%04d" % number * 100 for number in range(20)]
        by_the_engine = engine == "msg_zerocopy" and zero_copy == "always"
        assert s.stats.resent == (0 if by_the_engine else 20)
        assert (s.stats.lost, s.reports.reported) == (0, [])
        cell.next_works(lambda data: (s.send(data), s.flush()), rx)


@pytest.mark.cell("ENOMEM", "UdpSender")
def test_datagrams_for_which_it_never_has_memory_are_reported(cell: Cell, seam: Seam, engine: str) -> None:
    tx, rx = cell.udp()
    with cell.udp_sender(sock=tx, max_delay=None) as s:
        with (
            fail_requests(seam, engine, errno.ENOMEM, 1000),
            seam.fail(SYSTEM_CALLS, errno.ENOMEM, times=1000),
        ):
            s.send_many([bytes(1000)] * 3)
            s.flush()
        assert [(error.errno, error.index) for error in s.reports.reported] == [
            (errno.ENOMEM, index) for index in range(3)
        ]
        cell.next_works(lambda data: (s.send(data), s.flush()), rx)


@only_io_uring
@pytest.mark.cell("ENOMEM", "UdpSender")
def test_a_sender_whose_arena_cannot_be_pinned_sends_from_other_memory(cell: Cell, seam: Seam) -> None:
    tx, rx = cell.udp()
    with seam.fail("io_uring_register", errno.ENOMEM, times=100), cell.udp_sender(sock=tx) as s:
        assert "not registered (see RLIMIT_MEMLOCK)" in s.explain()
        cell.next_works(lambda data: (s.send(data), s.flush()), rx)


@zero_copy_engines
@pytest.mark.parametrize("number", [errno.ENOMEM, errno.ENOBUFS])
@pytest.mark.cell("ENOMEM", "TcpSender")
@pytest.mark.cell("ENOBUFS", "TcpSender")
def test_what_a_stream_cannot_send_zero_copy_is_copied(
    cell: Cell, seam: Seam, engine: str, number: int
) -> None:
    """ENOBUFS: no option memory for the notification of MSG_ZEROCOPY."""
    tx, rx = cell.tcp()
    with cell.tcp_sender(tx, zero_copy="always") as s:
        with fail_requests(seam, engine, number) as plan:
            assert s.send(cell.immutable(BLOCK)) == len(BLOCK)
            assert plan.injected == 1
        assert receive_exactly(rx, len(BLOCK)) == BLOCK
        assert s.reports.reported == []
        cell.next_works(s.send, rx)
        s.drain(20)


@pytest.mark.cell("ENOMEM", "TcpSender")
def test_a_stream_for_which_there_is_never_memory_raises(cell: Cell, seam: Seam, engine: str) -> None:
    """The stream goes on: the program may send the rest again."""
    tx, rx = cell.tcp()
    with cell.tcp_sender(tx) as s:
        with (
            fail_requests(seam, engine, errno.ENOMEM, 1000),
            seam.fail(SYSTEM_CALLS, errno.ENOMEM, times=1000),
            raises_errno(errno.ENOMEM, f"the kernel took 0 of {len(BLOCK)} bytes"),
        ):
            s.send(cell.immutable(BLOCK))
        cell.next_works(s.send, rx)
        s.drain(20)


@only_msg_zerocopy
@pytest.mark.cell("ENOBUFS", "Scheduler")
def test_without_option_memory_a_request_is_copied(cell: Cell, seam: Seam) -> None:
    """What the notification of MSG_ZEROCOPY needs."""
    tx, rx = cell.udp()
    with uringzc.Scheduler() as s:
        requests = cell.requests(s)
        with seam.fail("sendmmsg", errno.ENOBUFS) as plan:
            requests.send(tx, cell.memory(b"copied"))
            assert requests.results() == [6]
            assert plan.injected == 1
        assert received(rx, 1) == [b"copied"]
        cell.next_works(lambda data: requests.send_now(tx, data), rx)
