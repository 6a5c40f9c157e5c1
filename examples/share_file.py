"""A file sent to many machines at once, each a share of it: what came there, and who failed.

    share_file.py big.iso /data/big.iso ssh worker1 worker2 worker3
    share_file.py big.iso /data/big.iso dask tcp://192.0.2.1:8786      # each worker (needs distributed)
    share_file.py big.iso /data/big.iso ray 192.0.2.1:6379             # each node (needs ray)
    share_file.py big.iso copy.iso threads 3                           # of this machine, to try

This machine sends; a receiver on each of the others writes its share where it belongs in the file: the rest
is a hole, until another share is written there (as here, where all are on one machine). Nothing is sent
again, so --rate is for the slowest of them.

uringzc is installed on all machines, with the extra jobs, and load.py lies beside this file. Exit status 1 if
a share did not come whole; 2 for wrong options.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import Timer
from typing import Any, NamedTuple

from load import SSH, Node, add_ways, ray_nodes

from uringzc.jobs import Interrupted, Job, Progress, Received, ReceiveJob, receive, run

PATIENCE = 5.0  # seconds that a receiver has, when all was sent


class Receiver:
    """Receives in a thread, on whichever machine it is made. Ends by itself when nobody sends any more."""

    def __init__(self, job: ReceiveJob) -> None:
        self._patience, self._heard, self._datagrams = 60.0, time.monotonic(), 0
        self._address: Future[str] = Future()
        pool = ThreadPoolExecutor(1)
        self._received = pool.submit(receive, job, self._look, self._address.set_result)
        self._received.add_done_callback(self._refused)
        pool.shutdown(wait=False)

    def address(self) -> str:
        """As soon as datagrams can come."""
        return self._address.result()

    def received(self, seconds: float) -> Received:
        """What came, when the stream has ended, or when nothing came for so many seconds."""
        self._patience, self._heard = seconds, time.monotonic()
        try:
            return self._received.result()
        except Interrupted as stop:
            received: Received = stop.result
            return received

    def _look(self, progress: Progress) -> None:
        if progress.datagrams != self._datagrams:
            self._datagrams, self._heard = progress.datagrams, time.monotonic()
        if time.monotonic() - self._heard > self._patience:
            raise KeyboardInterrupt  # ends receive()

    def _refused(self, received: "Future[Received]") -> None:
        if not self._address.done() and (error := received.exception()):
            self._address.set_exception(error)


class Remote(NamedTuple):
    """A receiver on a machine."""

    name: str
    address: Callable[[], str]  #: where it receives, for the sender
    received: Callable[[], Received]  #: what came, at the latest after PATIENCE


@contextmanager
def by_threads(options: argparse.Namespace) -> Iterator[list[Remote]]:
    """In threads of this machine."""
    receivers = [Receiver(ReceiveJob("127.0.0.1:0", output=options.output)) for _ in range(options.count)]
    yield [
        Remote(f"thread {number}", receiver.address, partial(receiver.received, PATIENCE))
        for number, receiver in enumerate(receivers, 1)
    ]


@contextmanager
def by_ssh(options: argparse.Namespace) -> Iterator[list[Remote]]:
    """On each host, by `python3 -m uringzc.jobs`, which ends with its ssh."""
    with ExitStack() as stack:
        yield [_on_host(options, host, stack) for host in options.hosts]


def _on_host(options: argparse.Namespace, host: str, stack: ExitStack) -> Remote:
    command = [*SSH, *shlex.split(options.ssh_options)]
    known = subprocess.run([*command, "-G", "--", host], capture_output=True, text=True, check=False).stdout
    name = dict(line.partition(" ")[::2] for line in known.splitlines()).get("hostname", host)
    command += ["--", host, f"{options.python} -m uringzc.jobs"]
    pipe = subprocess.PIPE
    process = stack.enter_context(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True))
    stack.callback(process.kill)
    assert process.stdin
    process.stdin.write(json.dumps(ReceiveJob(":0", output=options.output).as_dict()))
    process.stdin.close()

    def read(key: str) -> Any:
        assert process.stdout
        assert process.stderr
        for line in process.stdout:  # perhaps behind others, of the shell there
            if line.startswith("{") and key in (said := json.loads(line)):
                return said[key]
        raise RuntimeError((process.stderr.read().strip().splitlines() or ["it ended without a result"])[-1])

    def address() -> str:
        host = f"[{name}]" if ":" in name else name
        return f"{host}:{read('ready').rpartition(':')[2]}"

    def received() -> Received:
        timer = Timer(PATIENCE, process.kill)
        timer.start()
        try:
            return Received.from_dict(read("received"))
        finally:
            timer.cancel()

    return Remote(host, address, received)


@contextmanager
def by_dask(options: argparse.Namespace) -> Iterator[list[Remote]]:
    """On each worker, by Client.run: one call to begin, one for what came."""
    from distributed import Client, Worker

    async def start(dask_worker: Worker) -> str:
        host = dask_worker.address.rpartition("/")[2].rpartition(":")[0]
        dask_worker.receiver = receiver = Receiver(ReceiveJob(f"{host}:0", output=options.output))
        return receiver.address()

    async def finish(dask_worker: Worker) -> Received:
        import asyncio

        return await asyncio.to_thread(dask_worker.receiver.received, PATIENCE)

    local = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with Client(options.scheduler, timeout=10) if options.scheduler else Client(**local) as client:
        workers = list(client.scheduler_info(n_workers=-1)["workers"])

        def remote(worker: str) -> Remote:
            return Remote(
                worker,
                lambda: client.run(start, workers=[worker])[worker],
                lambda: client.run(finish, workers=[worker])[worker],
            )

        yield [remote(worker) for worker in workers]


@contextmanager
def by_ray(options: argparse.Namespace) -> Iterator[list[Remote]]:
    """An actor on each node; of one node two."""
    import ray

    def remote(number: int, node: Node) -> Remote:
        job = ReceiveJob(f"{node.host}:0", output=options.output)
        actor = ray.remote(Receiver).options(**node.options).remote(job)
        return Remote(
            f"{node.host} actor {number}",
            lambda: ray.get(actor.address.remote()),
            lambda: ray.get(actor.received.remote(PATIENCE)),
        )

    yield [remote(number, node) for number, node in enumerate(ray_nodes(options), 1)]


# -- what these have in common


def share(options: argparse.Namespace, remotes: Sequence[Remote]) -> int:
    """Sends each receiver its share, and prints what came. The exit status."""

    pool = ThreadPoolExecutor(len(remotes))
    addresses = [pool.submit(remote.address) for remote in remotes]
    wait(addresses)  # nobody opens a file after that

    def send(part: int) -> int:
        job = Job(
            addresses[part].result(),
            file=options.file,
            numbered=True,
            size=options.size,
            rate=options.rate,
            share=(part, len(remotes)),
        )
        result = run(job)
        received = remotes[part].received()
        if [stream.lost for stream in received.streams if stream.ended] != [0]:
            came = f"{received.datagrams:,} of {result.datagrams:,} datagrams came"
            raise RuntimeError("; ".join([came, *result.failed]))
        return received.written

    futures = [pool.submit(send, part) for part in range(len(remotes))]
    width, status = max(len(remote.name) for remote in remotes), 0
    for part, (remote, future) in enumerate(zip(remotes, futures, strict=True), 1):
        if error := future.exception():
            status, said = 1, f"FAILED: {error or type(error).__name__}"
        else:
            said = f"{future.result():13,} bytes"
        print(f"{remote.name:{width}}  share {part}/{len(remotes)}  {said}")
    return status


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", help="to send")
    parser.add_argument("output", help="where each machine writes its share")
    parser.add_argument("--rate", help="to each machine: 200kpps, 2.5Gbit or 300MB (as fast as it goes)")
    parser.add_argument("--size", type=int, default=1200, help="bytes in a datagram (1200)")
    add_ways(parser, ssh=by_ssh, threads=by_threads, dask=by_dask, ray=by_ray)
    options = parser.parse_args()
    try:
        Job("127.0.0.1:9", file=options.file, numbered=True, size=options.size, rate=options.rate)
        with open(options.file, "rb"):
            pass
    except ValueError as error:
        parser.error(str(error))
    return options


def main() -> int:
    """The exit status."""
    options = parse()
    with options.way(options) as remotes:
        return share(options, remotes)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ModuleNotFoundError as error:
        sys.exit(f"share_file.py needs {error.name}, which is not installed: pip install {error.name}")
    except KeyboardInterrupt:
        os._exit(130)  # at once: threads still send
    except OSError as error:  # the file, no scheduler
        sys.exit(f"{error.filename}: {error.strerror}" if error.filename else str(error))
