"""The engine af_xdp: Ethernet frames through an AF_XDP socket, to transmit only, without a BPF program.

Single datagrams of up to 3,968 bytes, by one device: that of the first destination. What leaves by other
devices goes through the UDP socket. Frames pass neither the device's qdisc nor what the kernel does for
sockets (netfilter, IPsec policies, the socket's marks and limits). The kernel copies them (XDP_COPY).
"""

import errno
import os
import re
import time

from uringzc._uring import lib
from uringzc.engines import lifetime
from uringzc.engines.contract import FrameOptions
from uringzc.engines.frames import FrameEngine
from uringzc.engines.paths import SOCKET, Path
from uringzc.kernel.reasons import MEMLOCK_FIX, Reason, memlock_hint, no_frames, refusal

_FRAME = 4096  # bytes
_MOST = 32768  # frames
#: since this version a completion names the frame that is free, and no other (30f241fcf52a)
_NAMES_FRAMES = (6, 18)
#: seconds that a queue may be taken for after its socket was closed, and between tries: the kernel frees it
#: later, under the lock of all network devices, which on a busy machine others hold for more than a second
_BUSY, _AGAIN = 3.0, 0.002


class AfXdpEngine(FrameEngine):
    """A UMEM of 4 KiB frames, a TX ring and a completion ring, on the first free queue of one device.

    Zero-copy of the driver, where it is asked for and there: this was never tried. It takes the receive queue
    with the same number from the kernel, and some drivers send only while an XDP program is attached.
    """

    name = "af_xdp"
    default_memory = 1 << 20

    def __init__(
        self,
        max_inflight: int,
        completions: int,
        batch: int | None,
        debug: bool,
        options: FrameOptions,
    ) -> None:
        self._device = ""  # its name, when it is bound
        super().__init__(max_inflight, completions, batch, debug, options)

    def _count(self, memory: int) -> int:
        return min(max(64, memory * 4 // 3 // _FRAME), _MOST)

    def _new(self, entries: int) -> None:
        modes = self._options.zero_copy, _kernel_version() < _NAMES_FRAMES
        code = lib.uzc_xdp_new(self._out, self.slots.pointer, entries, self.frames, self._refs, *modes)
        if code < 0:
            raise _no_socket(-code, self.frames * _FRAME)

    @property
    def zero_copy(self) -> bool | None:
        """Whether the driver sends zero-copy; None while the engine is bound to no device."""
        code = lib.uzc_xdp_zero_copy(self._native) if self.exists else -1
        return None if code < 0 else bool(code)

    def _use_device(self, path: Path) -> Path:
        code = self._bind(path.device)
        if code == -errno.EXDEV:
            return Path(SOCKET, why=f"af_xdp sends by {self._device} only")
        if code == -errno.ENODEV and self._device:
            return Path(SOCKET, why=f"{self._device}, by which af_xdp sent, is gone")
        if code < 0:
            raise _no_device(-code, self._paths.device_name(path.device))
        return path

    def _bind(self, device: int) -> int:
        """As uzc_xdp_bind(); waits for a queue that was closed a moment ago, or is to be now."""
        end = time.monotonic() + _BUSY
        while (code := lib.uzc_xdp_bind(self._native, device)) == -errno.EBUSY and time.monotonic() < end:
            lifetime.release_parked()  # of a sender that was dropped, not closed
            time.sleep(_AGAIN)
        if not self._device and (not code or code == -errno.EPROTO):
            self._device = self._paths.device_name(device)
        return int(code)


def _kernel_version() -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])


def _no_socket(code: int, memory: int) -> OSError:
    """Why there is no AF_XDP socket with so many bytes of frames: an errno of uzc_xdp_new()."""
    if code == errno.ENOBUFS:
        text = memlock_hint(memory).removesuffix(f"; {MEMLOCK_FIX}")
        return refusal(code, Reason("memlock", f"no memory for the engine af_xdp: {text}", MEMLOCK_FIX))
    return no_frames("af_xdp", code)


def _no_device(code: int, device: str) -> OSError:
    """Why the socket cannot be bound to the device: an errno of uzc_xdp_bind()."""
    if code == errno.EBUSY:
        text = f"af_xdp cannot send by {device}: other AF_XDP sockets have all of its queues"
        fix = f"close one, use one sender for all, or add queues (ethtool -L {device} combined N)"
        return refusal(code, Reason("af_xdp_queues", text, fix))
    if code == errno.EPROTO:
        text = f"af_xdp cannot send by {device}: its driver does not send zero-copy without an XDP program"
        return refusal(code, Reason("af_xdp_zero_copy", text, "do not ask for zero-copy"))
    text = f"af_xdp cannot send by {device}: {os.strerror(code)}"
    return refusal(code, Reason("af_xdp_device", text, ""))
