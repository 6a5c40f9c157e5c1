"""Group: one payload to many receivers of a UdpSender, staged once."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from uringzc import address
from uringzc._send import Delegate, UdpGroup
from uringzc.address import Address
from uringzc.compiled import compiled
from uringzc.errors import counted

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Group(Delegate):
    """Receivers that all get the same datagrams. Made by ``UdpSender.group``; belongs to its thread.

    ``send`` copies a datagram once, whatever the number of members; when it leaves, each member gets a train
    (GSO batch) over that memory, which is free again when the requests of all of them have settled. The
    datagrams that a member gets from the group, from other groups and from ``UdpSender.send`` arrive in the
    order of the calls. A member whose datagrams fail is named by ``SendError.to``, and the others get theirs.

    A set of addresses: ``len``, ``in``, iteration in the order in which they were added. In
    ``UdpSender.stats`` a datagram counts once for each member.
    """

    __slots__ = ("__weakref__", "_family", "_members", "_native", "_sender")

    def __init__(self, sender: object, family: int, native: UdpGroup) -> None:
        self._sender = sender  # which is not dropped while the program has the group
        self._family = family
        self._native = native
        self._members: dict[bytes, Any] = {}
        self._delegate(native)

    @compiled
    def send(self, data: "Buffer", /) -> int:
        """Takes one datagram for each member, and returns its size: see ``UdpSender.send``.

        When it leaves is the same, too: with the next full batch, flush, drain or close, and after
        ``max_delay``. Without members, nothing is sent.
        """
        raise NotImplementedError  # it is in _native/udp/send.c

    @compiled
    def send_many(self, datagrams: "Iterable[Buffer]", /) -> int:
        """As ``send`` of each, in one call. Returns how many. See ``UdpSender.send_many``."""
        raise NotImplementedError  # it is in _native/udp/send.c

    def add(self, to: Address, /) -> None:
        """Adds a receiver of what is sent from now on. A name is resolved now. Nothing, if it is a member."""
        packed = bytes(address.pack(self._family, to))
        if packed not in self._members:
            self._native.add_member(packed)
            self._members[packed] = to

    def remove(self, to: Address, /) -> None:
        """Removes a receiver; what was sent before still reaches it. KeyError if it is no member."""
        packed = self._packed(to)
        if packed not in self._members:
            raise KeyError(to)
        self._native.remove_member(list(self._members).index(packed))
        del self._members[packed]

    def _packed(self, to: object) -> bytes:
        """As it was added; b"" for what is no address."""
        for packed, given in self._members.items():
            if given == to:
                return packed
        try:
            return bytes(address.pack(self._family, to))
        except (TypeError, ValueError, OSError):
            return b""

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, to: object) -> bool:
        return self._packed(to) in self._members

    def __iter__(self) -> Iterator[Address]:
        return iter(tuple(self._members.values()))

    def __repr__(self) -> str:
        return f"<Group of {counted(len(self), 'receiver')}>"
