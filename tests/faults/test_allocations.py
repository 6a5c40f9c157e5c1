"""Each allocation of an operation fails once: the call says so, nothing is lost or leaked, the next works."""

import errno
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from allocations import Failing, each_allocation
from cells import Cell
from conftest import Pair
from seam import Seam
from traffic import receive_exactly

from uringzc import Scheduler, SendError, TcpSender, UdpSender
from uringzc.engines import lifetime

if TYPE_CHECKING:
    from typing_extensions import Buffer


def next_datagram_works(pair: Pair, cell: Cell) -> None:
    with UdpSender(sock=pair.tx) as sender:
        cell.next_works(lambda data: (sender.send(data), sender.flush()), pair.rx)


@pytest.mark.cell("no memory", "Scheduler")
def test_making_a_scheduler(seam: Seam, udp_pair: Pair, cell: Cell) -> None:
    def operation(failing: Failing) -> None:
        scheduler = failing(lambda: Scheduler([1, 2, 3], max_inflight=8))
        if scheduler is None:
            scheduler = Scheduler([1, 2, 3], max_inflight=8)
        failing(scheduler.close)
        lifetime.release_parked()

    each_allocation(seam, operation, 5)
    next_datagram_works(udp_pair, cell)


@pytest.mark.cell("no memory", "Scheduler")
def test_requests_of_a_scheduler(seam: Seam, udp_pair: Pair, tcp_pair: Pair, cell: Cell) -> None:
    """Every request completes once, and every notifier notifies once."""

    def operation(failing: Failing) -> None:
        with seam.paused():
            scheduler = Scheduler([0], max_inflight=64)
        completions: list[Any] = []
        notifications: list[Any] = []
        memory = [bytearray(100) for _ in range(3)]

        def queue(sock: socket.socket, data: Any, number: int) -> bool:
            scheduler.send(sock, data, user_data=number, flush=number == 2)
            return True

        def submit() -> bool:
            scheduler.submit()
            return True

        def reap() -> bool:
            batch = scheduler.reap_completions()
            with seam.paused():
                completions.extend(batch)
            return True

        def reap_notifications() -> bool:
            batch = scheduler.reap_notifications(wait=1, timeout=10)
            with seam.paused():
                notifications.extend(batch)
            return True

        def register() -> bool:
            with scheduler.register(4096) as region:
                region.view[:2] = b"hi"
                scheduler.send(udp_pair.tx, region, length=2, user_data=3)
            return True

        for number, sock in enumerate((udp_pair.tx, tcp_pair.tx, udp_pair.tx)):
            failing.until(lambda: queue(sock, memory[number], number))  # noqa: B023
        failing.until(submit)
        failing.until(reap)
        while not notifications:
            failing.until(reap_notifications)
        failing.until(lambda: scheduler.fileno() + 1)
        failing.until(register)
        failing(lambda: scheduler.flush(0))
        failing.until(submit)
        with seam.paused():
            scheduler.flush(0)
            scheduler.drain(timeout=10)
            reap()
            notifications.extend(scheduler.reap_notifications())
            scheduler.close()
        sizes = {0: 100, 1: 100, 2: 100, 3: 2}
        assert {each.user_data for each in completions} == {0, 1, 2, 3}
        by_errors = [each for each in completions if each.result != sizes[each.user_data]]
        assert all(each.result == -errno.ENOMEM for each in by_errors)
        assert len(completions) == 4 or failing.said  # a registration that failed late has sent
        assert sum(each.requests for each in notifications) == len(completions)
        for pair in (udp_pair, tcp_pair):
            while not pair.empty():
                pair.rx.recv(1 << 16)

    each_allocation(seam, operation, 4)
    with Scheduler() as s:
        cell.next_works(lambda data: (s.send(udp_pair.tx, data, flush=True), s.submit()), udp_pair.rx)


@pytest.mark.cell("no memory", "UdpSender")
def test_making_a_udp_sender(seam: Seam, udp_pair: Pair, cell: Cell) -> None:
    def operation(failing: Failing) -> None:
        sender = failing(lambda: UdpSender(sock=udp_pair.tx)) or UdpSender(sock=udp_pair.tx)
        failing(sender.close)
        sender.close()
        lifetime.release_parked()

    each_allocation(seam, operation, 10)
    next_datagram_works(udp_pair, cell)


@pytest.mark.cell("no memory", "UdpSender")
def test_datagrams(seam: Seam, udp_pair: Pair, cell: Cell) -> None:
    """What was taken arrives once, or is reported."""
    rx = udp_pair.rx
    to = rx.getsockname()

    def operation(failing: Failing) -> None:
        reported: list[SendError] = []
        with seam.paused():
            sender = UdpSender(
                sock=udp_pair.tx, on_error=reported.append, zero_copy="always", arena=256 << 10
            )
        taken: list[bytes] = []

        def send(call: Callable[[], object], *datagrams: bytes) -> None:
            with seam.paused():
                before = sender.stats.datagrams
            failing(call)
            with seam.paused():
                taken.extend(datagrams[: sender.stats.datagrams - before])

        def lease() -> None:
            with sender.lease(10) as lease:
                lease.view[:] = b"l" * 10
                lease.send(10)

        def group() -> None:
            sender.group([to]).send(b"to all")

        with seam.paused():
            region = sender.register(bytearray(b"r" * 300))
        send(lambda: sender.send(b"x" * 100), b"x" * 100)
        send(lambda: sender.send(b"x" * 100), b"x" * 100)
        send(lambda: sender.sendto(b"y" * 20_000, to), b"y" * 20_000)
        send(lambda: sender.send_many([b"1", b"2"]), b"1", b"2")
        send(lambda: sender.fan_out(b"f", [to]), b"f")
        failing(sender.flush)
        send(lease, b"l" * 10)
        send(group, b"to all")
        send(lambda: sender.send_region(region, segment=100), *[b"r" * 100] * 3)
        failing(sender.flush)
        failing(sender.drain)
        failing(lambda: sender.stats)
        failing(sender.explain)
        with seam.paused():
            sender.drain()
            stats = sender.stats
            region.close()
            sender.close()
            lifetime.release_parked()
        came = []
        while not udp_pair.empty():
            came.append(rx.recv(1 << 16))
        assert stats.datagrams == len(taken)
        lost = sorted(error.index for error in reported if error.index >= 0)
        assert sorted(came) == sorted(data for number, data in enumerate(taken) if number not in lost)
        assert stats.lost == len(lost)
        assert taken or failing.said

    each_allocation(seam, operation, 10)
    next_datagram_works(udp_pair, cell)


@pytest.mark.cell("no memory", "TcpSender")
def test_a_stream(seam: Seam, tcp_pair: Pair, cell: Cell) -> None:
    """Every byte once, and in order."""

    def operation(failing: Failing) -> None:
        sender = failing(lambda: TcpSender(tcp_pair.tx, zero_copy="always")) or TcpSender(
            tcp_pair.tx, zero_copy="always"
        )
        accepted = b""
        several: list[Buffer] = [b"b" * 17_000, bytearray(b"c"), b"d" * 17_000]
        calls: list[tuple[Callable[[], int], bytes]] = [
            (lambda: sender.send(b"a" * 20_000), b"a" * 20_000),
            (lambda: sender.send_buffers(several), b"".join(map(bytes, several))),
            (lambda: sender.send(memoryview(b"e" * 9)), b"e" * 9),
        ]
        for call, data in calls:
            with seam.paused():
                before = sender.stats.nbytes
            failing(call)
            with seam.paused():
                accepted += data[: sender.stats.nbytes - before]
        failing(sender.flush)
        with seam.paused():
            assert receive_exactly(tcp_pair.rx, len(accepted)) == accepted
            sender.close()
            lifetime.release_parked()
        assert tcp_pair.empty()

    each_allocation(seam, operation, 5)
    with TcpSender(tcp_pair.tx) as sender:
        cell.next_works(sender.send, tcp_pair.rx)
