"""reference.c, an io_uring loop in C, as a contender."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.pairs import Contender, Sample


@functools.cache
def build(source: str = "reference.c") -> Path:
    """Compile a C file of this folder for this processor, once, into a folder that is removed at exit."""
    folder = Path(tempfile.mkdtemp(prefix="uringzc-bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(__file__).with_name(source)
    program = folder / path.stem
    subprocess.run(["cc", "-O3", "-march=native", path, "-luring", "-o", program], check=True)
    return program


class Reference:
    """The C program as a process that runs on request; it sends on `sock`, which it shares until `close`.

    `batch`: requests per submit; `window`: in flight at most; `pool`: bytes of payloads. `segment` sets
    UDP_SEGMENT, and a request then counts as the datagrams it becomes.
    """

    def __init__(
        self, sock: socket.socket, *, batch: int = 32, window: int = 64, pool: int = 4 << 20, segment: int = 0
    ) -> None:
        fd = sock.fileno()
        self._segment = segment
        options = {"fd": fd, "batch": batch, "window": window, "pool": pool >> 20, "segment": segment}
        self._process = subprocess.Popen(
            [build(), "--serve", "--report-usage", *(f"--{name}={it}" for name, it in options.items())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[fd],
            text=True,
        )

    def __enter__(self) -> Reference:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def contender(self, mode: str, size: int, name: str | None = None) -> Contender:
        """Return requests of `size` bytes; modes: copy, zc, zc-unregistered."""
        datagrams = -(-size // self._segment) if self._segment else 1

        def run(seconds: float) -> Sample:
            answer = self._run(mode, size, seconds)
            sent = answer["requests"] * datagrams
            return Sample(sent, answer["seconds"], answer["cpu_seconds"], answer["copied_share"])

        return Contender(name or f"C {mode}", run)

    def _run(self, mode: str, size: int, seconds: float) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(mode, size, seconds, file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline() or '{"error": "it has ended"}')
        if answer["error"]:
            raise RuntimeError(f"C reference, {mode} of {size} bytes: {answer['error']}")
        return answer
