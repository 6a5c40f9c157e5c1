# The types of the compiled module; tests/project/test_structure.py compares them. Final: written by C alone.
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar, final

from typing_extensions import Buffer, ParamSpec

from uringzc.address import Address
from uringzc.kernel.error_queue import ErrorMessage
from uringzc.memory import Pinned, Region, Vector
from uringzc.notif import Batch, Notifier, Slots
from uringzc.senders.tcp_slow_path import TcpSlowPath
from uringzc.senders.udp_slow_path import UdpSlowPath

P = ParamSpec("P")
T = TypeVar("T")

def compiled_method(name: str, doc: str, /) -> Any: ...
def owner(pointer: int, free: int, /) -> object: ...

class Delegate:
    """The base of a class that has methods of a compiled object, the target."""

    def _delegate(self, target: object, /) -> None: ...

@final
class Memory:
    """Memory to send from. Requests hold a reference while the kernel may read it."""

    def __new__(
        cls, owner: object, address: int, length: int, retired: deque[tuple[int, int]], /
    ) -> Memory: ...
    owner: Final[object]
    address: Final[int]
    length: Final[int]
    buffer: int  # index of the first registered buffer, -1: not registered
    buffers: int
    may_fault: bool  # perhaps a mapped file, which may be truncated

@final
class Queue:
    """The per-request path of one engine."""

    def __new__(
        cls,
        engine: int,  # addresses of its struct and its uzc_calls
        calls: int,
        slots: object,  # owner() of its uzc_slots
        describe_socket: Callable[[socket.socket], tuple[int, int, int, int, bool]],
        pin: Callable[..., Pinned],  # of the data; in debug mode also offset and length of what is sent
        pack: Callable[[int, Any], bytes],
        refuse: Callable[[int], None],
        find_path: Callable[[socket.socket, bytes | None, bool], None] | None,  # of engines that send frames
        claimed: Callable[[], None],
        tidy: Callable[[], None],
        verify: Callable[[Any], None] | None,  # debug mode
        region_type: type[Region],
        notifier_type: type[Notifier],
        batch_type: type[Batch[Any]],
        slots_object: Slots,
        retired: deque[tuple[int, int]],  # of this and the next two, C sees whether they are empty
        parked: list[Any],
        to_detach: list[UdpBatcher | TcpStream],
        /,
    ) -> Queue: ...
    def send(
        self,
        sock: socket.socket,
        data: Buffer | Region | Vector,
        *,
        offset: int = ...,
        length: int | None = ...,
        to: Address | None = ...,
        segment: int = ...,
        zero_copy: bool = ...,
        slot: int = ...,
        user_data: int = ...,
        flush: bool = ...,
        msg_flags: int = ...,
    ) -> None: ...
    def enter(self, submit: int, wait: int, timeout_ns: int, /) -> int: ...
    def poll(self, submit: bool, /) -> None: ...
    def tidy(self) -> None: ...
    def signal(self) -> None: ...
    def release(self) -> None: ...
    def raise_modified(self) -> None: ...
    def clear_socket_cache(self) -> None: ...
    def detach(self) -> None: ...
    def abandon(self) -> None: ...
    def exclusive(self, function: Callable[P, T], /, *args: P.args, **none: P.kwargs) -> T: ...
    busy: Final[bool]
    inside: Final[int]

class RegionBase:
    _memory: Memory | None

class BatchBase:
    """The buffer that a Batch consists of, and how many records are in it."""

    _size: int
    def __len__(self) -> int: ...

class NotifierBase:
    """What a Notifier consists of."""

@final
class Records(Iterator[T]):
    """The records in `data` from byte `at` on, each `size` bytes, as named tuples."""

    def __new__(cls, data: bytearray, at: int, size: int, codes: str, kind: type[T], /) -> Records[T]: ...
    def __iter__(self) -> Records[T]: ...
    def __next__(self) -> T: ...

@final
class Arena:
    """Memory in blocks, which senders fill: registered, or frames of an engine.

    With a stride of its own, or a headroom, the blocks are frames, which have one train each.
    """

    def __new__(
        cls,
        memory: Memory,
        stride: int = ...,  # bytes from one block to the next
        headroom: int = ...,  # bytes of a block before its data
        capacity: int = ...,  # bytes of data in a block
        limit: int = ...,  # blocks in use at most; 0: all
        refs: int = ...,  # of frames: address of _Atomic uint32_t, one a frame. The arena has one reference
        keep: object = ...,  # to each in use; who else fills frames has others. 0: nobody; `keep` keeps them.
        # Behind them the frame to begin with when none is in use
    ) -> Arena: ...
    memory: Final[Memory]
    free: Final[int]
    leases: Final[int]

@final
class UdpGroup:
    """Destinations that get the same datagrams: the compiled part of a Group."""

    def __new__(cls, batcher: UdpBatcher, /) -> UdpGroup: ...
    def send(self, data: Buffer, /) -> int: ...
    def send_many(self, datagrams: Iterable[Buffer], /) -> int: ...
    def add_member(self, packed: bytes, /) -> None: ...
    def remove_member(self, index: int, /) -> None: ...

@final
class Lease:
    view: Final[memoryview]
    def send(self, length: int | None = ..., to: Address | None = ...) -> int: ...
    def release(self) -> None: ...
    def __enter__(self) -> Lease: ...
    def __exit__(self, *error: object) -> None: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class DatagramWriter:
    """sendto() and flush() of an asyncio transport, which it calls for what is not the usual case."""

    def __new__(
        cls,
        send: Callable[[Any, Any, BaseException | None], None],
        flush_failed: Callable[[BaseException], None],
        /,
    ) -> DatagramWriter: ...
    scheduled: bool  # the transport has scheduled callbacks of the loop; until the next flush
    enabled: bool  # datagrams go to the sender
    def open(self, batcher: UdpBatcher, connected: bool, /) -> None: ...
    def sendto(self, data: Buffer, addr: Any = ...) -> None: ...
    def flush(self) -> bool: ...

@final
class UdpBatcher:
    """The per-datagram path of one sender."""

    def __init__(
        self,
        queue: Queue,
        arena: Arena,
        sock: socket.socket,
        slow_path: UdpSlowPath,
        own_socket: bool,
        blocking: bool,
        strict_order: bool,
        always_zero_copy: bool,
        notify: bool,
        timestamps: bool,
        engine_reads_queue: bool,  # of errors
        max_payload: int,  # bytes of a datagram
        hold_threshold: int,  # bytes from which on immutable data is held, not copied
        max_segments: int,  # datagrams of a train (GSO batch), by the kernel
        max_inflight: int,
        max_delay: int,  # nanoseconds; 0: what a call takes leaves in it; -1: no timer
        pacing: tuple[float, bool, int, int, int, int] | None,  # senders/pacing.py
        on_waiting: Callable[[], object] | None,
    ) -> None: ...
    blocking: bool  # whether calls wait for the network
    def send(self, data: Buffer, to: Address | None = ...) -> int: ...
    def sendto(self, data: Buffer, /, *address: Any) -> int: ...
    def send_many(self, datagrams: Iterable[Buffer], to: Address | Iterable[Address] | None, /) -> int: ...
    def fan_out(self, data: Buffer, addresses: Iterable[Address], /) -> int: ...
    def lease(self, size: int, /) -> Lease: ...
    def send_block(
        self, data: Region | Buffer, offset: int, length: int, segment: int, to: Address | None, /
    ) -> int: ...
    def send_slices(
        self,
        data: Region | Buffer,
        offsets: int,  # an address, and the bytes of an integer: -4, 4, 8
        offset_kind: int,
        lengths: int,
        length_kind: int,
        first: int,
        last: int,
        to: Address | None = ...,  # without: only checks
        /,
    ) -> int: ...
    def flush(self) -> tuple[int, ...]: ...
    def release_block(self) -> bool: ...
    def poll(self) -> bool: ...
    def take_error_queue(self) -> list[ErrorMessage]: ...
    def send_late(self) -> None: ...
    def open_epoll(self, engine: int, /) -> None: ...
    def fileno(self) -> int: ...
    def send_at_exit(self) -> None: ...
    def close(self) -> None: ...
    def abandon(self) -> None: ...
    def drop(self) -> None: ...
    def discard(self) -> int: ...
    def close_slot(self) -> bool: ...
    def resend(self, train: int, count: int, /) -> int: ...
    def writable(self, milliseconds: int, /) -> None: ...
    def resolved(self, train: int, count: int, /) -> None: ...
    def number(self, train: int, index: int, /) -> int: ...
    def set_pacing(self, pacing: tuple[float, bool, int, int, int, int] | None, /) -> None: ...
    def set_limits(self, destination: int, max_segments: int, max_segment_size: int, /) -> None: ...
    def destination(self, number: int, /) -> tuple[bytes, int, int]: ...
    def set_default(self, packed: bytes | None, connected: bool, /) -> None: ...
    datagrams: Final[int]
    nbytes: Final[int]
    requests: Final[int]
    syscalls: Final[int]
    left: Final[int]
    trains: Final[dict[int, int]]
    waited_for: Final[dict[str, int]]
    waiting_for: Final[str]
    max_delay: Final[int]
    settled: Final[int]
    copied: Final[int]
    reordered: Final[int]
    in_flight: Final[int]
    destinations: Final[int]
    closed: Final[bool]
    owner: Final[int]
    no_timer: Final[bool]
    must_not_wait: Final[bool]
    waiting: Final[int]
    waiting_bytes: Final[int]
    busy: Final[bool]

def late() -> UdpBatcher: ...

@final
class TcpStream:
    """The sender of one TCP socket."""

    def __init__(
        self,
        queue: Queue,
        sock: socket.socket,
        slow_path: TcpSlowPath,
        blocking: bool,
        always: bool,
        notify: bool,
        copy_only: bool,
        min_zero_copy: int,
    ) -> None: ...
    def send(self, data: Buffer, /) -> int: ...
    def send_buffers(self, buffers: Iterable[Buffer], /) -> int: ...
    def flush(self) -> tuple[int, ...]: ...
    def poll(self) -> bool: ...
    def shutdown(self) -> int: ...
    def close(self) -> None: ...
    def abandon(self) -> None: ...
    def close_slot(self) -> bool: ...
    sends: Final[int]
    nbytes: Final[int]
    requests: Final[int]
    syscalls: Final[int]
    settled: Final[int]
    copied: Final[int]
    waits: Final[int]
    in_flight: Final[int]
    copy_only: Final[bool]
    closed: Final[bool]
    busy: Final[bool]

@final
class DatagramReceiver:
    """Reads what waits on a UDP socket."""

    def __new__(cls, fd: int, /) -> DatagramReceiver: ...
    def receive(self, grouped: bool, /) -> list[tuple[Any, Address]]: ...
