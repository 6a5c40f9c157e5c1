"""What goes wrong on the wire without the library's protections; each beside its control, without them."""

import mmap
import os
import socket
import sys
from typing import Any

import numpy as np
import pytest
from held_memory import BareEngine
from marks import only_io_uring
from processes import Alarms, run_program
from traffic import enlarge_sndbuf, stopped, unsent_bytes

import uringzc
from uringzc import memory, testing

pytestmark = only_io_uring

HUGE = 2 << 20


# -- huge pages under registered memory


def aligned(area: Any) -> Any:
    """Four whole huge pages of it: the kernel joins what it pins into huge pieces only if all are."""
    start = -memory.address_of(memoryview(area)) % HUGE
    return area[start : start + 4 * HUGE]


def mapped() -> Any:
    area = mmap.mmap(-1, 5 * HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_HUGEPAGE)
    area.write(bytes(len(area)))
    return aligned(memoryview(area))


def array() -> Any:
    return aligned(np.ones(20 * HUGE, np.uint8))  # mapped afresh, being large; numpy asks for huge pages


def deep_inside(area: Any) -> list[int]:
    """Offsets 2,000,000 bytes into huge pages; skips where the kernel had none to give."""
    address = memory.address_of(memoryview(area))
    if not any(int(fields["AnonHugePages"].split()[0]) for _, fields in memory._mappings(address, 4 * HUGE)):
        pytest.skip("the kernel had no huge pages to give")
    return [page * HUGE + 2_000_000 for page in range(4)]


def charge(box: testing.Hold, area: Any, offsets: list[int], registered: bool) -> int:
    """What the socket is charged for 1,400 bytes at each of the offsets, while they are held."""
    with box.socket() as sock, uringzc.Scheduler() as s, stopped(box):
        enlarge_sndbuf(sock)
        sock.connect(box.address)
        region = s.register(area)
        assert region.registered == registered
        for offset in offsets:
            s.send(sock, region, offset=offset, length=1400, flush=True)
        s.submit()
        assert s.stats.in_flight == len(offsets)
        return unsent_bytes(sock)


@pytest.mark.parametrize("make", [mapped, array])
def test_huge_pages_are_sent_unregistered(box: testing.Hold, make: Any) -> None:
    area = make()
    assert 0 < charge(box, area, deep_inside(area), registered=False) < 4 * 16384


@pytest.mark.parametrize("make", [mapped, array])
def test_control_huge_pages_registered(box: testing.Hold, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    area = make()
    offsets = deep_inside(area)
    monkeypatch.setattr(memory, "on_huge_pages", lambda address, length: False)
    assert charge(box, area, offsets, registered=True) > 1_900_000


def test_regions_never_lie_on_huge_pages(box: testing.Hold) -> None:
    with box.socket() as sock, uringzc.Scheduler() as s, stopped(box):
        sock.connect(box.address)
        region = s.register(4 * HUGE)
        region.view[:] = bytes(4 * HUGE)
        assert region.registered
        assert not memory.on_huge_pages(memory.address_of(region.view), len(region))
        s.send(sock, region, offset=2_000_000, length=1400, flush=True)
        s.submit()
        assert 0 < unsent_bytes(sock) < 16384


# -- interpreter exit

EXIT = """
    import socket, sys, uringzc
    from uringzc.engines import lifetime
    from held_memory import BareEngine, Garbage
    from traffic import enlarge_sndbuf
    lifetime.DRAIN_AT_END = 0.05
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((sys.argv[2], int(sys.argv[3])))
    enlarge_sndbuf(sock)
    held = [bytearray(b"%3d " % i * 350) for i in range(100)]
    if sys.argv[1] == "unguarded":
        engine = BareEngine()
        for data in held:
            engine.send(sock, data)
        engine.submit()
        count = engine.stats.in_flight
    else:
        s = uringzc.Scheduler(debug=sys.argv[1] == "debug")
        if sys.argv[1] == "regions":
            regions = [s.register(data) for data in held]
        sources = held
        if sys.argv[1] == "regions":
            sources = regions
        if sys.argv[1] == "bytes":
            sources = map(bytes, held)
        for data in sources:
            s.send(sock, data, flush=sys.argv[1] != "open")
        if sys.argv[1] != "queued":
            s.submit()
        count = s.stats.in_flight
    print(count)
    garbage = Garbage(1400)  # finalized after them
"""


def wrong_after_exit(box: testing.Hold, kind: str) -> int:
    """How many of 100 datagrams, held while their process ended, arrived changed."""
    with testing.receiver(sock=box.receiver_socket()) as rx:
        box.stop()
        out, errors = run_program(EXIT, kind, *box.address, box=box)
        assert out == "100\n"
        assert rx.count == 0
        assert ("ResourceWarning: a Scheduler was closed and is parked: 100 requests" in errors) == (
            kind != "unguarded"
        )
        box.release()
        came = rx.wait(100)
    return sum(data != b"%3d " % i * 350 for i, data in enumerate(came))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bytearrays", "bytes", "regions", "open", "queued", "debug"])
def test_memory_in_flight_survives_interpreter_exit(box: testing.Hold, kind: str) -> None:
    assert wrong_after_exit(box, kind) == 0


def test_control_memory_in_flight_does_not_survive_with_the_bare_engine(box: testing.Hold) -> None:
    assert wrong_after_exit(box, "unguarded") > 50


# -- a descriptor that was closed and used again


def reuse(sock: socket.socket, address: tuple[str, int]) -> socket.socket:
    """Closes `sock`; a new socket, connected to `address`, gets its descriptor."""
    number = sock.fileno()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.connect(address)
        sock.close()
        os.dup2(other.fileno(), number)
    return socket.socket(fileno=number)


def first(rx: testing.Receiver) -> bytes:
    """The first datagram to come, if anything came before what is sent now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"nothing else", rx.address)
    return rx.wait(1)[0]


@pytest.mark.parametrize("zero_copy", [True, False])
@pytest.mark.parametrize("use", [False, True], ids=["submit", "send"])
def test_a_descriptor_reused_before_submit_gets_nothing(use: bool, zero_copy: bool) -> None:
    with testing.receiver(thread=False) as one, testing.receiver(thread=False) as two:
        tx = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        tx.connect(one.address)
        with uringzc.Scheduler() as s:
            for i in range(3):
                s.send(tx, b"for one", zero_copy=zero_copy, user_data=i)
            with reuse(tx, two.address) as other:
                if use:
                    s.send(other, b"for two", user_data=3, flush=True)
                s.submit()
                completions = s.reap_completions(wait=3 + use)
                assert [c.result for c in completions][:3] == [-9] * 3
                assert isinstance(completions[0].error, OSError)
                assert first(two) == (b"for two" if use else b"nothing else")
            s.flush(0)
            (note,) = s.reap_notifications(wait=1)
            assert (note.requests, note.failed) == (3 + use, 3)
        assert first(one) == b"nothing else"


def test_a_descriptor_reused_while_the_queue_is_full_gets_nothing() -> None:
    # the queue is full in the middle of a run: what was queued before the socket was closed fails
    with testing.receiver(thread=False) as one, testing.receiver(thread=False) as two:
        tx = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        tx.connect(one.address)
        with uringzc.Scheduler() as s:
            s.send(tx, b"for one")
            with reuse(tx, two.address) as other:
                assert s.send_run(other, b"for two", 7, 600, 0, flush=False) == 600
                s.submit()
                assert [c.result for c in s.reap_completions(wait=601)] == [-9] + [7] * 600
        assert first(one) == b"nothing else"


def test_a_detached_socket_counts_as_closed() -> None:
    with testing.receiver(thread=False) as rx, uringzc.Scheduler() as s:
        tx = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        tx.connect(rx.address)
        s.send(tx, b"x")
        number = tx.detach()
        s.submit()
        assert [c.result for c in s.reap_completions(wait=1)] == [-9]
        with pytest.raises(OSError, match="the socket is closed"):
            s.send(tx, b"x")
        os.close(number)
        assert first(rx) == b"nothing else"


def test_control_a_reused_descriptor_gets_what_the_bare_engine_sends() -> None:
    with testing.receiver(thread=False) as one, testing.receiver(thread=False) as two:
        tx = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        tx.connect(one.address)
        engine = BareEngine()
        engine.send(tx, b"for one")
        with reuse(tx, two.address):
            engine.submit(1)
            assert first(two) == b"for one"  # at the wrong port
        engine.exit()
        assert first(one) == b"nothing else"


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # the library held it last, and dropped it
def test_sockets_are_held_until_their_requests_are_sent() -> None:
    with testing.receiver() as rx, uringzc.Scheduler() as s:
        s.send(connected(rx), b"dropped", flush=True)  # nobody else has this socket
        s.submit()
        tx = connected(rx)
        s.send(tx, b"closed", flush=True)
        s.submit()
        tx.close()
        assert [c.result for c in s.reap_completions(wait=2)] == [7, 6]
        assert rx.wait(2) == [b"dropped", b"closed"]


def connected(rx: testing.Receiver) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(rx.address)
    return sock


# -- an interrupt between recording and queuing


def test_interrupts_lose_no_references() -> None:
    with testing.receiver(limit=20_000) as rx, connected(rx) as tx:
        enlarge_sndbuf(tx)
        payloads = [bytearray(b"%08d" % i) for i in range(16)]
        before = [sys.getrefcount(p) for p in payloads]
        sockets = sys.getrefcount(tx)
        with uringzc.Scheduler(completions="none", max_inflight=256) as s:
            turn = 0

            def step() -> None:
                nonlocal turn
                turn += 1
                try:
                    s.send(tx, payloads[turn % 16], flush=turn % 3 == 0)
                    if turn % 50 == 0:
                        s.submit()
                except BlockingIOError:
                    s.flush(0)
                    s.reap_notifications(wait=1)

            with Alarms(60e-6) as alarms:
                alarms.exhaust(step, 10_000)
            assert alarms.raised > 100
            s.flush(0)
            s.drain()
            s.reap_notifications()
            stats = s.stats
            assert (stats.in_flight, stats.held, stats.stray, stats.failed) == (0, 0, 0, 0)
            assert stats.requests == stats.completions > 1000
            assert stats.nbytes == 8 * stats.requests
            rx.wait(stats.requests)
            s.reap_notifications()
            assert [sys.getrefcount(p) for p in payloads] == before
            assert sys.getrefcount(tx) == sockets
            for p in payloads:
                p.append(0)  # no export is left
        assert first_beyond(rx, stats.requests) == b"nothing else"


def first_beyond(rx: testing.Receiver, count: int) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"nothing else", rx.address)
    return rx.wait(count + 1)[count]


def test_control_recorded_after_the_call() -> None:
    with testing.receiver(limit=0) as rx, connected(rx) as tx:
        enlarge_sndbuf(tx)
        engine = BareEngine()
        held: list[bytes] = []
        data = b"x"

        def step() -> None:
            engine.send(tx, data)
            held.append(data)  # the record, and a moment too late
            if len(held) % 50 == 0:
                engine.submit(1)

        def lost() -> int:
            return int(engine.stats.requests) - len(held)

        with Alarms(60e-6) as alarms:
            for _ in range(100):
                alarms.exhaust(step, 200)
                while engine.stats.in_flight:
                    engine.submit(1)
                engine.completions()
                release(engine)
                if lost():
                    break
        assert lost() > 0
        engine.exit()


def release(engine: BareEngine) -> None:
    from uringzc._uring import ffi, lib

    lib.uzc_slots_flush(engine.slots, 0)
    nobody = ffi.new("void **")
    while lib.uzc_slots_release(engine.slots, nobody, nobody):
        pass
    lib.uzc_slots_notifications(engine.slots, ffi.new("uzc_notification[]", 64), 64)


# -- an owner that ends with sends in flight

OWNER_ENDS = """
    import sys, threading, warnings, uringzc
    from held_memory import is_held
    from traffic import wait_until
    from uringzc import testing
    from uringzc.engines import lifetime

    guarded, drained = sys.argv[1] == "guarded", sys.argv[2] == "drained"
    lifetime.DRAIN_AT_END = 20 if drained else 0.05
    if not guarded:
        lifetime.claimed = lambda reference: None
    data = bytearray(1400)
    with testing.hold() as box, box.socket() as sock, testing.receiver(sock=box.receiver_socket()) as rx:
        sock.connect(box.address)
        box.stop()

        def own():
            global s
            s = uringzc.Scheduler()
            s.send(sock, data)
            s.submit()
            if drained:
                box.release()

        thread = threading.Thread(target=own)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            thread.start()
            thread.join()
        print([str(w.message).partition(",")[0] for w in caught])
        try:
            s.send(sock, b"x")
        except uringzc.UringzcError as error:
            print(type(error).__name__)
        print("in flight", s.stats.in_flight, "held", is_held(data))
        if not drained:
            box.release()
        rx.wait(1)
        other = uringzc.Scheduler()
        came = wait_until(lambda: other.submit() or not s.stats.in_flight, 0.3)
        print("notified", came, "parked", len(lifetime.parked()))
        other.close()
        s.close() if s._engine.closed else None
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("guard", "drained", "expected"),
    [
        ("guarded", "drained", ["[]", "ClosedError", "in flight 0 held False", "notified True parked 0"]),
        (
            *("guarded", "held"),
            [
                "['a Scheduler was closed and is parked: 1 request is in flight']",
                *("WrongThreadError", "in flight 1 held True", "notified False parked 1"),
            ],
        ),
        (
            *("unguarded", "drained"),
            ["[]", "WrongThreadError", "in flight 1 held True", "notified False parked 0"],
        ),
    ],
    ids=["drains", "parks", "control"],
)
@testing.requires("net_admin")
def test_the_owner_thread_may_end_with_sends_in_flight(guard: str, drained: str, expected: list[str]) -> None:
    out, _ = run_program(OWNER_ENDS, guard, drained)
    assert out.splitlines() == expected
