"""Whatever happens to the network: each request completes once, and each notifier notifies once."""

import random
import socket
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from frame_tools import frames_in_use, raw_frame, scheduler
from marks import frame_engines
from traffic import datagram, is_readable

import uringzc
from uringzc import testing
from uringzc.testing.devices import FAR, NEAR

pyroute2 = pytest.importorskip("pyroute2")
STEPS = 800
TARGETS = [(FAR.ip, 9000)] * 6 + [
    (FAR.ip, 9),
    (NEAR.ip, 9),
    ("10.0.0.77", 9),
    ("10.0.0.255", 9),
    ("192.0.2.1", 9),
]


class Storm:
    """A Scheduler, and a network of which everything changes."""

    def __init__(self, net: testing.Hold, s: uringzc.Scheduler, seed: int) -> None:
        self.net, self.s = net, s
        self.chance = random.Random(seed)
        self.sent = 0
        self.completed: Counter[int] = Counter()
        self.notified: Counter[tuple[int, int]] = Counter()
        self.requests = self.failed = 0
        self.sockets = [net.socket() for _ in range(3)]
        self.raw = net.socket(socket.AF_PACKET, socket.SOCK_RAW)
        net.run(lambda: self.raw.bind((net.device, 0)))

    def play(self, steps: int) -> None:
        calls = [self.send] * 40 + [self.send_frame] * 5 + [self.reap] * 8 + [self.flush] * 5
        calls += (
            [self.gate] * 3
            + [self.replace_socket] * 2
            + [self.neighbour] * 2
            + [self.mtu, self.link, self.room]
        )
        for _ in range(steps):
            self.chance.choice(calls)()

    def send(self) -> None:
        size = self.chance.choice((0, 1, 100, 1200, 1472, 1473, 3900, 20_000))
        segment = self.chance.choice((0, 0, 0, 1000)) if size else 0
        self._queue(
            self.chance.choice(self.sockets),
            datagram(self.sent, size),
            segment=segment,
            to=self.chance.choice(TARGETS),
        )

    def send_frame(self) -> None:
        size = self.chance.choice((0, 100, 1486, 2000))
        self._queue(self.raw, raw_frame(0x88B5, datagram(self.sent, size)))

    def _queue(self, sock: socket.socket, data: bytes, **options: Any) -> None:
        flush = self.chance.random() < 0.7
        slot = self.chance.randrange(3)
        with suppress(BlockingIOError):
            self.s.send(sock, data, user_data=self.sent, slot=slot, flush=flush, **options)
            self.sent += 1

    def flush(self) -> None:
        self.s.flush(self.chance.randrange(3))

    def reap(self) -> None:
        if self.chance.random() < 0.5:
            self.s.submit()
        self.completed.update(done.user_data for done in self.s.reap_completions())
        for notification in self.s.reap_notifications():
            self.notified[notification.slot, notification.sequence] += 1
            self.requests += notification.requests
            self.failed += notification.failed

    def gate(self) -> None:
        with suppress(OSError):  # it is down
            self.chance.choice((self.net.stop, self.net.release))()

    def room(self) -> None:
        with suppress(OSError):
            self.net.limit(self.chance.choice((5000, 100_000, 1 << 30)))

    def replace_socket(self) -> None:
        at = self.chance.randrange(3)
        self.sockets[at].close()
        self.sockets[at] = self.net.socket()

    def neighbour(self) -> None:
        """Deleted, resolved by the kernel, permanent, or that cannot be reached."""
        how: dict[str, Any] = self.chance.choice(
            (
                {"command": "del"},
                {"command": "replace", "lladdr": FAR.mac, "state": "permanent"},
                {"command": "replace", "lladdr": FAR.mac, "state": "stale"},
                {"command": "replace", "state": "failed"},
            )
        )
        with suppress(pyroute2.NetlinkError):
            self._ip(lambda ip, index: ip.neigh(ifindex=index, dst=FAR.ip, **how))

    def mtu(self) -> None:
        self.net.set_mtu(self.chance.choice((1280, 1500, 9000)))

    def link(self) -> None:
        state = self.chance.choice(("down", "up", "up"))
        self._ip(lambda ip, index: ip.link("set", index=index, state=state))

    def _ip(self, call: Any) -> None:
        def inside() -> None:
            with pyroute2.IPRoute() as ip:
                call(ip, socket.if_nametoindex(self.net.device))

        self.net.run(inside)

    def end(self) -> None:
        """Everything works again, and all is reaped."""
        self._ip(lambda ip, index: ip.link("set", index=index, state="up"))
        self._ip(
            lambda ip, index: ip.neigh(
                "replace", ifindex=index, dst=FAR.ip, lladdr=FAR.mac, state="permanent"
            )
        )
        self.net.set_mtu(1500)
        self.net.limit(1 << 30)
        self.net.release()
        for slot in range(3):
            self.s.flush(slot)
        self.s.drain(20)
        self.reap()

    def close(self) -> None:
        for sock in (*self.sockets, self.raw):
            sock.close()


@frame_engines
@pytest.mark.slow
@pytest.mark.parametrize("seed", [0])
def test_every_request_completes_once_in_a_storm(net: testing.Hold, seed: int) -> None:
    with net.receiver_socket() as rx, scheduler(net, tags=range(3), max_inflight=4096) as s:
        storm = Storm(net, s, seed)
        try:
            storm.play(STEPS)
            storm.end()
        finally:
            storm.close()
        assert storm.completed == Counter(range(storm.sent))
        assert set(storm.notified.values()) == {1}
        assert storm.requests == storm.sent
        stats = s.stats
        assert (stats.in_flight, stats.held, stats.stray, stats.failed) == (0, 0, 0, storm.failed)
        assert frames_in_use(s) == 0
        assert 0 < stats.failed < stats.requests
        while is_readable(rx.fileno()):
            rx.recv(65536)
        with net.socket() as tx:
            tx.connect(net.address)
            s.send(tx, b"after it", flush=True)
            s.submit()
            rx.settimeout(10)
            assert rx.recv(100) == b"after it"
            s.drain(10)
