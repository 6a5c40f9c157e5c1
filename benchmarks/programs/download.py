"""A download by aioquic: quic.py in two processes, which need it; here nothing does."""

from __future__ import annotations

from benchmarks.pairs import Contender, Sample
from benchmarks.programs.asked import Asked

SIZE = 20_000_000  # bytes
UNIT = 1000  # bytes that count as one


class Download:
    """A server and a client, each on a CPU, measured by the CPU time of both. Leaving the block ends them.

    `sends` has the CPU time of the server's sends alone for each run, the warm-up first.
    """

    def __init__(self, name: str) -> None:
        self.sends = list[Sample]()
        self.server = Asked(0, "quic", "server", name)
        self._client = Asked(1, "quic", "client", name, int(self.server.ask()["port"]))
        self.contender = Contender(name, self._run)

    def __enter__(self) -> Download:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.__exit__()
        self.server.__exit__()

    def _run(self, _: float) -> Sample:
        before, client, after = self.server.ask(), self._client.ask(), self.server.ask()
        sends = after["send_seconds"] - before["send_seconds"]
        cpu = after["cpu_seconds"] - before["cpu_seconds"] + client["cpu_seconds"]
        self.sends.append(Sample(SIZE // UNIT, sends, sends))
        return Sample(SIZE // UNIT, cpu, cpu)
