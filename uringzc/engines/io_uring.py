"""The io_uring engine, under a Scheduler or a Ring.

The ring is created disabled and enabled by the first submit, whose thread owns it from then on
(SINGLE_ISSUER, DEFER_TASKRUN). Every submit and poll empties the completion queue, so its size is no limit.
The per-request path is ``_native/request/``.
"""

import errno
import os
import socket
from typing import TYPE_CHECKING

from uringzc._uring import ffi, lib
from uringzc.engines.base import Engine, batch_of, in_range
from uringzc.engines.tables import Buffers
from uringzc.errors import check
from uringzc.kernel.features import features
from uringzc.kernel.reasons import Reason, no_ring, refusal
from uringzc.memory import Region
from uringzc.notif import NOTIFICATION_UNKNOWN

if TYPE_CHECKING:
    from typing_extensions import Buffer

_SUBMIT_ALL, _COOP_TASKRUN, _TASKRUN_FLAG, _SINGLE_ISSUER, _DEFER_TASKRUN = (
    1 << n for n in (7, 8, 9, 12, 13)
)
#: IORING_SETUP_* sets, best first; a kernel that lacks a flag returns EINVAL
SETUP = (
    _SINGLE_ISSUER | _DEFER_TASKRUN | _TASKRUN_FLAG | _SUBMIT_ALL,  # Linux 6.1
    _SINGLE_ISSUER | _COOP_TASKRUN | _TASKRUN_FLAG | _SUBMIT_ALL,  # 6.0
    _COOP_TASKRUN | _TASKRUN_FLAG | _SUBMIT_ALL,  # 5.19
    _SUBMIT_ALL,  # 5.18
)
_MAX_CQ_ENTRIES = 65536


class RingEngine(Engine):
    """One ring, its registered memory and sockets."""

    name = "io_uring"

    def __init__(
        self,
        max_inflight: int,
        completions: int,
        entries: int | None = None,
        cq_entries: int | None = None,
        debug: bool = False,
    ) -> None:
        in_range("entries", 1 if entries is None else entries, 32768)
        in_range("cq_entries", 1 if cq_entries is None else cq_entries, _MAX_CQ_ENTRIES)
        offered = features()
        if not offered.send_zc:
            text = "io_uring cannot send zero-copy: this kernel has no IORING_OP_SEND_ZC"
            raise refusal(errno.EOPNOTSUPP, Reason("send_zc", text, "run Linux 6.0 or later"))
        super().__init__(max_inflight, completions, debug)
        if not offered.report_usage:
            self.slots.notification = NOTIFICATION_UNKNOWN
        self._out = ffi.new("uzc_ring **")
        if entries is None:
            entries = batch_of(max_inflight)
        if cq_entries is None:
            cq_entries = min(2 * max(max_inflight, entries), _MAX_CQ_ENTRIES)
        cq_entries = max(cq_entries, entries)
        code = -errno.EINVAL
        for self.setup in SETUP:
            code = lib.uzc_ring_new(self._out, entries, cq_entries, self.setup, self.slots.pointer)
            if code != -errno.EINVAL:
                break
        if code < 0:
            raise no_ring(-code, f"no memory for a ring of {cq_entries} completions")
        self.offered = offered
        lib.uzc_ring_features(self._native, offered.report_usage, offered.sendmsg_zc, offered.fixed_message)
        self._buffers = Buffers(self._out, self.retired)
        self._start(lib.uzc_ring_calls())

    def register(self, size_or_buffer: "int | Buffer") -> Region:
        """See Scheduler.register."""
        self.check()
        return self._buffers.register(size_or_buffer)

    def register_socket(self, sock: socket.socket) -> None:
        """See Scheduler.register_socket."""
        self.check()
        self.submit()  # what is queued uses the descriptor
        self.sockets.register(sock, self._native)
        self.queue.clear_socket_cache()

    def unregister_socket(self, sock: socket.socket) -> None:
        """See Scheduler.unregister_socket."""
        self.check()
        self.submit()
        self.sockets.unregister(sock, self._native)
        self.queue.clear_socket_cache()

    @property
    def limitation(self) -> str:
        """That sockets are not registered, where the kernel refuses a table of files: no reason to fail."""
        refused = self.sockets.refused
        return f"Its socket is not registered: no table of files ({os.strerror(refused)})" if refused else ""

    def _fileno(self) -> int:
        return check(lib.uzc_ring_fileno(self._native), "a descriptor to wait on")

    def _clear_retired(self) -> None:
        if self.retired:
            self._buffers.clear_retired()

    def _exit(self) -> None:
        lib.uzc_ring_exit(self._out)

    def _abandon(self) -> None:
        lib.uzc_ring_abandon(self._out)
