"""asyncio: existing programs get faster by one line, new ones get an awaitable sender.

``asyncio.run(main(), loop_factory=uringzc.aio.new_event_loop)`` runs a program on a loop whose
``create_datagram_endpoint`` makes a ``DatagramTransport``: what ``sendto`` is given in one turn of the loop
leaves together, and several datagrams are received at once. ``UdpSender`` and ``TcpSender`` are for new code.
"""

from uringzc.aio.endpoint import create_datagram_endpoint
from uringzc.aio.event_loop import DatagramEndpoints, EventLoop, new_event_loop
from uringzc.aio.group import Group
from uringzc.aio.lease import Lease
from uringzc.aio.tcp import TcpSender
from uringzc.aio.transport import DatagramTransport
from uringzc.aio.udp import UdpSender

__all__ = [
    "DatagramEndpoints",
    "DatagramTransport",
    "EventLoop",
    "Group",
    "Lease",
    "TcpSender",
    "UdpSender",
    "create_datagram_endpoint",
    "new_event_loop",
]
