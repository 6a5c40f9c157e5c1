"""trafgen (netsniff-ng), a packet generator in C on a PACKET_TX_RING, as a contender."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from benchmarks.pairs import Contender, Sample
from uringzc import testing
from uringzc.testing.devices import FAR, NEAR

ETHERNET, IPV4, UDP = 14, 20, 8  # bytes of the headers


def missing() -> str | None:
    """Return why trafgen cannot run here, None if it can."""
    return None if shutil.which("trafgen") else "needs trafgen: apt-get install netsniff-ng"


class Trafgen:
    """trafgen in that network, which sends datagrams of `size` bytes to its other end, without end.

    It is stopped (SIGSTOP) but for a run, so that its start is not measured; what it sends is counted by the
    device. One packet again and again, from one process, whose CPU is `cpu`. It bypasses the qdisc if not
    `qdisc`. With a gap, even one of 0 (-t0), it would send by sendto(), without the ring.
    """

    def __init__(self, box: testing.Sandbox, size: int, *, cpu: int, qdisc: bool) -> None:
        self._device = box.device.encode()
        # without the two options it sets sysctls, and the CPUs of interrupts, of the machine
        options = ["--cpus", "1", "--no-sock-mem", "--notouch-irq", *(["--qdisc-path"] if qdisc else [])]
        command = ["trafgen", *options, "--dev", box.device, packet(size, box.address[1])]

        def start() -> tuple[BinaryIO, subprocess.Popen[bytes]]:
            counters = open("/proc/thread-self/net/dev", "rb", buffering=0)  # noqa: SIM115, of this network
            return counters, subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

        self._counters, self._process = box.run(start)
        self._sender = self._forked()
        os.sched_setaffinity(self._sender, {cpu})
        while not self._count():  # it compiles the packet first
            self._alive()
            time.sleep(0.001)
        self._stop()

    def __enter__(self) -> Trafgen:
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self._sender, signal.SIGTERM)
        os.kill(self._sender, signal.SIGCONT)
        self._process.communicate()
        self._counters.close()

    def contender(self, name: str) -> Contender:
        """Return it as a program to measure."""
        return Contender(name, self._run)

    def _run(self, seconds: float) -> Sample:
        before, cpu, start = self._count(), self._cpu_seconds(), time.perf_counter()
        os.kill(self._sender, signal.SIGCONT)
        time.sleep(seconds)
        self._stop()
        took = time.perf_counter() - start
        return Sample(self._count() - before, took, self._cpu_seconds() - cpu)

    def _stop(self) -> None:
        os.kill(self._sender, signal.SIGSTOP)
        while self._state() != "T":
            self._alive()

    def _forked(self) -> int:
        """Return the process that it forks for sending."""
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children")
        while not (found := children.read_text().split()):
            self._alive()
            time.sleep(0.001)
        return int(found[0])

    def _alive(self) -> None:
        if self._process.poll() is not None:
            assert self._process.stderr is not None
            raise RuntimeError(f"trafgen has ended: {self._process.stderr.read().decode()}")

    def _state(self) -> str:
        return Path(f"/proc/{self._sender}/stat").read_text().rpartition(")")[2].split()[0]

    def _cpu_seconds(self) -> float:
        return int(Path(f"/proc/{self._sender}/schedstat").read_text().split()[0]) * 1e-9

    def _count(self) -> int:
        """Return how many packets the device was given; an ifb counts them as received."""
        for line in os.pread(self._counters.fileno(), 1 << 16, 0).splitlines():
            name, _, fields = line.partition(b":")
            if name.strip() == self._device:
                return int(fields.split()[1]) + int(fields.split()[9])
        raise LookupError(self._device)


@contextmanager
def pinned(cpu: int) -> Iterator[None]:
    """Let this thread run on that CPU alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def packet(size: int, port: int) -> str:
    """Return a datagram from one end of a sandbox to the other, in trafgen's language: bytes that stay."""
    ethernet = _bytes(FAR.mac, ":", 16) + _bytes(NEAR.mac, ":", 16) + b"\x08\x00"
    addresses = _bytes(NEAR.ip, ".", 10) + _bytes(FAR.ip, ".", 10)
    ip = struct.pack("!BBHHHBBH", 0x45, 0, IPV4 + UDP + size, 0, 0x4000, 64, 17, 0) + addresses
    sums = sum(struct.unpack("!10H", ip))
    checksum = ~((sums & 0xFFFF) + (sums >> 16)) & 0xFFFF
    headers = ethernet + ip[:10] + struct.pack("!H", checksum) + ip[12:]
    headers += struct.pack("!4H", 40000, port, UDP + size, 0)  # without a checksum of UDP
    return f"{{ {', '.join(map(str, headers))}, fill(0x61, {size}) }}"


def _bytes(text: str, separator: str, base: int) -> bytes:
    return bytes(int(part, base) for part in text.split(separator))
