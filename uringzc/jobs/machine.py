"""What a measurement runs on, as far as it is known."""

import os
import platform
import socket
from contextlib import suppress

from uringzc.doctor.route import DISCARD, find_route
from uringzc.jobs.bench_report import Machine
from uringzc.senders.sockets import path_mtu


def this_machine(peer: str) -> Machine:
    """This machine, and its way to a peer, a numeric address."""
    interface, mtu = "", 0
    with suppress(Exception):  # of many kinds, where there is no pyroute2, or no netlink
        interface = find_route(peer).device
    family = socket.AF_INET6 if ":" in peer else socket.AF_INET
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((peer, DISCARD))
        mtu = path_mtu(sock)
    cpus = len(os.sched_getaffinity(0))
    return Machine(_cpu(), cpus, platform.release(), platform.python_version(), interface, mtu)


def _cpu() -> str:
    """The model, where the kernel says it: not on each architecture."""
    with suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.machine()
