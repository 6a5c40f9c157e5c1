"""Memory that is sent: regions and the program's own buffers, held exactly until they are released."""

import gc
import mmap
import os
import socket
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Pair
from held_memory import is_held, pinned_kib
from marks import only_io_uring, zero_copy_engines
from processes import run_program
from traffic import stopped, wait_until

import uringzc
from uringzc import memory, testing

S = uringzc.Scheduler
PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def held(box: testing.Hold) -> Iterator[tuple[testing.Hold, socket.socket, testing.Receiver]]:
    """A sandbox, a socket whose datagrams it can hold, and their receiver."""
    with box.socket() as sock, testing.receiver(sock=box.receiver_socket()) as rx:
        sock.connect(box.address)
        yield box, sock, rx


Held = tuple[testing.Hold, socket.socket, testing.Receiver]


def mappings(view: memoryview) -> list[dict[str, str]]:
    return [fields for _, fields in memory._mappings(memory.address_of(view), view.nbytes)]


def settled(s: S) -> None:
    """Flushes, waits, and releases references."""
    s.flush(0)
    s.drain()
    s.submit()


def test_a_closed_engine_has_unlocked_its_memory() -> None:
    """The kernel ends a ring some time later; what comes next is not to find the limit reached."""
    if reason := testing.missing("unprivileged"):
        pytest.skip(reason)
    program = """
        from refusals import *
        become_nobody(6 << 20)  # for one arena of 4 MiB
        for _ in range(4):
            with uringzc.UdpSender(("127.0.0.1", 9)) as sender:
                print(sender.explain().count("an arena of 4096 KiB."))
    """
    assert run_program(program)[0] == "1\n" * 4


# -- regions


@pytest.mark.parametrize("size", [1, 100, PAGE, PAGE + 1, 1 << 20])
def test_a_region_of_any_size_is_sent(size: int, udp_pair: Pair, engine: str) -> None:
    with S() as s, s.register(size) as region:
        assert region.registered == (engine == "io_uring")
        assert len(region) == len(region.view) == region.view.nbytes == size
        assert memory.address_of(region.view) % PAGE == 0
        assert not region.view.readonly
        assert bytes(region.view[:100]) == bytes(min(size, 100))
        region.view[-1:] = b"!"
        assert all("nh" in fields["VmFlags"].split() for fields in mappings(region.view))  # MADV_NOHUGEPAGE
        s.send(udp_pair.tx, region, offset=size - 1, length=1, flush=True)
        s.submit()
        assert udp_pair.receive(1) == [b"!"]
        how = "registered" if region.registered else "not registered"
        assert f"Region of {size} bytes, {how}" in repr(region)


def test_region_is_sent_from_where_it_is(udp_pair: Pair) -> None:
    with S() as s:
        region = s.register(1 << 16)
        pattern = bytes(range(256)) * 256
        region.view[:] = pattern
        pieces = [(0, 1), (0, 1 << 14), (1, 1), (4095, 2), (4096, 4096), (65535, 1), (65536, 0), (7, 60000)]
        for offset, length in pieces:
            s.send(udp_pair.tx, region, offset=offset, length=length)
        s.send(udp_pair.tx, region, offset=65000)
        s.submit()
        expected = [pattern[offset : offset + length] for offset, length in pieces] + [pattern[65000:]]
        assert udp_pair.receive(len(expected)) == expected


@only_io_uring
def test_a_closed_region_stays_registered_until_the_notification(held: Held) -> None:
    box, sock, rx = held
    with S() as s:
        region = s.register(8 << 20)
        region.view[:4] = b"held"
        assert pinned_kib() >= 8192
        with stopped(box):
            s.send(sock, region, length=4, flush=True)
            s.submit()
            view = region.view
            region.close()
            region.close()
            assert not region.registered
            assert "closed" in repr(region)
            assert len(region) == 8 << 20
            with pytest.raises(uringzc.ClosedError, match="region is closed"):
                _ = region.view
            with pytest.raises(ValueError, match="the region is closed"):
                s.send(sock, region, length=4)
            with pytest.raises(ValueError, match="the region is closed"):
                s.send_run(sock, region, 4, 1)
            s.submit()
            assert pinned_kib() >= 8192  # the registration stays until the notification
            del view
            gc.collect()
        s.reap_notifications(wait=1)
        assert wait_until(lambda: pinned_kib() < 8192)
        assert rx.wait(1) == [b"held"]


@only_io_uring
def test_a_closed_region_holds_the_callers_buffer_until_the_notification(held: Held) -> None:
    box, sock, _ = held
    with S() as s:
        data = bytearray(b"mine" * 1024)
        region = s.register(data)
        assert region.registered
        assert is_held(data)
        with stopped(box):
            s.send(sock, region, length=1000, flush=True)
            s.submit()
            region.close()
            s.submit()
            assert is_held(data)
        s.reap_notifications(wait=1)
        assert not is_held(data)


def test_control_a_closed_region_that_was_not_sent_is_released_at_once() -> None:
    with S() as s:
        data = bytearray(8192)
        region = s.register(data)
        assert is_held(data)
        region.close()
        assert not is_held(data)


def test_a_dropped_region_is_unregistered(udp_pair: Pair) -> None:
    with S() as s:
        region = s.register(8 << 20)
        s.send(udp_pair.tx, region, length=1, flush=True)
        del region
        gc.collect()
        s.submit()
        s.reap_notifications(wait=1)
        s.submit()
        assert wait_until(lambda: pinned_kib() < 8192)


@only_io_uring
def test_thousands_of_regions_can_be_registered(udp_pair: Pair) -> None:
    with S() as s:
        regions = [s.register(PAGE) for _ in range(3000)]
        assert pinned_kib() >= 3000 * PAGE // 1024
        for i in (0, 1, 1499, 2999):
            regions[i].view[:4] = b"%04d" % i
            s.send(udp_pair.tx, regions[i], length=4)
        settled(s)
        assert udp_pair.receive(4) == [b"0000", b"0001", b"1499", b"2999"]
        del regions
        gc.collect()
        for _ in range(20_000):  # more than the table has entries: they are used again
            s.register(1).close()
        s.submit()
        assert wait_until(lambda: pinned_kib() < 3000 * PAGE // 1024)


@only_io_uring
def test_regions_beyond_the_table_are_refused() -> None:
    with S() as s:
        regions = [s.register(1) for _ in range(16383)]
        data = bytearray(PAGE)
        last = s.register(data)
        with pytest.raises(OSError, match="16384 buffers are registered, the most of one ring: close"):
            s.register(bytearray(1))
        regions.pop().close()
        assert s.register(1).registered
        assert is_held(data)
        last.close()
        assert not is_held(data)


@pytest.mark.slow
@only_io_uring
def test_a_region_may_span_registered_buffers(udp_pair: Pair) -> None:
    gib, mib = 1 << 30, 1 << 20
    available = int(Path("/proc/meminfo").read_text().partition("MemAvailable:")[2].split()[0]) >> 10
    if available < 3072:
        pytest.skip("needs 3 GiB of memory")
    with S() as s:
        region = s.register(gib + mib)
        assert region.registered
        seams = [0, gib - mib - 700, gib - mib, gib - mib + 700, gib - 700, gib, gib + mib - 1400]
        for number, offset in enumerate(seams):
            region.view[offset : offset + 1400] = bytes([number]) * 1400
        for offset in seams:
            s.send(udp_pair.tx, region, offset=offset, length=1400)
        assert s.send_run(udp_pair.tx, region, 1000, 2, mib - 1000, offset=gib - 500) == 2
        settled(s)
        assert [c.result for c in s.reap_completions()] == [1400] * len(seams) + [1000] * 2
        expected = [bytes(region.view[offset : offset + 1400]) for offset in seams]
        expected += [bytes(region.view[at : at + 1000]) for at in (gib - 500, gib - 500 + mib - 1000)]
        assert udp_pair.receive(len(expected)) == expected
        with pytest.raises(ValueError, match="are not all in the 1074790400 bytes of the memory"):
            s.send(udp_pair.tx, region, offset=gib + mib - 1, length=2)


@only_io_uring
def test_region_of_another_engine_is_refused(udp_pair: Pair) -> None:
    with S() as one, S() as two, uringzc.Ring() as ring:
        region, raw = one.register(4096), ring.register(4096)
        refusals: list[Callable[[], object]] = [
            lambda: two.send(udp_pair.tx, region),
            lambda: two.send_run(udp_pair.tx, region, 1, 1),
            lambda: two.send(udp_pair.tx, raw),
            lambda: ring.send_zc(udp_pair.tx, region),
        ]
        for refusal in refusals:
            with pytest.raises(ValueError, match="was registered with another Scheduler or sender"):
                refusal()
        assert two.stats.requests == ring.stats.requests == 0
        one.send(udp_pair.tx, region, length=1)


def test_region_of_an_engine_that_is_gone_is_refused(udp_pair: Pair) -> None:
    # the next engine is likely to lie where the last one lay
    for _ in range(20):
        one = S(max_inflight=64)
        region = one.register(4096)
        one.close()
        del one
        gc.collect()
        with (
            S(max_inflight=64) as two,
            pytest.raises(ValueError, match="was registered with another Scheduler or sender"),
        ):
            two.send(udp_pair.tx, region, length=10)


# -- the program's own memory


def anonymous_private() -> Any:
    return mmap.mmap(-1, 8192, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def anonymous_shared() -> Any:
    return mmap.mmap(-1, 8192)


def file_mapped(**options: int) -> Callable[[], Any]:
    def make() -> Any:
        fd = os.open("/var/tmp", os.O_TMPFILE | os.O_RDWR)
        try:
            os.write(fd, b"file" * 2048)
            return mmap.mmap(fd, 8192, **options)
        finally:
            os.close(fd)

    return make


KINDS: list[tuple[str, Callable[[], Any], bool]] = [
    ("bytearray", lambda: bytearray(b"byte" * 2048), True),
    ("numpy", lambda: np.arange(2048, dtype=np.int32), True),
    ("numpy 2d", lambda: np.arange(2048, dtype=">i4").reshape(32, 64), True),
    ("structured", lambda: np.ones(512, [("a", "<i4"), ("b", "<f4"), ("c", "u8")]), True),
    ("memoryview", lambda: memoryview(bytearray(b"view" * 2048))[:], True),
    ("slice", lambda: memoryview(bytearray(16384))[100:8292], True),
    ("anonymous private", anonymous_private, True),
    ("anonymous shared", anonymous_shared, True),
    ("file private", file_mapped(flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE), True),
    ("file shared", file_mapped(access=mmap.ACCESS_WRITE), False),
    ("file read-only", file_mapped(access=mmap.ACCESS_READ), False),
    ("file read-only private", file_mapped(flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ), False),
]


@pytest.mark.parametrize(("make", "registered"), [row[1:] for row in KINDS], ids=[row[0] for row in KINDS])
def test_memory_of_the_program_can_be_registered(
    make: Callable[[], Any], registered: bool, udp_pair: Pair, engine: str
) -> None:
    data = make()
    content = bytes(memoryview(data).cast("B") if not isinstance(data, np.ndarray) else data.tobytes())
    assert len(content) == 8192
    with S() as s:
        region = s.register(data)
        assert region.registered == (registered and engine == "io_uring")
        assert bytes(region.view) == content
        s.send(udp_pair.tx, region, offset=100, length=5000)
        s.send(udp_pair.tx, data)
        assert s.send_run(udp_pair.tx, region, 1000, 2, 3000) == 2
        settled(s)
        assert [c.result for c in s.reap_completions()] == [5000, 8192, 1000, 1000]
        assert udp_pair.receive(4) == [content[100:5100], content, content[:1000], content[3000:4000]]
        region.close()
        s.submit()
    if isinstance(data, mmap.mmap):
        data.close()  # BufferError if an export were left


NO_PROC = """
    import ctypes, mmap, os, socket, sys, uringzc
    if sys.argv[1] == "not mounted":
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.unshare(0x20000) == 0  # CLONE_NEWNS
        assert libc.mount(None, b"/", None, 0x44000, None) == 0  # MS_REC | MS_PRIVATE
        assert libc.umount2(b"/proc", 2) == 0  # MNT_DETACH
    with open(sys.argv[2], "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    print(os.path.exists("/proc/self/smaps"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tx, uringzc.Scheduler() as s:
        tx.connect(("127.0.0.1", int(sys.argv[3])))
        for what in (4096, bytearray(b"mine"), mapped):
            region = s.register(what)
            print(region.registered)
            s.send(tx, region, length=4)
        try:
            s.register(b"constant")
        except TypeError as error:
            print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["mounted", pytest.param("not mounted", marks=testing.requires("net_admin"))])
def test_without_proc_memory_is_sent_unregistered(
    how: str, udp_pair: Pair, tmp_path: Path, engine: str
) -> None:
    """What may lie on huge pages, for all that is known, is sent unregistered."""
    tmp_path.joinpath("file").write_bytes(b"file" * 1024)
    out, errors = run_program(NO_PROC, how, tmp_path / "file", udp_pair.rx.getsockname()[1])
    registers = engine == "io_uring"
    there = [how == "mounted", registers, registers and how == "mounted", False]
    refused = "register() takes writable memory or a mapped file; bytes are sent as they are"
    assert out.splitlines() == [*map(str, there), refused], errors
    assert udp_pair.receive(3) == [bytes(4), b"mine", b"file"]


@zero_copy_engines
def test_export_lasts_until_the_notification(held: Held) -> None:
    box, sock, rx = held
    data = bytearray(b"mine")
    with S() as s:
        with stopped(box):
            s.send(sock, data)
            for _ in range(2):
                with pytest.raises(BufferError):
                    data.append(1)
                s.submit()
            s.reap_completions(wait=1)
            s.flush(0)
            assert is_held(data)
        s.reap_notifications(wait=1)
        data.append(1)
        assert rx.wait(1) == [b"mine"]


def test_export_lasts_until_the_flush(udp_pair: Pair) -> None:
    data = bytearray(b"mine")
    with S() as s:
        s.send(udp_pair.tx, data)
        s.drain()
        assert s.stats.in_flight == 0
        assert is_held(data)
        s.flush(0)
        assert not is_held(data)


def test_references_are_released(udp_pair: Pair) -> None:
    class Named(bytearray):
        pass

    data, constant = Named(b"object"), b"constant %d" % os.getpid()
    gone = weakref.ref(data)
    before = sys.getrefcount(constant), sys.getrefcount(udp_pair.tx)
    with S(max_inflight=256, debug=False) as s:
        region = s.register(4096)

        def holders() -> int:
            return sys.getrefcount(region._memory)

        regions = holders()
        for _ in range(100):
            s.send(udp_pair.tx, data)
            s.send(udp_pair.tx, constant)
        s.send_run(udp_pair.tx, region, 10, 50)
        assert sys.getrefcount(constant) == before[0] + 100
        assert holders() > regions  # requests of a run share a reference
        assert sys.getrefcount(udp_pair.tx) > before[1] + 200
        del data
        assert gone() is not None
        settled(s)
        assert gone() is None
        assert (sys.getrefcount(constant), sys.getrefcount(udp_pair.tx)) == before
        assert holders() == regions


def test_memory_of_a_failed_request_is_released(udp_pair: Pair) -> None:
    data = bytearray(60000)
    with S() as s:
        udp_pair.tx.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
        s.send(udp_pair.tx, bytearray(10), to=("255.255.255.255", 9))
        s.send(udp_pair.tx, data, flush=True, segment=400)  # more segments than the kernel takes
        settled(s)
        assert [c.result < 0 for c in s.reap_completions()] == [True, True]
        assert s.reap_notifications()[0].failed == 2
        assert not is_held(data)


def test_a_refused_send_holds_nothing(udp_pair: Pair) -> None:
    data = bytearray(100)
    with S() as s:
        region = s.register(data)

        def holders() -> tuple[int, int]:
            return sys.getrefcount(udp_pair.tx), sys.getrefcount(region._memory)

        before = holders()
        wrong: list[dict[str, Any]] = [{"slot": 9}, {"offset": 101}, {"to": "x"}, {"user_data": -1}]
        for arguments in wrong:
            for source in (data, region, memoryview(data), b"constant"):
                with pytest.raises((OSError, ValueError, TypeError)):
                    s.send(udp_pair.tx, source, **arguments)
        s.submit()
        assert holders() == before
        region.close()
        s.submit()
        assert not is_held(data)
        assert s.stats.requests == 0
