"""The file that a receiver writes."""

import itertools
import os
import stat
import sys
from types import TracebackType

import numpy as np

from uringzc.jobs.header import Bytes, Words


class Output:
    """A file, or with "-" standard output: numbered pieces go where they belong, others behind the last.

    What cannot be written at a place, a pipe, gets everything in the order in which it came. OSError.
    """

    def __init__(self, path: str) -> None:
        self._fd = sys.stdout.fileno() if path == "-" else -1
        self._owned = path != "-"
        if self._owned:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self._seekable = self._owned and stat.S_ISREG(os.fstat(self._fd).st_mode)
        self._end = 0
        self.written = 0

    def __enter__(self) -> "Output":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._owned:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def append(self, data: bytes) -> None:
        """A datagram without a number."""
        self._put(memoryview(data), self._end)

    def write(self, offsets: Words, rows: Bytes) -> None:
        """Pieces of one size, a row each. Those that follow each other are written together."""
        size = rows.shape[1]
        breaks = np.flatnonzero(np.diff(offsets) != size) + 1
        edges = [0, *breaks.tolist(), len(rows)]
        for first, behind in itertools.pairwise(edges):
            self._put(memoryview(rows[first:behind].tobytes()), int(offsets[first]))

    def _put(self, data: memoryview, at: int) -> None:
        while data:
            done = os.pwrite(self._fd, data, at) if self._seekable else os.write(self._fd, data)
            data, at = data[done:], at + done
            self.written += done
        self._end = max(self._end, at)
