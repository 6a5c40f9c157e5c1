"""The receiving end of `uringzc bench`: waits for those who measure, and receives for one of them at a time.

Over TCP come and go JSON objects, one a line:

    here    {"uringzc": "0.1.0", "bench": 1, "machine": {...}}
    there   {"receive": {"seconds": 3.0, "interval": 0.1}}
    here    {"port": 5217}      of UDP, at the address that the connection came to; now it is sent there
    there   {"done": true}      all of it was sent
    here    {"received": {...}}, or {"error": "..."} and the end of the connection; then the next "receive"

Nothing else can be asked for, and so much for so long only, since whoever reaches the port may ask.
"""

import errno
import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from uringzc import __version__
from uringzc.address import family_of, joined
from uringzc.jobs.job import parse_address
from uringzc.jobs.json_lines import JsonLines, PeerError
from uringzc.jobs.machine import this_machine
from uringzc.jobs.receive_job import ReceiveJob
from uringzc.jobs.receiving import receive

PORT = 5217  #: TCP; and UDP, if it is free
PROTOCOL = 1
MOST_SECONDS = 600.0  #: of one measurement
MOST_INTERVALS = 10_000  #: of one measurement
_LONGEST = 4096  # bytes of a line that somebody sends
_PATIENCE = 60.0  # seconds without a line; then somebody else may come
_FIRST = 10.0  # seconds until the first line
_BUSY = 0.5  # seconds that one waits for another who is about to end


class FarEnd:
    """A port where a bench may be served. Closed when the `with` block ends, with all that goes on there.

    `bind`: "HOST:PORT" of this machine, without a host each of its addresses; port 0: a free one. `say` is
    called with a line for each thing that happens. OSError or ValueError for an address that cannot be used.
    """

    def __init__(self, bind: str, say: Callable[[str], object] = lambda line: None) -> None:
        host, port = parse_address(bind)
        self._say = say
        self._one_at_a_time = threading.Lock()
        self._clients: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._sock = _listening(host, port)

    @property
    def address(self) -> tuple[str, int]:
        """Where it waits."""
        host, port = self._sock.getsockname()[:2]
        return host, port

    def __enter__(self) -> "FarEnd":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def serve(self) -> None:
        """Until another thread calls close(), or Ctrl-C comes."""
        while True:
            try:
                client, address = self._sock.accept()
            except OSError as error:
                if self._sock.fileno() < 0 or error.errno in (errno.EINVAL, errno.EBADF):
                    return  # closed
                time.sleep(0.1)  # out of descriptors, say: those who are here will leave
                continue
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            if len(self._threads) >= 8:  # so many wait for each other already
                client.close()
                continue
            self._clients.add(client)
            host = address[0].removeprefix("::ffff:")  # IPv4, by a socket of IPv6
            self._threads.append(threading.Thread(target=self._client, args=(client, host)))
            self._threads[-1].start()

    def close(self) -> None:
        """Ends serve() and every connection, and waits for that."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._sock.close()
        for client in list(self._clients):
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _client(self, sock: socket.socket, host: str) -> None:
        lines = JsonLines(sock, _LONGEST)
        with sock, suppress(PeerError):
            try:
                if not self._one_at_a_time.acquire(timeout=_BUSY):
                    lines.send({"error": "another bench is served, one at a time"}, 1.0)
                    return
                try:
                    self._serve(sock, lines, host)
                finally:
                    self._one_at_a_time.release()
            except PeerError as error:
                self._say(f"{host}: {error}")
                lines.send({"error": str(error)}, 1.0)
            finally:
                self._clients.discard(sock)

    def _serve(self, sock: socket.socket, lines: JsonLines, host: str) -> None:
        near, port = sock.getsockname()[:2]
        near = near.removeprefix("::ffff:")
        keep_alive(sock)
        machine = this_machine(host)
        lines.send({"uringzc": __version__, "bench": PROTOCOL, "machine": asdict(machine)})
        runs = 0
        while (asked := lines.receive(_PATIENCE if runs else _FIRST)) is not None:
            if runs == 0:
                self._say(f"{host}: began")
            self._receive(sock, lines, _job(asked, near, port))
            runs += 1
        if runs:
            self._say(f"{host}: {runs} run{'' if runs == 1 else 's'}, and left")

    def _receive(self, sock: socket.socket, lines: JsonLines, job: ReceiveJob) -> None:
        def ready(bind: str) -> None:
            if lines.waiting:
                raise PeerError("a line that came before the port was known")
            lines.send({"port": parse_address(bind)[1]})

        try:
            received = receive(_at_a_free_port(job), ready=ready, stop=sock.fileno())
        except OSError as error:
            raise PeerError(f"cannot receive at {job.bind}: {error.strerror or error}") from error
        done = lines.receive(_PATIENCE)
        if done != {"done": True}:
            raise PeerError('a line that is not {"done": true}' if done else "left before it was done")
        lines.send({"received": received.as_dict()})


def _listening(host: str, port: int) -> socket.socket:
    if not host and socket.has_dualstack_ipv6():
        with suppress(OSError):  # IPv6 may be switched off
            return socket.create_server(("", port), family=socket.AF_INET6, backlog=16, dualstack_ipv6=True)
    return socket.create_server((host, port), family=family_of((host, port)), backlog=16)


def _job(asked: dict[str, Any], host: str, port: int) -> ReceiveJob:
    """What somebody asks for, checked. PeerError."""
    limits = asked.get("receive")
    if set(asked) != {"receive"} or not isinstance(limits, dict) or set(limits) != {"seconds", "interval"}:
        raise PeerError('a request that is not {"receive": {"seconds": ..., "interval": ...}}')
    seconds, interval = limits["seconds"], limits["interval"]
    for value in (seconds, interval):
        if type(value) not in (int, float) or not 0.001 <= value <= MOST_SECONDS:
            raise PeerError(f"seconds and interval are 0.001 to {MOST_SECONDS:g}")
    if seconds / interval > MOST_INTERVALS:
        raise PeerError(f"seconds have at most {MOST_INTERVALS:,} intervals")
    return ReceiveJob(joined(host, port), duration=float(seconds), interval=float(interval))


def _at_a_free_port(job: ReceiveJob) -> ReceiveJob:
    """At the port of the same number as that of TCP, which a firewall may let through, if it is free."""
    host, port = parse_address(job.bind)
    with socket.socket(family_of((host, port)), socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            port = 0
    return replace(job, bind=joined(host, port))


def keep_alive(sock: socket.socket) -> None:
    """A peer that has lost its power is noticed within half a minute."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def main() -> None:
    """Serves at the address that is named, for as long as standard input is open: a process of a bench."""
    with FarEnd(sys.argv[1]) as end:
        threading.Thread(target=_close_with_stdin, args=(end,), daemon=True).start()
        print(json.dumps({"address": end.address}), flush=True)
        end.serve()


def _close_with_stdin(end: FarEnd) -> None:
    sys.stdin.read()
    end.close()


if __name__ == "__main__":
    main()
