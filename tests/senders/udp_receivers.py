"""The receivers of random programs, and the comparison of what came with what was taken."""

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from udp_programs import DESTINATIONS, DROPS, SO_MEMINFO, Datagrams

from uringzc import testing


@contextmanager
def receivers(
    box: testing.Hold | None, family: int = socket.AF_INET, count: int = DESTINATIONS
) -> Iterator[list[testing.Receiver]]:
    """One for each destination, with room for all of a program."""
    host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    with ExitStack() as stack:
        made = []
        for i in range(count):
            if box:
                rx = testing.receiver(sock=box.receiver_socket(family, port=9000 + i), thread=False)
            else:
                rx = testing.receiver((host, 0), thread=False)
            made.append(stack.enter_context(rx))
        yield made


def drops(sock: socket.socket) -> int:
    return int(struct.unpack_from("I", sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36), 4 * DROPS)[0])


def compare(taken: Datagrams, came: list[testing.Receiver], timeout: float = 1.0) -> None:
    """The comparison. What is too much has come already, since what is sent later came."""
    for expected, rx in zip(taken, came, strict=True):
        assert drops(rx.sock) == 0, "the receiver's buffer is too small"
        rx.read()
        check_prefix(expected, rx.datagrams)  # before waiting for one that may be lost
        try:
            rx.wait(len(expected), timeout)
        except TimeoutError as error:
            raise AssertionError(str(error)) from None
        rx.read()
        assert len(rx.datagrams) == len(expected)
        check_prefix(expected, rx.datagrams)


def check_prefix(expected: list[bytes], came: list[bytes]) -> None:
    for i, (right, real) in enumerate(zip(expected, came, strict=False)):
        assert right == real, f"datagram {i} of {len(right)} bytes: {len(real)} other bytes came"
