"""Many sockets of one engine, how they are recognised, and sockets that epoll refuses."""

import resource
import socket
import struct
from contextlib import ExitStack

import pytest
from conftest import Pair
from marks import only_msg_zerocopy
from processes import child
from traffic import received, stopped

import uringzc
from uringzc import testing

sandboxed = testing.requires("net_admin")
SO_COOKIE, SO_NETNS_COOKIE = 57, 71


def test_two_thousand_sockets_can_be_used(udp_pair: Pair) -> None:
    with ExitStack() as stack, uringzc.Scheduler() as s:
        socks = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2000)]
        for _ in range(2):
            for i, sock in enumerate(socks):
                s.send(sock, struct.pack("I", i), to=udp_pair.rx.getsockname(), flush=True)
            s.drain(20)
            assert {c.result for c in s.reap_completions()} == {4}
            assert len(s.reap_notifications()) == 2000
            got = [struct.unpack("I", each)[0] for each in udp_pair.receive(2000)]
            assert sorted(got) == list(range(2000))


MANY = """
import resource, socket, sys, uringzc
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(1500)]
with uringzc.Scheduler() as s:
    for sock in socks:
        s.send(sock, b"x" * 1000, to=("10.0.0.2", 9000), flush=True)
    s.submit()
    print(s.stats.in_flight, flush=True)
    sys.stdin.readline()
    s.drain(20)
"""


@only_msg_zerocopy
@sandboxed
def test_more_than_a_thousand_sockets_send_zero_copy(box: testing.Hold) -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 4096:
        pytest.skip("needs a hard limit of 4096 descriptors")
    with box.receiver_socket(), stopped(box), child(MANY, box=box) as program:
        assert program.line() == "1500"
        box.release()
        program.write_line()
        program.end()


REUSED = """
import errno, socket, sys, uringzc
from refusals import GETSOCKOPT, forbid
forbid(GETSOCKOPT, errno.ENOPROTOOPT, 2, int(sys.argv[1]))
far, rx = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20000)
far.connect(("10.0.0.2", 9000))
rx.bind(("127.0.0.1", 0))
rx.settimeout(5)
with uringzc.Scheduler() as s:
    for _ in range(40):
        s.send(far, b"far" * 300)
    s.submit()
    assert len(s.reap_completions()) < 40  # the others wait for room
    number = far.fileno()
    far.close()
    near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    assert near.fileno() == number
    near.connect(rx.getsockname())
    s.send(near, b"near")
    s.submit()
    assert rx.recv(1000) == b"near"
    print("received", flush=True)
    sys.stdin.readline()
    s.drain(20)
"""


@pytest.mark.slow
@pytest.mark.engines("msg_zerocopy", "copy")
@sandboxed
@pytest.mark.parametrize("option", [SO_COOKIE, SO_NETNS_COOKIE])
def test_a_reused_descriptor_is_recognised_without_cookies(
    box: testing.Hold, rx: socket.socket, option: int
) -> None:
    """Linux before 4.12 has no cookies; before 5.10 two sockets may have the same."""
    with stopped(box), child(REUSED, option, box=box) as program:
        assert program.line() == "received"
        box.release()
        program.write_line()
        program.end()
    assert received(rx, 40) == [b"far" * 300] * 40


UNWATCHED = """
import errno, select, socket, sys, uringzc
from refusals import EPOLL_CTL, forbid
few, full = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
full.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20000)
with uringzc.Scheduler() as s:
    fd = s.fileno()
    forbid(EPOLL_CTL, errno.ENOSPC, 1, 1)  # EPOLL_CTL_ADD: as with fs.epoll.max_user_watches
    for sock, count in ((few, 3), (full, 40)):
        for _ in range(count):
            s.send(sock, b"x" * 1000, to=("10.0.0.2", 9000), flush=True)
    s.submit()
    print(len(s.reap_completions()) < 43, s.stats.in_flight > 10, flush=True)
    sys.stdin.readline()
    if sys.argv[1] == "drain":
        s.drain(20)
    reported = len(s.reap_notifications())
    while reported < 43:
        assert select.select([fd], [], [], 20)[0]
        reported += len(s.reap_notifications())
    few.close(), full.close()
"""


@pytest.mark.engines("msg_zerocopy", "copy")
@sandboxed
@pytest.mark.parametrize("how", ["drain", "poll"])
def test_sockets_that_epoll_refuses_are_polled(box: testing.Hold, rx: socket.socket, how: str) -> None:
    with stopped(box), child(UNWATCHED, how, box=box) as program:
        assert program.line() == "True True"
        box.release()
        program.write_line()
        program.end()
    assert received(rx, 43) == [b"x" * 1000] * 43
