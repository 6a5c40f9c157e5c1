# The typed face of the compiled module. tests/test_structure.py holds it to what is there.
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, final

from typing_extensions import Buffer

from uringzc.address import Address
from uringzc.memory import Pinned, Region, Vector

@final
class Memory:
    """Memory that can be sent: what requests hold while the kernel may read it."""

    def __init__(self, owner: object, address: int, length: int, retired: deque[tuple[int, int]]) -> None: ...
    @property
    def owner(self) -> object: ...
    @property
    def address(self) -> int: ...
    @property
    def length(self) -> int: ...
    buffer: int  # the first registered buffer, -1 if it is not registered
    buffers: int

@final
class Owner:
    """Frees what it was given when its last reference goes."""

    def __init__(self, pointer: int, free: int) -> None: ...

@final
class Queue:
    """The per-request path of one engine. As a context manager it marks the engine as inside a call."""

    def __init__(
        self,
        engine: int,  # the address of its struct
        calls: int,  # of its uzc_calls
        admit: Callable[[socket.socket], tuple[int, int, int, int, bool]],
        pin: Callable[[Any, int | None, int | None], Pinned],
        pack: Callable[[int, Any], bytes],
        refuse: Callable[[int], None],
        region_type: type[Region],
        retired: deque[tuple[int, int]],
        claimed: Callable[[], None],
        debug: bool = ...,
    ) -> None: ...
    def send(
        self,
        sock: socket.socket,
        data: Buffer | Region | Vector,
        *,
        offset: int = ...,
        length: int | None = ...,
        to: Address | None = ...,
        segment: int = ...,
        zero_copy: bool = ...,
        slot: int = ...,
        user_data: int = ...,
        flush: bool = ...,
        msg_flags: int = ...,
    ) -> None: ...
    def run(
        self,
        sock: socket.socket,
        region: Region | Buffer,
        size: int,
        count: int,
        stride: int | None = ...,
        *,
        offset: int = ...,
        to: Address | None = ...,
        zero_copy: bool = ...,
        slot: int = ...,
        user_data: int = ...,
        flush: bool = ...,
    ) -> int: ...
    def enter(self, submit: int, wait: int, timeout_ns: int, /) -> int: ...
    def release(self) -> None: ...
    def readmit(self) -> None: ...
    def detach(self) -> None: ...
    def __enter__(self) -> Queue: ...
    def __exit__(self, *error: object) -> None: ...
    @property
    def busy(self) -> bool: ...
    @property
    def released(self) -> list[object] | None: ...
