"""Networks for AF_XDP, and frames as they arrive.

AF_XDP goes past a device's qdisc, where a sandbox holds what is sent. A macvlan device has none: its frames
wait in that of the device below.
"""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any, NamedTuple

from traffic import is_readable

import uringzc
from uringzc import testing
from uringzc.testing.devices import FAR, NEAR

AF_XDP, _SO_DOMAIN, _SO_RCVBUFFORCE = 44, 39, 33
IPV4, IPV6, EXPERIMENT = 0x0800, 0x86DD, 0x88B5  # EtherTypes; the last is for experiments
#: the ends of a network over a macvlan device
NEAR_MACVLAN, FAR_MACVLAN = "10.0.1.1", "10.0.1.2"


@contextmanager
def scheduler(box: testing.Sandbox, **options: Any) -> Iterator[uringzc.Scheduler]:
    """A Scheduler inside the sandbox."""
    with box.run(lambda: uringzc.Scheduler(engine="af_xdp", **options)) as s:
        yield s


def send_all(s: uringzc.Scheduler, sock: socket.socket, payloads: list[bytes], **options: Any) -> None:
    """A notification and a result for each, submitted."""
    for number, payload in enumerate(payloads):
        s.send(sock, payload, user_data=number, flush=True, **options)
    s.submit()


def results(s: uringzc.Scheduler) -> list[tuple[int, int]]:
    """user_data and result of each completion."""
    return [(c.user_data, c.result) for c in s.reap_completions()]


def frame(payload: bytes, to: str = FAR.mac) -> bytes:
    """An Ethernet frame of no known protocol, from the sandbox's sender."""
    addresses = bytes.fromhex((to + NEAR.mac).replace(":", ""))
    return addresses + struct.pack("!H", EXPERIMENT) + payload.ljust(46, b"\0")


def frames_from(box: testing.Sandbox, device: str) -> socket.socket:
    """A socket whose data are frames that leave by the device."""
    sock = box.socket(socket.AF_PACKET, socket.SOCK_RAW)
    box.run(lambda: sock.bind((device, 0)))
    return sock


class Capture:
    """What arrives at a device with this EtherType, whole; of IP, only UDP."""

    def __init__(self, box: testing.Sandbox, protocol: int, device: str = "veth0") -> None:
        self.sock = box.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self.sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 16 << 20)
        self.sock.settimeout(10)
        box.run(lambda: self.sock.bind((device, protocol)))

    def take(self, count: int) -> list[bytes]:
        """The next ones."""
        taken: list[bytes] = []
        while len(taken) < count:
            found = self.sock.recv(1 << 16)
            place = {IPV4: 23, IPV6: 20}.get(int.from_bytes(found[12:14], "big"))
            if place is None or found[place] == socket.IPPROTO_UDP:
                taken.append(found)
        return taken

    def nothing(self) -> bool:
        """Whether nothing is there."""
        return not is_readable(self.sock.fileno())

    def __enter__(self) -> "Capture":
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


class Macvlan(NamedTuple):
    """A sandbox whose gate holds what leaves by `device`; what goes to `local` is delivered at once."""

    box: testing.Hold
    device: str
    local: str  # MAC of the other macvlan device
    raw: socket.socket  # its data are frames that leave by `device`
    tx: socket.socket  # UDP, connected
    rx: socket.socket  # its peer
    capture: Capture  # of frame()s, at the far end


@contextmanager
def macvlan(box: testing.Hold) -> Iterator[Macvlan]:
    """Adds two devices to the sandbox, which must be the test's own."""
    far = box.peer
    other = box.run(_add_macvlans)
    far.run(_add_address)
    with ExitStack() as stack:
        raw = stack.enter_context(closing(frames_from(box, "mv0")))
        tx = stack.enter_context(box.socket())
        rx = stack.enter_context(far.socket())
        rx.bind((FAR_MACVLAN, testing.sandboxes.PORT))
        rx.settimeout(10)
        tx.connect(rx.getsockname())
        capture = stack.enter_context(Capture(far, EXPERIMENT))
        yield Macvlan(box, "mv0", other, raw, tx, rx, capture)


def add_macvlan(box: testing.Sandbox, name: str, index: int) -> None:
    """A device with the index that another one had."""
    from pyroute2 import IPRoute

    def go() -> None:
        with IPRoute() as ip:
            below = socket.if_nametoindex("veth0")
            ip.link("add", ifname=name, kind="macvlan", link=below, macvlan_mode="bridge", index=index)
            ip.link("set", index=index, state="up")

    box.run(go)


def _add_macvlans() -> str:
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        below = socket.if_nametoindex("veth0")
        for name in ("mv0", "mv1"):
            ip.link("add", ifname=name, kind="macvlan", link=below, macvlan_mode="bridge")
            ip.link("set", index=socket.if_nametoindex(name), state="up")
        device = socket.if_nametoindex("mv0")
        ip.addr("add", index=device, address=NEAR_MACVLAN, prefixlen=24)
        ip.neigh("add", ifindex=device, dst=FAR_MACVLAN, lladdr=FAR.mac, state="permanent")
        (link,) = ip.get_links(socket.if_nametoindex("mv1"))
        return str(link.get_attr("IFLA_ADDRESS"))


def _add_address() -> None:
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        ip.addr("add", index=socket.if_nametoindex("veth0"), address=FAR_MACVLAN, prefixlen=24)


def set_state(box: testing.Sandbox, device: str, state: str) -> None:
    """ "up" or "down"."""
    from pyroute2 import IPRoute

    def go() -> None:
        with IPRoute() as ip:
            ip.link("set", index=socket.if_nametoindex(device), state=state)

    box.run(go)


def delete(box: testing.Sandbox, device: str) -> None:
    """Removes the device."""
    from pyroute2 import IPRoute

    def go() -> None:
        with IPRoute() as ip:
            ip.link("del", index=socket.if_nametoindex(device))

    box.run(go)


def xdp_socket() -> socket.socket:
    """A duplicate of the only AF_XDP socket of this process."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            sock = socket.socket(AF_XDP, socket.SOCK_RAW, 0, os.dup(int(name)))
            with closing(sock):
                if sock.getsockopt(socket.SOL_SOCKET, _SO_DOMAIN) == AF_XDP:
                    found.append(socket.socket(AF_XDP, socket.SOCK_RAW, 0, sock.detach()))
    (only,) = found
    return only


def internet_checksum(data: bytes) -> int:
    """RFC 1071, of everything that is to sum up to 0xffff."""
    words = struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2))
    total: int = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def is_right(packet: bytes) -> bool:
    """Whether all checksums of an IPv4 or IPv6 packet with UDP are right, and there."""
    if packet[0] >> 4 == 4:
        udp, addresses = packet[20 : struct.unpack_from("!H", packet, 2)[0]], packet[12:20]
        if internet_checksum(packet[:20]) != 0xFFFF:
            return False
    else:
        udp, addresses = packet[40 : 40 + struct.unpack_from("!H", packet, 4)[0]], packet[8:40]
    pseudo = addresses + struct.pack("!II", len(udp), socket.IPPROTO_UDP)
    return udp[6:8] != b"\0\0" and internet_checksum(pseudo + udp) == 0xFFFF
