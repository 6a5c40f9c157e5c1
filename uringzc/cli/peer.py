"""The sender's end of the demo's receiving process: starts it, hears from it, leaves nothing of it behind."""

import json
import os
import select
import socket
import subprocess
import sys
from contextlib import suppress
from types import TracebackType
from typing import Any

from uringzc.cli import receiver
from uringzc.cli.receiver import NUMBER, Plan, room_for
from uringzc.cli.sources import LostError

#: by its path, and isolated: it needs the standard library and nothing else
RECEIVER = (sys.executable, "-I", receiver.__file__)
#: seconds without news after which the receiver is asked whether everything arrived
PATIENCE = 1.0


class Peer:
    """A receiving process, and a socket connected to it.

    Nothing is lost, because no more is ever on the way than fits the receiver's buffer: `room` waits for news
    of what has been taken. Whether something was lost is the receiver's to say, never a matter of time.
    """

    def __init__(self, plan: Plan, ipv6: bool = False) -> None:
        host = "::1" if ipv6 else "127.0.0.1"
        fields = map(str, (plan.file_size, plan.size, plan.times))
        # Its own session, so that Ctrl-C is for the sender, with whom it ends: its standard input does.
        self._process = subprocess.Popen(
            [*RECEIVER, host, *fields],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self.taken = 0
        self._hello: dict[str, Any] = {}
        self._verdict: dict[str, Any] = {}
        self._unread = b""
        try:
            while not self._hello:
                self._listen()
            self.sock = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
            self.sock.connect((host, self._hello["port"]))
            granted = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        except BaseException:
            self.close()
            raise
        #: datagrams that may be on the way: neither buffer is ever full
        self.limit = min(int(self._hello["room"]), room_for(plan.size, granted))

    def room(self, sent: int) -> int:
        """How many datagrams may follow the `sent`: waits until half the limit is free."""
        while (sent - self.taken) * 2 > self.limit:
            self._listen(sent)
        return self.limit - (sent - self.taken)

    def verdict(self, sent: int) -> dict[str, Any]:
        """Waits for the receiver's account of all that were sent. LostError if it is not perfect."""
        while not self._verdict:
            self._listen(sent)
        return self._verdict

    def _listen(self, sent: int | None = None) -> None:
        """Waits for news; asks for them when there are none."""
        pipe = self._process.stdout
        assert pipe
        if not select.select([pipe], [], [], PATIENCE)[0]:
            if sent is not None:
                self._ask(sent)
            return
        news = os.read(pipe.fileno(), 1 << 16)
        if not news:
            raise LostError(f"the receiving process ended by itself (status {self._process.wait()})")
        *lines, self._unread = (self._unread + news).split(b"\n")
        for line in lines:
            self._hear(json.loads(line))

    def _hear(self, news: Any) -> None:
        if isinstance(news, int):
            self.taken = news
        elif "error" in news:
            raise OSError(news["errno"], news["error"])
        elif "port" in news:
            self._hello = news
        else:
            self._verdict = news
            if news["fault"]:
                dropped = f"; its socket dropped {news['drops']}" if news["drops"] else ""
                raise LostError(f"{news['fault']} ({news['taken']} arrived in order{dropped})")

    def _ask(self, sent: int) -> None:
        """Sends the number alone: it arrives behind the datagrams, or not at all, and is sent again then."""
        with suppress(OSError):
            self.sock.send(NUMBER.pack(sent), socket.MSG_DONTWAIT)

    def close(self) -> None:
        """Ends the process, which takes the end of its standard input as the word."""
        if sock := getattr(self, "sock", None):
            sock.close()
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> "Peer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
