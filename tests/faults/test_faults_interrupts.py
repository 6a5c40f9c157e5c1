"""A signal handler that raises, anywhere in a constructor or in close(), leaves nothing behind."""

import asyncio
import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from cells import Cell
from conftest import Pair
from held_memory import wait_for_parked
from marks import frame_engines, only_io_uring, zero_copy_engines
from processes import Alarms
from traffic import stopped, tcp_connection, wait_until

import uringzc
from uringzc import ClosedError, aio, scheduler, testing
from uringzc.engines import lifetime
from uringzc.engines.attached import AttachedSenders
from uringzc.engines.choose import choose
from uringzc.senders import base

LIBRARY = str(Path(uringzc.__file__).parent)
NOT_CLOSED = pytest.mark.filterwarnings(
    "ignore:.* was not closed:ResourceWarning",
    "ignore:unclosed:ResourceWarning",
    "ignore:.* is parked:ResourceWarning",
)
#: of the lines that are executed, every so many are tried: by each engine others. 1: all, which takes minutes
STRIDE = 37


class Interrupt(BaseException):
    """What the handler raises."""


def with_scheduler(udp: Pair, tcp: Pair) -> None:
    with uringzc.Scheduler([1, 2]) as s:
        s.register_socket(udp.tx)
        s.send(udp.tx, s.register(4096), length=10, flush=True)
        s.drain()


def with_udp_sender(udp: Pair, tcp: Pair) -> None:
    with uringzc.UdpSender(udp.rx.getsockname(), blocking=False, max_delay=None) as s:
        s.send_many([b"x"] * 3)
        s.flush()


def with_shared_scheduler(udp: Pair, tcp: Pair) -> None:
    with uringzc.Scheduler() as s, uringzc.UdpSender(sock=udp.tx, scheduler=s) as tx:
        tx.send_many([b"x"] * 3)


def with_tcp_sender(udp: Pair, tcp: Pair) -> None:
    with uringzc.TcpSender(tcp.tx, blocking=False, zero_copy="always") as s:
        s.send(bytes(20000))


FACES = pytest.mark.parametrize(
    "use", [with_scheduler, with_udp_sender, with_shared_scheduler, with_tcp_sender]
)
Use = Callable[[Pair, Pair], None]


def with_ring(udp: Pair, tcp: Pair) -> None:
    with uringzc.Ring(entries=8) as ring:
        ring.register_socket(udp.tx)
        ring.send_zc(udp.tx, ring.register(4096), length=10)
        ring.submit(wait=2)
        ring.fileno()


def with_asyncio(udp: Pair, tcp: Pair) -> None:
    """On a loop whose close() ends nothing of ours; what an interrupt leaves open is dropped."""

    async def main() -> None:
        to = udp.rx.getsockname()
        transport, _ = await aio.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=to)
        for _ in range(3):
            transport.sendto(b"x")
        await asyncio.sleep(0)
        transport.abort()
        async with aio.UdpSender(to) as tx:
            await tx.send(b"x")

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


@contextmanager
def interrupted_before_line(number: int, interrupt: type[BaseException] = Interrupt) -> Iterator[list[int]]:
    """Raises it before that line of the library which the block executes; yields how many were left.

    Not in __del__(), where Python swallows what is raised.
    """
    left = [number]

    def local(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            left[0] -= 1
            if left[0] == -1:
                raise interrupt
        return local

    def enter(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_name == "__del__":
            sys.settrace(None)
        return local if frame.f_code.co_filename.startswith(LIBRARY) else None

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        yield left
    except interrupt:
        pass
    finally:
        sys.settrace(before)


def interrupt_lines(
    first: int, use: Use, udp: Pair, tcp: Pair, interrupt: type[BaseException] = Interrupt
) -> None:
    """From that line on, every STRIDE lines."""
    tcp.rx.setblocking(False)
    use(udp, tcp)
    before = len(os.listdir("/proc/self/fd"))

    def nothing_is_left() -> bool:
        with suppress(BlockingIOError):
            tcp.rx.recv(1 << 20)
        gc.collect()
        lifetime.release_parked()
        return len(os.listdir("/proc/self/fd")) == before and not lifetime.parked()

    number, left = first, -1
    while left < 0:
        with interrupted_before_line(number, interrupt) as remaining:
            use(udp, tcp)
        left = remaining[0]
        assert wait_until(nothing_is_left), f"line {number}"
        number += STRIDE


@NOT_CLOSED
@FACES
def test_before_any_line(use: Use, udp_pair: Pair, tcp_pair: Pair, engine: str) -> None:
    first = ["io_uring", "msg_zerocopy", "copy"].index(engine) * STRIDE // 3
    interrupt_lines(first, use, udp_pair, tcp_pair)


@NOT_CLOSED
@only_io_uring
def test_before_any_line_of_a_ring(udp_pair: Pair, tcp_pair: Pair) -> None:
    interrupt_lines(0, with_ring, udp_pair, tcp_pair)


@NOT_CLOSED
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_before_any_line_of_asyncio(udp_pair: Pair, tcp_pair: Pair, engine: str) -> None:
    """By KeyboardInterrupt, which asyncio does not catch; what waits in ``async with`` is dropped there."""
    first = ["io_uring", "msg_zerocopy", "copy"].index(engine) * STRIDE // 3
    interrupt_lines(first, with_asyncio, udp_pair, tcp_pair, KeyboardInterrupt)


@NOT_CLOSED
@frame_engines
def test_before_any_line_of_frames(box: testing.Hold, udp_pair: Pair, tcp_pair: Pair) -> None:
    def with_frames(udp: Pair, tcp: Pair) -> None:
        with box.run(lambda: uringzc.UdpSender(box.address, blocking=False, max_delay=None)) as s:
            s.send_many([b"x"] * 3)
            s.flush()

    interrupt_lines(0, with_frames, udp_pair, tcp_pair)


def interrupt(*args: Any, **options: Any) -> Any:
    raise Interrupt


@NOT_CLOSED
@pytest.mark.cell("signal storm", "Scheduler", "UdpSender", "TcpSender")
@FACES
@pytest.mark.parametrize("when", ["inside", "behind"])
def test_at_the_end_of_a_constructor(
    use: Use, when: str, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an engine that is made, and that no Scheduler or sender has yet."""
    udp, tcp = cell.udp(), cell.tcp()
    with monkeypatch.context() as patch:
        if when == "inside":
            patch.setattr(lifetime, "track", interrupt)
        for module in (base, scheduler):
            patch.setattr(module, "choose", lambda *args, **options: (choose(*args, **options), interrupt()))
        with pytest.raises(Interrupt):
            use(udp, tcp)
    after = cell.udp()
    with uringzc.UdpSender(sock=after.tx) as tx:
        cell.next_works(lambda data: (tx.send(data), tx.flush()), after.rx)


@NOT_CLOSED
@pytest.mark.cell("signal storm", "UdpSender", "TcpSender")
@FACES
@pytest.mark.parametrize("then", ["closed", "dropped"])
def test_in_the_midst_of_close(use: Use, then: str, cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it left, another close() ends, or the finalizer."""
    udp, tcp = cell.udp(), cell.tcp()
    made: list[Any] = []
    end = base.BaseSender._end

    def interrupted(sender: base.BaseSender, deadline: float) -> None:
        made.append(sender)
        with monkeypatch.context() as patch:
            patch.setattr(AttachedSenders, "detach_closed", interrupt)
            patch.setattr(lifetime, "close", interrupt)
            end(sender, deadline)

    with monkeypatch.context() as patch, suppress(Interrupt):
        patch.setattr(base.BaseSender, "_end", interrupted)
        use(udp, tcp)
    while made:
        sender = made.pop()
        assert sender.closed
        if then == "closed":
            sender.close()
            sender.close()
        del sender
    gc.collect()
    lifetime.release_parked()
    after = cell.udp()
    with uringzc.UdpSender(sock=after.tx) as tx:
        cell.next_works(lambda data: (tx.send(data), tx.flush()), after.rx)


@zero_copy_engines
@pytest.mark.timeout(20)
@pytest.mark.cell("signal storm", "UdpSender", "TcpSender")
@pytest.mark.parametrize("kind", ["UdpSender", "TcpSender"])
def test_a_close_that_waits_parks_at_once(kind: str, cell: Cell, box: testing.Hold) -> None:
    """It does not go on to wait for the kernel, as long as its timeout is."""
    with tcp_connection(box) as (stream, _), box.receiver_socket(), box.socket() as sock:
        sock.connect(box.address)
        with uringzc.Scheduler(max_inflight=8) as other:
            tx: Any = (
                uringzc.UdpSender(sock=sock, zero_copy="always", max_delay=None)
                if kind == "UdpSender"
                else uringzc.TcpSender(stream, zero_copy="always")
            )
            fileno = tx.fileno()
            with stopped(box):
                tx.send(bytes(1000 if kind == "UdpSender" else 20000))
                tx.flush()
                with (
                    pytest.warns(ResourceWarning, match="parked: 1 request"),
                    pytest.raises(KeyboardInterrupt),
                    Alarms(0.02, repeat=False),
                ):
                    tx.close(timeout=3600)
                assert len(lifetime.parked()) == 1
            wait_for_parked(fileno, other)
        cell.next_fails(tx.send, ClosedError)


def test_what_an_interrupt_has_kept_open_is_not_discarded(udp_pair: Pair) -> None:
    """That would raise an error of its own in place of the interrupt."""
    with uringzc.UdpSender(sock=udp_pair.tx) as tx:
        tx._discard()
