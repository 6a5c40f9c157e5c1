"""Every event loop that asyncio makes in this process is of the kind that DROP_IN_LOOP names.

On PYTHONPATH, so that the programs which a suite starts have it too. The class of every datagram transport
that such a loop makes is written to the file DROP_IN_TRANSPORTS: it shows that the loop was used.
"""

import asyncio
import os
from asyncio import unix_events
from selectors import BaseSelector
from typing import Any

in_effect = ""  #: the loop


def stock_loop(name: str) -> type[asyncio.AbstractEventLoop]:
    """The class that "asyncio", "uringzc over asyncio", "uvloop" or "uringzc over uvloop" ends with."""
    if name.endswith("uvloop"):
        import uvloop

        loop: type[asyncio.AbstractEventLoop] = uvloop.Loop
        return loop
    return asyncio.SelectorEventLoop


def kind_of_loop(name: str) -> type[asyncio.AbstractEventLoop]:
    """That class, or ours over it."""
    stock = stock_loop(name)
    if not name.startswith("uringzc"):
        return stock
    import uringzc.aio

    loop = uringzc.aio.new_event_loop(base=stock)
    loop.close()
    return type(loop)


def swapped(kind: Any, stock: Any) -> Any:
    """A subclass that is called as asyncio.SelectorEventLoop, and writes down what transports it makes.

    Its __module__ is that of the stock loop: suites look there which loop's tests they are to run.
    """
    takes_selector = kind is asyncio.SelectorEventLoop
    write = os.write  # anyio's tests replace it
    file = os.open(os.environ["DROP_IN_TRANSPORTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    class Loop(kind):  # type: ignore[misc]
        if not issubclass(kind, asyncio.SelectorEventLoop):
            _default_executor = None  # which CPython's tests look at when they are over

        def __new__(cls, selector: BaseSelector | None = None) -> Any:
            return super().__new__(cls)

        def __init__(self, selector: BaseSelector | None = None) -> None:
            super().__init__(*[selector] * takes_selector)

        async def create_datagram_endpoint(self, *args: Any, **kwargs: Any) -> Any:
            transport, protocol = await super().create_datagram_endpoint(*args, **kwargs)
            write(file, f"{type(transport).__module__}\n".encode())
            return transport, protocol

    Loop.__name__ = Loop.__qualname__ = kind.__name__
    Loop.__module__ = stock.__module__
    return Loop


def swap(name: str) -> None:
    """Put the loop wherever programs get theirs from."""
    loop = swapped(kind_of_loop(name), stock_loop(name))
    unix_events._UnixDefaultEventLoopPolicy._loop_factory = loop  # type: ignore[attr-defined]
    for module in (asyncio, unix_events):
        for attribute in ("SelectorEventLoop", "EventLoop"):
            if hasattr(module, attribute):
                setattr(module, attribute, loop)
    if name.endswith("uvloop"):
        import uvloop

        uvloop.new_event_loop = loop


if "DROP_IN_LOOP" in os.environ:
    swap(os.environ["DROP_IN_LOOP"])
    in_effect = os.environ["DROP_IN_LOOP"]
