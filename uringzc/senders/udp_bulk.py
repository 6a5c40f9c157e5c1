"""Sending from memory that the program keeps, in bulk: the compiled part takes a block per call."""

import operator
from array import array
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from uringzc import memory
from uringzc._send import UdpBatcher
from uringzc.address import Address
from uringzc.memory import Region

if TYPE_CHECKING:
    from typing_extensions import Buffer

    Progress = Callable[[int], object] | None
    #: how many datagrams, and what takes some of them: from the given one on, and returns how many it took
    Blocks = tuple[int, Callable[[int], int]]

_SLICES = 4096  # datagrams of send_slices() in one call of the compiled part: signals are handled between
#: format of a memoryview -> `kind` for the compiled part: 4 or 8 bytes, -4 if they are signed
_KINDS = {"q": 8, "Q": 8, "l": 8, "L": 8, "n": 8, "N": 8, "i": -4, "I": 4}


class Integers(Protocol):
    """A sequence or an array of ints: a list, an array.array, a numpy array."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...


def send_region(
    batcher: UdpBatcher,
    region: "Region | Buffer",
    offset: int,
    length: int | None,
    segment: int | None,
    to: Address | None,
    progress: "Progress",
) -> int:
    """See UdpSender.send_region."""
    return _in_blocks(*region_blocks(batcher, region, offset, length, segment, to), progress)


def region_blocks(
    batcher: UdpBatcher,
    region: "Region | Buffer",
    offset: int,
    length: int | None,
    segment: int | None,
    to: Address | None,
) -> "Blocks":
    """The datagrams of UdpSender.send_region. TypeError and ValueError."""
    total = len(region) if isinstance(region, Region) else memoryview(region).nbytes
    offset = operator.index(offset)
    length = total - offset if length is None else operator.index(length)
    if segment is None and length == 0:

        def empty(done: int) -> int:
            batcher.send(b"", to)
            return 1

        return 1, empty
    if segment is None and length > 65535:
        raise ValueError(f"{length} bytes are more than a datagram: name a `segment` size to split them by")
    segment = length if segment is None else operator.index(segment)
    if offset < 0 or length < 0 or offset + length > total:
        raise ValueError(
            f"bytes {offset} to {offset + length} are not all in the {total} bytes of the memory"
        )
    if not 1 <= segment <= 65535:
        raise ValueError(f"a segment is a datagram, 1 to 65507 bytes over IPv4, not {segment}")

    def block(done: int) -> int:
        at = done * segment
        return -(-batcher.send_block(region, offset + at, length - at, segment, to) // segment)

    return -(-length // segment), block


def send_slices(
    batcher: UdpBatcher,
    region: "Region | Buffer",
    offsets: Integers,
    lengths: Integers,
    to: Address | None,
    progress: "Progress",
) -> int:
    """See UdpSender.send_slices."""
    return _in_blocks(*slice_blocks(batcher, region, offsets, lengths, to), progress)


def slice_blocks(
    batcher: UdpBatcher, region: "Region | Buffer", offsets: Integers, lengths: Integers, to: Address | None
) -> "Blocks":
    """The datagrams of UdpSender.send_slices. TypeError and ValueError."""
    starts, start_kind = _in_memory("offsets", offsets)
    sizes, size_kind = _in_memory("lengths", lengths)
    count = len(starts)
    if len(sizes) != count:
        raise ValueError(f"{count} offsets and {len(sizes)} lengths")
    start, size = (memory.address_of(view.cast("B")) for view in (starts, sizes))
    views, arrays = (starts, sizes), (start, start_kind, size, size_kind)
    whole = region if isinstance(region, Region) else memoryview(region)
    right = batcher.send_slices(whole, *arrays, 0, count) if count else 0
    if right < count:
        piece = f"piece {right}, {sizes[right]} bytes at {starts[right]}"
        raise ValueError(f"{piece}, is not all in the memory, or larger than a datagram")

    def block(done: int, _: object = views) -> int:  # which keeps the arrays
        return batcher.send_slices(whole, *arrays, done, min(count, done + _SLICES), to)

    return count, block


def _in_blocks(count: int, block: Callable[[int], int], progress: "Progress") -> int:
    done = 0
    while done < count:
        try:
            done += block(done)
        except BlockingIOError as error:
            error.characters_written = done
            raise
        if progress is not None:
            progress(done)
    return done


def _in_memory(name: str, values: Integers) -> tuple[memoryview, int]:
    """A view of the values as integers of 32 or 64 bits, and its `kind`."""
    try:
        view = memoryview(values)  # type: ignore[arg-type]
    except TypeError:
        view = memoryview(array("q", values))
    kind = view.format.lstrip("@=<") if view.format else ""
    if view.ndim != 1 or not view.c_contiguous:
        raise TypeError(f"{name} is an array of one dimension without gaps: copy it, with .copy() say")
    if kind in ("b", "B", "h", "H"):
        return memoryview(array("q", view.tolist())), _KINDS["q"]
    if kind not in _KINDS:
        raise TypeError(f"{name} is an array of integers, not of format {view.format!r}")
    return view, _KINDS[kind]
