"""`python -m uringzc.jobs`: a job as JSON in, its result as JSON out, and an end when nobody listens."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from both_ends import receiving
from processes import killed_at_exit

from uringzc import testing
from uringzc.jobs import Job, Received, ReceiveJob, Result
from uringzc.jobs.__main__ import read_job

pytestmark = pytest.mark.engines()
COMMAND = [sys.executable, "-X", "dev", "-W", "error", "-m", "uringzc.jobs"]


@contextmanager
def program(job: object, stdout: int = subprocess.PIPE) -> Iterator["subprocess.Popen[str]"]:
    """It runs, and has read this."""
    process = subprocess.Popen(
        COMMAND, stdin=subprocess.PIPE, stdout=stdout, stderr=subprocess.PIPE, text=True
    )
    with killed_at_exit(process):
        assert process.stdin
        process.stdin.write(job if isinstance(job, str) else json.dumps(job))
        process.stdin.close()
        process.stdin = None
        yield process


def ended(job: object) -> tuple[int, list[Any], str]:
    """Its status, the objects that it printed, and its errors."""
    with program(job) as process:
        out, errors = process.communicate(timeout=30)
    return process.returncode, [json.loads(line) for line in out.splitlines()], errors


def test_a_job_in_and_a_result_out() -> None:
    with receiving() as end:
        job = Job(end.address, count=100, size=60)
        status, (said,), errors = ended(job.as_dict())
    assert (status, errors) == (0, "")
    assert Job.from_dict(said["job"]) == job
    assert Result.from_dict(said["result"]).datagrams == end.received.datagrams == 100


def test_what_did_not_hold_is_in_the_result() -> None:
    status, (said,), errors = ended({"to": "127.0.0.1:9", "count": 1, "start_at": 1.0})
    assert (status, errors) == (1, "")
    assert "after its start_at" in " ".join(said["result"]["failed"])


def test_a_receive_job_says_when_it_is_ready(tmp_path: Path) -> None:
    output = tmp_path / "output"
    with program({"bind": "127.0.0.1:0", "output": str(output), "count": 1}) as process:
        assert process.stdout
        ready = json.loads(process.stdout.readline())["ready"]
        with program({"to": ready, "lines": True, "file": __file__, "count": 1}) as sender:
            sender.communicate(timeout=30)
        out, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
    said = json.loads(out)
    assert ReceiveJob.from_dict(said["job"]).count == 1
    assert Received.from_dict(said["received"]).datagrams == 1
    assert output.read_text() == f'"""{__doc__}"""\n'


@pytest.mark.parametrize("job", [{"count": 10**12, "rate": "10kpps"}, {"count": 1, "start_at": 1e11}])
def test_it_ends_when_nobody_reads_its_output(job: dict[str, Any]) -> None:
    """As when the ssh that started it has ended: while it sends, and before."""
    with testing.receiver() as rx:
        reading, writing = os.pipe()
        with program({"to": f"127.0.0.1:{rx.address[1]}", **job}, stdout=writing) as process:
            os.close(writing)
            if "rate" in job:
                rx.wait(100, 30)
            os.close(reading)
            assert process.communicate(timeout=30)[1] == ""
    assert process.returncode == 130


def test_sigterm_ends_it_with_the_result() -> None:
    with testing.receiver() as rx:
        job = Job(f"127.0.0.1:{rx.address[1]}", count=10**12, rate="1kpps")
        with program(job.as_dict()) as process:
            rx.wait(20, 30)
            process.terminate()
            out, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (143, "")
    assert json.loads(out)["result"]["stopped"] == "interrupt"


def test_a_receiver_ends_when_nobody_reads_its_output() -> None:
    with program({"bind": "127.0.0.1:0"}) as process:
        assert process.stdout
        assert json.loads(process.stdout.readline()).keys() == {"ready"}
        process.stdout.close()
        assert process.stderr
        assert process.stderr.read() == ""
        assert process.wait(30) == 130


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "standard input is no JSON: "),
        ("[1]", r"a job is a JSON object, not \[1\]"),
        ("{}", 'a job has "to", where it sends, or "bind", where it receives'),
        ('{"to": "127.0.0.1"}', "'127.0.0.1' is not HOST:PORT"),
        ('{"to": "127.0.0.1:9", "sized": 1}', "a Job has no 'sized'"),
        ('{"to": "127.0.0.1:9", "count": "1"}', "count of a Job cannot be '1'"),
        ('{"to": "127.0.0.1:9", "count": 1, "file": "-"}', "the job came on standard input"),
        ('{"bind": ":0", "output": "-"}', "standard output has the result"),
        ('{"bind": 9000}', "bind of a ReceiveJob cannot be 9000"),
    ],
)
def test_what_is_no_job(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_job(text)


@pytest.mark.parametrize(
    ("job", "why"),
    [
        ("", "standard input is no JSON: "),
        ({"to": "127.0.0.1:9", "count": 1, "file": "/no/file"}, "/no/file: No such file or directory\n"),
    ],
    ids=["no job", "no file"],
)
def test_what_cannot_be_run_is_one_line(job: object, why: str) -> None:
    status, out, errors = ended(job)
    assert (status, out) == (2, [])
    assert errors.startswith(f"uringzc.jobs: {why}")
    assert len(errors.splitlines()) == 1
