"""What the kernel can refuse and cannot easily be made to: one fault each."""

import errno
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from conftest import Pair
from seam import Seam
from traffic import receive_exactly

from uringzc import Scheduler, TcpSender, UdpSender

if TYPE_CHECKING:
    from typing_extensions import Buffer

LARGE = 20_000  # sent zero-copy


@pytest.mark.engines("io_uring")
@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("after", [0, 1])
def test_a_stream_goes_on_by_system_calls_without_memory_for_requests(
    seam: Seam, tcp_pair: Pair, blocking: bool, after: int
) -> None:
    """EAGAIN of io_uring_enter() is no EAGAIN of the socket: part of the data had been accepted before."""
    data: list[Buffer] = [b"a" * LARGE, bytearray(b"b" * 10), b"c" * LARGE, b"d" * LARGE]
    whole = b"".join(map(bytes, data))
    size = len(whole)
    with TcpSender(tcp_pair.tx, zero_copy="always", blocking=blocking) as sender:
        with seam.fail("submission", errno.EAGAIN, after=after) as plan:
            assert sender.send_buffers(data) == size
        assert plan.injected == 1
        assert sender.send(b"e" * LARGE) == LARGE
        assert sender.stats.nbytes == size + LARGE
        assert receive_exactly(tcp_pair.rx, size + LARGE) == whole + b"e" * LARGE
    assert tcp_pair.empty()


@pytest.mark.engines("msg_zerocopy")
def test_notifications_that_an_interrupt_kept_from_being_read_are_read(seam: Seam, udp_pair: Pair) -> None:
    with Scheduler() as scheduler:
        scheduler.send(udp_pair.tx, b"first")
        scheduler.drain()
        scheduler.send(udp_pair.tx, b"x", flush=True)
        with seam.fail("recvmmsg", errno.EINTR, times=2) as plan:
            scheduler.submit()
            scheduler.drain(timeout=5)
        assert plan.injected == 2


# -- EINTR of what waits, with a signal that is handled


class HandlerError(Exception):
    """Raised by a signal handler."""


@pytest.fixture(params=["returns", "raises"])
def handler(request: pytest.FixtureRequest) -> Iterator[list[int]]:
    """Counts the signals that were handled; `raises`: and raises."""
    came: list[int] = []

    def handle(*_: object) -> None:
        came.append(1)
        if request.param == "raises":
            raise HandlerError

    before = signal.signal(signal.SIGUSR1, handle)
    yield came
    signal.signal(signal.SIGUSR1, before)


WAITS = {
    "io_uring": "io_uring_submit_and_wait io_uring_enter2 io_uring_submit_and_wait_timeout",
    "msg_zerocopy": "poll",
}


@pytest.mark.engines("io_uring", "msg_zerocopy")  # with a copy only room is waited for
@pytest.mark.parametrize("timeout", [None, 10])
def test_an_interrupted_wait_goes_on_unless_the_handler_raises(
    seam: Seam, udp_pair: Pair, handler: list[int], engine: str, timeout: float | None
) -> None:
    with Scheduler() as scheduler:
        scheduler.send(udp_pair.tx, b"first")
        scheduler.drain()
        seam.hold(results=False)
        scheduler.send(udp_pair.tx, b"x", flush=True)
        scheduler.submit()
        seam.hold(results=False, notifications=False)
        plan = seam.fail(WAITS[engine], errno.EINTR, signal=signal.SIGUSR1)
        try:
            if timeout:
                with pytest.raises(TimeoutError):
                    scheduler.drain(timeout=0.01)
            else:
                scheduler.drain()
        except HandlerError:
            pass
        seam.release()
        scheduler.drain(timeout=timeout)
        assert plan.injected == len(handler) == 1
        assert len(scheduler.reap_completions()) == 2


def test_an_interrupted_system_call_of_a_sender_is_reported_or_made_again(
    seam: Seam, udp_pair: Pair, handler: list[int]
) -> None:
    """A datagram is sent, or lost with an error; a handler that raises changes nothing of that."""
    reported: list[OSError] = []
    sender = UdpSender(sock=udp_pair.tx, on_error=reported.append, zero_copy="never")
    plan = seam.fail("sendto sendmsg sendmmsg", errno.EINTR, signal=signal.SIGUSR1)
    try:
        for number in range(4):
            sender.send(b"%d" % number)
        sender.flush()
    except HandlerError:
        pass
    sender.close()
    assert plan.injected == len(handler) == 1
    lost = {error.index for error in reported}  # type: ignore[attr-defined]
    came = {number for number in range(sender.stats.datagrams) if number not in lost}
    assert {int(each) for each in udp_pair.receive(len(came))} == came
    assert udp_pair.empty()


# -- no descriptor, no mapping


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_an_engine_that_gets_no_descriptor_says_so(seam: Seam, engine: str, number: int) -> None:
    for after in range(10):
        with ExitStack() as stack, seam.fail("descriptor", number, after=after) as plan:
            try:
                stack.enter_context(Scheduler()).fileno()
            except OSError as error:
                assert (error.errno, plan.injected) == (number, 1)  # noqa: PT017
            plan.end()
            assert stack.enter_context(Scheduler()).fileno() >= 0
        if not plan.injected:
            break
    assert after >= 2


def test_a_sender_goes_on_where_sendmmsg_stopped(seam: Seam, udp_pair: Pair) -> None:
    """Small datagrams of different sizes, which are no train, leave by one call: here it takes two."""
    sizes = [1, 2, 3, 4, 5, 6]
    with UdpSender(udp_pair.rx.getsockname(), max_delay=None) as sender:
        for size in (10, *sizes):
            sender.send(bytes(size))
            if size == 10:
                sender.drain()  # the first to a destination leaves alone
        with seam.short("sendmmsg", 2) as plan:
            sender.flush()
        assert plan.injected == 1
        assert (sender.stats.lost, sender.stats.waiting) == (0, 0)
    assert [len(data) for data in udp_pair.receive(7)] == [10, *sizes]
