"""What this kernel can do, found by trying, never guessed from its version."""

import errno
import os
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

from uringzc._uring import ffi, lib
from uringzc.kernel.reasons import Reason, no_ring, refusal
from uringzc.records import explained

UDP_SEGMENT = 103  # <linux/udp.h>
SO_ZEROCOPY, SO_MEMINFO = 60, 55  # <asm-generic/socket.h>
MSG_ZEROCOPY = 0x4000000
_OPTMEM = struct.Struct("24x I")  # SK_MEMINFO_OPTMEM of what SO_MEMINFO tells
_ENOTSUPP = 524  # of the kernel alone: errno.h does not have it


@dataclass(frozen=True)
@explained
class Features:
    """Zero-copy sends over io_uring: what this kernel has."""

    send_zc: Annotated[bool, "IORING_OP_SEND_ZC, Linux 6.0"]
    sendmsg_zc: Annotated[bool, "IORING_OP_SENDMSG_ZC, Linux 6.1"]
    report_usage: Annotated[bool, "notifications say whether the kernel copied, Linux 6.2"]
    fixed_message: Annotated[bool, "SENDMSG_ZC from registered memory, Linux 6.15"]


@lru_cache(maxsize=1)
def features() -> Features:
    """Probed once per process. OSError says why io_uring cannot be used here, and what would change it."""
    out = ffi.new("uzc_features *")
    code = lib.uzc_probe(out)
    if code < 0:
        raise no_ring(-code)
    return Features(**{name: bool(getattr(out, name)) for name in Features.__annotations__})


@lru_cache(maxsize=1)
def max_segments() -> int:
    """The most datagrams of one send with UDP_SEGMENT: 64 or 128; 1 where there is no UDP_SEGMENT.

    Probed once per process, with a send over loopback; where that is down, 64, which every kernel takes.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1)
        except OSError:  # before Linux 4.18
            return 1
        try:
            sock.setblocking(False)  # an event loop may be running
            sock.bind(("127.0.0.1", 0))
            sock.sendto(bytes(128), sock.getsockname())
        except OSError:
            return 64
    return 128


@lru_cache(maxsize=1)
def notification_size() -> int:
    """Bytes of net.core.optmem_max that a notification of MSG_ZEROCOPY takes; 768 to 960 were seen.

    Probed once per process, by a send over loopback whose notification is not read; where that is down, 832.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
        sock.setblocking(False)  # an event loop may be running
        sock.bind(("127.0.0.1", 0))
        sock.sendto(b"x", MSG_ZEROCOPY, sock.getsockname())
        (size,) = _OPTMEM.unpack(sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, _OPTMEM.size))
        return int(size) or 832
    return 832


def require_zerocopy() -> None:
    """OSError where neither UDP (Linux 5.0) nor TCP (4.14) has SO_ZEROCOPY."""
    refused = 0
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_INET, kind) as sock:
            try:
                sock.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
                return
            except OSError as error:
                refused = error.errno or errno.EIO
    code = errno.EOPNOTSUPP if refused == _ENOTSUPP else refused
    text = f"MSG_ZEROCOPY cannot be used: sockets have no SO_ZEROCOPY here ({os.strerror(code)})"
    raise refusal(code, Reason("so_zerocopy", text, "run Linux 5.0 or later, where nothing filters it"))
