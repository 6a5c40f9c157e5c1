"""The sandboxes: what they swallow, hold and deliver, and that they leave nothing behind."""

import itertools
import os
import select
import signal
import socket
import statistics
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import killed_at_exit

from uringzc import testing

pytestmark = pytest.mark.engines()
needs_network = testing.requires("net_admin")

SO_SNDBUFFORCE = 32
SO_ZEROCOPY = 60
MSG_ZEROCOPY = 0x4000000
UDP_SEGMENT = 103
FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["v4", "v6"])


@pytest.fixture
def box() -> Iterator[testing.Hold]:
    with testing.hold() as box:
        yield box


def where(box: testing.Sandbox, family: int) -> tuple[str, int]:
    return box.address6 if family == socket.AF_INET6 else box.address


def send_zero_copy(sock: socket.socket, data: bytes, to: tuple[str, int]) -> None:
    sock.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
    sock.sendto(data, MSG_ZEROCOPY, to)


def notified(sock: socket.socket, timeout: float) -> bool:
    poll = select.poll()
    poll.register(sock, 0)
    return bool(poll.poll(timeout * 1000))


def was_copied(sock: socket.socket) -> bool:
    """Waits for the notification of a MSG_ZEROCOPY send, and says what it says."""
    assert notified(sock, 5)
    _, [(_, _, record)], _, _ = sock.recvmsg(0, 512, socket.MSG_ERRQUEUE)
    error, origin, _, code = struct.unpack_from("=IBBB", record)
    assert (error, origin) == (0, 5)  # SO_EE_ORIGIN_ZEROCOPY
    return bool(code & 1)  # SO_EE_CODE_ZEROCOPY_COPIED


def namespace_of_this_thread() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


def counter(device: str, column: int) -> int:
    """Of the calling thread's network; column 1 is packets received, 3 is received and dropped."""
    line = Path("/proc/thread-self/net/dev").read_text().partition(f"{device}:")[2]
    return int(line.split()[column])


def numbers(datagrams: list[bytes]) -> list[int]:
    return [int.from_bytes(data[:4], "big") for data in datagrams]


@needs_network
@FAMILIES
@pytest.mark.parametrize(("mtu", "size"), [(1500, 1400), (65535, 65000)])
def test_sink_does_not_copy(family: int, mtu: int, size: int) -> None:
    with testing.sink(mtu=mtu) as box, box.socket(family) as sock:
        send_zero_copy(sock, bytes(size), where(box, family))
        assert not was_copied(sock)


@needs_network
@FAMILIES
def test_sink_swallows_a_first_burst_at_once(family: int) -> None:
    with testing.sink() as box, box.socket(family) as sock:
        before = box.run(lambda: counter("ifb0", 3))  # what an ifb sends, it calls received and dropped
        for _ in range(1000):
            sock.sendto(bytes(100), where(box, family))
        # An unresolved neighbour would keep a few and lose the others.
        assert box.run(lambda: counter("ifb0", 3)) - before >= 1000


@needs_network
@pytest.mark.parametrize("mtu", [1279, 65536])
def test_an_mtu_out_of_range_is_refused(mtu: int) -> None:
    with pytest.raises(ValueError, match=str(mtu)), testing.sink(mtu=mtu):
        pass


@needs_network
@FAMILIES
def test_stop_holds_the_first_packet_and_release_lets_it_go(box: testing.Hold, family: int) -> None:
    with box.socket(family) as sock, testing.receiver(sock=box.receiver_socket(family)) as rx:
        box.stop()
        send_zero_copy(sock, b"held", where(box, family))
        assert not notified(sock, 0.1)
        assert rx.count == 0

        box.release()
        assert rx.wait(1) == [b"held"]
        assert was_copied(sock)


@needs_network
def test_stop_holds_what_waits_already() -> None:
    with (
        testing.hold(delay=60) as box,
        box.socket() as sock,
    ):  # so slow that nothing but the first burst leaves
        with testing.receiver(sock=box.receiver_socket()) as rx:
            for number in range(40):
                sock.sendto(number.to_bytes(4, "big") + bytes(1000), box.address)
            slipped = len(rx.wait(10))
            box.stop()
            box.release()
            assert numbers(rx.wait(40)) == list(range(40))
        assert slipped < 40


@needs_network
def test_stop_and_release_can_be_repeated(box: testing.Hold) -> None:
    with box.socket() as sock, testing.receiver(sock=box.receiver_socket()) as rx:
        for turn in range(1, 6):
            box.stop()
            sock.sendto(b"x", box.address)
            with pytest.raises(TimeoutError, match=f"{turn - 1} of {turn} datagrams"):
                rx.wait(turn, timeout=0.02)
            box.release()
            rx.wait(turn)


@needs_network
def test_everything_a_large_buffer_held_arrives_in_order(box: testing.Hold) -> None:
    with box.socket() as sock, testing.receiver(sock=box.receiver_socket()) as rx:
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 16 << 20)
        except PermissionError:
            pytest.skip("needs CAP_NET_ADMIN outside of user namespaces for SO_SNDBUFFORCE: run as root")
        box.stop()
        for number in range(10_000):
            sock.sendto(number.to_bytes(4, "big") + bytes(196), box.address)
        assert rx.count == 0
        box.release()
        assert numbers(rx.wait(10_000)) == list(range(10_000))


def swapped(box: testing.Hold, family: int) -> int:
    """How often a datagram came before the one sent before it, while another processor sends as well."""
    to, *processors = where(box, family), *sorted(os.sched_getaffinity(0))
    if len(processors) < 2:
        pytest.skip("needs two processors")
    done = threading.Event()

    def send_elsewhere() -> None:
        os.sched_setaffinity(0, processors[1:])
        while not done.is_set():
            other.sendto(b"", (to[0], 9001))

    thread = threading.Thread(target=send_elsewhere)
    with (
        box.socket(family) as tx,
        box.socket(family) as other,
        box.receiver_socket(family, port=9001),
        testing.receiver(sock=box.receiver_socket(family)) as rx,
    ):
        box.release()
        thread.start()
        os.sched_setaffinity(0, processors[:1])
        try:
            for number in range(5000):
                tx.sendto(number.to_bytes(4, "big"), to)
        finally:
            os.sched_setaffinity(0, processors)
            done.set()
            thread.join()
        came = numbers(rx.wait(5000))
    assert sorted(came) == list(range(5000))
    return sum(before > after for before, after in itertools.pairwise(came))


@pytest.mark.slow
@needs_network
@FAMILIES
def test_order_is_kept_whatever_processor_takes_packets_out_of_the_gate(
    box: testing.Hold, family: int
) -> None:
    if not Path("/proc/sys/net/core/rps_default_mask").exists():
        pytest.skip("needs net.core.rps_default_mask: run Linux 6.3 or later")
    assert swapped(box, family) == 0


@pytest.mark.slow
@needs_network
@FAMILIES
def test_control_each_processor_receives_what_it_takes_out(
    family: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(testing.devices, "receive_on_one_processor", lambda: None)
    with testing.hold() as box:
        assert any(swapped(box, family) for _ in range(20))


@needs_network
@FAMILIES
def test_a_train_waits_and_arrives_whole(box: testing.Hold, family: int) -> None:
    with box.socket(family) as sock, testing.receiver(sock=box.receiver_socket(family)) as rx:
        sock.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 1400)
        train = b"".join(bytes([number]) * 1400 for number in range(44))
        before = box.peer.run(lambda: counter("veth0", 1))
        sock.sendto(train, where(box, family))  # through the slow gate
        assert b"".join(rx.wait(44)) == train
        box.stop()
        sock.sendto(train, where(box, family))
        box.release()
        assert b"".join(rx.wait(88)) == train * 2
        assert box.peer.run(lambda: counter("veth0", 1)) - before < 44  # the two, and what IPv6 has to say


@pytest.mark.slow
@pytest.mark.alone
@needs_network
@pytest.mark.parametrize("size", [100, 1400, 60000])
def test_delay_is_what_a_full_buffer_waits(size: int) -> None:
    waited: list[float] = []
    sent: list[bytes] = []  # the kernel reads them late: here they stay
    with testing.hold(delay=0.1, mtu=65535) as box, box.socket() as sock:
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) > 1 << 20 and size < 4096:
            pytest.skip("net.core.wmem_default is more than net.core.optmem_max has notifications for")
        sock.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
        with testing.receiver(sock=box.receiver_socket(), thread=False) as rx:
            end = time.monotonic() + 0.3
            while time.monotonic() < end:
                sent.append(struct.pack("=d", time.monotonic()).ljust(size))
                try:
                    sock.sendto(sent[-1], MSG_ZEROCOPY | socket.MSG_DONTWAIT, box.address)
                except BlockingIOError:  # the buffer is full, as it should be
                    datagram = rx.wait(rx.count + 1)[-1]
                    waited.append(time.monotonic() - struct.unpack_from("=d", datagram)[0])
    assert 0.07 < statistics.median(waited[len(waited) // 2 :]) < 0.2


@needs_network
def test_tcp_connects_and_stops(box: testing.Hold) -> None:
    with box.receiver_socket(type=socket.SOCK_STREAM) as listener:
        listener.listen()
        listener.settimeout(5)
        with box.socket(type=socket.SOCK_STREAM) as sock:
            sock.settimeout(0.9)  # a lost SYN or its answer would take a second
            sock.connect(box.address)
            peer, _ = listener.accept()
            with peer:
                box.stop()
                sock.send(b"hello")
                assert not select.select([peer], [], [], 0.05)[0]
                box.release()
                assert peer.recv(10) == b"hello"


@needs_network
def test_sandboxes_change_nothing_outside() -> None:
    links = socket.if_nameindex

    mine, before, threads = namespace_of_this_thread(), links(), threading.active_count()
    descriptors = os.listdir("/proc/self/fd")
    with testing.sink() as one, testing.hold() as two, two.socket():
        inside = {box.run(namespace_of_this_thread) for box in (one, two, two.peer)}
        assert len(inside | {mine}) == 4
        assert namespace_of_this_thread() == mine
        assert links() == before
    assert links() == before
    assert threading.active_count() == threads
    assert os.listdir("/proc/self/fd") == descriptors


@needs_network
def test_run_returns_raises_and_nests(box: testing.Hold) -> None:
    assert box.run(lambda: box.peer.run(lambda: 42)) == 42
    with pytest.raises(KeyError, match="NO"):
        box.run(lambda: os.environ["NO"])
    box.close()
    with pytest.raises(OSError, match="cannot enter the sandbox"):
        box.run(lambda: None)


@needs_network
def test_processes_can_enter(box: testing.Hold) -> None:
    inside = str(box.run(namespace_of_this_thread))
    look = ["stat", "-Lc", "%i", "/proc/self/ns/net"]
    entered = subprocess.check_output(["nsenter", f"--net={box.netns_path}", *look], text=True)
    started = box.run(lambda: subprocess.check_output(look, text=True))
    assert entered.strip() == started.strip() == inside


@needs_network
def test_killed_process_leaves_nothing() -> None:
    from pyroute2 import IPRoute

    program = textwrap.dedent("""
        import sys
        from uringzc.testing import hold
        with hold() as box:
            print(box.netns_path, flush=True)
            sys.stdin.read()
    """)
    before = socket.if_nameindex()
    with (
        testing.sink() as box,
        killed_at_exit(
            subprocess.Popen(
                [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        ) as child,
    ):
        assert child.stdout
        path = child.stdout.readline().strip()

        # A veth end of ours, whose other end is put into the child's namespace and dies only with that.
        def witness() -> None:
            theirs = os.open(path, os.O_RDONLY)
            with IPRoute() as ip:
                ip.link("add", ifname="witness", kind="veth", peer={"ifname": "other", "net_ns_fd": theirs})
            os.close(theirs)

        def gone() -> bool:
            return "witness" not in [name for _, name in socket.if_nameindex()]

        box.run(witness)
        assert not box.run(gone)
        with box.socket(socket.AF_NETLINK, socket.SOCK_RAW) as links:
            links.bind((0, 1))  # RTMGRP_LINK: something to wait for
            links.settimeout(5)
            child.send_signal(signal.SIGKILL)
            while not box.run(gone):
                links.recv(1 << 16)
    assert child.returncode == -signal.SIGKILL
    assert socket.if_nameindex() == before


#: a Python program without any capability
WITHOUT_CAPABILITIES = """
import ctypes, os, sys
prctl, pr_capbset_drop = ctypes.CDLL(None).prctl, 24
for capability in range(64):
    prctl(pr_capbset_drop, capability, 0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.mark.slow
def test_without_privileges_tests_are_skipped_by_name(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent("""
        import pytest
        from uringzc import testing

        @testing.requires("net_admin")
        def test_marked():
            raise AssertionError("ran")

        @pytest.fixture
        def box():
            try:
                with testing.sink() as box:
                    yield box
            except PermissionError as error:
                pytest.skip(error.strerror)

        def test_fixture(box):
            raise AssertionError("ran")

        @testing.requires("unprivileged")
        def test_nobody():
            raise AssertionError("ran")
        """)
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            WITHOUT_CAPABILITIES,
            "-m",
            "pytest",
            "-v",
            "-p",
            "no:cacheprovider",
            "test_it.py",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(testing.__file__).parents[2]), "COLUMNS": "250"},
        capture_output=True,
        text=True,
        check=False,
    )
    why = "needs CAP_SYS_ADMIN and CAP_NET_ADMIN to make a network namespace: run as root"
    assert f"test_it.py::test_marked SKIPPED ({why}" in done.stdout
    assert f"test_it.py::test_fixture SKIPPED ({why}" in done.stdout
    assert "test_it.py::test_nobody SKIPPED (needs to become the user nobody: run as root)" in done.stdout
    assert done.returncode == 0


def test_requires_says_what_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="unknown capability 'root': there are net_admin, io_uring"):
        testing.requires("root")
    monkeypatch.setattr(testing.skips, "missing", lambda capability: None)
    assert testing.requires("net_admin").args == (False,)


@pytest.mark.parametrize("thread", [True, False])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_receiver_counts_and_keeps_datagrams(host: str, thread: bool) -> None:
    with testing.receiver((host, 0), limit=3, thread=thread) as rx:
        with socket.socket(rx.sock.family, socket.SOCK_DGRAM) as sock:
            for data in (b"one", b"", bytes(60000), b"four"):
                sock.sendto(data, rx.address)
        assert rx.wait(4) == [b"one", b"", bytes(60000)]
        assert rx.count == 4
        with pytest.raises(TimeoutError, match="4 of 5 datagrams"):
            rx.wait(5, timeout=0.01)
    assert rx.sock.fileno() == -1


def test_a_receiver_says_what_the_kernel_dropped() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the least that there is
    sock.bind(("127.0.0.1", 0))
    with testing.receiver(sock=sock, thread=False) as rx, socket.socket(type=socket.SOCK_DGRAM) as tx:
        for _ in range(50):
            tx.sendto(bytes(1000), rx.address)
        with pytest.raises(TimeoutError) as error:
            rx.wait(50, timeout=0.01)
        assert f"{50 - rx.count} were dropped: its buffer was full" in str(error.value)


def test_receiver_wakes_up_for_what_comes_later() -> None:
    with testing.receiver() as rx, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        start = time.monotonic()
        later = threading.Timer(0.05, sock.sendto, (b"late", rx.address))
        later.start()
        assert rx.wait(1, timeout=2) == [b"late"]
        assert time.monotonic() - start < 1.9  # it did not find out at the end of its time
        later.join()


def test_receiver_loses_nothing_while_it_is_behind() -> None:
    with testing.receiver(limit=0) as rx, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        if rx.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < 64 << 20:
            pytest.skip("needs CAP_NET_ADMIN for SO_RCVBUFFORCE: run as root")
        sock.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 1000)
        for _ in range(1000):
            sock.sendto(bytes(50_000), rx.address)
        rx.wait(50_000)
        assert rx.datagrams == []
