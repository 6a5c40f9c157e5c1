"""Each allocation fails once: of the engines that send frames, of a Ring, and of an asyncio transport."""

import asyncio
import errno
import gc
import socket
from typing import Any

import pytest
from allocations import Failing, each_allocation
from broken_networks import connected
from cells import Cell
from conftest import Pair
from marks import frame_engines, only_io_uring
from recorder import Recorder
from schedules import was_injected
from seam import Seam
from traffic import received

from uringzc import Ring, Scheduler, SendError, UdpSender, aio, testing
from uringzc.engines import lifetime

DATA = b"sent"


def discard(sock: socket.socket) -> int:
    """How many datagrams had come."""
    sock.setblocking(False)
    count = 0
    try:
        while sock.recv(1 << 16):
            count += 1
    except BlockingIOError:
        sock.settimeout(20)
    return count


@frame_engines
@pytest.mark.cell("no memory", "Scheduler")
def test_frames_of_a_scheduler(seam: Seam, cell: Cell, box: testing.Hold, rx: socket.socket) -> None:
    """A request that was queued completes once; its datagram arrives if it says so."""
    tx = connected(box, cell)

    def operation(failing: Failing) -> None:
        s = box.run(lambda: failing(Scheduler) or Scheduler())
        failing.until(lambda: (s.send(tx, DATA, flush=True),))
        failing.until(lambda: (s.submit(),))
        failing.until(lambda: s.fileno() + 1)
        with seam.paused():
            s.drain(timeout=20)
            results = [each.result for each in s.reap_completions()]
            assert results in ([len(DATA)], [-errno.ENOMEM])
            assert received(rx, int(results[0] > 0)) == [DATA] * (results[0] > 0)
        failing(s.close)
        s.close()
        lifetime.release_parked()

    with tx:
        each_allocation(seam, operation, 8)
        with box.run(Scheduler) as s:
            cell.next_works(lambda data: (s.send(tx, data, flush=True), s.submit()), rx)


@frame_engines
@pytest.mark.cell("no memory", "UdpSender")
def test_frames_of_a_udp_sender(seam: Seam, cell: Cell, box: testing.Hold, rx: socket.socket) -> None:
    """What was taken arrives once, or is reported."""

    def made(reported: list[SendError]) -> UdpSender:
        return UdpSender(box.address, max_delay=None, on_error=reported.append, engine="auto")

    def operation(failing: Failing) -> None:
        reported: list[SendError] = []
        s = box.run(lambda: failing(lambda: made(reported)) or made(reported))
        for call in (
            lambda: s.send(DATA),
            lambda: s.sendto(DATA, box.address),
            lambda: s.group([box.address]).send(DATA),
            s.flush,
            s.drain,
        ):
            failing(call)
        with seam.paused():
            s.drain(20)
            stats = s.stats
            s.close()
            lifetime.release_parked()
            assert stats.datagrams == 3 or failing.said
            assert stats.lost == sum(error.index >= 0 for error in reported)
            for _ in range(stats.datagrams - stats.lost):
                assert rx.recv(100) == DATA
            assert discard(rx) == 0

    each_allocation(seam, operation, 10)
    with box.run(lambda: cell.udp_sender(box.address)) as s:
        cell.next_works(lambda data: (s.send(data), s.flush()), rx)


@only_io_uring
@pytest.mark.cell("no memory", "Scheduler")
def test_requests_of_a_ring(seam: Seam, udp_pair: Pair, cell: Cell) -> None:
    """Each posts its completions once."""

    def operation(failing: Failing) -> None:
        ring = failing(lambda: Ring(8)) or Ring(8)
        failing.until(lambda: (ring.send(udp_pair.tx, DATA, user_data=1),))
        failing.until(lambda: (ring.send_zc(udp_pair.tx, DATA, user_data=2),))
        failing.until(lambda: (ring.submit(wait=3, timeout=20),))
        completions: list[Any] = []
        while sum(not each.more for each in completions) < 2:
            batch = failing.until(ring.reap)
            with seam.paused():
                completions += batch
        assert sorted(each.user_data for each in completions) == [1, 2, 2]
        with seam.paused():
            assert discard(udp_pair.rx) == 2
        failing(ring.close)
        ring.close()
        lifetime.release_parked()

    each_allocation(seam, operation, 5)
    with UdpSender(sock=udp_pair.tx) as sender:
        cell.next_works(lambda data: (sender.send(data), sender.flush()), udp_pair.rx)


@pytest.mark.cell("no memory", "UdpSender")
def test_datagrams_of_a_transport(seam: Seam, udp_pair: Pair, cell: Cell) -> None:
    """Each arrives, or the protocol or the loop's exception handler is called with an error."""
    loop = aio.new_event_loop()
    tx, rx = udp_pair
    rx.connect(tx.getsockname())

    async def exchange(failing: Failing, reported: list[Any]) -> None:
        ends = [await endpoint(failing, sock) for sock in (tx, rx)]
        (sender, _), (_, protocol) = ends
        for _ in range(3):
            sender.sendto(DATA)
        while len(protocol.datagrams) < 3 and not (
            reported or any(set(each.names) & {"error", "lost"} for _, each in ends)
        ):
            await asyncio.sleep(0)
        with seam.paused():
            for transport, each in ends:
                transport.close()
                await each.called("lost")
            assert discard(rx) + len(protocol.datagrams) == 3 or failing.said or reported

    async def endpoint(failing: Failing, sock: socket.socket) -> tuple[Any, Recorder]:
        """Made at the second attempt at the latest."""
        given = sock.dup()
        try:
            return await loop.create_datagram_endpoint(Recorder, sock=given)
        except (MemoryError, OSError) as error:
            given.close()
            if not was_injected(error, {errno.ENOMEM}):
                raise
            failing.said += 1
            return await loop.create_datagram_endpoint(Recorder, sock=sock.dup())

    def operation(failing: Failing) -> None:
        reported: list[Any] = []
        loop.set_exception_handler(lambda _, context: reported.append(context))
        loop.run_until_complete(exchange(failing, reported))
        loop.set_exception_handler(None)
        lifetime.release_parked()

    each_allocation(seam, operation, 1)  # most are reported
    loop.close()
    with UdpSender(sock=tx) as following:
        cell.next_works(lambda data: (following.send(data), following.flush()), rx)


@pytest.mark.cell("no memory", "UdpSender")
def test_making_a_transport(seam: Seam, udp_pair: Pair, cell: Cell) -> None:
    """Where it cannot be made, the socket that it had opened is closed."""
    loop = aio.new_event_loop()

    async def make() -> None:
        endpoint = loop.create_datagram_endpoint(Recorder, remote_addr=udp_pair.rx.getsockname())
        transport, protocol = await endpoint
        transport.close()
        await protocol.called("lost")

    def operation(failing: Failing) -> None:
        failing(lambda: loop.run_until_complete(make()))
        gc.collect()
        loop.run_until_complete(asyncio.sleep(0))
        lifetime.release_parked()

    each_allocation(seam, operation, 1)
    loop.close()
    cell.next_works(udp_pair.tx.send, udp_pair.rx)
