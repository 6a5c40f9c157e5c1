"""The header of numbered datagrams: its layout, and a checksum that notices every change."""

import random
import struct

import numpy as np
import pytest

from uringzc.jobs import header

pytestmark = pytest.mark.engines()
LAYOUT = struct.Struct("<IIQQQII")  # as docs/commands.md has it


def datagrams(size: int, count: int = 3) -> header.Bytes:
    """Numbered ones with random payload, a row each."""
    data = bytearray(random.Random(size).randbytes(size * count))
    rows = np.frombuffer(data, np.uint8).reshape(count, size)
    numbers = np.arange(5, 5 + count, dtype=np.uint64)
    sums = header.payload_sums(rows[:, header.SIZE :])
    header.fill(
        header.words_of(data, count, size), 0xABCD, numbers, 123456789, numbers * np.uint64(1000), sums
    )
    return rows


def intact(rows: header.Bytes) -> list[bool]:
    headers = np.ascontiguousarray(rows[:, : header.SIZE]).view("<u8")
    return list(header.intact(headers, header.payload_sums(rows[:, header.SIZE :])))


@pytest.mark.parametrize("size", [40, 41, 47, 48, 49, 64, 1200, 1473, 65507])
def test_the_layout_and_the_checksum(size: int) -> None:
    rows = datagrams(size)
    assert intact(rows) == [True] * 3
    unpacked = LAYOUT.unpack(rows[1, : LAYOUT.size].tobytes())
    magic = int.from_bytes(b"ucz1", "little")
    assert (*unpacked[:5], unpacked[6]) == (magic, 0xABCD, 6, 123456789, 6000, 0)


@pytest.mark.parametrize("size", [40, 43, 64, 129])
def test_every_changed_byte_is_noticed(size: int) -> None:
    for at in range(size):
        rows = datagrams(size).copy()
        rows[1, at] ^= 1 << at % 8
        assert intact(rows) == [True, False, True], at


def test_words_that_change_places_and_a_lost_tail_are_noticed() -> None:
    rows = datagrams(200).copy()
    rows[0, 40:48], rows[0, 48:56] = rows[0, 48:56].copy(), rows[0, 40:48].copy()
    assert intact(rows) == [False, True, True]
    rows = datagrams(200).copy()
    rows[:, 192:] = 0
    assert intact(rows[:, :192]) == [False] * 3


def test_the_last_datagram() -> None:
    data = header.last_datagram(9, 1000, 5_000_000, 77)
    _, stream, number, when, offset, _, flags = LAYOUT.unpack(data)
    assert (stream, number, when, offset, flags) == (9, 1000, 77, 5_000_000, header.END)
    assert intact(np.frombuffer(data, np.uint8).reshape(1, 40)) == [True]
