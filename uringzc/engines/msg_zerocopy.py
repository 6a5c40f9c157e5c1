"""The engines for where io_uring is forbidden or missing: MSG_ZEROCOPY, and copies. Both use sendmmsg.

The kernel (Linux 4.14 for TCP, 5.0 for UDP) numbers the zero-copy sends of a socket, and reports ranges of
these ids in the socket's error queue; ``_native/engines/msg_zerocopy/`` matches them to requests. A range
that the kernel has merged says only of its first send whether it was copied: then ``copied`` of the
notification is None. With copies, the memory of a request is free as soon as it was sent.

The engine sets SO_ZEROCOPY on a socket at its first send, and reads its error queue from then on. Other
messages there (ICMP errors, timestamps) are kept for ``errors``. One engine of the process at a time sends
zero-copy through a socket; others copy.

The engine has to know where a socket's counter stands. It is 0 where a sender opened the socket. Any other
UDP socket is probed, with datagrams that the kernel counts before it refuses them; until the engine has
ended, nobody else may use MSG_ZEROCOPY on it. A TCP socket cannot be probed: the counter is guessed, and
reports settle requests only when the guessed id was reported before any other. So the program may send
zero-copy itself while no request is in flight. Requests are copied while the kernel still holds memory of
such sends; it charges socket filters and the like to the same account (SO_MEMINFO), so a TCP socket that has
those is served by copies.

While requests are in flight nobody else may use MSG_ZEROCOPY on their socket, or read its error queue. After
an id that was never assigned the engine trusts no report of the socket, and its requests settle when the
kernel holds nothing of it.
"""

import errno
import socket
from typing import TYPE_CHECKING

from uringzc._uring import ffi, lib
from uringzc.engines.base import Engine, batch_of
from uringzc.engines.tables import new_region, require_socket
from uringzc.errors import check
from uringzc.kernel import error_queue
from uringzc.kernel.error_queue import ErrorMessage
from uringzc.kernel.features import require_zerocopy
from uringzc.memory import Region
from uringzc.notif import NOTIFICATION_UNKNOWN

if TYPE_CHECKING:
    from typing_extensions import Buffer


_WHY = {
    0: "",
    lib.UZC_COPIES_OTHER_ENGINE: "another Scheduler or sender sends zero-copy through the socket",
    lib.UZC_COPIES_OTHERS_SEND: "the socket's zero-copy sends cannot be told from those of others",
}


class MsgZerocopyEngine(Engine):
    """sendmmsg with MSG_ZEROCOPY."""

    name = "msg_zerocopy"
    min_zero_copy = 40 << 10  # pages are pinned for each send: 0.8 of copying at 4000 bytes, 1.1 at 65,000
    reads_error_queues = _zero_copy = True

    def __init__(self, max_inflight: int, completions: int, debug: bool = False) -> None:
        if self._zero_copy:
            require_zerocopy()
        super().__init__(max_inflight, completions, debug)
        if self._zero_copy:
            self.slots.notification = NOTIFICATION_UNKNOWN
        self._out = ffi.new("uzc_msg_zerocopy **")
        code = lib.uzc_msg_zerocopy_new(
            self._out, self.slots.pointer, batch_of(max_inflight), self._zero_copy
        )
        check(code, "an epoll descriptor")
        self._start(lib.uzc_msg_zerocopy_calls())

    def register(self, size_or_buffer: "int | Buffer") -> Region:
        """Memory to send from. The kernel pins it at each send, not before."""
        self.check()
        return new_region(size_or_buffer, self.retired)

    def own_socket(self, sock: socket.socket) -> None:
        """A sender has opened the socket: its counter stands at 0, and is not probed."""
        if self.exists:
            lib.uzc_msg_zerocopy_mark_unused(self._native, sock.fileno())

    def why_copied(self, sock: socket.socket) -> str:
        """Which others send zero-copy through the socket, or seem to."""
        return _WHY[lib.uzc_msg_zerocopy_why_copied(self._native, sock.fileno())] if self.exists else ""

    def errors(self, sock: socket.socket) -> list[ErrorMessage]:
        """See Scheduler.errors; what the engine kept, if it reads the socket's error queue."""
        require_socket(sock)
        found: list[ErrorMessage] = []
        out = ffi.new("uzc_message *")
        while (code := lib.uzc_msg_zerocopy_message(self._native, sock.fileno(), out)) > 0:
            data, control = (bytes(ffi.buffer(part)) for part in (out.data, out.control))
            origin = bytes(ffi.buffer(getattr(out, "from")))[: out.from_length]
            parts = data[: out.data_length], control[: out.control_length], out.msg_flags, origin
            found.append(error_queue.message(*parts))
        if code == -errno.ENOENT:
            return super().errors(sock)
        check(code, "the error queue")
        return found

    def retried(self) -> int:
        """See KernelInterface.retried."""
        return int(lib.uzc_msg_zerocopy_retried(self._native))

    def _fileno(self) -> int:
        return int(lib.uzc_msg_zerocopy_fileno(self._native))

    def _exit(self) -> None:
        lib.uzc_msg_zerocopy_exit(self._out)

    _abandon = _exit


class CopyEngine(MsgZerocopyEngine):
    """sendmmsg without MSG_ZEROCOPY: works everywhere, and copies."""

    name = "copy"
    reads_error_queues = _zero_copy = False
