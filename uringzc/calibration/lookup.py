"""Which calibration holds for a destination: that of the interface that its datagrams leave by.

A sender looks it up once for each destination, and only where something is saved for its engine on this
machine: one request to rtnetlink for the route, and for each interface three ioctls.
"""

import socket
from collections.abc import Iterable
from contextlib import closing

from uringzc.calibration import saved
from uringzc.calibration.saved import Calibration
from uringzc.engines.flow import flow
from uringzc.engines.netlink import UnframedError
from uringzc.kernel import rtnetlink
from uringzc.kernel.interface import interface
from uringzc.kernel.rtnetlink import RefusedError


class Lookup:
    """Of one sender, whose interfaces are looked at once."""

    def __init__(self, calibrations: Iterable[Calibration]) -> None:
        self._by_device = {one.device: one for one in calibrations}
        self._known: dict[int, Calibration | None] = {}

    def find(self, sock: socket.socket, to: bytes | None) -> Calibration | None:
        """For what `sock` sends to a packed sockaddr, or to its peer; None if there is none."""
        try:
            index = outgoing(sock, to)
            if index not in self._known:
                self._known[index] = self._by_device.get(interface(sock, index))
            return self._known[index]
        except (OSError, RefusedError, UnframedError):
            return None


def lookup(engine: str) -> Lookup | None:
    """None where nothing is saved that holds for this engine, machine and kernel."""
    found = saved.load().calibrations
    if not found:
        return None
    here = saved.this_machine()
    some = [one for one in found if one.engine == engine and (one.machine, one.kernel) == here]
    return Lookup(some) if some else None


def unused(one: Calibration) -> str:
    """Why this process does not use it, as part of a sentence; "" if it does."""
    machine, kernel = saved.this_machine()
    if one.machine != machine:
        return f"measured on {one.machine}, and this is {machine}"
    if one.kernel != kernel:
        return f"measured with Linux {one.kernel}, and this is {kernel}"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            now = interface(sock, socket.if_nametoindex(one.interface))
        except OSError:
            return f"there is no {one.interface}"
    changed = ("its driver", "its bus address", "its MTU")
    for what, was, has in zip(changed, one.device[1:], now[1:], strict=True):
        if was != has:
            return f"{what} was {was or 'not known'}, and is {has or 'not known'}"
    return ""


def outgoing(sock: socket.socket, to: bytes | None) -> int:
    """The index of the interface. OSError, RefusedError, UnframedError.

    Netlink answers for the network namespace of this thread: a socket of another one is an UnframedError.
    """
    with closing(rtnetlink.open_socket()) as asking:
        if rtnetlink.namespace(asking) != rtnetlink.namespace(sock):
            raise UnframedError("the socket is of another network namespace")
        return rtnetlink.output_device(asking, flow(sock, to, bind=False).question)
