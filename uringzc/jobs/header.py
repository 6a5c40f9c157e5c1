"""The header of numbered datagrams, made and checked for many of them at once.

A numbered datagram begins with 40 bytes, five little-endian words of 64 bits; the rest is payload:

    word 0   bits 0 to 31 MAGIC, bits 32 to 63 the stream
    word 1   its number in the stream, counted from 0
    word 2   when it was made: ns of CLOCK_REALTIME
    word 3   where its payload belongs in what the stream carries, in bytes
    word 4   bits 0 to 31 the checksum, bits 32 to 63 flags

The last datagram of a stream has the flag END and no payload; its number is how many there were.

The checksum is the upper half of the sum, modulo 2**64, of all words, each multiplied by an odd number of its
own, and of the length in bytes; the payload is filled up with zeros to whole words, and the checksum is 0
meanwhile. It is linear, so a sender adds up what stays the same once, and numpy checks thousands of datagrams
in one call.
"""

from typing import Any

import numpy as np

MAGIC = 0x317A6375  # b"ucz1"
SIZE = 40
WORDS = 5
END = 1

#: arrays of numpy: of u64, and of bytes
Words = Any
Bytes = Any

_U64 = np.dtype("<u8")
_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_MOST = 65536 // 8 + 1  # words, the last for the length


def _multipliers() -> Words:
    """Odd, and without a pattern: splitmix64 of 1, 2, 3, ..."""
    x = np.arange(1, _MOST + 1, dtype=_U64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))) | np.uint64(1)


_MULTIPLIERS = _multipliers()


def payload_sums(payloads: Bytes) -> Words:
    """The payload's part of each checksum. `payloads`: an array of bytes, a row for each datagram."""
    count, length = payloads.shape
    words, rest = divmod(length, 8)
    sums = np.full(count, (SIZE + length) * int(_MULTIPLIERS[-1]) % 2**64, _U64)
    if words:
        whole = payloads[:, : words * 8].view(_U64)  # not a copy, wherever the rows begin
        sums += np.einsum("ij,j->i", whole, _MULTIPLIERS[WORDS : WORDS + words])
    if rest:
        last = np.zeros((count, 8), np.uint8)
        last[:, :rest] = payloads[:, words * 8 :]
        sums += last.view(_U64)[:, 0] * _MULTIPLIERS[WORDS + words]
    return sums


def fill(
    headers: Words, stream: int, numbers: Words, now: int, offsets: Words, sums: Words, flags: int = 0
) -> None:
    """Writes headers, a row of words for each datagram. `sums`: payload_sums(), or one for all."""
    headers[:, 0] = MAGIC | stream << 32
    headers[:, 1] = numbers
    headers[:, 2] = now
    headers[:, 3] = offsets
    headers[:, 4] = flags << 32
    headers[:, 4] |= _checksums(headers, sums)


def intact(headers: Words, sums: Words) -> Any:
    """Of each datagram, whether its checksum is right. `sums`: payload_sums()."""
    return _checksums(headers, sums) == headers[:, 4] & _LOW


def _checksums(headers: Words, sums: Words) -> Words:
    multipliers = _MULTIPLIERS[:WORDS]
    total = np.einsum("ij,j->i", headers[:, :4], multipliers[:4]) + sums
    total += (headers[:, 4] >> _HALF << _HALF) * multipliers[4]
    return total >> _HALF


def words_of(memory: Any, count: int, size: int) -> Words:
    """The headers of `count` datagrams of `size` bytes, one behind the other in `memory`: to be filled."""
    return np.ndarray((count, WORDS), _U64, buffer=memory, strides=(size, 8))


def last_datagram(stream: int, count: int, nbytes: int, now: int) -> bytes:
    """The datagram that ends a stream of `count`, which carried `nbytes` of payload."""
    data = bytearray(SIZE)
    sums = payload_sums(np.zeros((1, 0), np.uint8))
    fill(words_of(data, 1, SIZE), stream, np.array([count], _U64), now, np.array([nbytes], _U64), sums, END)
    return bytes(data)
