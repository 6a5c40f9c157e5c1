"""Memory of requests in flight."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

from benchmarks.bench import Bench, topic


@topic("Memory beyond the payload")
def memory(bench: Bench) -> None:
    """Resident memory of a process with 65,536 requests in flight, per request: at most 128 bytes are
    wanted, and no growth.
    """
    for kind in ("region", "bytes", "notifications", "soak"):
        task = bench.progress.add_task(f"memory, {kind}", total=None, name="")
        command = [sys.executable, "-m", "benchmarks.programs.memory", kind, str(bench.plan.soak)]
        measure = partial(subprocess.run, command, check=True, capture_output=True)
        bench.results.memory[kind] = json.loads(bench.large_sink.run(measure).stdout)["bytes"]
        bench.progress.remove_task(task)
    bench.results.memory["soak_requests"] = bench.plan.soak
