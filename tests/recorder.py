"""A datagram protocol that records what its transport calls."""

import asyncio
from collections.abc import Callable
from typing import Any


class Recorder(asyncio.DatagramProtocol):
    """Every call by its name, with its argument, in `calls`."""

    transport: Any = None

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self._waiting: list[asyncio.Future[None]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.note("made", transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.note("datagram", (data, addr))

    def error_received(self, exc: Exception) -> None:
        self.note("error", exc)

    def pause_writing(self) -> None:
        self.note("pause")

    def resume_writing(self) -> None:
        self.note("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.note("lost", exc)

    def note(self, name: str, value: Any = None) -> None:
        self.calls.append((name, value))
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._waiting.clear()

    @property
    def names(self) -> list[str]:
        """The calls so far."""
        return [name for name, _ in self.calls]

    def of(self, name: str) -> list[Any]:
        """The arguments of the calls with that name."""
        return [value for one, value in self.calls if one == name]

    @property
    def datagrams(self) -> list[bytes]:
        return [data for data, _ in self.of("datagram")]

    @property
    def paused(self) -> bool:
        """Whether the last of pause_writing and resume_writing was pause_writing."""
        return [name for name in self.names if name in ("pause", "resume")][-1:] == ["pause"]

    async def until(self, condition: Callable[[], object]) -> None:
        """Returns when the condition holds; it is looked at after each call."""
        while not condition():
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter

    async def called(self, name: str, count: int = 1) -> list[Any]:
        """Its arguments, once it was called so many times."""
        await self.until(lambda: len(self.of(name)) >= count)
        return self.of(name)
