"""A version of Debian in a folder, made by debootstrap and kept, and commands that run in it.

Each runs with mounts and process ids of its own, which end with it; the network is the machine's.
"""

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from proofs.builds import BUILD
from proofs.interpreters import PreparationError, last_line

HERE = BUILD / "distributions"
#: what is there before anything of ours: to build from source, and what the tests call
PACKAGES = (
    *("python3", "python3-venv", "python3-dev", "gcc", "libc6-dev", "pkg-config", "liburing-dev", "make"),
    *("ca-certificates", "crun", "iproute2", "procps", "util-linux"),
)
#: that neither a debootstrap nor a command leaves mounts or processes behind, however it ends
OWN = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private")
#: the folder is the root of what runs: not with chroot alone, where no user namespace can be made
_ENTER = """
root=$1; shift
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup" 2>/dev/null || :
mount --bind /dev "$root/dev"
mount -t devpts devpts "$root/dev/pts" -o ptmxmode=666
mount -t tmpfs tmpfs "$root/dev/shm"
mount -t tmpfs tmpfs "$root/tmp"
while [ "$1" != -- ]; do
    mount --bind "$1" "$root$2"
    shift 2
done
shift
cd "$root"
pivot_root . mnt
exec chroot . sh -c 'umount -l /mnt; exec "$@"' sh "$@"
"""


def mirror() -> str:
    """Where apt has Debian's packages from, on this machine."""
    form = "$(CREATED_BY) $(ORIGIN) $(LABEL) $(COMPONENT) $(REPO_URI)"
    done = subprocess.run(["apt-get", "indextargets", "--format", form], capture_output=True, text=True)
    found = [
        line.split()[-1]
        for line in done.stdout.splitlines()
        if line.startswith("Packages Debian Debian main ")
    ]
    if not found:
        raise PreparationError("apt has no source of Debian's packages here: name one with --mirror URL")
    return found[0]


@dataclass(frozen=True)
class System:
    """One release."""

    name: str  # "12"
    suite: str  # "bookworm"

    @property
    def root(self) -> Path:
        """Its folder."""
        return HERE / f"debian-{self.name}"

    @property
    def proof(self) -> Path:
        """Of that, the folder /proof."""
        return self.root / "proof"

    def make(self, mirror: str) -> None:
        """By debootstrap, if it is not there with these packages."""
        packages = ",".join(PACKAGES)
        stamp = self.root / "packages"
        if stamp.exists() and stamp.read_text() == packages:
            return
        part = self.root.with_suffix(".part")
        for old in (part, self.root):
            shutil.rmtree(old, ignore_errors=True)
        part.parent.mkdir(parents=True, exist_ok=True)
        made = ["debootstrap", "--variant=minbase", f"--include={packages}", self.suite, str(part), mirror]
        run([*OWN, *made], HERE / f"debian-{self.name}.log")
        part.rename(self.root)
        stamp.write_text(packages)

    def command(self, script: str) -> list[str]:
        """That runs a script of sh in it, in the folder /proof."""
        variables, paths = pip_configuration()
        cache = HERE / "pip"
        cache.mkdir(exist_ok=True)
        paths |= {
            str(cache): "/root/.cache/pip",
            "/etc/resolv.conf": "/etc/resolv.conf",
            "/etc/hosts": "/etc/hosts",
        }
        for source, target in paths.items():
            make_target(Path(source), self.root / target.lstrip("/"))
        binds = [path for pair in paths.items() for path in pair]
        variables |= {"HOME": "/root", "TERM": "dumb", "LANG": "C.UTF-8"}
        variables["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        inside = ["env", "-i", *(f"{name}={value}" for name, value in variables.items()), "sh", "-ec"]
        return [
            *OWN,
            "sh",
            "-ec",
            _ENTER,
            "sh",
            str(self.root),
            *binds,
            "--",
            *inside,
            f"cd /proof; {script}",
        ]

    def run(self, script: str, log: Path) -> str:
        """What it prints, which is in `log` too; PreparationError if it fails."""
        return run(self.command(script), log)


def run(command: list[str], log: Path) -> str:
    """What it prints; PreparationError, with the last line, if it fails."""
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = process.wait(1800)
        finally:
            process.kill()  # and with it all that it has started
            process.wait()
    text = log.read_text(errors="replace")
    if status:
        raise PreparationError(f"{last_line(text)} ({log})")
    return text


def make_target(source: Path, target: Path) -> None:
    """Something to mount on."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)  # a link to nowhere
    target.mkdir() if source.is_dir() else target.touch()


def pip_configuration() -> tuple[dict[str, str], dict[str, str]]:
    """This machine's, as variables; and the files and folders that it names."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    ).stdout
    settings = [line.partition("=") for line in listed.splitlines() if "=" in line]
    settings.sort(key=lambda setting: setting[0].startswith(":env:"))  # which count more
    variables, paths = {}, {}
    for name, _, quoted in settings:
        value = " ".join(shlex.split(quoted)[0].split())
        variables["PIP_" + name.rpartition(".")[2].upper().replace("-", "_")] = value
        for word in value.split():
            path = word.removeprefix("file://")
            if path != word:  # an index: its files are beside it
                path = os.path.dirname(path)
            if path.startswith("/") and os.path.exists(path):
                paths[path] = path
    return variables, paths
