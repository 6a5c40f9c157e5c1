"""The memory that `uringzc demo` sends from: registered windows, or the mapped file itself."""

import errno
import mmap
import os
import time
from typing import BinaryIO

import uringzc
from uringzc.cli.demo_receiver import NUMBER, Plan

_WINDOW = 1 << 20
_MOST_DATAGRAMS = 256  # preadv takes 1024 buffers at most


def datagrams_in_window(plan: Plan) -> int:
    """As many as make about 1 MiB."""
    return max(1, min(_MOST_DATAGRAMS, plan.per_pass, _WINDOW // plan.size))


class LostError(Exception):
    """What arrives is not the file: why, in a sentence."""


class Windows:
    """Registered memory: a window for each slot, in which the datagrams of one notifier lie.

    The file is read into a window in one system call, with gaps for the numbers of the datagrams.
    """

    def __init__(self, scheduler: uringzc.Scheduler, file: BinaryIO, plan: Plan) -> None:
        self._file, self._plan = file, plan
        self.size = plan.size  #: of a full datagram
        self.count = datagrams_in_window(plan)  #: datagrams in a window
        self.memory = self._register(scheduler)
        self.reading = 0.0  #: seconds of CPU
        datagrams = [self.memory.view[at : at + self.size] for at in range(0, len(self.memory), self.size)]
        self._numbers = [datagram[: NUMBER.size] for datagram in datagrams]
        self._pieces = [datagram[NUMBER.size :] for datagram in datagrams]

    def _register(self, scheduler: uringzc.Scheduler) -> uringzc.Region:
        while True:
            try:
                return scheduler.register(len(scheduler.slots) * self.count * self.size)
            except OSError as error:  # where little memory may be locked, smaller windows do
                if error.errno != errno.ENOMEM or self.count == 1:
                    raise
                self.count //= 2

    def fill(self, slot: int, number: int, count: int) -> int:
        """Makes `count` datagrams, from `number` on, in the slot's window; returns where they begin."""
        start = time.thread_time()
        plan, at = self._plan, slot * self.count
        for i in range(count):
            NUMBER.pack_into(self._numbers[at + i], 0, number + i)
        offset = plan.offset(number)
        read = os.preadv(self._file.fileno(), self._pieces[at : at + count], offset)
        if read != min(count * plan.piece, plan.file_size - offset):
            raise LostError(f"{self._file.name} changed its size meanwhile")
        self.reading += time.thread_time() - start
        return at * self.size


class Mapped:
    """The file itself, mapped: nothing is read or registered, and the datagrams have no numbers."""

    def __init__(self, file: BinaryIO, plan: Plan) -> None:
        self._plan = plan
        self.size = plan.piece
        self.count = datagrams_in_window(plan)
        self.memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        self.reading = 0.0

    def fill(self, slot: int, number: int, count: int) -> int:
        """Where in the file the datagrams from `number` on begin."""
        return self._plan.offset(number)
