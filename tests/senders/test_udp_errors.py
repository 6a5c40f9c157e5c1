"""UdpSender.errors: the socket's error queue, with what the sender has read of it for its own reports."""

import errno
import socket
import struct
from typing import Any

import pytest
from conftest import HOSTS, MakePair, Pair
from raising import raises_errno
from traffic import free_port, wait_until

import uringzc
from uringzc import ErrorMessage, SendError, UdpSender, testing

FAMILIES = [socket.AF_INET, socket.AF_INET6]
RECVERR = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}
REFUSED = [errno.ECONNREFUSED]
SO_TIMESTAMPING, TX_SOFTWARE, SOFTWARE, OPT_ID, OPT_TSONLY = 37, 2, 16, 128, 2048
ORIGIN_ICMP, ORIGIN_TIMESTAMPING, MAX_KEPT = (2, 3), (4,), 256


def codes(messages: list[ErrorMessage], origins: tuple[int, ...] = ORIGIN_ICMP) -> list[int]:
    """The errno of each message; all have the origin."""
    found = []
    for message in messages:
        for level, kind, data in message.ancillary:
            if (level, kind) in RECVERR.values():
                code, origin = struct.unpack_from("=IB", data)
                assert origin in origins
                found.append(code)
    return found


def send_now(tx: UdpSender, data: bytes, to: Any = None) -> None:
    tx.send(data, to)
    tx.flush()


def fetch(tx: UdpSender, count: int) -> list[ErrorMessage]:
    """What errors() returns, until so many messages have come."""
    messages: list[ErrorMessage] = []

    def came() -> bool:
        messages.extend(tx.errors())
        return len(messages) >= count

    assert wait_until(came)
    return messages


def nobodys(family: int = socket.AF_INET) -> tuple[str, int]:
    """An address where nobody listens."""
    host = HOSTS[socket.AddressFamily(family)]
    return host, free_port(host)


@pytest.mark.parametrize("zero_copy", ["auto", "always"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_icmp_error_is_reported_and_its_message_returned(family: int, zero_copy: str) -> None:
    """By errors() itself, which finds it first."""
    to = nobodys(family)
    reported: list[SendError] = []
    with UdpSender(family=family, zero_copy=zero_copy, max_delay=None, on_error=reported.append) as tx:
        send_now(tx, b"x" * 100, to)
        (message,) = fetch(tx, 1)
        assert codes([message]) == REFUSED
        assert (message.data, message.address[:2]) == (b"x" * 100, to)
        assert tx.errors() == []
        (error,) = reported
        assert isinstance(error.to, tuple)
        assert (error.errno, error.to[:2]) == (errno.ECONNREFUSED, to)
        tx.send(b"y", to)  # no pending error is left: it would fail the next datagram
        tx.flush()
        assert tx.stats.resent == 0


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_what_cannot_be_sent_is_reported_once(sink: testing.Sandbox, own: bool, trains: bool) -> None:
    """Without a route: that is no error of an earlier datagram."""
    nowhere = ("203.0.113.1", 9)
    reported: list[SendError] = []
    with sink.socket() as sock:
        options: dict[str, Any] = {"max_delay": None, "on_error": reported.append}
        with sink.run(lambda: UdpSender(sock=None if own else sock, **options)) as tx:
            tx.send_many([bytes(1000)] * (5 if trains else 1), nowhere)
            tx.flush()
            send_now(tx, b"x", nowhere)
            assert {error.errno for error in reported} == {errno.ENETUNREACH}
            assert [error.index for error in reported] == list(range(len(reported)))
            assert len(reported) == tx.stats.lost == tx.stats.datagrams


@pytest.mark.parametrize("zero_copy", ["auto", "always"])
def test_what_the_sender_has_read_for_its_report_is_returned_later(zero_copy: str) -> None:
    to = nobodys()
    reported: list[SendError] = []
    with UdpSender(to, zero_copy=zero_copy, max_delay=None, on_error=reported.append) as tx:
        sent: list[bytes] = []
        while not reported:
            sent.append(bytes([len(sent)]) * 10)
            send_now(tx, sent[-1])
        assert {error.errno for error in reported} == {*REFUSED}
        messages = fetch(tx, len(sent))
        assert codes(messages) == REFUSED * len(sent)
        assert [message.data for message in messages] == sent
        assert len(reported) == len(sent)


def test_of_messages_that_nobody_fetches_some_are_kept() -> None:
    """The oldest; each is reported nevertheless."""
    to = nobodys()
    reported: list[SendError] = []
    with UdpSender(to, max_delay=None, on_error=reported.append) as tx:
        sent = 0
        while len(reported) < MAX_KEPT + 20:
            send_now(tx, struct.pack("=I", sent))
            sent += 1
        messages = fetch(tx, MAX_KEPT)
        numbers = [struct.unpack("=I", message.data)[0] for message in messages]
        assert numbers[:MAX_KEPT] == list(range(MAX_KEPT))
        assert len(messages) < sent


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("asked", [0, 1])
def test_of_the_programs_socket(make_udp: MakePair, family: socket.AddressFamily, asked: int) -> None:
    """The queue has ICMP errors only if the program asked for them. The sender reports the pending error."""
    pair = make_udp(family)
    pair.tx.setsockopt(*RECVERR[family], asked)
    pair.rx.close()
    reported: list[SendError] = []
    with UdpSender(sock=pair.tx, max_delay=None, on_error=reported.append) as tx:
        send_now(tx, b"x" * 100)
        messages: list[ErrorMessage] = []

        def is_reported() -> bool:
            messages.extend(tx.errors())
            return bool(reported)

        assert wait_until(is_reported)
        assert codes(messages) == REFUSED * asked
        assert [(error.errno, error.to) for error in reported] == [(errno.ECONNREFUSED, None)]
        assert tx.errors() == []
        send_now(tx, b"y")  # nothing was left to fail it
        assert tx.stats.resent == 0


@pytest.mark.parametrize("zero_copy", ["auto", "always"])
@pytest.mark.parametrize("own", [True, False])
def test_timestamps_that_the_program_asked_for(udp_pair: Pair, own: bool, zero_copy: str) -> None:
    sock = None if own else udp_pair.tx
    with UdpSender(udp_pair.rx.getsockname(), sock=sock, zero_copy=zero_copy, max_delay=None) as tx:
        flags = TX_SOFTWARE | SOFTWARE | OPT_ID | OPT_TSONLY
        tx.sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, flags)
        send_now(tx, bytes(100))
        tx.send_many([bytes(1000)] * 20)
        tx.drain()
        assert codes(fetch(tx, 2), ORIGIN_TIMESTAMPING) == [errno.ENOMSG] * 2
        assert tx.stats.resent == 0
    assert len(udp_pair.receive(21)) == 21


def test_errors_is_a_call_as_others(udp_pair: Pair) -> None:
    """Refused in a callback and after close; without on_error the next flush raises what it found."""
    to = nobodys()
    inside: list[type[Exception]] = []

    def callback(_: object) -> None:
        with pytest.raises(uringzc.BusyError) as caught:
            tx.errors()
        inside.append(caught.type)

    with UdpSender(to, max_delay=None, on_error=callback) as tx:
        send_now(tx, b"x")
        assert len(fetch(tx, 1)) == 1
        assert inside == [uringzc.BusyError]
    with pytest.raises(uringzc.ClosedError):
        tx.errors()
    with UdpSender(to, max_delay=None) as tx:
        send_now(tx, b"x")
        assert len(fetch(tx, 1)) == 1
        with raises_errno(errno.ECONNREFUSED, "reported for an earlier datagram"):
            tx.flush()


def test_a_queue_that_another_engine_reads_is_refused(udp_pair: Pair) -> None:
    with uringzc.Scheduler(engine="msg_zerocopy") as other, UdpSender(sock=udp_pair.tx) as tx:
        other.send(udp_pair.tx, bytes(100))
        other.submit()
        with raises_errno(errno.EBUSY, "another Scheduler or sender reads the socket's error queue"):
            tx.errors()
        other.drain(10)
