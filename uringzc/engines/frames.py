"""The engines that send Ethernet frames from memory that is shared with the kernel: what they have in common.

A datagram's headers are the library's: ``paths.py`` finds them, ``_native/engines/frames/`` writes them.
What cannot leave as a frame (to this machine itself, over a device that is not Ethernet, while the neighbour
is not resolved) leaves through its socket.
"""

import os
import socket
import weakref
from abc import abstractmethod
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from uringzc._send import Arena, Memory
from uringzc._uring import ffi, lib
from uringzc.engines.base import Engine, batch_of
from uringzc.engines.contract import FrameOptions
from uringzc.engines.paths import Path, Paths
from uringzc.engines.tables import Sockets, new_region
from uringzc.errors import check
from uringzc.memory import Region, address_of
from uringzc.notif import NOTIFICATION_UNKNOWN

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: requests of one submission: of 64 bytes, 64 took 0.9 of the time of 32
BATCH = 64
#: seconds that a request may wait for the neighbour of a new destination
NEIGHBOUR_WAIT = 0.2
#: destinations without frames that explain() counts
MAX_EXPLAINED = 65536


#: by address, the memory of engines that have not ended: else the collector would unmap it with a cycle that
#: a finalizer then brings back, to be parked
_in_use: dict[int, memoryview] = {}


class FrameEngine(Engine):
    """What packet and af_xdp share. A subclass says in ``_new`` how the native part is made."""

    sends_frames = True
    default_memory: int  #: see FrameOptions
    frames: int  #: how many places for frames there are
    _memory: memoryview
    _base = 0  #: its address

    def __init__(
        self, max_inflight: int, completions: int, batch: int | None, debug: bool, options: FrameOptions
    ) -> None:
        super().__init__(max_inflight, completions, debug)
        self._options = options
        self.frames = self._count(options.memory or self.default_memory)
        self.slots.notification = NOTIFICATION_UNKNOWN
        self._out = ffi.new("uzc_frames **")
        self._refs = ffi.new("uint32_t[]", self.frames + 1)  # see uzc_packet_new()
        self._unframed: dict[tuple[int, bytes | None], str] = {}  # why a destination has no frames
        self._paths = Paths(partial(_forget, self._out), partial(_forget_all, self._out))
        try:
            self._new(batch or batch_of(max_inflight, BATCH))
            self._start_frames()
        except BaseException:
            self._exit()
            raise

    @abstractmethod
    def _count(self, memory: int) -> int:
        """How many frames: of `memory` bytes for senders, and a third more for copies."""

    @abstractmethod
    def _new(self, entries: int) -> None:
        """Makes the native part. `entries`: requests of one submission. OSError says why it cannot."""

    def _start_frames(self) -> None:
        out = ffi.new("uzc_frame_memory *")
        lib.uzc_frames_memory(self._native, out)
        self._trains = bool(out.trains)
        self._frames = out.stride, out.count
        self._base = int(out.base)
        self._memory = _in_use[self._base] = _mapped(self._base, int(out.length))
        lib.uzc_frames_watch(self._native, self._paths.fileno())
        self._start(lib.uzc_frames_calls())

    def _describe_socket(self) -> Callable[[socket.socket], tuple[int, int, int, int, bool]]:
        return partial(_describe_socket, self.sockets, self._paths, self._unframed, self._out)

    def _path_finder(self) -> Callable[[socket.socket, bytes | None, bool], None]:
        return partial(_find_path, weakref.ref(self))

    def find_path(self, sock: socket.socket, to: bytes | None, wait: float) -> Path:
        """How what `sock` sends to a sockaddr leaves."""
        path = self._paths.find(sock, to, wait)
        if path.kind in (lib.UZC_PATH_FRAME, lib.UZC_PATH_RAW):
            path = self._use_device(path)
        if path.kind == lib.UZC_PATH_SOCKET and len(self._unframed) < MAX_EXPLAINED:
            self._unframed[sock.fileno(), to] = path.why
        else:
            self._unframed.pop((sock.fileno(), to), None)
        return path

    def through_socket(self, sock: socket.socket) -> Counter[str]:
        """See KernelInterface.through_socket."""
        fd = sock.fileno()
        return Counter(why for (at, _), why in self._unframed.copy().items() if at == fd)

    def _use_device(self, path: Path) -> Path:
        """The first request to a device: returns another path if the engine cannot send by it."""
        return path

    def register(self, size_or_buffer: "int | Buffer") -> Region:
        """Memory to send from. What is sent from it is copied into frames."""
        self.check()
        return new_region(size_or_buffer, self.retired)

    def make_arena(self, size: int) -> Arena:
        """The arena of all UDP senders of this engine: its frames, but for those that copies need.

        `size` is not used: it was an option of the engine.
        """
        with self.senders.making_arena:
            if self.senders.arena is None:
                stride, count = self._frames
                held = Memory(self._memory, address_of(self._memory), self._memory.nbytes, deque())
                self.senders.arena = Arena(
                    held,
                    stride=stride,
                    headroom=lib.UZC_FRAME_HEADROOM,
                    capacity=stride - lib.UZC_FRAME_HEADROOM,
                    limit=count - count // 4,
                    refs=int(ffi.cast("uintptr_t", self._refs)),
                    keep=self._refs,
                )
            return self.senders.arena

    def max_segments(self) -> int:
        """See KernelInterface.max_segments."""
        return super().max_segments() if self._trains else 1

    def _fileno(self) -> int:
        return int(lib.uzc_frames_fileno(self._native))

    def _exit(self) -> None:
        lib.uzc_frames_exit(self._out)
        self._end()

    def _abandon(self) -> None:
        lib.uzc_frames_abandon(self._out)
        self._end()

    def _end(self) -> None:
        _in_use.pop(self._base, None)
        self._paths.close()


def _mapped(base: int, length: int) -> memoryview:
    """The memory of the frames: unmapped when the last view of it is dropped, but not in the child of a fork,
    where something else may be at its address."""
    getpid, end = os.getpid, lib.uzc_frames_unmap  # at interpreter exit the modules are empty
    process = getpid()

    def unmap(_: object) -> None:
        if getpid() == process:
            end(base, length)

    return memoryview(ffi.buffer(ffi.gc(ffi.cast("char *", base), unmap), length))


def _forget(out: Any, fd: int, to: bytes | None) -> None:
    if out[0]:
        lib.uzc_frames_forget_path(out[0], fd, to or ffi.NULL, len(to or b""))


def _forget_all(out: Any) -> None:
    if out[0]:
        lib.uzc_frames_forget_paths(out[0], -1)


def _describe_socket(
    sockets: Sockets,
    paths: Paths,
    unframed: dict[tuple[int, bytes | None], str],
    out: Any,
    sock: socket.socket,
) -> tuple[int, int, int, int, bool]:
    """A socket that is new, or has a new descriptor: what was known of that descriptor is not valid."""
    described = sockets.describe_socket(sock)
    if out[0]:
        lib.uzc_frames_forget_paths(out[0], described[0])
    paths.forget_socket(described[0])
    for key in [key for key in unframed if key[0] == described[0]]:
        del unframed[key]
    return described


def _find_path(
    reference: "weakref.ref[FrameEngine]", sock: socket.socket, to: bytes | None, may_wait: bool
) -> None:
    """Called by the per-request path, in the owner's thread."""
    engine = reference()
    if engine is None or not engine.exists:
        return
    path = engine.find_path(sock, to, NEIGHBOUR_WAIT if may_wait else 0.0)
    out = ffi.new("uzc_path *")
    out.kind, out.error, out.device, out.mtu = path.kind, path.error, path.device, path.mtu
    out.ask, out.header_length = path.ask, len(path.header)
    ffi.memmove(out.header, path.header, len(path.header))
    code = lib.uzc_frames_set_path(engine._native, sock.fileno(), to or ffi.NULL, len(to or b""), out)
    check(code, "the path of a destination")
