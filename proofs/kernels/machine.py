"""One kernel in the emulator, and what the guest reports of itself through its second serial port."""

import json
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from proofs.kernels.image import Kernel

#: Software emulation: hardware acceleration hangs on many virtual machines.
QEMU = (
    *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1G"),
    *("-nodefaults", "-nic", "none", "-display", "none", "-no-reboot"),
)
#: The emulator ends with this program, however that ends: after a second Ctrl-C it waits for no threads.
WITH_US = ("setpriv", "--pdeathsig", "KILL")
#: A panic is a reset, which ends the emulator. On a busy machine the emulated timer is late, and the kernel
#: would take it for a broken one. What protects against other users of a processor would only be slow.
PARAMETERS = "console=ttyS0 panic=-1 no_timer_check mitigations=off quiet"


@dataclass
class Report:
    """What a guest has said so far."""

    kernel: Kernel
    doctor: dict[str, Any] = field(default_factory=dict)
    expected: int = 0  #: tests
    tests: dict[str, dict[str, Any]] = field(default_factory=dict)
    exit: int | None = None  #: of pytest, once it has ended
    running: str = ""  #: the test that has begun and not ended
    seconds: float = 0.0
    stopped: str = ""  #: by us or the emulator, why
    console: str = ""

    def count(self, outcome: str) -> int:
        """Of tests."""
        return sum(test["outcome"] == outcome for test in self.tests.values())

    @property
    def problem(self) -> str:
        """Why not every test has ended, "" if each has; a test that failed is no such problem."""
        if self.exit is None or self.exit > 1 or not 0 < len(self.tests) == self.expected:
            during = f" in {self.running}" if self.running else ""
            how = self.stopped or f"the guest ended, pytest's exit code is {self.exit}"
            return f"{len(self.tests)} of {self.expected} tests have ended{during}: {how}"
        return ""

    def read(self, line: str) -> None:
        """A line of JSON from the guest."""
        said = json.loads(line)
        if "test" in said:
            self.tests[said.pop("test")] = said
            self.running = ""
        else:
            for name, value in said.items():
                setattr(self, name, value)


def run(
    kernel: Kernel, root: Path, limit: float, stop: threading.Event, show: Callable[[Report], object]
) -> Report:
    """Boots it and waits for its end: at most `limit` seconds, or until `stop` is set."""
    report = Report(kernel)
    initrd, console, said = (kernel.image.parent / name for name in ("initrd", "console", "said"))
    with initrd.open("wb") as whole:
        for part in (root, kernel.modules):
            whole.write(part.read_bytes())
    ports = ("-serial", f"file:{console}", "-serial", f"file:{said}")
    boot = ("-kernel", kernel.image, "-initrd", initrd, "-append", PARAMETERS)
    said.write_bytes(b"")
    begin = time.monotonic()
    # in a session of its own: Ctrl-C of a terminal ends this program, which ends the emulator
    with (
        subprocess.Popen(
            [*WITH_US, *QEMU, *ports, *boot], start_new_session=True, stderr=subprocess.PIPE
        ) as qemu,
        said.open() as lines,
    ):
        try:
            while not (ended := _ended(qemu)) and time.monotonic() - begin < limit and not stop.is_set():
                report.seconds = time.monotonic() - begin
                _read(lines, report)
                show(report)
            _read(lines, report)
        finally:
            qemu.kill()
        report.stopped = "" if ended else f"stopped after {report.seconds:.0f} s"
        if qemu.stderr and (complaint := qemu.stderr.read()):
            report.stopped = complaint.decode().strip()
    initrd.unlink()
    report.console = console.read_text(errors="replace") if console.exists() else ""
    return report


def _ended(process: subprocess.Popen[bytes]) -> bool:
    """After half a second, or when it has ended."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(0.5)
    return process.returncode is not None


def _read(lines: TextIO, report: Report) -> None:
    """What is there; the beginning of a line that has not come whole is left for the next time."""
    while True:
        place = lines.tell()
        if not (line := lines.readline()).endswith("\n"):
            lines.seek(place)
            return
        report.read(line)
