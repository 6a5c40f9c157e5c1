"""Addresses: parsed, packed, and cached.

An address is what ``socket.sendto`` takes, ``(host, port)`` or ``(host, port, flowinfo, scope_id)``; what the
kernel takes is a packed ``struct sockaddr``. Packed numeric hosts are cached; a name is resolved at each use,
since its address may change.
"""

import errno
import ipaddress
import socket
import struct
from contextlib import suppress
from functools import lru_cache
from typing import Any

Address = tuple[str, int] | tuple[str, int, int, int]


def pack(family: int, to: Any, *, names: bool = True) -> bytes:
    """`to` as a struct sockaddr for a socket of `family` (AF_INET, or AF_INET6: also for mapped IPv4).

    TypeError or ValueError for what is no address, socket.gaierror for a host that has none in the family.
    `names`: False refuses, with ValueError, a host that would have to be looked up.
    """
    if family not in (socket.AF_INET, socket.AF_INET6):
        raise OSError(errno.EAFNOSUPPORT, "`to` needs an IPv4 or IPv6 socket")
    _check_shape(to)
    if len(to) == 4 and family == socket.AF_INET:
        raise TypeError(f"an address of an IPv4 socket is (host, port), not {to!r}")
    host, port, *rest = to
    if not isinstance(host, str) or not all(type(number) is int for number in (port, *rest)):
        raise TypeError(f"an address is a str and ints, not {to!r}")
    if not 0 <= port <= 0xFFFF:
        raise ValueError(f"a port is 0 to 65535, not {port}")
    if rest and not (0 <= rest[0] <= 0xFFFFF and 0 <= rest[1] <= 0xFFFFFFFF):
        raise ValueError(f"flowinfo has 20 bits, scope_id 32: not {rest}")
    check_host(host)
    if host in ("", "<broadcast>"):  # as the socket module has them
        any_host = "0.0.0.0" if family == socket.AF_INET else "::"
        host = "255.255.255.255" if host else any_host
    try:
        return _pack_numeric(family, host, port, *rest)
    except socket.gaierror as error:
        if error.errno != socket.EAI_NONAME:
            raise
    if not names:
        raise ValueError(f"{host!r} is a name, and to look it up takes time: resolve() it first")
    try:
        return Resolved(_pack(family, 0, host, port, *rest))
    except socket.gaierror as error:
        raise no_host(host, error) from error


def _check_shape(to: Any) -> None:
    if not isinstance(to, (tuple, list)) or len(to) not in (2, 4):
        raise TypeError(f"an address is (host, port) or (host, port, flowinfo, scope_id), not {to!r}")


def check_host(host: str) -> None:
    """ValueError for one with a NUL, where getaddrinfo() would take the host to end: that is another host."""
    if "\0" in host:
        raise ValueError(f"a host has no NUL character: {host!r}")


def family_of(to: Any) -> int:
    """The address family of a socket that can send to `to`. Raises as pack() does."""
    _check_shape(to)
    host = to[0]
    if not isinstance(host, str):
        raise TypeError(f"an address is a str and ints, not {to!r}")
    check_host(host)
    if len(to) == 4:
        return socket.AF_INET6
    with suppress(ValueError):
        return socket.AF_INET6 if ipaddress.ip_address(host or "0.0.0.0").version == 6 else socket.AF_INET
    try:
        return socket.getaddrinfo(host, None, 0, socket.SOCK_DGRAM)[0][0]
    except socket.gaierror as error:
        raise no_host(host, error) from error


def no_host(host: str, error: socket.gaierror) -> socket.gaierror:
    """The error with the name of the host."""
    return socket.gaierror(error.errno, f"{host!r} is no host: {error.strerror}")


def unpack(packed: bytes) -> Address:
    """The address in a struct sockaddr."""
    if struct.unpack_from("=H", packed)[0] == socket.AF_INET:
        return socket.inet_ntoa(packed[4:8]), struct.unpack_from("!H", packed, 2)[0]
    port, flowinfo = struct.unpack_from("!HI", packed, 2)
    host = socket.inet_ntop(socket.AF_INET6, packed[8:24])
    return host, port, flowinfo, struct.unpack_from("=I", packed, 24)[0]


class Resolved(bytes):
    """The address of a name, which is not to be cached."""


def _pack(family: int, flags: int, host: str, port: int, flowinfo: int = 0, scope_id: int = 0) -> bytes:
    if family == socket.AF_INET6:
        flags |= socket.AI_V4MAPPED
    # bytes where they will do: a str is encoded by a codec that a process without privileges may not load
    name = host.encode() if host.isascii() else host
    found = socket.getaddrinfo(name, port, family, socket.SOCK_DGRAM, 0, flags)[0][4]
    head = struct.pack("=H", family) + struct.pack("!H", port)
    if family == socket.AF_INET:
        return head + socket.inet_aton(str(found[0])) + bytes(8)
    scope = scope_id or (found[3] if len(found) == 4 else 0)
    address = str(found[0]).partition("%")[0]
    return (
        head
        + struct.pack("!I", flowinfo)
        + socket.inet_pton(socket.AF_INET6, address)
        + struct.pack("=I", scope)
    )


@lru_cache(maxsize=4096)
def _pack_numeric(family: int, host: str, port: int, *rest: int) -> bytes:
    return _pack(family, socket.AI_NUMERICHOST, host, port, *rest)


def lacks_scope(to: Any) -> str:
    """The error text for a link-local IPv6 address without its interface; "" for any other address."""
    host, scope = to[0], to[3] if len(to) == 4 else 0
    with suppress(ValueError):
        parsed = ipaddress.IPv6Address(host)
        link = parsed.is_link_local or (parsed.is_multicast and parsed.packed[1] & 15 in (1, 2))
        if link and not scope and parsed.scope_id is None:
            return (
                f"{host} is a link-local address, which may be on any link: name the interface that it is "
                f"behind, as in {host}%{_interface()}"
            )
    return ""


def _interface() -> str:
    """The name of an interface that has a link-local address, as an example."""
    with suppress(OSError), open("/proc/thread-self/net/if_inet6") as table:
        for line in table:
            if line.startswith("fe80"):
                return line.split()[-1]
    return "eth0"


def joined(host: str, port: int) -> str:
    """HOST:PORT, with an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_own(host: str) -> bool:
    """Whether a numeric address is one of this machine: a socket can be bound to it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        return True
    return False
