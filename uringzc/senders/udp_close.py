"""Sending what waits in a UdpSender that is being closed."""

import select
import time
from socket import socket

from uringzc._send import UdpBatcher


def flush_until(deadline: float, batcher: UdpBatcher, sock: socket, blocking: bool) -> OSError | None:
    """Submits what waits, until `deadline`. Returns why nothing can be sent at all: the socket was closed."""
    batcher.blocking = False  # else a socket that takes nothing would be waited for without end
    while True:
        try:
            batcher.flush()
            return None
        except BlockingIOError:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            _pause(left, batcher, sock, blocking)
        except OSError as error:
            return error


def _pause(timeout: float, batcher: UdpBatcher, sock: socket, blocking: bool) -> None:
    """Until another flush is worth a try, at most so many seconds."""
    poll = select.poll()
    if blocking:  # there is no epoll set
        poll.register(sock, select.POLLOUT)
        if poll.poll(10):  # what is missing gives no event: the arrival of a first request
            time.sleep(0.001)
        return
    poll.register(batcher.fileno(), select.POLLIN)
    poll.poll(1000 * timeout)
