"""Event loops whose create_datagram_endpoint is ours."""

import asyncio
import selectors
from collections.abc import Callable
from functools import cache
from typing import Any

from uringzc.aio.endpoint import create_with
from uringzc.aio.shared import Shared
from uringzc.aio.turns import TurnSelector


class DatagramEndpoints(asyncio.AbstractEventLoop):
    """A mixin for classes of event loops with ``add_reader``: ``class Loop(DatagramEndpoints, uvloop.Loop)``.

    ``create_datagram_endpoint`` makes a ``DatagramTransport``; where that cannot serve (AF_UNIX, for example)
    it is the other base's, and the log says so once. ``close`` ends the engine that the loop's transports
    share. All else is the other base's.
    """

    ends_engine = True

    async def create_datagram_endpoint(
        self, protocol_factory: Callable[[], Any], *args: Any, **options: Any
    ) -> tuple[asyncio.DatagramTransport, Any]:
        """See ``asyncio.loop.create_datagram_endpoint``."""
        return await create_with(self, super().create_datagram_endpoint, protocol_factory, *args, **options)

    def run_forever(self) -> None:
        """As the other base's. What was given to ``sendto`` in the last turn leaves before it returns."""
        try:
            super().run_forever()
        finally:
            Shared.of(self).flush()

    def close(self) -> None:
        """As the other base's; first, what waits in open transports is sent, as far as that does not wait."""
        try:
            if not self.is_running():
                Shared.end(self)
        finally:
            super().close()


class EventLoop(DatagramEndpoints, asyncio.SelectorEventLoop):
    """asyncio's selector loop with ``DatagramEndpoints``. Datagrams leave before it waits for events.

    With a `selector` of the program's they leave in the next turn, which follows at once.
    """

    def __init__(self, selector: selectors.BaseSelector | None = None) -> None:
        turns = None if selector else TurnSelector()
        super().__init__(selector or turns)
        if turns:
            self.at_end_of_turn = turns.at_end_of_turn


@cache
def _derived(base: Any) -> Any:
    if issubclass(base, DatagramEndpoints):
        return base
    return type(base.__name__, (DatagramEndpoints, base), {"__doc__": DatagramEndpoints.__doc__})


def new_event_loop(
    base: type[asyncio.AbstractEventLoop] = asyncio.SelectorEventLoop,
) -> asyncio.AbstractEventLoop:
    """A new event loop: ``asyncio.run(main(), loop_factory=uringzc.aio.new_event_loop)``.

    `base`: the class of loops that it is derived from, ``uvloop.Loop`` for example.
    """
    kind: Any = base
    loop: asyncio.AbstractEventLoop = EventLoop() if kind is asyncio.SelectorEventLoop else _derived(kind)()
    return loop
