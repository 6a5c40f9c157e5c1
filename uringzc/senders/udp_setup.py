"""Making a UdpSender: options are checked, a socket is opened, and the parts are put together."""

import socket
from collections.abc import Callable

from uringzc import address
from uringzc._send import Arena, UdpBatcher
from uringzc.address import Address
from uringzc.engines.attached import MIN_ARENA
from uringzc.engines.base import Engine
from uringzc.engines.choose import choose
from uringzc.engines.tables import MAX_PAYLOAD
from uringzc.errors import SendError
from uringzc.kernel.features import max_segments
from uringzc.notif import COMPLETIONS, Notification, Notifier
from uringzc.scheduler import Scheduler
from uringzc.senders.policy import MODES
from uringzc.senders.sockets import check_udp, make_room, open_udp, room_for, set_sndbuf
from uringzc.senders.udp_slow_path import UdpSlowPath

#: bytes: immutable data of this size or more is held, not copied
HOLD_THRESHOLD = 16 << 10
ARENA = 4 << 20
MAX_INFLIGHT = 1024
#: requests of one submission: at least as many as a batch has trains
_BATCH = 64


def check_options(
    zero_copy: str,
    max_delay: float | None,
    on_error: Callable[[SendError], object] | None,
    notify: Callable[[Notification], object] | None,
    sndbuf: int | str | None,
    arena: int,
) -> None:
    """TypeError or ValueError for an option that cannot be."""
    if zero_copy not in MODES:
        raise ValueError(f"zero_copy is 'auto', 'always' or 'never', not {zero_copy!r}")
    if max_delay is not None and not isinstance(max_delay, (int, float)):
        raise TypeError(f"max_delay is seconds or None, not {max_delay!r}")
    if max_delay is not None and not 0 < max_delay <= 3600:
        raise ValueError(f"max_delay is seconds, more than 0 and at most 3600, or None; not {max_delay!r}")
    for name, callback in (("on_error", on_error), ("notify", notify)):
        if callback is not None and not callable(callback):
            raise TypeError(f"{name} is a function or None, not {callback!r}")
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


class UdpParts:
    """What a UdpSender is made of. Its methods are called once, in this order; if one fails, ``abort``."""

    engine: Engine
    own_engine: bool
    slow_path: UdpSlowPath
    arena: Arena
    batcher: UdpBatcher
    nothing_in_flight: Notifier  #: what flush() returns then

    def __init__(
        self, sock: socket.socket, own_socket: bool, blocking: bool, max_delay: float | None
    ) -> None:
        self.sock = sock
        self.own_socket = own_socket
        self.blocking = blocking
        self.max_delay = max_delay

    def get_engine(
        self, scheduler: Scheduler | None, name: str, max_inflight: int | None, debug: bool | None
    ) -> None:
        """The scheduler's, or one of the sender's own."""
        self.own_engine = scheduler is None
        if scheduler is not None:
            self.engine = scheduler._engine
            return
        most = MAX_INFLIGHT if max_inflight is None else max_inflight
        self.engine = choose(name, most, COMPLETIONS["none"], debug, _BATCH)
        self.engine.refuse.what = "UdpSender"

    def make_batcher(
        self,
        zero_copy: str,
        arena: int,
        sndbuf: int | str | None,
        strict_order: bool,
        on_error: Callable[[SendError], object] | None,
        notify: Callable[[Notification], object] | None,
    ) -> None:
        """The arena, the socket's buffer, and the compiled part with its slow path."""
        sock, engine, family = self.sock, self.engine, int(self.sock.family)
        max_inflight = engine.slots.max_inflight
        self.slow_path = UdpSlowPath(sock, family, self.own_socket, zero_copy, engine, on_error, notify)
        self.nothing_in_flight = Notifier(engine)
        self.arena = engine.make_arena(arena)
        if sndbuf == "auto":
            make_room(sock, room_for(arena, max_inflight))
        elif sndbuf is not None:
            set_sndbuf(sock, int(sndbuf))
        self.batcher = UdpBatcher(
            queue=engine.queue,
            arena=self.arena,
            sock=sock,
            slow_path=self.slow_path,
            own_socket=self.own_socket,
            blocking=self.blocking,
            strict_order=strict_order,
            always_zero_copy=zero_copy == "always",
            notify=notify is not None,
            max_payload=MAX_PAYLOAD[family],
            hold_threshold=HOLD_THRESHOLD,
            min_zero_copy=engine.min_zero_copy,
            max_segments=max_segments(),
            max_inflight=max_inflight,
            max_delay=0 if self.max_delay is None else max(1, int(self.max_delay * 1e9)),
        )

    def prepare_socket(self, remote: Address | None) -> None:
        """The engine gets a socket of the sender's own, the batcher its default destination."""
        to_peer = remote is None or self.own_socket  # which is connected
        if self.own_socket:
            self.engine.own_socket(self.sock)
        self.batcher.set_default(b"" if to_peer else address.pack(int(self.sock.family), remote))
        if self.own_socket and self.own_engine:
            self.engine.register_socket(self.sock)
        if not self.blocking:
            self.batcher.open_epoll(self.engine.fileno())

    def abort(self) -> None:
        """The constructor failed: ends what it has made."""
        engine: Engine | None = getattr(self, "engine", None)
        batcher: UdpBatcher | None = getattr(self, "batcher", None)
        if batcher is not None and engine is not None:
            batcher.close()
            engine.senders.detach(batcher)
        if engine is not None and self.own_engine:
            engine.close()
        self.close_socket()

    def close_socket(self) -> None:
        """One of the sender's own."""
        if self.own_socket:
            self.sock.close()
