"""Making a datagram endpoint: its socket, and the transport on it."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any, NamedTuple, TypeVar

from uringzc.address import check_host
from uringzc.aio.shared import Shared
from uringzc.aio.transport import DatagramTransport

P = TypeVar("P", bound=asyncio.BaseProtocol)
Endpoint = tuple[asyncio.DatagramTransport, Any]
log = logging.getLogger("uringzc")


class Options(NamedTuple):
    """The options of create_datagram_endpoint() that are about a new socket."""

    local_addr: Any = None
    remote_addr: Any = None
    family: int = 0
    proto: int = 0
    flags: int = 0
    reuse_port: bool | None = None
    allow_broadcast: bool | None = None

    def refuse_with_sock(self) -> None:
        """ValueError if one is set."""
        given = ", ".join(f"{name}={value}" for name, value in self._asdict().items() if value)
        if given:
            raise ValueError(
                f"socket modifier keyword arguments can not be used when sock is specified. ({given})"
            )


async def create_datagram_endpoint(
    protocol_factory: Callable[[], P],
    local_addr: Any = None,
    remote_addr: Any = None,
    *,
    family: int = 0,
    proto: int = 0,
    flags: int = 0,
    reuse_port: bool | None = None,
    allow_broadcast: bool | None = None,
    sock: socket.socket | None = None,
) -> tuple[asyncio.DatagramTransport, P]:
    """``loop.create_datagram_endpoint`` with a ``DatagramTransport``, on whatever loop is running.

    The loop must have ``add_reader``. Where the transport cannot serve (AF_UNIX, or where no engine can be
    made) it is the loop's own, and the log says so once.
    """
    loop = asyncio.get_running_loop()
    options = Options(local_addr, remote_addr, family, proto, flags, reuse_port, allow_broadcast)
    return await _create(loop, loop.create_datagram_endpoint, protocol_factory, options, sock)


async def create_with(
    loop: asyncio.AbstractEventLoop,
    stock: Callable[..., Awaitable[Endpoint]],
    protocol_factory: Callable[[], Any],
    local_addr: Any = None,
    remote_addr: Any = None,
    *,
    sock: socket.socket | None = None,
    **options: Any,
) -> Endpoint:
    """The method of a loop. `stock`: that of the class that it is mixed into."""
    unknown = sorted(options.keys() - set(Options._fields))  # as reuse_address, which uvloop still takes
    if unknown:
        _tell_once(f"the option {', '.join(unknown)}")
        return await stock(protocol_factory, local_addr, remote_addr, sock=sock, **options)
    return await _create(loop, stock, protocol_factory, Options(local_addr, remote_addr, **options), sock)


async def _create(
    loop: asyncio.AbstractEventLoop,
    stock: Callable[..., Awaitable[Endpoint]],
    protocol_factory: Callable[[], Any],
    options: Options,
    sock: socket.socket | None,
) -> Endpoint:
    if sock is not None:
        if sock.type == socket.SOCK_STREAM:
            return await stock(protocol_factory, sock=sock)  # which refuses it
        options.refuse_with_sock()
    why = _why_stock(loop, options, sock)
    if why:
        _tell_once(why)
        return await stock(protocol_factory, **options._asdict(), sock=sock)
    try:
        return await _make(loop, protocol_factory, options, sock)
    except BaseException:
        Shared.of(loop).end_if_unused()
        raise


async def _make(
    loop: asyncio.AbstractEventLoop,
    protocol_factory: Callable[[], Any],
    options: Options,
    sock: socket.socket | None,
) -> Endpoint:
    if sock is None:
        own, remote = await _open(loop, options)
    else:
        sock.setblocking(False)
        own, remote = sock, None
    ready = loop.create_future()
    try:
        protocol = protocol_factory()
        transport = DatagramTransport(loop, own, protocol, remote, ready)
    except BaseException:
        if sock is None:
            own.close()
        raise
    try:
        await ready
    except BaseException:
        transport.close()
        raise
    return transport, protocol


def _why_stock(loop: asyncio.AbstractEventLoop, options: Options, sock: socket.socket | None) -> str:
    """Why a DatagramTransport cannot serve; "" if it can."""
    family, proto = (options.family, options.proto) if sock is None else (sock.family, sock.proto)
    if family not in (0, socket.AF_INET, socket.AF_INET6):
        return f"the address family {family!r}"
    if proto not in (0, socket.IPPROTO_UDP) or (sock is not None and sock.type != socket.SOCK_DGRAM):
        return f"sockets like {sock!r}" if sock is not None else f"the protocol {proto}"
    try:
        Shared.of(loop).scheduler()
    except OSError as error:
        return f"a process that can make no engine ({error})"
    return ""


@cache
def _tell_once(why: str) -> None:
    log.warning("datagram endpoints for %s are the event loop's own, not uringzc's", why)


# -- sockets


async def _open(loop: asyncio.AbstractEventLoop, options: Options) -> tuple[socket.socket, Any]:
    """A socket of the first pair of addresses that works, and its remote address, or None.

    It is connected there, but where broadcast is allowed.
    """
    errors: list[OSError] = []
    for family, proto, local, remote in await _pairs(loop, options):
        sock = None
        try:
            sock = socket.socket(family, socket.SOCK_DGRAM, proto)
            _prepare(sock, options)
            if local is not None:
                sock.bind(local)
            if remote is not None and not options.allow_broadcast:
                await loop.sock_connect(sock, remote)
            return sock, remote
        except BaseException as error:
            if sock is not None:
                sock.close()
            if not isinstance(error, OSError):
                raise
            errors.append(error)
    raise errors[0]


def _prepare(sock: socket.socket, options: Options) -> None:
    sock.setblocking(False)
    if options.reuse_port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if options.allow_broadcast:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)


async def _pairs(loop: asyncio.AbstractEventLoop, options: Options) -> list[tuple[int, int, Any, Any]]:
    """Family, protocol, local and remote address, in the order in which they are to be tried."""
    local, remote = options.local_addr, options.remote_addr
    if not local and not remote:
        if not options.family:
            raise ValueError("unexpected address family")
        return [(options.family, options.proto, None, None)]
    locals_ = await _resolve(loop, local, options)
    remotes = await _resolve(loop, remote, options)
    pairs = [
        (*key, locals_.get(key), remotes.get(key))
        for key in dict.fromkeys([*locals_, *remotes])
        if (not local or key in locals_) and (not remote or key in remotes)
    ]
    if not pairs:
        raise ValueError("can not get address information")
    return pairs


async def _resolve(
    loop: asyncio.AbstractEventLoop, addr: Any, options: Options
) -> dict[tuple[int, int], Any]:
    """An address for each family and protocol that the name has."""
    if addr is None:
        return {}
    if not (isinstance(addr, tuple) and len(addr) == 2):
        raise TypeError("2-tuple is expected")
    host, port = addr
    if isinstance(host, str):
        check_host(host)
    if isinstance(port, int) and not 0 <= port <= 0xFFFF:
        raise OverflowError(f"port must be 0-65535, not {port}")  # getaddrinfo() would take it modulo 65536
    family, proto, flags = options.family, options.proto, options.flags
    try:  # what is no name needs no thread
        found = socket.getaddrinfo(
            host, port, family, socket.SOCK_DGRAM, proto, flags | socket.AI_NUMERICHOST
        )
    except OSError:
        found = await loop.getaddrinfo(
            host, port, family=family, type=socket.SOCK_DGRAM, proto=proto, flags=flags
        )
    if not found:
        raise OSError("getaddrinfo() returned empty list")
    return {(int(each[0]), each[2]): each[4] for each in found}
