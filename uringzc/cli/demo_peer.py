"""The receiving process of `uringzc demo`, as the sender uses it: starts it, reads its reports, ends it."""

import json
import os
import select
import socket
import subprocess
import sys
from contextlib import suppress
from typing import Any

from uringzc.cli import demo_receiver as receiver
from uringzc.cli.demo_receiver import NUMBER, Plan, room_for
from uringzc.cli.sources import LostError

#: by its path, and isolated: it needs the standard library and nothing else
RECEIVER = (sys.executable, "-I", receiver.__file__)
#: seconds without a report after which the receiver is asked whether everything arrived
PATIENCE = 1.0


class Peer:
    """A receiving process, and a socket connected to it.

    Nothing is lost, because no more is sent than fits the receiver's buffer: `room` waits for reports of what
    was received. The receiver finds out whether something was lost; no timeout decides that.
    """

    def __init__(self, plan: Plan, ipv6: bool = False) -> None:
        host = "::1" if ipv6 else "127.0.0.1"
        fields = map(str, (plan.file_size, plan.size, plan.times))
        # A session of its own, so that Ctrl-C reaches the sender alone; it ends with its standard input.
        self._process = subprocess.Popen(
            [*RECEIVER, host, *fields],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout
        self._pipe = self._process.stdout.fileno()
        self.taken = 0
        self._verdict: dict[str, Any] = {}
        try:
            (hello,) = self._reports()
            self.sock = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
            self.sock.connect((host, hello["port"]))
            granted = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        except BaseException:
            self.close()
            raise
        #: datagrams that may be on the way, so that neither buffer is ever full
        self.limit = min(int(hello["room"]), room_for(plan.size, granted))

    def room(self, sent: int) -> int:
        """How many datagrams may follow the `sent`: waits until half the limit is free."""
        while (sent - self.taken) * 2 > self.limit:
            self._wait(sent)
        return self.limit - (sent - self.taken)

    def verdict(self, sent: int) -> dict[str, Any]:
        """Waits for the verdict on the datagrams that were `sent`. LostError if one is missing or wrong."""
        while not self._verdict:
            self._wait(sent)
        return self._verdict

    def _wait(self, sent: int) -> None:
        """Waits for reports. Where none comes it sends a number alone, which arrives behind the datagrams.

        If that is lost, the next timeout repeats it.
        """
        if not select.select([self._pipe], [], [], PATIENCE)[0]:
            with suppress(OSError):
                self.sock.send(NUMBER.pack(sent), socket.MSG_DONTWAIT)
            return
        for report in self._reports():
            if isinstance(report, int):
                self.taken = report
                continue
            self._verdict = report
            if report["fault"]:
                dropped = f"; its socket dropped {report['drops']}" if report["drops"] else ""
                raise LostError(f"{report['fault']} ({report['taken']} arrived in order{dropped})")

    def _reports(self) -> list[Any]:
        """Waits for reports, which come as whole lines: the receiver writes each at once."""
        read = os.read(self._pipe, 1 << 16)
        if not read:
            raise LostError(f"the receiving process ended by itself (status {self._process.wait()})")
        reports = [json.loads(line) for line in read.splitlines()]
        for report in reports:
            if isinstance(report, dict) and "error" in report:
                raise OSError(report["errno"], report["error"])
        return reports

    def close(self) -> None:
        """Ends the process, by closing its standard input."""
        if sock := getattr(self, "sock", None):
            sock.close()
        try:
            self._process.communicate(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
