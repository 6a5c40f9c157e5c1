"""The kernel's selftest io_uring_zerocopy_tx over `Ring`: its matrix, its rules for CQEs, and every byte.

Batches of requests leave through a veth to another network. What the selftest asserts of each CQE stands in
`Rules`, and the last test has what it must refuse.
"""

import errno
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from marks import only_io_uring
from traffic import enlarge_sndbuf, one_processor

import uringzc
from uringzc import RawCompletion, testing

pytestmark = [only_io_uring, testing.requires("net_admin")]

COPY_TAG, ZC_TAG = 0, 1
MORE, NOTIF = 1 << 1, 1 << 3
SIZE = 65435  # fits a datagram, and a TCP segment with all options, over IPv6
ALPHABET = bytes(ord("a") + i % 26 for i in range(SIZE))
BATCHES = {"udp": 8, "tcp": 200}
REQUESTS = {"udp": 32, "tcp": 1}  # of a batch: those of a stream would overtake each other
UDP_CORK = 1
FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
MODES = pytest.mark.parametrize("mode", ["zc", "fixed", "mixed"])


class Rules:
    """What must hold of the CQEs of such a program, one after the other."""

    def __init__(self) -> None:
        self.outstanding = self.results = self.notifications = self.nbytes = 0

    def see(self, cqe: RawCompletion) -> None:
        """AssertionError if it may not come now."""
        assert cqe.user_data in (COPY_TAG, ZC_TAG)
        if cqe.notif:
            assert not cqe.more
            assert cqe.user_data == ZC_TAG
            assert self.outstanding > 0
            self.outstanding -= 1
            self.notifications += 1
            return
        if cqe.more:
            assert cqe.user_data == ZC_TAG
            self.outstanding += 1
        assert cqe.res >= 0 or cqe.res == -errno.EAGAIN
        self.results += 1
        self.nbytes += max(cqe.res, 0)


class Sender:
    """Batches of a ring, with the modes of the selftest, and what its CQEs say."""

    def __init__(self, ring: uringzc.Ring, sock: socket.socket, mode: str, size: int = SIZE) -> None:
        self.ring = ring
        self.sock = sock
        self.mode = mode
        self.size = size
        self.region = ring.register(size)
        self.region.view[:] = ALPHABET[:size]
        self.rules = Rules()
        self.queued = 0
        self.chance = random.Random(mode)

    def queue(self) -> None:
        """One request."""
        mode = self.chance.choice(["copy", "zc", "fixed"]) if self.mode == "mixed" else self.mode
        send: Any = self.ring.send if mode == "copy" else self.ring.send_zc
        data = self.region if mode == "fixed" else ALPHABET
        tag = COPY_TAG if mode == "copy" else ZC_TAG
        send(self.sock, data, length=self.size, msg_flags=socket.MSG_WAITALL, user_data=tag)
        self.queued += 1

    def batch(self, requests: int, cork: bool = False) -> None:
        """Queues and submits so many, and takes CQEs until their results are there."""
        if cork:
            self.sock.setsockopt(socket.IPPROTO_UDP, UDP_CORK, 1)
        for _ in range(requests):
            self.queue()
        assert self.ring.submit() == requests
        if cork:
            self.sock.setsockopt(socket.IPPROTO_UDP, UDP_CORK, 0)
        while self.rules.results < self.queued:
            self.take()

    def take(self) -> None:
        """At least one CQE."""
        self.ring.submit(wait=1, timeout=20)
        cqes = self.ring.reap()
        assert cqes, "a completion is missing"
        for cqe in cqes:
            self.rules.see(cqe)

    def finish(self) -> None:
        """Waits for the notifications that were promised, and nothing else may come."""
        while self.rules.outstanding:
            self.take()
        assert self.ring.stats.in_flight == 0
        assert len(self.ring.reap()) == 0
        if self.mode != "mixed":
            assert self.rules.notifications == self.queued


@pytest.fixture(scope="module")
def network() -> Iterator[testing.Hold]:
    with testing.hold(mtu=65535) as box:
        yield box


@pytest.fixture
def wide(network: testing.Hold) -> Iterator[testing.Hold]:
    """A veth to another network, with the largest MTU, open."""
    network.release()
    with one_processor():
        yield network
    network.release()


@contextmanager
def connected(
    box: testing.Hold, family: socket.AddressFamily, protocol: str
) -> Iterator[list[socket.socket]]:
    """The sender's socket, and the receiver's."""
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    with ExitStack() as stack:
        rx = stack.enter_context(box.receiver_socket(family, kind))
        tx = stack.enter_context(box.socket(family, kind))
        enlarge_sndbuf(tx, 1 << 21)
        if protocol == "tcp":
            rx.listen()
        tx.connect(box.address6 if family == socket.AF_INET6 else box.address)
        yield [tx, stack.enter_context(rx.accept()[0]) if protocol == "tcp" else rx]


@contextmanager
def reading(sock: socket.socket) -> Iterator[bytearray]:
    """What comes through a connection, complete after the block, which has to end it."""
    data = bytearray()

    def read() -> None:
        while piece := sock.recv(1 << 20):
            data.extend(piece)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield data
    finally:
        thread.join(20)


@FAMILIES
@MODES
def test_udp_datagrams_arrive_with_the_promised_cqes(
    family: socket.AddressFamily, mode: str, wide: testing.Hold
) -> None:
    with connected(wide, family, "udp") as (tx, sock), uringzc.Ring() as ring:
        sender = Sender(ring, tx, mode)
        for _ in range(BATCHES["udp"]):
            sender.batch(REQUESTS["udp"])
        sender.finish()
        with testing.receiver(sock=sock, thread=False) as rx:
            sent = sender.rules.nbytes // SIZE
            assert 0 < sent * SIZE == sender.rules.nbytes
            assert rx.wait(sent) == [ALPHABET] * sent


@pytest.mark.slow
@FAMILIES
@MODES
def test_a_tcp_stream_arrives_with_the_promised_cqes(
    family: socket.AddressFamily, mode: str, wide: testing.Hold
) -> None:
    with connected(wide, family, "tcp") as (tx, sock), uringzc.Ring() as ring:
        sender = Sender(ring, tx, mode)
        expected = b""
        with reading(sock) as data:
            try:
                for _ in range(BATCHES["tcp"]):
                    before = sender.rules.nbytes
                    sender.batch(REQUESTS["tcp"])
                    expected += ALPHABET[: sender.rules.nbytes - before]
                sender.finish()
            finally:
                tx.shutdown(socket.SHUT_RDWR)
        assert data == expected
        assert len(data) > 0


@FAMILIES
@MODES
def test_corked_datagrams_arrive_with_the_promised_cqes(
    family: socket.AddressFamily, mode: str, wide: testing.Hold
) -> None:
    with connected(wide, family, "udp") as (tx, sock), uringzc.Ring() as ring:
        sender = Sender(ring, tx, mode, size=1000)
        for _ in range(BATCHES["udp"]):
            sender.batch(REQUESTS["udp"], cork=True)
        sender.finish()
        with testing.receiver(sock=sock, thread=False) as rx:
            datagram = ALPHABET[:1000] * REQUESTS["udp"]
            assert rx.wait(BATCHES["udp"]) == [datagram] * BATCHES["udp"]


@FAMILIES
def test_notifications_are_outstanding_until_delivery(
    family: socket.AddressFamily, wide: testing.Hold
) -> None:
    with connected(wide, family, "udp") as (tx, _), uringzc.Ring() as ring:
        sender = Sender(ring, tx, "fixed", size=1000)
        wide.stop()
        sender.batch(REQUESTS["udp"])
        assert (sender.rules.outstanding, sender.rules.notifications) == (REQUESTS["udp"], 0)
        wide.release()
        sender.finish()


RESULT, NOTIFICATION = RawCompletion(ZC_TAG, 5, MORE), RawCompletion(ZC_TAG, 0, NOTIF)


@pytest.mark.parametrize(
    "wrong",
    [
        [RawCompletion(2, 5, 0)],
        [RESULT, RawCompletion(ZC_TAG, 0, NOTIF | MORE)],
        [RESULT, RawCompletion(COPY_TAG, 0, NOTIF)],
        [NOTIFICATION],
        [RESULT, NOTIFICATION, NOTIFICATION],
        [RawCompletion(COPY_TAG, 5, MORE)],
        [RawCompletion(ZC_TAG, -errno.EINVAL, MORE)],
    ],
    ids=["tag", "more", "of a copy", "unpromised", "twice", "promised by a copy", "failed"],
)
def test_control_the_rules_refuse(wrong: list[RawCompletion]) -> None:
    rules = Rules()
    for cqe in [RawCompletion(COPY_TAG, 5, 0), RESULT, RawCompletion(ZC_TAG, -errno.EAGAIN, 0), NOTIFICATION]:
        rules.see(cqe)
    for cqe in wrong[:-1]:
        rules.see(cqe)
    with pytest.raises(AssertionError):
        rules.see(wrong[-1])
