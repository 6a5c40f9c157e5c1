"""What /proc says of this thread and kernel."""

from pathlib import Path

_PROC = Path("/proc")


def capable(capability: int) -> bool:
    """Whether this thread has a capability (its number) in the initial user namespace."""
    initial = _read("self/uid_map").split() == ["0", "0", str(2**32 - 1)]
    return initial and bool(int(status("CapEff") or "0", 16) >> capability & 1)


def status(field: str) -> str:
    """A field of this thread's status; "" if the kernel does not have it."""
    for line in _read("thread-self/status").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return value.strip()
    return ""


def sysctl(name: str) -> int | None:
    """The first number of a sysctl, of this thread's network namespace; None where it cannot be read."""
    words = _read("sys/" + name.replace(".", "/")).split()
    return int(words[0]) if words else None


def _read(path: str) -> str:
    try:
        return (_PROC / path).read_text()
    except OSError:
        return ""
