"""examples/load.py and share_file.py on processes, hosts over ssh, and workers of Dask and Ray.

Two machines send, or receive, and all of it comes; of one that fails it is said which and why.
"""

import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from both_ends import receiving
from processes import child
from sshd import requires_sshd, sshd
from test_examples import EXAMPLES

from uringzc.jobs import Received

pytestmark = pytest.mark.engines()
ssh_starts_python = pytest.mark.uninstrumented("a Python that ssh starts is not instrumented")

#: what a busy machine may make of it; and ends of streams that a receiver, which has all, does not wait for
LATE = "|".join(
    (
        r"FAILED: the job began [\d.]+ s after its start_at",
        r"FAILED: the rate was [\d.]+% of \w+",
        r"FAILED: Connection refused: \d+ times?\b",
        r"FAILED: \d+ datagrams? could not be sent",
    )
)


PIECES = 53  # datagrams of the file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(random.Random(1).randbytes(60_321))
    return path


@pytest.fixture
def ssh(tmp_path: Path) -> Iterator[list[str]]:
    """The way of both examples to a server of this machine."""
    folder = tmp_path / "ssh"
    folder.mkdir(mode=0o700)
    with sshd(folder) as options:
        yield ["ssh", f"--python={sys.executable}", f"--ssh-options={options}"]


def run(name: str, *options: object) -> tuple[int, str]:
    """The status of an example, without what a slow machine adds, and what it printed."""
    environment = {**os.environ, "PYTHONPATH": "", "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, options)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=environment,
    )
    assert done.returncode in (0, 1), done.stderr
    failed = "FAILED" in done.stdout
    assert done.returncode == failed, done.stdout + done.stderr
    return int("FAILED" in re.sub(LATE, "", done.stdout)), done.stdout


def check_load(said: str, received: Received) -> None:
    """What two have sent is what came, or was lost, and the sum is the sum."""
    each = [int(number.replace(",", "")) for number in re.findall(r"([\d,]+) datagrams ", said)]
    assert sorted(stream.expected for stream in received.streams) == sorted(each[:2]), said
    if each[2:]:
        assert each[2:] == [sum(each[:2])], said
        assert re.search(r"^together .* in the [\d.]+ s in which all of these ran$", said, re.MULTILINE)
    else:  # one began so late
        assert re.search(r"^together +not known: the jobs have no whole interval", said, re.MULTILINE)


def load(*way: object, rate: str = "500pps") -> tuple[int, str, Received]:
    """A load of half a second, and what came of it."""
    options = [f"--rate={rate}", "--size=200", "--duration=0.5", "--start-in=2"]
    with receiving(count=500, idle=5) as end:  # all of it, or less where it was too slow
        status, said = run("load.py", end.address, *options, *way)
    return status, said, end.received


def file_from_many(file: Path, *way: object) -> tuple[int, str, bytes]:
    """Each sends a share of it: what one receiver has put together."""
    copy = file.with_suffix(".copy")
    with receiving(output=str(copy), count=PIECES, idle=20) as end:
        status, said = run("load.py", end.address, "--start-in=1", f"--file={file}", *way)
    return status, said, copy.read_bytes()


def file_to_many(file: Path, *way: object) -> tuple[int, str, bytes]:
    """Each gets a share of it: what these are together."""
    copy = file.with_suffix(".shares")
    status, said = run("share_file.py", file, copy, *way)
    return status, said, copy.read_bytes()


def test_processes(file: Path) -> None:
    status, said, received = load("processes", 2)
    assert status == 0, said
    check_load(said, received)
    status, said, copy = file_from_many(file, "processes", 3)
    assert (status, copy == file.read_bytes()) == (0, True), said


def test_threads_get_shares(file: Path) -> None:
    status, said, copy = file_to_many(file, "threads", 3)
    assert (status, copy == file.read_bytes()) == (0, True), said
    assert re.findall(r"^thread (\d)  share (\d/3) +([\d,]+) bytes$", said, re.MULTILINE) == [
        ("1", "1/3", "19,720"),
        ("2", "2/3", "20,880"),
        ("3", "3/3", "19,721"),
    ]


@pytest.mark.slow
@ssh_starts_python
@requires_sshd
def test_ssh(file: Path, ssh: list[str]) -> None:
    """One host of three cannot be reached: it is said which, and the others have sent."""
    status, said, received = load(*ssh, "one", "gone", "two")
    assert status == 1
    assert re.search(
        r"^gone +FAILED: ssh: connect to host 127.0.0.1 port \d+: Connection refused$", said, re.M
    )
    check_load(said, received)
    assert said.endswith("1 of 3 failed, and are not in the sum\n")
    status, said, copy = file_from_many(file, *ssh, "one", "two")
    assert (status, copy == file.read_bytes()) == (0, True), said


@pytest.mark.slow
@ssh_starts_python
@requires_sshd
def test_ssh_gets_shares(file: Path, ssh: list[str]) -> None:
    status, said, copy = file_to_many(file, *ssh, "one", "two")
    assert (status, copy == file.read_bytes()) == (0, True), said
    status, said, copy = file_to_many(file, *ssh, "one", "gone")
    assert status == 1
    assert re.search(r"^one +share 1/2 +\d\d,\d{3} bytes$", said, re.MULTILINE)
    assert re.search(r"^gone +share 2/2 +FAILED: ssh: connect to host .* refused$", said, re.MULTILINE)
    assert copy == file.read_bytes()[: len(copy)]


#: two workers, in a folder each: what is in the first one's, the second does not have
CLUSTER = """
import os, sys
from distributed import Client, LocalCluster
if __name__ == "__main__":
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "silence_logs": 50}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        client.run(os.chdir, sys.argv[1], workers=[cluster.workers[0].worker_address])
        print(cluster.scheduler_address, flush=True)
        sys.stdin.readline()
"""


@pytest.mark.slow
def test_dask(file: Path) -> None:
    """The last file only one worker has: that one sends its share, and of the other it is said why not."""
    pytest.importorskip("distributed")
    with child(CLUSTER, file.parent) as cluster:
        way = ["dask", cluster.line()]
        status, said, received = load(*way)
        assert status == 0, said
        check_load(said, received)
        status, said, copy = file_to_many(file, *way)
        assert (status, copy == file.read_bytes()) == (0, True), said
        with receiving(count=PIECES // 2, idle=20) as end:
            status, said = run("load.py", end.address, "--start-in=1", f"--file={file.name}", *way)
        assert status == 1
        assert re.search(
            rf"^tcp://\S+ +FAILED: .*No such file or directory: '{file.name}'$", said, re.MULTILINE
        )
        assert said.endswith("1 of 2 failed, and are not in the sum\n")
        assert end.received.datagrams == PIECES // 2
        cluster.write_line()
        cluster.end()


@pytest.mark.slow
def test_ray(file: Path) -> None:
    pytest.importorskip("ray")
    status, said, received = load("ray")
    assert status == 0, said
    check_load(said, received)
    status, said, copy = file_from_many(file, "ray")
    assert (status, copy == file.read_bytes()) == (0, True), said
    status, said, copy = file_to_many(file, "ray")
    assert (status, copy == file.read_bytes()) == (0, True), said
