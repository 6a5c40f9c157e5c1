"""The engine packet: Ethernet frames from a ring that is shared with the kernel (PACKET_TX_RING).

The frames leave by the device of their route, through its qdisc, unless `qdisc_bypass` is asked for. They do
not pass what the kernel does for sockets: netfilter, IPsec policies, the socket's marks and limits.
"""

import errno

from uringzc._uring import lib
from uringzc.engines.frames import FrameEngine
from uringzc.errors import check
from uringzc.kernel.reasons import Reason, refusal

NET_RAW_FIX = (
    "run as root, `setcap cap_net_raw+ep` a copy of the Python interpreter, or use a network namespace of a "
    "user namespace (unshare --user --map-root-user --net)"
)


class PacketEngine(FrameEngine):
    """A ring of frames of 64 KiB, for all devices: single datagrams, and from Linux 6.2 trains."""

    name = "packet"
    frames = 90  # a batch of a UdpSender, what gathers meanwhile, and a quarter for copies

    def __init__(
        self,
        max_inflight: int,
        completions: int,
        batch: int | None = None,
        debug: bool = False,
        qdisc_bypass: bool = False,
    ) -> None:
        self._qdisc_bypass = qdisc_bypass
        super().__init__(max_inflight, completions, batch, debug)

    def _new(self, entries: int) -> None:
        code = lib.uzc_packet_new(
            self._out, self.slots.pointer, entries, self.frames, self._refs, self._qdisc_bypass
        )
        if code == -errno.EPERM:
            text = "the engine packet sends frames of its own, which needs CAP_NET_RAW"
            raise refusal(errno.EPERM, Reason("net_raw", text, NET_RAW_FIX))
        check(code, "a ring of frames (PACKET_TX_RING)")
