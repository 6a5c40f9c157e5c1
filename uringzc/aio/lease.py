"""Lease: registered memory to fill and send, of an awaitable UdpSender."""

from contextlib import suppress
from functools import partial
from types import TracebackType

import uringzc
from uringzc.address import Address
from uringzc.aio.waiting import Waiting


class Lease:
    """Registered memory to fill and send without a copy: made by ``UdpSender.lease``, see uringzc.Lease.

    ``with`` releases it if it was not sent; so does dropping it.
    """

    def __init__(self, waiting: Waiting, lease: uringzc.Lease) -> None:
        self._waiting = waiting
        self._lease = lease

    async def send(self, length: int | None = None, to: Address | None = None) -> int:
        """Sends the first `length` bytes (default: all) and returns how many.

        Releases the view: a later write raises ValueError. BufferError, and nothing is queued, while a slice
        of it or an array over it lives. A cancelled one has sent nothing: the lease can be sent later, and
        ``view`` gives another one.
        """
        if self._waiting.fast or self._waiting.begin():
            with suppress(BlockingIOError):
                return self._lease.send(length, to)
        return await self._waiting.in_turn(partial(self._lease.send, length, to))

    @property
    def view(self) -> memoryview:
        """The memory, writable; what it holds at first is not defined."""
        return self._lease.view

    def release(self) -> None:
        """Returns the memory unsent. May be repeated. BufferError while a slice of its view lives."""
        self._lease.release()

    def __enter__(self) -> "Lease":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lease.__exit__(kind, error, trace)

    def __len__(self) -> int:
        return len(self._lease)

    def __repr__(self) -> str:
        return repr(self._lease)
