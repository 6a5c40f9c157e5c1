"""Users of TcpSender: a stream whose every byte is compared."""

# ruff: noqa: D102 - users.User documents the methods that each has

import contextlib
import select
import socket
import time
from typing import Any

import uringzc

from .ledger import _PATTERN
from .users import PATIENCE, User

_PERIOD = 99_991  # bytes after which the stream repeats
_STREAM = _PATTERN[:_PERIOD] * 12
MOST = 1_000_000  # bytes of a call


class TcpUser(User):
    """A connection through the network with faults: they delay it for a while, or end it."""

    def open(self) -> None:
        net, chance = self.world.net, self.chance
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(net.receiver_socket(type=socket.SOCK_STREAM, port=0))
            listener.listen(1)
            self.sock = net.socket(type=socket.SOCK_STREAM)
            self.sock.settimeout(PATIENCE)
            self.sock.connect(listener.getsockname())
            self.rx, _ = listener.accept()
        self.rx.setblocking(False)
        self.tx: Any = uringzc.TcpSender(
            self.sock,
            engine=self.engine,
            zero_copy=chance.choice(("auto", "always", "never")),
            blocking=False,
        )
        self.sent = self.came = 0

    def _piece(self, at: int, size: int) -> bytes:
        begin = at % _PERIOD
        return _STREAM[begin : begin + size]

    def _read(self) -> int:
        """Compares what has arrived."""
        count = 0
        with contextlib.suppress(BlockingIOError):
            while got := self.rx.recv(1 << 17):
                if got != self._piece(self.came, len(got)):
                    self.ledger.fail("changed", f"{self.name}: at byte {self.came}")
                self.came += len(got)
                count += len(got)
        return count

    def use(self) -> None:
        deadline = time.monotonic() + PATIENCE
        for _ in range(self.chance.randrange(1, 8)):
            size = self.chance.choice((1, 100, 16_000, 20_000, 200_000, MOST))
            whole = memoryview(self._piece(self.sent, size))
            kind = self.chance.choice(("bytes", "bytes", "bytearray", "buffers"))
            at = 0
            while at < size:
                try:
                    at += self._send(kind, whole[at:])
                except BlockingIOError:
                    self._read()
                    select.select([self.tx, self.rx], [], [], 0.05)
                if time.monotonic() > deadline:
                    raise AssertionError(f"{self.name}: {self.came} of {self.sent + at} bytes came")
            self.sent += size
            self.ledger.nbytes += size
            self.world.operations += 1

    def _send(self, kind: str, data: memoryview) -> int:
        if kind == "bytearray":
            own = bytearray(data)
            taken = self.tx.send(own)
            own[:] = b"\xff" * len(own)
            return int(taken)
        if kind == "buffers":
            half = len(data) // 2
            return int(self.tx.send_buffers([data[:half], bytes(data[half:])]))
        return int(self.tx.send(bytes(data)))

    def finish(self) -> None:
        deadline = time.monotonic() + 2 * PATIENCE
        while self.came < self.sent and time.monotonic() < deadline:
            if not self._read():
                select.select([self.rx], [], [], 0.05)
        if self.came != self.sent:
            self.ledger.fail("lost", f"{self.name}: {self.came} of {self.sent} bytes came")
        self.tx.drain(PATIENCE)

    def renew(self) -> None:
        if self.chance.random() < 0.5:
            self._reset()
        super().renew()

    def _reset(self) -> None:
        """The peer ends it while it holds memory: the sender says so, and gets the memory back."""
        self.world.event("peer reset")
        self.rx.close()  # with data unread: a reset
        deadline = time.monotonic() + PATIENCE
        ended = False
        while not ended and time.monotonic() < deadline:
            try:
                self.tx.send(bytes(100_000))
            except BlockingIOError:
                select.select([self.tx], [], [], 0.05)
            except uringzc.SendError:
                ended = True
        if not ended:
            self.ledger.fail("not reported", f"{self.name}: the peer has reset the connection")

    def close(self) -> None:
        self.tx.close()
        self.sock.close()
        self.rx.close()

    def drop(self) -> None:
        self.rx.close()
        del self.tx
        self.sock.close()
