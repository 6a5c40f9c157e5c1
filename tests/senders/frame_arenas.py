"""Arenas of frames on engines that have none: memory with gaps, whose references others count too."""

import ctypes
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest

from uringzc import UdpSender
from uringzc._send import Arena
from uringzc.engines.base import Engine

HEADROOM = 128
UNUSED = b"\xa5"
make_blocks = Engine.make_arena  # of registered memory


class Shape(NamedTuple):
    """So many frames, of which senders may use `limit`."""

    stride: int
    frames: int
    limit: int

    @property
    def capacity(self) -> int:
        return self.stride - HEADROOM


PACKET = Shape(69632, 800, 600)
FEW = Shape(69632, 8, 6)
AF_XDP = Shape(4096, 600, 450)


@dataclass
class Frames:
    """The frames of one engine."""

    shape: Shape
    refs: Any
    memory: memoryview
    arena: Arena = field(init=False)

    def used(self) -> list[int]:
        return [i for i in range(self.shape.frames) if self.refs[i]]

    def payload(self, frame: int) -> memoryview:
        return self.memory[frame * self.shape.stride + HEADROOM :][: self.shape.capacity]

    def check_gaps(self) -> None:
        """Nothing was written before the payload of a frame."""
        for i in range(self.shape.frames):
            assert bytes(self.memory[i * self.shape.stride :][:HEADROOM]) == UNUSED * HEADROOM

    def check_free(self) -> None:
        """All frames can be taken again."""
        assert (self.used(), self.arena.leases) == ([], 0)
        assert self.arena.free == self.shape.limit * self.shape.capacity


_made: dict[Engine, Frames] = {}


def frames_of(sender: UdpSender) -> Frames:
    return _made[sender._engine]


def use_frames(monkeypatch: pytest.MonkeyPatch, shape: Shape, segments: int | None = None) -> None:
    """Senders have such an arena from now on. `segments`: datagrams of a train, or as the kernel has them."""

    def make_arena(engine: Engine, size: int) -> Arena:
        if engine.senders.arena is None:
            region = engine.register(shape.frames * shape.stride)
            region.view[:] = UNUSED * len(region)
            refs = (ctypes.c_uint32 * (shape.frames + 1))()
            frames = _made[engine] = Frames(shape, refs, region.view)
            assert region._memory is not None
            frames.arena = engine.senders.arena = Arena(
                region._memory,
                stride=shape.stride,
                headroom=HEADROOM,
                capacity=shape.capacity,
                limit=shape.limit,
                refs=ctypes.addressof(refs),
                keep=refs,
            )
        return engine.senders.arena

    monkeypatch.setattr(Engine, "make_arena", make_arena)
    monkeypatch.setattr(Engine, "sends_frames", True)
    if segments is not None:
        monkeypatch.setattr(Engine, "max_segments", lambda _: segments)


def check_all_free() -> None:
    """At the end of a test: whatever it did, no frame is in use, and no gap was written to."""
    made = list(_made.values())
    _made.clear()
    for frames in made:
        frames.check_gaps()
        frames.check_free()
