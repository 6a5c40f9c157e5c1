"""The socket of a UdpSender: `sock`, and the options that are set on one of its own."""

import os
import socket
import struct
from typing import Any

import pytest
from conftest import HOSTS, MakePair, Pair
from processes import run_program

from uringzc import TcpSender, UdpSender, testing

FAMILIES = [socket.AF_INET, socket.AF_INET6]
LEVELS = {socket.AF_INET: socket.IPPROTO_IP, socket.AF_INET6: socket.IPPROTO_IPV6}
TOS = {socket.AF_INET: socket.IP_TOS, socket.AF_INET6: socket.IPV6_TCLASS}
RECVTOS = {socket.AF_INET: socket.IP_RECVTOS, socket.AF_INET6: socket.IPV6_RECVTCLASS}
LOOP = {socket.AF_INET: socket.IP_MULTICAST_LOOP, socket.AF_INET6: socket.IPV6_MULTICAST_LOOP}
PORT = 9000


def tos_of(sock: socket.socket) -> int:
    """The TOS or traffic class of the next datagram."""
    _, ancillary, *_ = sock.recvmsg(1 << 16, 64)
    ((_, _, data),) = ancillary
    return data[0]


# -- sock


def test_the_socket_is_the_senders_own(udp_pair: Pair) -> None:
    tx = UdpSender(udp_pair.rx.getsockname())
    tx.send(b"x")
    tx.flush()
    assert udp_pair.rx.recvfrom(9)[1] == tx.sock.getsockname()
    assert tx.sock.getpeername() == udp_pair.rx.getsockname()
    tx.close()
    assert tx.sock.fileno() == -1


def test_or_the_programs_which_stays_open(udp_pair: Pair) -> None:
    with UdpSender(sock=udp_pair.tx) as tx:
        assert tx.sock is udp_pair.tx
    assert udp_pair.tx.fileno() >= 0


def test_an_option_that_is_set_later_holds_for_what_is_sent_then(udp_pair: Pair) -> None:
    udp_pair.rx.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    with UdpSender(udp_pair.rx.getsockname(), max_delay=None) as tx:
        for tos in 0, 0x20:
            tx.sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
            tx.send_many([bytes(1000)] * 3)
            tx.drain()
    assert [tos_of(udp_pair.rx) for _ in range(6)] == [0] * 3 + [0x20] * 3


# -- options of a socket of its own


@pytest.mark.parametrize("family", FAMILIES)
def test_tos_is_what_arrives(make_udp: MakePair, family: socket.AddressFamily) -> None:
    """In a lone datagram and in those of trains; without the option it is 0."""
    rx = make_udp(family).rx
    rx.setsockopt(LEVELS[family], RECVTOS[family], 1)
    with UdpSender(rx.getsockname(), tos=0xB8, max_delay=None) as tx:
        assert tx.sock.getsockopt(LEVELS[family], TOS[family]) == 0xB8
        tx.send(b"x")
        tx.flush()
        tx.send_many([bytes(1000)] * 20)
    with UdpSender(rx.getsockname()) as tx:
        tx.send(b"x")
    assert [tos_of(rx) for _ in range(22)] == [0xB8] * 21 + [0]


def test_tos_holds_for_mapped_addresses(udp_pair: Pair) -> None:
    udp_pair.rx.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    with UdpSender(family=socket.AF_INET6, tos=0x48) as tx:
        tx.send(b"x", ("::ffff:127.0.0.1", udp_pair.rx.getsockname()[1]))
    assert tos_of(udp_pair.rx) == 0x48


@pytest.mark.parametrize("family", FAMILIES)
def test_priority(family: int) -> None:
    """IP_TOS implies one: the option's comes after it."""
    with UdpSender(family=family, priority=5) as tx:
        assert tx.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY) == 5
    with UdpSender(family=family, priority=0, tos=0xB8) as tx:
        assert tx.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY) == 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("loop", [True, False, None])
def test_multicast_loop_decides_whether_this_machine_receives(
    box: testing.Hold, family: socket.AddressFamily, loop: bool | None
) -> None:
    """The receivers of the same machine, and of another one, which always get it."""
    group = {socket.AF_INET: "239.1.2.3", socket.AF_INET6: "ff15::123"}[family]

    def member() -> socket.socket:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.bind(("", PORT + 1))
        index = socket.if_nametoindex(box.device)
        if family == socket.AF_INET:
            mreqn = struct.pack("=4s4si", socket.inet_aton(group), bytes(4), index)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, mreqn)
        else:
            mreq = struct.pack("=16sI", socket.inet_pton(family, group), index)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, mreq)
        sock.settimeout(10)
        return sock

    def make() -> UdpSender:
        return UdpSender((group, PORT + 1), interface=box.device, multicast_loop=loop)

    with box.run(member) as here, box.peer.run(member) as there, box.run(make) as tx:
        assert tx.sock.getsockopt(LEVELS[family], LOOP[family]) == (loop is not False)
        tx.send_many([b"abc", b"def"])
        tx.drain()
        assert [there.recv(9), there.recv(9)] == [b"abc", b"def"]
        here.setblocking(False)
        if loop is False:
            with pytest.raises(BlockingIOError):
                here.recv(9)
        else:
            assert [here.recv(9), here.recv(9)] == [b"abc", b"def"]


@pytest.mark.parametrize("family", FAMILIES)
def test_device_is_the_only_one_it_sends_by(box: testing.Hold, family: socket.AddressFamily) -> None:
    """The route to loopback's addresses is another's: by the device there is none."""
    address = (HOSTS[family], PORT)
    to = box.address6 if family == socket.AF_INET6 else box.address

    def send_both() -> list[int]:
        errors: list[int] = []
        with UdpSender(
            family=family, device=box.device, on_error=lambda error: errors.append(error.index)
        ) as tx:
            name = tx.sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
            assert name.rstrip(b"\0").decode() == box.device
            tx.send(b"by the device", to)
            tx.send(b"by loopback", address)
        return errors

    with box.receiver_socket(family) as rx, box.socket(family) as lo:
        rx.settimeout(10)
        lo.bind(address)
        lo.setblocking(False)
        box.run(send_both)
        assert rx.recv(99) == b"by the device"
        with pytest.raises(BlockingIOError):
            lo.recv(99)


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"tos": 256}, ValueError, "tos is 0 to 255, not 256"),
    ({"tos": -1}, ValueError, "tos is 0 to 255, not -1"),
    ({"tos": "0"}, TypeError, "tos is an int, not '0'"),
    ({"tos": True}, TypeError, "tos is an int, not True"),
    ({"priority": -1}, ValueError, "priority is 0 to 2147483647, not -1"),
    ({"priority": 1.0}, TypeError, "priority is an int, not 1.0"),
    ({"multicast_loop": 1}, TypeError, "multicast_loop is a bool, not 1"),
    ({"device": 3}, TypeError, "device is the name of a network device, not 3"),
    ({"device": ""}, ValueError, "the name of a network device has 1 to 15 bytes, not ''"),
    ({"device": "lo\0x"}, ValueError, "the name of a network device has 1 to 15 bytes, not 'lo.*"),
    ({"interface": "lo\0x"}, OSError, r"\[Errno 19\] no interface 'lo.*: a name has 1 to 15 bytes"),
    ({"interface": "lo" * 8}, OSError, r"\[Errno 19\] no interface 'lo.*: a name has 1 to 15 bytes"),
    ({"bind": ("127.0.0.1\0.example", 0)}, ValueError, "a host has no NUL character.*"),
    (
        {"device": "a" * 16},
        ValueError,
        "the name of a network device has 1 to 15 bytes, not 'aaaaaaaaaaaaaaaa'",
    ),
    ({"device": "none0"}, OSError, r"\[Errno 19\] no device 'none0': No such device"),
]


@pytest.mark.engines
@pytest.mark.parametrize(("options", "kind", "text"), WRONG)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_cannot_be_is_refused(
    options: dict[str, Any], kind: type[Exception], text: str, family: int
) -> None:
    with pytest.raises(kind, match=f"^{text}$"):
        UdpSender(family=family, **options)


@pytest.mark.engines
@pytest.mark.parametrize(
    "options", [{"tos": 0}, {"priority": 0}, {"multicast_loop": False}, {"device": "lo"}, {"ttl": 1}]
)
def test_options_are_refused_for_the_programs_socket(udp_pair: Pair, options: dict[str, Any]) -> None:
    text = "bind, family, ttl, interface, tos, priority, multicast_loop and device are for a socket of the"
    with pytest.raises(ValueError, match=text):
        UdpSender(sock=udp_pair.tx, **options)


UNPRIVILEGED = """
import os, socket
import uringzc
os.setgid(65534)
os.setuid(65534)
with uringzc.UdpSender(priority=6, device="lo", engine="copy") as tx:
    assert tx.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY) == 6
try:
    uringzc.UdpSender(priority=7)
except PermissionError as error:
    print(error)
"""


@pytest.mark.engines
@pytest.mark.skipif(os.geteuid() != 0, reason="gives up privileges")
def test_a_user_without_privileges_may_set_a_device_and_priorities_up_to_6() -> None:
    assert "priority 7: above 6 needs CAP_NET_ADMIN (SO_PRIORITY)" in run_program(UNPRIVILEGED)[0]


@pytest.mark.engines
@pytest.mark.parametrize("option", ["scheduler", "interface"])
def test_options_that_are_something_else_are_type_errors(option: str, udp_pair: Pair) -> None:
    with pytest.raises(TypeError, match=f"^{option} is"):
        UdpSender(**{option: udp_pair.tx})  # type: ignore[arg-type]


@pytest.mark.engines
def test_the_scheduler_of_a_stream_is_one(tcp_pair: Pair) -> None:
    with pytest.raises(TypeError, match="scheduler is a Scheduler or None, not 'it'"):
        TcpSender(tcp_pair.tx, scheduler="it")  # type: ignore[arg-type]
