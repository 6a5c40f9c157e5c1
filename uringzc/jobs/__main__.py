"""python -m uringzc.jobs: runs the Job or ReceiveJob on standard input, and prints what came of it.

    echo '{"to": "192.0.2.7:9000", "duration": 5}' | ssh HOST python3 -m uringzc.jobs
    echo '{"bind": ":9000"}' | ssh HOST python3 -m uringzc.jobs

Standard input is one JSON object, ``as_dict()`` of the job or some of its fields; with "to" it is a Job.
Standard output is one line of JSON, {"job": ..., "result": ...} or {"job": ..., "received": ...}; a
ReceiveJob prints {"ready": "HOST:PORT"} first, as soon as datagrams can come. What keeps a job from running
is one line on standard error.

It ends as by Ctrl-C when nobody reads its output any more: when the ssh that started it has ended, or the
machine where that ran is gone, nothing goes on sending.

Exit status: 0 done; 1 not all was sent as asked (`failed` of the result says why); 2 the job cannot be run;
130 it was interrupted; 143 by SIGTERM.
"""

import json
import sys
from contextlib import suppress
from typing import Any

from uringzc.jobs.job import Job
from uringzc.jobs.receive_job import ReceiveJob
from uringzc.jobs.result import Interrupted
from uringzc.jobs.signals import INTERRUPTED, interrupt_at_hangup, sigterm_interrupts


def main() -> int:
    """Returns the exit status."""
    if sys.argv[1:]:
        print((__doc__ or "").strip())
        return 0 if sys.argv[1:] in (["-h"], ["--help"]) else 2
    try:
        job = read_job(sys.stdin.read())
        done, status = run_job(job)
    except KeyboardInterrupt:
        return INTERRUPTED
    except ModuleNotFoundError as error:
        return refused(f"{error.name} is not installed: pip install 'uringzc[jobs]'")
    except ValueError as error:
        return refused(str(error))
    except OSError as error:
        file = f"{error.filename}: " if error.filename else ""
        return refused(f"{file}{error.strerror or error}")
    name = "received" if isinstance(job, ReceiveJob) else "result"
    tell({"job": job.as_dict(), name: done.as_dict()})
    return status


def read_job(text: str) -> Job | ReceiveJob:
    """The job that is described. ValueError for what is none."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ValueError(f"standard input is no JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"a job is a JSON object, not {values!r}")
    if not {"to", "bind"} & values.keys():
        raise ValueError('a job has "to", where it sends, or "bind", where it receives')
    if "to" not in values:
        job = ReceiveJob.from_dict(values)
        if job.output == "-":
            raise ValueError("standard output has the result, and cannot be the output of the job too")
        return job
    if values.get("file") == "-":
        raise ValueError("the job came on standard input, which cannot be the file too")
    return Job.from_dict(values)


def run_job(job: Job | ReceiveJob) -> tuple[Any, int]:
    """Its Result, or what was Received; and the exit status."""
    from uringzc.jobs import receive, run

    interrupt_at_hangup(sys.stdout.fileno())  # not while numpy is imported, which makes other errors of that
    with sigterm_interrupts() as status:
        try:
            if isinstance(job, Job):
                result = run(job)
                return result, int(bool(result.failed))
            return receive(job, ready=lambda bind: tell({"ready": bind})), 0
        except Interrupted as stop:
            return stop.result, status()


def tell(values: dict[str, Any]) -> None:
    """Prints a line of JSON, for who reads it."""
    with suppress(BrokenPipeError):
        print(json.dumps(values), flush=True)


def refused(why: str) -> int:
    """Says it, and returns the exit status."""
    print(f"uringzc.jobs: {why}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
