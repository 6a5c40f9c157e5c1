"""Each answer of the kernel to a send: its CQEs, their order, and the slot accounting that follows.

Each row of the table makes one answer, of zero-copy and of copying sends. Rows that no send of this library
can reach are not here: links, cancels, and SQE fields that it never sets.
"""

import ctypes
import errno
import mmap
import os
import select
import socket
import struct
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import pytest
from conftest import Pair
from marks import only_io_uring
from processes import run_program
from traffic import is_readable

import uringzc
from uringzc import Notification, RawCompletion, memory, testing
from uringzc._uring import lib

pytestmark = only_io_uring

MORE, NOTIF, COPIED = 1 << 1, 1 << 3, -(1 << 31)
TAG, GOOD = 7, b"good"
IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2
PAGE = mmap.PAGESIZE
Engine = uringzc.Ring | uringzc.Scheduler


class Data(bytearray):
    """Can be referred to weakly."""


class Pages(mmap.mmap):
    """Private memory with a mapping of its own: the neighbours may have huge pages."""

    def __new__(cls, count: int) -> "Pages":
        pages = super().__new__(cls, -1, count * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        pages.madvise(mmap.MADV_NOHUGEPAGE)
        return pages


def nothing() -> None:
    pass


class Bad(NamedTuple):
    """A request, and what is done to it when it is queued."""

    sock: socket.socket
    data: Any
    owner: "weakref.ref[Any]"  #: the memory
    options: dict[str, Any]
    spoil: Callable[[], object] = nothing


class World(NamedTuple):
    """What a row may use."""

    engine: Engine
    fixture: Callable[[str], Any]

    def udp(self, **options: Any) -> Pair:
        pair: Pair = self.fixture("make_udp")(**options)
        return pair

    def tcp(self) -> Pair:
        pair: Pair = self.fixture("make_tcp")()
        return pair


def bad(sock: socket.socket, size: int = 5, spoil: Callable[[], object] = nothing, **options: Any) -> Bad:
    data = Data(size)
    return Bad(sock, data, weakref.ref(data), options, spoil)


def erred(sock: socket.socket) -> None:
    """Returns when an error waits on the socket; reading it would take it away."""
    poll = select.poll()
    poll.register(sock, 0)
    assert poll.poll(20_000)


Provoke = Callable[[World], Bad]


# -- the rows


def sent(world: World) -> Bad:
    return bad(world.udp().tx)


def sent_tcp(world: World) -> Bad:
    return bad(world.tcp().tx)


def sent_region(world: World) -> Bad:
    return registered(world, lambda region: None)


def sent_nothing(world: World) -> Bad:
    return bad(world.udp().tx, 0)


def longer_than_mtu(world: World) -> Bad:
    sink: testing.Sandbox = world.fixture("sink")
    sock = world.fixture("keep")(sink.socket())
    sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
    return bad(sock, 1473, to=sink.address)


def eighteen_pages(world: World) -> Bad:
    pages = Pages(36)
    with memoryview(pages) as view:
        vector = memory.Vector([view[at * PAGE : at * PAGE + 10] for at in range(0, 36, 2)])
    return Bad(world.udp().tx, vector, weakref.ref(pages), {})


def without_address(world: World) -> Bad:
    return bad(world.udp(connected=False).tx)


def without_route(world: World) -> Bad:
    return bad(world.fixture("keep")(world.fixture("sink").socket()), to=("203.0.113.1", 9))


def nobody_listens(world: World) -> Bad:
    tx, rx = world.udp()
    rx.close()
    tx.send(b"")  # sent; the next one fails with its error
    erred(tx)
    return bad(tx)


def shut_down(world: World) -> Bad:
    tx = world.tcp().tx
    tx.shutdown(socket.SHUT_WR)
    return bad(tx)


def never_connected(world: World) -> Bad:
    return bad(world.fixture("keep")(socket.socket()))


def reset(world: World) -> Bad:
    tx, rx = world.tcp()
    rx.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    rx.close()
    erred(tx)
    return bad(tx)


def no_room(world: World) -> Bad:
    box: testing.Hold = world.fixture("box")
    sock = world.fixture("keep")(box.socket())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the least there is
    sock.connect(box.address)
    box.stop()
    with suppress(BlockingIOError):
        while True:
            sock.send(bytes(100), socket.MSG_DONTWAIT)
    return bad(sock, msg_flags=socket.MSG_DONTWAIT)


def unreadable(world: World) -> Bad:
    pages = Pages(1)
    with memoryview(pages) as view:
        protect(memory.address_of(view))
    return Bad(world.udp().tx, pages, weakref.ref(pages), {})


def protect(address: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    assert not libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(PAGE), 0)  # PROT_NONE


def registered(world: World, change: Callable[[uringzc.Region], None]) -> Bad:
    pages = Pages(1)
    region = world.engine.register(pages)
    assert region.registered
    change(region)
    return Bad(world.udp().tx, region, weakref.ref(pages), {"length": 5})


def set_entry(world: World, length: int) -> Bad:
    """The region's entry in the kernel's table then has so many bytes."""

    def change(region: uringzc.Region) -> None:
        held = region._memory
        assert held
        address = held.address if length else 0
        engine: Any = world.engine._engine
        assert not lib.uzc_ring_set_buffer(engine._native, held.buffer, address, length)

    return registered(world, change)


def empty_entry(world: World) -> Bad:
    return set_entry(world, 0)


def short_entry(world: World) -> Bad:
    return set_entry(world, 4)


def closed(world: World) -> Bad:
    tx = world.udp().tx
    return bad(tx, spoil=tx.close)


def unix_instead(world: World) -> Bad:
    keep = world.fixture("keep")
    tx = world.udp().tx
    other, far = map(keep, socket.socketpair())
    assert far
    return bad(tx, spoil=lambda: os.dup2(other.fileno(), tx.fileno()))


def file_instead(world: World) -> Bad:
    tx = world.udp().tx

    def spoil() -> None:
        fd = os.eventfd(0)
        os.dup2(fd, tx.fileno())
        os.close(fd)

    return bad(tx, spoil=spoil)


net_admin = testing.requires("net_admin")
#: what is done, the result of a zero-copy send, and of a copying one; None where there is no such
ROWS: list[tuple[Provoke, int, int | None, pytest.MarkDecorator | None]] = [
    (sent, 5, 5, None),
    (sent_tcp, 5, 5, None),
    (sent_region, 5, 5, None),
    (sent_nothing, 0, 0, None),
    (longer_than_mtu, -errno.EMSGSIZE, -errno.EMSGSIZE, net_admin),
    (eighteen_pages, -errno.EMSGSIZE, None, None),
    (without_address, -errno.EDESTADDRREQ, -errno.EDESTADDRREQ, None),
    (without_route, -errno.ENETUNREACH, -errno.ENETUNREACH, net_admin),
    (nobody_listens, -errno.ECONNREFUSED, -errno.ECONNREFUSED, None),
    (shut_down, -errno.EPIPE, -errno.EPIPE, None),
    (never_connected, -errno.EPIPE, -errno.EPIPE, None),
    (reset, -errno.ECONNRESET, -errno.ECONNRESET, None),
    (no_room, -errno.EAGAIN, -errno.EAGAIN, net_admin),
    (unreadable, -errno.EFAULT, -errno.EFAULT, None),
    (empty_entry, -errno.EFAULT, 5, None),  # a copying send does not use the table
    (short_entry, -errno.EFAULT, 5, None),
    (closed, -errno.EBADF, -errno.EBADF, None),
    (unix_instead, -errno.EOPNOTSUPP, 5, None),
    (file_instead, -errno.ENOTSOCK, -errno.ENOTSOCK, None),
]


def rows(copying: bool = True) -> pytest.MarkDecorator:
    values = []
    for row, zc, plain, mark in ROWS:
        marks = [mark] if mark else []
        values.append(pytest.param(row, zc, True, id=row.__name__, marks=marks))
        if copying and plain is not None:
            values.append(pytest.param(row, plain, False, id=f"{row.__name__}-copying", marks=marks))
    return pytest.mark.parametrize(("provoke", "result", "zero_copy"), values)


@pytest.fixture
def keep() -> Iterator[Callable[[socket.socket], socket.socket]]:
    """Closes sockets after the test."""
    kept: list[socket.socket] = []

    def keep(sock: socket.socket) -> socket.socket:
        kept.append(sock)
        return sock

    yield keep
    for sock in kept:
        sock.close()


def queue(engine: Engine, request: Bad, **options: Any) -> None:
    """As Ring and Scheduler queue it, with what only one of them offers."""
    engine._engine.queue.send(request.sock, request.data, **request.options, **options)


@rows()
def test_each_answer_has_its_cqes(
    request: pytest.FixtureRequest, udp_pair: Pair, provoke: Provoke, result: int, zero_copy: bool
) -> None:
    with uringzc.Ring() as ring:
        made = provoke(World(ring, request.getfixturevalue))
        references = sys.getrefcount(made.sock)
        queue(ring, made, zero_copy=zero_copy, user_data=1)
        made.spoil()
        made = made._replace(data=None)
        assert made.owner() is not None
        ring.drain(20)
        first, *more = ring.reap()
        assert first == RawCompletion(1, result, MORE if zero_copy else 0)
        assert [(cqe.user_data, cqe.flags) for cqe in more] == [(1, NOTIF)] * zero_copy
        assert all(cqe.res in (0, COPIED) for cqe in more)
        assert made.owner() is None
        references -= sys.getrefcount(made.sock)  # outside of the assertion, which would hold it
        assert not references
        assert (ring.stats.in_flight, ring.stats.stray) == (0, 0)

        ring.send_zc(udp_pair.tx, GOOD, user_data=2)
        ring.drain(20)
        assert list(ring.reap()) == [RawCompletion(2, 4, MORE), RawCompletion(2, COPIED, NOTIF)]
    assert udp_pair.receive(1) == [GOOD]


@rows()
def test_each_answer_is_accounted_for(
    request: pytest.FixtureRequest, udp_pair: Pair, provoke: Provoke, result: int, zero_copy: bool
) -> None:
    with uringzc.Scheduler(tags=[TAG], debug=False) as s:
        made = provoke(World(s, request.getfixturevalue))
        references = sys.getrefcount(made.sock)
        queue(s, made, zero_copy=zero_copy, user_data=1, flush=True)
        made.spoil()
        made = made._replace(data=None)
        assert list(s.reap_completions(wait=1, timeout=20)) == [uringzc.Completion(1, result)]
        (notification,) = s.reap_notifications(wait=2, timeout=20)
        failed, nbytes = int(result < 0), max(result, 0)
        assert notification._replace(copied=0) == Notification(TAG, 0, 0, 1, nbytes, 0, failed)
        assert notification.copied in ((0,) if failed else (0, 1))
        assert made.owner() is None
        references -= sys.getrefcount(made.sock)  # outside of the assertion, which would hold it
        assert not references
        stats = s.stats
        assert (stats.requests, stats.completions, stats.failed, stats.nbytes) == (1, 1, failed, nbytes)
        assert (stats.notifications, stats.in_flight, stats.held, stats.stray) == (1, 0, 0, 0)

        s.send(udp_pair.tx, GOOD, user_data=2, flush=True)
        assert list(s.reap_notifications(wait=1, timeout=20)) == [Notification(TAG, 1, 0, 1, 4, 1, 0)]
        assert list(s.reap_completions()) == [uringzc.Completion(2, 4)]
    assert udp_pair.receive(1) == [GOOD]


@pytest.mark.parametrize("place", [0, 1, 2], ids=["first", "between", "flushing"])
@rows(copying=False)
def test_each_answer_among_two_good_ones(
    request: pytest.FixtureRequest, udp_pair: Pair, provoke: Provoke, result: int, zero_copy: bool, place: int
) -> None:
    with uringzc.Scheduler(tags=[TAG], debug=False) as s:
        made = provoke(World(s, request.getfixturevalue))
        for n in range(3):
            if n == place:
                queue(s, made, user_data=n, flush=n == 2)
            else:
                s.send(udp_pair.tx, GOOD, user_data=n, flush=n == 2)
        made.spoil()
        made = made._replace(data=None)
        (notification,) = s.reap_notifications(wait=1, timeout=20)
        failed, nbytes = int(result < 0), 8 + max(result, 0)
        assert notification._replace(copied=0) == Notification(TAG, 0, 0, 3, nbytes, 0, failed)
        results = [(n, result if n == place else 4) for n in range(3)]
        assert sorted(s.reap_completions()) == results
        assert made.owner() is None
        assert (s.stats.in_flight, s.stats.held, s.stats.stray, s.stats.notifications) == (0, 0, 0, 1)
    assert udp_pair.receive(2) == [GOOD] * 2
    assert not is_readable(udp_pair.rx.fileno())


# By TCP, because one send can be longer than the limit.
LOCKED = """
    import socket, uringzc
    from refusals import become_nobody
    listener = socket.create_server(("127.0.0.1", 0))
    sock = socket.create_connection(listener.getsockname())
    become_nobody(1 << 20)
    with uringzc.Ring(8, max_inflight=8) as ring:
        for data in bytes(2 << 20), b"good":
            ring.send_zc(sock, data, user_data=len(data))
            ring.drain(20)
            print([(cqe.user_data, cqe.res, cqe.flags) if cqe.more else cqe.flags for cqe in ring.reap()])
    with uringzc.Scheduler(max_inflight=8) as s:
        for n, data in enumerate((b"good", bytes(2 << 20), b"good")):
            s.send(sock, data, user_data=n)
        s.flush(0)
        # sorted: Linux 6.1 tells of what has failed first
        print(s.submit(), [c.result for c in sorted(s.reap_completions(wait=3, timeout=20))])
        (n,) = s.reap_notifications(wait=1, timeout=20)
        print(n.requests, n.failed, n.nbytes, n.sequence, s.stats.in_flight, s.stats.stray)
"""


@testing.requires("unprivileged")
def test_a_send_above_the_memlock_limit_fails_alone() -> None:
    out, errors = run_program(LOCKED)
    assert out.splitlines() == [
        f"[({2 << 20}, {-errno.ENOMEM}, {MORE}), {NOTIF}]",
        f"[(4, 4, {MORE}), {NOTIF}]",
        f"3 [4, {-errno.ENOMEM}, 4]",  # the batch goes on behind it
        "3 1 8 0 0 0",
    ], errors
