"""TcpSender: what leaves, in which order, and how, over loopback and over each engine."""

import array
import mmap
import random
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from conftest import Pair
from marks import zero_copy_engines
from processes import run_program
from traffic import StreamReader, receive_exactly

import uringzc
from uringzc import SendError, TcpSender, testing
from uringzc.senders import policy
from uringzc.senders.policy import MODES
from uringzc.senders.tcp import MIN_ZERO_COPY

if TYPE_CHECKING:
    from typing_extensions import Buffer

KINDS: list[Callable[[bytes], "Buffer"]] = [bytes, bytearray, memoryview]


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


# -- content and order


@pytest.mark.parametrize("zero_copy", MODES)
@pytest.mark.parametrize("size", [0, 1, 4096, 64 << 10, 1 << 20, 8 << 20])
def test_everything_arrives_in_order(tcp_pair: Pair, engine: str, zero_copy: str, size: int) -> None:
    data = noise(size)
    with StreamReader(tcp_pair.rx) as read, TcpSender(tcp_pair.tx, engine=engine, zero_copy=zero_copy) as s:
        for kind in KINDS:
            assert s.send(kind(data)) == size
        assert s.stats.nbytes == 3 * size
        assert s.stats.sends == 3
        s.shutdown()
    assert read.end() == data * 3


MIXES: dict[str, list["Buffer"]] = {
    "none": [],
    "empty ones": [b"", bytearray(), memoryview(b"")],
    "empty and not": [b"", b"a", bytearray(), b"b" * MIN_ZERO_COPY, b"", bytearray(b"c"), b""],
    "large ones": [noise(MIN_ZERO_COPY), noise(1 << 20), noise(3 << 20)],
    "more than IOV_MAX": [b"%05d" % i for i in range(3000)],
    "of all kinds": [KINDS[i % 3](noise((i * 7919) % 40000)) for i in range(600)],
    "neither bytes nor flat": [array.array("i", range(99)), memoryview(bytes(range(64))).cast("I", (4, 4))],
    "an empty array": [array.array("d"), b"x"],
}


@pytest.mark.parametrize("zero_copy", MODES)
@pytest.mark.parametrize("mix", MIXES)
def test_buffers_leave_one_after_the_other(tcp_pair: Pair, engine: str, zero_copy: str, mix: str) -> None:
    whole = b"".join(bytes(memoryview(each).tobytes()) for each in MIXES[mix])
    with StreamReader(tcp_pair.rx) as read, TcpSender(tcp_pair.tx, engine=engine, zero_copy=zero_copy) as s:
        assert s.send_buffers(iter(MIXES[mix])) == len(whole)
        s.send(b"end")
        s.shutdown()
    assert read.end() == whole + b"end"


def test_data_arrives_in_debug_mode(tcp_pair: Pair, engine: str) -> None:
    data: list[Buffer] = [noise(MIN_ZERO_COPY), bytearray(noise(1 << 20)), memoryview(noise(300_000)), b"x"]
    with StreamReader(tcp_pair.rx) as read, TcpSender(tcp_pair.tx, engine=engine, debug=True) as s:
        s.send_buffers(data)
        s.shutdown()
    assert read.end() == b"".join(map(bytes, data))


def test_small_neighbours_are_one_system_call(tcp_pair: Pair, engine: str) -> None:
    with TcpSender(tcp_pair.tx, engine=engine) as s:
        s.send_buffers([b"a", bytearray(b"b"), memoryview(b"c")])
        assert (s.stats.syscalls, s.stats.requests) == (1, 0)
    assert receive_exactly(tcp_pair.rx, 3) == b"abc"


@pytest.mark.parametrize("bad", ["text", 5, None, memoryview(bytes(10))[::2]])
def test_a_bad_buffer_sends_nothing(tcp_pair: Pair, engine: str, bad: Any) -> None:
    with TcpSender(tcp_pair.tx, engine=engine) as s:
        with pytest.raises((TypeError, BufferError)):
            s.send_buffers([b"good", noise(MIN_ZERO_COPY), bad])
        with pytest.raises((TypeError, BufferError)):
            s.send(bad)
        with pytest.raises(TypeError):
            s.send_buffers(bad)
        assert s.stats.nbytes == 0
        s.send(b"only this")
    assert tcp_pair.rx.recv(100) == b"only this"
    assert tcp_pair.empty()


# -- how it leaves


@zero_copy_engines
@pytest.mark.parametrize(
    ("zero_copy", "data", "requests"),
    [
        ("auto", bytes(MIN_ZERO_COPY), 1),
        ("auto", memoryview(bytes(MIN_ZERO_COPY)), 1),
        ("auto", memoryview(bytes(2 * MIN_ZERO_COPY)).cast("I")[:MIN_ZERO_COPY], 1),
        ("auto", bytes(MIN_ZERO_COPY - 1), 0),
        ("auto", bytearray(MIN_ZERO_COPY), 0),
        ("auto", memoryview(bytearray(MIN_ZERO_COPY)).toreadonly(), 0),
        ("auto", mmap.mmap(-1, MIN_ZERO_COPY, prot=mmap.PROT_READ), 0),
        ("always", b"x", 1),
        ("always", b"", 0),
        ("always", bytearray(MIN_ZERO_COPY), 0),
        ("never", bytes(MIN_ZERO_COPY), 0),
    ],
)
def test_large_immutable_data_is_sent_zero_copy(
    tcp_pair: Pair, engine: str, zero_copy: str, data: "Buffer", requests: int
) -> None:
    with TcpSender(tcp_pair.tx, engine=engine, zero_copy=zero_copy) as s:
        s.send(data)
        assert (s.stats.requests, s.stats.syscalls) == (requests, 1 - requests)


@zero_copy_engines
def test_data_is_copied_at_once_where_the_kernel_copies(
    tcp_pair: Pair, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "PAUSE", 4)
    with TcpSender(tcp_pair.tx, engine=engine) as s:
        assert "sent zero-copy, from where they are" in s.explain()
        for _ in range(policy.TRIAL):
            s.send(bytes(MIN_ZERO_COPY))
            receive_exactly(tcp_pair.rx, MIN_ZERO_COPY)
            s.drain(20)  # so that it is known
        assert s.stats.copied == s.stats.zero_copy == policy.TRIAL
        assert s.stats.copying
        assert "since the kernel copied zero-copy sends too" in s.explain()
        for _ in range(4):
            s.send(bytes(MIN_ZERO_COPY))
        assert (s.stats.requests, s.stats.syscalls) == (policy.TRIAL, 4)
        s.send(bytes(MIN_ZERO_COPY))
        assert s.stats.requests == policy.TRIAL + 1  # the kernel is asked again
        tcp_pair.rx.recv(1 << 20, socket.MSG_WAITALL | socket.MSG_DONTWAIT)


@pytest.mark.parametrize("zero_copy", MODES)
def test_explain_and_repr(tcp_pair: Pair, engine: str, zero_copy: str) -> None:
    with TcpSender(tcp_pair.tx, engine=engine, zero_copy=zero_copy) as s:
        assert s.explain().startswith(f"{engine}: ")
        assert ("as asked" in s.explain()) == (zero_copy != "auto" and engine != "copy")
        assert ("not possible: the engine has none" in s.explain()) == (engine == "copy")
        assert repr(s) == f"<TcpSender, {engine}, 0 bytes>"


# -- other sockets


def test_a_unix_stream_is_served_by_copying(engine: str) -> None:
    tx, rx = socket.socketpair()
    with tx, rx, StreamReader(rx) as read, TcpSender(tx, engine=engine, zero_copy="always") as s:
        s.send_buffers([noise(1 << 20), b"small", bytearray(b"mutable")])
        assert s.stats.requests == 0
        assert "AF_UNIX has no zero-copy sends" in s.explain() or engine == "copy"
        s.shutdown()
        assert read.end() == noise(1 << 20) + b"smallmutable"


def test_multipath_tcp_is_served_by_copying(engine: str) -> None:
    try:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_MPTCP)
    except OSError as error:
        pytest.skip(f"needs Multipath TCP: {error.strerror}")
    with listener, socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_MPTCP) as tx:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        tx.connect(listener.getsockname())
        rx, _ = listener.accept()
        with rx, StreamReader(rx) as read, TcpSender(tx, engine=engine, zero_copy="always") as s:
            s.send(noise(1 << 20))
            assert s.stats.requests == 0
            s.shutdown()
            assert read.end() == noise(1 << 20)


def test_other_sockets_are_refused() -> None:
    with pytest.raises(TypeError, match=r"must be a socket\.socket, not int"):
        TcpSender(5)  # type: ignore[arg-type]
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        pytest.raises(ValueError, match="sends through a stream socket"),
    ):
        TcpSender(udp)
    context = ssl.create_default_context()
    with (
        socket.socket() as sock,
        context.wrap_socket(sock, server_hostname="x") as tls,
        pytest.raises(TypeError, match="SSLSocket encrypts"),
    ):
        TcpSender(tls)
    with socket.socket() as sock:
        pass
    with pytest.raises(OSError, match="closed"):
        TcpSender(sock)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"zero_copy": "maybe"}, ValueError),
        ({"engine": "steam"}, ValueError),
        ({"on_error": 5}, TypeError),
        ({"notify": "x"}, TypeError),
    ],
)
def test_bad_options_are_refused(tcp_pair: Pair, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        TcpSender(tcp_pair.tx, **options)


def test_options_of_a_shared_scheduler_are_refused(tcp_pair: Pair) -> None:
    with uringzc.Scheduler() as scheduler, pytest.raises(ValueError, match="the scheduler's that is shared"):
        TcpSender(tcp_pair.tx, scheduler=scheduler, engine="copy")


@pytest.mark.parametrize("data", [b"x", noise(MIN_ZERO_COPY), b""])
def test_a_socket_that_is_not_connected_raises(engine: str, data: bytes) -> None:
    with socket.socket() as sock, TcpSender(sock, engine=engine) as s:
        with pytest.raises(BrokenPipeError) as caught:
            s.send(data)
        assert isinstance(caught.value, SendError)
        assert (caught.value.accepted, caught.value.size, caught.value.total) == (0, len(data), 0)


def test_a_socket_closed_by_the_program_raises(tcp_pair: Pair, engine: str) -> None:
    with TcpSender(tcp_pair.tx, engine=engine) as s:
        s.send(b"x")
        tcp_pair.tx.close()
        for data in (b"y", noise(MIN_ZERO_COPY)):
            with pytest.raises(OSError, match="Bad file descriptor") as caught:
                s.send(data)
            assert isinstance(caught.value, SendError)
            assert caught.value.total == 1


# -- little memory


LITTLE = """
    import os, socket, sys, threading, uringzc
    from refusals import become_nobody
    with socket.create_server(("127.0.0.1", 0)) as listener:
        tx = socket.create_connection(listener.getsockname())
        rx, _ = listener.accept()
    become_nobody(int(sys.argv[2]) << 10)
    got = bytearray()
    def read():
        while piece := rx.recv(1 << 20):
            got.extend(piece)
    thread = threading.Thread(target=read)
    thread.start()
    data = os.urandom(2 << 20)
    with uringzc.TcpSender(tx, engine=sys.argv[1], zero_copy="always") as s:
        s.send(data)
        s.shutdown()
        thread.join()
        s.drain(20)
        print(got == data, s.stats.syscalls > 0)
"""


@pytest.mark.slow
@testing.requires("unprivileged")
@zero_copy_engines
@pytest.mark.parametrize("kib", [512, 8 << 10])
def test_sends_above_the_memlock_limit_are_copied(engine: str, kib: int) -> None:
    """With the control: where there is enough, nothing is copied by a system call."""
    out, errors = run_program(LITTLE, engine, kib)
    copied = kib == 512 and engine == "io_uring"  # the other engine copies by itself
    assert out.split() == ["True", str(copied)], errors
