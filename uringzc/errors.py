"""Errors: ``check()`` turns what C returns into an exception, and the few that OSError cannot express.

Whatever the kernel has an errno for is an ``OSError`` with that errno, so ``BlockingIOError``,
``ConnectionRefusedError`` and the like can be caught as with sockets. The classes here are also
``UringzcError``: a wrong use of the library (closed, wrong thread, busy), not a failure of the network.
"""

import errno
import os
import threading
from functools import cache
from typing import NoReturn

# The refusals of _native/uringzc.h; tests/project/test_structure.py compares them.
E_THREAD = -5001
E_BUSY = -5002
E_CLOSED = -5003
E_POISONED = -5004
E_QUEUE = -5005
E_REQUESTS = -5006
E_COMPLETIONS = -5007
E_NOTIFICATIONS = -5008
E_PATH = -5009
E_FRAMES = -5010


def counted(number: int, thing: str) -> str:
    """As words: "1 byte", "2 bytes"."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


class UringzcError(Exception):
    """Every exception that is this library's own."""


class ClosedError(UringzcError, ValueError):
    """What was called is closed, or belongs to the parent of a fork."""


class WrongThreadError(UringzcError, RuntimeError):
    """What was called belongs to another thread. Nothing was changed."""


class BusyError(UringzcError, RuntimeError):
    """A signal handler, a finalizer or a callback called what is inside another call. Nothing was changed."""


class PoisonedError(UringzcError, RuntimeError):
    """The kernel dropped a completion: no memory in flight is ever released, and no new work is taken."""


class BufferModifiedError(UringzcError, RuntimeError):
    """Memory was changed while the kernel owned it (debug mode)."""


class SendError(UringzcError, OSError):
    """A datagram that failed after ``send`` had returned, or the end of a stream: ``errno``, and which.

    ``index`` counts the datagrams of the sender from 0, ``size`` is its bytes, ``to`` its address (None for
    where the socket is connected to). An ICMP error for an earlier datagram (ECONNREFUSED, EHOSTUNREACH) has
    index -1. ``others``: the other errors that were known when this was raised.

    Of a TcpSender: ``size`` is the bytes of the call, ``accepted`` how many of them the kernel took, and
    ``total`` how many since the start. The peer may have received less.

    The error is also an instance of what ``socket.send`` would have raised: ConnectionRefusedError,
    BrokenPipeError, ConnectionResetError, TimeoutError.
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


def datagram_error(number: int, text: str, index: int, size: int, to: object) -> SendError:
    """The end of one datagram, or of several that are reported together."""
    return _also(number)(number, text, index, size, to)


def stream_error(number: int, size: int, accepted: int, total: int) -> SendError:
    """The end of a stream, in a call that had `size` bytes."""
    took = f"the kernel took {accepted} of {counted(size, 'byte')}, {total} since the start"
    text = f"{os.strerror(number)}: {took}"
    error = _also(number)(number, text, -1, size, None)
    error.accepted, error.total = accepted, total
    return error


_FULL = {
    E_QUEUE: "the submission queue is full and the kernel takes nothing; submit again later",
    E_REQUESTS: "max_inflight requests are held: wait for notifications, and flush slots that were not",
    E_COMPLETIONS: "max_inflight completions are unread or to come: call reap_completions()",
    E_NOTIFICATIONS: "max_inflight notifications are unread or to come: call reap_notifications()",
    E_PATH: "the route to the destination changes all the time; send again later",
    E_FRAMES: "all frames are in use: the device is slower than the program; send again after notifications",
}

_ERRNO = {
    errno.EINVAL: "the slot does not exist",
    errno.EBADF: "the socket is closed",
    errno.EDESTADDRREQ: "there is no destination: give `to`, or `remote` when the sender is made",
    errno.EMSGSIZE: "the datagram is larger than UDP can carry (65507 bytes over IPv4, 65527 over IPv6)",
}


class Refuser:
    """Raises what C refuses, in words for the program that uses the engine: each engine has one.

    `what`: the class that the program made, a Scheduler, a Ring or a sender. `forked`: this process is the
    child of a fork, and the engine is its parent's.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.forked = False
        self._owner = 0

    def claimed(self) -> None:
        """The calling thread owns the engine from now on."""
        self._owner = threading.get_ident()  # the name only when it is needed: that takes a lock

    def __call__(self, code: int, what: str = "") -> NoReturn:
        """Raises what a negative `code` from C stands for: a refusal of uringzc.h, or -errno.

        `what`: a sender that refuses, where the engine is not its own.
        """
        what = what or self.what
        if code == E_THREAD:
            verb = "sent" if "Sender" in self.what else "submitted"
            belongs = "" if what == self.what else f"shares a {self.what} that "
            raise WrongThreadError(
                f"this {what} {belongs}belongs to {_thread(self._owner)}, the one that {verb} first; "
                f"{_thread(threading.get_ident())} has to use one of its own. Nothing was changed"
            )
        if code == E_BUSY:
            shared = "" if what == self.what else f" or the {self.what} that it shares"
            callback = ", or a callback (on_error, notify)," if "Sender" in what else ""
            raise BusyError(
                f"this {what}{shared} is inside another call: what a signal handler or a finalizer{callback} "
                "calls meanwhile is refused. Nothing was changed; make the call when the other has returned"
            )
        if code == E_CLOSED and self.forked:
            text = f"this {what} belongs to the parent of this process, which forked: make a new one here"
            raise ClosedError(text)
        if code == E_CLOSED:
            raise ClosedError(f"this {what} is closed: make a new one")
        if code == E_POISONED:
            raise PoisonedError(
                "the kernel dropped a completion: what is in flight is never released, and this "
                f"{self.what} takes no more; make a new one"
            )
        if code in _FULL:
            raise BlockingIOError(errno.EAGAIN, _FULL[code])
        raise OSError(-code, _ERRNO.get(-code, os.strerror(-code)))

    def check(self, code: int, tried: str = "") -> int:
        """Returns `code` if it is no error; else raises it. `tried`: the call, for the text of an errno."""
        if tried and -4096 < code < 0:
            raise OSError(-code, f"{tried}: {os.strerror(-code)}")
        if code < 0:
            self(code)
        return code


def in_flight(requests: int) -> str:
    """As a clause: "1 request is in flight", "2 requests are in flight"."""
    return f"{counted(requests, 'request')} {'is' if requests == 1 else 'are'} in flight"


def _thread(ident: int) -> str:
    if not ident:
        return "another thread"
    # current_thread() would add what threading did not start to its list
    names = [thread.name for thread in threading.enumerate() if thread.ident == ident]
    return f"thread {names[0]!r} (id {ident})" if names else f"a thread (id {ident})"


#: for refusals that are about no engine
refuse = Refuser("engine")
check = refuse.check
