"""Load from many machines at once, or a file that each of them sends a share of; the sums, and who failed.

    load.py 192.0.2.7:9000 ssh worker1 worker2 worker3        # each as this user, without a password
    load.py 192.0.2.7:9000 processes 4                        # of this machine
    load.py 192.0.2.7:9000 dask tcp://192.0.2.1:8786          # each worker (needs distributed)
    load.py 192.0.2.7:9000 ray 192.0.2.1:6379                 # each node (needs ray)

The receiver is `uringzc recv --bind :9000 --idle 5`. Each machine runs a Job of its own; all begin at one
time, by their clocks. A file is one that each machine has: `uringzc recv --output` puts the shares together.

uringzc is installed on all machines, with the extra jobs. Exit status 1 if a machine failed, or did not send
what was asked for; 2 for wrong options; 130 for Ctrl-C, which ends the load everywhere.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import Any, NamedTuple

from uringzc.jobs import Job, Result, run, total

SSH = ["ssh", "-oBatchMode=yes", "-oConnectTimeout=5", "-oServerAliveInterval=5"]

#: what a machine has done, or why it has not
Outcome = Result | BaseException
#: makes the jobs of so many machines, which begin soon
MakeJobs = Callable[[int], list[Job]]
#: the machines by name; a name may be there twice
Outcomes = list[tuple[str, Outcome]]


def by_processes(options: argparse.Namespace, make_jobs: MakeJobs) -> Outcomes:
    """In processes of this machine (concurrent.futures)."""
    jobs = make_jobs(options.count)
    with ProcessPoolExecutor(len(jobs), mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(run, job) for job in jobs]
        return [(f"process {number}", outcome(future)) for number, future in enumerate(futures, 1)]


def by_ssh(options: argparse.Namespace, make_jobs: MakeJobs) -> Outcomes:
    """On each host, by `python3 -m uringzc.jobs`: the job is its input, the result its output."""
    with ThreadPoolExecutor(len(options.hosts)) as pool:
        jobs = make_jobs(len(options.hosts))
        futures = [pool.submit(run_on, options, *each) for each in zip(options.hosts, jobs, strict=True)]
        return [(host, outcome(future)) for host, future in zip(options.hosts, futures, strict=True)]


def run_on(options: argparse.Namespace, host: str, job: Job) -> Result:
    """The result of one host. It ends its job if this ssh ends."""
    command = [*SSH, *shlex.split(options.ssh_options), "--", host, f"{options.python} -m uringzc.jobs"]
    done = subprocess.run(
        command, input=json.dumps(job.as_dict()), capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 1) or not done.stdout:  # 1: not all was sent as asked, as the result says
        said = done.stderr.strip().splitlines()
        raise RuntimeError(said[-1] if said else f"ssh ended with {done.returncode}")
    return Result.from_dict(json.loads(done.stdout.splitlines()[-1])["result"])


def by_dask(options: argparse.Namespace, make_jobs: MakeJobs) -> Outcomes:
    """Once on each worker, by Client.run."""
    from distributed import Client, Worker

    local = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with Client(options.scheduler, timeout=10) if options.scheduler else Client(**local) as client:
        workers = list(client.scheduler_info(n_workers=-1)["workers"])
        jobs = dict(zip(workers, make_jobs(len(workers)), strict=True))

        async def run_here(dask_worker: Worker) -> Result:
            import asyncio

            return await asyncio.to_thread(run, jobs[dask_worker.address])  # its event loop goes on

        return list(client.run(run_here, on_error="return").items())


def by_ray(options: argparse.Namespace, make_jobs: MakeJobs) -> Outcomes:
    """A task on each node; of one node two."""
    import ray

    nodes = ray_nodes(options)
    task = ray.remote(max_retries=0)(run)  # a job that is run again is late
    futures = [
        task.options(**node.options).remote(job).future()
        for node, job in zip(nodes, make_jobs(len(nodes)), strict=True)
    ]
    names = [f"{node.host} task {number}" for number, node in enumerate(nodes, 1)]
    return [(name, outcome(future)) for name, future in zip(names, futures, strict=True)]


class Node(NamedTuple):
    """A node of Ray."""

    host: str
    options: dict[str, Any]  #: that place a task or an actor there


def ray_nodes(options: argparse.Namespace) -> list[Node]:
    """Those that are there; if it is only one, that twice."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    local = {"num_cpus": 2, "include_dashboard": False}
    try:
        ray.init(options.address or "local", log_to_driver=False, **({} if options.address else local))
    except Exception as error:  # it has no type of its own for a node that does not start
        raise OSError(f"Ray: {error}") from error
    nodes = [
        Node(
            node["NodeManagerAddress"],
            {"scheduling_strategy": NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)},
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
    return nodes * 2 if len(nodes) == 1 else nodes


def outcome(future: "Future[Result]") -> Outcome:
    """When it is there."""
    return future.exception() or future.result()


# -- what these have in common


def jobs_of(options: argparse.Namespace) -> MakeJobs:
    """The same job for each machine, or a share of the file."""
    duration = None if options.file else options.duration
    job = Job(options.to, file=options.file, size=options.size, rate=options.rate, duration=duration)

    def make_jobs(count: int) -> list[Job]:
        jobs = [replace(job, start_at=time.time() + options.start_in)] * count
        if options.file is None:
            return jobs
        return [replace(job, numbered=True, share=(part, count)) for part, job in enumerate(jobs)]

    return make_jobs


def report(outcomes: Outcomes) -> int:
    """Prints a line for each machine, and the sum. The exit status."""
    results = [result for _, result in outcomes if isinstance(result, Result)]
    width = max(len("together"), *(len(name) for name, _ in outcomes))
    for name, result in outcomes:
        if isinstance(result, Result):
            print(f"{name:{width}}  {line(result)}")
            for sentence in result.failed:
                print(f"{'':{width}}  FAILED: {sentence}")
        else:
            print(f"{name:{width}}  FAILED: {result or type(result).__name__}")
    if len(results) > 1:
        try:
            both = total(results)
            print(
                f"{'together':{width}}  {line(both)}, in the {both.seconds:.1f} s in which all of these ran"
            )
        except ValueError as error:
            print(f"{'together':{width}}  not known: {error}")
    if missing := len(outcomes) - len(results):
        print(f"{missing} of {len(outcomes)} failed, and are not in the sum")
    return 1 if missing or any(result.failed for result in results) else 0


def line(result: Result) -> str:
    """One result, or a sum."""
    gbit = result.bits_per_second / 1e9
    return f"{result.datagrams:11,} datagrams  {result.pps:11,.0f} /s  {gbit:7.3f} Gbit/s"


def add_ways(parser: argparse.ArgumentParser, **ways: Callable[..., Any]) -> None:
    """The ways to run something on many machines, as commands with options of their own."""
    commands = parser.add_subparsers(required=True, metavar="WAY", help=", ".join(ways))
    for name, call in ways.items():
        way = commands.add_parser(name, help=(call.__doc__ or "").partition(":")[0].strip("."))
        way.set_defaults(way=call)
        if name == "ssh":
            way.add_argument("hosts", nargs="+", metavar="HOST", help="as for ssh; may be there twice")
            way.add_argument("--python", default="python3", help="the one there with uringzc (python3)")
            way.add_argument("--ssh-options", default="", help='as in --ssh-options="-p 2222"')
        elif name == "dask":
            way.add_argument("scheduler", nargs="?", help="tcp://HOST:PORT; none: two workers start here")
        elif name == "ray":
            way.add_argument("address", nargs="?", help="HOST:PORT, or auto; none: Ray starts here")
        else:
            way.add_argument("count", type=int, choices=range(1, 1025), metavar="N", help="1 to 1024")


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("to", metavar="HOST:PORT", help="where to send to")
    parser.add_argument("--rate", help="of each machine: 200kpps, 2.5Gbit or 300MB (as fast as it goes)")
    parser.add_argument("--size", type=int, default=1200, help="bytes in a datagram (1200)")
    parser.add_argument("--duration", type=float, default=10.0, help="seconds (10)")
    parser.add_argument("--file", help="send this file, each machine a share, instead of a load")
    parser.add_argument("--start-in", type=float, default=5.0, help="seconds from now (5)")
    add_ways(parser, ssh=by_ssh, processes=by_processes, dask=by_dask, ray=by_ray)
    options = parser.parse_args()
    try:
        jobs_of(options)(1)
    except ValueError as error:
        parser.error(str(error))
    return options


if __name__ == "__main__":
    try:
        options = parse()
        sys.exit(report(options.way(options, jobs_of(options))))
    except ModuleNotFoundError as error:
        sys.exit(f"load.py needs {error.name}, which is not installed: pip install {error.name}")
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:  # no scheduler
        sys.exit(str(error))
