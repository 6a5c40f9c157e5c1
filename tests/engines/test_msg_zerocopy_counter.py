"""The zero-copy counter of a socket is found before its first request, whoever sent through it before.

What an engine takes back is overwritten here at once: taken back too early, it arrives otherwise than it was
sent. The controls believe what holds for the sockets that senders open themselves: that the counter is at 0.
"""

import ctypes
import errno
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from marks import only_msg_zerocopy
from traffic import enlarge_sndbuf, stopped, tcp_connection, unsent_bytes, wait_readable, wait_until

import uringzc
from uringzc import testing
from uringzc.kernel import error_queue

pytestmark = [only_msg_zerocopy, testing.requires("net_admin")]

SO_ATTACH_FILTER, SO_MEMINFO, SO_ZEROCOPY, MSG_ZEROCOPY = 26, 55, 60, 0x4000000
controlled = pytest.mark.parametrize("control", [False, True], ids=["", "control"])
OTHERS = "cannot be told from those of others"


def held(sock: socket.socket) -> int:
    """What the kernel has charged for zero-copy sends whose notification was not read."""
    return int(struct.unpack("9I", sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))[6])


def receive(rx: socket.socket, size: int) -> bytes:
    """So many bytes of a stream, or a datagram of that size."""
    data = rx.recv(size) if size else b""
    while len(data) < size:
        data += rx.recv(size - len(data))
    return data


class Used:
    """A socket of the program's, and who receives. What is reported of its requests is overwritten."""

    def __init__(self, tx: socket.socket, rx: socket.socket, near: socket.socket | None = None) -> None:
        self.tx, self.rx, self.near = (
            tx,
            rx,
            near,
        )  # near: a second receiver, nothing is held on the way to it
        self.memory: list[bytearray] = []
        self.arrived = 0

    def own(self, count: int, read: bool = False) -> None:
        """The program sends zero-copy itself: its data has arrived, and SO_ZEROCOPY is as it was."""
        before = self.tx.getsockopt(socket.SOL_SOCKET, SO_ZEROCOPY)
        self.tx.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
        for _ in range(count):
            to = [self.near.getsockname()] if self.near else []
            self.tx.sendmsg([b"own"], [], MSG_ZEROCOPY, *to)
            assert receive(self.near or self.rx, 3) == b"own"
        assert wait_until(lambda: not unsent_bytes(self.tx))
        if read:
            error_queue.read(self.tx)
            assert held(self.tx) == 0
        self.tx.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, before)

    def send(self, s: uringzc.Scheduler, count: int, size: int = 1000) -> None:
        to = self.rx.getsockname() if self.near else None
        for _ in range(count):
            number = len(self.memory)
            self.memory.append(bytearray(struct.pack("<I", number) * (size // 4)))
            s.send(self.tx, self.memory[-1], to=to, user_data=number, flush=True)
        s.submit()
        assert [c.result for c in s.reap_completions()] == [size] * count

    def overwrite(self, s: uringzc.Scheduler) -> None:
        s.submit()
        for n in s.reap_notifications():
            self.memory[n.sequence][:] = b"\xff" * len(self.memory[n.sequence])

    def wrong(self, count: int | None = None) -> list[int]:
        """Which of the next `count`, or of all, arrive otherwise than they were sent."""
        found = []
        last = len(self.memory) if count is None else self.arrived + count
        for number in range(self.arrived, last):
            size = len(self.memory[number])
            if receive(self.rx, size) != struct.pack("<I", number) * (size // 4):
                found.append(number)
        self.arrived = last
        return found


@contextmanager
def stream(box: testing.Hold, window: int = 0) -> Iterator[Used]:
    with tcp_connection(box, window) as (tx, rx):
        yield Used(tx, rx)


@contextmanager
def datagrams(box: testing.Hold) -> Iterator[Used]:
    with box.receiver_socket() as rx, box.socket() as tx, box.socket() as near:
        near.bind(("127.0.0.1", 0))
        for each in (rx, near):
            each.settimeout(20)
        enlarge_sndbuf(tx)
        yield Used(tx, rx, near)


@pytest.fixture(params=[datagrams, stream], ids=["udp", "tcp"])
def used(request: pytest.FixtureRequest, box: testing.Hold) -> Iterator[Used]:
    with request.param(box) as made:
        yield made


# -- sent before


@controlled
def test_unread_notifications_of_the_program_settle_nothing(
    box: testing.Hold, used: Used, control: bool
) -> None:
    used.own(3)
    with uringzc.Scheduler() as s:
        if control:
            s._engine.own_socket(used.tx)
        with stopped(box):
            used.send(s, 3)
            used.overwrite(s)
            assert control or s.stats.in_flight == 3  # and none of them is a copy
        assert used.wrong() == ([0, 1, 2] if control else [])
        s.drain(10)


@controlled
def test_sends_of_the_program_do_not_shift_the_counter(box: testing.Hold, control: bool) -> None:
    """The peer reads little at a time: what is acknowledged is free, the rest is not."""
    with stream(box, window=100_000) as used, uringzc.Scheduler() as s:
        used.own(2, read=True)
        if control:
            s._engine.own_socket(used.tx)
        used.send(s, 8, size=400_000)
        assert s.stats.in_flight
        wrong = []
        for _ in range(8):
            used.overwrite(s)
            wrong += used.wrong(1)
        assert bool(wrong) == control
        s.drain(10)
        with stopped(box):
            used.send(s, 2)
            assert control or s.stats.in_flight == 2  # it was found out
        assert used.wrong() == []
        s.drain(10)


@pytest.mark.parametrize("read", [False, True])
@controlled
def test_the_program_may_send_while_nothing_is_in_flight(
    box: testing.Hold, read: bool, control: bool
) -> None:
    with stream(box, window=100_000) as used, uringzc.Scheduler() as s:
        if control:
            s._engine.own_socket(used.tx)
        used.send(s, 2)
        assert used.wrong() == []
        s.drain(10)
        for _ in range(2):
            used.own(2, read)
            used.send(s, 6, size=400_000)
            wrong = []
            for _ in range(6):
                used.overwrite(s)
                wrong += used.wrong(1)
            assert bool(wrong) == control
            if control:
                break
            s.drain(10)
        s.drain(10)


def test_the_next_engine_verifies_the_counter_again(box: testing.Hold, used: Used) -> None:
    with uringzc.Scheduler() as s:
        used.send(s, 3)
        assert used.wrong() == []
        s.drain(10)
    used.own(3)
    used.memory.clear()
    used.arrived = 0
    with uringzc.Scheduler() as s:
        with stopped(box):
            used.send(s, 3)
            used.overwrite(s)
            assert s.stats.in_flight == 3
        assert used.wrong() == []
        s.drain(10)


def has_unread(sock: socket.socket) -> None:
    """Returns when its error queue has something."""
    poll = select.poll()
    poll.register(sock, 0)
    assert poll.poll(20000)


@controlled
def test_a_reconnected_socket_copies_while_the_old_connection_holds_memory(
    box: testing.Hold, control: bool
) -> None:
    """The counter goes on, and what TCP_INFO counts has begun again."""
    libc = ctypes.CDLL(None, use_errno=True)
    with stream(box) as old, box.socket(type=socket.SOCK_STREAM) as listener, uringzc.Scheduler() as s:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        with stopped(box):
            old.tx.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
            old.tx.send(b"own", MSG_ZEROCOPY)
            assert libc.connect(old.tx.fileno(), bytes(16), 16) == 0  # AF_UNSPEC: disconnects
            old.tx.connect(listener.getsockname())
            rx, _ = listener.accept()
            rx.settimeout(20)
            used = Used(old.tx, rx)
            if control:
                s._engine.own_socket(used.tx)
            used.send(s, 1, size=2_000_000)
            assert s.stats.in_flight == control  # while others hold memory it sends copies
        with rx:
            has_unread(used.tx)
            used.overwrite(s)
            assert used.wrong() == ([0] if control else [])
            s.drain(10)


def test_so_zerocopy_may_be_cleared_while_requests_wait(box: testing.Hold) -> None:
    """The kernel ignores MSG_ZEROCOPY then, and gives no number."""
    with datagrams(box) as used, uringzc.Scheduler() as s:
        used.tx.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20000)
        with stopped(box):
            for _ in range(40):
                s.send(used.tx, b"x" * 1000, to=used.rx.getsockname())
                s.submit()
            assert len(s.reap_completions()) < 40
            used.tx.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 0)
        s.drain(10)
        assert [used.rx.recv(2000) for _ in range(40)] == [b"x" * 1000] * 40


# -- how it is found out


@pytest.mark.parametrize("before", [0, 300])
def test_a_stream_is_zero_copy_from_its_first_request_on(box: testing.Hold, before: int) -> None:
    with stream(box) as used, uringzc.Scheduler() as s:
        used.tx.sendall(bytes(before))
        assert receive(used.rx, before) == bytes(before)
        with stopped(box):
            used.send(s, 2)
            assert s.stats.in_flight == 2
        assert used.wrong() == []
        s.drain(10)


def test_a_stream_copies_while_sends_of_the_program_hold_memory(box: testing.Hold) -> None:
    with stream(box) as used, uringzc.TcpSender(used.tx, zero_copy="always") as tx:
        used.tx.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
        with stopped(box):
            used.tx.send(b"own", MSG_ZEROCOPY)
            tx.send(b"x" * 20_000)
            assert tx.stats.in_flight == 0
            assert OTHERS in tx.explain()
        assert receive(used.rx, 20_003) == b"own" + b"x" * 20_000
        assert wait_until(lambda: not unsent_bytes(used.tx))
        with stopped(box):
            tx.send(b"y" * 20_000)
            assert tx.stats.in_flight == 1
            assert OTHERS not in tx.explain()
        assert receive(used.rx, 20_000) == b"y" * 20_000


def test_a_stream_with_a_bpf_filter_copies(box: testing.Hold) -> None:
    """The filter is charged as zero-copy sends are."""
    accept = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0xFFFF))  # BPF_RET
    with stream(box) as used, uringzc.TcpSender(used.tx, zero_copy="always") as tx:
        program = struct.pack("HxxxxxxP", 1, ctypes.addressof(accept))
        used.tx.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
        assert held(used.tx)
        with stopped(box):
            tx.send(b"x" * 20_000)
            assert tx.stats.in_flight == 0
            assert OTHERS in tx.explain()
        assert receive(used.rx, 20_000) == b"x" * 20_000


def test_a_bpf_filter_attached_later_delays_nothing(box: testing.Hold) -> None:
    accept = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0xFFFF))
    with stream(box) as used, uringzc.Scheduler() as s:
        with stopped(box):
            used.send(s, 2)
            program = struct.pack("HxxxxxxP", 1, ctypes.addressof(accept))
            used.tx.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
        assert used.wrong() == []
        s.drain(10)


def numbers(sock: socket.socket, to: tuple[str, int]) -> int:
    """How many the kernel has given so far: of a send of the program's own, whose notification is read."""
    sock.sendto(b"own", MSG_ZEROCOPY, to)
    wait_readable(sock.fileno())  # or in error
    _, ancillary, _, _ = sock.recvmsg(1, 200, socket.MSG_ERRQUEUE)
    return int(struct.unpack_from("=IBBBBII", ancillary[0][2])[-1])


@pytest.mark.parametrize("shared", [False, True])
def test_no_probe_is_sent_through_a_socket_that_a_sender_opened(shared: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as rx, ExitStack() as stack:
        rx.bind(("127.0.0.1", 0))
        s = stack.enter_context(uringzc.Scheduler()) if shared else None
        options = {"zero_copy": "always", "max_delay": None}
        tx = stack.enter_context(uringzc.UdpSender(rx.getsockname(), scheduler=s, **options))  # type: ignore[arg-type]
        for _ in range(5):
            tx.send(b"x" * 2000)
        tx.drain()
        assert 0 < tx.stats.zero_copy <= 5
        assert numbers(tx._sock, rx.getsockname()) == tx.stats.zero_copy


def test_a_route_error_is_not_taken_for_the_answer_to_a_probe(box: testing.Hold) -> None:
    from pyroute2 import IPRoute

    def change(command: str) -> None:
        with IPRoute() as ip:
            ip.route(command, dst="198.51.100.0/24", type="blackhole")

    box.run(lambda: change("add"))
    with ExitStack() as stack, datagrams(box) as used, uringzc.Scheduler() as s:
        stack.callback(box.run, lambda: change("del"))
        for _ in range(3):
            used.own(1)
            s.send(used.tx, b"x" * 1000, to=("198.51.100.1", 9), flush=True)
            s.submit()
            assert [c.result for c in s.reap_completions()] == [-errno.EINVAL]
            assert len(s.reap_notifications()) == 1
            assert OTHERS in s._engine.why_copied(used.tx)
        used.send(s, 1)
        assert used.wrong() == []
        s.drain(10)
        assert s._engine.why_copied(used.tx) == ""


def test_explain_names_other_zero_copy_users_of_the_socket(box: testing.Hold) -> None:
    with stream(box) as used, uringzc.Scheduler() as first:
        used.send(first, 1)
        with uringzc.TcpSender(used.tx, zero_copy="always") as tx:
            tx.send(b"x" * 20_000)
            assert "another Scheduler or sender sends zero-copy" in tx.explain()
    with datagrams(box) as used, uringzc.Scheduler() as first:
        used.send(first, 1)
        to = uringzc.UdpSender(used.rx.getsockname(), sock=used.tx, zero_copy="always", max_delay=None)
        with to:
            to.send(b"x" * 2000)
            to.flush()
            assert "another Scheduler or sender sends zero-copy" in to.explain()
