"""Sending what waits in a UdpSender that is being closed."""

import select
import time
from collections.abc import Callable
from socket import socket

from uringzc._send import UdpBatcher


def flush_until(
    deadline: float, batcher: UdpBatcher, sock: socket, fileno: Callable[[], int] | None
) -> OSError | None:
    """Submits what waits, until `deadline`. Returns why nothing can be sent at all: the socket was closed.

    `fileno`: of a sender that does not wait.
    """
    batcher.blocking = False  # else a socket that takes nothing would be waited for without end
    while True:
        try:
            batcher.flush()
            return None
        except BlockingIOError:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            _pause(left, sock, fileno)
        except OSError as error:
            return error


def _pause(timeout: float, sock: socket, fileno: Callable[[], int] | None) -> None:
    """Until another flush is worth a try, at most so many seconds."""
    poll = select.poll()
    if fileno is None:  # there is no epoll set
        poll.register(sock, select.POLLOUT)
        if poll.poll(10):  # what is missing gives no event: the arrival of a first request
            time.sleep(0.001)
        return
    poll.register(fileno(), select.POLLIN)
    poll.poll(1000 * timeout)
