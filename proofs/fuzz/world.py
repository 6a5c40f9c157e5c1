"""What happens between calls: to memory, objects, sockets and the network. The steps "world.what"."""

import contextlib
import gc
import time
from typing import TYPE_CHECKING

from proofs.fuzz.programs import Step

if TYPE_CHECKING:
    from proofs.fuzz.player import Player


# ruff: noqa: D102 - the names are those of the steps
class World:
    """Of one program."""

    def __init__(self, player: "Player") -> None:
        self.player = player

    def write(self, _: Step) -> None:
        self.player.memories.overwrite()

    def forget_holds(self, _: Step) -> None:
        """A control: from here on the program does what it must not."""
        for memory in self.player.memories.all:
            memory.holds.clear()

    def stop(self, _: Step) -> None:
        self.player.network.stop()

    def release(self, _: Step) -> None:
        self.player.network.release()

    def wait(self, _: Step) -> None:
        time.sleep(0.002)

    def collect(self, _: Step) -> None:
        gc.collect()

    def threshold(self, _: Step) -> None:
        gc.set_threshold(self.player.rnd.choice([1, 10, 700]))

    def drop(self, step: Step) -> None:
        self.player.drop(step.give.get("kind", "UdpSender"), step.on)

    def resize(self, step: Step) -> None:
        buffers = [one for one in self.player.memories.buffers if isinstance(one, bytearray)]
        if buffers:
            with contextlib.suppress(BufferError):
                buffers[step.on % len(buffers)].append(0)

    def close_socket(self, step: Step) -> None:
        self.player.effects.socket_closed()
        self.player.things.close_socket(step.on)

    def steal_descriptor(self, _: Step) -> None:
        self.player.things.steal_descriptor()

    def stop_reading(self, step: Step) -> None:
        if some := self.player.network.connections:
            self.player.network.stop_reading(some[step.on % len(some)])

    def reset(self, step: Step) -> None:
        if some := self.player.network.connections:
            self.player.network.reset(some[step.on % len(some)])

    def turn(self, step: Step) -> None:
        for _ in range(1 + step.on):
            self.player.tasks.turn(0)

    def cancel(self, step: Step) -> None:
        if some := self.player.tasks.left:
            some[step.on % len(some)][0].cancel()
