"""The devices, addresses and queues of a sandbox, as rtnetlink and ethtool make them.

The functions act in the network namespace of the calling thread, and need pyroute2.
"""

import errno
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple


class End(NamedTuple):
    """The addresses of one end."""

    ip: str
    ip6: str
    mac: str


#: the two ends of a sandbox
NEAR = End("10.0.0.1", "fd00::1", "02:00:00:00:00:01")
FAR = End("10.0.0.2", "fd00::2", "02:00:00:00:00:02")

_IFA_F_NODAD = 0x02
_RTMGRP_IPV6_ROUTE = 0x400


def refusal(number: int, what: str) -> OSError:
    """The OSError for `number`; for EPERM one that names the capabilities that are missing."""
    if number != errno.EPERM:
        return OSError(number, f"cannot {what}: {os.strerror(number)}")
    needs = f"needs CAP_SYS_ADMIN and CAP_NET_ADMIN to {what}"
    return PermissionError(number, f"{needs}: run as root, or under `unshare --map-root-user`")


def receive_on_one_processor() -> None:
    """Devices that are made here later receive on one processor, whichever one sends: so order is kept.

    A packet through a veth is received on the processor that dequeues it. That is not always the sender's:
    the kernel sends IPv6 reports from any, and the timer of the qdisc stays there. What two processors
    receive at the same time arrives in any order.
    """
    words, bit = divmod(min(os.sched_getaffinity(0)), 32)
    with suppress(OSError), open("/proc/sys/net/core/rps_default_mask", "w") as mask:  # Linux 6.3
        mask.write(f"{1 << bit:x}" + ",00000000" * words)


def bring_up(device: str, here: End, there: End, **new: Any) -> None:
    """Make the device, if `new` says what it is; give it its addresses, and permanent neighbours."""
    from pyroute2 import IPRoute, NetlinkError

    try:
        with IPRoute() as ip:
            if new:
                ip.link("add", ifname=device, **new)
            index = socket.if_nametoindex(device)
            ip.link("set", index=socket.if_nametoindex("lo"), state="up")
            ip.link("set", index=index, state="up")
            ip.addr("add", index=index, address=here.ip, prefixlen=24)
            # without the flag, duplicate address detection takes a second
            ip.addr("add", index=index, address=here.ip6, prefixlen=64, flags=_IFA_F_NODAD)
            for address in (there.ip, there.ip6):
                ip.neigh("add", ifindex=index, dst=address, lladdr=there.mac, state="permanent")
    except NetlinkError as error:
        raise refusal(error.code, f"make {device}, of kind {new.get('kind')}") from error


def wait_for_ip6(end: End) -> None:
    """Returns when its IPv6 address takes datagrams: the kernel adds the route after the address."""
    line = f"{socket.inet_pton(socket.AF_INET6, end.ip6).hex()} 80 "  # of a route to it alone
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as events:
        events.bind((0, _RTMGRP_IPV6_ROUTE))
        events.settimeout(10)
        while line not in Path("/proc/thread-self/net/ipv6_route").read_text():
            events.recv(1 << 16)


def set_mtu(device: str, mtu: int, shrink: bool = True) -> None:
    """Change the MTU; without `shrink`, only to a larger one."""
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        index = socket.if_nametoindex(device)
        (link,) = ip.get_links(index)
        if shrink or mtu > link.get_attr("IFLA_MTU"):
            ip.link("set", index=index, mtu=mtu)


def delete_neighbours(device: str, end: End) -> None:
    """Remove the entries of an end from the ARP and ND tables."""
    from pyroute2 import IPRoute, NetlinkError

    with IPRoute() as ip:
        for address in (end.ip, end.ip6):
            try:
                ip.neigh("del", ifindex=socket.if_nametoindex(device), dst=address)
            except NetlinkError as error:
                if error.code != errno.ENOENT:  # there is none
                    raise


def set_features(device: str, wanted: dict[str, bool]) -> None:
    """`ethtool -K`; OSError EOPNOTSUPP if a feature, read back, is not as wanted."""
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


def replace_tbf(device: str, rate: int, bucket: int, overhead: int, room: int) -> None:
    """`tc qdisc replace dev DEVICE root handle 1: tbf ...`: packets in the queue stay there.

    Without pyroute2, whose 0.9 cannot set TCA_TBF_BURST, which `Hold.stop` needs.
    """
    parameters = struct.pack("=BBHhHI12x3I", 0, 1, overhead, 0, 0, rate, room, 0, 0)
    options = _attribute(1, parameters) + _attribute(6, struct.pack("=I", bucket))  # TCA_TBF_PARMS, _BURST
    body = struct.pack("=B3xi3I", 0, socket.if_nametoindex(device), 0x10000, 0xFFFFFFFF, 0)
    body += _attribute(1, b"tbf\0") + _attribute(2, options)  # TCA_KIND, TCA_OPTIONS
    flags = 0x1 | 0x4 | 0x100 | 0x400  # NLM_F_REQUEST, NLM_F_ACK, NLM_F_REPLACE, NLM_F_CREATE
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.send(struct.pack("=IHHII", 16 + len(body), 36, flags, 1, 0) + body)  # RTM_NEWQDISC
        (error,) = struct.unpack_from("=i", netlink.recv(4096), 16)
    if error:
        raise refusal(-error, f"set the tbf of {device}")


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
