"""JSON objects over a TCP connection, one a line, from a peer that may be anybody."""

import json
import socket
import time
from typing import Any


class PeerError(Exception):
    """The peer did not follow the protocol, was silent for too long, or is gone: what, as a sentence."""


class JsonLines:
    """A connection. `most`: bytes of a line that are read. It does not own the socket."""

    def __init__(self, sock: socket.socket, most: int) -> None:
        self._sock, self._most = sock, most
        self._read = b""

    @property
    def waiting(self) -> bool:
        """Something was read that is not a whole line, or the next one."""
        return bool(self._read)

    def send(self, values: dict[str, Any], seconds: float = 30.0) -> None:
        """PeerError if the peer does not take it in that time, or is gone."""
        self._sock.settimeout(seconds)
        try:
            self._sock.sendall(json.dumps(values).encode() + b"\n")
        except OSError as error:
            raise PeerError(_why(error)) from error

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """The next object; None if the peer has closed the connection. PeerError for all else."""
        until = time.monotonic() + seconds
        while b"\n" not in self._read:
            if len(self._read) >= self._most:
                raise PeerError(f"a line of more than {self._most:,} bytes")
            self._sock.settimeout(max(0.001, until - time.monotonic()))
            try:
                some = self._sock.recv(1 << 16)
            except OSError as error:
                raise PeerError(_why(error)) from error
            if not some:
                if self._read:
                    raise PeerError("the connection ended within a line")
                return None
            self._read += some
        line, _, self._read = self._read.partition(b"\n")
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise PeerError("a line that is no JSON") from error
        if not isinstance(values, dict):
            raise PeerError("a line that is no JSON object")
        return values


def _why(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return error.strerror or str(error)
