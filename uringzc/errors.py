"""Errors: ``check()`` turns what C returns into an exception, and the few that OSError cannot express.

Whatever the kernel has an errno for is an ``OSError`` with that errno, so ``BlockingIOError``,
``ConnectionRefusedError`` and the like can be caught as with sockets. The classes here are also
``UringzcError``: a wrong use of the library (closed, wrong thread, busy), not a failure of the network.
"""

import errno
import os
from functools import cache

# The refusals of _native/uringzc.h; the test of the boundary holds these to it.
E_THREAD = -5001
E_BUSY = -5002
E_CLOSED = -5003
E_POISONED = -5004
E_QUEUE = -5005
E_REQUESTS = -5006
E_COMPLETIONS = -5007
E_NOTIFICATIONS = -5008


class UringzcError(Exception):
    """Every exception that is this library's own."""


class ClosedError(UringzcError, ValueError):
    """The engine was closed, or belongs to the parent of a fork."""


class WrongThreadError(UringzcError, RuntimeError):
    """The engine belongs to another thread. Nothing was changed."""


class BusyError(UringzcError, RuntimeError):
    """A signal handler or a finalizer called an engine that is inside another call. Nothing was changed."""


class PoisonedError(UringzcError, RuntimeError):
    """The kernel dropped a completion: no memory in flight is ever given back, and no new work is taken."""


class BufferModifiedError(UringzcError, RuntimeError):
    """Memory was changed while the kernel owned it (debug mode)."""


class SendError(UringzcError, OSError):
    """What was learned of a datagram after ``send`` had taken it, or why a stream ends: ``errno``, and which.

    ``index`` counts the datagrams of the sender from 0, ``size`` is its bytes, ``to`` its address (None for
    where the socket is connected to). Word of an earlier datagram that the network sent back (an ICMP error:
    ECONNREFUSED, EHOSTUNREACH) has index -1. ``others``: what else had gone wrong when this was raised.

    Of a TcpSender: ``size`` is the bytes of the call, ``accepted`` how many of them the kernel took, and
    ``total`` how many since the start. What it took, not what the peer has: part of it may be lost. Such an
    error is also what ``socket.send`` would have raised: BrokenPipeError, ConnectionResetError, TimeoutError.
    """

    accepted = total = 0

    def __init__(self, number: int, text: str, index: int, size: int, to: object) -> None:
        super().__init__(number, text)
        self.index = index
        self.size = size
        self.to = to
        self.others: list[SendError] = []


@cache
def _also(number: int) -> type[SendError]:
    """A SendError that can be caught as what OSError makes of this errno."""
    kind = type(OSError(number, ""))
    return SendError if kind is OSError else type(f"Send{kind.__name__}", (SendError, kind), {})


def stream_error(number: int, size: int, accepted: int, total: int) -> SendError:
    """The end of a stream, in a call that had `size` bytes."""
    text = f"{os.strerror(number)}: the kernel took {accepted} of {size} bytes, {total} since the start"
    error = _also(number)(number, text, -1, size, None)
    error.accepted, error.total = accepted, total
    return error


_REFUSALS: dict[int, tuple[type[Exception], str]] = {
    E_THREAD: (
        WrongThreadError,
        "the engine belongs to the thread that submitted first",
    ),
    E_BUSY: (BusyError, "another call is inside the engine"),
    E_CLOSED: (ClosedError, "the engine is closed, or belongs to the parent of this process"),
    E_POISONED: (PoisonedError, "the kernel dropped a completion: what is in flight is never given back"),
}

_FULL = {
    E_QUEUE: "the submission queue is full and the kernel takes nothing; submit again later",
    E_REQUESTS: "max_inflight requests are held: wait for notifications, and flush slots that were not",
    E_COMPLETIONS: "max_inflight completions are unread or to come: call reap_completions()",
    E_NOTIFICATIONS: "max_inflight notifications are unread or to come: call reap_notifications()",
}

_ERRNO = {
    errno.EINVAL: "the slot does not exist",
    errno.EBADF: "the socket is closed",
    errno.EDESTADDRREQ: "there is no destination: give `to`, or `remote` when the sender is made",
    errno.EMSGSIZE: "the datagram is larger than UDP can carry (65507 bytes over IPv4, 65527 over IPv6)",
}


def refuse(code: int) -> None:
    """Raises what a negative `code` from C stands for: a refusal of uringzc.h, or -errno."""
    if code in _REFUSALS:
        kind, text = _REFUSALS[code]
        raise kind(text)
    if code in _FULL:
        raise BlockingIOError(errno.EAGAIN, _FULL[code])
    raise OSError(-code, _ERRNO.get(-code, os.strerror(-code)))


def check(code: int, what: str = "") -> int:
    """Returns `code` if it is no error; else raises it, `what` telling what was tried."""
    if code >= 0:
        return code
    if what and code > -4096:
        raise OSError(-code, f"{what}: {os.strerror(-code)}")
    refuse(code)
    raise AssertionError(code)
