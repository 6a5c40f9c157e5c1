"""`make asan`: the tests with both modules under AddressSanitizer and UndefinedBehaviorSanitizer.

A report fails the proof, whichever process wrote it: tests start children, and some of those fork. What our
functions have allocated, and nothing points to any more, is a report too.
"""

import click

from proofs import builds, sanitizers
from proofs.signals import interruptible

#: (program, what is reported)
CONTROLS = {
    "a read past the end": (
        "m = ctypes.create_string_buffer(100); c.read_past_end(m, 100)",
        "heap-buffer-overflow",
    ),
    "a read of what Python has freed": (
        "b = bytes(1000); a = ctypes.c_void_p(id(b)); del b; c.read_past_end(a, 100)",
        "heap-use-after-free",
    ),
    "a signed overflow": ("c.overflow(1)", "signed integer overflow"),
    "a leak": ("[c.leak() for _ in range(10)]", "Direct leak of"),
}

PARALLEL = ("-n", "2", "--dist", "worksteal")
#: but for what is about the files of the repository
ALL = ("--ignore=tests/project", "--ignore=tests/docs")
#: for CI, about a minute: the tests that use most of the C code, each on one engine
SHORT = (
    "tests/scheduler/test_bad_input.py",
    "tests/engines/test_msg_zerocopy_errors.py",
    "tests/senders/test_udp_rules.py",
    "tests/senders/test_udp_lease.py",
    "tests/senders/test_udp_group.py",
    "tests/senders/test_timestamps.py",
    "tests/senders/test_tcp_memory.py",
    "tests/aio/test_receive_batches.py",
    "-m",
    "not slow",
)


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--short", is_flag=True, help="Only where most of the C code is used, in a minute: for CI.")
@click.option("--write", is_flag=True, help="Put the result into the table of docs/proof.md.")
@click.argument("pytest_arguments", nargs=-1, type=click.UNPROCESSED)
def main(short: bool, write: bool, pytest_arguments: tuple[str, ...]) -> None:
    """Runs the tests under AddressSanitizer and UndefinedBehaviorSanitizer.

    PYTEST_ARGUMENTS: options of pytest, or the tests that are to be run.
    """
    interruptible()
    sanitizers.say("compiling both modules with -fsanitize=address,undefined")
    builds.build("asan")
    environment = builds.environment("asan")
    sanitizers.require_controls("asan", CONTROLS, environment)
    chosen = SHORT if short else ALL
    outcome = sanitizers.run_pytest("asan", [*PARALLEL, *chosen, *pytest_arguments], environment)
    reports = sanitizers.reported("asan")
    command = "make asan ARGS=--short" if short else "make asan"
    said = str(outcome)
    if failed := sanitizers.not_searched("asan"):
        said += f"; LeakSanitizer failed at the end of {failed:,} processes"
    sanitizers.finish(command, said, reports, holds=outcome.holds, write=write)


if __name__ == "__main__":
    main()
