"""Other programs receive frames as datagrams, and what they answer comes to the sender's socket."""

import errno
import socket
from pathlib import Path

import pytest
from frame_tools import scheduler, send_all, udp_sender
from marks import frame_engines
from test_udp_socat import PORTS, lengths, needs_socat, socat, some
from traffic import received, wait_readable, wait_until

import uringzc
from uringzc import testing

FITS = 3900  # bytes of a datagram that every engine has a frame for


@frame_engines
@needs_socat
@pytest.mark.parametrize("family", list(PORTS))
def test_socat_receives_what_was_sent(box: testing.Hold, tmp_path: Path, family: int) -> None:
    host = (box.address6 if family == socket.AF_INET6 else box.address)[0]
    out, log = tmp_path / "out", tmp_path / "log"
    sent = [data for data in some(1) + some(2) if len(data) <= FITS]
    with (
        socat(box, family, out, log),
        udp_sender(box, (host, PORTS[socket.AddressFamily(family)])) as tx,
    ):
        tx.send_many(sent)
        for data in sent[:50]:
            with tx.lease(len(data)) as lease:
                lease.view[:] = data
                lease.send()
        tx.flush()
        sent += sent[:50]
        assert wait_until(lambda: len(lengths(log)) >= len(sent))
        assert wait_until(lambda: out.stat().st_size >= sum(map(len, sent)))
        assert tx.stats.lost == 0
    assert lengths(log) == [len(data) for data in sent]
    assert out.read_bytes() == b"".join(sent)


@frame_engines
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_replies_come_to_the_senders_socket(box: testing.Hold, family: int) -> None:
    with box.receiver_socket(family) as rx:
        rx.settimeout(10)
        address = box.address6 if family == socket.AF_INET6 else box.address
        with udp_sender(box, address) as tx:
            tx.send(b"question")
            tx.flush()
            question, sender = rx.recvfrom(100)
            assert (question, sender[:2]) == (b"question", tx.sock.getsockname()[:2])
            rx.sendto(b"answer", sender)
            wait_readable(tx.sock.fileno())
            assert tx.sock.recvfrom(100)[0] == b"answer"


@frame_engines
def test_a_scheduler_sends_from_the_address_of_the_socket(box: testing.Hold, rx: socket.socket) -> None:
    with box.socket() as bound, box.socket() as free, scheduler(box) as s:
        bound.bind(("10.0.0.1", 9100))
        send_all(s, bound, [b"bound"], to=box.address)
        send_all(s, free, [b"free"], to=box.address)
        assert rx.recvfrom(100) == (b"bound", ("10.0.0.1", 9100))
        data, sender = rx.recvfrom(100)
        assert (data, sender) == (b"free", ("10.0.0.1", free.getsockname()[1]))
        rx.sendto(b"answer", sender)
        wait_readable(free.fileno())
        assert free.recv(100) == b"answer"


@frame_engines
def test_a_closed_port_becomes_a_send_error(net: testing.Hold) -> None:
    """The peer's ICMP message comes to the sender's socket, as after any send.

    In a network of the test's own: the kernel limits the rate of such messages.
    """
    reported: list[uringzc.SendError] = []
    nobody = net.address[0], 9999
    with udp_sender(net, nobody, on_error=reported.append) as tx:
        tx.send(b"nobody is there")
        tx.flush()
        assert wait_until(tx.errors)
        assert [(error.errno, error.to) for error in reported] == [(errno.ECONNREFUSED, nobody)]
        tx.send(b"again")
        tx.flush()
        assert tx.stats.resent == 0


@frame_engines
def test_a_scheduler_leaves_the_sockets_errors_to_the_program(net: testing.Hold) -> None:
    with net.socket() as sock, scheduler(net) as s:
        sock.connect((net.address[0], 9999))
        send_all(s, sock, [b"x"])
        assert [done.result for done in s.reap_completions(wait=1)] == [1]
        assert wait_until(lambda: sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED)
        send_all(s, sock, [b"y"])
        assert [done.result for done in s.reap_completions(wait=1)] == [1]


@frame_engines
def test_sockets_of_other_kinds_send_as_ever(box: testing.Hold, rx: socket.socket) -> None:
    """Loopback, AF_UNIX, another network namespace: what is no frame leaves through the socket."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with (
        near,
        far,
        scheduler(box) as s,
        box.socket() as inside,
        box.socket() as local,
        testing.receiver(thread=False) as outside,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        local.bind(("10.0.0.1", 0))
        local.settimeout(10)
        send_all(s, near, [b"unix"])
        send_all(s, inside, [b"to this machine"], to=local.getsockname())
        send_all(s, other, [b"another namespace"], to=outside.address)
        send_all(s, inside, [b"a frame"], to=box.address)
        assert far.recv(100) == b"unix"
        assert local.recv(100) == b"to this machine"
        assert outside.wait(1) == [b"another namespace"]
        assert received(rx, 1) == [b"a frame"]
        assert [n.copied for n in s.reap_notifications(wait=4)] == [1, 1, 1, 1]
        assert [done.result for done in s.reap_completions()] == [4, 15, 17, 7]
