"""Ring: io_uring without slots, for programs written against liburing."""

import errno
import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple

from uringzc import memory
from uringzc._send import Delegate
from uringzc.address import Address
from uringzc.compiled import compiled
from uringzc.engines.facade import Facade
from uringzc.engines.io_uring import RingEngine
from uringzc.kernel.reasons import Reason, refusal
from uringzc.notif import COMPLETION_FIELDS, RAW, Batch, Record
from uringzc.records import explained

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from uringzc.memory import Region

_CQE_F_MORE, _CQE_F_NOTIF, _COPIED = 1 << 1, 1 << 3, 1 << 31


@explained
class RawCompletion(NamedTuple):
    """One CQE, copied out. Matches struct io_uring_cqe, with the caller's user_data.

    ``error`` says whether a request failed, not the sign of ``res``: of a notification that is negative when
    the kernel has copied the data.
    """

    user_data: Annotated[int, "the u64 that the request was given"]
    res: Annotated[int, "bytes or -errno; of a notification, -2147483648 if the kernel copied the data"]
    flags: Annotated[int, "IORING_CQE_F_MORE and IORING_CQE_F_NOTIF, which `more` and `notif` read"]

    @property
    def more(self) -> bool:
        """IORING_CQE_F_MORE: a notification for this request follows."""
        return bool(self.flags & _CQE_F_MORE)

    @property
    def notif(self) -> bool:
        """IORING_CQE_F_NOTIF: the kernel is done with the request's memory."""
        return bool(self.flags & _CQE_F_NOTIF)

    @property
    def copied(self) -> bool:
        """Of a notification: the kernel copied the data, wholly or in part."""
        return self.notif and bool(self.res & _COPIED)

    @property
    def error(self) -> OSError | None:
        """The failure as an exception (not raised), or None. A notification is none, whatever its ``res``."""
        return OSError(-self.res, os.strerror(-self.res)) if self.res < 0 and not self.notif else None


_RAW = Record(COMPLETION_FIELDS, RawCompletion)


class Ring(Facade, Delegate):
    """io_uring without slots, as liburing programs use it; memory is held until the kernel is done with it.

    Each request posts the CQEs that the kernel posts for it: SEND one, SEND_ZC and SENDMSG_ZC two (the result
    with ``more``, then the ``notif``). Buffer and socket are held until the last of them. The thread that
    submits first owns the ring. Needs Linux 6.0. Matches io_uring_queue_init().

    `entries` of the submission queue: a send that finds it full submits it, where io_uring_get_sqe() would
    return NULL. `cq_entries` of the completion queue; nothing depends on it, since CQEs are copied out at
    every submit. `max_inflight`: how many requests can have memory that is not free, 8192 if it is None.
    """

    __slots__ = ("__dict__", "__weakref__", "_engine")
    _engine: RingEngine

    def __init__(
        self, entries: int = 512, *, cq_entries: int | None = None, max_inflight: int | None = None
    ) -> None:
        self._engine = RingEngine(8192 if max_inflight is None else max_inflight, RAW, entries, cq_entries)
        self._engine.refuse.what = "Ring"
        self._engine.slots.completion = _RAW
        self._delegate(self._engine.queue)

    @compiled
    def send(
        self,
        sock: socket.socket,
        data: "Buffer | Region",
        *,
        offset: int = 0,
        length: int | None = None,
        to: Address | None = None,
        segment: int = 0,
        msg_flags: int = 0,
        user_data: int = 0,
    ) -> None:
        """Queues a copying send. Matches io_uring_prep_send()."""
        raise NotImplementedError  # it is in _native/request/send.c

    @compiled
    def send_zc(
        self,
        sock: socket.socket,
        data: "Buffer | Region",
        *,
        offset: int = 0,
        length: int | None = None,
        to: Address | None = None,
        segment: int = 0,
        msg_flags: int = 0,
        user_data: int = 0,
    ) -> None:
        """Queues a zero-copy send, from registered memory if `data` is a region.

        `segment` sends it as datagrams of that many bytes (UDP_SEGMENT), as ``sendmsg_zc`` does. Matches
        io_uring_prep_send_zc(), io_uring_prep_send_zc_fixed() and io_uring_prep_send_set_addr(). Linux 6.0.
        """
        raise NotImplementedError  # it is in _native/request/send.c

    def sendmsg_zc(
        self,
        sock: socket.socket,
        buffers: "Sequence[Buffer]",
        *,
        to: Address | None = None,
        segment: int = 0,
        msg_flags: int = 0,
        user_data: int = 0,
    ) -> None:
        """Queues one zero-copy send of several buffers, in order.

        A datagram may touch 17 pages that do not adjoin; with more the result is -EMSGSIZE. Matches
        io_uring_prep_sendmsg_zc(). Linux 6.1; OSError EOPNOTSUPP before.
        """
        self._require_sendmsg_zc()
        vector = memory.Vector(buffers)
        self._engine.queue.send(
            sock, vector, to=to, segment=segment, user_data=user_data, msg_flags=msg_flags
        )

    def _require_sendmsg_zc(self) -> None:
        if not self._engine.offered.sendmsg_zc:
            text = "this kernel has no IORING_OP_SENDMSG_ZC, which several buffers and segments need"
            raise refusal(errno.EOPNOTSUPP, Reason("sendmsg_zc", text, "run Linux 6.1 or later"))

    @compiled
    def submit(self, wait: int = 0, timeout: float | None = None) -> int:
        """Hands what is queued to the kernel; returns how many were submitted since it was called before.

        A send that found the queue full has submitted it, which is counted here. With `wait`, returns when
        that many CQEs can be reaped, `timeout` seconds are over, or nothing is in flight. Matches
        io_uring_submit_and_wait_timeout().
        """
        raise NotImplementedError  # it is in _native/request/batch_calls.c

    def _wait_cqes(self, wait: int, timeout: float | None) -> None:
        counts = self._engine.slots.counts

        def missing() -> int:
            now = counts()
            return max(0, min(wait - int(now.unread_completions), int(now.in_flight)))

        self._engine.wait_for(missing, timeout, None)

    @compiled
    def reap(self) -> "Batch[RawCompletion]":
        """All CQEs there are, without waiting. Matches io_uring_for_each_cqe() and io_uring_cq_advance()."""
        raise NotImplementedError  # it is in _native/request/batch_calls.c
