"""The tables of a ring: registered files, which are optional, and registered buffers."""

import errno
import json
import random
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from conftest import Pair
from marks import only_io_uring
from processes import run_program
from raising import raises_errno

import uringzc
from uringzc.engines.tables import BUFFERS

pytestmark = only_io_uring
S = uringzc.Scheduler


@contextmanager
def descriptors(soft: int) -> Iterator[None]:
    """No more than so many in the block, for new ones and for tables."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# -- files

# As `ulimit -n` does it: soft and hard.
FEW = """
    import encodings.idna, os, resource, socket, sys, uringzc
    os.environ.pop("URINGZC_ENGINE")
    soft, hard, engine = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as rx:
        rx.bind(("127.0.0.1", 0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        with uringzc.UdpSender(rx.getsockname(), engine=engine) as sender:
            sender.send_many([b"one", b"two"])
            sender.drain()
            print(sender._engine.name, sender._engine.sockets.registered[sender._sock])
            print(rx.recv(10), rx.recv(10))
        print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.slow
@pytest.mark.parametrize("which", ["io_uring", "auto"])
@pytest.mark.parametrize("more", [0, 2048], ids=["hard", "soft"])
@pytest.mark.parametrize("few", [16, 256, 1023, 1024])
def test_the_file_table_fits_rlimit_nofile(few: int, more: int, which: str) -> None:
    """The table is as small as the limit, and the limit stays: select() has no bits beyond 1023."""
    out, errors = run_program(FEW, few, few + more, which)
    assert out.splitlines() == ["io_uring 0", "b'one' b'two'", f"({few}, {few + more})"], errors


def test_a_full_file_table_is_refused() -> None:
    with S() as s, ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(4)]
        with descriptors(3):
            for sock in sockets[:3]:
                s.register_socket(sock)
        with raises_errno(errno.ENFILE, "3 sockets are registered, the most of one ring"):
            s.register_socket(sockets[3])
        s.unregister_socket(sockets[1])
        s.register_socket(sockets[3])
        assert s._engine.sockets.registered == {sockets[0]: 0, sockets[2]: 2, sockets[3]: 1}


def test_sockets_work_without_a_file_table(udp_pair: Pair) -> None:
    """Then sockets go by their descriptors, as on the other engines."""
    with S() as s:
        with descriptors(0):
            s.register_socket(udp_pair.tx)
        with pytest.raises(OSError, match="registered already"):
            s.register_socket(udp_pair.tx)
        s.send(udp_pair.tx, b"by its descriptor")
        s.unregister_socket(udp_pair.tx)
        with pytest.raises(OSError, match="not registered"):
            s.unregister_socket(udp_pair.tx)
        s.send(udp_pair.tx, b"again")
        s.submit()
        assert [c.result for c in s.reap_completions(wait=2)] == [17, 5]
        assert udp_pair.receive(2) == [b"by its descriptor", b"again"]


def test_explain_names_a_missing_file_table() -> None:
    program = """
        from refusals import *
        forbid(IO_URING_REGISTER, errno.EPERM, 1, 13)  # IORING_REGISTER_FILES2
        report(sender)
    """
    name, said = json.loads(run_program(program)[0])["sender"]
    assert name == "io_uring"
    assert "Its socket is not registered: no table of files (Operation not permitted)." in said


def test_control_explain_with_a_file_table(udp_pair: Pair) -> None:
    with uringzc.UdpSender(udp_pair.rx.getsockname()) as sender:
        assert "not registered" not in sender.explain()


def test_doctor_works_with_few_descriptors() -> None:
    program = """
        import resource
        from uringzc.cli import main
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        main(["doctor", "127.0.0.1"])
    """
    assert "A UdpSender says" in run_program(program)[0]


# -- registered buffers; a region of more than 1 GiB has several in a row, which are taken here without one


def test_buffer_entries_of_large_regions_are_reused() -> None:
    with S() as s:
        buffers = s._engine._buffers  # type: ignore[attr-defined]
        for _ in range(BUFFERS):
            buffers.retired.append((buffers._allocate(3), 3))
        assert buffers._allocate(BUFFERS) == 0
        with raises_errno(errno.ENOBUFS, "16384 buffers are registered, the most of one ring"):
            s.register(1)
        buffers.retired += ((0, 1), (2, 1))
        with pytest.raises(OSError, match="16382 buffers are registered with no 2 free in a row"):
            buffers._allocate(2)
        assert s.register(1).registered


def test_buffer_entries_between_others_are_reused() -> None:
    """Any order of regions of any size: no entry twice, and none is lost."""
    rng = random.Random(1)
    with S() as s:
        buffers = s._engine._buffers  # type: ignore[attr-defined]
        taken: dict[int, int] = {}
        for _ in range(20_000):
            if taken and rng.random() < 0.5:
                first = rng.choice(list(taken))
                buffers.retired.append((first, taken.pop(first)))
            else:
                parts = rng.choice((1, 1, 1, 2, 3, 17))
                first = buffers._allocate(parts)
                taken[first] = parts
        used = [entry for first, parts in taken.items() for entry in range(first, first + parts)]
        assert len(used) == len(set(used)) < BUFFERS
        buffers.retired.extend(taken.items())
        assert buffers._allocate(1) == 0
        buffers.retired.append((0, 1))
        assert buffers._allocate(BUFFERS) == 0
