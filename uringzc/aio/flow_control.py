"""Telling a protocol to pause and to resume writing, as all asyncio transports do."""

import asyncio
from collections.abc import Callable
from typing import Protocol

HIGH_WATER = 64 << 10


class Writing(Protocol):
    """What it needs of a transport."""

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The current one."""

    def get_write_buffer_size(self) -> int:
        """Bytes that have not left."""


class FlowControl:
    """The water marks of a transport, and whether its protocol was told to pause."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: Writing) -> None:
        self._loop = loop
        self._transport = transport
        self._paused = False
        self.set_limits(None, None)

    def set_limits(self, high: int | None, low: int | None) -> None:
        """Bytes; ValueError where they are not 0 <= low <= high."""
        if high is None:
            high = HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self.high, self.low = high, low

    def pause_if_above(self) -> None:
        """Calls pause_writing() once, if more waits than the high-water mark."""
        if not self._paused and self._transport.get_write_buffer_size() > self.high:
            self._paused = True
            self._call("pause_writing", self._transport.get_protocol().pause_writing)

    def resume_if_below(self) -> None:
        """Calls resume_writing() once, if no more waits than the low-water mark."""
        if self._paused and self._transport.get_write_buffer_size() <= self.low:
            self.resume()

    def resume(self) -> None:
        """The same, whatever waits: nothing more of it will leave."""
        if self._paused:
            self._paused = False
            self._call("resume_writing", self._transport.get_protocol().resume_writing)

    def _call(self, name: str, method: Callable[[], None]) -> None:
        try:
            method()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._loop.call_exception_handler(
                {
                    "message": f"protocol.{name}() failed",
                    "exception": error,
                    "transport": self._transport,
                    "protocol": self._transport.get_protocol(),
                }
            )
