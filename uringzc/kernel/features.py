"""What this kernel and process can do, found by asking the kernel, never guessed from its version."""

import errno
import os
import resource
import socket
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from uringzc._uring import ffi, lib
from uringzc.records import explained

UDP_SEGMENT = 103  # <linux/udp.h>
SO_ZEROCOPY = 60  # <asm-generic/socket.h>
_ENOTSUPP = 524  # the kernel's own, which user space has no name for
_CAP_IPC_LOCK, _CAP_SYS_ADMIN = 14, 21
_PROC = Path("/proc")


@dataclass(frozen=True)
@explained
class Reason:
    """Why something better is not to be had here."""

    name: Annotated[str, "one word for programs: it stays as it is"]
    text: Annotated[str, "a sentence for people"]
    fix: Annotated[str, 'the command or setting that would change it, "" if none would']

    def __str__(self) -> str:
        return f"{self.text}; {self.fix}" if self.fix else self.text


def refusal(code: int, reason: Reason) -> OSError:
    """The OSError that says `reason`, and carries it for ``reason_of``."""
    error = OSError(code, str(reason))
    vars(error)["reason"] = reason
    return error


def reason_of(error: OSError) -> Reason:
    """What was refused with ``refusal``; "error" for any other."""
    reason = vars(error).get("reason")
    return reason if isinstance(reason, Reason) else Reason("error", error.strerror or str(error), "")


@dataclass(frozen=True)
@explained
class Features:
    """What io_uring offers here."""

    send_zc: Annotated[bool, "IORING_OP_SEND_ZC, Linux 6.0"]
    sendmsg_zc: Annotated[bool, "IORING_OP_SENDMSG_ZC, Linux 6.1"]
    report_usage: Annotated[bool, "notifications say whether the kernel copied, Linux 6.2"]
    fixed_message: Annotated[bool, "SENDMSG_ZC from registered memory, Linux 6.15"]


@lru_cache(maxsize=1)
def features() -> Features:
    """Asks once per process. OSError says why io_uring can not be used here, and what would change it."""
    out = ffi.new("uzc_features *")
    code = lib.uzc_probe(out)
    if code < 0:
        raise no_ring(-code)
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
    text = f"MSG_ZEROCOPY can not be used: sockets have no SO_ZEROCOPY here ({os.strerror(code)})"
    raise refusal(code, Reason("so_zerocopy", text, "run Linux 5.0 or later, where nothing filters it"))


# -- why there is no ring


def no_ring(code: int, what: str = "io_uring can not be used") -> OSError:
    """What io_uring_setup's errno means in this process. `what` begins the text of a lack of memory."""
    if code == errno.ENOSYS:
        reason = _missing()
    elif code in (errno.EPERM, errno.EACCES):
        reason = _forbidden(code)
    elif code == errno.ENOMEM:
        reason = Reason("memlock", f"{what}: {_memlock_text(0)}", MEMLOCK_FIX)
    else:
        text = f"io_uring can not be used: io_uring_setup: {os.strerror(code)}"
        reason = Reason("io_uring", text, "")
    return refusal(code, reason)


def _missing() -> Reason:
    filtered = status("Seccomp") == "2"
    if filtered and sysctl("kernel.io_uring_disabled") is not None:
        why, fix = "a seccomp filter hides it (ENOSYS)", SECCOMP_FIX
    elif filtered:
        why = "a seccomp filter hides it, or the kernel has none (ENOSYS)"
        fix = f"{SECCOMP_FIX}, on Linux 6.0 or later with CONFIG_IO_URING"
    else:
        why, fix = "the kernel has none (ENOSYS)", "run Linux 6.0 or later, with CONFIG_IO_URING"
    return Reason("seccomp_enosys" if filtered else "enosys", f"io_uring can not be used: {why}", fix)


def _forbidden(code: int) -> Reason:
    disabled = sysctl("kernel.io_uring_disabled")  # Linux 6.6
    if code == errno.EPERM and disabled == 2:
        text = "io_uring is switched off: kernel.io_uring_disabled is 2"
        return Reason("io_uring_disabled", text, "sysctl kernel.io_uring_disabled=0")
    group = sysctl("kernel.io_uring_group")
    member = group in (*os.getgroups(), os.getegid())
    if code == errno.EPERM and disabled == 1 and not member and not capable(_CAP_SYS_ADMIN):
        text = (
            "io_uring is for privileged processes only: kernel.io_uring_disabled is 1, and this one has no "
            f"CAP_SYS_ADMIN and is not in the group kernel.io_uring_group ({group})"
        )
        fix = "sysctl kernel.io_uring_disabled=0, or kernel.io_uring_group=GID with a group of this user"
        return Reason("io_uring_group", text, fix)
    name = errno.errorcode[code]
    if code == errno.EPERM and status("Seccomp") == "2":
        text = f"io_uring can not be used: a seccomp filter forbids it, as container profiles do ({name})"
        return Reason("seccomp_eperm", text, SECCOMP_FIX)
    text = f"io_uring can not be used: a security module forbids it ({name})"
    return Reason("forbidden", text, "allow it in its policy, as the kernel's log names it")


SECCOMP_FIX = (
    "allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile "
    "(--security-opt seccomp=PROFILE.json, securityContext.seccompProfile, SystemCallFilter=)"
)
MEMLOCK_FIX = (
    "raise it with `ulimit -l`, LimitMEMLOCK= of a systemd unit, or /etc/security/limits.conf, "
    "or grant CAP_IPC_LOCK"
)


def memlock() -> int | None:
    """Bytes that the user may lock, this process and all others; None: no limit (CAP_IPC_LOCK, unlimited)."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return None if soft == resource.RLIM_INFINITY or capable(_CAP_IPC_LOCK) else soft


def memlock_hint(need: int) -> str:
    """What to say when the kernel refused to lock memory: the limit, the need, and what raises it."""
    return f"{_memlock_text(need)}; {MEMLOCK_FIX}"


def _memlock_text(need: int) -> str:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    limit = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft // 1024} KiB per user"
    wanted = f"{need // 1024} KiB are needed" if need else "more is needed"
    return f"the limit for locked memory (RLIMIT_MEMLOCK) is {limit}, {wanted}"


# -- what /proc tells


def capable(capability: int) -> bool:
    """Whether this thread has it where the kernel asks: in the user namespace that all others are in."""
    initial = _read("self/uid_map").split() == ["0", "0", str(2**32 - 1)]
    return initial and bool(int(status("CapEff") or "0", 16) >> capability & 1)


def status(field: str) -> str:
    """A field of this thread's /proc status; "" if the kernel does not have it."""
    for line in _read("thread-self/status").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return value.strip()
    return ""


def sysctl(name: str) -> int | None:
    """Its first number, None where it can not be read; of net.*, in the network of this thread."""
    words = _read("sys/" + name.replace(".", "/")).split()
    return int(words[0]) if words else None


def _read(path: str) -> str:
    try:
        return (_PROC / path).read_text()
    except OSError:
        return ""
