"""What `make asan`, `make tsan` and `make valgrind` share: controls, pytest runs in a build, and reports.

A checker that is not there reports nothing either. So each proof begins with its controls: functions of
controls.c that do what has to be reported, called in a Python process, and in one that it starts as tests do.
"""

import itertools
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console

from proofs import builds, page

console = Console(highlight=False, soft_wrap=True)
HERE = Path(__file__).parent
SHOWN = 5  # reports that are printed whole
#: starts a program as tests start theirs
CHILD = """
import sys
sys.path.insert(0, "tests")
from processes import child
with child({!r}) as it:
    it.end(None)
"""
#: frames of the modules, and of the controls
OURS = re.compile(r"uringzc/_native/|_uring\.[a-z0-9-]+\.so|_send\.[a-z0-9-]+\.so|proofs/controls\.c")
#: what stays on purpose: the definition of each method that is in C; at exit an engine from whose memory the
#: kernel may still read
KEPT = re.compile(r" (?:compiled_method|uzc_slots_new|uzc_(?:ring|msg_zerocopy|packet|af_xdp)_new) ")
#: thread-local memory of a thread that has ended: libc frees it under a lock of its own
LIBC = re.compile(r"_dl_deallocate_tls")
_BEGIN = re.compile(r"^(?:==\d+==ERROR: |WARNING: ThreadSanitizer|\S+: runtime error: )", re.M)


@dataclass
class Outcome:
    """What came of a run of pytest."""

    passed: int = 0
    skipped: int = 0
    failed: int = 0
    status: int = 0
    seconds: float = 0

    @property
    def holds(self) -> bool:
        """Whether it ran to its end, and nothing failed."""
        return self.passed > 0 and not self.failed and not self.status

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.seconds), 60)
        counts = f"{self.passed:,} tests passed, {self.skipped:,} skipped, {self.failed:,} failed"
        ended = f"; pytest ended with {self.status}" if self.status and not self.failed else ""
        return f"{counts} in {minutes}:{seconds:02}{ended}"


def compile_controls(name: str) -> Path:
    """controls.c as a library, compiled as the modules of this build."""
    library = builds.BUILD / name / "build" / "controls.so"
    compiler = library.parent / "cc"
    subprocess.run([compiler, "-shared", "-fPIC", "-pthread", "-o", library, HERE / "controls.c"], check=True)
    return library


def clear(name: str) -> None:
    """Removes what was reported before."""
    for file in builds.reports(name).iterdir():
        file.unlink()


def reported(name: str) -> list[str]:
    """The reports that are about the modules or the controls.

    What leaked counts if our functions have allocated it: the interpreter leaves some memory of its own, and
    so do other programs that tests start. A data race counts if one of the two accesses is in our functions.
    """
    files = sorted(builds.reports(name).iterdir())
    return [error for file in files for error in _errors(file.read_text(errors="replace")) if _counts(error)]


def not_searched(name: str) -> int:
    """The processes at whose end LeakSanitizer failed, so that nobody has looked for leaks there."""
    failed = "LeakSanitizer has encountered a fatal error"
    return sum(failed in file.read_text(errors="replace") for file in builds.reports(name).iterdir())


def _errors(text: str) -> Iterator[str]:
    starts = [match.start() for match in _BEGIN.finditer(text)] + [len(text)]
    for start, end in itertools.pairwise(starts):
        error = text[start:end]
        if "LeakSanitizer: detected" in error:
            yield from (leak for leak in error.split("\n\n") if "Direct leak of " in leak)
        else:
            yield error


def _counts(error: str) -> bool:
    if " leak of " in error.partition("\n")[0]:
        return bool(OURS.search(error) and not KEPT.search(error))
    if "data race" not in error.partition("\n")[0]:
        return True
    accesses = [part for part in error.split("\n\n") if re.search(r"(?:read|write) of size", part, re.I)]
    return not LIBC.search(error) and any(OURS.search(_first_frame(access)) for access in accesses)


def _first_frame(stack: str) -> str:
    """Where an access is: in the function that called libc, if it is in one that the sanitizer replaces."""
    frames = [line for line in stack.splitlines() if re.match(r"\s+#\d+ ", line)]
    return next((frame for frame in frames if "libsanitizer" not in frame), "")


def require_controls(
    name: str,
    controls: Mapping[str, tuple[str, str]],
    environment: Mapping[str, str],
    wrapper: Sequence[str] = (),
) -> None:
    """Ends the proof unless each control is reported: (a program, which has the library `c`; the report).

    Each runs in a process, and in one that it starts.
    """
    library = compile_controls(name)
    missing = []
    for what, (program, expected) in controls.items():
        program = f"import ctypes; c = ctypes.CDLL({str(library)!r}); {program}"
        for where, run in ((what, program), (f"{what}, in a child", CHILD.format(program))):
            clear(name)
            command = [*wrapper, str(builds.BUILD / name / ".venv/bin/python"), "-c", run]
            subprocess.run(
                command, cwd=builds.BUILD / name, env=environment, capture_output=True, check=False
            )
            if not any(expected in text and "controls.c" in text for text in reported(name)):
                missing.append(where)
    clear(name)
    if missing:
        raise SystemExit(f"controls that were not reported: {'; '.join(missing)}")
    say(f"{2 * len(controls)} controls were reported: {', '.join(controls)}, each in a child too")


def run_pytest(
    name: str, arguments: Sequence[str], environment: Mapping[str, str], wrapper: Sequence[str] = ()
) -> Outcome:
    """Tests in a build; a test marked `uninstrumented` is skipped. It prints what pytest prints."""
    folder = builds.BUILD / name
    results = folder / "results.xml"
    results.unlink(missing_ok=True)
    began = time.monotonic()
    options = ["-q", "-p", "proofs.instrumented", "-p", "no:cacheprovider", f"--junitxml={results}"]
    # a thread sees to it: tests have signal handlers of their own, and C code that waits runs none
    options += ["--timeout=300", "--timeout-method=thread", "-o", "faulthandler_timeout=0"]
    command = [*wrapper, str(folder / ".venv/bin/python"), "-m", "pytest", *options, *arguments]
    outcome = Outcome(status=subprocess.run(command, cwd=folder, env=environment, check=False).returncode)
    outcome.seconds = time.monotonic() - began
    for suite in ElementTree.parse(results).getroot().iter("testsuite") if results.exists() else ():
        count = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
        outcome.skipped += count["skipped"]
        outcome.failed += count["failures"] + count["errors"]
        outcome.passed += count["tests"] - count["skipped"] - count["failures"] - count["errors"]
    return outcome


def finish(command: str, said: str, reports: Sequence[str], *, holds: bool, write: bool) -> None:
    """Prints reports, and what came of it all, which goes into docs/proof.md; ends with 0 if it holds."""
    for report in reports[:SHOWN]:
        sys.stdout.write(report.rstrip() + "\n\n")
    said += f"; {len(reports):,} reports" if reports else "; no report"
    say(f"{command}: {said}")
    if write:
        page.write(command, said)
    sys.exit(0 if holds and not reports else 1)


def say(line: str) -> None:
    """Prints a line, before what a child prints."""
    console.print(line)
    sys.stdout.flush()
