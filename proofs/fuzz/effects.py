"""What calls do to the program's memory and to what has to arrive: looked at before and after each.

A UdpSender says how many datagrams it has taken, a TcpSender how many bytes the kernel has accepted, and a
completion whether a request was sent: what those say has to arrive, once, and nothing else may. Writable
memory is overwritten as soon as the library has said that it is free: at once where a call copies, else when
a notifier is done, a CQE has come, or nothing is in flight.
"""

import contextlib
import itertools
import operator
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import uringzc
import uringzc.aio
from proofs.fuzz import faces
from proofs.fuzz.memory import Held, Memory
from proofs.fuzz.network import Connection
from proofs.fuzz.programs import Step
from proofs.fuzz.things import Protocol, memory_of

if TYPE_CHECKING:
    from proofs.fuzz.player import Player

Sent = list[tuple[int | None, bytes]]  # places and datagrams
_MUCH = 1 << 22  # bytes of one call that are kept


@dataclass
class Hold(Held):
    """Until a notifier is done, a CQE has come, or nothing is in flight of the owner's."""

    owner: Callable[[], Any]
    slot: int = -1
    notifier: Any = None
    done: bool = False

    def is_free(self) -> bool:
        """Asks."""
        with contextlib.suppress(Exception):
            if self.done or (self.notifier is not None and self.notifier.done):
                return True
            if (owner := self.owner()) is not None:
                stats = owner.stats
                unsettled = "held" if isinstance(stats, uringzc.Stats) else "waiting"
                return not stats.in_flight and not getattr(stats, unsettled)
        return False


@dataclass
class Request:
    """Of a Scheduler or a Ring."""

    sent: Sent
    holds: list[Hold]
    result: int | None = None


@dataclass
class Before:
    """What a call is about to send."""

    sent: Sent | None = None  #: None: no such call, or its arguments are none
    data: bytes = b""  # of a stream
    memory: list[Memory] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)
    taken: int = 0  # of `sent`, before a call inside this one


class Effects:
    """Of the calls of one program."""

    def __init__(self, player: "Player") -> None:
        self.player = player
        self.numbers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self.owners: weakref.WeakKeyDictionary[Any, int] = (
            weakref.WeakKeyDictionary()
        )  #: of aio's groups, leases
        self._count = itertools.count(1)
        self.active: list[tuple[int, Before]] = []  #: calls on a UdpSender, each inside the one before
        self.noted: dict[int, int] = {}  #: datagrams, or bytes, that were accounted for
        self.remote: dict[int, int | None] = {}
        self.leases: dict[int, tuple[Any, bytes]] = {}
        self.requests: dict[tuple[int, int], Request] = {}
        self.kept: dict[int, str] = {}  #: `completions` of schedulers
        self.connections: dict[int, Connection] = {}
        self.used: set[int] = set()
        self.holds: list[Hold] = []
        self.user_data = 1000

    def number(self, one: Any) -> int:
        """Of an object."""
        if one in self.owners:
            return self.owners[one]
        if one not in self.numbers:
            self.numbers[one] = next(self._count)
        return self.numbers[one]

    # -- around a call

    def before(self, method: faces.Method, one: Any, given: dict[str, Any]) -> Before:
        """May replace `user_data`."""
        found = Before()
        if method.face in ("UdpSender", "Group", "Lease") and (sender := self._sender_of(one)) is not None:
            if self.active and self.active[-1][0] == self.number(sender):
                self._note(sender, self.active[-1][1])
            self.active.append((self.number(sender), found))
        sends = getattr(self, f"_sent_{method.name}", None)
        if sends is None or method.face in ("Slots", "Notifier"):
            return found
        if given.get("user_data", 0) in (0, 1) and method.face in ("Scheduler", "Ring"):
            self.user_data += 1000
            given["user_data"] = self.user_data
        some = [given[name] for name in ("data", "region", "datagrams", "buffers") if name in given]
        several = [item for each in some for item in ([*each] if isinstance(each, (list, tuple)) else [each])]
        found.memory = [m for m in (memory_of(self.player, each) for each in several) if m is not None]
        for memory in found.memory if len(found.memory) == 1 else ():  # of several, each has its own
            memory.fill(self.player.memories.next())
        with contextlib.suppress(Exception):
            found.sent = sends(method, one, given)
        if method.face.endswith("TcpSender"):
            found.data, found.sent = b"".join(data for _, data in found.sent or []), None
        if method.face in ("Scheduler", "Ring") or method.name in ("send_region", "send_slices"):
            owner = weakref.ref(self._sender_of(one))
            slot = given.get("slot", 0)
            for memory in found.memory:
                hold = Hold(owner, slot if isinstance(slot, int) and given.get("flush") is not True else -1)
                memory.holds.append(hold)
                found.holds.append(hold)
        return found

    def after(
        self,
        method: faces.Method,
        one: Any,
        given: dict[str, Any],
        result: Any,
        error: BaseException | None,
        before: Before,
    ) -> None:
        """Keeps account."""
        refused = error is not None and isinstance(error, (ValueError, TypeError, OSError, BufferError))
        if method.face in ("Scheduler", "Ring") and before.sent is not None:
            self._queued(method, one, given, result, before, refused, error is not None)
        elif method.face in ("UdpSender", "Group", "Lease"):
            self._taken(one, before, error is not None)
        elif method.face == "TcpSender" and one is not None:
            self._accepted(one, before.data)
        elif method.face.startswith("aio.") and one is not None:
            self._awaited(method, one, given, before, error)
        if not before.holds:
            for memory in before.memory:
                memory.overwrite()
        self.holds += before.holds
        if error is None and (react := getattr(self, f"_after_{method.name.strip('_(')}", None)):
            react(method, one, given, result)
        kind = next((face for face, kind in faces.CLASSES.items() if type(result) is kind), None)
        if method.name == "(":
            if error is None:
                self.player.add(method.face, result)
                self._made(method, result, given)
        elif kind is not None and method.name != "__enter__":
            if kind in ("aio.Group", "aio.Lease"):
                self.owners[result] = self.number(one)
            self.player.add(kind, result)

    def _queued(
        self,
        method: faces.Method,
        one: Any,
        given: dict[str, Any],
        result: Any,
        before: Before,
        refused: bool,
        raised: bool,
    ) -> None:
        account = self.player.ledger.of(self.number(one))
        if refused:
            for hold in before.holds:
                hold.done = True
            return
        sent = before.sent or []
        first = given.get("user_data")
        if raised or not isinstance(first, int) or first < 1000 or first == 2**64 - 1:
            account.perhaps += sent
            return
        number = self.number(one)
        if method.name == "send_run":
            for i, each in enumerate(sent[:result]):
                self.requests[number, first + i] = Request([each], before.holds)
        else:
            self.requests[number, first] = Request(sent, before.holds)
        if given.get("flush") is True:
            self._flushed(one, given.get("slot", 0), None)

    def _taken(self, one: Any, before: Before, raised: bool) -> None:
        """What a call on a UdpSender has taken; it has returned, or raised."""
        sender = self._sender_of(one)
        if not isinstance(sender, uringzc.UdpSender):
            return
        if self.active and self.active[-1][1] is before:
            self.active.pop()
        self._note(sender, before)
        taken, sent = before.taken, before.sent or []
        if taken > len(sent):
            self.player.findings.append(
                f"count: a UdpSender has taken more: {taken} datagrams of {len(sent)}"
            )
        elif taken < len(sent) and not raised:
            self.player.findings.append(
                f"count: a call returned and has taken less: {taken} of {len(sent)} datagrams"
            )

    def _note(self, sender: Any, before: Before) -> None:
        """What was taken since it was looked at belongs to this call."""
        number = self.number(sender)
        more = sender._native.datagrams - self.noted.get(number, 0)
        self.noted[number] = sender._native.datagrams
        self.player.ledger.of(number).taken += (before.sent or [])[before.taken : before.taken + more]
        before.taken += more

    def _accepted(self, one: Any, data: bytes) -> None:
        number, connection = self.number(one), self.connections.get(self.number(one))
        if connection is None:
            return
        native = one._native if isinstance(one, uringzc.TcpSender) else one._sender._native
        accepted = native.nbytes - self.noted.get(number, 0)
        self.noted[number] = native.nbytes
        connection.expected += data[:accepted]
        if accepted > len(data) and connection.order_known:
            self.player.findings.append(f"count: a TcpSender has sent {accepted} bytes of {len(data)}")

    def _awaited(
        self,
        method: faces.Method,
        one: Any,
        given: dict[str, Any],
        before: Before,
        error: BaseException | None,
    ) -> None:
        if method.face == "aio.TcpSender":
            self._accepted(one, before.data)
        elif before.sent:
            account = self.player.ledger.of(self.number(self._sender_of(one)))
            unsure = error is not None or (method.face == "aio.DatagramTransport" and one.is_closing())
            refused = isinstance(error, (TypeError, ValueError)) and method.name in ("send", "sendto")
            if not refused:
                (account.perhaps if unsure else account.taken).extend(before.sent)

    def of_task(self, method: faces.Method, one: Any, before: Before) -> Callable[[Any], None]:
        """For a call that a task makes: what is to be done when the task has ended."""
        number = self.number(self._sender_of(one)) if one is not None else 0
        if connection := self.connections.get(number):
            connection.order_known = False
        account = self.player.ledger.of(number)
        sent = before.sent or []
        account.perhaps += sent
        holds = [Hold(lambda: None) for _ in before.memory]
        for memory, hold in zip(before.memory, holds, strict=True):
            memory.holds.append(hold)

        def after(task: Any) -> None:
            if not task.cancelled() and task.exception() is not None:
                self.player.judge(method.full if method.full.startswith("aio.") else "task", task.exception())
            elif not task.cancelled() and method.face != "aio.DatagramTransport":  # it may have been closing
                account.perhaps = [each for each in account.perhaps if not any(each is s for s in sent)]
                account.taken += sent
            for memory, hold in zip(before.memory, holds, strict=True):
                hold.done = True
                memory.overwrite()

        return after

    # -- objects

    def _sender_of(self, one: Any) -> Any:
        """The sender of a group or lease; else the object."""
        if isinstance(one, uringzc.Group):
            return one._sender
        if isinstance(one, uringzc.Lease):
            return self.leases.get(id(one), (None, b""))[0]
        return one

    def _made(self, method: faces.Method, one: Any, given: dict[str, Any]) -> None:
        number = self.number(one)
        if method.face.startswith("aio."):
            loop = self.player.the_loop()
            if loop.is_running() or self.player.rnd.random() < 0.05:
                return
            step = Step(method.full)
            self.player.guarded(
                method.full, lambda: self.player.run(step, one.__aenter__(), method, None, Before())
            )
            if not isinstance(one._sender, (uringzc.UdpSender, uringzc.TcpSender)):
                return
        sock = given.get("sock")
        if method.face.endswith("TcpSender") and sock in self.player.things.connections:
            connection = self.connections[number] = self.player.things.connections[sock]
            if id(connection) in self.used:
                connection.order_known = False
            self.used.add(id(connection))
        if method.face.endswith("UdpSender"):
            to = given.get("remote")
            self.remote[number] = (
                self.player.things.place_of(sock) if to is None else self.player.network.place_of(to)
            )
        if method.face == "Scheduler":
            self.kept[number] = given.get("completions", "all")

    def make_one(self, face: str) -> None:
        """Of a kind of which there is none."""
        place = ["list", [["place", 0], ["place", 1]]]
        make: dict[str, list[Step]] = {
            "Ring": [Step("Ring()")],
            "Scheduler": [Step("Scheduler()", give={"tags": ["list", [1, 2, 3]]})],
            "Notifier": [
                Step("Scheduler.send", give={"sock": ["socket", "udp", 0], "data": ["pool", 1200]}),
                Step("Scheduler.flush", give={"slot": 0}),
            ],
            "Region": [Step("Scheduler.register", give={"size_or_buffer": 65536})],
            "Batch": [Step("Scheduler.reap_completions")],
            "UdpSender": [Step("UdpSender()", give={"remote": ["place", 0]})],
            "Lease": [Step("UdpSender.lease", give={"size": 1200})],
            "Group": [Step("UdpSender.group", give={"addresses": place})],
            "TcpSender": [Step("TcpSender()", give={"sock": ["socket", "tcp", 0]})],
            "aio.UdpSender": [Step("aio.UdpSender()", give={"remote": ["place", 2]})],
            "aio.TcpSender": [Step("aio.TcpSender()", give={"sock": ["socket", "tcp", 1]})],
            "aio.Group": [Step("aio.UdpSender.group", give={"addresses": place})],
            "aio.Lease": [Step("aio.UdpSender.lease", give={"size": 1200})],
            "aio.DatagramTransport": [
                Step(
                    "aio.EventLoop.create_datagram_endpoint",
                    give={"protocol_factory": ["protocol", ""], "remote_addr": ["place", 3]},
                )
            ],
        }
        for step in make.get(face, []):
            self.player.play_step(step)

    def dropped(self, one: Any) -> None:
        """Without close(): nothing says any more what was lost."""
        with contextlib.suppress(TypeError):
            self.player.ledger.of(self.number(one)).dropped = True

    def uncertain(self) -> None:
        """An interrupt came while account was kept."""
        for account in self.player.ledger.accounts.values():
            account.dropped = True

    def socket_closed(self) -> None:
        """A socket is closed by the program: a transport on it says nothing of what was lost."""
        for one in self.player.objects["aio.DatagramTransport"]:
            self.dropped(one)

    def forked(self, step: Step) -> None:
        """Nothing has changed here."""

    def forget(self) -> None:
        """The program has ended."""
        self.leases.clear()
        self.requests.clear()
        self.connections.clear()
        self.holds.clear()

    def at_the_end(self) -> None:
        """Everything is closed: reads the last completions, and what was lost."""
        objects = self.player.objects
        for one in objects["Scheduler"]:
            self.player.call(Step("Scheduler.reap_completions"), one, {})
            self.player.call(Step("Scheduler.reap_notifications"), one, {})
        for one in objects["Ring"]:
            self.player.call(Step("Ring.reap"), one, {})
        for face in ("UdpSender", "aio.UdpSender", "aio.DatagramTransport"):
            for one in objects[face]:
                sender = one if face == "UdpSender" else one._sender
                if isinstance(
                    sender, uringzc.UdpSender
                ):  # else one that was not entered, or has sent nothing
                    self.player.ledger.of(self.number(one)).lost += sender._slow_path.lost
        settled = {
            self.number(one)
            for one in [*objects["Scheduler"], *objects["Ring"]]
            if one._engine.closed
            and not one.stats.in_flight
            and self.kept.get(self.number(one), "all") == "all"
        }
        for (number, user_data), request in self.requests.items():
            account = self.player.ledger.of(number)
            (account.perhaps if request.result is None or request.result < 0 else account.taken).extend(
                request.sent
            )
            if request.result is None and number in settled:
                self.player.findings.append(
                    f"count: request {user_data} of a closed scheduler has no completion"
                )

    # -- what calls send

    def _place(self, one: Any, to: Any) -> int | None:
        if isinstance(one, uringzc.aio.DatagramTransport) and one.get_extra_info("peername"):
            to = None  # as asyncio's, which is connected
        if to is not None:
            return self.player.network.place_of(to)
        return self.remote.get(self.number(one))

    def _sent_send(self, method: faces.Method, one: Any, given: dict[str, Any]) -> Sent:
        if method.face in ("Lease", "aio.Lease"):
            sender, data = self.leases[id(one)]
            length = given.get("length")
            return [
                (
                    self._place(sender, given.get("to")),
                    data if length is None else data[: operator.index(length)],
                )
            ]
        data = _bytes(given["data"])
        if method.face in ("Scheduler", "Ring"):
            return self._request(given, data)
        if method.face.endswith("Group"):
            return [(self.player.network.place_of(to), data) for to in one]
        return [(self._place(one, given.get("to")) if "Udp" in method.face else None, data)]

    _sent_send_zc = _sent_send

    def _sent_sendmsg_zc(self, method: faces.Method, one: Any, given: dict[str, Any]) -> Sent:
        return self._request(given, b"".join(map(_bytes, given["buffers"])))

    def _request(self, given: dict[str, Any], data: bytes) -> Sent:
        offset = operator.index(given.get("offset", 0))
        length = given.get("length")
        data = data[offset : None if length is None else offset + operator.index(length)]
        sock = given["sock"]
        if sock in self.player.things.connections:
            self.player.things.connections[sock].order_known = False
            return []
        to = given.get("to")
        place = self.player.things.place_of(sock) if to is None else self.player.network.place_of(to)
        return [(place, piece) for piece in _pieces(data, operator.index(given.get("segment", 0)))]

    def _sent_send_run(self, method: faces.Method, one: Any, given: dict[str, Any]) -> Sent:
        size, count = operator.index(given["size"]), operator.index(given["count"])
        stride = given.get("stride")
        stride = size if stride is None else operator.index(stride)
        offset = operator.index(given.get("offset", 0))
        data = _bytes(given["region"])
        if size * count > _MUCH:
            raise ValueError
        each = {**given, "offset": 0, "length": None}
        return (
            [
                self._request(each, data[at : at + size])[0]
                for at in range(offset, offset + count * stride, stride)
            ]
            if stride
            else [self._request(each, data[offset : offset + size])[0]] * count
        )

    def _sent_sendto(self, method: faces.Method, one: Any, given: dict[str, Any]) -> Sent:
        to = given.get("address", given.get("addr"))
        return [(self._place(one, to), _bytes(given["data"]))]

    def _sent_sendto_many(self, method: faces.Method, one: Any, given: dict[str, Any]) -> Sent:
        place = self._place(one, given.get("addr"))
        return [(place, _bytes(data)) for data in self._items(given["datagrams"])]

    def _sent_send_many(self, method: faces.Method, one: Any, given: dict[str, Any]) -> Sent:
        some = [_bytes(data) if data is not None else b"" for data in self._items(given["datagrams"])]
        if method.face.endswith("Group"):
            places = [self.player.network.place_of(to) for to in one]
            return [(place, data) for data in some for place in places]
        to = given.get("to")
        if isinstance(to, list) and to and not isinstance(to[0], str):
            return [(self._place(one, each), data) for each, data in zip(to, some, strict=False)]
        return [(self._place(one, to), data) for data in some]

    def _sent_send_buffers(self, method: faces.Method, one: Any, given: dict[str, Any]) -> Sent:
        return [(None, _bytes(data)) for data in self._items(given["buffers"])]

    def _sent_fan_out(self, method: faces.Method, one: Any, given: dict[str, Any]) -> Sent:
        data = _bytes(given["data"])
        return [(self._place(one, to), data) for to in self._items(given["addresses"])]

    def _sent_send_region(self, method: faces.Method, one: Any, given: dict[str, Any]) -> Sent:
        data = _bytes(given["region"])
        offset, length, segment = given.get("offset", 0), given.get("length"), given.get("segment")
        offset = operator.index(offset)
        data = data[offset:] if length is None else data[offset : offset + operator.index(length)]
        place = self._place(one, given.get("to"))
        if not data and segment is not None:
            return []
        return [
            (place, piece)
            for piece in _pieces(data, len(data) if segment is None else operator.index(segment))
        ]

    def _sent_send_slices(self, method: faces.Method, one: Any, given: dict[str, Any]) -> Sent:
        data, place = _bytes(given["region"]), self._place(one, given.get("to"))
        pairs = zip(given["offsets"], given["lengths"], strict=False)
        return [(place, data[at : at + size]) for at, size in pairs]

    def _items(self, some: Any) -> Iterable[Any]:
        return self.player.inside if isinstance(some, Iterator) else list(some)

    # -- what calls return

    def _after_reap_completions(
        self, method: faces.Method, one: Any, given: dict[str, Any], result: Any
    ) -> None:
        for completion in result:
            self._completed(one, completion.user_data, completion.result)

    def _after_reap(self, method: faces.Method, one: Any, given: dict[str, Any], result: Any) -> None:
        for cqe in result:
            if not cqe.notif:
                self._completed(one, cqe.user_data, cqe.res)
            request = self.requests.get((self.number(one), cqe.user_data))
            if request is not None and (cqe.notif or not cqe.more):
                for hold in request.holds:
                    hold.done = True

    def _completed(self, one: Any, user_data: int, result: int) -> None:
        request = self.requests.get((self.number(one), user_data))
        if request is not None:
            if request.result is not None:
                self.player.findings.append(f"count: request {user_data} has a second completion")
            request.result = result

    def _after_flush(self, method: faces.Method, one: Any, given: dict[str, Any], result: Any) -> None:
        if method.face == "Scheduler":
            self._flushed(one, given.get("slot"), result)
        elif method.face == "UdpSender" and result is not None:
            for hold in self.holds:
                if hold.owner() is one and hold.notifier is None:
                    hold.notifier = result

    def _flushed(self, one: Any, slot: Any, notifier: Any) -> None:
        """`slot` None: any. Without a notifier, memory is free when nothing is in flight."""
        self.holds = [hold for hold in self.holds if not hold.done]
        for hold in self.holds:
            if hold.owner() is one and hold.notifier is None and (slot is None or hold.slot == slot):
                hold.notifier, hold.slot = notifier, -1

    def _after_update(self, method: faces.Method, one: Any, given: dict[str, Any], result: Any) -> None:
        for hold in self.holds:
            hold.slot = -1

    _after_unregister = _after_update

    def _after_register(self, method: faces.Method, one: Any, given: dict[str, Any], result: Any) -> None:
        if isinstance(result, uringzc.Region):
            given_memory = memory_of(self.player, given.get("size_or_buffer", given.get("buffer")))
            memory = self.player.regions[result] = given_memory or Memory(result.view)
            if given_memory is None:
                self.player.memories.all.append(memory)
            memory.fill(self.player.memories.next())

    def _after_lease(self, method: faces.Method, one: Any, given: dict[str, Any], result: Any) -> None:
        if result is not None:
            data = self.player.memories.make("bytes", len(result))
            result.view[:] = data
            self.leases[id(result)] = (one, data)

    def _after_iter(self, method: faces.Method, one: Any, given: dict[str, Any], result: Any) -> None:
        list(result)

    def _after_abort(self, method: faces.Method, one: Any, given: dict[str, Any], result: Any) -> None:
        self.dropped(one)

    def _after_create_datagram_endpoint(
        self, method: faces.Method, one: Any, given: dict[str, Any], result: Any
    ) -> None:
        if result is None:
            return
        transport, protocol = result
        if not isinstance(transport, uringzc.aio.DatagramTransport):
            transport.close()
            return
        self.player.add("aio.DatagramTransport", transport)
        number = self.number(transport)
        to, sock = given.get("remote_addr"), given.get("sock")
        self.remote[number] = (
            self.player.things.place_of(sock) if to is None else self.player.network.place_of(to)
        )
        if isinstance(protocol, Protocol):
            protocol.account = number

    def _after_set_protocol(self, method: faces.Method, one: Any, given: dict[str, Any], result: Any) -> None:
        if isinstance(given["protocol"], Protocol):
            given["protocol"].account = self.number(one)


def _bytes(data: Any) -> bytes:
    if isinstance(data, uringzc.Region):
        data = data.view
    return bytes(memoryview(data).cast("B")) if memoryview(data).nbytes else b""


def _pieces(data: bytes, segment: int) -> list[bytes]:
    if segment <= 0 or len(data) <= segment:
        return [data]
    return [data[at : at + segment] for at in range(0, len(data), segment)]
