"""Under docs/seccomp.json, applied by a container runtime, uringzc works; what is not in it fails."""

import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any

import oci
import pages
import pytest
from pages import ROOT

from uringzc import testing

pytestmark = [
    pytest.mark.engines(),
    pytest.mark.skipif(not shutil.which("crun"), reason="needs crun, a container runtime"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make the mounts of a container"),
]

PROFILE: dict[str, Any] = json.loads((ROOT / "docs" / "seccomp.json").read_text())
PERMISSIVE = {"defaultAction": "SCMP_ACT_ALLOW"}

STREAM = """
import socket, threading, uringzc

received = bytearray()

def receive(sock):
    while data := sock.recv(1 << 20):
        received.extend(data)

with socket.create_server(("127.0.0.1", 0)) as listener:
    tx = socket.create_connection(listener.getsockname())
    rx, _ = listener.accept()
with tx, rx:
    thread = threading.Thread(target=receive, args=[rx])
    thread.start()
    with uringzc.TcpSender(tx, zero_copy="always") as sender:
        sender.send(bytes(200_000))
        sender.drain()
    tx.shutdown(socket.SHUT_WR)
    thread.join()
assert received == bytes(200_000)
"""

ASYNCIO = """
import asyncio, uringzc.aio

class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.transport.sendto(data, addr)

class Client(asyncio.DatagramProtocol):
    def __init__(self):
        self.received, self.all = [], asyncio.get_running_loop().create_future()

    def datagram_received(self, data, addr):
        self.received.append(data)
        if len(self.received) == 100:
            self.all.set_result(None)

async def main():
    loop = asyncio.get_running_loop()
    server, _ = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
    address = server.get_extra_info("sockname")
    client, protocol = await loop.create_datagram_endpoint(Client, remote_addr=address)
    for number in range(100):
        client.sendto(b"%d" % number)
    await protocol.all
    assert protocol.received == [b"%d" % number for number in range(100)]
    async with uringzc.aio.UdpSender(address) as sender:
        await sender.send(b"awaited")
    assert await loop.run_in_executor(None, len, "abc") == 3
    assert await (await asyncio.create_subprocess_exec("true")).wait() == 0

loop = uringzc.aio.new_event_loop()
loop.run_until_complete(main())
loop.run_until_complete(loop.shutdown_default_executor())
loop.close()
"""

README = [
    block.text for block in pages.blocks((ROOT / "README.md").read_text()) if block.language == "python"
]
# first what was found: a ring that has ended counts as locked memory of this user for some time
EVERYTHING = f"""
import contextlib, io, json, os, uringzc
found = uringzc.probe()
names = [one["name"] for one in found.as_dict()["details"]]
with uringzc.UdpSender(("127.0.0.1", 9)) as sender:
    explained = sender.explain()
for program in {[*README, STREAM, ASYNCIO]!r}:
    with contextlib.redirect_stdout(io.StringIO()):
        exec(program, {{"__name__": "__main__"}})
print(json.dumps([os.getuid() > 0, found.engine, names, explained]))
"""


def without(name: str) -> dict[str, Any]:
    """The profile without the rules that have a system call of this name."""
    profile = copy.deepcopy(PROFILE)
    profile["syscalls"] = [rule for rule in profile["syscalls"] if name not in rule["names"]]
    assert profile != PROFILE
    return profile


def said(program: str, profile: dict[str, Any], folder: Path, **options: Any) -> Any:
    done = oci.run(program, profile, folder, **options)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout.splitlines()[-1])


@testing.requires("send_zc")
def test_everything_works_under_the_profile(tmp_path: Path) -> None:
    """Both programs of the README, a stream, asyncio, threads and other processes: by io_uring."""
    unprivileged, engine, names, explained = said(EVERYTHING, PROFILE, tmp_path)
    assert unprivileged
    assert engine == "io_uring", (names, explained)
    assert "seccomp_eperm" not in names
    assert explained.startswith("io_uring, ")


@testing.requires("msg_zerocopy")
def test_without_its_calls_in_the_profile_auto_is_msg_zerocopy(tmp_path: Path) -> None:
    """And the doctor says why."""
    unprivileged, engine, names, explained = said(EVERYTHING, without("io_uring_setup"), tmp_path)
    assert unprivileged
    assert engine == "msg_zerocopy", (names, explained)
    assert "seccomp_eperm" in names
    assert "a seccomp filter forbids it" in explained


FORBIDDEN = """
import ctypes, errno, json, os, platform, socket
libc = ctypes.CDLL(None, use_errno=True)

def failure(function, *arguments):
    ctypes.set_errno(0)
    result = function(*arguments)
    return errno.errorcode.get(ctypes.get_errno()) if result < 0 else None

def clone(flags):
    pid = libc.syscall({"x86_64": 56, "aarch64": 220}[platform.machine()], flags | 17, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    if pid > 0:
        os.waitpid(pid, 0)
    return pid

def raw(family):
    try:
        socket.socket(family, socket.SOCK_RAW).close()
    except OSError as error:
        ctypes.set_errno(error.errno)
        return -1
    return 0

print(json.dumps({
    "unshare": failure(libc.unshare, 0),
    "process_vm_readv": failure(libc.process_vm_readv, os.getpid(), None, 0, None, 0, 0),
    "personality": failure(libc.personality, 0xffffffff),
    "memfd_create": failure(libc.memfd_create, b"x", 0),
    "clone": failure(clone, 0),
    "clone, CLONE_NEWUTS": failure(clone, 0x04000000),
    "packet sockets": failure(raw, 17),
}))
"""


@pytest.mark.parametrize("profile", [PROFILE, PERMISSIVE], ids=["profile", "control"])
def test_what_is_not_in_the_profile_fails(profile: dict[str, Any], tmp_path: Path) -> None:
    """Though the process has the privileges for it."""
    if reason := testing.missing("net_raw"):
        pytest.skip(reason)
    failed = said(FORBIDDEN, profile, tmp_path, capabilities=("CAP_NET_RAW", "CAP_SYS_ADMIN"))
    assert failed.pop("clone") is None
    assert set(failed.values()) == {"EPERM" if profile is PROFILE else None}


FRAMES = """
import json, socket
socket.socket(17, socket.SOCK_RAW).close()
print(json.dumps("opened"))
"""


def test_a_rule_for_packet_sockets_is_enough_to_open_them(tmp_path: Path) -> None:
    """As docs/containers.md says: family 17, and CAP_NET_RAW."""
    if reason := testing.missing("net_raw"):
        pytest.skip(reason)
    profile = copy.deepcopy(PROFILE)
    allowed = next(rule for rule in profile["syscalls"] if rule["names"] == ["socket"])
    profile["syscalls"].append({**allowed, "args": [{**allowed["args"][0], "value": 17}]})
    assert said(FRAMES, profile, tmp_path / "with", capabilities=("CAP_NET_RAW",)) == "opened"
    assert oci.run(FRAMES, profile, tmp_path / "without").returncode  # the capability is needed too
