"""What cannot be sent is refused with an error that says why; nothing is queued, held or broken by it."""

import errno
import gc
import os
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from conftest import Pair
from held_memory import is_held
from marks import only_io_uring
from raising import raises_errno

import uringzc
from uringzc.address import pack

S = uringzc.Scheduler
U32, U64 = 1 << 32, 1 << 64


@pytest.fixture
def s(udp_pair: Pair) -> Iterator[S]:
    """A scheduler; after the test, nothing was queued on it, and it still works."""
    with S(tags=[7, 8]) as s:
        sock = udp_pair.tx
        before = sys.getrefcount(sock)
        yield s
        s.submit()
        assert s.stats.requests == s.stats.in_flight == s.stats.held == s.stats.open == 0
        if sys.getrefcount(sock) != before:
            gc.collect()  # what exceptions hold
        assert sys.getrefcount(sock) == before
        s.send(udp_pair.tx, b"still works", user_data=U64 - 1, slot=1, flush=True)
        s.submit()
        assert list(s.reap_completions(wait=1)) == [uringzc.Completion(U64 - 1, 11)]
        assert [n.tag for n in s.reap_notifications(wait=1)] == [8]
        assert udp_pair.receive(1) == [b"still works"]


Case = tuple[str, dict[str, Any], type[BaseException], str]


def cases(*rows: Case) -> pytest.MarkDecorator:
    """Keyword arguments, and the error that they deserve."""
    values = [row[1:] for row in rows]
    return pytest.mark.parametrize(("arguments", "kind", "text"), values, ids=[row[0] for row in rows])


class Strange:
    """Has no buffer, no descriptor, and no number."""

    def __repr__(self) -> str:
        return "<strange>"


NOT_A_NUMBER = "cannot be interpreted as an integer"
SEND: list[Case] = [
    ("data str", {"data": "text"}, TypeError, "bytes-like object is required, not 'str'"),
    ("data None", {"data": None}, TypeError, "bytes-like object is required, not 'NoneType'"),
    ("data int", {"data": 5}, TypeError, "bytes-like object is required, not 'int'"),
    ("data list", {"data": [b"a", b"b"]}, TypeError, "bytes-like object is required, not 'list'"),
    ("data strange", {"data": Strange()}, TypeError, "bytes-like object is required"),
    ("data strided", {"data": np.zeros(10, np.uint8)[::2]}, BufferError, "must be contiguous"),
    ("data reversed", {"data": memoryview(b"1234")[::-1]}, BufferError, "must be contiguous"),
    ("data fortran", {"data": np.zeros((3, 3), order="F")}, BufferError, "must be contiguous"),
    ("data too large", {"data": bytes(65508)}, OSError, r"Errno 90.*larger than UDP can carry \(65507"),
    ("offset str", {"offset": "0"}, TypeError, NOT_A_NUMBER),
    ("offset float", {"offset": 1.0}, TypeError, NOT_A_NUMBER),
    ("offset None", {"offset": None}, TypeError, NOT_A_NUMBER),
    ("offset negative", {"offset": -1}, ValueError, "offset must be from 0 to 9223372036854775807, not -1"),
    ("offset huge", {"offset": U64}, ValueError, "offset must be from 0 to .*, not 18446744073709551616"),
    ("offset past the end", {"offset": 6}, ValueError, "bytes 6 to 6 are not all in the 5 bytes of the data"),
    ("length str", {"length": "1"}, TypeError, NOT_A_NUMBER),
    ("length negative", {"length": -1}, ValueError, "length must be from 0"),
    ("length past the end", {"length": 6}, ValueError, "bytes 0 to 6 are not all in the 5 bytes of the data"),
    ("length and offset", {"offset": 3, "length": 3}, ValueError, "bytes 3 to 6 are not all in the 5 bytes"),
    ("length huge", {"offset": 1, "length": (1 << 63) - 1}, ValueError, "are not all in the 5 bytes"),
    ("slot str", {"slot": "0"}, TypeError, NOT_A_NUMBER),
    ("slot None", {"slot": None}, TypeError, NOT_A_NUMBER),
    ("slot too large", {"slot": 2}, OSError, "Errno 22"),
    ("slot negative", {"slot": -1}, OSError, "Errno 22"),
    ("slot u32", {"slot": U32 - 1}, OSError, "Errno 22"),
    ("slot past u32", {"slot": U32}, OSError, "Errno 22"),
    ("slot huge", {"slot": 1 << 200}, OSError, "Errno 22"),
    ("user_data negative", {"user_data": -1}, ValueError, "user_data must be from 0 to 18446744073709551615"),
    ("user_data huge", {"user_data": U64}, ValueError, "user_data must be .*, not 18446744073709551616"),
    ("user_data float", {"user_data": 1.5}, TypeError, NOT_A_NUMBER),
    ("segment negative", {"segment": -1}, ValueError, "segment must be from 0 to 65535, not -1"),
    ("segment huge", {"segment": 65536}, ValueError, "segment must be from 0 to 65535, not 65536"),
    ("segment str", {"segment": "8"}, TypeError, NOT_A_NUMBER),
    ("to str", {"to": "127.0.0.1:9"}, TypeError, r"an address is \(host, port\) or .*, not '127.0.0.1:9'"),
    ("to int", {"to": 9}, TypeError, "an address is"),
    ("to one", {"to": ("127.0.0.1",)}, TypeError, "an address is"),
    ("to three", {"to": ("127.0.0.1", 9, 0)}, TypeError, "an address is"),
    ("to str port", {"to": ("127.0.0.1", "9")}, TypeError, "an address is a str and ints"),
    ("to bytes host", {"to": (b"127.0.0.1", 9)}, TypeError, "an address is a str and ints"),
    ("to negative port", {"to": ("127.0.0.1", -1)}, ValueError, "a port is 0 to 65535, not -1"),
    ("to huge port", {"to": ("127.0.0.1", 65536)}, ValueError, "a port is 0 to 65535, not 65536"),
    ("to other family", {"to": ("::1", 9)}, OSError, "family"),
    ("to no host", {"to": ("no such host", 9)}, OSError, "Errno -"),
    ("to a host and a NUL", {"to": ("127.0.0.1\0.example", 9)}, ValueError, "a host has no NUL character"),
    ("to a surrogate", {"to": ("\udcff", 9)}, UnicodeError, "idna"),
    ("unknown keyword", {"sloth": 1}, TypeError, r"send\(\) got an unexpected keyword argument 'sloth'"),
    ("keyword of a run", {"stride": 1}, TypeError, "unexpected keyword argument 'stride'"),
    ("sock None", {"sock": None}, TypeError, "sock must be a socket.socket, not None"),
    ("sock int", {"sock": 1}, TypeError, "sock must be a socket.socket, not 1"),
    ("sock strange", {"sock": Strange()}, TypeError, "sock must be a socket.socket, not <strange>"),
    ("sock file", {"sock": sys.__stdin__}, TypeError, "sock must be a socket.socket, not TextIOWrapper"),
]


@cases(*SEND)
def test_send_refuses_bad_arguments(
    s: S, udp_pair: Pair, arguments: dict[str, Any], kind: type[Exception], text: str
) -> None:
    given: dict[str, Any] = {"sock": udp_pair.tx, "data": b"12345", "flush": True, **arguments}
    with pytest.raises(kind, match=text):
        s.send(given.pop("sock"), given.pop("data"), **given)


@cases(*(row for row in SEND if not row[0].startswith(("data", "sock"))))
def test_send_of_a_region_refuses_bad_arguments(
    s: S, udp_pair: Pair, arguments: dict[str, Any], kind: type[Exception], text: str
) -> None:
    data = bytearray(5)
    region = s.register(data)
    with pytest.raises(kind, match=text.replace("of the data", "of the memory")):
        s.send(udp_pair.tx, region, **arguments)
    region.close()
    assert not is_held(data)


@cases(*(row for row in SEND if not row[0].startswith(("slot", "keyword", "sock file"))))
def test_send_in_debug_mode_refuses_bad_arguments(
    udp_pair: Pair, arguments: dict[str, Any], kind: type[Exception], text: str
) -> None:
    data = bytearray(5)
    given: dict[str, Any] = {"sock": udp_pair.tx, "data": data, **arguments}
    with S(debug=True) as s:
        with pytest.raises(kind, match=text.partition("not all in")[0]):
            s.send(given.pop("sock"), given.pop("data"), **given)
        assert s.stats.requests == 0
    assert not is_held(data)


@cases(
    ("size negative", {"size": -1}, ValueError, "size must be from 0 to 4294967295, not -1"),
    ("size huge", {"size": U32}, ValueError, "size must be from 0"),
    ("size str", {"size": "1"}, TypeError, "int"),
    ("size past the end", {"size": 101, "count": 1}, ValueError, "bytes 0 to 101 are not all in the 100"),
    ("count negative", {"count": -1}, ValueError, "count must be from 0 to 4294967295, not -1"),
    ("count huge", {"count": U32}, ValueError, "count must be from 0"),
    ("count float", {"count": 1.0}, TypeError, "int"),
    ("count past the end", {"count": 11}, ValueError, "bytes 0 to 110 are not all in the 100 bytes"),
    ("stride negative", {"stride": -1}, ValueError, "stride must be from 0"),
    ("stride str", {"stride": "1"}, TypeError, "int|str"),
    ("stride past the end", {"stride": 24}, ValueError, "bytes 0 to 106 are not all in the 100 bytes"),
    ("offset past the end", {"offset": 60}, ValueError, "bytes 60 to 110 are not all in the 100 bytes"),
    ("offset negative", {"offset": -1}, ValueError, "offset must be from 0"),
    (
        "span as large as it gets",
        {"size": U32 - 1, "count": U32 - 1, "stride": U32 - 1, "offset": (1 << 63) - 1},
        ValueError,
        "are not all in the 100 bytes",
    ),
    ("datagram too large", {"size": 65508, "region": bytes(70000), "count": 1}, OSError, "Errno 90"),
    ("region str", {"region": "text"}, TypeError, "bytes-like object is required"),
    ("slot", {"slot": 2}, OSError, "Errno 22"),
    ("user_data", {"user_data": U64}, ValueError, "user_data must be from 0"),
    ("unknown keyword", {"segment": 5}, TypeError, "unexpected keyword argument 'segment'"),
    ("to", {"to": "x"}, TypeError, "an address is"),
)
@pytest.mark.parametrize("debug", [False, True])
def test_send_run_refuses_bad_arguments(
    udp_pair: Pair, arguments: dict[str, Any], kind: type[Exception], text: str, debug: bool
) -> None:
    with S(debug=debug) as s:
        region = s.register(100)
        given: dict[str, Any] = {"region": region, "size": 10, "count": 5, **arguments}
        with pytest.raises(kind, match=text):
            s.send_run(udp_pair.tx, given.pop("region"), given.pop("size"), given.pop("count"), **given)
        assert s.stats.requests == 0


def test_send_run_of_no_datagrams_queues_nothing(s: S, udp_pair: Pair) -> None:
    region = s.register(100)
    assert s.send_run(udp_pair.tx, region, 10, 0) == 0
    assert s.send_run(udp_pair.tx, region, 10, 0, offset=100) == 0
    assert s.stats.requests == 0


def test_send_names_missing_and_repeated_arguments(s: S, udp_pair: Pair) -> None:
    calls: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], str]] = [
        (s.send, (), {}, r"send\(\) needs 'sock'"),
        (s.send, (udp_pair.tx,), {}, r"send\(\) needs 'data'"),
        (s.send, (udp_pair.tx, b"x", 0), {}, r"send\(\) takes 2 positional arguments, 3 were given"),
        (s.send, (udp_pair.tx, b"x"), {"data": b"y"}, r"send\(\) got 'data' twice"),
    ]
    for call, positional, named, text in calls:
        with pytest.raises(TypeError, match=text):
            call(*positional, **named)


# -- sockets


SOCKETS: list[tuple[str, Callable[[], socket.socket]]] = [
    ("unix stream", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)),
    ("unix datagram", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)),
    ("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 253)),
    ("packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)),
    ("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)),
    ("mptcp", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)),
    ("udplite", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 136)),
]


@only_io_uring
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("make", [row[1] for row in SOCKETS], ids=[row[0] for row in SOCKETS])
def test_a_ring_reports_the_kernels_refusal_of_other_sockets(make: Callable[[], socket.socket]) -> None:
    """A Ring hands on what the kernel says."""
    try:
        sock = make()
    except OSError as error:
        pytest.skip(f"no such socket here: {error}")
    with sock, uringzc.Ring(8) as ring:
        ring.send_zc(sock, b"x", user_data=5)
        ring.submit(wait=2)
        first, second = ring.reap()
        refused = (-errno.EOPNOTSUPP, -errno.ENOTCONN, -errno.EDESTADDRREQ)
        assert first.res in refused or sock.proto == 136  # UDP-Lite says nothing, and copies
        assert (first.user_data, first.more, second.notif) == (5, True, True)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_a_scheduler_copies_for_sockets_without_zero_copy(kind: socket.SocketKind) -> None:
    """On the same notifier as others."""
    tx, rx = socket.socketpair(socket.AF_UNIX, kind)
    with tx, rx, S() as s:
        s.send(tx, b"by a copy", user_data=7, flush=True)
        assert list(s.reap_completions(wait=1)) == [(7, 9)]
        (notification,) = s.reap_notifications(wait=1)
        assert (notification.requests, notification.nbytes, notification.copied, notification.failed) == (
            1,
            9,
            1,
            0,
        )
        assert rx.recv(100) == b"by a copy"


def test_a_unix_socket_refuses_udp_options() -> None:
    one, two = socket.socketpair()
    with one, two, S() as s:
        s.send(one, b"copied", zero_copy=False, flush=True)
        with pytest.raises(ValueError, match="segment needs a UDP socket"):
            s.send(one, b"x", zero_copy=False, segment=1)
        with pytest.raises(OSError, match="needs an IPv4 or IPv6 socket"):
            s.send(one, b"x", zero_copy=False, to=("127.0.0.1", 9))
        s.submit()
        assert two.recv(100) == b"copied"
        assert [(n.requests, n.copied) for n in s.reap_notifications(wait=1)] == [(1, 1)]


@pytest.mark.parametrize("how", ["close", "detach"])
def test_closed_sockets_are_refused(s: S, how: str) -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    left = getattr(sock, how)()
    calls: list[Callable[[], object]] = [
        lambda: s.send(sock, b"x"),
        lambda: s.send(sock, b"x", to=("127.0.0.1", 9)),
        lambda: s.send_run(sock, b"x", 1, 1),
        lambda: s.register_socket(sock),
    ]
    for call in calls:
        with raises_errno(errno.EBADF, "the socket is closed"):
            call()
    if left:
        os.close(left)


def test_registering_sockets_refuses_bad_arguments(s: S, udp_pair: Pair) -> None:
    for nothing in (None, 5, Strange()):
        with pytest.raises(TypeError, match="sock must be a socket"):
            s.register_socket(nothing)  # type: ignore[arg-type]
    with raises_errno(errno.ENXIO, "the socket is not registered"):
        s.unregister_socket(udp_pair.tx)
    s.register_socket(udp_pair.tx)
    with raises_errno(errno.EBUSY, "the socket is registered already"):
        s.register_socket(udp_pair.tx)
    s.unregister_socket(udp_pair.tx)


def test_sockets_can_be_registered_again_and_again(s: S) -> None:
    with ExitStack() as stack:
        made = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(500)]
        for _ in range(3):
            for sock in made:
                s.register_socket(sock)
            for sock in made:
                s.unregister_socket(sock)


# -- memory to register


@cases(
    ("zero", {"it": 0}, ValueError, "a region has at least a byte, and fits memory: not 0"),
    ("negative", {"it": -1}, ValueError, "a region has at least a byte, and fits memory: not -1"),
    ("huge", {"it": 1 << 60}, ValueError, "fits memory: not 1152921504606846976"),
    ("empty", {"it": bytearray()}, ValueError, "a region has at least a byte"),
    ("bytes", {"it": b"constant"}, TypeError, "register.. takes writable memory or a mapped file"),
    ("read-only view", {"it": memoryview(bytearray(9)).toreadonly()}, TypeError, "takes writable memory"),
    ("strided", {"it": np.zeros(9)[::2]}, BufferError, "must be contiguous"),
    ("str", {"it": "text"}, TypeError, "bytes-like object is required, not 'str'"),
    ("None", {"it": None}, TypeError, "bytes-like object is required, not 'NoneType'"),
    ("float", {"it": 4096.0}, TypeError, "bytes-like object is required, not 'float'"),
)
def test_register_refuses_bad_memory(
    s: S, arguments: dict[str, Any], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        s.register(arguments["it"])


def test_register_more_than_the_machine_has(s: S) -> None:
    with pytest.raises(OSError, match="Cannot allocate memory"):
        s.register(1 << 46)


# -- slots


@cases(
    ("none", {"tags": []}, OSError, "slots are 1 to 32768, not 0"),
    ("too many", {"tags": range(32769)}, OSError, "slots are 1 to 32768, not 32769"),
    ("negative tag", {"tags": [1, -1]}, ValueError, "tag must fit a u64, not -1"),
    ("huge tag", {"tags": [U64]}, ValueError, "tag must fit a u64, not 18446744073709551616"),
    ("str tag", {"tags": ["1"]}, TypeError, "tag must be an int, not str"),
    ("float tag", {"tags": [1.0]}, TypeError, "tag must be an int, not float"),
    ("no sequence", {"tags": 1}, TypeError, "not iterable"),
    ("engine", {"engine": "carrier pigeon"}, ValueError, "engine is .*, not 'carrier pigeon'"),
    ("completions", {"completions": "some"}, ValueError, "completions is 'all', .*, not 'some'"),
    ("max_inflight zero", {"max_inflight": 0}, ValueError, "max_inflight must be from 1 to 1048576, not 0"),
    ("max_inflight negative", {"max_inflight": -9}, ValueError, "max_inflight must be from 1 .* not -9"),
    ("max_inflight huge", {"max_inflight": 1 << 21}, ValueError, "max_inflight must be from 1 to .* 2097152"),
    ("max_inflight float", {"max_inflight": 1.5}, TypeError, "max_inflight|int"),
    ("max_inflight str", {"max_inflight": "9"}, TypeError, "max_inflight|int"),
    ("unknown keyword", {"notags": 1}, TypeError, "unexpected keyword argument 'notags'"),
)
def test_scheduler_refuses_bad_options(arguments: dict[str, Any], kind: type[Exception], text: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(kind, match=text):
        S(**arguments)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("slot", [2, -1, U32 - 1, U32, 1 << 100, -(1 << 100)])
def test_flush_refuses_slots_out_of_range(s: S, slot: int) -> None:
    with raises_errno(errno.EINVAL, "slot"):
        s.flush(slot)


@pytest.mark.parametrize("slot", ["0", None, 0.5, [0]])
def test_flush_refuses_other_types(s: S, slot: Any) -> None:
    with pytest.raises(TypeError):
        s.flush(slot)


@cases(
    ("past the end", {"first": 2, "count": 1}, OSError, "Errno 22"),
    ("range past the end", {"first": 1, "count": 2}, OSError, "Errno 22"),
    ("negative first", {"first": -1, "count": 1}, OSError, "Errno 22"),
    ("negative count", {"first": 0, "count": -1}, OSError, "Errno 22"),
    ("past u32", {"first": U32 - 1, "count": 1}, OSError, "Errno 75"),
    ("far past u32", {"first": 1 << 99, "count": 1}, OSError, "Errno 75"),
    ("str first", {"first": "0", "count": 1}, TypeError, "str|int"),
    ("tag str", {"first": 0, "count": 1, "tag": "x"}, TypeError, "tag must be an int, not str"),
    ("tag negative", {"first": 0, "count": 1, "tag": -1}, ValueError, "tag must fit a u64"),
    ("tag huge", {"first": 0, "count": 1, "tag": U64}, ValueError, "tag must fit a u64"),
)
def test_update_refuses_bad_arguments(
    s: S, arguments: dict[str, Any], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        s.slots.update(**arguments)


def test_slots_are_registered_and_unregistered_once(s: S) -> None:
    with raises_errno(errno.EBUSY, "register slots"):
        s.slots.register([1])
    s.slots.unregister()
    with raises_errno(errno.ENXIO, "unregister slots"):
        s.slots.unregister()
    s.slots.register([7, 8])


@pytest.mark.parametrize("call", ["reap_completions", "reap_notifications"])
def test_reap_refuses_bad_waits(s: S, call: str) -> None:
    reap = getattr(s, call)
    with pytest.raises(ValueError, match="wait must not be negative: -1"):
        reap(wait=-1)
    for nothing in ("1", None, b"1"):
        with pytest.raises(TypeError):
            reap(wait=nothing)


# -- Ring


@only_io_uring
@cases(
    ("entries zero", {"entries": 0}, ValueError, "entries must be from 1 to 32768, not 0"),
    ("entries huge", {"entries": 32769}, ValueError, "entries must be from 1 to 32768, not 32769"),
    ("entries float", {"entries": 1.5}, TypeError, "int"),
    ("cq_entries negative", {"cq_entries": -1}, ValueError, "cq_entries must be from 1 to 65536, not -1"),
    ("cq_entries huge", {"cq_entries": 65537}, ValueError, "cq_entries must be from 1 to 65536, not 65537"),
    ("max_inflight huge", {"max_inflight": 1 << 30}, ValueError, "max_inflight must be from 1 to 1048576"),
    ("max_inflight negative", {"max_inflight": -1}, ValueError, "max_inflight must be from 1 to 1048576"),
)
def test_ring_refuses_bad_options(arguments: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        uringzc.Ring(**arguments)


@only_io_uring
@cases(
    ("none", {"buffers": []}, ValueError, "a message has 1 to 1024 buffers, not 0"),
    ("too many", {"buffers": [b"x"] * 1025}, ValueError, "a message has 1 to 1024 buffers, not 1025"),
    ("str", {"buffers": "text"}, TypeError, "bytes-like object is required, not 'str'"),
    ("a str among them", {"buffers": [b"x", "y"]}, TypeError, "bytes-like object is required, not 'str'"),
    ("strided", {"buffers": [memoryview(b"1234")[::2]]}, BufferError, "must be contiguous"),
    ("to", {"buffers": [b"x"], "to": 5}, TypeError, "an address is"),
    ("user_data", {"buffers": [b"x"], "user_data": -1}, ValueError, "user_data must be from 0"),
    ("msg_flags", {"buffers": [b"x"], "msg_flags": 1 << 31}, ValueError, "msg_flags must be from 0"),
)
def test_sendmsg_zc_refuses_bad_arguments(
    udp_pair: Pair, arguments: dict[str, Any], kind: type[Exception], text: str
) -> None:
    with uringzc.Ring() as ring:
        with pytest.raises(kind, match=text):
            ring.sendmsg_zc(udp_pair.tx, arguments.pop("buffers"), **arguments)
        assert ring.stats.requests == 0


# -- numbers that do something when they are asked


@pytest.mark.parametrize(
    "argument", [*("offset", "length", "slot", "user_data"), *("size", "count", "stride")]
)
def test_an_index_method_may_close_the_engine(udp_pair: Pair, argument: str) -> None:
    outcomes: list[type[BaseException] | None] = []

    class Closing:
        def __index__(self) -> int:
            try:
                engine.close()
                outcomes.append(None)
            except uringzc.BusyError:
                outcomes.append(uringzc.BusyError)
            return 1

    run = argument in ("size", "count", "stride")
    with S(tags=[1, 2], debug=False) as s:
        engine = s
        given: dict[str, Any] = {argument: Closing()}
        try:
            if run:
                s.send_run(udp_pair.tx, b"12", given.pop("size", 1), given.pop("count", 1), **given)
            else:
                s.send(udp_pair.tx, b"12", **given)
            queued = 1
        except uringzc.ClosedError:
            queued = 0
        assert s.stats.requests == queued
        assert outcomes == [uringzc.BusyError if queued else None]


@pytest.mark.parametrize("call", ["send", "register_socket"])
def test_an_encrypted_socket_is_refused(tcp_pair: Pair, call: str) -> None:
    context = ssl.create_default_context()
    plain = tcp_pair.tx.dup()
    with context.wrap_socket(plain, do_handshake_on_connect=False, server_hostname="x") as sock, S() as s:
        arguments = (sock, b"secret") if call == "send" else (sock,)
        with pytest.raises(TypeError, match="SSLSocket"):
            getattr(s, call)(*arguments)
        assert s.stats.requests == 0


@pytest.mark.parametrize(
    ("to", "kind"),
    [
        (("::1", 9, 1 << 20, 0), ValueError),
        (("::1", 9, 0, 1 << 32), ValueError),
        (("::1", 9, -1, 0), ValueError),
        (("::1", True), TypeError),
        (("::1\0", 9), ValueError),
        (("fe80::1%lo\0.example", 9), ValueError),
        (("fe80::1%", 9), socket.gaierror),
        (("fe80::1%no-such", 9), socket.gaierror),
        (("fe80::1%99999999999", 9), socket.gaierror),
    ],
)
def test_bad_ipv6_scopes_are_refused(to: object, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        pack(socket.AF_INET6, to)


def test_special_host_names_of_the_socket_module_are_known() -> None:
    assert pack(socket.AF_INET, ("<broadcast>", 9)) == pack(socket.AF_INET, ("255.255.255.255", 9))
    assert pack(socket.AF_INET, ("", 9)) == pack(socket.AF_INET, ("0.0.0.0", 9))
