"""The route to a host: its device, its offloads, and what they mean for zero-copy. Needs pyroute2."""

import errno
import os
import socket
from dataclasses import dataclass
from typing import Annotated, Any

from uringzc.address import check_host, lacks_scope, no_host
from uringzc.engines.tables import MAX_PAYLOAD
from uringzc.kernel.reasons import Reason
from uringzc.records import explained
from uringzc.senders.sockets import path_mtu

_RTN_LOCAL, _IFF_LOOPBACK = 2, 8
DISCARD = 9  # a port: nothing is sent to it
_HEADERS = {socket.AF_INET: 20 + 8, socket.AF_INET6: 40 + 8}
#: kinds of devices whose other end is on this machine, and that other end
_LOCAL = {"veth": "its other end", "tun": "the program behind it"}


@dataclass(frozen=True)
@explained
class Route:
    """How datagrams get to a host, and the offloads of the device; None: the device does not say."""

    host: Annotated[str, "as it was given"]
    address: Annotated[str, "the address that this stands for"]
    device: Annotated[str, "the name of the interface that they leave by"]
    kind: Annotated[str, '"loopback", "veth", "ifb", ...; "" for hardware, and what passes for it']
    mtu: Annotated[int, "the MTU of the path in bytes, as far as it is known"]
    payload: Annotated[int, "bytes of the largest datagram that is not fragmented"]
    checksum: Annotated[bool | None, "the device computes UDP checksums (tx-checksum-*)"]
    scatter_gather: Annotated[bool | None, "the device gathers what it sends (tx-scatter-gather)"]
    segmentation: Annotated[bool | None, "the device splits trains, UDP_SEGMENT sends (tx-udp-segmentation)"]
    next_hop: Annotated[str, "the address of the gateway; without one, or on this machine, the host's"] = ""

    @property
    def copies(self) -> Reason | None:
        """Why the kernel will copy all that is sent there; None: it will not, as far as that can be seen."""
        return next((reason for reason in self.reasons() if reason.name in _COPIES), None)

    def reasons(self) -> tuple[Reason, ...]:
        """What limits, and what copies."""
        if self.kind == "loopback":
            text = f"{self.address} is this machine: over loopback the kernel always copies, at delivery"
            return (Reason("loopback", text, ""),)
        found = []
        if self.kind in _LOCAL:
            text = f"{self.device} is of kind {self.kind}: {_LOCAL[self.kind]} gets a copy, made at delivery"
            found.append(Reason(self.kind, text, ""))
        if self.checksum is False:
            text = f"{self.device} does not checksum what it sends, so the kernel copies, and says nothing"
            found.append(Reason("no_checksum", text, f"ethtool -K {self.device} tx on"))
        if self.scatter_gather is False:
            text = f"{self.device} cannot gather what it sends, so the kernel copies, and says nothing"
            found.append(Reason("no_scatter_gather", text, f"ethtool -K {self.device} sg on"))
        if self.segmentation is False:
            text = f"{self.device} has no segmentation for UDP: the kernel cuts up trains, without copying"
            fix = f"ethtool -K {self.device} tx-udp-segmentation on, if the hardware has it"
            found.append(Reason("no_segmentation", text, fix))
        if self.payload < 65507:
            text = f"datagrams of more than {self.payload} bytes are fragmented, and copied (MTU {self.mtu})"
            found.append(Reason("mtu", text, ""))
        return tuple(found)


_COPIES = {"loopback", "veth", "tun", "no_checksum", "no_scatter_gather"}


def find_route(host: str) -> Route:
    """The route from this thread's network namespace. OSError names a host without an address or a route;
    ModuleNotFoundError without pyroute2.
    """
    try:
        import pyroute2
    except ModuleNotFoundError as error:
        text = "finding a route needs pyroute2: pip install 'uringzc[cli]'"
        raise ModuleNotFoundError(text, name=error.name) from None
    try:
        check_host(host)
        family, _, _, _, to = socket.getaddrinfo(host, DISCARD, 0, socket.SOCK_DGRAM)[0]
    except socket.gaierror as error:
        raise no_host(host, error) from error
    except ValueError as error:
        raise socket.gaierror(socket.EAI_NONAME, f"{host!r} is no host: {error}") from error
    address, scope = str(to[0]).partition("%")[0], to[3] if len(to) == 4 else 0
    if text := lacks_scope(to):
        raise OSError(errno.EINVAL, text)
    mtu = _mtu(host, family, to)
    asked = {"dst": address, "family": family} | ({"oif": scope} if scope else {})
    with pyroute2.IPRoute() as ip:
        try:
            (route,) = ip.route("get", **asked)
        except pyroute2.NetlinkError as error:
            raise _no_route(host, address, error.code) from error
        (link,) = ip.get_links(route.get_attr("RTA_OIF"))
    local = route["type"] == _RTN_LOCAL or link["flags"] & _IFF_LOOPBACK
    device = link.get_attr("IFLA_IFNAME")
    about = link.get_attr("IFLA_LINKINFO")
    return Route(
        host=host,
        address=address,
        device=device,
        kind="loopback" if local else (about and about.get_attr("IFLA_INFO_KIND")) or "",
        mtu=mtu,
        payload=min(mtu - _HEADERS[family], MAX_PAYLOAD[family]),
        next_hop=_gateway(route) or address,
        **_offloads(device, 4 if family == socket.AF_INET else 6),
    )


def _gateway(route: Any) -> str:
    via = route.get_attr("RTA_VIA")  # of another family than the host
    return str(route.get_attr("RTA_GATEWAY") or (via["addr"] if via else ""))


def _mtu(host: str, family: int, to: Any) -> int:
    """The path's MTU, from a socket that is connected to the host: nothing is sent."""
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        try:
            sock.connect(to)
        except OSError as error:
            raise _no_route(host, str(to[0]), error.errno or errno.ENETUNREACH) from error
        return path_mtu(sock)


def _no_route(host: str, address: str, code: int) -> OSError:
    at = host if address == host else f"{host} ({address})"
    return OSError(code, f"there is no way to {at}: {os.strerror(code)}")


def _offloads(device: str, version: int) -> dict[str, bool | None]:
    from pyroute2 import Ethtool

    try:
        with Ethtool() as ethtool:
            features = ethtool.get_features(device).features
    except Exception:  # of many kinds, where a kernel or a device has no ethtool
        return dict.fromkeys(("checksum", "scatter_gather", "segmentation"))

    def on(*names: str) -> bool | None:
        there = [features[name].enable for name in names if name in features]
        return any(there) if there else None

    return {
        "checksum": on("tx-checksum-ip-generic", f"tx-checksum-ipv{version}"),
        "scatter_gather": on("tx-scatter-gather"),
        "segmentation": on("tx-udp-segmentation"),
    }
