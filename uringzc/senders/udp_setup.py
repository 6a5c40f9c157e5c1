"""The options of a UdpSender: their defaults and limits."""

import socket

from uringzc.engines.attached import MIN_ARENA
from uringzc.engines.contract import KernelInterface
from uringzc.senders.sockets import make_room, room_for, set_sndbuf

#: bytes: immutable data of this size or more is held, not copied
HOLD_THRESHOLD = 16 << 10
ARENA = 4 << 20
MAX_INFLIGHT = 1024
#: requests of one submission: at least BATCH_SIZE of _native/udp/batcher.h
BATCH = 64


def check_udp_options(
    max_delay: float | None, sndbuf: int | str | None, arena: int, qdisc_bypass: bool
) -> None:
    """TypeError or ValueError for an option that cannot be."""
    if max_delay is not None and not isinstance(max_delay, (int, float)):
        raise TypeError(f"max_delay is seconds or None, not {max_delay!r}")
    if max_delay is not None and not 0 <= max_delay <= 3600:
        raise ValueError(f"max_delay is seconds, from 0 to 3600, or None; not {max_delay!r}")
    if not (sndbuf is None or sndbuf == "auto" or (isinstance(sndbuf, int) and 0 < sndbuf < 1 << 30)):
        raise ValueError(f"sndbuf is 'auto', None, or bytes from 1 to {(1 << 30) - 1}, not {sndbuf!r}")
    if not isinstance(arena, int) or not MIN_ARENA <= arena <= 1 << 30:
        raise ValueError(f"an arena is {MIN_ARENA} to {1 << 30} bytes, not {arena!r}")
    if not isinstance(qdisc_bypass, bool):
        raise TypeError(f"qdisc_bypass is a bool, not {qdisc_bypass!r}")


def check_timestamps(wanted: bool, engine: KernelInterface) -> None:
    """ValueError where they are wanted, and the engine cannot have any."""
    if wanted and engine.sends_frames:
        raise ValueError(
            f"on_timestamp: {engine.name} frames carry no transmit timestamps; use engine='io_uring'"
        )


def size_sndbuf(sock: socket.socket, sndbuf: int | str | None, arena: int, max_inflight: int) -> None:
    """Sets SO_SNDBUF as the option `sndbuf` says."""
    if sndbuf == "auto":
        make_room(sock, room_for(arena, max_inflight))
    elif sndbuf is not None:
        set_sndbuf(sock, int(sndbuf))
