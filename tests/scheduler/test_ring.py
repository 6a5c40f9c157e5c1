"""Ring: io_uring's own completions, with memory that is held until its last one."""

import dataclasses
import errno
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import Pair
from held_memory import is_held
from marks import only_io_uring
from raising import raises_errno
from traffic import receive_exactly, stopped, tcp_connection, wait_readable

import uringzc
from uringzc import RawCompletion, testing
from uringzc.engines import io_uring as uring
from uringzc.kernel.features import features

pytestmark = only_io_uring

MORE, NOTIF, COPIED = 1 << 1, 1 << 3, 1 << 31
SEGMENT = 1000


@pytest.fixture
def ring() -> Iterator[uringzc.Ring]:
    with uringzc.Ring() as ring:
        yield ring


def all_of(ring: uringzc.Ring, count: int) -> list[RawCompletion]:
    """The next CQEs, as soon as there are so many."""
    assert ring.submit(wait=count, timeout=20) >= 0
    batch = ring.reap()
    assert len(batch) == count
    return list(batch)


def test_flags_of_a_raw_completion() -> None:
    result = RawCompletion(1, 5, MORE)
    assert (result.more, result.notif, result.copied) == (True, False, False)
    alone = RawCompletion(1, -errno.EINVAL, 0)
    assert (alone.more, alone.notif, alone.copied) == (False, False, False)
    notification = RawCompletion(1, 0, NOTIF)
    assert (notification.more, notification.notif, notification.copied) == (False, True, False)
    assert RawCompletion(1, -(1 << 31), NOTIF).copied
    assert not RawCompletion(1, -(1 << 31), MORE).copied


def test_error_of_a_raw_completion() -> None:
    error = RawCompletion(1, -errno.ECONNREFUSED, MORE).error
    assert isinstance(error, ConnectionRefusedError)
    assert error.errno == errno.ECONNREFUSED
    for fine in (RawCompletion(1, 5, MORE), RawCompletion(1, 0, 0), RawCompletion(1, 0, NOTIF)):
        assert fine.error is None
    assert RawCompletion(1, -(1 << 31), NOTIF).error is None  # copied: that is no failure


def test_only_what_failed_has_an_error(ring: uringzc.Ring, udp_pair: Pair) -> None:
    ring.send_zc(udp_pair.tx, b"copied at delivery")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        ring.send_zc(sock, b"not zero-copy", user_data=1)
        ring.drain(20)
    cqes = ring.reap()
    errors = [(cqe.user_data, cqe.error.errno) for cqe in cqes if cqe.error]
    assert errors == [(1, errno.EOPNOTSUPP)]
    assert len([cqe for cqe in cqes if cqe.res < 0]) > 1  # the control: the sign alone misleads


def test_send_copies_and_completes_once(ring: uringzc.Ring, udp_pair: Pair) -> None:
    ring.send(udp_pair.tx, b"copied", user_data=7)
    assert all_of(ring, 1) == [RawCompletion(7, 6, 0)]
    assert udp_pair.receive(1) == [b"copied"]
    assert ring.stats.in_flight == 0


def test_send_zc_completes_and_notifies(ring: uringzc.Ring, udp_pair: Pair) -> None:
    data = bytearray(b"zero-copy")
    ring.send_zc(udp_pair.tx, data, user_data=7)
    result, notification = all_of(ring, 2)
    assert result == RawCompletion(7, 9, MORE)
    assert (notification.user_data, notification.flags) == (7, NOTIF)
    assert notification.copied  # loopback copies on delivery
    assert udp_pair.receive(1) == [b"zero-copy"]
    assert not is_held(data)


@testing.requires("net_admin")
def test_what_is_due_comes_with_the_submit(ring: uringzc.Ring, sink: testing.Sandbox) -> None:
    """An enter runs the task work of 20 notifications, unless it asks for more CQEs than that."""
    memory = ring.register(4096)
    with sink.socket() as sock:
        sock.connect(sink.address)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
        for count in range(1, 4):
            for _ in range(200):
                ring.send_zc(sock, memory, length=1000)
            assert ring.submit() == 200
            assert ring.stats.unread_completions == count * 400
    ring.reap()


@testing.requires("net_admin")
def test_send_zc_is_not_copied(ring: uringzc.Ring, sink: testing.Sandbox) -> None:
    with sink.socket() as sock:
        ring.send_zc(sock, b"x" * 1000, to=sink.address)
        ring.send_zc(sock, ring.register(4096), length=1000, to=sink.address)
        assert [c.copied for c in all_of(ring, 4) if c.notif] == [False, False]


def test_memory_is_held_until_the_last_completion(ring: uringzc.Ring, box: testing.Hold) -> None:
    data = bytearray(b"held")
    fd = ring.fileno()
    with box.socket() as sock, box.receiver_socket():
        sock.connect(box.address)
        with stopped(box):
            ring.send_zc(sock, data)
            ring.submit()
            assert [c.more for c in ring.reap()] == [True]
            assert is_held(data)
            assert ring.stats.in_flight == 1
        wait_readable(fd)
        assert [c.notif for c in ring.reap()] == [True]
        assert not is_held(data)


@pytest.mark.parametrize(
    ("family", "host", "to"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET, "127.0.0.1", "localhost"),
        (socket.AF_INET6, "::1", "::1"),
        (socket.AF_INET6, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET6, "127.0.0.1", "::ffff:127.0.0.1"),
    ],
    ids=["v4", "name", "v6", "v4 from v6", "mapped"],
)
@pytest.mark.parametrize("segment", [0, SEGMENT])
def test_destinations_of_every_family_arrive(
    ring: uringzc.Ring, family: int, host: str, to: str, segment: int
) -> None:
    with testing.receiver((host, 0)) as rx, socket.socket(family, socket.SOCK_DGRAM) as sock:
        address = (to, rx.address[1])
        region = ring.register(4096)
        region.view[:1000] = b"3" * 1000
        ring.send(sock, b"1", to=address, segment=segment)
        ring.send_zc(sock, b"2" * 1000, to=address, segment=segment)
        ring.send_zc(sock, region, length=1000, to=address, segment=segment)
        ring.sendmsg_zc(sock, [b"4", b"4"], to=address, segment=segment)
        if family == socket.AF_INET6 and host == "::1":
            ring.send_zc(sock, b"5", to=(to, rx.address[1], 0, 0))
        assert all(c.notif or c.res > 0 for c in all_of(ring, 9 if host == "::1" else 7))
        expected = [b"1", b"2" * 1000, b"3" * 1000, b"44"] + ([b"5"] if host == "::1" else [])
        assert rx.wait(len(expected)) == expected


def test_many_destinations_of_one_socket(ring: uringzc.Ring) -> None:
    with (
        testing.receiver() as one,
        testing.receiver() as two,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        for i in range(100):
            ring.send_zc(sock, b"one %d" % i, to=one.address[:2])
            ring.send_zc(sock, b"two %d" % i, to=list(two.address))  # type: ignore[arg-type]
        all_of(ring, 400)
        assert one.wait(100) == [b"one %d" % i for i in range(100)]
        assert two.wait(100) == [b"two %d" % i for i in range(100)]


@pytest.mark.parametrize("kind", ["copied", "bytes", "region", "buffers"])
@pytest.mark.parametrize(("length", "datagrams"), [(3500, 4), (3000, 3), (1000, 1), (10, 1), (40_000, 40)])
def test_segments_arrive_as_datagrams(
    ring: uringzc.Ring, udp_pair: Pair, kind: str, length: int, datagrams: int
) -> None:
    train = b"".join(bytes([i]) * SEGMENT for i in range(40))[:length]
    if kind == "region":
        region = ring.register(100_000)
        region.view[5000 : 5000 + length] = train
        ring.send_zc(udp_pair.tx, region, offset=5000, length=length, segment=SEGMENT)
    elif kind == "buffers":
        ring.sendmsg_zc(udp_pair.tx, [train[:1], train[1:700], train[700:]], segment=SEGMENT)
    else:
        send: Callable[..., None] = ring.send if kind == "copied" else ring.send_zc
        send(udp_pair.tx, train, segment=SEGMENT)
    results = all_of(ring, 1 if kind == "copied" else 2)
    assert results[0].res == length
    expected = [train[i : i + SEGMENT] for i in range(0, length, SEGMENT)]
    assert len(expected) == datagrams
    assert udp_pair.receive(datagrams) == expected


def test_segments_of_many_sizes_at_once(ring: uringzc.Ring, udp_pair: Pair) -> None:
    expected: list[bytes] = []
    for size in range(1, 200):
        train = bytes([size]) * (2 * size + size // 2)
        ring.send_zc(udp_pair.tx, train, segment=size)
        expected += [train[i : i + size] for i in range(0, len(train), size)]
    all_of(ring, 2 * 199)
    assert udp_pair.receive(len(expected)) == expected


def test_sendmsg_zc_sends_its_buffers_as_one_message(
    ring: uringzc.Ring, udp_pair: Pair, tcp_pair: Pair
) -> None:
    first = bytearray(b"one ")
    parts: list[Any] = [first, b"", b"two ", memoryview(b"-three-")[1:6]]
    ring.sendmsg_zc(udp_pair.tx, parts, user_data=1)
    assert is_held(first)
    assert all_of(ring, 2)[0] == RawCompletion(1, 13, MORE)
    assert udp_pair.receive(1) == [b"one two three"]
    assert not is_held(first)
    many = [b"%04d" % i for i in range(100)]
    ring.sendmsg_zc(tcp_pair.tx, many, user_data=2)
    ring.submit()
    received = b""
    while len(received) < 400:
        received += tcp_pair.rx.recv(4096)
    assert received == b"".join(many)
    assert [c.res for c in all_of(ring, 2) if c.more] == [400]


def test_vectors_live_until_they_are_submitted(ring: uringzc.Ring, udp_pair: Pair) -> None:
    import gc

    for i in range(100):
        ring.sendmsg_zc(udp_pair.tx, [b"%03d " % i, bytes([i]) * 100])
    gc.collect()
    junk = [bytearray(64) for _ in range(1000)]
    all_of(ring, 200)
    assert udp_pair.receive(100) == [b"%03d " % i + bytes([i]) * 100 for i in range(100)]
    assert len(junk) == 1000


def test_more_pieces_than_a_datagram_can_have_fail(ring: uringzc.Ring, udp_pair: Pair) -> None:
    region = ring.register(64 * 8192)
    pieces = [region.view[i * 8192 : i * 8192 + 10] for i in range(18)]
    ring.sendmsg_zc(udp_pair.tx, pieces[:17])
    ring.sendmsg_zc(udp_pair.tx, pieces)
    assert sorted(c.res for c in all_of(ring, 4) if not c.notif) == [-errno.EMSGSIZE, 170]


def test_registered_sockets_keep_the_order(ring: uringzc.Ring, udp_pair: Pair) -> None:
    ring.send_zc(udp_pair.tx, b"0")
    ring.register_socket(udp_pair.tx)  # submits what goes by the descriptor
    assert ring.stats.requests == 1
    ring.send(udp_pair.tx, b"1")
    ring.send_zc(udp_pair.tx, b"2")
    ring.sendmsg_zc(udp_pair.tx, [b"3"], segment=9)
    ring.unregister_socket(udp_pair.tx)
    ring.send_zc(udp_pair.tx, b"4")
    assert all(c.res in (1, 0, -(1 << 31)) for c in all_of(ring, 9))
    assert udp_pair.receive(5) == [b"0", b"1", b"2", b"3", b"4"]


def test_a_registered_socket_stays_open() -> None:
    with uringzc.Ring() as ring, testing.receiver() as rx:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        sock.connect(rx.address)
        name = sock.getsockname()
        ring.register_socket(sock)
        ring.send_zc(sock, b"queued, then closed")
        sock.close()
        all_of(ring, 2)  # by the registered file, which is still open
        assert rx.wait(1) == [b"queued, then closed"]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
            with pytest.raises(OSError, match="in use"):
                again.bind(name)
            ring.unregister_socket(sock)
            again.bind(name)


def test_failures_notify_too(ring: uringzc.Ring, udp_pair: Pair) -> None:
    data = bytearray(3000)
    ring.send_zc(udp_pair.tx, data, segment=10, user_data=1)  # 300 segments
    failed, notification = all_of(ring, 2)
    assert (failed.res, failed.more) == (-errno.EINVAL, True)
    assert notification.notif
    assert not is_held(data)
    ring.send(udp_pair.tx, data, segment=10, user_data=2)
    assert all_of(ring, 1) == [RawCompletion(2, -errno.EINVAL, 0)]
    assert ring.stats.failed == 2


def test_msg_flags_reach_the_kernel(ring: uringzc.Ring, box: testing.Hold) -> None:
    with box.socket() as sock, box.receiver_socket(), stopped(box):
        sock.connect(box.address)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        for _ in range(10):
            ring.send_zc(sock, bytes(1000), msg_flags=socket.MSG_DONTWAIT)
        ring.submit()
        results = [c.res for c in ring.reap() if not c.notif]
        assert len(results) == 10  # none waits for room
        assert set(results) == {1000, -errno.EAGAIN}


@pytest.mark.timeout(20)
def test_submit_returns_how_many_and_waits(ring: uringzc.Ring, box: testing.Hold) -> None:
    assert ring.submit() == 0
    assert ring.submit(wait=1) == 0  # nothing can come
    with box.socket() as sock, box.receiver_socket():
        sock.connect(box.address)
        with stopped(box):
            for _ in range(3):
                ring.send_zc(sock, b"x")
            assert ring.submit() == 3
            assert ring.submit(wait=4, timeout=0.01) == 0
            assert len(ring.reap()) == 3
            assert ring.submit(wait=1, timeout=0) == 0
        assert ring.submit(wait=100) == 0  # 3 is all that can come
        assert len(ring.reap()) == 3
        assert len(ring.reap()) == 0
        ring.send(sock, b"x")
        assert ring.submit(wait=1) == 1
        assert len(ring.reap()) == 1


def test_more_requests_than_entries_can_be_queued(udp_pair: Pair) -> None:
    with uringzc.Ring(entries=4, max_inflight=1000) as ring:
        for i in range(1000):
            ring.send_zc(udp_pair.tx, b"%04d" % i, user_data=i)
        with pytest.raises(BlockingIOError, match="max_inflight"):
            ring.send_zc(udp_pair.tx, b"x")
        results = all_of(ring, 2000)
        assert [c.user_data for c in results if c.more] == list(range(1000))
        assert sorted(c.user_data for c in results if c.notif) == list(range(1000))
        assert udp_pair.receive(1000) == [b"%04d" % i for i in range(1000)]


def test_unread_completions_are_bounded(udp_pair: Pair) -> None:
    with uringzc.Ring(max_inflight=4) as ring:
        for _ in range(2):
            for _ in range(2):
                ring.send_zc(udp_pair.tx, b"x")
            ring.drain()
        ring.submit()
        with pytest.raises(BlockingIOError, match="max_inflight completions are unread"):
            ring.send_zc(udp_pair.tx, b"x")
        assert len(ring.reap()) == 8
        ring.send_zc(udp_pair.tx, b"x")


def test_completions_can_be_reaped_after_close(udp_pair: Pair) -> None:
    ring = uringzc.Ring()
    ring.send_zc(udp_pair.tx, b"x", user_data=9)
    ring.close()
    assert [(c.user_data, c.flags) for c in ring.reap()] == [(9, MORE), (9, NOTIF)]
    with pytest.raises(uringzc.ClosedError):
        ring.submit()


def test_drain_says_what_is_missing(ring: uringzc.Ring, box: testing.Hold) -> None:
    with box.socket() as sock, box.receiver_socket():
        sock.connect(box.address)
        with stopped(box):
            ring.send_zc(sock, b"x")
            with pytest.raises(TimeoutError, match=r"drain is not done after 0.01 s: 1 request is"):
                ring.drain(0.01)
        ring.drain()
        assert len(ring.reap()) == 2


# -- stepping down


def round_trip(pair: Pair) -> None:
    with uringzc.Scheduler() as s:
        region = s.register(8192)
        for i in range(3):
            s.send(pair.tx, region, length=10, user_data=i)
            s.send(pair.tx, b"1234567890", user_data=i, zero_copy=False)
        s.flush(0)
        assert sorted(c.result for c in s.reap_completions(wait=6)) == [10] * 6
        (note,) = s.reap_notifications(wait=1)
        assert (note.requests, note.failed, note.nbytes) == (6, 0, 60)
        region.close()
        s.submit()
    assert len(pair.receive(6)) == 6
    with uringzc.Ring(entries=4) as ring:
        ring.send_zc(pair.tx, b"raw")
        assert [c.flags for c in all_of(ring, 2)] == [MORE, NOTIF]
    assert pair.receive(1) == [b"raw"]


@pytest.fixture(params=[True, False], ids=["6.1", "6.0"])
def sendmsg_zc(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether rings find a SENDMSG_ZC. The other is the control: it would be used here."""
    offered = features()
    if not offered.sendmsg_zc:
        pytest.skip("needs Linux 6.1")
    if not request.param:
        offered = dataclasses.replace(offered, sendmsg_zc=False, fixed_message=False)
    monkeypatch.setattr(uring, "features", lambda: offered)
    return bool(request.param)


def test_segments_without_sendmsg_zc_are_copied(sink: testing.Sandbox, sendmsg_zc: bool) -> None:
    """What needs a message is copied then, and nothing else."""
    with sink.socket() as sock, uringzc.Scheduler() as s:
        sock.connect(sink.address)
        region = s.register(4000)
        for source in (region, bytearray(4000)):
            s.send(sock, source, segment=SEGMENT, flush=True)
            s.send(sock, source, length=SEGMENT, flush=True)
        assert [c.result for c in s.reap_completions(wait=4)] == [4000, SEGMENT] * 2
        notes = sorted(s.reap_notifications(wait=4), key=lambda note: note.sequence)
        assert [note.copied for note in notes] == [0 if sendmsg_zc else 1, 0] * 2
        assert s.stats.stray == 0


@testing.requires("net_admin")
def test_several_pieces_without_sendmsg_zc_are_copied(box: testing.Hold, sendmsg_zc: bool) -> None:
    pieces = [bytes([number]) * 20_000 for number in range(5)]
    with tcp_connection(box) as (tx, rx), uringzc.TcpSender(tx, zero_copy="always") as sender:
        with stopped(box):
            assert sender.send_buffers(pieces) == 100_000
            assert sender.stats.in_flight == sendmsg_zc  # until the peer has acknowledged it
        rx.settimeout(None)
        assert receive_exactly(rx, 100_000) == b"".join(pieces)


def test_sendmsg_zc_without_its_opcode_is_refused(udp_pair: Pair, sendmsg_zc: bool) -> None:
    with uringzc.Ring() as ring:
        calls: list[Callable[[], None]] = [
            lambda: ring.sendmsg_zc(udp_pair.tx, [b"two", b"parts"]),
            lambda: ring.send_zc(udp_pair.tx, bytes(2000), segment=SEGMENT),
        ]
        for call in calls:
            if sendmsg_zc:
                call()
                continue
            with raises_errno(errno.EOPNOTSUPP, "no IORING_OP_SENDMSG_ZC, which several buffers"):
                call()
        assert ring.stats.requests == 2 * sendmsg_zc
        ring.send(udp_pair.tx, bytes(2000), segment=SEGMENT)  # which needs no zero-copy
        ring.drain()
        assert [c.res for c in ring.reap() if not c.notif][-1] == 2000


@pytest.mark.parametrize("setup", uring.SETUP, ids=hex)
def test_every_setup_of_a_ring_works(setup: int, udp_pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uring, "SETUP", (setup,))
    round_trip(udp_pair)


@pytest.mark.parametrize("refused", range(1, len(uring.SETUP)))
def test_refused_setup_flags_fall_back_to_others(
    refused: int, udp_pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = 1 << 31  # a flag that no kernel knows: EINVAL
    known = uring.SETUP[refused:]
    monkeypatch.setattr(uring, "SETUP", (*(s | unknown for s in uring.SETUP[:refused]), *known))
    with uringzc.Scheduler() as s:
        assert engine(s).setup == known[0]
    round_trip(udp_pair)


def test_without_any_setup_the_error_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uring, "SETUP", tuple(s | 1 << 31 for s in uring.SETUP))
    with pytest.raises(OSError, match="io_uring_setup: Invalid argument"):
        uringzc.Scheduler(engine="io_uring")


def test_other_errors_do_not_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    tried: list[int] = []
    monkeypatch.setattr(uring, "SETUP", Recorded(uring.SETUP, tried))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
        with pytest.raises(OSError, match="Too many open files"):
            uringzc.Scheduler(engine="io_uring")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert len(tried) == 1


class Recorded(tuple[int, ...]):
    """Notes which of its items were looked at."""

    def __new__(cls, items: "tuple[int, ...]", tried: list[int]) -> "Recorded":
        self = super().__new__(cls, items)
        self.tried = tried
        return self

    tried: list[int]

    def __iter__(self) -> Iterator[int]:
        for item in super().__iter__():
            self.tried.append(item)
            yield item


def engine(s: uringzc.Scheduler) -> Any:
    return s._engine


def test_submit_counts_what_a_full_queue_has_submitted(udp_pair: Pair) -> None:
    """Each request once, whoever submitted it."""
    with uringzc.Ring(8) as ring:
        for count in (1, 8, 9, 30, 0):
            for _ in range(count):
                ring.send(udp_pair.tx, b"x")
            assert ring.submit() == count
        for _ in range(20):
            ring.send(udp_pair.tx, b"x")
        assert ring.submit(wait=20) == 20
        ring.drain()
        ring.reap()
    udp_pair.receive(68)
