"""flush, submit and the reaps: they find all there is, and do what was left for a call of the owner's."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from conftest import Pair
from marks import only_io_uring, zero_copy_engines
from processes import in_thread, run_program
from traffic import stopped, wait_until

import uringzc
from uringzc import Completion, testing
from uringzc.engines import lifetime

S = uringzc.Scheduler
SCHEDULER: dict[str, Callable[[S], Any]] = {
    "flush": lambda s: s.flush(0),
    "submit": lambda s: s.submit(),
    "reap_completions": lambda s: s.reap_completions(),
    "reap_notifications": lambda s: s.reap_notifications(),
    "reap with wait": lambda s: s.reap_notifications(wait=1, timeout=0),
}
RING: dict[str, Callable[[uringzc.Ring], Any]] = {
    "submit": lambda ring: ring.submit(),
    "reap": lambda ring: ring.reap(),
}
each_call = pytest.mark.parametrize("call", SCHEDULER.values(), ids=SCHEDULER)


@zero_copy_engines
@pytest.mark.parametrize("call", [S.submit, S.reap_completions], ids=["submit", "reap"])
def test_calls_that_do_not_wait_find_what_the_kernel_has_put_off(
    box: testing.Hold, sock: Any, call: Callable[[S], object]
) -> None:
    """More than it does at once, and nothing is queued that would be a reason to enter it."""
    sock.setsockopt(1, 32, 8 << 20)  # SO_SNDBUFFORCE
    with S() as s:
        with stopped(box):
            assert s.send_run(sock, s.register(1000), 10, 200, 0, flush=True) == 200
            s.submit()
            assert s.stats.in_flight > 40
        assert wait_until(lambda: call(s) is not None and s.stats.in_flight == 0)
        assert len(s.reap_notifications()) == 200


@only_io_uring
def test_calls_with_nothing_to_do_do_not_enter_the_kernel() -> None:
    program = """
        import errno, os, socket
        import uringzc
        from refusals import IO_URING_ENTER, forbid
        rx = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        rx.bind(("127.0.0.1", 0))
        tx = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        tx.connect(rx.getsockname())
        s, ring = uringzc.Scheduler(engine="io_uring"), uringzc.Ring()
        s.send(tx, b"x")
        ring.send_zc(tx, b"x")
        s.drain()
        ring.drain()
        forbid(IO_URING_ENTER, errno.EPERM)
        notifier = s.flush(0)
        print(notifier.done, s.submit(), len(s.reap_completions(wait=1)), len(s.reap_completions()))
        print(len(s.reap_notifications(wait=1)), len(s.reap_notifications()), s.flush(0))
        print(ring.submit(), ring.submit(wait=2), len(ring.reap()), len(ring.reap()))
        for call in (s, ring):  # the control
            call.send(tx, b"x")
            try:
                call.submit()
            except PermissionError:
                print("entered", flush=True)
        os._exit(0)
    """
    out, errors = run_program(program)
    assert out.splitlines() == ["True 1 1 0", "1 0 None", "1 0 2 0", "entered", "entered"], errors


def park(box: testing.Hold, sock: Any, keep: list[Any]) -> None:
    """A scheduler of this thread is closed while the kernel has memory of it."""
    other = S()
    other.send(sock, b"x")
    with pytest.warns(ResourceWarning, match="is parked"):
        other.close(0.01)
    keep.append(other)


@zero_copy_engines
@each_call
def test_each_call_ends_engines_that_are_parked(
    box: testing.Hold, sock: Any, call: Callable[[S], object]
) -> None:
    keep: list[Any] = []
    with S() as s:
        with stopped(box):
            park(box, sock, keep)
            call(s)
            assert len(lifetime.parked()) == 1
        assert wait_until(lambda: (call(s), not lifetime.parked())[1])


@only_io_uring
@pytest.mark.parametrize("call", RING.values(), ids=RING)
def test_each_call_of_a_ring_ends_engines_that_are_parked(
    box: testing.Hold, sock: Any, call: Callable[[uringzc.Ring], object]
) -> None:
    keep: list[Any] = []
    with uringzc.Ring() as ring:
        with stopped(box):
            park(box, sock, keep)
            call(ring)
            assert len(lifetime.parked()) == 1
        assert wait_until(lambda: (call(ring), not lifetime.parked())[1])


@only_io_uring
@each_call
def test_each_call_unregisters_memory_that_was_closed(call: Callable[[S], object], udp_pair: Pair) -> None:
    with S() as s:
        region = s.register(4096)
        s.send(udp_pair.tx, region, length=10)
        s.drain()
        region.close()
        used = s._engine._buffers._used  # type: ignore[attr-defined]
        assert used[0] == 1
        s.flush(0)  # the request had the last reference
        assert used[0] == 0
        s.register(4096).close()
        assert used[0] == 1
        call(s)
        assert used[0] == 0


@each_call
def test_each_call_ends_senders_that_were_dropped(call: Callable[[S], object], udp_pair: Pair) -> None:
    with S() as s:
        s.submit()
        sender = uringzc.UdpSender(sock=udp_pair.tx, scheduler=s)
        sender.send(b"x")
        sender.drain()
        with pytest.warns(ResourceWarning, match="not closed"):
            in_thread(lambda: sender.__del__())  # as a collector in any thread does
        waiting = s._engine.senders.to_detach
        assert len(waiting) == 1
        call(s)
        assert waiting == []


@each_call
def test_debug_mode_reports_at_the_next_call(call: Callable[[S], object], udp_pair: Pair) -> None:
    with S(debug=True) as s:
        for _ in range(2):
            data = bytearray(b"original")
            s.send(udp_pair.tx, data)
            s.drain()
            data[0] = 0
            with pytest.raises(uringzc.BufferModifiedError):
                s.flush(0)
        call(s)  # once for each
    udp_pair.receive(2)


def test_records_are_not_read_in_the_child_of_a_fork() -> None:
    program = """
        import os, socket
        import uringzc
        from processes import fork
        tx = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        tx.connect(("127.0.0.1", 9))
        both = [uringzc.Scheduler()]
        if both[0].engine == "io_uring":
            both.append(uringzc.Ring())
        for one in both:
            one.send(tx, b"x")
            one.drain()
        reaps = [both[0].reap_completions, *(ring.reap for ring in both[1:])]
        if not fork():
            for reap in reaps:
                try:
                    print(len(reap()), flush=True)
                except uringzc.ClosedError as error:
                    print("parent" in str(error), flush=True)
            os._exit(0)
        os.wait()
        for reap, one in zip(reaps, both, strict=True):
            one.close()
            print(len(reap()), len(reap()))
    """
    out, errors = run_program(program)
    read = out.split("\n")[:-1]
    assert read in (["True", "1 0"], ["True", "True", "1 0", "1 0"]), errors


def test_arguments_of_reaps(udp_pair: Pair) -> None:
    with S() as s:
        for reap in (s.reap_completions, s.reap_notifications):
            s.send(udp_pair.tx, b"x", flush=True)
            s.drain()
            assert len(reap(1, 0.0)) == 1 + (reap == s.reap_notifications)
            assert len(reap(1 << 70, timeout=None)) == len(reap(timeout=3, wait=True)) == 0
            for wait in (-1, -(1 << 70)):
                with pytest.raises(ValueError, match=rf"^wait must not be negative: {wait}$"):
                    reap(wait)
            for wrong in ("1", 1.0, None):
                with pytest.raises(TypeError):
                    reap(wrong)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="got 'wait' twice"):
                reap(1, wait=1)  # type: ignore[misc]
            with pytest.raises(TypeError, match="takes 2 positional arguments, 3 were given"):
                reap(1, 2, 3)  # type: ignore[call-arg]
            with pytest.raises(TypeError, match=r"reap_\w+\(\) got an unexpected keyword argument 'waits'"):
                reap(waits=1)  # type: ignore[call-arg]


@only_io_uring
def test_sends_of_a_ring_have_no_slots(udp_pair: Pair) -> None:
    with uringzc.Ring() as ring:
        for send in (ring.send, ring.send_zc):
            for name in ("slot", "flush", "zero_copy", "region", "size"):
                with pytest.raises(TypeError, match=rf"{send.__name__}\(\) got an unexpected .* '{name}'"):
                    send(udp_pair.tx, b"x", **{name: 0})  # type: ignore[arg-type]
        assert ring.stats.requests == 0


def test_records_of_a_batch_are_what_their_class_makes(udp_pair: Pair) -> None:
    with S([7]) as s:
        for n in range(3):
            s.send(udp_pair.tx, b"x", user_data=(1 << 64) - 1 - n, flush=True)
        s.drain()
        completions, notifications = s.reap_completions(), s.reap_notifications()
        for batch in (completions, notifications):
            one, other = iter(batch), iter(batch)
            first: Any = next(one)
            made = type(first)(*first)
            assert (first, hash(first), repr(first)) == (made, hash(made), repr(made))
            assert pickle.loads(pickle.dumps(first)) == first
            assert [first, *one] == list(other)
            assert next(one, None) is None
        assert completions[0] == Completion((1 << 64) - 1, 1)
        assert {n.tag for n in notifications} == {7}
    udp_pair.receive(3)


def test_a_batch_keeps_its_records_while_it_is_read(udp_pair: Pair) -> None:
    with S() as s:
        s.send(udp_pair.tx, b"x", user_data=5)
        records = iter(s.reap_completions(wait=1))
        s.send(udp_pair.tx, b"x", user_data=6)
        s.reap_completions(wait=1)
    assert list(records) == [Completion(5, 1)]
    udp_pair.receive(2)


def test_a_batch_can_be_copied_and_pickled(udp_pair: Pair) -> None:
    with S() as s:
        s.send(udp_pair.tx, b"x", user_data=7)
        s.drain()
        for batch in (s.reap_completions(), s.reap_completions()):
            pickled = pickle.loads(pickle.dumps(batch))
            for other in (copy.copy(batch), copy.deepcopy(batch), pickled, batch[:]):
                assert type(other) is type(batch)
                assert (list(other), len(other), other.dtype) == (list(batch), len(batch), batch.dtype)
    assert len(uringzc.Batch.__new__(uringzc.Batch)) == 0  # one that was not made
