"""Sending from memory that the program keeps, in bulk: the compiled part takes a block per call."""

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING

from uringzc import memory
from uringzc._send import UdpBatcher
from uringzc.address import Address
from uringzc.memory import Region
from uringzc.senders.integers import Integers, in_memory

if TYPE_CHECKING:
    from typing_extensions import Buffer

    Progress = Callable[[int], object] | None

_SLICES = 4096  # datagrams of send_slices() in one call of the compiled part: signals are handled between


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
    total = len(region) if isinstance(region, Region) else memoryview(region).nbytes
    offset = operator.index(offset)
    length = total - offset if length is None else operator.index(length)
    if segment is None and length == 0:
        batcher.send(b"", to)
        return 1
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

    return _in_blocks(-(-length // segment), block, progress)


def send_slices(
    batcher: UdpBatcher,
    region: "Region | Buffer",
    offsets: Integers,
    lengths: Integers,
    to: Address | None,
    progress: "Progress",
) -> int:
    """See UdpSender.send_slices."""
    starts, start_kind = in_memory("offsets", offsets)
    sizes, size_kind = in_memory("lengths", lengths)
    count = len(starts)
    if len(sizes) != count:
        raise ValueError(f"{count} offsets and {len(sizes)} lengths")
    arrays = (
        memory.address_of(starts.cast("B")),
        start_kind,
        memory.address_of(sizes.cast("B")),
        size_kind,
    )
    whole = region if isinstance(region, Region) else memoryview(region)
    right = batcher.send_slices(whole, *arrays, 0, count) if count else 0
    if right < count:
        piece = f"piece {right}, {sizes[right]} bytes at {starts[right]}"
        raise ValueError(f"{piece}, is not all in the memory, or larger than a datagram")

    def block(done: int) -> int:
        return batcher.send_slices(whole, *arrays, done, min(count, done + _SLICES), to)

    return _in_blocks(count, block, progress)


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
