"""Calibrations with made numbers, and the file that the process under test reads."""

from pathlib import Path

from uringzc.calibration import saved
from uringzc.calibration.saved import Calibration, Size
from uringzc.kernel.interface import Interface

ETH0 = Interface("eth0", "virtio_net", "0000:00:03.0", 1500)
SIZES = (Size(256, 500.0, 700.0, -0.4, "copy"), Size(65507, 3000.0, 900.0, 0.7, "zero-copy"))


def calibration(
    device: Interface = ETH0,
    engine: str = "io_uring",
    min_zero_copy: int | None = 5000,
    at: str = "2026-11-22T18:30:00+00:00",
) -> Calibration:
    """Of this machine and kernel."""
    machine, kernel = saved.this_machine()
    return Calibration(machine, kernel, *device, engine, min_zero_copy, False, at, "192.0.2.7", SIZES)


def keep(path: Path, *some: Calibration) -> None:
    """Writes them, as `uringzc calibrate` does."""
    saved.save(str(path), some, "0.1.0")
