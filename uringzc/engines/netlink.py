"""What the kernel knows of the way to an address, over rtnetlink: routes, devices, neighbours, their changes.

Answers are decoded by pyroute2's message classes, over sockets of our own: its IPRoute runs an event loop,
which cannot be done inside another one.
"""

import errno
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from enum import Enum
from typing import Any, NamedTuple

from uringzc.kernel import rtnetlink
from uringzc.kernel.rtnetlink import GETROUTE, RECEIVE, Message, Question, RefusedError, attribute

# rtnetlink(7)
_NEWLINK, _GETLINK = 16, 18
_NEWROUTE = 24
_NEWNEIGH, _DELNEIGH, _GETNEIGH = 28, 29, 30
_GETMULTICAST, _MEMBERSHIP_CHANGES = 58, (56, 57)
_NLM_F_DUMP = 0x300
_NDA_DST, _IFA_MULTICAST = 1, 7
_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP = 270, 1
#: links, neighbours; addresses, routes and rules of IPv4 and IPv6; what routers say of links; nexthop objects
_GROUPS = (1, 3, 5, 7, 8, 9, 11, 12, 19, 32)
_MEMBERSHIP_GROUPS = (37, 38)  # RTNLGRP_IPV4_MCADDR, RTNLGRP_IPV6_MCADDR: Linux 6.15
_IFF_UP, _IFF_LOOPBACK, _IFF_MULTICAST = 0x1, 0x8, 0x1000

NUD_INCOMPLETE, NUD_STALE = 0x01, 0x04
NUD_VALID = 0xDE  # PERMANENT, NOARP, REACHABLE, STALE, DELAY, PROBE
Hop = tuple[int, int, bytes]  #: device, family and address of a neighbour


class UnframedError(Exception):
    """Such datagrams leave through the socket; the text says why, as part of a sentence."""


class Route(NamedTuple):
    """How the kernel would send now."""

    type: int  #: RTN_*
    flags: int  #: RTCF_*
    device: int
    gateway: tuple[int, bytes] | None  #: its family and address
    source: bytes  #: the address that it prefers
    mtu: int  #: of the route or of a PMTU exception; 0: the device's
    locked: bool  #: the MTU is not to be found by DF
    hop_limit: int  #: 0: the socket's
    encapsulated: bool


class Link(NamedTuple):
    """A device."""

    name: str
    type: int  #: ARPHRD_*
    flags: int  #: IFF_*
    mac: bytes
    mtu: int
    mtu6: int  #: for IPv6
    hop_limit6: int

    @property
    def sends_multicast(self) -> bool:
        """It is up, sends multicast, and is not loopback."""
        return self.flags & (_IFF_UP | _IFF_LOOPBACK | _IFF_MULTICAST) == _IFF_UP | _IFF_MULTICAST


class Neighbour(NamedTuple):
    """An entry of the ARP or ND table."""

    hop: Hop
    state: int  #: NUD_*; 0: there is none
    mac: bytes


class Change(Enum):
    """What is not one neighbour's."""

    ANY = 0  #: a link, an address, a route, a rule; or messages were lost
    MEMBERSHIPS = 1  #: of multicast groups


class Netlink:
    """Two sockets, one for requests and one for changes.

    OSError, ModuleNotFoundError without pyroute2. Requests raise RefusedError.
    """

    def __init__(self) -> None:
        try:
            from pyroute2.netlink.exceptions import NetlinkDecodeError
            from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
            from pyroute2.netlink.rtnl.ndmsg import ndmsg
            from pyroute2.netlink.rtnl.rtmsg import rtmsg
        except ModuleNotFoundError as error:
            text = "packet rings need pyroute2: pip install 'uringzc[packet]'"
            raise ModuleNotFoundError(text, name=error.name) from None
        self._classes = {_NEWLINK: ifinfmsg, _NEWROUTE: rtmsg, _NEWNEIGH: ndmsg, _DELNEIGH: ndmsg}
        self._decode_error = NetlinkDecodeError
        self.requests = 0  #: how many were made
        self._asking = rtnetlink.open_socket()
        try:
            self._changes = rtnetlink.open_socket()
        except OSError:
            self._asking.close()
            raise
        try:
            for group in _GROUPS:
                self._changes.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
            for group in _MEMBERSHIP_GROUPS:
                with suppress(OSError):
                    self._changes.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
        except OSError:
            self.close()
            raise

    def fileno(self) -> int:
        """Readable while changes wait."""
        return self._changes.fileno()

    def close(self) -> None:
        """Closes both sockets."""
        self._asking.close()
        self._changes.close()

    def namespace(self) -> bytes:
        """SO_NETNS_COOKIE of the sockets, b"" before Linux 5.14."""
        return rtnetlink.namespace(self._asking)

    def route(self, question: Question) -> Route:
        """`ip route get`. The error is what a socket's send would get."""
        (answer,) = self._request(GETROUTE, rtnetlink.route_request(question))
        metrics = answer.get_attr("RTA_METRICS")
        metric = metrics.get_attr if metrics else lambda name: 0
        source = answer.get_attr("RTA_PREFSRC")
        return Route(
            type=answer["type"],
            flags=answer["flags"],
            device=answer.get_attr("RTA_OIF") or 0,
            gateway=_gateway(answer),
            source=socket.inet_pton(question.family, source) if source else b"",
            mtu=metric("RTAX_MTU") or 0,
            locked=bool((metric("RTAX_LOCK") or 0) & 1 << 2),
            hop_limit=metric("RTAX_HOPLIMIT") or 0,
            encapsulated=answer.get_attr("RTA_ENCAP_TYPE") is not None,
        )

    def link(self, device: int) -> Link:
        """The device with this index."""
        (answer,) = self._request(_GETLINK, struct.pack("=BxHiII", 0, 0, device, 0, 0))
        return _link(answer)

    def links(self) -> dict[int, Link]:
        """All devices, by index."""
        answers = self._request(_GETLINK, bytes(16), _NLM_F_DUMP)
        return {answer["index"]: _link(answer) for answer in answers}

    def neighbour(self, hop: Hop) -> Neighbour:
        """The entry for `hop`."""
        device, family, address = hop
        try:
            body = struct.pack("=B3xiHBB", family, device, 0, 0, 0)
            (answer,) = self._request(_GETNEIGH, body + attribute(_NDA_DST, address))
        except RefusedError as error:
            if error.code != errno.ENOENT:
                raise
            return Neighbour(hop, 0, b"")
        return _neighbour(answer)

    def memberships6(self) -> set[tuple[int, bytes]]:
        """The IPv6 multicast groups that this machine receives: device, group."""
        found = set()
        for answer in self._answers(
            _GETMULTICAST, _NLM_F_DUMP, struct.pack("=4Bi", socket.AF_INET6, 0, 0, 0, 0)
        ):
            (device,) = struct.unpack_from("=i", answer.data, answer.start + 20)
            # after a struct ifaddrmsg, of which pyroute2 knows no such message
            for kind, group in rtnetlink.attributes(answer, 8):
                if kind == _IFA_MULTICAST:
                    found.add((device, group))
        return found

    def changes(self) -> Iterator[Neighbour | Change]:
        """The changes that wait."""
        while True:
            try:
                data = self._changes.recv(RECEIVE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                yield Change.ANY
                continue
            for message in rtnetlink.messages(data):
                if message.kind not in (_NEWNEIGH, _DELNEIGH):
                    yield Change.MEMBERSHIPS if message.kind in _MEMBERSHIP_CHANGES else Change.ANY
                elif data[message.start + 16] in (socket.AF_INET, socket.AF_INET6):  # not of a bridge
                    found = _neighbour(self._decode(message))
                    yield found if message.kind == _NEWNEIGH else found._replace(state=0, mac=b"")

    def _request(self, kind: int, body: bytes, flags: int = 0) -> list[Any]:
        """The answers, decoded."""
        return [self._decode(answer) for answer in self._answers(kind, flags, body)]

    def _answers(self, kind: int, flags: int, body: bytes) -> list[Message]:
        self.requests += 1
        return rtnetlink.answers(self._asking, self.requests & 0xFFFFFFFF, kind, body, flags)

    def _decode(self, message: Message) -> Any:
        decoded = self._classes[message.kind](message.data, offset=message.start)
        try:
            decoded.decode()
        except self._decode_error as error:
            raise UnframedError(f"pyroute2 cannot decode the kernel's answer: {error}") from error
        return decoded


def _gateway(route: Any) -> tuple[int, bytes] | None:
    if via := route.get_attr("RTA_VIA"):
        return via["family"], socket.inet_pton(via["family"], via["addr"])
    if gateway := route.get_attr("RTA_GATEWAY"):
        return route["family"], socket.inet_pton(route["family"], gateway)
    return None


def _link(link: Any) -> Link:
    mtu = link.get_attr("IFLA_MTU")
    about = link.get_attr("IFLA_AF_SPEC")
    about6 = about and about.get_attr("AF_INET6")
    conf6 = (about6 and about6.get_attr("IFLA_INET6_CONF")) or {"mtu": mtu, "hop_limit": 0}
    return Link(
        name=link.get_attr("IFLA_IFNAME"),
        type=link["ifi_type"],
        flags=link["flags"],
        mac=_mac(link.get_attr("IFLA_ADDRESS")),
        mtu=mtu,
        mtu6=conf6["mtu"],
        hop_limit6=conf6["hop_limit"],
    )


def _neighbour(entry: Any) -> Neighbour:
    family = entry["family"]
    hop = (entry["ifindex"], family, socket.inet_pton(family, entry.get_attr("NDA_DST")))
    return Neighbour(hop, entry["state"], _mac(entry.get_attr("NDA_LLADDR")))


def _mac(text: str | None) -> bytes:
    return bytes.fromhex(text.replace(":", "")) if text else b""
