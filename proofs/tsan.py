"""`make tsan`: tests of threads with both modules under ThreadSanitizer.

CPython is not instrumented, but its GIL is a pthread mutex and condition, which ThreadSanitizer replaces: it
sees in which order threads hold the GIL, and reports what our code does without it. For CPython without the
GIL name one that was configured with --disable-gil --with-thread-sanitizer: its own locks are atomics, which
only an instrumented one shows.
"""

import click

from proofs import builds, sanitizers
from proofs.signals import interruptible

CONTROLS = {"a data race": ("c.race()", "data race")}
#: threads against each other, and what they leave behind: timers, leases, forks, event loops
TESTS = (
    "tests/senders/test_threads_at_once.py",
    "tests/senders/test_udp_timer.py",
    "tests/senders/test_udp_lease.py",
    "tests/engines/test_threads.py",
    "tests/engines/test_thread_exit.py",
    "tests/engines/test_lifetime.py",
    "tests/engines/test_fork_in_call.py",
    "tests/memory/test_fork.py",
    "tests/aio/test_receive_threads.py",
)


@click.command(context_settings={"ignore_unknown_options": True})
@click.option(
    "--python", help="CPython without the GIL, built with --with-thread-sanitizer: the tests with it too."
)
@click.option("--write", is_flag=True, help="Put the result into the table of docs/proof.md.")
@click.argument("pytest_arguments", nargs=-1, type=click.UNPROCESSED)
def main(python: str | None, write: bool, pytest_arguments: tuple[str, ...]) -> None:
    """Runs tests of threads under ThreadSanitizer.

    PYTEST_ARGUMENTS: options of pytest, or the tests that are to be run instead.
    """
    interruptible()
    tests = pytest_arguments if any(not one.startswith("-") for one in pytest_arguments) else TESTS
    said, reports, holds = [], [], True
    for name, interpreter in {"tsan": None, "tsan-nogil": python}.items():
        if name == "tsan-nogil" and not interpreter:
            said.append("without the GIL: skipped, no --python")
            continue
        sanitizers.say(
            f"compiling both modules with -fsanitize=thread{f' for {python}' if interpreter else ''}"
        )
        builds.build(name, python=interpreter)
        environment = builds.environment(name)
        sanitizers.require_controls(name, CONTROLS, environment)
        outcome = sanitizers.run_pytest(name, tests, environment)
        reports += sanitizers.reported(name)
        said.append(f"{'without' if interpreter else 'with'} the GIL: {outcome}")
        holds &= outcome.holds
    sanitizers.finish("make tsan", "; ".join(said), reports, holds=holds, write=write)


if __name__ == "__main__":
    main()
