"""The end of a UdpSender: sends what waits, waits for memory, and closes the parts, within a time."""

import select
import time
from contextlib import ExitStack, suppress

from uringzc.senders.udp_setup import UdpParts


def wait_for_memory(parts: UdpParts, timeout: float | None, what: str) -> None:
    """Waits until the kernel holds no memory of the sender. TimeoutError names `what`."""
    batcher = parts.batcher
    if not batcher.poll():
        parts.engine.wait_for(lambda: batcher.in_flight, timeout, what)
        batcher.poll()


def close(parts: UdpParts, timeout: float) -> None:
    """Sends what waits, drains, ends, and reports. Raises what was not reported."""
    deadline = time.monotonic() + timeout
    failure: OSError | None = None
    try:
        failure = _send_rest(parts, deadline)
    finally:
        _end(parts, _left(deadline))
    parts.slow_path.report()
    parts.slow_path.write_log()
    parts.slow_path.raise_errors()
    if failure is not None:
        raise failure


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def _send_rest(parts: UdpParts, deadline: float) -> OSError | None:
    """Returns why nothing could be sent at all: the socket was closed."""
    parts.batcher.blocking = False  # else a socket that takes nothing would be waited for without end
    while True:
        try:
            parts.batcher.flush()
            break
        except BlockingIOError:
            if not _left(deadline):
                break
            _pause(parts, _left(deadline))
        except OSError as error:
            return error
    with suppress(TimeoutError):
        wait_for_memory(parts, _left(deadline), "close")
    return None


def _pause(parts: UdpParts, timeout: float) -> None:
    """Until another flush is worth a try, at most so many seconds."""
    poll = select.poll()
    if parts.blocking:  # there is no epoll set
        poll.register(parts.sock, select.POLLOUT)
        if poll.poll(10):  # what is missing gives no event: the arrival of a first request
            time.sleep(0.001)
        return
    poll.register(parts.batcher.fileno(), select.POLLIN)
    poll.poll(1000 * timeout)


def _end(parts: UdpParts, timeout: float) -> None:
    with ExitStack() as stack:  # from the last to the first, whatever one of them raises
        stack.callback(parts.close_socket)
        if parts.own_engine:
            stack.callback(parts.engine.close, timeout)
        stack.callback(parts.engine.senders.detach, parts.batcher)
        stack.callback(_discard, parts)
        stack.callback(parts.batcher.close)


def _discard(parts: UdpParts) -> None:
    if lost := parts.batcher.discard():
        parts.slow_path.report_discarded(lost)
