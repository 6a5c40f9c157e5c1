"""What the kernels said, as a table in the terminal and in the pages."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from proofs.kernels.image import ROOT
from proofs.kernels.machine import Report

PAGES = (ROOT / "README.md", ROOT / "docs" / "engines.md")
BEGIN, END = "<!-- kernels: written by make kernels, with --write -->\n", "\n<!-- kernels end -->"
COLUMNS = (
    "Linux",
    "package",
    '"auto" is',
    "`SEND_ZC`",
    "`copied`",
    "`SENDMSG_ZC` from registered memory",
    "trains",
    '`"packet"`',
    '`"af_xdp"`',
    "tests passed, skipped, failed",
)


def row(report: Report) -> list[str]:
    """Of one kernel, by column."""
    doctor = report.doctor
    if not doctor:
        return [report.kernel.name, report.kernel.package, *["?"] * 7, report.problem]
    features: dict[str, bool] = doctor["features"] or {}
    limits: dict[str, Any] = doctor["limits"]
    frames = f"trains of {limits['frame_segments']}" if limits["frame_segments"] > 1 else "single datagrams"
    counts = ", ".join(str(report.count(outcome)) for outcome in ("passed", "skipped", "failed"))
    return [
        doctor["kernel"].split("-")[0].split("+")[0],
        report.kernel.package,
        f'`"{doctor["engine"]}"`',
        _yes(features.get("send_zc")),
        "known" if features.get("report_usage") or doctor["engine"] != "io_uring" else "None",
        _yes(features.get("fixed_message")),
        str(limits["segments"]),
        frames if doctor["engines"]["packet"] is None else "no",
        _yes(doctor["engines"]["af_xdp"] is None),
        counts + (" (not all)" if report.problem else ""),
    ]


def _yes(there: bool | None) -> str:
    return "yes" if there else "no"


def terminal(rows: Sequence[Sequence[str]]) -> Table:
    """For people who wait."""
    table = Table(*(column.replace("`", "") for column in COLUMNS))
    for each in rows:
        table.add_row(*(cell.replace("`", "") for cell in each))
    return table


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """For pages."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def write(rows: Sequence[Sequence[str]], pages: Sequence[Path] = PAGES) -> None:
    """Replaces the tables between the markers of the pages that have them."""
    for page in pages:
        before, found, rest = page.read_text().partition(BEGIN)
        if found:
            page.write_text(before + BEGIN + markdown(rows) + END + rest.partition(END)[2])
