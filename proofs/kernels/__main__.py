"""`python -m proofs.kernels [5.10 6.1 6.12 newest] [--write]`: what works on Debian's kernels, emulated."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from proofs import page
from proofs.kernels import image, machine, tables
from proofs.kernels.machine import Report
from proofs.kernels.packages import NotFoundError
from proofs.signals import interruptible

KERNELS = ("5.10", "6.1", "6.12", "newest")
#: COMMAND:PACKAGE, of Debian
TOOLS = ("qemu-system-x86_64:qemu-system-x86", "cpio", "modprobe:kmod", "dpkg-deb:dpkg", "setpriv:util-linux")
AT_ONCE = 2


@click.command()
@click.argument("kernels", nargs=-1)
@click.option("--write", is_flag=True, help="Write tables of README.md, docs/engines.md, docs/proof.md.")
@click.option("--minutes", default=40.0, show_default=True, help="A kernel that takes longer has failed.")
def main(kernels: tuple[str, ...], write: bool, minutes: float) -> None:
    """Boots Debian's kernels, 5.10 6.1 6.12 and the newest, or those that are named, and runs tests.

    Needs to be root on Debian, a Debian mirror in /etc/apt, and 2 GiB of memory.
    """
    interruptible()
    if write and kernels:
        raise click.UsageError("--write replaces whole tables: name no kernels")
    console = Console()
    subprocess.run([image.ROOT / "scripts" / "system-packages", sys.executable, *TOOLS], check=True)
    image.FOLDER.mkdir(parents=True, exist_ok=True)
    found, skipped = [], {}
    with console.status("Fetching kernels") as status:
        for name in kernels or KERNELS:
            status.update(f"Fetching Linux {name}")
            try:
                found.append(image.find_kernel(name))
            except NotFoundError as error:
                skipped[name] = str(error)
        status.update("Making the root file system: a wheel, Debian 12's Python, tests")
        root = image.make_root()
    reports = run_all(found, root, minutes * 60, console)
    for report in reports:
        show_failures(report, console)
    rows = [tables.row(report) for report in reports]
    console.print(tables.terminal(rows))
    for name, why in skipped.items():
        console.print(f"Linux {name} was skipped: {why}")
    if write:
        tables.write(rows)
        page.write("make kernels", summary(reports, skipped), "qemu, software emulation, CPython 3.11")
    sys.exit(not reports or any(report.problem or report.count("failed") for report in reports))


def run_all(kernels: list[image.Kernel], root: Path, limit: float, console: Console) -> list[Report]:
    """Two at a time, with a bar for each; an interrupt ends the emulators."""
    stop = threading.Event()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress, ThreadPoolExecutor(AT_ONCE) as pool:

        def one(kernel: image.Kernel) -> Report:
            bar = progress.add_task(f"Linux {kernel.package}", total=None)

            def show(report: Report) -> None:
                progress.update(bar, completed=len(report.tests), total=report.expected or None)

            report = machine.run(kernel, root, limit, stop, show)
            show(report)
            return report

        try:
            return list(pool.map(one, kernels))
        except BaseException:
            stop.set()
            raise


def show_failures(report: Report, console: Console) -> None:
    """The tests that failed, and why; of a kernel that did not get through, the end of its console."""
    failed = [(name, test["why"]) for name, test in report.tests.items() if test["outcome"] == "failed"]
    for name, why in failed:
        console.rule(f"Linux {report.kernel.package}: {name}")
        console.print("\n".join(why.splitlines()[-25:]), markup=False, highlight=False)
    if report.problem:
        console.rule(f"Linux {report.kernel.package}: {report.problem}")
        console.print("\n".join(report.console.splitlines()[-25:]), markup=False, highlight=False)


def summary(reports: list[Report], skipped: dict[str, str]) -> str:
    """A sentence for docs/proof.md."""
    said = []
    for report in reports:
        counts = f"{report.count('passed')} passed, {report.count('skipped')} skipped"
        failed = report.count("failed")
        bad = (f", {failed} failed" if failed else "") + (f" ({report.problem})" if report.problem else "")
        said.append(f"{report.kernel.package}: {counts}{bad}, {report.seconds / 60:.0f} min")
    said += [f"{name}: not found" for name in skipped]
    return "; ".join(said)


if __name__ == "__main__":
    main()
