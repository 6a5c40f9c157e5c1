"""Group: one payload to many receivers of an awaitable UdpSender."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import uringzc
from uringzc.address import Address
from uringzc.aio.many import send_all
from uringzc.aio.waiting import Waiting

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Group:
    """Receivers that all get the same datagrams. Made by ``UdpSender.group``: see uringzc.Group.

    A set of addresses: ``len``, ``in``, iteration in the order in which they were added.
    """

    def __init__(self, waiting: Waiting, group: uringzc.Group, check: Callable[[Address], object]) -> None:
        self._waiting = waiting  # which has the sender
        self._group = group
        self._check = check
        self._send = group.send

    async def send(self, data: "Buffer", /) -> int:
        """Takes one datagram for each member, and returns its size: as ``UdpSender.send``."""
        if self._waiting.fast or self._waiting.begin():
            try:
                return self._send(data)
            except BlockingIOError:
                pass
        return await self._waiting.in_turn(partial(self._send, data))

    async def send_many(self, datagrams: "Iterable[Buffer]", /) -> int:
        """As ``send`` of each, in one call. Returns how many. See ``UdpSender.send_many``."""
        return await send_all(self._waiting, self._group.send_many, datagrams)

    def add(self, to: Address, /) -> None:
        """Adds a receiver of what is sent from now on. ValueError for a name: see ``UdpSender.resolve``."""
        self._waiting.begin()
        self._check(to)
        self._group.add(to)

    def remove(self, to: Address, /) -> None:
        """Removes a receiver; what was sent before still reaches it. KeyError if it is no member."""
        self._waiting.begin()
        self._group.remove(to)

    def __len__(self) -> int:
        return len(self._group)

    def __contains__(self, to: object) -> bool:
        return to in self._group

    def __iter__(self) -> Iterator[Address]:
        return iter(self._group)

    def __repr__(self) -> str:
        return repr(self._group)
