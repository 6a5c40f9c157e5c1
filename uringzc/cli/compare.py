"""The comparison of `uringzc demo`: the same file into a sink, which copies nothing. Needs privileges."""

import itertools
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import BinaryIO

from uringzc import testing
from uringzc.cli.demo_receiver import Plan
from uringzc.cli.sources import Mapped, Windows
from uringzc.cli.transfer import Result, Transfer, open_scheduler
from uringzc.senders.sockets import set_sndbuf

#: where the datagrams are, and how they are sent
Kind = tuple[str, str]
KINDS: tuple[Kind, ...] = tuple(itertools.product(("windows", "mapped"), ("copying", "zero-copy")))
#: bytes of one run, at least: it takes some hundredths of a second
_ENOUGH = 500_000_000
ROUNDS = 7


class NoSinkError(Exception):
    """Why there is no comparison here, as the end of a sentence."""


def compare(file: BinaryIO, plan: Plan, tags: Sequence[int], ipv6: bool) -> dict[Kind, Result]:
    """The best of ROUNDS runs of each kind, in turn: the one that other programs disturbed least."""
    if reason := testing.missing("net_admin"):
        raise NoSinkError(reason)
    plan = Plan(plan.file_size, plan.size, -(-_ENOUGH // plan.file_size))
    results: dict[Kind, list[Result]] = {kind: [] for kind in KINDS}
    with ExitStack() as stack:
        try:
            box = stack.enter_context(testing.sink(mtu=65535))
        except OSError as error:  # a kernel without the device, say
            raise NoSinkError(f"is not possible here: {error.strerror}") from error
        for _ in range(ROUNDS):
            for kind in KINDS:
                with box.socket(socket.AF_INET6 if ipv6 else socket.AF_INET) as sock:
                    sock.connect(box.address6 if ipv6 else box.address)
                    results[kind].append(_run(file, plan, tags, sock, kind))
    return {kind: max(runs, key=lambda run: run.rate) for kind, runs in results.items()}


def _run(file: BinaryIO, plan: Plan, tags: Sequence[int], sock: socket.socket, kind: Kind) -> Result:
    """One transfer, with a scheduler of its own, and a socket buffer for all windows."""
    memory, how = kind
    set_sndbuf(sock, 64 << 20)
    with open_scheduler(plan, tags) as scheduler:
        source = Mapped(file, plan) if memory == "mapped" else Windows(scheduler, file, plan)
        transfer = Transfer(scheduler, sock, source, plan, tags)
        return transfer.run(lambda sent: sys.maxsize, zero_copy=how == "zero-copy")
