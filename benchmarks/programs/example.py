"""examples/send_zerocopy.py as a contender, as its command runs it."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from benchmarks.pairs import Contender, Sample
from uringzc import testing

EXAMPLE = Path(__file__).parents[2] / "examples" / "send_zerocopy.py"


def send_zerocopy(name: str, box: testing.Sandbox, size: int, batch: int) -> Contender:
    """Return runs of that program's sender, each with a new socket and scheduler, in that network."""
    program = runpy.run_path(str(EXAMPLE))
    host, port = box.address

    def run(seconds: float) -> Sample:
        longer = str(max(0.0, seconds - program["SLACK"]))
        where = ("-4", "-D", host, "-p", str(port), "udp")
        options = program["parse"]([*where, "-s", str(size), "-n", str(batch), "-t", longer])
        tally: Any = box.run(program["Sender"](options).run)
        copied = None if tally.copied is None else tally.copied / tally.packets
        return Sample(tally.packets, tally.seconds, tally.cpu, copied)

    return Contender(name, run)
