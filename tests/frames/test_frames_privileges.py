"""Without CAP_NET_RAW the engines say what is missing; in a user namespace of one's own they work."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from marks import frame_engines
from processes import run_program

import uringzc
from uringzc import testing

NOBODY = """
    import os, sys
    import uringzc, uringzc.senders.udp
    with uringzc.Scheduler():  # imports everything, while the interpreter's files can be read
        pass
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    for make in (uringzc.Scheduler, lambda: uringzc.UdpSender(("127.0.0.1", 9))):
        try:
            with make():
                print("made")
        except PermissionError as error:
            print(error.errno, "CAP_NET_RAW" in str(error), str(error))
"""


@frame_engines
@testing.requires("unprivileged")
def test_without_cap_net_raw_the_error_names_it() -> None:
    out, _ = run_program(NOBODY)
    lines = out.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("1 True ") for line in lines), lines
    assert all("setcap" in line and "unshare" in line for line in lines), lines


ROOT_OF_ITS_OWN = """
    import socket, uringzc
    from uringzc.testing.devices import FAR, NEAR, bring_up

    bring_up("ifb0", NEAR, FAR, kind="ifb")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, uringzc.Scheduler() as s:
        sock.connect((FAR.ip, 9000))
        for i in range(100):
            s.send(sock, bytes(1200), flush=True)
            s.reap_notifications(wait=1)
        results = {done.result for done in s.reap_completions()}
        print(s.engine, results, s.stats.failed, repr(s._engine.find_path(sock, None, 0.0).why))
    with uringzc.UdpSender((FAR.ip, 9000), max_delay=None) as sender:  # its timer would use system calls
        for i in range(1000):
            sender.send(bytes(1200))
        sender.drain()
        print(sender.stats.datagrams, sender.stats.syscalls)
    print(int(open("/proc/net/dev").read().split("ifb0:")[1].split()[3]) > 100)  # dropped by it
"""


@frame_engines
@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare: apt-get install util-linux")
def test_it_works_as_the_root_of_a_user_namespace(engine: str) -> None:
    """With the capabilities that `unshare --map-root-user --net` gives anybody, over a device made there."""
    namespace = ["unshare", "--user", "--map-root-user", "--net"]
    if subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs user namespaces: sysctl user.max_user_namespaces is 0, or a sandbox forbids them")
    program = textwrap.dedent(ROOT_OF_ITS_OWN)
    done = subprocess.run(
        [*namespace, sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(Path(uringzc.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{engine} {{1200}} 0 ''", "1000 0", "True"]
