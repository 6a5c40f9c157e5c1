"""Debian's packages, fetched by apt: with lists of its own, from the mirror that this machine uses.

The lists are signed, packages are checked against them, and apt does both.
"""

import re
import subprocess
import time
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
#: seconds that lists are kept
_FRESH = 86400


class NotFoundError(Exception):
    """What apt does not find, or cannot fetch."""


def mirrors() -> dict[str, str]:
    """Where this machine has Debian from, by the last part of the address: "debian", "debian-security"."""
    apt = Path("/etc/apt")
    files = [apt / "sources.list", *apt.glob("sources.list.d/*.list"), *apt.glob("sources.list.d/*.sources")]
    lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
    used = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    return {name: uri for uri, name in re.findall(r"(\w+://\S+/(debian(?:-security)?))/?(?=\s|$)", used)}


class Archive:
    """Packages for amd64 of these suites, and of no others; the folder keeps what was fetched."""

    def __init__(self, folder: Path, *suites: str) -> None:
        self._files = folder / "archives"
        for place in ("lists/partial", "archives/partial", "nothing/partial"):
            (folder / place).mkdir(parents=True, exist_ok=True)
        settings = {
            "Dir::Etc::sourcelist": folder / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::State::lists": folder / "lists",
            "Dir::State::status": "/dev/null",  # nothing is installed: all that a package needs is fetched
            "Dir::Cache": folder,
            "APT::Architecture": "amd64",
            "APT::Architectures": "amd64",
            "APT::Sandbox::User": "root",  # another user may not be allowed to write here
            "Acquire::Languages": "none",
        }
        self._options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        self._empty = ("-o", f"Dir::Cache::archives={folder / 'nothing'}")
        self._update(folder, suites)

    def versions(self, package: str) -> list[str]:
        """The newest first."""
        rows = self._apt("apt-cache", "madison", package).splitlines()
        return list(dict.fromkeys(row.split("|")[1].strip() for row in rows))

    def with_parts(self, package: str, version: str, parts: str) -> list[str]:
        """NAME=VERSION of a package, and of those named so that it needs in the same version."""
        found: list[str] = []
        wanted = [package]
        while wanted:
            found.append(wanted.pop())
            shown = self._apt("apt-cache", "show", f"{found[-1]}={version}")
            needs = re.findall(rf"\b({parts}) \(= {re.escape(version)}\)", shown)
            wanted += [name for name in dict.fromkeys(needs) if name not in found + wanted]
        return [f"{name}={version}" for name in found]

    def download(self, *packages: str) -> list[Path]:
        """These packages alone."""
        return self._fetch("download", *packages)

    def download_all(self, *packages: str) -> list[Path]:
        """These packages, and all that they need."""
        return self._fetch("install", "--yes", "--download-only", "--no-install-recommends", *packages)

    def _fetch(self, *command: str) -> list[Path]:
        listed = self._apt("apt-get", *command, "--print-uris", *self._empty)
        files = [self._files / name for name in re.findall(r"^'\S+' (\S+) \d", listed, re.MULTILINE)]
        if not all(file.exists() for file in files):
            self._apt("apt-get", *command)
        return files

    def _update(self, folder: Path, suites: tuple[str, ...]) -> None:
        known = mirrors()
        if not known or not KEYRING.exists():
            raise NotFoundError(f"Debian's packages need a Debian mirror in /etc/apt, and {KEYRING}")
        wanted = ""
        for suite in suites:
            if uri := known.get("debian-security" if suite.endswith("-security") else "debian"):
                wanted += f"deb [signed-by={KEYRING}] {uri} {suite} main\n"
        sources, stamp = folder / "sources.list", folder / "updated"
        if stamp.exists() and time.time() - stamp.stat().st_mtime < _FRESH and sources.read_text() == wanted:
            return
        sources.write_text(wanted)
        try:
            self._apt("apt-get", "update")
        except NotFoundError:  # a suite is gone, or there is no network: with what is there, or was
            return
        stamp.touch()

    def _apt(self, *command: str) -> str:
        done = subprocess.run(
            [*command, *self._options], cwd=self._files, capture_output=True, text=True, check=False
        )
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("E:")]
            raise NotFoundError(" ".join(lines) or f"{' '.join(command)}: exit code {done.returncode}")
        return done.stdout
