"""Network sandboxes, a receiver, and skips that say why, for tests of programs that send.

A sandbox is a network of its own in anonymous namespaces. They have no name in /run/netns: descriptors and
sockets hold them, so the kernel takes them down when the process ends, however it ends. The machine's own
interfaces are not touched, and the calling thread never changes namespace: a helper thread goes inside, and a
socket made there works from everywhere.

    @pytest.fixture
    def box():
        with uringzc.testing.hold() as box:
            yield box

    @uringzc.testing.requires("net_admin")
    def test_nothing_arrives_before_release(box):
        with box.socket() as sock, uringzc.testing.receiver(sock=box.receiver_socket()) as rx:
            box.stop()
            sock.sendto(b"hello", box.address)
            assert rx.datagrams == []  # in flight, for as long as the test likes
            box.release()
            assert rx.wait(1) == [b"hello"]

`sink()` swallows everything and copies nothing; `hold()` delivers, late or when told. What else can go wrong
for a sender is a method: another MTU, missing offloads, a full queue, a neighbour to find. Without the
privileges they raise PermissionError when entered. Inside `unshare --map-root-user`, everybody has them.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    import pytest

__all__ = ["Hold", "Receiver", "Sandbox", "hold", "missing", "receiver", "requires", "sink"]

T = TypeVar("T")
Address = tuple[str, int]
Socket = socket.socket


class _End(NamedTuple):
    ip: str
    ip6: str
    mac: str


PORT = 9000
_NEAR = _End("10.0.0.1", "fd00::1", "02:00:00:00:00:01")
_FAR = _End("10.0.0.2", "fd00::2", "02:00:00:00:00:02")

_ROOM = 1 << 30
_CLONE_NEWNET = 0x40000000
_IFA_F_NODAD = 0x02
_SO_RCVBUFFORCE = 33
_libc = ctypes.CDLL(None, use_errno=True)


class Sandbox:
    """A network namespace, and where to send from inside; closed, it lives on while a socket of it does."""

    address: Address = (_FAR.ip, PORT)
    address6: Address = (_FAR.ip6, PORT)

    def __init__(self, device: str = "veth0") -> None:
        self.device = device
        with ThreadPoolExecutor(1) as helper:
            self.fd = helper.submit(_unshare).result()

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
        self.run(lambda: _set_mtu(self.device, _checked(mtu)))

    def offload(
        self,
        *,
        checksum: bool | None = None,
        scatter_gather: bool | None = None,
        segmentation: bool | None = None,
    ) -> None:
        """Switch what the device does for a sender, all of which is on at first; None leaves it as it is.

        Without `checksum` or `scatter_gather` the kernel copies what is sent. `segmentation` is of UDP
        trains: without it the kernel cuts them up, and copies nothing. It is off while `checksum` is, and
        comes back with that. OSError EOPNOTSUPP if a feature, read back, is not as it was asked to be.
        """
        asked = {
            "tx-checksum-ip-generic": checksum,
            "tx-scatter-gather": scatter_gather,
            "tx-udp-segmentation": segmentation,
        }
        wanted = {name: on for name, on in asked.items() if on is not None}
        self.run(lambda: _set_features(self.device, wanted))

    def close(self) -> None:
        """Let go of the namespace. Leaving the `with` block does this."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def _inside(self, call: Callable[[], T]) -> T:
        if _libc.setns(self.fd, _CLONE_NEWNET):
            raise _refusal(ctypes.get_errno(), "enter the sandbox")
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
            _make_room(sock)
            sock.bind((_FAR.ip6 if family == socket.AF_INET6 else _FAR.ip, port))
            on_error.pop_all()
        return sock

    def stop(self) -> None:
        """Hold what waits already, and everything that is sent before `release`; nothing slips through."""
        # A packet may wait if it is not longer than the bucket, and goes when the bucket's credit covers its
        # length and the overhead. The kernel grants credit for bucket + overhead, in 32 bits: here that is 0,
        # and stays 0. So the rate only says how often it looks again, every 1 to 2 ms.
        self._gate(65_000_000, bucket=2**32 - 65535, overhead=65535)

    def release(self) -> None:
        """Let out what was held, in order, at 250 MB/s counted as in `hold`; so it stays from then on."""
        # Much faster, and small packets overrun the far side's backlog (net.core.netdev_max_backlog).
        self._gate(250_000_000)

    def limit(self, nbytes: int = _ROOM) -> None:
        """Let no more than `nbytes`, with headers, wait at the gate: what finds it full is dropped.

        The sender hears of it (ENOBUFS) if it asked, with IP_RECVERR or IPV6_RECVERR. Stopped, slow or
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
        self.run(lambda: _delete_neighbours(self.device, _FAR))

    def set_mtu(self, mtu: int) -> None:
        """As in a `Sandbox`. The receiver's MTU may grow and never shrinks: what is held still arrives."""
        self.peer.run(lambda: _set_mtu(self.peer.device, _checked(mtu), shrink=False))
        super().set_mtu(mtu)

    def _slow_down(self, delay: float) -> None:
        with self.socket() as sock:
            in_flight = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        self._gate(min(int(in_flight / delay), 250_000_000))

    def _gate(self, rate: int, bucket: int = 72 << 10, overhead: int = 4096) -> None:
        # The overhead makes a datagram cost about what the socket buffer is charged for a zero-copy send, by
        # the page. The bucket has room for the longest train (65,535 bytes and 127 more headers), because tbf
        # cuts up longer ones.
        self._setting = (rate, bucket, overhead)
        self.run(lambda: _replace_tbf(self.device, rate, bucket, overhead, self._room))


@contextmanager
def sink(mtu: int = 1500) -> Iterator[Sandbox]:
    """A network whose only device, an `ifb`, frees what it is given: zero-copy, no wait, nothing to resolve.

    Any port will do, and any address of 10.0.0.0/24 and fd00::/64. `mtu`: 1280, which IPv6 needs, to 65535.
    """
    with closing(Sandbox("ifb0")) as box:
        _bring_up(box, _NEAR, _FAR, kind="ifb", mtu=_checked(mtu))
        yield box


@contextmanager
def hold(delay: float = 0.05, mtu: int = 1500) -> Iterator[Hold]:
    """Two networks joined by a veth pair that delivers late and in order; `mtu` as in `sink`.

    SO_SNDBUF's default / `delay` bytes leave per second, where a packet counts as its length and 4096. So a
    zero-copy datagram behind a full default socket buffer waits about `delay` seconds, behind less in
    proportion, and the first 76 KiB after a pause do not wait. Up to 1 GiB may wait, none of it is dropped.
    What arrives was copied, on delivery. A test that must not depend on time uses `stop` and `release`.
    In order: before Linux 6.3 only what leaves from one processor.
    """
    if delay <= 0:
        raise ValueError(f"delay must be positive, not {delay}")
    with closing(Sandbox()) as peer, closing(Hold(peer)) as box:
        for end in (peer, box):
            end.run(_receive_on_one_processor)
        far = {"ifname": peer.device, "address": _FAR.mac, "mtu": _checked(mtu), "net_ns_fd": peer.fd}
        _bring_up(box, _NEAR, _FAR, kind="veth", address=_NEAR.mac, mtu=mtu, peer=far)
        _bring_up(peer, _FAR, _NEAR)
        # Last: the near end came up without a carrier; a new qdisc starts it now, and not a little later.
        box._slow_down(delay)
        yield box


class Receiver:
    """What `receiver` gives: `count` datagrams came to `address`, and the first of them are `datagrams`."""

    def __init__(self, sock: Socket, limit: int) -> None:
        self.sock = sock
        self.address = sock.getsockname()
        self.count = 0
        self._limit = limit
        self._kept: list[bytes] = []
        self._buffer = memoryview(bytearray(1 << 16))
        self._arrived = threading.Condition()
        self._thread: threading.Thread | None = None

    @property
    def datagrams(self) -> list[bytes]:
        """What has been received so far, a copy."""
        with self._arrived:
            return self._kept.copy()

    def wait(self, count: int, timeout: float = 5.0) -> list[bytes]:
        """`datagrams`, as soon as `count` have come since the start; TimeoutError says how many did."""
        deadline = time.monotonic() + timeout
        while self.count < count:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{self.count} of {count} datagrams came to {self.address} in {timeout} s")
            if self._thread:
                with self._arrived:
                    self._arrived.wait_for(lambda: self.count >= count, left)
            elif select.select([self.sock], [], [], left)[0]:
                self.read()
        return self.datagrams

    def read(self) -> None:
        """Take what is there, without waiting: at most 1024. The thread does this, if there is one."""
        batch: list[bytes] = []
        came, room = 0, self._limit - len(self._kept)
        with suppress(BlockingIOError):
            while came < 1024:
                size = self.sock.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)
                came += 1
                if came <= room:
                    batch.append(bytes(self._buffer[:size]))
        with self._arrived:
            self._kept += batch
            self.count += came
            self._arrived.notify_all()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        wake = os.eventfd(0)
        self._thread = threading.Thread(target=self._read_until, args=(wake,), name="uringzc receiver")
        self._thread.start()
        try:
            yield
        finally:
            os.eventfd_write(wake, 1)
            self._thread.join()
            os.close(wake)

    def _read_until(self, wake: int) -> None:
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        poll.register(wake, select.POLLIN)
        while all(fd != wake for fd, _ in poll.poll()):
            self.read()


@contextmanager
def receiver(
    address: Address | None = None, *, sock: Socket | None = None, limit: int = 100_000, thread: bool = True
) -> Iterator[Receiver]:
    """Receive at `address`, by default a free port of 127.0.0.1, or on `sock`, which is closed at the end.

    A thread takes datagrams as they come; with thread=False the caller's `wait` and `read` do. The first
    `limit` are kept, the others counted.
    """
    if sock is None:
        address = address or ("127.0.0.1", 0)
        sock = Socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_DGRAM)
        _make_room(sock)
    with sock, ExitStack() as stack:
        if address:
            sock.bind(address)
        rx = Receiver(sock, limit)
        if thread:
            stack.enter_context(rx._reading())
        yield rx


def requires(capability: str) -> pytest.MarkDecorator:
    """A pytest mark, for a test, a class or `pytestmark`: skip it, and say what is `missing`."""
    import pytest

    reason = missing(capability)
    return pytest.mark.skipif(reason is not None, reason=reason or "")


@functools.cache
def missing(capability: str) -> str | None:
    """Why a test that needs `capability` cannot run here, and what would change that; None if it can.

    net_admin: sandboxes; io_uring; send_zc: its zero-copy send; msg_zerocopy; unprivileged: becoming the user
    nobody.
    """
    tried = {
        "net_admin": _no_network,
        "io_uring": _no_ring,
        "send_zc": _no_send_zc,
        "msg_zerocopy": _no_msg_zerocopy,
        "unprivileged": _no_nobody,
    }
    if capability not in tried:
        raise ValueError(f"unknown capability {capability!r}: there are {', '.join(tried)}")
    return tried[capability]()


def _no_network() -> str | None:
    try:
        with closing(Sandbox()) as box:
            _bring_up(box, _NEAR, _FAR, kind="veth", peer="veth1")
    except PermissionError as error:
        return error.strerror
    except ImportError:
        return "needs pyroute2: pip install 'uringzc[testing]'"
    return None


def _no_msg_zerocopy() -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, 60, 1)  # SO_ZEROCOPY
        except OSError as error:
            return f"SO_ZEROCOPY of a UDP socket (Linux 5.0): {error.strerror}"
    return None


def _no_ring() -> str | None:
    from uringzc.kernel.features import features

    try:
        features()
    except OSError as error:
        return error.strerror
    return None


def _no_send_zc() -> str | None:
    from uringzc.kernel.features import features

    return _no_ring() or (None if features().send_zc else "needs io_uring's SEND_ZC: run Linux 6.0 or later")


def _no_nobody() -> str | None:
    become = "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534)"
    try:
        tried = subprocess.run([sys.executable, "-c", become], stderr=subprocess.DEVNULL, check=False)
    except OSError as error:
        return f"needs to start {sys.executable}: {error.strerror}"
    return "needs to become the user nobody: run as root" if tried.returncode else None


def _unshare() -> int:
    if _libc.unshare(_CLONE_NEWNET):
        raise _refusal(ctypes.get_errno(), "make a network namespace")
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY)


def _receive_on_one_processor() -> None:
    """What is received by a device that is made in this network later, whatever processor sends it.

    A packet through a veth is received on the processor that takes it out of the queue. That is not always
    the sender's: the kernel sends IPv6 reports of its own from any, and the queue's timer stays there. What
    two processors receive at once arrives in any order.
    """
    words, bit = divmod(min(os.sched_getaffinity(0)), 32)
    with suppress(OSError), open("/proc/sys/net/core/rps_default_mask", "w") as mask:  # Linux 6.3
        mask.write(f"{1 << bit:x}" + ",00000000" * words)


def _refusal(number: int, what: str) -> OSError:
    if number != errno.EPERM:
        return OSError(number, f"cannot {what}: {os.strerror(number)}")
    needs = f"needs CAP_SYS_ADMIN and CAP_NET_ADMIN to {what}"
    return PermissionError(number, f"{needs}: run as root, or under `unshare --map-root-user`")


def _checked(mtu: int) -> int:
    if not 1280 <= mtu <= 65535:
        raise ValueError(f"mtu must be 1280 to 65535, not {mtu}")
    return mtu


def _bring_up(box: Sandbox, here: _End, there: _End, **new: Any) -> None:
    """Make the device, if `new` says what it is; give it its addresses, and the other side's for good."""
    from pyroute2 import IPRoute, NetlinkError

    def build() -> None:
        with IPRoute() as ip:
            if new:
                ip.link("add", ifname=box.device, **new)
            index = socket.if_nametoindex(box.device)
            ip.link("set", index=socket.if_nametoindex("lo"), state="up")
            ip.link("set", index=index, state="up")
            ip.addr("add", index=index, address=here.ip, prefixlen=24)
            # Without the flag, IPv6 would first look around for a second whether somebody has this address.
            ip.addr("add", index=index, address=here.ip6, prefixlen=64, flags=_IFA_F_NODAD)
            for address in (there.ip, there.ip6):
                ip.neigh("add", ifindex=index, dst=address, lladdr=there.mac, state="permanent")

    try:
        box.run(build)
    except NetlinkError as error:
        raise _refusal(error.code, f"make {box.device}, of kind {new.get('kind')}") from error


def _set_mtu(device: str, mtu: int, shrink: bool = True) -> None:
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        index = socket.if_nametoindex(device)
        (link,) = ip.get_links(index)
        if shrink or mtu > link.get_attr("IFLA_MTU"):
            ip.link("set", index=index, mtu=mtu)


def _delete_neighbours(device: str, end: _End) -> None:
    from pyroute2 import IPRoute, NetlinkError

    with IPRoute() as ip:
        for address in (end.ip, end.ip6):
            try:
                ip.neigh("del", ifindex=socket.if_nametoindex(device), dst=address)
            except NetlinkError as error:
                if error.code != errno.ENOENT:  # forgotten before, and not asked for since
                    raise


def _set_features(device: str, wanted: dict[str, bool]) -> None:
    from pyroute2 import Ethtool
    from pyroute2.ethtool.ioctl import NotSupportedError

    with Ethtool() as ethtool:
        features = ethtool.get_features(device)
        for name, on in wanted.items():
            features.features[name].enable = on
        with suppress(NotSupportedError):  # it does not say which one
            ethtool.set_features(device, features)
        now = ethtool.get_features(device).features
    for name, on in wanted.items():
        if now[name].enable != on:
            raise OSError(errno.EOPNOTSUPP, f"cannot switch {name} of {device} {'on' if on else 'off'}")


def _replace_tbf(device: str, rate: int, bucket: int, overhead: int, room: int) -> None:
    """`tc qdisc replace dev DEVICE root handle 1: tbf ...`: what waits there goes on waiting.

    By hand, because pyroute2 0.9 cannot say TCA_TBF_BURST, which `Hold.stop` is made of.
    """
    parameters = struct.pack("=BBHhHI12x3I", 0, 1, overhead, 0, 0, rate, room, 0, 0)
    options = _attribute(1, parameters) + _attribute(6, struct.pack("=I", bucket))  # TCA_TBF_PARMS, _BURST
    body = struct.pack("=B3xi3I", 0, socket.if_nametoindex(device), 0x10000, 0xFFFFFFFF, 0)
    body += _attribute(1, b"tbf\0") + _attribute(2, options)  # TCA_KIND, TCA_OPTIONS
    flags = 0x1 | 0x4 | 0x100 | 0x400  # NLM_F_REQUEST, NLM_F_ACK, NLM_F_REPLACE, NLM_F_CREATE
    with Socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.send(struct.pack("=IHHII", 16 + len(body), 36, flags, 1, 0) + body)  # RTM_NEWQDISC
        (error,) = struct.unpack_from("=i", netlink.recv(4096), 16)
    if error:
        raise _refusal(-error, f"set the tbf of {device}")


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _make_room(sock: Socket) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
    except PermissionError:  # then as much as net.core.rmem_max allows
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
