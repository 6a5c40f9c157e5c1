"""Plays programs in several children at once, and shortens those that find something."""

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from proofs.fuzz.children import Build, Child, Outcome
from proofs.fuzz.programs import ENGINES, Program, generate, shorten

_ONE_CHILD = 300  # programs
_SHORTENING = 90.0  # seconds
_TRIES = 3  # of a program that may fail by chance


@dataclass
class Finding:
    """What was found, the program, and how often something like it was found."""

    signature: str
    text: str
    program: Program
    after: int  #: programs, until it was found
    times: int = 1
    repeats: bool = False  #: alone, in a new child


@dataclass
class Progress:
    """Of all children."""

    programs: int = 0
    children: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    findings: dict[str, Finding] = field(default_factory=dict)
    engines: Counter[str] = field(default_factory=Counter)


def signature(finding: str) -> str:
    """What is the same of two findings with one cause, mostly."""
    first = finding.partition("\n")[0]
    parts = first.split(":")
    return re.sub(r"\d+", "N", ":".join(parts[: 3 if parts[0] in ("exception", "harness") else 2]))[:150]


class Search:
    """Programs of the seeds from `seed` on, until `deadline`."""

    def __init__(
        self,
        build: Build,
        seed: int,
        only: str = "",
        engines: Sequence[str] = ENGINES,
        shorten: bool = True,
        programs: int | None = None,
    ) -> None:
        self.build, self.only, self.engines = build, only, engines
        self.progress = Progress()
        self._next = seed
        self._last = None if programs is None else seed + programs
        self._shorten = shorten
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._children: set[Child] = set()
        self._failure: BaseException | None = None

    def run(self, deadline: float, children: int, look: Callable[[Progress], None]) -> Progress:
        """`look` is called now and then."""
        workers = [threading.Thread(target=self._work, daemon=True) for _ in range(children)]
        for worker in workers:
            worker.start()
        try:
            while any(worker.is_alive() for worker in workers):
                look(self.progress)
                if time.monotonic() > deadline:
                    self._stopping.set()
                time.sleep(0.1)
        finally:
            self._stopping.set()
            for child in list(self._children):
                if any(worker.is_alive() for worker in workers):
                    child.end()
            for worker in workers:
                worker.join()
        look(self.progress)
        if self._failure is not None:
            raise self._failure
        return self.progress

    def _work(self) -> None:
        try:
            while not self._stopping.is_set() and (child := self._start()):
                try:
                    self._feed(child)
                finally:
                    self._end(child)
                if self._over():
                    return
        except BaseException as error:
            self._failure = self._failure or error
            self._stopping.set()

    def _start(self) -> Child:
        child = Child(self.build)
        self._children.add(child)
        self.progress.children += 1
        return child

    def _end(self, child: Child) -> None:
        self._children.discard(child)
        child.end()

    def _over(self) -> bool:
        return self._last is not None and self._next >= self._last

    def _feed(self, child: Child) -> None:
        for _ in range(_ONE_CHILD):
            with self._lock:
                if self._stopping.is_set() or self._over():
                    return
                seed, self._next = self._next, self._next + 1
            engines = [engine for engine in self.engines if engine in child.engines]
            program = generate(seed, engines or child.engines, self.only)
            outcome = child.play(program)
            if self._stopping.is_set() and outcome.died:
                return
            self._note(program, outcome)
            if outcome.died:
                return

    def _note(self, program: Program, outcome: Outcome) -> None:
        progress, new = self.progress, []
        with self._lock:
            progress.programs += 1
            progress.engines[program.engine] += 1
            progress.calls.update(outcome.calls)
            for text in outcome.findings:
                name = signature(text)
                if name in progress.findings:
                    progress.findings[name].times += 1
                else:
                    progress.findings[name] = Finding(name, text, program, progress.programs)
                    new.append(progress.findings[name])
        for finding in new if self._shorten else ():
            self._make_shorter(finding)

    def _make_shorter(self, finding: Finding) -> None:
        """Where it fails alone, too."""
        end = time.monotonic() + _SHORTENING
        child: Child | None = None

        def fails(program: Program) -> bool:
            nonlocal child
            if time.monotonic() > end or self._stopping.is_set():
                return False
            for _ in range(_TRIES):
                if child is None:
                    child = self._start()
                outcome = child.play(program)
                if outcome.died:
                    self._end(child)
                    child = None
                for text in outcome.findings:
                    if signature(text) == finding.signature:
                        finding.text = text
                        return True
            return False

        try:
            finding.repeats = fails(finding.program)
            if finding.repeats:
                finding.program = shorten(finding.program, fails)
        finally:
            if child is not None:
                self._end(child)
