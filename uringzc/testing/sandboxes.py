"""Sandboxes: networks in anonymous namespaces, which copy nothing (`sink`) or deliver late (`hold`)."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from typing import TypeVar

from uringzc.testing import devices
from uringzc.testing.devices import FAR, NEAR, bring_up, refusal
from uringzc.testing.receiving import Address, Socket, make_room

T = TypeVar("T")

PORT = 9000
_ROOM = 1 << 30
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Sandbox:
    """A network namespace, and where to send from inside; closed, it lives on while a socket of it does."""

    address: Address = (FAR.ip, PORT)
    address6: Address = (FAR.ip6, PORT)

    def __init__(self, device: str = "veth0") -> None:
        self.device = device
        with ThreadPoolExecutor(1) as helper:
            self.fd = helper.submit(_new_namespace).result()

    @property
    def netns_path(self) -> str:
        """What `nsenter --net=` takes, or setns(2) in another process."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    def run(self, call: Callable[[], T]) -> T:
        """Return or raise what `call()` does in a thread inside. A process it starts stays inside."""
        with ThreadPoolExecutor(1) as helper:
            return helper.submit(self._inside, call).result()

    def socket(self, family: int = socket.AF_INET, type: int = socket.SOCK_DGRAM) -> Socket:
        """A new socket of this network, for any thread to use; the caller's to close."""
        return self.run(lambda: Socket(family, type))

    def set_mtu(self, mtu: int) -> None:
        """Change the device's MTU, as in `sink`; connected sockets follow at once."""
        self.run(lambda: devices.set_mtu(self.device, _checked(mtu)))

    def offload(
        self,
        *,
        checksum: bool | None = None,
        scatter_gather: bool | None = None,
        segmentation: bool | None = None,
    ) -> None:
        """Switch what the device does for a sender, all of which is on at first; None leaves it as it is.

        Without `checksum` or `scatter_gather` the kernel copies what is sent; without `segmentation` it cuts
        trains (GSO batches: datagrams of one size sent as one request) up, and copies none. It is off while
        `checksum` is, and comes back with it. OSError EOPNOTSUPP if a feature, read back, is not as asked.
        """
        asked = {
            "tx-checksum-ip-generic": checksum,
            "tx-scatter-gather": scatter_gather,
            "tx-udp-segmentation": segmentation,
        }
        wanted = {name: on for name, on in asked.items() if on is not None}
        self.run(lambda: devices.set_features(self.device, wanted))

    def close(self) -> None:
        """Release the namespace. Leaving the `with` block does this."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def _inside(self, call: Callable[[], T]) -> T:
        if _libc.setns(self.fd, _CLONE_NEWNET):
            raise refusal(ctypes.get_errno(), "enter the sandbox")
        return call()


class Hold(Sandbox):
    """The sender's side of `hold`: the receiver's is `peer`, and between them is a gate, a tbf qdisc."""

    def __init__(self, peer: Sandbox) -> None:
        super().__init__()
        self.peer = peer
        self._room = _ROOM
        self._setting = (0, 0, 0)  # of the gate, once there is one

    def receiver_socket(
        self, family: int = socket.AF_INET, type: int = socket.SOCK_DGRAM, port: int = PORT
    ) -> Socket:
        """A socket bound to `address` or `address6`, with room for 64 MiB; the caller's to close."""
        with ExitStack() as on_error:
            sock = on_error.enter_context(self.peer.socket(family, type))
            make_room(sock)
            sock.bind((FAR.ip6 if family == socket.AF_INET6 else FAR.ip, port))
            on_error.pop_all()
        return sock

    def stop(self) -> None:
        """Hold what waits already, and everything that is sent before `release`, without exception."""
        # A packet may wait if it is not longer than the bucket, and goes when the bucket's credit covers its
        # length and the overhead. The kernel grants credit for bucket + overhead, in 32 bits: here that is 0,
        # and stays 0. The rate only sets how often it tries again: every 1 to 2 ms.
        self._gate(65_000_000, bucket=2**32 - 65535, overhead=65535)

    def release(self) -> None:
        """Let out what was held, in order, at 250 MB/s counted as in `hold`; so it stays from then on."""
        # Much faster, and small packets overrun the far side's backlog (net.core.netdev_max_backlog).
        self._gate(250_000_000)

    def limit(self, nbytes: int = _ROOM) -> None:
        """Let no more than `nbytes`, with headers, wait at the gate: what finds it full is dropped.

        The sender gets ENOBUFS if it has set IP_RECVERR or IPV6_RECVERR. Stopped, slow or
        released, the gate stays so; a slow one begins with its 76 KiB again. What waits already stays.
        """
        if not 0 < nbytes <= _ROOM:
            raise ValueError(f"limit must be 1 to {_ROOM} bytes, not {nbytes}")
        self._room = nbytes
        self._gate(*self._setting)

    def forget_neighbour(self) -> None:
        """Forget the receiver's MAC: the next datagram makes the kernel ask for it, with ARP or ND.

        Through an open gate the answer comes before that send returns, and nothing is lost. Behind `stop` it
        comes after `release`: until then the kernel keeps some datagrams (unres_qlen_bytes, 92 of 1,400
        bytes), drops the oldest of more, and after 3 s all of them, while the sends succeed.
        """
        self.run(lambda: devices.delete_neighbours(self.device, FAR))

    def set_mtu(self, mtu: int) -> None:
        """As in a `Sandbox`. The receiver's MTU may grow and never shrinks: what is held still arrives."""
        self.peer.run(lambda: devices.set_mtu(self.peer.device, _checked(mtu), shrink=False))
        super().set_mtu(mtu)

    def _slow_down(self, delay: float) -> None:
        with self.socket() as sock:
            in_flight = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        self._gate(min(int(in_flight / delay), 250_000_000))

    def _gate(self, rate: int, bucket: int = 72 << 10, overhead: int = 4096) -> None:
        # The overhead makes a datagram cost about what the socket buffer is charged for a zero-copy send, by
        # the page. The bucket has room for the longest train (65,535 bytes and 127 more headers), because tbf
        # splits longer ones.
        self._setting = (rate, bucket, overhead)
        self.run(lambda: devices.replace_tbf(self.device, rate, bucket, overhead, self._room))


@contextmanager
def sink(mtu: int = 1500) -> Iterator[Sandbox]:
    """A network whose only device, an `ifb`, frees what it is given: zero-copy, no wait, nothing to resolve.

    Any port will do, and any address of 10.0.0.0/24 and fd00::/64. `mtu`: 1280, which IPv6 needs, to 65535.
    """
    with closing(Sandbox("ifb0")) as box:
        box.run(lambda: bring_up(box.device, NEAR, FAR, kind="ifb", mtu=_checked(mtu)))
        box.run(lambda: devices.wait_for_ip6(NEAR))
        yield box


@contextmanager
def hold(delay: float = 0.05, mtu: int = 1500) -> Iterator[Hold]:
    """Two networks joined by a veth pair that delivers late and in order; `mtu` as in `sink`.

    SO_SNDBUF's default / `delay` bytes leave per second, where a packet counts as its length and 4096. So a
    zero-copy datagram behind a full default socket buffer waits about `delay` seconds, behind less in
    proportion, and the first 76 KiB after a pause do not wait. Up to 1 GiB may wait, none of it is dropped.
    What arrives was copied, on delivery. A test that must not depend on time uses `stop` and `release`.
    Before Linux 6.3 the order is kept only for what one processor sends.
    """
    if delay <= 0:
        raise ValueError(f"delay must be positive, not {delay}")
    with closing(Sandbox()) as peer, closing(Hold(peer)) as box:
        for end in (peer, box):
            end.run(devices.receive_on_one_processor)
        far = {"ifname": peer.device, "address": FAR.mac, "mtu": _checked(mtu), "net_ns_fd": peer.fd}
        near = {"kind": "veth", "address": NEAR.mac, "mtu": mtu, "peer": far}
        box.run(lambda: bring_up(box.device, NEAR, FAR, **near))
        peer.run(lambda: bring_up(peer.device, FAR, NEAR))
        # Last: the near end came up without a carrier, and a new qdisc starts its queue at once.
        box._slow_down(delay)
        box.run(lambda: devices.wait_for_ip6(NEAR))
        peer.run(lambda: devices.wait_for_ip6(FAR))
        yield box


def _new_namespace() -> int:
    if _libc.unshare(_CLONE_NEWNET):
        raise refusal(ctypes.get_errno(), "make a network namespace")
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY)


def _checked(mtu: int) -> int:
    if not 1280 <= mtu <= 65535:
        raise ValueError(f"mtu must be 1280 to 65535, not {mtu}")
    return mtu
