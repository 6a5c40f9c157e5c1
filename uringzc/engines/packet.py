"""The engine packet: Ethernet frames from a ring that is shared with the kernel (PACKET_TX_RING).

The frames leave by the device of their route, through its qdisc, unless `qdisc_bypass` is asked for. They do
not pass what the kernel does for sockets: netfilter, IPsec policies, the socket's marks and limits.
"""

from uringzc._uring import lib
from uringzc.engines.frames import FrameEngine
from uringzc.kernel.reasons import no_frames

#: frames that the kernel allocates in one piece, and bytes that a frame can take, roughly
_PER_BLOCK, _PAYLOAD = 15, 64 << 10


class PacketEngine(FrameEngine):
    """A ring of frames of 64 KiB, for all devices: single datagrams, and from Linux 6.2 trains."""

    name = "packet"
    default_memory = 4 << 20  # more is slower: its memory is used in turn, and leaves the cache

    def _count(self, memory: int) -> int:
        blocks = -(-memory * 4 // 3 // (_PER_BLOCK * _PAYLOAD))
        return max(2, blocks) * _PER_BLOCK

    def _new(self, entries: int) -> None:
        bypass = self._options.qdisc_bypass
        code = lib.uzc_packet_new(self._out, self.slots.pointer, entries, self.frames, self._refs, bypass)
        if code < 0:
            raise no_frames(self.name, -code)
