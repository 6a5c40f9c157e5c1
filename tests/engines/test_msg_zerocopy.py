"""MSG_ZEROCOPY ids: sends that fail and use one up, and memory that only its own notification releases.

One socket sends to two receivers: what goes near is delivered at once, a stopped gate holds what goes far.
"""

import array
import errno
import os
import random
import re
import socket
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from marks import only_msg_zerocopy
from traffic import enlarge_sndbuf, stopped, wait_readable

import uringzc
from uringzc import testing
from uringzc.kernel import error_queue
from uringzc.kernel.features import notification_size
from uringzc.kernel.proc import sysctl

pytestmark = [only_msg_zerocopy, testing.requires("net_admin")]

SO_ZEROCOPY, MSG_ZEROCOPY = 60, 0x4000000
IP_MTU_DISCOVER, IP_PMTUDISC_DO, IP_RECVERR, UDP_CORK, UDP_SEGMENT = 10, 2, 11, 1, 103
NOWHERE = ("203.0.113.1", 9)  # no route


def loopback_up() -> None:
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        ip.link("set", index=ip.link_lookup(ifname="lo")[0], state="up")


@pytest.fixture(scope="module")
def network() -> Iterator[testing.Hold]:
    with testing.hold() as box:
        box.run(loopback_up)
        yield box


class Net(NamedTuple):
    box: testing.Hold
    tx: socket.socket
    near: socket.socket
    far: socket.socket

    @property
    def here(self) -> tuple[str, int]:
        address: tuple[str, int] = self.near.getsockname()
        return address

    @property
    def room(self) -> int:
        """Sends that net.core.optmem_max has room for: some 150, and some 25 before Linux 6.7."""
        name = "net.core.optmem_max"  # before Linux 6.8 of the machine, and only seen outside of the sandbox
        return (self.box.run(lambda: sysctl(name)) or sysctl(name) or 131072) // notification_size()


@pytest.fixture
def net(network: testing.Hold) -> Iterator[Net]:
    with network.receiver_socket() as far, network.socket() as near, network.socket() as tx:
        near.bind(("127.0.0.1", 0))
        near.settimeout(10)
        far.settimeout(10)
        enlarge_sndbuf(tx)
        yield Net(network, tx, near, far)
    network.limit()
    network.release()


def payload(number: int, size: int = 1000) -> bytearray:
    return bytearray(struct.pack("<I", number) * (size // 4))


def kernel_number(tx: socket.socket, to: tuple[str, int]) -> int:
    """Where the kernel's counter stands: of a send of the program's own, whose notification is read."""
    tx.sendto(b"own", MSG_ZEROCOPY, to)
    wait_readable(tx.fileno())  # or in error
    _, ancillary, _, _ = tx.recvmsg(1, 200, socket.MSG_ERRQUEUE)
    return int(struct.unpack_from("=IBBBBII", ancillary[0][2])[-1]) + 1


# -- ways to fail

Fail = Callable[[Net, uringzc.Scheduler, int], None]


def gso_emsgsize(net: Net, s: uringzc.Scheduler, number: int) -> None:
    s.send(net.tx, payload(number, 4000), to=net.box.address, segment=2000, flush=True, user_data=number)


def gso_einval(net: Net, s: uringzc.Scheduler, number: int) -> None:
    s.send(net.tx, payload(number, 2000), to=net.box.address, segment=8, flush=True, user_data=number)


def df_emsgsize(net: Net, s: uringzc.Scheduler, number: int) -> None:
    net.tx.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
    s.send(net.tx, payload(number, 4000), to=net.box.address, flush=True, user_data=number)


def no_route(net: Net, s: uringzc.Scheduler, number: int) -> None:
    s.send(net.tx, payload(number), to=NOWHERE, flush=True, user_data=number)


def no_port(net: Net, s: uringzc.Scheduler, number: int) -> None:
    s.send(net.tx, payload(number), to=(net.box.address[0], 0), flush=True, user_data=number)


def full(net: Net, s: uringzc.Scheduler, number: int, size: int = 1000, limit: int = 1) -> None:
    s.submit()  # the others leave before the gate is full
    net.tx.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    net.box.limit(limit)
    s.send(net.tx, payload(number, size), to=net.box.address, flush=True, user_data=number)
    s.submit()
    net.box.limit()
    net.tx.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 0)


WAYS: dict[Fail, tuple[int, int]] = {  # errno, numbers that it uses up
    gso_emsgsize: (errno.EMSGSIZE, 1),
    gso_einval: (errno.EINVAL, 1),
    full: (errno.ENOBUFS, 1),
    df_emsgsize: (errno.EMSGSIZE, 0),
    no_route: (errno.ENETUNREACH, 0),
    no_port: (errno.EINVAL, 0),
}
each_way = pytest.mark.parametrize("fail", WAYS, ids=lambda fail: fail.__name__)


@each_way
def test_which_failures_use_up_an_id(net: Net, fail: Fail) -> None:
    """The kernel's facts, which the others stand on."""
    with stopped(net.box):
        net.tx.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
        assert kernel_number(net.tx, net.here) == 1
        with pytest.raises(OSError, match=re.escape(os.strerror(WAYS[fail][0]))):
            fail_by_hand(net, fail)
        error_queue.read(net.tx)
        assert kernel_number(net.tx, net.here) == 2 + WAYS[fail][1]


def fail_by_hand(net: Net, fail: Fail) -> None:
    segments: dict[Fail, int] = {gso_emsgsize: 2000, gso_einval: 8}
    segment = segments.get(fail)
    control = [(socket.IPPROTO_UDP, UDP_SEGMENT, array.array("H", [segment]))] if segment else []
    elsewhere: dict[Fail, tuple[str, int]] = {no_route: NOWHERE, no_port: (net.box.address[0], 0)}
    to = elsewhere.get(fail, net.box.address)
    if fail is full:
        net.tx.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        net.box.limit(1)
    if fail is df_emsgsize:
        net.tx.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
    net.tx.sendmsg([payload(0, 1000 if fail is full else 4000)], control, MSG_ZEROCOPY, to)


# -- overwritten at the notification


class Run:
    """Sends near, far and in vain, with a flush behind each; overwrites memory that is released."""

    def __init__(self, net: Net, s: uringzc.Scheduler) -> None:
        self.net, self.s = net, s
        self.memory: list[bytearray] = []
        self.due: set[int] = set()
        self.far: list[int] = []
        self.early: list[int] = []

    def send(self, far: bool) -> None:
        number = len(self.memory)
        self.memory.append(payload(number))
        to = self.net.box.address if far else self.net.here
        self.s.send(self.net.tx, self.memory[-1], to=to, flush=True, user_data=number)
        if far:
            self.far.append(number)
        else:
            self.due.add(number)

    def fail(self, fail: Fail) -> None:
        fail(self.net, self.s, len(self.memory))
        self.due.add(len(self.memory))
        self.memory.append(bytearray())

    def reap(self) -> None:
        """All that is due has to come; what is not due and comes is `early`. Overwrites both."""
        while True:
            reported = [n.sequence for n in self.s.reap_notifications(wait=1 if self.due else 0, timeout=10)]
            assert reported or not self.due, f"{self.due} are not released"
            self.early += set(reported) - self.due
            self.due -= set(reported)
            for number in reported:
                self.memory[number][:] = b"\xff" * len(self.memory[number])
            if not self.due:
                return

    def wrong(self) -> list[int]:
        """Opens the gate: the numbers of far ones that arrive otherwise than they were sent."""
        self.net.box.release()
        return [i for i in self.far if self.net.far.recv(65536) != payload(i)]


@pytest.mark.parametrize("batch", [1, 7])
@each_way
def test_memory_is_released_by_its_own_notification(net: Net, fail: Fail, batch: int) -> None:
    chance = random.Random(f"{fail.__name__}{batch}")
    with uringzc.Scheduler() as s:
        net.box.stop()
        run = Run(net, s)
        for _ in range(min(100, 2 * net.room) // batch):  # a quarter of them is held at the end
            for _ in range(batch):
                kind = chance.choice(["near", "far", "fail", "fail"])
                if kind == "fail":
                    run.fail(fail)
                else:
                    run.send(kind == "far")
            s.submit()
            run.reap()
        assert s.stats.in_flight == len(run.far)
        failed = [c.result for c in s.reap_completions() if c.result < 0]
        assert set(failed) == {-WAYS[fail][0]}
        assert run.early == []
        assert run.wrong() == []
        s.drain(10)
        assert s.stats.in_flight == 0


def test_control_a_counter_off_by_one_releases_memory_too_early(net: Net) -> None:
    """A number more is used up than is believed, as by a failure without doubt: wrong bytes arrive."""
    net.tx.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
    assert kernel_number(net.tx, net.here) == 1
    with uringzc.Scheduler() as s:
        s._engine.own_socket(net.tx)  # it was not opened by a sender
        net.box.stop()
        run = Run(net, s)
        for far in (False, True, True):
            run.send(far)
        run.due = {1}  # what is reported instead of the first
        s.submit()
        run.reap()
        assert run.wrong() == [1]
        assert s.stats.in_flight == 2
        s.drain(10)  # the last number is not believed; but the kernel holds nothing any more
        net.box.stop()
        run.send(far=True)
        s.submit()
        assert s.stats.in_flight == 0  # a copy: nothing is believed of this socket any more


def test_a_failed_datagram_with_held_fragments_releases_nothing_else(net: Net) -> None:
    """Its notification comes after those of later sends, when nobody owns its number."""
    with uringzc.Scheduler() as s:
        net.box.stop()
        run = Run(net, s)
        for _ in range(3):
            run.fail(lambda net, s, number: full(net, s, number, 8000, limit=4000 + 1250 * number))
            for far in (False, True, False):
                run.send(far)
            s.submit()
            run.reap()
        results = [c.result for c in s.reap_completions()]
        assert results.count(-errno.ENOBUFS) == 3
        assert run.early == []
        assert run.wrong() == []
        s.drain(10)


def test_sends_beyond_optmem_max_are_copied(net: Net) -> None:
    """Those that net.core.optmem_max has no room for are copied, none fails, none is mistaken."""
    within = net.room - net.room // 20
    with uringzc.Scheduler() as s:
        net.box.stop()
        run = Run(net, s)
        for _ in range(within):
            run.send(far=True)
        s.submit()
        run.reap()
        assert s.stats.in_flight == within
        for _ in range(40):
            for far in (False, True, True):
                run.send(far)
        s.submit()
        held = s.stats.in_flight
        assert within < held <= net.room + 12
        run.due = set(range(len(run.memory))) - set(run.far)
        while run.due:
            reported = {n.sequence for n in s.reap_notifications(wait=1)}
            for number in reported:
                run.memory[number][:] = bytes(1000)
            run.due -= reported
        assert run.wrong() == []
        s.drain(10)
        assert all(c.result == 1000 for c in s.reap_completions())
        net.box.stop()
        run.send(far=True)
        s.submit()
        assert s.stats.in_flight == 1  # zero-copy again
        net.box.release()
        s.drain(10)


def test_a_probe_without_an_answer_settles_nothing(net: Net) -> None:
    """Without a route the question comes to no number, and what is in the error queue then is no answer."""
    with uringzc.Scheduler() as s:
        net.box.stop()
        run = Run(net, s)
        for far in (True, False, True):
            run.send(far)
        for _ in range(2):
            run.fail(no_route)
        run.send(far=True)
        s.submit()
        run.reap()
        assert s.stats.in_flight == 3
        assert run.early == []
        assert run.wrong() == []
        s.drain(10)
