"""The contract of an engine: what a subclass of ``base.Engine`` gives, for one kernel interface.

docs/architecture.md lists every step of a new engine, and the contract of its C part (``uzc_calls``).
``__init__`` of a subclass refuses what this kernel cannot do (``reasons.refusal``), calls
``super().__init__``, points ``_out`` to the C part, and calls ``_start``.
"""

from abc import ABC, abstractmethod
from collections import Counter
from socket import socket
from typing import TYPE_CHECKING, Any, NamedTuple

from uringzc.kernel.features import max_segments
from uringzc.memory import Region

if TYPE_CHECKING:
    from typing_extensions import Buffer


class FrameOptions(NamedTuple):
    """What only engines that send frames take."""

    memory: int | None = None  #: bytes that senders can stage in frames; None: the engine's default
    qdisc_bypass: bool = False  #: of packet
    zero_copy: bool = False  #: of af_xdp: the driver's


class KernelInterface(ABC):
    """What depends on the kernel interface that an engine uses."""

    name: str  #: as in ``engine="..."``
    min_zero_copy = 1024  #: bytes of a datagram request from which on zero-copy pays
    sends_frames = False  #: datagrams leave as Ethernet frames, which a sender's arena is made of
    reads_error_queues = False  #: of sockets that it sends zero-copy through
    _out: Any = None  #: a cffi pointer to the native part, which is NULL when that has been freed

    @abstractmethod
    def register(self, size_or_buffer: "int | Buffer") -> Region:
        """Memory to send from, pinned once where the interface can. See Scheduler.register."""

    def own_socket(self, sock: socket) -> None:  # noqa: B027
        """Called once for a socket that a sender opened: nothing was sent through it yet."""

    def why_copied(self, sock: socket) -> str:
        """Why zero-copy requests on this socket are copied, for explain(); "" if they are not."""
        return ""

    def through_socket(self, sock: socket) -> "Counter[str]":
        """Of an engine that sends frames: why destinations of this socket get none, and how many of them."""
        return Counter()

    def retried(self) -> int:
        """How often a send failed, and was made again before its request had a result."""
        return 0

    def max_segments(self) -> int:
        """The most datagrams of a train; 1: there are no trains."""
        return max_segments()

    @property
    def limitation(self) -> str:
        """What works without an optimisation here, and why, as a sentence for explain(); "" if nothing."""
        return ""

    @abstractmethod
    def _fileno(self) -> int:
        """A descriptor that is readable while there is something to reap; made at the first call."""

    def _clear_retired(self) -> None:  # noqa: B027
        """Unregisters memory of closed regions that no request uses any more. Called when there is any."""

    @abstractmethod
    def _exit(self) -> None:
        """Frees the native part, and leaves NULL. Nothing is in flight."""

    @abstractmethod
    def _abandon(self) -> None:
        """As _exit(), in the child of a fork: closes descriptors, and leaves the parent's requests alone."""
