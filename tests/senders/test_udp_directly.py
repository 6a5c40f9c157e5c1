"""A lone datagram that leaves at once is sent from where it is. What the kernel refuses is reported."""

import errno
import socket

import pytest
from traffic import free_port

from uringzc import SendError, UdpSender, testing

#: without SO_BROADCAST: EACCES, whatever is sent there; of loopback, which is there without a default route
FORBIDDEN = ("127.255.255.255", 9)


@pytest.mark.parametrize("data", [b"bytes", bytearray(b"array"), memoryview(b"a view of it")[2:6], b""])
def test_it_arrives_and_counts(data: bytes) -> None:
    with testing.receiver() as rx, UdpSender(rx.address, max_delay=0) as tx:
        for _ in range(3):  # the first is to find out whether the destination can be reached
            assert tx.send(data) == len(data)
        assert rx.wait(3) == 3 * [bytes(data)]
        stats = tx.stats
        assert (stats.datagrams, stats.nbytes, stats.waiting) == (3, 3 * len(data), 0)
        assert stats.trains[1] == stats.syscalls == 3


def test_an_error_of_an_earlier_one_is_reported_and_the_datagram_sent() -> None:
    """The kernel gives the error instead of sending."""
    errors: list[SendError] = []
    address = ("127.0.0.1", free_port())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(address)
        with UdpSender(sock=sock, max_delay=0, on_error=errors.append) as tx:
            tx.send(b"0")
            tx.send(b"1")  # finds the error of the one before, and is refused, too
            assert [error.errno for error in errors] == [errno.ECONNREFUSED]
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as rx:
                rx.bind(address)
                rx.settimeout(5)
                tx.send(b"2")
                assert rx.recv(10) == b"2"
    assert [(error.errno, error.index) for error in errors] == 2 * [(errno.ECONNREFUSED, -1)]


def test_one_that_is_refused_is_reported_with_its_number_and_address() -> None:
    errors: list[SendError] = []
    with testing.receiver() as rx, UdpSender(max_delay=0, on_error=errors.append) as tx:
        for number in range(3):
            tx.send(b"%d" % number, rx.address)
        for _ in range(2):
            tx.send(b"forbidden", FORBIDDEN)
        tx.send(b"3", rx.address)
        assert [(error.errno, error.index, error.to) for error in errors] == [
            (errno.EACCES, 3, FORBIDDEN),
            (errno.EACCES, 4, FORBIDDEN),
        ]
        assert rx.wait(4) == [b"0", b"1", b"2", b"3"]
