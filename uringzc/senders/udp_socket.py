"""The socket of a UdpSender: opened with the options of the program, or the program's own, checked."""

import errno
import ipaddress
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass

from uringzc import address
from uringzc.address import Address
from uringzc.engines.tables import require_socket
from uringzc.kernel.features import UDP_SEGMENT
from uringzc.senders.sockets import RECVERR

FAMILIES = (socket.AF_INET, socket.AF_INET6)
_NAME_SIZE = 16  # IFNAMSIZ: bytes of a device's name, with the 0 at its end


@dataclass(frozen=True)
class SocketOptions:
    """Options of a socket that the sender opens: see UdpSender. None leaves what the system has."""

    bind: Address | None = None
    family: int | None = None
    ttl: int | None = None
    interface: str | None = None
    tos: int | None = None
    priority: int | None = None
    multicast_loop: bool | None = None
    device: str | None = None

    def refuse_with_sock(self) -> None:
        """ValueError if one is given: for the program's own socket."""
        if any(option is not None for option in vars(self).values()):
            *names, last = vars(self)
            raise ValueError(f"{', '.join(names)} and {last} are for a socket of the sender's own")


def open_udp(remote: Address | None, options: SocketOptions) -> socket.socket:
    """A socket of the sender's own: bound and connected as asked.

    IP_RECVERR is set, so that ENOBUFS reports a full qdisc, which drops in silence otherwise.
    """
    family = options.family
    if family is None:
        to = remote or options.bind
        family = address.family_of(to) if to else socket.AF_INET
    if family not in FAMILIES:
        raise ValueError(f"family is AF_INET or AF_INET6, not {family!r}")
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setsockopt(*RECVERR[socket.AddressFamily(family)], 1)
        _set_options(sock, family == socket.AF_INET6, options)
        for connects, to in ((False, options.bind), (True, remote)):
            if to is not None:  # with the scope id of a host like ``fe80::1%eth0``, which both calls drop
                _attach(sock, address.unpack(address.pack(family, to)), connects)
    except BaseException:
        sock.close()
        raise
    return sock


def check_udp(sock: socket.socket) -> socket.socket:
    """Returns an existing socket if it can be sent through. TypeError, ValueError, or OSError EBADF."""
    require_socket(sock)
    if sock.fileno() < 0:
        raise OSError(errno.EBADF, "the socket is closed")
    if sock.family not in FAMILIES or sock.type != socket.SOCK_DGRAM:
        raise ValueError(f"a UdpSender sends through an IPv4 or IPv6 UDP socket, not {sock!r}")
    with suppress(OSError):  # a kernel without the option
        if sock.getsockopt(socket.IPPROTO_UDP, UDP_SEGMENT):
            raise ValueError("the socket has UDP_SEGMENT set, which would cut up datagrams: set it to 0")
    return sock


def _attach(sock: socket.socket, to: Address, connects: bool) -> None:
    """Binds or connects a socket, and says what an error means."""
    try:
        (sock.connect if connects else sock.bind)(to)
    except OSError as error:
        if error.errno == errno.EINVAL and (text := address.lacks_scope(to)):
            raise OSError(errno.EINVAL, text) from error
        if not connects or error.errno != errno.EACCES or len(to) == 4:
            raise
        text = f"{to[0]} is a broadcast address: give a `sock` that has SO_BROADCAST set"
        raise OSError(errno.EACCES, text) from error


def _set_options(sock: socket.socket, six: bool, options: SocketOptions) -> None:
    """The device first, since unprivileged processes may set it once; IP_TOS sets a priority too."""
    if options.device is not None:
        _bind_to_device(sock, options.device)
    if options.ttl is not None:
        _set_ttl(sock, six, options.ttl)
    if options.interface is not None:
        _set_multicast_interface(sock, six, options.interface)
    if options.tos is not None:
        _set_tos(sock, six, options.tos)
    if options.priority is not None:
        _set_priority(sock, options.priority)
    if options.multicast_loop is not None:
        _set_multicast_loop(sock, six, options.multicast_loop)


def _bind_to_device(sock: socket.socket, device: str) -> None:
    if not isinstance(device, str):
        raise TypeError(f"device is the name of a network device, not {device!r}")
    name = device.encode()
    if not 0 < len(name) < _NAME_SIZE or b"\0" in name:
        raise ValueError(f"the name of a network device has 1 to {_NAME_SIZE - 1} bytes, not {device!r}")
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name)
    except PermissionError as error:
        text = f"to send by the device {device!r} alone needs CAP_NET_RAW before Linux 5.7"
        raise PermissionError(error.errno, text) from None
    except OSError as error:
        raise OSError(error.errno, f"no device {device!r}: {error.strerror}") from None


def _set_ttl(sock: socket.socket, six: bool, ttl: int) -> None:
    if not isinstance(ttl, int) or not 0 <= ttl <= 255:
        raise ValueError(f"ttl is 0 to 255, not {ttl!r}")
    if six:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, ttl)
        return
    if ttl:  # the kernel refuses 0 for unicast
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)


def _set_multicast_interface(sock: socket.socket, six: bool, interface: str) -> None:
    """Multicast is sent by the interface of that name or address."""
    try:
        at = ipaddress.ip_address(interface)
    except ValueError:
        at = None
    if at is not None and at.version == 4 and not six:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, at.packed)
        return
    if at is not None:
        raise ValueError(
            f"the interface of an IPv{6 if six else 4} sender is a name{'' if six else ' or its address'}"
        )
    index = _index_of(sock, interface)
    if six:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    else:
        mreqn = struct.pack("=4s4si", bytes(4), bytes(4), index)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, mreqn)


def _index_of(sock: socket.socket, name: str) -> int:
    """In the network namespace of the socket, which need not be that of this thread."""
    import fcntl

    if not isinstance(name, str):
        raise TypeError(f"interface is the name or the address of one, not {name!r}")
    if "\0" in name or len(name.encode()) >= _NAME_SIZE:  # of which the kernel would take the beginning
        raise OSError(errno.ENODEV, f"no interface {name!r}: a name has 1 to {_NAME_SIZE - 1} bytes")
    try:
        found = fcntl.ioctl(sock, 0x8933, struct.pack("=16sI12x", name.encode(), 0))  # SIOCGIFINDEX
    except OSError as error:
        raise OSError(error.errno, f"no interface {name!r}: {error.strerror}") from None
    return int(struct.unpack_from("=I", found, 16)[0])


def _set_tos(sock: socket.socket, six: bool, tos: int) -> None:
    _require_int("tos", tos, 255)
    if six:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)  # of ::ffff:192.0.2.1 too


def _set_priority(sock: socket.socket, priority: int) -> None:
    _require_int("priority", priority, (1 << 31) - 1)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, priority)
    except PermissionError as error:
        text = f"priority {priority}: above 6 needs CAP_NET_ADMIN (SO_PRIORITY)"
        raise PermissionError(error.errno, text) from None


def _set_multicast_loop(sock: socket.socket, six: bool, loop: bool) -> None:
    if not isinstance(loop, bool):
        raise TypeError(f"multicast_loop is a bool, not {loop!r}")
    if six:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, loop)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, loop)


def _require_int(name: str, value: int, maximum: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is an int, not {value!r}")
    if not 0 <= value <= maximum:
        raise ValueError(f"{name} is 0 to {maximum}, not {value}")
