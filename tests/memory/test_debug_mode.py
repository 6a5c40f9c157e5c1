"""Debug mode: it finds what was written while the kernel owned it, and nothing else."""

# ruff: noqa: PT012 - what is to be raised comes at the end of what leads to it

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Pair
from held_memory import is_held
from marks import zero_copy_engines
from processes import run_program
from traffic import stopped

import uringzc
from uringzc import BufferModifiedError, UdpSender, testing

SIZE = 60_000
SEGMENT = 1000


@pytest.fixture
def tx(udp_pair: Pair) -> Iterator[UdpSender]:
    with UdpSender(udp_pair.rx.getsockname(), debug=True, max_delay=None) as sender:
        yield sender


def test_memory_may_be_written_when_the_notifier_is_done(udp_pair: Pair, tx: UdpSender) -> None:
    """Again and again, whichever call has found that it is done; close() finds nothing either."""
    region = tx.register(SIZE)
    for turn in range(1, 30):
        region.view[:] = bytes([turn]) * SIZE
        tx.send_region(region, segment=SEGMENT)
        if turn % 3 == 0:
            tx.flush().wait()
        elif turn % 3 == 1:
            tx.drain()
        else:
            notifier = tx.flush()
            while not notifier.done:
                pass
        assert udp_pair.receive(SIZE // SEGMENT) == [bytes([turn]) * SEGMENT] * (SIZE // SEGMENT)
    region.view[:] = bytes(SIZE)


def test_a_shared_scheduler_does_not_report_a_senders_memory(udp_pair: Pair) -> None:
    """The scheduler's next call does not report the memory of a sender."""
    with (
        uringzc.Scheduler(debug=True) as s,
        UdpSender(udp_pair.rx.getsockname(), scheduler=s, max_delay=None) as tx,
    ):
        region = tx.register(SIZE)
        for turn in range(1, 10):
            region.view[:] = bytes([turn]) * SIZE
            tx.send_region(region, segment=SEGMENT)
            tx.flush().wait()
            region.view[:] = bytes(SIZE)
            s.submit()
            udp_pair.receive(SIZE // SEGMENT)


@zero_copy_engines
@testing.requires("net_admin")
@pytest.mark.parametrize("ending", ["wait", "drain", "close"])
def test_memory_written_too_early_is_found(box: testing.Hold, ending: str) -> None:
    """The control of the two above."""
    with testing.receiver(sock=box.receiver_socket()) as rx, box.socket() as sock:
        sock.connect(box.address)
        tx = UdpSender(sock=sock, debug=True, max_delay=None, zero_copy="always")
        tx.send(b"first")  # the neighbour is known from then on
        tx.drain()
        region = tx.register(SIZE)
        with stopped(box):
            tx.send_region(region, segment=SEGMENT)
            notifier = tx.flush()
            assert not notifier.done
            region.view[SIZE - 1] = 1
        end = {"wait": notifier.wait, "drain": tx.drain, "close": tx.close}[ending]
        with pytest.raises(BufferModifiedError, match=rf"bytes queued at {__file__}:\d+ were changed"):
            end()
        tx.close()
        rx.wait(1 + SIZE // SEGMENT)


def test_payloads_are_released(udp_pair: Pair, tx: UdpSender) -> None:
    """Those of a sender too, whose program makes no call on a scheduler."""
    payload = bytes(20_000)
    before = sys.getrefcount(payload)
    for _ in range(100):
        tx.send(payload)
        tx.drain()
        udp_pair.receive(1)
    assert sys.getrefcount(payload) == before


@pytest.mark.slow
@pytest.mark.parametrize("later", [False, True])
def test_a_truncated_mapped_file_fails_with_efault(tmp_path: Path, later: bool) -> None:
    """The send fails with EFAULT, as without debug mode, where a read would end the process (SIGBUS)."""
    out, _ = run_program(
        """
        import mmap, os, socket, sys
        import uringzc
        rx, tx = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        rx.bind(("127.0.0.1", 0))
        tx.connect(rx.getsockname())
        with open(sys.argv[1], "w+b") as file:
            file.write(bytes(8192))
            file.flush()
            mapped = mmap.mmap(file.fileno(), 0)
            s = uringzc.Scheduler(debug=True)
            if sys.argv[2] == "False":
                file.truncate(0)
            s.send(tx, mapped, length=1000)
            file.truncate(0)
            s.flush(0)
            (done,) = s.reap_completions(wait=1)
            s.reap_notifications(wait=1)
            print(done.error.strerror)
            with uringzc.UdpSender(rx.getsockname(), debug=True) as sender:
                sender.send_region(mapped, length=1000)
                try:
                    sender.drain()
                except uringzc.SendError as error:
                    print(error.errno)
        s.close()
        """,
        tmp_path / "file",
        later,
    )
    assert out.splitlines() == ["Bad address", "14"]


def test_a_checksum_reads_all_of_the_memory() -> None:
    """In parts, to the last byte; without memory there is none."""
    from zlib import crc32

    from uringzc import memory

    for size in (0, 1, memory._PART - 1, memory._PART, memory._PART + 1, 3 * memory._PART + 17):
        data = bytearray(range(256)) * (size // 256 + 1)
        view = memoryview(data)[:size]
        assert memory.checksum(view) == crc32(view)
    with mmap.mmap(-1, mmap.PAGESIZE) as mapped:
        view = memoryview(mapped)
        assert memory.checksum(view) == crc32(bytes(mmap.PAGESIZE))
        view.release()


# -- of a Scheduler


def settled(s: uringzc.Scheduler) -> None:
    s.flush(0)
    s.drain()
    s.submit()


def changed(s: uringzc.Scheduler, pair: Pair, change: bool) -> int:
    """Sends memory that is changed before its notification, or not; returns the line that queued it."""
    data = bytearray(b"original" * 10)
    s.send(pair.tx, data)
    line = sys._getframe().f_lineno - 1
    s.submit()
    if change:
        data[3] = 0
    s.flush(0)
    return line


def test_debug_finds_who_changed_memory(udp_pair: Pair) -> None:
    with uringzc.Scheduler(debug=True) as s:
        with pytest.raises(uringzc.BufferModifiedError) as caught:
            changed(s, udp_pair, change=True)
            s.drain()
            s.submit()
        line = changed(s, udp_pair, change=False)
        message = str(caught.value)
        assert f"80 bytes queued at {__file__}:{line} were changed while the kernel owned them" in message
        assert "wait for the notification" in message
        settled(s)  # and it goes on
        assert s.stats.held == 0


def test_control_without_debug(udp_pair: Pair) -> None:
    with uringzc.Scheduler(debug=False) as s:
        changed(s, udp_pair, change=True)
        settled(s)
        assert len(s.reap_notifications()) == 1


@zero_copy_engines
def test_debug_checks_regions_and_runs(box: testing.Hold) -> None:
    with box.socket() as sock, box.receiver_socket(), uringzc.Scheduler(debug=True) as s:
        sock.connect(box.address)
        region = s.register(4096)
        with stopped(box):
            assert s.send_run(sock, region, 100, 3, 200, offset=50, flush=True) == 3
            s.submit()
            region.view[:50] = b"\1" * 50  # before the first, between them, and behind the last
            region.view[150:250] = b"\1" * 100
            region.view[550:] = b"\1" * 3546
            s.submit()
            region.view[549] = 1  # the last byte of the last
        with pytest.raises(uringzc.BufferModifiedError, match=rf"100 bytes queued at {__file__}:\d+ were"):
            s.reap_notifications(wait=3)
        assert len(s.reap_notifications()) == 3


def test_debug_accepts_changes_after_the_notification(udp_pair: Pair) -> None:
    with uringzc.Scheduler(debug=True) as s:
        region = s.register(4096)
        data = bytearray(4096)
        for i in range(300):
            region.view[:] = bytes([i % 256]) * 4096
            data[:] = bytes([i % 255]) * 4096
            s.send(udp_pair.tx, region, offset=i, length=1000)
            s.send(udp_pair.tx, data, offset=i, length=500)
            s.send(udp_pair.tx, region, length=0)
            s.send(udp_pair.tx, b"constant")
            s.send_run(udp_pair.tx, region, 10, 5, flush=True)
            s.reap_notifications(wait=5)
            s.reap_completions()
            udp_pair.receive(9)
        assert s.stats.notifications == 1500


def test_debug_finds_it_at_close(udp_pair: Pair) -> None:
    s = uringzc.Scheduler(debug=True)
    data = bytearray(b"original")
    s.send(udp_pair.tx, data)
    s.submit()
    data[0] = 0
    with pytest.raises(uringzc.BufferModifiedError, match="8 bytes queued at"):
        s.close()
    assert not is_held(data)
    s.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "variable", "expected"),
    [
        ("", "", "False"),
        ("-X dev", "", "True"),
        ("", "1", "True"),
        ("", "0", "False"),
        ("-X dev", "0", "True"),
    ],
)
def test_debug_is_switched_on(options: str, variable: str, expected: str) -> None:
    program = "import uringzc; s = uringzc.Scheduler(); print(s._engine.debug); s.close()"
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONDEVMODE", "URINGZC_DEBUG")}
    environment["PYTHONPATH"] = str(Path(uringzc.__file__).parents[1])
    if variable:
        environment["URINGZC_DEBUG"] = variable
    command = [sys.executable, *options.split(), "-c", program]
    assert subprocess.check_output(command, env=environment, text=True).strip() == expected


def test_debug_argument_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("URINGZC_DEBUG", "1")
    with uringzc.Scheduler() as by_variable, uringzc.Scheduler(debug=False) as by_argument:
        assert by_variable._engine.debug
        assert not by_argument._engine.debug
