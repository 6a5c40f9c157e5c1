"""An OpenSSH server on loopback, with keys and a configuration of its own in a temporary folder."""

import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import killed_at_exit
from traffic import free_port

PROGRAM = shutil.which("sshd") or shutil.which("/usr/sbin/sshd")  # which it wants to be called by

requires_sshd = pytest.mark.skipif(
    not (PROGRAM and shutil.which("ssh")), reason="needs sshd: apt-get install openssh-server openssh-client"
)

#: what the clients know of the server; a host whose name begins with "gone" is a port where nobody listens
CLIENT = """
Host gone*
    Port {closed}
Host *
    HostName 127.0.0.1
    Port {port}
    User {user}
    IdentityFile {folder}/key
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known
    StrictHostKeyChecking accept-new
"""
SERVER = """
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host
PidFile none
AuthorizedKeysFile {folder}/key.pub
StrictModes no
UsePAM no
PasswordAuthentication no
"""


@contextmanager
def sshd(folder: Path) -> Iterator[str]:
    """Serves this user; the options with which ssh reaches it, under any host name."""
    for name in ("host", "key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True, timeout=20)
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where it confines itself; a service has it made
    port, closed = (free_port(kind=socket.SOCK_STREAM) for _ in range(2))
    known = {"folder": folder, "port": port, "closed": closed, "user": getpass.getuser()}
    (folder / "server").write_text(SERVER.format(**known))
    (folder / "client").write_text(CLIENT.format(**known))
    command = [PROGRAM or "", "-D", "-e", "-f", str(folder / "server")]
    with killed_at_exit(subprocess.Popen(command, stderr=subprocess.PIPE, text=True)) as server:
        assert server.stderr
        line = server.stderr.readline()
        assert line.startswith("Server listening on "), line + server.stderr.read()
        yield f"-F {folder / 'client'}"
