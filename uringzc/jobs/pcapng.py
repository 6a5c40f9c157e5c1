"""The packets of a pcapng file, as Wireshark writes it: where each is, when it came, and on what link.

A file is blocks; packets name one of the interfaces described before them, each with its link type and its
unit of time. dpkt reads only the first interface, and does not say where in the file a packet is.
"""

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

SECTION = b"\x0a\x0d\x0d\x0a"  #: what a file begins with, in any byte order
_ORDERS = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}
_INTERFACE, _SIMPLE, _ENHANCED = 1, 3, 6
_UNIT, _OFFSET = 9, 14  # options of an interface: if_tsresol, if_tsoffset


class Packet(NamedTuple):
    """A packet of a capture."""

    link: int  #: LINKTYPE
    seconds: float | None  #: when it came; None: the file does not say
    offset: int  #: in the file, in bytes
    length: int  #: bytes that were captured


class _Interface(NamedTuple):
    link: int
    snaplen: int  # 0: no limit
    unit: float  # seconds
    offset: int  # seconds


def packets(data: Any) -> Iterator[Packet]:
    """All of them, to the end or to where the file was cut off. `data`: its bytes, mapped."""
    at, order = 0, ""
    interfaces: list[_Interface] = []
    while at + 12 <= len(data):
        if data[at : at + 4] == SECTION:
            order, interfaces = _ORDERS.get(data[at + 8 : at + 12], ""), []
        if not order:
            raise ValueError("no byte order")
        kind, length = struct.unpack_from(f"{order}II", data, at)
        body, end = at + 8, at + length - 4
        if length < 12 or length % 4 or at + length > len(data):
            return
        if kind == _INTERFACE and end - body >= 8:
            interfaces.append(_interface(data[body:end], order))
        elif kind == _ENHANCED and end - body >= 20:
            number, high, low, captured = struct.unpack_from(f"{order}4I", data, body)
            if number < len(interfaces) and captured <= end - body - 20:
                on = interfaces[number]
                seconds = on.offset + (high << 32 | low) * on.unit
                yield Packet(on.link, seconds, body + 20, captured)
        elif kind == _SIMPLE and interfaces and end - body >= 4:
            (original,) = struct.unpack_from(f"{order}I", data, body)
            captured = min(original, interfaces[0].snaplen or original, end - body - 4)
            yield Packet(interfaces[0].link, None, body + 4, captured)
        at += length


def _interface(body: bytes, order: str) -> _Interface:
    link, _, snaplen = struct.unpack_from(f"{order}HHI", body)
    unit, offset, at = 1e-6, 0, 8
    while at + 4 <= len(body):
        code, length = struct.unpack_from(f"{order}HH", body, at)
        value = body[at + 4 : at + 4 + length]
        if code == _UNIT and len(value) == 1:
            unit = 2.0 ** -(value[0] & 0x7F) if value[0] & 0x80 else 10.0 ** -value[0]
        elif code == _OFFSET and len(value) == 8:
            (offset,) = struct.unpack(f"{order}q", value)
        at += 4 + (length + 3) // 4 * 4
    return _Interface(link, snaplen, unit, offset)
