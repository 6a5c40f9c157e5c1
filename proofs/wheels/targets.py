"""What wheels are built for: a C library and a machine; and which interpreter can install which file."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass

from proofs.interpreters import Interpreter

#: the oldest C libraries: every glibc that runs CPython 3.10 in practice, and the musl of Alpine 3.13
GLIBC, MUSL = "2.17", "1.2"


@dataclass(frozen=True)
class Target:
    """A C library and a machine."""

    libc: str  # "glibc" or "musl"
    machine: str  # as platform.machine() has it

    @property
    def triple(self) -> str:
        """For `zig cc -target`."""
        return f"{self.machine}-linux-{'musl' if self.libc == 'musl' else f'gnu.{GLIBC}'}"

    @property
    def tag(self) -> str:
        """The platform tag of its wheels."""
        kind, version = ("musllinux", MUSL) if self.libc == "musl" else ("manylinux", GLIBC)
        return f"{kind}_{version.replace('.', '_')}_{self.machine}"

    @property
    def tags(self) -> list[str]:
        """That and its older name, which older versions of pip know."""
        return [self.tag, *([f"manylinux2014_{self.machine}"] if self.libc == "glibc" else [])]

    @property
    def name(self) -> str:
        """As `manylinux-x86_64`: on the command line, and of its folder."""
        return re.sub(r"_\d+_\d+_", "-", self.tag, count=1)

    def runs_here(self) -> bool:
        """Whether the CPythons of this machine can install it."""
        libc = "glibc" if platform.libc_ver()[0] == "glibc" else "musl"
        return (self.libc, self.machine) == (libc, platform.machine())


TARGETS = {
    one.name: one
    for one in (
        Target("glibc", "x86_64"),
        Target("musl", "x86_64"),
        Target("glibc", "aarch64"),
        Target("musl", "aarch64"),
    )
}


def here() -> Target | None:
    """That of this machine, if it is one of these."""
    return next((target for target in TARGETS.values() if target.runs_here()), None)


def fits(file: str, interpreter: Interpreter) -> bool:
    """Whether an interpreter of this machine can install that: an sdist, or the wheel for its ABI."""
    if file.endswith(".tar.gz"):
        return True
    version = "cp{}{}".format(*interpreter.version)
    abi = f"{version}t" if interpreter.free_threaded else "abi3"
    target = here()
    return target is not None and f"-{abi}-" in file and target.tag in re.split(r"[-.]", file)
