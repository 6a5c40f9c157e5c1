"""Steps of making a UdpSender: options are checked, a socket is opened, the compiled part is made."""

import socket

from uringzc import address
from uringzc._send import Arena, UdpBatcher
from uringzc.address import Address
from uringzc.engines.attached import MIN_ARENA
from uringzc.engines.base import Engine
from uringzc.engines.tables import MAX_PAYLOAD
from uringzc.kernel.features import max_segments
from uringzc.senders.sockets import check_udp, make_room, open_udp, room_for, set_sndbuf
from uringzc.senders.udp_slow_path import UdpSlowPath

#: bytes: immutable data of this size or more is held, not copied
HOLD_THRESHOLD = 16 << 10
ARENA = 4 << 20
MAX_INFLIGHT = 1024
#: requests of one submission: at least as many as a batch has trains
BATCH = 64


def check_options(max_delay: float | None, sndbuf: int | str | None, arena: int) -> None:
    """TypeError or ValueError for an option that cannot be."""
    if max_delay is not None and not isinstance(max_delay, (int, float)):
        raise TypeError(f"max_delay is seconds or None, not {max_delay!r}")
    if max_delay is not None and not 0 < max_delay <= 3600:
        raise ValueError(f"max_delay is seconds, more than 0 and at most 3600, or None; not {max_delay!r}")
    if not (sndbuf is None or sndbuf == "auto" or (isinstance(sndbuf, int) and 0 < sndbuf < 1 << 30)):
        raise ValueError(f"sndbuf is 'auto', None, or bytes from 1 to {(1 << 30) - 1}, not {sndbuf!r}")
    if not isinstance(arena, int) or not MIN_ARENA <= arena <= 1 << 30:
        raise ValueError(f"an arena is {MIN_ARENA} to {1 << 30} bytes, not {arena!r}")


def open_or_check(
    sock: socket.socket | None,
    remote: Address | None,
    bind: Address | None,
    family: int | None,
    ttl: int | None,
    interface: str | None,
) -> socket.socket:
    """A new socket if `sock` is None, else `sock`, if it can be sent through."""
    if sock is None:
        return open_udp(remote, bind, family, ttl, interface)
    if any(given is not None for given in (bind, family, ttl, interface)):
        raise ValueError("bind, family, ttl and interface are for a socket of the sender's own")
    check_udp(sock)
    return sock


def size_sndbuf(sock: socket.socket, sndbuf: int | str | None, arena: int, max_inflight: int) -> None:
    """Sets SO_SNDBUF as the option `sndbuf` says."""
    if sndbuf == "auto":
        make_room(sock, room_for(arena, max_inflight))
    elif sndbuf is not None:
        set_sndbuf(sock, int(sndbuf))


def make_batcher(
    engine: Engine,
    arena: Arena,
    slow_path: UdpSlowPath,
    *,
    own_socket: bool,
    blocking: bool,
    strict_order: bool,
    notify: bool,
    max_delay: float | None,
) -> UdpBatcher:
    """The compiled part."""
    return UdpBatcher(
        queue=engine.queue,
        arena=arena,
        sock=slow_path.sock,
        slow_path=slow_path,
        own_socket=own_socket,
        blocking=blocking,
        strict_order=strict_order,
        always_zero_copy=slow_path.mode == "always",
        notify=notify,
        max_payload=MAX_PAYLOAD[slow_path.family],
        hold_threshold=HOLD_THRESHOLD,
        min_zero_copy=engine.min_zero_copy,
        max_segments=max_segments(),
        max_inflight=engine.slots.max_inflight,
        max_delay=0 if max_delay is None else max(1, int(max_delay * 1e9)),
    )


def prepare_socket(
    engine: Engine,
    batcher: UdpBatcher,
    sock: socket.socket,
    remote: Address | None,
    own_socket: bool,
    own_engine: bool,
) -> None:
    """Sets the default destination; the engine registers a socket of the sender's own."""
    if own_socket:
        engine.own_socket(sock)
    connected = remote is None or own_socket
    batcher.set_default(b"" if connected else address.pack(int(sock.family), remote))
    if own_socket and own_engine:
        engine.register_socket(sock)
    if not batcher.blocking:
        batcher.open_epoll(engine.fileno())
