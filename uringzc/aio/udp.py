"""UdpSender: datagrams of an event loop. ``await send()`` goes on at once while there is room.

Theory of operation
    Everything goes through a plain ``uringzc.UdpSender`` that never waits. What it takes gathers until the
    end of the loop's turn, when it is flushed; full trains (GSO batches) leave before that. Where the plain
    sender raises BlockingIOError, the task waits, and tries again: ``waiting.py`` has who waits, for what.
"""

import ipaddress
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from uringzc import address
from uringzc.address import Address
from uringzc.aio.group import Group
from uringzc.aio.lease import Lease
from uringzc.aio.loops import Loop
from uringzc.aio.many import send_all
from uringzc.aio.sender import AwaitableSender
from uringzc.aio.turns import weakly
from uringzc.aio.waiting import Waiting
from uringzc.kernel.error_queue import ErrorMessage
from uringzc.memory import Region
from uringzc.notif import Notifier
from uringzc.senders import udp, udp_bulk
from uringzc.senders.pacing import Rate
from uringzc.senders.stats import UdpStats
from uringzc.senders.udp_bulk import Integers

if TYPE_CHECKING:
    from typing_extensions import Buffer


class UdpSender(AwaitableSender):
    """Sends datagrams from the tasks of one event loop: asyncio's (uvloop too), or trio's, anyio's on either.

    Used as ``async with UdpSender(remote) as tx``. `remote` and the options are those of uringzc.UdpSender,
    which also says what holds of order, loss and memory; `blocking`, `max_delay` and `on_waiting` are none
    here. A name in `remote` or `bind` is looked up when it is entered, in another thread; elsewhere a name is
    refused: see ``resolve``.

    ``send`` and its like do not suspend the task while there is room: what sends without end awaits something
    else now and then. What they have taken leaves at the end of the loop's turn, in trains (GSO batches) as
    long as what has gathered; full ones before. Without room the task waits, behind those that wait already.

    A call that is cancelled has sent its datagram or not, never half of it, and not twice. Of a call for
    several the first ones may have been taken, as ``stats.datagrams`` says. The sender stays usable.

    It belongs to the loop in which it was entered: RuntimeError in another, WrongThreadError in another
    thread. The callbacks (`on_error`, `notify`, `on_timestamp`) run in the loop. What they raise, the call
    that runs them raises; what goes wrong while nobody awaits it, the next flush, drain or close.
    """

    _sender: udp.UdpSender

    def __init__(self, remote: Address | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._remote = remote

    async def _open(self, loop: Loop, waiting: Waiting) -> udp.UdpSender:
        options = dict(self._options)
        sock, family = options.get("sock"), options.get("family") or 0
        if isinstance(sock, socket.socket):
            family = sock.family
        remote = await _resolve(loop, self._remote, family)
        if options.get("bind") is not None:
            family = family or (address.family_of(remote) if remote else 0)
            options["bind"] = await _resolve(loop, options["bind"], family)
        sender = udp.UdpSender(
            remote, blocking=False, max_delay=None, on_waiting=weakly(waiting.flush_soon), **options
        )
        sender._slow_path.pack = partial(address.pack, int(sender.sock.family), names=False)
        waiting.hopeless = partial(_only_leases, sender)
        self._send = sender.send
        return sender

    async def send(self, data: "Buffer", to: Address | None = None) -> int:
        """Takes one datagram, and returns its size. 0 bytes are a datagram too. See uringzc.UdpSender.send.

        `data` may be reused at once: it was copied, but for a ``bytes`` of 16 KiB or more. `to`: where to, if
        not to `remote` or where the socket is connected to; ValueError for a name.
        """
        waiting = self._waiting
        if waiting.fast or waiting.begin():
            try:
                return self._send(data) if to is None else self._send(data, to)
            except BlockingIOError:
                pass
        return await waiting.in_turn(partial(self._send, data, to))

    async def send_many(
        self, datagrams: "Iterable[Buffer]", to: "Address | Iterable[Address] | None" = None
    ) -> int:
        """As ``send`` of each. `to` is one address, or one for each datagram. Returns how many.

        An error ends it, and what came before is sent. Each iterable is read once, up to 4096 datagrams
        ahead; the loop runs other tasks after as many.
        """
        return await send_all(self._waiting, self._sender.send_many, datagrams, to)

    async def fan_out(self, data: "Buffer", addresses: Iterable[Address]) -> Notifier:
        """One payload, kept in one place, to many addresses; the Notifier is done when all of them are.

        An error ends it, as in ``send_many``. `Notifier.wait` would block the loop: await ``drain``.
        """
        some, waiting, native = list(addresses), self._waiting, self._sender._native
        async with waiting.turn():
            await waiting.until_done(native.flush)  # so that the notifier is for this call only
            await waiting.take_all(len(some), lambda done: native.fan_out(data, some[done:]))
            return await waiting.until_done(self._sender.flush)

    async def send_region(
        self,
        region: "Region | Buffer",
        offset: int = 0,
        length: int | None = None,
        segment: int | None = None,
        to: Address | None = None,
        *,
        progress: Callable[[int], object] | None = None,
    ) -> int:
        """`length` bytes of memory as datagrams of `segment` bytes each. See uringzc.UdpSender.send_region.

        The memory must not be written until a ``flush`` after this is done. The loop runs other tasks after
        each batch, and `progress` before that; an exception of it, or a cancellation, ends the call.
        """
        native = self._sender._native
        return await self._send_blocks(
            udp_bulk.region_blocks(native, region, offset, length, segment, to), progress
        )

    async def send_slices(
        self,
        region: "Region | Buffer",
        offsets: Integers,
        lengths: Integers,
        to: Address | None = None,
        *,
        progress: Callable[[int], object] | None = None,
    ) -> int:
        """A datagram for each offset and length in the memory. See uringzc.UdpSender.send_slices.

        The arrays must not be changed until it returns. Otherwise as ``send_region``.
        """
        native = self._sender._native
        return await self._send_blocks(udp_bulk.slice_blocks(native, region, offsets, lengths, to), progress)

    async def _send_blocks(self, blocks: "udp_bulk.Blocks", progress: Callable[[int], object] | None) -> int:
        async with self._waiting.turn():
            return await self._waiting.take_all(*blocks, progress)

    async def lease(self, size: int, /) -> Lease:
        """`size` bytes of registered memory to fill, and to ``send`` without a copy.

        Waits for memory that the kernel holds. BlockingIOError when leases that were not sent hold the whole
        arena. ValueError for more than a datagram carries.
        """
        waiting, lease = self._waiting, self._sender.lease
        if waiting.fast or waiting.begin():
            with suppress(BlockingIOError):
                return Lease(waiting, lease(size))
        return Lease(waiting, await waiting.in_turn(partial(lease, size)))

    def register(self, buffer: "int | Buffer") -> Region:
        """Memory for ``send_region`` and ``send_slices``: see ``Scheduler.register``."""
        return self._sender.register(buffer)

    def group(self, addresses: Iterable[Address] = ()) -> Group:
        """A Group of receivers: each datagram sent to it is copied once, and goes to all of them."""
        self._waiting.begin()
        group = Group(self._waiting, self._sender.group(), self._sender._slow_path.pack)
        for one in addresses:
            group.add(one)
        return group

    async def resolve(self, to: Address) -> Address:
        """The address with its host as a number, which calls here take. Looks a name up in another thread.

        The first address that it has in the family of the sender; socket.gaierror if there is none.
        """
        self._waiting.begin()
        found: Address = await _resolve(self._waiting.loop, to, int(self._sender.sock.family))
        return found

    def _raise_errors(self) -> None:
        super()._raise_errors()
        self._sender._slow_path.raise_errors()

    def set_rate(self, rate: Rate | None = None, pps: Rate | None = None, burst: int | None = None) -> None:
        """Another pace from now on, for what waits too. See uringzc.UdpSender.set_rate."""
        self._sender.set_rate(rate, pps, burst)

    def errors(self) -> list[ErrorMessage]:
        """What the socket's error queue holds, and is then forgotten. See uringzc.UdpSender.errors."""
        return self._sender.errors()

    @property
    def sock(self) -> socket.socket:
        """The socket that it sends through. See uringzc.UdpSender.sock."""
        return self._sender.sock

    @property
    def stats(self) -> UdpStats:
        """A snapshot of what it has done."""
        return self._sender.stats


def _only_leases(sender: udp.UdpSender) -> bool:
    """Whether nothing will change by itself: leases hold the arena."""
    native = sender._native
    return bool(sender._arena.leases) and not (native.in_flight or native.waiting)


async def _resolve(loop: Loop, to: Any, family: int) -> Any:
    """`to` with a number as its host. What is no address, the plain sender refuses."""
    if not (isinstance(to, (tuple, list)) and len(to) in (2, 4) and isinstance(to[0], str)):
        return to
    address.check_host(to[0])
    try:
        ipaddress.ip_address(to[0] or "0.0.0.0")
        return to
    except ValueError:
        if to[0] == "<broadcast>" or type(to[1]) is not int:
            return to
    flags = socket.AI_V4MAPPED if family == socket.AF_INET6 else 0
    try:
        found = await loop.getaddrinfo(
            to[0], to[1], family=family, type=socket.SOCK_DGRAM, proto=0, flags=flags
        )
    except socket.gaierror as error:
        raise address.no_host(to[0], error) from error
    return (*found[0][4][:2], *to[2:]) if len(to) == 4 else found[0][4]
