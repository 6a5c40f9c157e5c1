"""What this kernel and process can do, found by asking the kernel, never guessed from its version."""

import errno
import os
import socket
from dataclasses import dataclass
from functools import lru_cache

from uringzc._uring import ffi, lib

UDP_SEGMENT = 103  # <linux/udp.h>


@dataclass(frozen=True)
class Features:
    """What io_uring offers here."""

    send_zc: bool  #: IORING_OP_SEND_ZC, Linux 6.0
    sendmsg_zc: bool  #: IORING_OP_SENDMSG_ZC, Linux 6.1
    report_usage: bool  #: notifications say whether the kernel copied, Linux 6.2
    fixed_message: bool  #: SENDMSG_ZC from registered memory, Linux 6.15


@lru_cache(maxsize=1)
def features() -> Features:
    """Asks once per process. OSError says why io_uring can not be used here, and what would change it."""
    out = ffi.new("uzc_features *")
    code = lib.uzc_probe(out)
    if code < 0:
        raise OSError(-code, f"io_uring can not be used: {_why(-code)}")
    return Features(
        send_zc=bool(out.send_zc),
        sendmsg_zc=bool(out.sendmsg_zc),
        report_usage=bool(out.report_usage),
        fixed_message=bool(out.fixed_message),
    )


@lru_cache(maxsize=1)
def most_segments() -> int:
    """How many datagrams a send with UDP_SEGMENT may become: 64 or 128, found by asking; 1 if there is none.

    Sends a few bytes to itself over loopback; where that is down, 64 is what every kernel takes.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1)
        except OSError:  # before Linux 4.18
            return 1
        try:
            sock.bind(("127.0.0.1", 0))
            sock.sendto(bytes(128), sock.getsockname())
        except OSError:
            return 64
    return 128


def _why(code: int) -> str:
    if code == errno.ENOSYS:
        return "the kernel has none, or a seccomp filter hides it (ENOSYS)"
    if code == errno.EPERM:
        try:
            with open("/proc/sys/kernel/io_uring_disabled") as file:
                disabled = file.read().strip()
        except OSError:
            disabled = "0"
        if disabled != "0":
            return f"`sysctl kernel.io_uring_disabled=0` would allow it, it is {disabled} (EPERM)"
        return "a seccomp filter or security module forbids it, as container profiles do (EPERM)"
    if code == errno.ENOMEM:
        return memlock_hint(0)
    return os.strerror(code)


def memlock_hint(need: int) -> str:
    """What to say when the kernel refused to lock memory: the limit, the need, and what raises it."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    limit = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft // 1024} KiB per user"
    wanted = f"{need // 1024} KiB are needed" if need else "more is needed"
    return (
        f"the limit for locked memory (RLIMIT_MEMLOCK) is {limit}, {wanted}; raise it with `ulimit -l`, "
        "LimitMEMLOCK= of a systemd unit, or /etc/security/limits.conf, or grant CAP_IPC_LOCK"
    )
