"""The table of docs/proof.md: on what each proof last ran, and what it said."""

import datetime
import platform
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "proof.md"
BEGIN, END = "<!-- results: written by the commands, with --write -->\n", "\n<!-- results end -->"


def here() -> str:
    """The machine that this runs on, in the words of the table."""
    return f"{kernel()}, CPython {platform.python_version()}"


def kernel() -> str:
    """The kernel that runs, in the words of the table."""
    return f"Linux {platform.release()}"


def write(command: str, said: str, on: str = "") -> None:
    """Replaces the row of a command, "make asan"; what it said in a sentence, as `here()` or `on` says where.

    The date and the commit are added: of a checkout that has changed since, with "and changes".
    """
    before, rest = PAGE.read_text().split(BEGIN)
    block, after = rest.split(END)
    rows = {row.split("|")[1].strip(): row for row in block.splitlines()[2:]}
    when = f"{datetime.date.today()}, {_commit()}"
    rows[f"`{command}`"] = f"| `{command}` | {on or here()} | {when} | {said.replace('|', '/')} |"
    lines = ["| command | on | when | what it said |", "|---|---|---|---|", *rows.values()]
    PAGE.write_text(before + BEGIN + "\n".join(lines) + END + after)


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    if not (commit := git("rev-parse", "--short=8", "HEAD")):
        return "no commit"
    return commit + (" and changes" if git("status", "--porcelain", "--", ".", f":!{PAGE}") else "")
