"""Commands that a proof prepares something with."""

import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

import click

from proofs.interpreters import PreparationError
from proofs.page import ROOT
from proofs.suite import clean_environ


def run(*command: str | Path, folder: Path = ROOT, environ: Mapping[str, str] | None = None) -> str:
    """What it prints; PreparationError, with that, if it fails. `environ` is added to this process's."""
    line = " ".join(shlex.join(map(str, command)).split())
    click.echo(f"$ {line if len(line) < 160 else f'{line[:80]} ... {line[-75:]}'}", err=True)
    done = subprocess.run(
        command,
        cwd=folder,
        env=clean_environ() | dict(environ or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode:
        raise PreparationError(f"{done.stdout[-3000:]}\n{line} failed")
    return done.stdout
