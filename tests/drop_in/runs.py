"""One run: the tests of a suite with one kind of loop, in a network and with processes of its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from environments import BUILD, Environment
from suites import CPYTHON, Suite

from uringzc import testing
from uringzc.testing import Sandbox

INSIDE = Path(__file__).parent / "inside"
PER_TEST = 60  # seconds
#: of what a test's phases and subtests report, the worst counts
WORST = ("passed", "xfailed", "skipped", "failed")


@dataclass
class Outcomes:
    """What came of the tests of one run."""

    tests: dict[str, str] = field(default_factory=dict)  # by node id, one of WORST
    texts: dict[str, str] = field(default_factory=dict)  # why they failed
    collected: int = 0
    finished: int = 0
    transports: Counter[str] = field(default_factory=Counter)  # made, by the module of their class
    stopped: bool = False  # at the limit

    def count(self, outcome: str) -> int:
        """How many tests have this outcome."""
        return sum(one == outcome for one in self.tests.values())

    @property
    def ours(self) -> int:
        """The datagram transports that are uringzc's."""
        return sum(count for module, count in self.transports.items() if module.startswith("uringzc"))

    @property
    def others(self) -> int:
        """The datagram transports that are not."""
        return self.transports.total() - self.ours


@dataclass(frozen=True, eq=False)
class Run:
    """A suite, an interpreter and a kind of loop."""

    suite: Suite
    environment: Environment
    tests: Path  # the folder they lie in
    loop: str

    def outcomes(self, progress: Callable[[Outcomes], None], only: Sequence[str] = ()) -> Outcomes:
        """Run the tests, or `only` these; what is seen so far is reported each half second."""
        folder = BUILD / "runs" / self.environment.folder.name / self.suite.name / self.loop.replace(" ", "-")
        if only:
            folder /= "again"
        shutil.rmtree(folder, ignore_errors=True)
        report, transports, own = folder / "report.jsonl", folder / "transports", folder / "tests"
        if self.suite.name == CPYTHON:
            own.mkdir(parents=True)
        else:
            shutil.copytree(self.tests, own)
        for file in (report, transports):
            file.write_text("")
        environ = self._environ(report, transports)
        stopped = True
        with (
            network() as box,
            open(folder / "output.log", "wb") as output,
            started(box, self._command(own, only), own, environ, output.fileno()) as process,
        ):
            for _ in range(int(self.suite.limit * 2)):
                progress(read(report, transports))
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.5)
                    stopped = False
                    break
        outcomes = read(report, transports)
        outcomes.stopped = stopped
        progress(outcomes)
        return outcomes

    def _command(self, own: Path, only: Sequence[str]) -> list[str]:
        root = self.tests if self.suite.name == CPYTHON else own
        tests = [str(root / test) for test in only or self.suite.tests]
        plugins = [f"-p{name}" for name in ("drop_in_report", "pytest_timeout", *self.suite.plugins)]
        options = [*self.suite.options, *(self.suite.with_uvloop if self.loop.endswith("uvloop") else ())]
        python = self.environment.interpreter.version[:2]
        deselected = [f"--deselect={test}" for test in self.suite.deselected(python)]
        config = ["-o", "addopts="]  # not what a developer of the suite wants to see
        if self.suite.name == CPYTHON:
            config = ["-c", str(_file("pytest.ini", "[pytest]\n"))]
        return [
            *(self.environment.python, "-m", "pytest", "-q", "--tb=native", "-pno:cacheprovider"),
            *(f"--rootdir={root}", f"--timeout={PER_TEST}", "--timeout-method=signal"),
            *(*config, *plugins, *deselected, *options, *tests),
        ]

    def _environ(self, report: Path, transports: Path) -> dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHON"))
        }
        return {
            **kept,
            **self.suite.environ,
            "DROP_IN_LOOP": self.loop,
            "DROP_IN_REPORT": str(report),
            "DROP_IN_TRANSPORTS": str(transports),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(INSIDE),
        }


def read(report: Path, transports: Path) -> Outcomes:
    """What a run has written so far."""
    seen = Outcomes(transports=Counter(transports.read_text().split()))
    for line in report.read_text().splitlines(keepends=True):
        if not line.endswith("\n"):
            break  # it is being written
        what = json.loads(line)
        if "collected" in what:
            seen.collected = what["collected"]
        elif "finished" in what:
            seen.finished += 1
        else:
            test, outcome = what["test"], what["outcome"]
            seen.tests[test] = max(outcome, seen.tests.get(test, "passed"), key=WORST.index)
            if what["text"]:
                seen.texts.setdefault(test, what["text"])
    return seen


@contextmanager
def network() -> Iterator[Sandbox]:
    """A network namespace with loopback, a device that swallows all, and a route for multicast."""
    with testing.sink() as box:
        box.run(lambda: _add_multicast_route(box.device))
        yield box


def _add_multicast_route(device: str) -> None:
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        ip.route("add", dst="224.0.0.0/4", oif=socket.if_nametoindex(device))


@contextmanager
def started(
    box: Sandbox, command: list[str], folder: Path, environ: dict[str, str], output: int
) -> Iterator[subprocess.Popen[bytes]]:
    """A program in the network, where localhost is ::1 too; at the end all that it has started is killed."""
    hosts = _file("hosts", "127.0.0.1 localhost\n::1 localhost ip6-localhost\n")
    own = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    mount = 'mount --bind "$0" /etc/hosts && exec "$@"'
    process = box.run(
        lambda: subprocess.Popen(
            [*own, "sh", "-c", mount, str(hosts), *command],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _file(name: str, text: str) -> Path:
    """A file that other runs may be reading."""
    file = BUILD / name
    if not file.exists() or file.read_text() != text:
        file.write_text(text)
    return file
