"""`make valgrind`: slot accounting and the request table under memcheck.

slots.c uses them at random, without Python, whose own allocations would hide ours, and without an engine,
because valgrind does not know the newer requests of io_uring. Whatever it is given back is freed at once, so
that a reference that comes back twice, never, or for another request is an error of memcheck.
"""

import subprocess
import time
from pathlib import Path

import click
from rich.progress import track

from proofs import sanitizers
from proofs.builds import BUILD
from proofs.page import ROOT

FOLDER = BUILD / "valgrind"
MEMCHECK = (
    "valgrind",
    "--quiet",
    "--error-exitcode=9",
    "--leak-check=full",
    "--show-leak-kinds=definite,possible",
    "--errors-for-leak-kinds=definite,possible",
)
#: CONTROL of slots.c, and what is reported
CONTROLS = {
    "a reference that is dropped twice": "Invalid read",
    "a reference that is never dropped": "definitely lost",
    "a count that was not written": "uninitialised",
}
STEPS = 5000  # of each random program


@click.command()
@click.option("--programs", default=400, show_default=True, help="How many random programs.")
@click.option("--write", is_flag=True, help="Put the result into the table of docs/proof.md.")
def main(programs: int, write: bool) -> None:
    """Runs random programs of slot accounting under memcheck."""
    subprocess.run([ROOT / "scripts/system-packages", "python3", "valgrind"], check=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for control, (what, expected) in enumerate(CONTROLS.items(), 1):
        found = _memcheck(_compile(control), 1, 5)
        if found.returncode != 9 or expected not in found.stderr:
            raise SystemExit(f"a control that was not reported: {what}")
    sanitizers.say(f"{len(CONTROLS)} controls were reported: {', '.join(CONTROLS)}")

    program, began, requests, reports = _compile(), time.monotonic(), 0, []
    share = 10  # programs of one process
    for first in track(range(1, programs + 1, share), "memcheck", transient=True):
        ran = _memcheck(program, first, min(share, programs + 1 - first))
        requests += int(ran.stdout or 0)
        if ran.returncode:
            reports.append(f"programs from {first} on, status {ran.returncode}:\n{ran.stderr}")
    said = f"{programs:,} random programs, {requests:,} requests in {time.monotonic() - began:.0f} s"
    sanitizers.finish("make valgrind", said, reports, holds=requests > 0, write=write)


def _compile(control: int = 0) -> Path:
    program = FOLDER / f"slots-{control}"
    sources = [ROOT / "proofs/slots.c", *sorted((ROOT / "uringzc/_native/slots").glob("*.c"))]
    flags = ["-std=gnu11", "-g", "-O1", f"-DCONTROL={control}", f"-I{ROOT / 'uringzc/_native'}"]
    subprocess.run(["gcc", *flags, "-o", program, *sources], check=True)
    return program


def _memcheck(program: Path, first: int, count: int) -> "subprocess.CompletedProcess[str]":
    command = [*MEMCHECK, str(program), str(first), str(count), str(STEPS)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    main()
