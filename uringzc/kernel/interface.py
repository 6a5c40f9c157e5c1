"""A network interface as a socket's network namespace has it: name, driver, bus address, MTU. Asked by ioctl,
which needs no privileges and no netlink."""

import fcntl
import socket
import struct
from array import array
from contextlib import suppress
from typing import NamedTuple

# netdevice(7), <linux/ethtool.h>
_SIOCGIFNAME, _SIOCGIFMTU, _SIOCETHTOOL = 0x8910, 0x8921, 0x8946
_ETHTOOL_GDRVINFO = 3
_DRVINFO = struct.Struct("=I 32s 32s 32s 32s 64x")  # command, driver, version, firmware, bus
_IFREQ = 40  # bytes


class Interface(NamedTuple):
    """What tells one from another."""

    name: str
    driver: str  #: as ethtool -i says; "": it does not say
    bus: str  #: the address of the hardware, "" without any
    mtu: int


def interface(sock: socket.socket, index: int) -> Interface:
    """The one with this index in the socket's network namespace. OSError: there is none."""
    name: bytes = _ioctl(sock, _SIOCGIFNAME, struct.pack("=16xi", index))[:16].rstrip(b"\0")
    (mtu,) = struct.unpack_from("=i", _ioctl(sock, _SIOCGIFMTU, name), 16)
    about = array("B", struct.pack("=I", _ETHTOOL_GDRVINFO).ljust(_DRVINFO.size, b"\0"))
    with suppress(OSError):  # no ethtool for this kind
        _ioctl(sock, _SIOCETHTOOL, struct.pack("@16sP", name, about.buffer_info()[0]))
    _, driver, _, _, bus = _DRVINFO.unpack(about)
    return Interface(_text(name), _text(driver), _text(bus), mtu)


def _ioctl(sock: socket.socket, request: int, argument: bytes) -> bytes:
    return fcntl.ioctl(sock, request, argument.ljust(_IFREQ, b"\0"))


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("ascii", "replace")
