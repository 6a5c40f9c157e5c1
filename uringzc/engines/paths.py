"""How datagrams of a socket get to an address as frames: device, headers, MTU, and when that is over.

The kernel decides: each destination costs one request for its route, each device and each neighbour another
one. No ARP or ND is sent from here: while a neighbour is unresolved, datagrams go through the UDP socket, and
the kernel resolves it. Changes come as netlink messages: one of a neighbour forgets the paths over it, one of
a group's members those of multicast, any other forgets all. Where frames would do anything else than the
socket, or where that cannot be known, the path is SOCKET.

What has no message is not followed: options that a socket gets after its path was found, and a PMTU that the
kernel learns meanwhile.
"""

import errno
import fcntl
import select
import socket
import struct
import time
from collections.abc import Callable
from typing import NamedTuple

from uringzc._uring import lib
from uringzc.engines.flow import Flow, default_hop_limits, flow
from uringzc.engines.headers import BROADCAST, header, multicast_mac
from uringzc.engines.netlink import (
    NUD_INCOMPLETE,
    NUD_STALE,
    NUD_VALID,
    Change,
    Hop,
    Link,
    Neighbour,
    Netlink,
    Route,
    UnframedError,
)
from uringzc.kernel import rtnetlink
from uringzc.kernel.rtnetlink import RefusedError

FRAME, SOCKET, ERROR, RAW = (
    *(lib.UZC_PATH_FRAME, lib.UZC_PATH_SOCKET),
    *(lib.UZC_PATH_ERROR, lib.UZC_PATH_RAW),
)

_RTN_UNICAST, _RTN_BROADCAST, _RTN_MULTICAST = 1, 3, 5
_RTCF_BROADCAST, _RTCF_LOCAL = 0x10000000, 0x80000000
_ARPHRD_ETHER, _ARPHRD_LOOPBACK = 1, 772
_IFF_LOOPBACK, _IFF_POINTOPOINT, _IFF_NOARP = 0x8, 0x10, 0x80
_SIOCGIFINDEX = 0x8933
_SOL_PACKET, _PACKET_VNET_HDR = 263, 15
#: paths over one neighbour that are forgotten one by one; of more, all are
_MANY = 4096

Key = tuple[int, bytes | None]


class Path(NamedTuple):
    """How datagrams of a socket get to an address."""

    kind: int
    error: int = 0  #: errno, of ERROR
    device: int = 0  #: its index, of FRAME and RAW
    mtu: int = 0  #: bytes of the largest IP packet; of RAW: of a frame without its Ethernet header
    header: bytes = b""  #: of FRAME: Ethernet, IPv4 or IPv6, UDP; lengths, IPv4 id and checksums are 0
    #: FRAME: the next request leaves through the socket, so that the kernel confirms a STALE neighbour.
    #: SOCKET: the neighbour is unresolved; find() again for the request after this one
    ask: bool = False
    why: str = ""  #: why it is no FRAME, as part of a sentence


class _Next:
    """A neighbour, and the paths over it."""

    def __init__(self, seen: Neighbour) -> None:
        self.seen = seen
        self.paths: set[Key] = set()
        self.asked = False  #: find() has said so
        self.in_vain = False  #: it was waited for

    @property
    def mac(self) -> bytes:
        """b"" while it is unresolved."""
        return self.seen.mac if self.seen.state & NUD_VALID and len(self.seen.mac) == 6 else b""

    @property
    def stale(self) -> bool:
        return bool(self.seen.state & NUD_STALE)


class Paths:
    """Of one engine, in the network namespace of the thread that makes it; for one thread at a time.

    find() and follow() call `forget(fd, to)` for a path that is over, and `forget_all()` when all may be.
    OSError where there is no netlink; ModuleNotFoundError without pyroute2.
    """

    def __init__(self, forget: Callable[[int, bytes | None], None], forget_all: Callable[[], None]) -> None:
        self._forget = forget
        self._forget_all = forget_all
        self._netlink = Netlink()
        self._namespace = self._netlink.namespace()
        self._default_hop_limits = default_hop_limits()
        self._links: dict[int, Link] = {}
        self._all_links: dict[int, Link] = {}
        self._neighbours: dict[Hop, _Next] = {}
        self._multicast: set[Key] = set()

    def fileno(self) -> int:
        """A descriptor that is readable while follow() has something to do."""
        return self._netlink.fileno()

    def device_name(self, device: int) -> str:
        """The name of the device with this index; OSError: there is none."""
        try:
            return self._netlink.link(device).name
        except RefusedError as error:
            raise OSError(error.code, str(error)) from None

    def close(self) -> None:
        """Closes the netlink sockets."""
        self._netlink.close()

    def find(self, sock: socket.socket, to: bytes | None, wait: float) -> Path:
        """The path of the socket's datagrams to a packed sockaddr; None: to its peer.

        `wait`: seconds that it may wait for a neighbour that the kernel is resolving; a signal handler that
        raises ends that. What keeps datagrams from leaving is an ERROR, and not raised.
        """
        self.follow()
        if sock.fileno() < 0:
            return _failed(errno.EBADF, "the socket is closed")
        try:
            namespace = self._namespace and rtnetlink.namespace(sock)
            if namespace != self._namespace:
                raise UnframedError("the socket is of another network namespace")
            if sock.family == socket.AF_PACKET:
                return self._raw(sock, to)
            return self._framed(flow(sock, to), (sock.fileno(), to), wait)
        except UnframedError as reason:
            return Path(SOCKET, why=str(reason))
        except RefusedError as error:
            return Path(ERROR, error=error.code, why=str(error))

    def follow(self) -> None:
        """Takes the netlink messages that wait, and forgets what they end."""
        for change in self._netlink.changes():
            if change is Change.ANY:
                for known in (self._links, self._all_links, self._neighbours, self._multicast):
                    known.clear()
                self._forget_all()
            elif change is Change.MEMBERSHIPS:
                self._forget_each(self._multicast)
            elif isinstance(change, Neighbour) and change.hop in self._neighbours:
                self._changed(self._neighbours[change.hop], change)

    def forget_socket(self, fd: int) -> None:
        """The descriptor is another socket's now."""
        for neighbour in self._neighbours.values():
            neighbour.paths = {path for path in neighbour.paths if path[0] != fd}
        self._multicast = {path for path in self._multicast if path[0] != fd}

    def _changed(self, neighbour: _Next, seen: Neighbour) -> None:
        mac, stale = neighbour.mac, neighbour.stale
        neighbour.seen = seen
        if neighbour.mac == mac and (stale or not neighbour.stale):
            return
        neighbour.asked = neighbour.in_vain = False
        self._forget_each(neighbour.paths)

    def _forget_each(self, paths: set[Key]) -> None:
        if len(paths) > _MANY:
            self._forget_all()
        else:
            for path in paths:
                self._forget(*path)
        paths.clear()

    def _framed(self, flow: Flow, key: Key, wait: float) -> Path:
        route = self._route(flow)
        if route.type not in (_RTN_UNICAST, _RTN_BROADCAST, _RTN_MULTICAST):
            raise UnframedError("the address is this machine's")
        if route.encapsulated:
            raise UnframedError("the route has an encapsulation")
        link = self._link(route.device)
        if link.type != _ARPHRD_ETHER or link.flags & _IFF_LOOPBACK or len(link.mac) != 6:
            raise UnframedError(f"{link.name} is no Ethernet device")
        if not (flow.question.source or route.source):
            raise UnframedError("there is no source address")
        if flow.multicast:
            self._multicast.add(key)
            self._check_multicast(flow, route)
            return self._frame(flow, route, link, multicast_mac(flow.question.to))
        if route.flags & _RTCF_BROADCAST:
            if not flow.broadcasts:
                return _failed(errno.EACCES, "the socket has no SO_BROADCAST")
            return self._frame(flow, route, link, BROADCAST)
        hop = (route.device, *(route.gateway or (flow.family, flow.question.to)))
        neighbour = self._neighbour(hop, link)
        if not neighbour.mac and wait > 0 and not neighbour.in_vain:
            self._wait(neighbour, wait)
            neighbour = self._neighbour(hop, link)  # another one if all was forgotten meanwhile
        if len(neighbour.paths) <= _MANY:
            neighbour.paths.add(key)
        if neighbour.mac:
            return self._frame(flow, route, link, neighbour.mac)._replace(ask=neighbour.stale)
        again = not neighbour.in_vain and (wait > 0 or not neighbour.asked)
        neighbour.asked = True
        address = socket.inet_ntop(*hop[1:])
        return Path(SOCKET, ask=again, why=f"the neighbour {address} on {link.name} is not resolved")

    def _route(self, flow: Flow) -> Route:
        question = flow.question
        if flow.source_device and not question.device and question.source != flow.source_device:
            device = self._netlink.route(question._replace(source=flow.source_device)).device
            question = question._replace(device=device)
        try:
            route = self._netlink.route(question)
        except RefusedError:
            if question.source:  # which may be a broadcast address, or not this machine's
                self._netlink.route(question._replace(source=b""))
                text = "there is no route from the address that the socket is bound to"
                raise UnframedError(text) from None
            raise
        if question.device and route.device != question.device and question.source:
            # IPv6 keeps to the device of a bound socket; netlink does if there is no source
            route = self._netlink.route(question._replace(source=b""))
        if question.device and route.device != question.device:
            raise UnframedError("the route leaves by another device than the socket's")
        return route

    def _check_multicast(self, flow: Flow, route: Route) -> None:
        """UnframedError where members on this machine would get nothing, or the interface is not known."""
        if flow.any_interface and not flow.source_device:
            self._all_links = self._all_links or self._netlink.links()
            if sum(link.sends_multicast for link in self._all_links.values()) > 1:
                text = "cannot be read from an IPv4 socket: bind it to a device, or name an address there"
                raise UnframedError(f"the interface of IP_MULTICAST_IF {text}")
        if flow.loops:
            member = bool(route.flags & _RTCF_LOCAL)
            if flow.family == socket.AF_INET6:
                member = (route.device, flow.question.to) in self._netlink.memberships6()
            if member:
                raise UnframedError("this machine is a member of the group, and gets what it sends")

    def _frame(self, flow: Flow, route: Route, link: Link, mac: bytes) -> Path:
        device_mtu = link.mtu if flow.family == socket.AF_INET else link.mtu6
        mtu = (flow.follows_path_mtu and route.mtu) or device_mtu
        hop_limit = flow.hop_limit
        if not flow.multicast and hop_limit == self._default_hop_limits.get(flow.family):
            own = link.hop_limit6 if flow.family == socket.AF_INET6 else 0
            hop_limit = route.hop_limit or own or hop_limit
        return Path(
            FRAME, device=route.device, mtu=min(mtu, 65535), header=header(flow, route, link, mac, hop_limit)
        )

    def _link(self, device: int) -> Link:
        if device not in self._links:
            try:
                self._links[device] = self._netlink.link(device)
            except RefusedError:
                raise UnframedError("the device of the route is gone") from None
        return self._links[device]

    def _neighbour(self, hop: Hop, link: Link) -> _Next:
        if hop not in self._neighbours:
            seen = self._netlink.neighbour(hop)
            if not seen.state and link.flags & _IFF_NOARP:  # as the kernel does when it makes the entry
                mac = BROADCAST if link.flags & _IFF_POINTOPOINT else link.mac
                seen = Neighbour(hop, NUD_VALID & ~NUD_STALE, mac)
            self._neighbours[hop] = _Next(seen)
        return self._neighbours[hop]

    def _wait(self, neighbour: _Next, wait: float) -> None:
        """Until it is resolved or given up, if the kernel is asking for it."""
        hop = neighbour.seen.hop
        self._changed(neighbour, self._netlink.neighbour(hop))  # to be asked for has no message
        end = time.monotonic() + wait
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        waited = False
        while neighbour.seen.state & NUD_INCOMPLETE and self._neighbours.get(hop) is neighbour:
            waited = True
            left = end - time.monotonic()
            if left <= 0 or not poll.poll(1000 * left):
                break
            self.follow()
        neighbour.in_vain = waited and not neighbour.mac

    def _raw(self, sock: socket.socket, to: bytes | None) -> Path:
        if sock.type != socket.SOCK_RAW:
            raise UnframedError("the packet socket is not of SOCK_RAW")
        if sock.getsockopt(_SOL_PACKET, _PACKET_VNET_HDR):
            raise UnframedError("the packet socket has PACKET_VNET_HDR")
        device = struct.unpack_from("=i", to, 4)[0] if to else _bound_device(sock)
        if device <= 0:
            return _failed(errno.ENXIO, "the packet socket is bound to no device")
        link = self._link(device)
        if link.type not in (_ARPHRD_ETHER, _ARPHRD_LOOPBACK):
            raise UnframedError(f"{link.name} is no Ethernet device")
        return Path(RAW, device=device, mtu=link.mtu, why="the data is the frame")


def _failed(code: int, why: str) -> Path:
    return Path(ERROR, error=code, why=why)


def _bound_device(sock: socket.socket) -> int:
    """Of a packet socket, in its network namespace; 0: none."""
    name = sock.getsockname()[0]
    if not name:
        return 0
    try:
        answer = fcntl.ioctl(sock, _SIOCGIFINDEX, struct.pack("16s24x", name.encode()))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        return 0
    index: int = struct.unpack_from("=i", answer, 16)[0]
    return index
