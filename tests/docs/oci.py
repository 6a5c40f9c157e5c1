"""Runs a program in a container, by crun: as a user without privileges, under a seccomp profile."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

#: The mounts of this run alone: the machine's own root, which the runtime can make the container's, and the
#: cgroups as crun wants them.
_PREPARE = """
umount -l /sys/fs/cgroup 2>/dev/null || :
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --rbind / rootfs
exec crun --root "$PWD/state" --cgroup-manager=disabled run "$1"
"""
#: to read the interpreter and its packages, wherever they are; it allows nothing else
_READ = ["CAP_DAC_READ_SEARCH"]


def run(
    program: str,
    profile: dict[str, Any],
    folder: Path,
    *,
    capabilities: tuple[str, ...] = (),
    memlock: int = 8 << 20,
) -> "subprocess.CompletedProcess[str]":
    """A program of Python; `folder`: an empty one."""
    held = [*_READ, *capabilities]
    process = {
        "user": {"uid": 20000 + os.getpid() % 40000, "gid": 65534},
        "args": [sys.executable, "-c", program],
        "env": ["PATH=/usr/bin:/bin", "HOME=/"],
        "cwd": "/",
        "noNewPrivileges": True,
        "rlimits": [{"type": "RLIMIT_MEMLOCK", "hard": memlock, "soft": memlock}],
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted", "inheritable", "ambient"), held),
    }
    config = {
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": "rootfs", "readonly": True},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}], "seccomp": profile},
    }
    (folder / "rootfs").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    own = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]
    command = [*own, "sh", "-ec", _PREPARE, "sh"]
    return subprocess.run(
        [*command, f"uringzc-{os.getpid()}"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
