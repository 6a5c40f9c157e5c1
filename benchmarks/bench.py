"""What a benchmark author works with: a Topic, a section of RESULTS.md, and the Bench that runs its cases.

A topic is a function with the `topic` decorator, in a file of benchmarks/cases/: its docstring is the
section's text, and each `bench.compare` in it makes rows of the section's table.
"""

from __future__ import annotations

import inspect
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from typing import Any

from rich.progress import Progress

import uringzc
from benchmarks import pairs
from benchmarks.pairs import Comparison, Contender
from benchmarks.paths import Path, paths
from benchmarks.programs.batches import SchedulerBatches, Shape
from benchmarks.programs.reference import Reference
from benchmarks.programs.scheduler import SchedulerPrograms
from benchmarks.programs.udp_sender import UdpPrograms
from benchmarks.results import Results, about_here, summary
from uringzc import testing

SO_SNDBUFFORCE = 32
LARGE = 64 << 20  # a send buffer that holds whatever is in flight


@dataclass(frozen=True)
class Plan:
    """How long to measure."""

    pairs: int  # where the target is within 5 % of 1
    few: int  # pairs elsewhere
    seconds: float  # of one run
    soak: int  # requests through one scheduler

    def __str__(self) -> str:
        return f"{self.pairs} rounds of {self.seconds} s ({self.few} where the target is far from 1)"


@dataclass(frozen=True)
class Topic:
    """A section of RESULTS.md."""

    name: str
    title: str
    about: str  # what is measured, and against what
    why_missed: str  # printed if a target is missed
    run: Callable[[Bench], None]


def topic(title: str, why_missed: str = "") -> Callable[[Callable[[Bench], None]], Topic]:
    """Make the decorated function a Topic: its name and its docstring are the topic's."""

    def decorate(run: Callable[[Bench], None]) -> Topic:
        name = run.__name__.replace("_", "-")
        return Topic(name, title, inspect.getdoc(run) or "", inspect.cleandoc(why_missed), run)

    return decorate


class Bench:
    """The networks, sockets and senders of a run, and its results. All is closed when `opened` ends.

    `sink` and `large_sink` are networks that free what is sent, with an MTU of 1500 and of 65535 bytes.
    """

    def __init__(self, plan: Plan, progress: Progress, stack: ExitStack) -> None:
        self.plan, self.progress, self.stack = plan, progress, stack
        self.results = Results(about_here(str(plan)))
        self.comparisons: list[Comparison] = []
        self._topic = ""

    def run(self, topic: Topic) -> None:
        """Measure one topic."""
        self._topic = topic.name
        topic.run(self)

    @cached_property
    def sink(self) -> testing.Sandbox:
        """An ifb device with an MTU of 1500."""
        return self.stack.enter_context(testing.sink(mtu=1500))

    @cached_property
    def large_sink(self) -> testing.Sandbox:
        """An ifb device with an MTU of 65535."""
        return self.stack.enter_context(testing.sink(mtu=65535))

    @cached_property
    def paths(self) -> dict[str, Path]:
        """The networks with a receiver, by name."""
        return {path.name: path for path in self.stack.enter_context(paths())}

    def udp_socket(self, box: testing.Sandbox, connected: bool = True) -> socket.socket:
        """Return a UDP socket of that network, with a large send buffer."""
        sock = self.stack.enter_context(box.socket())
        sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, LARGE)
        if connected:
            sock.connect(box.address)
        return sock

    def udp_sender(
        self, connected: bool = True, engine: str = "auto", box: testing.Sandbox | None = None
    ) -> UdpPrograms:
        """Return a UdpSender of its own, in `box` or `sink`."""
        box = box or self.sink
        remote = box.address if connected else None
        tx = box.run(lambda: uringzc.UdpSender(remote, engine=engine))
        return UdpPrograms(self.stack.enter_context(tx))

    def scheduler(self, box: testing.Sandbox | None = None, **options: Any) -> SchedulerPrograms:
        """Return a Scheduler with a socket of its own, in `box` or `large_sink`; options of both."""
        box = box or self.large_sink
        sock = self.udp_socket(box)
        programs = box.run(lambda: SchedulerPrograms(sock, **options))
        return self.stack.enter_context(programs)

    @contextmanager
    def batches(self, size: int, batch: int) -> Iterator[tuple[SchedulerBatches, Reference]]:
        """Open a Scheduler and the C program, in `large_sink`, for batches of so many requests."""
        shape, socks = Shape(size, batch), [self.udp_socket(self.large_sink) for _ in range(2)]
        with SchedulerBatches(socks[0], shape) as programs, shape.reference(socks[1]) as reference:
            yield programs, reference

    def compare(
        self,
        case: str,
        contenders: Sequence[Contender],
        *,
        close: bool = False,
        times: int = 1,
        at_most: float = inf,
        keep: bool = True,
    ) -> list[Comparison]:
        """Compare the first contender with each other one, and `keep` the rows.

        `close`: the target is within 5 % of 1, so more pairs are needed; `times` as many again. A run lasts
        `at_most` seconds.
        """
        found = pairs.compare(
            case,
            contenders,
            pairs=(self.plan.pairs if close else self.plan.few) * times,
            seconds=min(at_most, self.plan.seconds),
            progress=self.progress,
        )
        if keep:
            self.keep(*found)
        return found

    def leave_out(self, what: str, why: str | None) -> bool:
        """Whether `why` is given: then say that these rows are left out."""
        if why:
            self.progress.console.print(f"{self._topic}: left out: {what}: {why}")
        return why is not None

    def keep(self, *comparisons: Comparison, case: str | None = None) -> None:
        """Make rows of the topic's table of them, named `case`."""
        for comparison in comparisons:
            named = replace(comparison, case=case or comparison.case)
            self.comparisons.append(named)
            self.results.cases.append(summary(self._topic, named))


@contextmanager
def opened(plan: Plan) -> Iterator[Bench]:
    """Open the display; networks are made as they are needed."""
    with ExitStack() as stack:
        yield Bench(plan, stack.enter_context(pairs.progress_bars()), stack)
