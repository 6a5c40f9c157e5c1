"""Why something is not to be had here, and what would change that: errors that carry a ``Reason``."""

import errno
import os
import resource
from dataclasses import dataclass
from typing import Annotated

from uringzc.kernel import proc
from uringzc.records import explained

_CAP_IPC_LOCK, _CAP_SYS_ADMIN = 14, 21
SECCOMP_FIX = (
    "allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile "
    "(--security-opt seccomp=PROFILE.json, securityContext.seccompProfile, SystemCallFilter=)"
)
MEMLOCK_FIX = (
    "raise it with `ulimit -l`, LimitMEMLOCK= of a systemd unit, or /etc/security/limits.conf, "
    "or grant CAP_IPC_LOCK"
)
NET_RAW_FIX = (
    "run as root, `setcap cap_net_raw+ep` a copy of the Python interpreter, or use a network namespace of a "
    "user namespace (unshare --user --map-root-user --net)"
)
#: of the engines that send Ethernet frames: what a kernel lacks, and what has it
_FRAMES = {
    "packet": ("the kernel has no packet sockets", "run a kernel with CONFIG_PACKET"),
    "af_xdp": (
        "the kernel has no AF_XDP sockets, or is older than Linux 5.4",
        "run Linux 5.4 or later, with CONFIG_XDP_SOCKETS",
    ),
}


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
    """An OSError with this text, that carries `reason` for ``reason_of``."""
    error = OSError(code, str(reason))
    vars(error)["reason"] = reason
    return error


def reason_of(error: OSError) -> Reason:
    """The reason that an error of ``refusal`` carries; one with the name "error" for any other."""
    reason = vars(error).get("reason")
    return reason if isinstance(reason, Reason) else Reason("error", error.strerror or str(error), "")


def no_ring(code: int, what: str = "io_uring cannot be used") -> OSError:
    """The OSError for `code`, an errno of io_uring_setup(): what it means here. `what` begins an ENOMEM."""
    if code == errno.ENOSYS:
        reason = _missing()
    elif code in (errno.EPERM, errno.EACCES):
        reason = _forbidden(code)
    elif code == errno.ENOMEM:
        reason = Reason("memlock", f"{what}: {_memlock_text(0)}", MEMLOCK_FIX)
    else:
        text = f"io_uring cannot be used: io_uring_setup: {os.strerror(code)}"
        reason = Reason("io_uring", text, "")
    return refusal(code, reason)


def _missing() -> Reason:
    filtered = proc.status("Seccomp") == "2"
    if filtered and proc.sysctl("kernel.io_uring_disabled") is not None:
        why, fix = "a seccomp filter hides it (ENOSYS)", SECCOMP_FIX
    elif filtered:
        why = "a seccomp filter hides it, or the kernel has none (ENOSYS)"
        fix = f"{SECCOMP_FIX}, on Linux 6.0 or later with CONFIG_IO_URING"
    else:
        why, fix = "the kernel has none (ENOSYS)", "run Linux 6.0 or later, with CONFIG_IO_URING"
    return Reason("seccomp_enosys" if filtered else "enosys", f"io_uring cannot be used: {why}", fix)


def _forbidden(code: int) -> Reason:
    disabled = proc.sysctl("kernel.io_uring_disabled")  # Linux 6.6
    if code == errno.EPERM and disabled == 2:
        text = "io_uring is switched off: kernel.io_uring_disabled is 2"
        return Reason("io_uring_disabled", text, "sysctl kernel.io_uring_disabled=0")
    group = proc.sysctl("kernel.io_uring_group")
    member = group in (*os.getgroups(), os.getegid())
    if code == errno.EPERM and disabled == 1 and not member and not proc.capable(_CAP_SYS_ADMIN):
        text = (
            "io_uring is for privileged processes only: kernel.io_uring_disabled is 1, and this one has no "
            f"CAP_SYS_ADMIN and is not in the group kernel.io_uring_group ({group})"
        )
        fix = "sysctl kernel.io_uring_disabled=0, or kernel.io_uring_group=GID with a group of this user"
        return Reason("io_uring_group", text, fix)
    name = errno.errorcode[code]
    if code == errno.EPERM and proc.status("Seccomp") == "2":
        text = f"io_uring cannot be used: a seccomp filter forbids it, as container profiles do ({name})"
        return Reason("seccomp_eperm", text, SECCOMP_FIX)
    text = f"io_uring cannot be used: a security module forbids it ({name})"
    return Reason("forbidden", text, "allow it in its policy, as the kernel's log names it")


def no_frames(engine: str, code: int) -> OSError:
    """The OSError for `code`, an errno of making the engine packet or af_xdp: what it means here."""
    unusable = f"the engine {engine} cannot be used"
    if code in (errno.EPERM, errno.EACCES):
        text = f"the engine {engine} sends frames of its own, which needs CAP_NET_RAW"
        reason = Reason("net_raw", text, NET_RAW_FIX)
    elif code in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.ENOPROTOOPT):
        text, fix = _FRAMES[engine]
        reason = Reason(f"no_{engine}", f"{unusable}: {text}", fix)
    else:
        reason = Reason(engine, f"{unusable}: {os.strerror(code)}", "")
    return refusal(code, reason)


def memlock() -> int | None:
    """Bytes that all processes of the user may lock; None: no limit (CAP_IPC_LOCK, unlimited)."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return None if soft == resource.RLIM_INFINITY or proc.capable(_CAP_IPC_LOCK) else soft


def memlock_hint(need: int) -> str:
    """Why the kernel refused to lock `need` bytes, and what raises the limit."""
    return f"{_memlock_text(need)}; {MEMLOCK_FIX}"


def _memlock_text(need: int) -> str:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    limit = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft // 1024} KiB per user"
    wanted = f"{need // 1024} KiB are needed" if need else "more is needed"
    return f"the limit for locked memory (RLIMIT_MEMLOCK) is {limit}, {wanted}"
