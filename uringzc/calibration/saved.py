"""The file of calibrations: found, read, checked, and written.

A sender reads it once per process. The file only sets a threshold, and never breaks a sender: one that cannot
be read, is no such file, or may be written by somebody else is ignored, and ``Saved.problem`` says why.

It is in $XDG_STATE_HOME, the place of the XDG Base Directory Specification for what a program finds out
about one machine: it is no setting that a user would carry to another (config), and cannot be had again
without sending (cache). URINGZC_CALIBRATION names another file; where it is empty, there is none.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any, NamedTuple

from uringzc.kernel.interface import Interface

VARIABLE = "URINGZC_CALIBRATION"
KIND = "calibration"
MOST = 64  # calibrations that are kept: the newest
_MOST_BYTES = 1 << 20
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY  # a FIFO would wait for a writer


class Size(NamedTuple):
    """One of the sizes that were measured."""

    nbytes: int  #: of a request
    copy_ns: float  #: CPU time for a request that is copied, the median of the rounds
    zero_copy_ns: float  #: and for one that is not
    saved: float  #: the share that zero-copy saves, the median of the rounds; below 0: it costs more
    better: str  #: "copy", "zero-copy", "same", or "unclear"


@dataclass(frozen=True)
class Calibration:
    """What was measured with one engine, for all that leaves by one interface."""

    machine: str  #: `uname -n`
    kernel: str  #: `uname -r`
    interface: str
    driver: str
    bus: str
    mtu: int
    engine: str
    min_zero_copy: int | None  #: bytes of a request from which on zero-copy costs less; None: it never does
    copied: bool  #: the kernel copied the zero-copy requests
    at: str  #: when, as ISO 8601
    to: str  #: the host that it was sent to
    sizes: tuple[Size, ...]

    @property
    def key(self) -> tuple[object, ...]:
        """What it holds for: of two with the same key, the newer one is kept."""
        return self.machine, self.kernel, self.engine, self.device

    @property
    def device(self) -> Interface:
        """The interface."""
        return Interface(self.interface, self.driver, self.bus, self.mtu)

    @property
    def date(self) -> str:
        """The day, as 2026-11-22."""
        return self.at[:10]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "sizes": [size._asdict() for size in self.sizes]}


class Saved(NamedTuple):
    """What a file has."""

    path: str  #: "": there is no file to look for
    calibrations: tuple[Calibration, ...] = ()
    problem: str = ""  #: why the file is ignored, as part of a sentence


def this_machine() -> tuple[str, str]:
    """Its name, and its kernel's release."""
    about = os.uname()
    return about.nodename, about.release


def path() -> str:
    """Where the file is, or would be; "" for nowhere."""
    named = os.environ.get(VARIABLE)
    if named is not None:
        return named
    state = os.environ.get("XDG_STATE_HOME", "")
    if state[:1] != "/":  # relative ones are to be ignored
        home = os.environ.get("HOME", "")
        if home[:1] != "/":
            return ""
        state = f"{home}/.local/state"
    return f"{state}/uringzc/calibration.json"


@lru_cache(maxsize=1)
def load() -> Saved:
    """What is saved, as the process found it at its first call."""
    return read(path())


def read(path: str) -> Saved:
    """What the file has now."""
    if not path:
        return Saved(path)
    try:
        text = _text_of(path)
        return Saved(path, () if text is None else _calibrations(text))
    except OSError as error:
        return Saved(path, problem=error.strerror or str(error))
    except (ValueError, RecursionError) as error:  # of json, too
        known = str(error) if isinstance(error, _NotUsedError) else "it is not what uringzc calibrate writes"
        return Saved(path, problem=known)


class _NotUsedError(ValueError):
    """Why the file is ignored."""


def _text_of(path: str) -> bytes | None:
    """The bytes of the file; None if there is none."""
    try:
        fd = os.open(path, _OPEN)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        if _may_be_there(path):
            raise
        return None
    with open(fd, "rb") as file:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            raise _NotUsedError("it is no regular file")
        if about.st_uid not in (0, os.geteuid()):
            raise _NotUsedError("it belongs to another user")
        if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise _NotUsedError("others may write to it (chmod go-w)")
        text = file.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        raise _NotUsedError(f"it has more than {_MOST_BYTES} bytes")
    return text


def _may_be_there(path: str) -> bool:
    """False where not even that may be known: the home directory of another user, say."""
    try:
        os.stat(path)
    except OSError:
        return False
    return True


def _calibrations(text: bytes) -> tuple[Calibration, ...]:
    """ValueError if it is something else."""
    import json  # nobody who has no file waits for it

    content = json.loads(text)
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise ValueError("no calibrations")
    listed = content.get("calibrations")
    if not isinstance(listed, list) or len(listed) > MOST:
        raise ValueError("no calibrations")
    return tuple(_calibration(one) for one in listed)


def _calibration(content: Any) -> Calibration:
    if not isinstance(content, dict):
        raise ValueError("no calibration")
    values: dict[str, Any] = {field.name: content.get(field.name) for field in fields(Calibration)}
    for name, value in values.items():
        if not _CHECKS.get(name, _is_text)(value):
            raise ValueError(f"no {name}")
    values["sizes"] = tuple(
        Size(*(one[name] for name in Size._fields)) for one in values["sizes"] if _is_size(one)
    )
    return Calibration(**values)


def _is_text(value: object) -> bool:
    """One line, which can be shown on a terminal."""
    return isinstance(value, str) and len(value) < 256 and (value.isprintable() or not value)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 < value <= 0xFFFF_FFFF


def _is_size(value: object) -> bool:
    return (
        isinstance(value, dict)
        and _is_count(value.get("nbytes"))
        and all(isinstance(value.get(name), (int, float)) for name in ("copy_ns", "zero_copy_ns", "saved"))
        and value.get("better") in ("copy", "zero-copy", "same", "unclear")
    )


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "mtu": _is_count,
    "min_zero_copy": lambda value: value is None or _is_count(value),
    "copied": lambda value: isinstance(value, bool),
    "sizes": lambda value: isinstance(value, list),
}


def check_writable(path: str) -> None:
    """OSError, or ValueError with a sentence, where save() would fail: to be known before it is measured."""
    with _locked(path):
        pass


def save(path: str, new: Sequence[Calibration], version: str) -> None:
    """Adds these, in place of older ones with the same key. OSError; ValueError: it is another file."""
    with _locked(path) as found:
        keys = {one.key for one in new}
        kept = [one for one in found.calibrations if one.key not in keys]
        _write(path, sorted([*kept, *new], key=lambda one: one.at)[-MOST:], version)


def forget(path: str, which: Callable[[Calibration], bool], version: str) -> int:
    """Removes those for which it is true; returns how many. The last one takes the file with it."""
    if not os.path.lexists(path):
        return 0
    with _locked(path) as found:
        kept = [one for one in found.calibrations if not which(one)]
        if not kept:
            with suppress(FileNotFoundError):
                os.unlink(path)
        elif len(kept) < len(found.calibrations):
            _write(path, kept, version)
        load.cache_clear()
        return len(found.calibrations) - len(kept)


@contextmanager
def _locked(path: str) -> Iterator[Saved]:
    """What the file has, while no other process changes it. Makes its directory."""
    if not path:
        why = f"{VARIABLE} is empty" if VARIABLE in os.environ else "there is no HOME"
        raise ValueError(f"nothing can be saved: {why}")
    folder = os.path.dirname(path) or "."
    os.makedirs(folder, mode=0o777 if VARIABLE in os.environ else 0o700, exist_ok=True)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(fd, fcntl.LOCK_EX)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)
        found = read(path)
        if found.problem:
            raise ValueError(f"{path} is left as it is: {found.problem}; {VARIABLE} may name another file")
        yield found
    finally:
        os.close(fd)


def _write(path: str, calibrations: Sequence[Calibration], version: str) -> None:
    """At once, so that nobody reads half of it."""
    import json
    import tempfile

    content = {"uringzc": version, "kind": KIND, "calibrations": [one.as_dict() for one in calibrations]}
    fd, temporary = tempfile.mkstemp(prefix=".calibration-", dir=os.path.dirname(path) or ".")
    try:
        with open(fd, "w") as file:
            json.dump(content, file, indent=1)
            file.write("\n")
            file.flush()
            os.fchmod(fd, 0o644)
            os.fsync(fd)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    load.cache_clear()
