"""Zero-copy network sends with notifier slots, over io_uring.

``Scheduler`` gives control over lifetimes: requests are attached to notifiers in slots, and one notification
per notifier says that all its memory is yours again. ``Ring`` is io_uring without slots, for programs written
against liburing.
"""

from uringzc._send import Lease
from uringzc.capabilities import Capabilities, probe
from uringzc.errmsg import ErrorMessage
from uringzc.errors import (
    BufferModifiedError,
    BusyError,
    ClosedError,
    PoisonedError,
    SendError,
    UringzcError,
    WrongThreadError,
)
from uringzc.explain import TcpStats, UdpStats
from uringzc.memory import Region
from uringzc.notif import Batch, Completion, Notification, Notifier, Slots, Stats
from uringzc.probe import Reason
from uringzc.ring import RawCompletion, Ring
from uringzc.scheduler import Scheduler
from uringzc.tcp import TcpSender
from uringzc.udp import UdpSender

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "BufferModifiedError",
    "BusyError",
    "Capabilities",
    "ClosedError",
    "Completion",
    "ErrorMessage",
    "Lease",
    "Notification",
    "Notifier",
    "PoisonedError",
    "RawCompletion",
    "Reason",
    "Region",
    "Ring",
    "Scheduler",
    "SendError",
    "Slots",
    "Stats",
    "TcpSender",
    "TcpStats",
    "UdpSender",
    "UdpStats",
    "UringzcError",
    "WrongThreadError",
    "probe",
]
