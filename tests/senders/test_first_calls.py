"""Two threads use one Scheduler for the first time at once: whichever is refused does not own it."""

import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from processes import in_thread

import uringzc

SENDERS: dict[str, Callable[[socket.socket, uringzc.Scheduler], Any]] = {
    "UdpSender": lambda sock, s: uringzc.UdpSender(sock=sock, scheduler=s),
    "TcpSender": lambda sock, s: uringzc.TcpSender(sock, scheduler=s),
}


class Calling(socket.socket):
    """Calls a function inside the first call of the library that needs its descriptor."""

    inside: Callable[[], object] | None = None

    def fileno(self) -> int:
        if self.inside is not None:
            call, self.inside = self.inside, None
            call()
        return super().fileno()


@pytest.mark.parametrize("kind", SENDERS)
def test_a_sender_whose_first_call_is_refused_does_not_own_the_scheduler(kind: str) -> None:
    """Its thread ends while the other one is inside: it could not close what it owned."""
    threads, refused = [], []
    with socket.create_server(("127.0.0.1", 0)) as listener, uringzc.Scheduler() as s:
        tcp = kind == "TcpSender"
        sock = (
            socket.create_connection(listener.getsockname()) if tcp else socket.socket(type=socket.SOCK_DGRAM)
        )
        with sock, Calling(type=socket.SOCK_DGRAM) as other:
            other.connect(("127.0.0.1", 9))
            if not tcp:
                sock.connect(("127.0.0.1", 9))
            sender = SENDERS[kind](sock, s)

            def first_call() -> None:
                threads.append(threading.get_ident())
                with pytest.raises(uringzc.BusyError) as caught:
                    sender.send(b"x")
                refused.append(caught.value)

            other.inside = lambda: in_thread(first_call)
            s.send(other, b"")
            assert refused
            assert threads != [threading.get_ident()]
            s.submit()  # this thread owns it now
            sender.send(b"x")
            sender.close()
