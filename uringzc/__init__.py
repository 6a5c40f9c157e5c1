"""Zero-copy network sends with notifier slots, over io_uring or MSG_ZEROCOPY.

``Scheduler`` gives control over lifetimes: requests are attached to notifiers in slots, and one notification
per notifier says that all its memory is yours again. ``Ring`` is io_uring without slots, for programs written
against liburing.
"""

from uringzc._send import Lease
from uringzc.doctor.capabilities import Capabilities, probe
from uringzc.errors import (
    BufferModifiedError,
    BusyError,
    ClosedError,
    PoisonedError,
    SendError,
    UringzcError,
    WrongThreadError,
)
from uringzc.kernel.error_queue import ErrorMessage
from uringzc.kernel.reasons import Reason
from uringzc.memory import Region
from uringzc.notif import Batch, Completion, Notification, Notifier, Slots, Stats
from uringzc.ring import RawCompletion, Ring
from uringzc.scheduler import Scheduler
from uringzc.senders.stats import TcpStats, UdpStats
from uringzc.senders.tcp import TcpSender
from uringzc.senders.timestamps import TransmitTimestamp
from uringzc.senders.udp import UdpSender
from uringzc.senders.udp_group import Group

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "BufferModifiedError",
    "BusyError",
    "Capabilities",
    "ClosedError",
    "Completion",
    "ErrorMessage",
    "Group",
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
    "TransmitTimestamp",
    "UdpSender",
    "UdpStats",
    "UringzcError",
    "WrongThreadError",
    "probe",
]
