"""How an engine with frames in flight ends: closed, parked, with its thread; and forks. No frame changes."""

import gc
import socket
import threading
import warnings

import pytest
from frame_tools import scheduler, udp_sender
from marks import frame_engines, only_packet
from processes import in_thread, run_program
from traffic import datagram, received, stopped, wait_until

import uringzc
from uringzc import testing
from uringzc.engines import lifetime


@only_packet
def test_a_scheduler_that_is_closed_with_frames_in_flight_is_parked(
    box: testing.Hold, rx: socket.socket, tx: socket.socket
) -> None:
    """Its ring stays mapped until the gate has let go of the frames: what comes then is unchanged."""
    expected = [datagram(i, 1200) for i in range(50)]
    with box.run(uringzc.Scheduler) as other:
        s = box.run(uringzc.Scheduler)
        with stopped(box):
            for data in expected:
                s.send(tx, data, flush=True)
            s.submit()
            with pytest.warns(ResourceWarning, match="is parked: 50 requests"):
                s.close(timeout=0)
            del s
            gc.collect()
            assert len(lifetime.parked()) == 1
            for data in expected:
                other.send(tx, data[::-1], flush=True)
            other.submit()
        assert received(rx, 100) == [*expected, *(data[::-1] for data in expected)]
        other.drain()
        assert wait_until(lambda: other.submit() or not lifetime.parked())


@frame_engines
def test_what_was_queued_leaves_at_close(box: testing.Hold, rx: socket.socket, tx: socket.socket) -> None:
    with scheduler(box) as s:
        for i in range(20):
            s.send(tx, datagram(i, 1200))
    assert received(rx, 20) == [datagram(i, 1200) for i in range(20)]


@frame_engines
def test_memory_of_leases_outlives_the_engine(box: testing.Hold, rx: socket.socket) -> None:
    """A view of a lease can be written to when nothing is left of the engine; it is sent to nobody."""
    with udp_sender(box) as s:
        s.send(b"x")
        leases = [s.lease(1000) for _ in range(5)]
        views = [memoryview(lease.view) for lease in leases]
        views[0][:] = bytes(1000)
    assert s._engine.closed
    del s, leases
    gc.collect()
    for i, view in enumerate(views):
        view[:] = bytes([i]) * 1000
    assert [bytes(view) for view in views] == [bytes([i]) * 1000 for i in range(5)]
    assert received(rx, 1) == [b"x"]


@only_packet
def test_leases_of_a_parked_engine_can_be_written(box: testing.Hold, rx: socket.socket) -> None:
    s = box.run(lambda: uringzc.UdpSender(box.address, max_delay=None))
    lease = s.lease(1000)
    view = memoryview(lease.view)
    with stopped(box):
        s.send(datagram(1, 1200))
        s.flush()
        with pytest.warns(ResourceWarning, match="is parked"):
            s.close(timeout=0)
        view[:] = b"\xff" * 1000
    assert received(rx, 1) == [datagram(1, 1200)]
    assert wait_until(is_nothing_parked)
    view[:] = b"\xfe" * 1000
    del view, lease


def is_nothing_parked() -> bool:
    lifetime.release_parked()
    return not lifetime.parked()


@frame_engines
def test_a_thread_that_ends_sends_what_it_had_queued(
    box: testing.Hold, rx: socket.socket, tx: socket.socket
) -> None:
    made: list[uringzc.Scheduler] = []

    def own() -> None:
        made.append(box.run(uringzc.Scheduler))
        made[0].send(tx, b"submitted", flush=True)
        made[0].submit()
        made[0].send(tx, b"queued", flush=True)

    in_thread(own)
    assert received(rx, 2) == [b"submitted", b"queued"]
    with pytest.raises(uringzc.ClosedError):
        made[0].send(tx, b"x")
    assert made[0].stats.in_flight == 0


@only_packet
def test_a_thread_that_ends_waits_for_its_frames(
    box: testing.Hold, rx: socket.socket, tx: socket.socket
) -> None:
    """The gate opens while it waits: then nothing is parked."""
    submitted = threading.Event()

    def own() -> None:
        s = box.run(uringzc.Scheduler)
        s.send(tx, datagram(1, 1200), flush=True)
        s.submit()
        kept.append(s)
        submitted.set()

    kept: list[uringzc.Scheduler] = []
    with warnings.catch_warnings(), stopped(box):
        thread = threading.Thread(target=own)
        thread.start()
        assert submitted.wait(10)
    thread.join()
    assert lifetime.parked() == []
    assert received(rx, 1) == [datagram(1, 1200)]
    assert kept[0].stats.in_flight == 0


FORKED = """
    import os, sys, uringzc
    from processes import fork
    from uringzc import testing
    from uringzc.engines import lifetime

    with testing.hold() as box, box.socket() as sock, testing.receiver(sock=box.receiver_socket()) as rx:
        sock.connect(box.address)
        s = box.run(uringzc.Scheduler)
        sender = box.run(lambda: uringzc.UdpSender(box.address, scheduler=s, max_delay=None))
        box.stop()
        sender.send(b"first")
        lease = sender.lease(1000)
        lease.view[:] = b"p" * 1000
        s.send(sock, b"parent" * 100, flush=True)
        s.submit()
        s.send(sock, b"queued", flush=True)
        sender.flush()
        if sys.argv[1] == "shared":  # without the protection
            lifetime.abandon = lambda engine: None
        child = fork()
        if not child:
            refused = 0
            try:
                lease.view[:] = b"c" * 1000
                memory = s._engine._memory
                if sys.argv[1] == "shared":
                    at = bytes(memory).index(b"parent" * 100)
                    memory[at : at + 600] = b"c" * 600
                    os._exit(100)
                memory[:] = b"c" * len(memory)
                calls = [lambda: s.send(sock, b"x"), lambda: sender.send(b"x"), lambda: s.register(4096)]
                for call in (*calls, s.submit):
                    try:
                        call()
                    except uringzc.ClosedError:
                        refused += 1
                if sys.argv[1] == "closed":
                    s.close()
                    sender.close()
                if sys.argv[1] == "new":
                    with box.run(uringzc.Scheduler) as fresh:
                        fresh.send(sock, b"child", flush=True)
                        fresh.submit()
                        box.release()
                        fresh.drain()
            except BaseException as error:
                print("child", repr(error))
            finally:
                os._exit(100 + refused)
        print("refused", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) - 100)
        box.release()
        s.submit()
        lease.send()
        sender.flush()
        s.drain()
        sender.drain()
        came = sorted(rx.wait(5 if sys.argv[1] == "new" else 4))
        print([(data[:6], len(data)) for data in came])
        print(len(s.reap_notifications(wait=2)), s.stats.in_flight, sender.stats.lost)
        s.close()
        sender.close()
"""


@frame_engines
@pytest.mark.parametrize("child", ["left", "closed", "new"])
def test_a_forked_child_does_not_disturb_frames(child: str, engine: str) -> None:
    """Neither by writing to what was shared memory, nor by closing, nor with an engine of its own."""
    if (engine, child) == ("af_xdp", "new"):
        pytest.skip("the parent's AF_XDP socket has the only queue of the device")
    out, errors = run_program(FORKED, child)
    came = [(b"first", 5), (b"parent", 600), (b"pppppp", 1000), (b"queued", 6)]
    if child == "new":
        came.insert(0, (b"child", 5))
    assert out.splitlines() == ["refused 4", str(came), "2 0 0"], errors


@only_packet
def test_control_a_child_that_shares_the_frames_changes_them() -> None:
    out, errors = run_program(FORKED, "shared")
    came = [(b"cccccc", 600), (b"cccccc", 1000), (b"first", 5), (b"queued", 6)]
    assert out.splitlines() == ["refused 0", str(came), "2 0 0"], errors


MAPPED_FIRST = """
    import mmap, os

    def take() -> None:
        taken.extend(mmap.mmap(-1, 1 << 16) for _ in range(500))  # the kernel fills gaps from above

    taken = []
    os.register_at_fork(after_in_child=take)
    import uringzc
    from processes import fork
    from uringzc import testing

    with testing.hold() as box, box.run(lambda: uringzc.UdpSender(box.address)) as sender:
        leases = [sender.lease(1000) for _ in range(20)]
        child = fork()
        if not child:
            code = 1
            try:
                for lease in leases:
                    lease.view[:] = b"c" * 1000
                code = any(one.find(b"c") >= 0 for one in taken)
            finally:
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        for lease in leases:
            lease.release()
"""


@frame_engines
def test_leases_of_a_forked_child_are_no_other_memory(engine: str) -> None:
    """Not even what is mapped before the engine knows of the fork."""
    out, errors = run_program(MAPPED_FIRST)
    assert out == "0\n", errors


AT_EXIT = """
    import sys, uringzc
    from traffic import datagram
    from uringzc.engines import lifetime
    import socket

    lifetime.DRAIN_AT_END = 0.05
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((sys.argv[1], int(sys.argv[2])))
    s = uringzc.Scheduler()
    for i in range(50):
        s.send(sock, datagram(i, 1200), flush=True)
    s.submit()
    print(s.stats.in_flight)
"""


@only_packet
def test_frames_in_flight_survive_the_process(box: testing.Hold) -> None:
    """The ring's pages are the kernel's while a frame refers to them."""
    with testing.receiver(sock=box.receiver_socket()) as rx:
        box.stop()
        out, _ = run_program(AT_EXIT, *box.address, box=box)
        assert (out, rx.count) == ("50\n", 0)
        box.release()
        assert rx.wait(50) == [datagram(i, 1200) for i in range(50)]


@frame_engines
def test_what_is_queued_in_a_cycle_that_is_collected_is_sent(
    engine: str, box: testing.Hold, rx: socket.socket
) -> None:
    """The collector finalizes all of the cycle, and the engine is parked: its frames stay mapped."""

    def drop() -> None:
        with box.socket() as sock:
            sock.connect(box.address)
            scheduler = uringzc.Scheduler(engine=engine)
            scheduler.send(sock, b"first", flush=True)
            scheduler.drain()
            scheduler.send(sock, b"queued", flush=True)
            scheduler.cycle = scheduler  # type: ignore[attr-defined]
            del scheduler
            with pytest.warns(ResourceWarning):
                gc.collect()
            lifetime.release_parked()

    box.run(drop)
    assert [rx.recv(100), rx.recv(100)] == [b"first", b"queued"]
