"""Faults that the seam injects reach the code, are counted, and end with the test."""

import errno
import signal
import socket
from itertools import count

import pytest
from conftest import Pair
from seam import NOTIFICATION, Seam

from uringzc import Ring, Scheduler
from uringzc._uring import ffi, lib


@pytest.mark.engines("io_uring")
def test_a_call_that_enters_the_ring_fails(seam: Seam, udp_pair: Pair) -> None:
    with Scheduler() as scheduler:
        scheduler.send(udp_pair.tx, b"x", user_data=1)
        plan = seam.fail("io_uring_enter", errno.EAGAIN, times=2)
        for tries in (1, 2):
            with pytest.raises(BlockingIOError):
                scheduler.submit()
            assert plan.injected == tries
        assert scheduler.submit() == 1
        assert [each.result for each in scheduler.reap_completions(wait=1)] == [1]
        assert seam.calls("io_uring_enter") >= 3


@pytest.mark.engines("msg_zerocopy", "copy")
def test_a_call_fails_for_one_socket_after_others(seam: Seam, udp_pair: Pair, tcp_pair: Pair) -> None:
    plan = seam.fail("sendmmsg", errno.EPERM, after=1, fd=udp_pair.tx.fileno())
    with Scheduler() as scheduler:
        for number, sock in enumerate((udp_pair.tx, tcp_pair.tx, udp_pair.tx, udp_pair.tx)):
            scheduler.send(sock, b"x", user_data=number)
            scheduler.submit()
        results = [each.result for each in scheduler.reap_completions(wait=4)]
    assert results == [1, 1, -errno.EPERM, 1]
    assert plan.injected == 1
    assert seam.calls("sendmmsg") == 4


@pytest.mark.engines("msg_zerocopy", "copy")
def test_sendmmsg_takes_fewer(seam: Seam, udp_pair: Pair) -> None:
    plan = seam.short("sendmmsg", 2)
    udp_pair.tx.setsockopt(
        socket.IPPROTO_IP, 11, 1
    )  # IP_RECVERR: datagrams of a connected socket leave together
    with Scheduler() as scheduler:
        for number in range(5):
            scheduler.send(udp_pair.tx, b"%d" % number, user_data=number)
        scheduler.submit()
        assert [each.result for each in scheduler.reap_completions(wait=5)] == [1] * 5
    assert udp_pair.receive(5) == [b"%d" % number for number in range(5)]
    assert plan.injected == 1
    assert seam.calls("sendmmsg") == 2


@pytest.mark.engines("io_uring")
@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("zero_copy", [True, False])
def test_a_request_completes_with_a_chosen_error(
    seam: Seam, udp_pair: Pair, alone: bool, zero_copy: bool
) -> None:
    plan = seam.result(-errno.ENOBUFS, after=1, alone=alone)
    with Scheduler() as scheduler:
        for number in range(3):
            scheduler.send(udp_pair.tx, b"%d" % number, user_data=number, zero_copy=zero_copy)
        notifier = scheduler.flush(0)
        scheduler.submit()
        results = {each.user_data: each.result for each in scheduler.reap_completions(wait=3)}
        assert results == {0: 1, 1: -errno.ENOBUFS, 2: 1}
        assert notifier is not None
        notifier.wait()
        [notification] = scheduler.reap_notifications()
        assert (notification.requests, notification.failed) == (3, 1)
    assert plan.injected == 1
    assert seam.calls("sqe") == 3
    assert udp_pair.receive(2) == [b"0", b"2"]
    assert udp_pair.empty()


@pytest.mark.engines("io_uring")
def test_a_stream_accepts_fewer_bytes(seam: Seam, tcp_pair: Pair) -> None:
    plan = seam.result(3)
    with Scheduler() as scheduler:
        for _ in range(2):
            scheduler.send(tcp_pair.tx, b"abcdef", flush=True)
            scheduler.submit()
        assert [each.result for each in scheduler.reap_completions(wait=2)] == [3, 6]
        scheduler.drain()
    assert plan.injected == 1
    assert tcp_pair.rx.recv(9, socket.MSG_WAITALL) == b"abcabcdef"


@pytest.mark.engines("io_uring")
def test_a_stream_accepts_fewer_bytes_of_several_buffers(seam: Seam, tcp_pair: Pair) -> None:
    plan = seam.result(3)
    pieces = [b"ab", b"cd", b"ef"]
    with Ring() as ring:
        for number in range(2):
            ring.sendmsg_zc(tcp_pair.tx, pieces, user_data=number)
            ring.submit(wait=2)
        assert [each.res for each in ring.reap() if not each.notif] == [3, 6]
    assert plan.injected == 1
    assert tcp_pair.rx.recv(9, socket.MSG_WAITALL) == b"abcabcdef"


@pytest.mark.engines("io_uring")
def test_only_some_are_submitted(seam: Seam, udp_pair: Pair) -> None:
    with Scheduler() as scheduler:
        for number in range(5):
            scheduler.send(udp_pair.tx, b"%d" % number, user_data=number)
        plan = seam.short("io_uring_enter", 2)
        assert scheduler.submit() == 2
        assert scheduler.submit() == 3
        assert len(scheduler.reap_completions(wait=5)) == 5
    assert plan.injected == 1
    assert udp_pair.receive(5) == [b"%d" % number for number in range(5)]


@pytest.mark.engines("io_uring", "msg_zerocopy")
def test_notifications_are_held_and_given(seam: Seam, udp_pair: Pair) -> None:
    with Scheduler() as scheduler:
        scheduler.send(udp_pair.tx, b"first", flush=True)
        scheduler.drain()
        scheduler.reap_notifications()
        seam.hold(results=False)
        for number in range(3):
            scheduler.send(udp_pair.tx, b"x", user_data=number, flush=True)
            scheduler.submit()
            assert len(scheduler.reap_notifications()) == 0
        held = seam.held()
        assert len(held) == seam.held_ever == 3
        assert all(each.flags & NOTIFICATION for each in held)
        for left in (held[2:], held[:1]):
            assert seam.release(left) == 1
            assert len(scheduler.reap_notifications(wait=1)) == 1
        assert len(seam.held()) == 1
        scheduler.drain()  # waits without a limit: what is held is given
        assert [each.sequence for each in scheduler.reap_notifications()] == [2]
    assert scheduler.stats.stray == 0


@pytest.mark.engines("io_uring")
def test_results_are_held_and_come_before_notifications(seam: Seam, udp_pair: Pair) -> None:
    with Scheduler() as scheduler:
        seam.hold()
        scheduler.send(udp_pair.tx, b"x", user_data=1, flush=True)
        scheduler.submit()
        result, notification = seam.held()
        assert not result.flags & NOTIFICATION
        assert notification.flags & NOTIFICATION
        seam.release([result])
        assert [each.user_data for each in scheduler.reap_completions()] == [1]
        assert len(scheduler.reap_notifications()) == 0
        seam.release()
        assert len(scheduler.reap_notifications()) == 1


@pytest.mark.strays
@pytest.mark.engines("io_uring")
def test_control_a_notification_before_its_result_is_stray(seam: Seam, udp_pair: Pair) -> None:
    with Scheduler() as scheduler:
        seam.hold()
        scheduler.send(udp_pair.tx, b"x", user_data=1, flush=True)
        scheduler.submit()
        seam.release(seam.held()[::-1])
        scheduler.drain()
        assert [each.result for each in scheduler.reap_completions()] == [-errno.ECANCELED]
    assert scheduler.stats.stray == 2


@pytest.mark.engines("io_uring", "msg_zerocopy")
def test_delays_put_completions_in_another_order(seam: Seam, udp_pair: Pair) -> None:
    with Scheduler() as scheduler:
        scheduler.send(udp_pair.tx, b"first", flush=True)
        scheduler.drain()
        scheduler.reap_notifications()
        seam.hold(most=5, split=True)
        for number in range(20):
            scheduler.send(udp_pair.tx, b"x", user_data=number, flush=True)
        scheduler.drain()
        sequences = [each.sequence for each in scheduler.reap_notifications()]
    assert sorted(sequences) == list(range(1, 21))
    assert sequences != sorted(sequences)
    assert seam.held_ever > 10


@pytest.mark.engines("io_uring")
def test_a_signal_comes_with_the_error(seam: Seam, udp_pair: Pair) -> None:
    came = []
    before = signal.signal(signal.SIGUSR1, lambda *_: came.append(1))
    try:
        with Scheduler() as scheduler:
            plan = seam.fail("io_uring_submit_and_wait_timeout", errno.EINTR, signal=signal.SIGUSR1)
            scheduler.send(udp_pair.tx, b"x")
            scheduler.drain()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert came == [1]
    assert plan.injected == 1


@pytest.mark.engines
def test_each_allocation_fails_in_turn(seam: Seam) -> None:
    for passed in count():
        with seam.fail("allocation", errno.ENOMEM, after=passed) as plan:
            slots = lib.uzc_slots_new(8, lib.UZC_ALL)
        if not plan.injected:
            break
        assert slots == ffi.NULL
    assert passed == 4
    lib.uzc_slots_free(slots)


@pytest.mark.engines
def test_everything_is_as_before_when_the_seam_is_closed() -> None:
    seam = Seam()
    seam.fail("allocation", errno.ENOMEM, times=100)
    assert lib.uzc_slots_new(8, lib.UZC_ALL) == ffi.NULL
    made = seam.calls("allocation")
    seam.close()
    lib.uzc_slots_free(lib.uzc_slots_new(8, lib.UZC_ALL))
    assert (made, seam.calls("allocation")) == (1, 0)


@pytest.mark.engines
@pytest.mark.parametrize(
    "call",
    ["sendmsg", "sendmmsg", "recvmmsg", "poll", "epoll_wait", "mmap", "io_uring_enter2", "PyTuple_New"],
)
def test_the_modules_make_these_calls(seam: Seam, call: str) -> None:
    assert seam.has(call)
    assert not seam.has("gets")
