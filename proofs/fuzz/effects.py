"""What calls do to the program's memory and to what has to arrive: looked at before and after each.

A UdpSender says how many datagrams it has taken, a TcpSender how many bytes the kernel has accepted, and a
completion whether a request was sent: what those say has to arrive, once, and nothing else may. Writable
memory is overwritten as soon as the library has said that it is free: at once where a call copies, else when
a notifier is done, a CQE has come, or nothing is in flight.
"""

import contextlib
import itertools
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import uringzc
import uringzc.aio
from proofs.fuzz import faces
from proofs.fuzz.network import Connection
from proofs.fuzz.programs import Step
from proofs.fuzz.requests import Before, Hold, Request
from proofs.fuzz.returned import Returns
from proofs.fuzz.sent import Sends
from proofs.fuzz.things import memory_of

if TYPE_CHECKING:
    from proofs.fuzz.player import Player


class Effects:
    """Of the calls of one program."""

    def __init__(self, player: "Player") -> None:
        self.player = player
        self.numbers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self.owners: weakref.WeakKeyDictionary[Any, int] = (
            weakref.WeakKeyDictionary()
        )  #: of aio's groups, leases
        self._count = itertools.count(1)
        #: calls on a UdpSender, by thread, each inside the one before
        self.active: defaultdict[int, list[tuple[int, Before]]] = defaultdict(list)
        self.noted: dict[int, int] = {}  #: datagrams, or bytes, that were accounted for
        self.lost: dict[int, int] = {}  #: datagrams of senders that were dropped
        self.remote: dict[int, int | None] = {}
        self.leases: dict[int, tuple[Any, bytes]] = {}
        self.requests: dict[tuple[int, int], Request] = {}
        self.kept: dict[int, str] = {}  #: `completions` of schedulers
        self.connections: dict[int, Connection] = {}
        self.used: set[int] = set()
        self.holds: list[Hold] = []
        self.user_data = 1000
        self.sends = Sends(self)
        self.returns = Returns(self)

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
            active = self.active[threading.get_ident()]
            if active and active[-1][0] == self.number(sender):
                self._note(sender, active[-1][1])
            active.append((self.number(sender), found))
        sends = None if method.name.startswith("_") else getattr(self.sends, method.name, None)
        if sends is None or method.face in ("Slots", "Notifier"):
            return found
        if given.get("user_data", 0) in (0, 1) and method.face in ("Scheduler", "Ring"):
            self.user_data += 1000
            given["user_data"] = self.user_data
        some = [given[name] for name in ("data", "region", "datagrams", "buffers") if name in given]
        several = [item for each in some for item in self.sends.items(each, [each])]
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
            self._taken(one, before, error)
        elif method.face == "TcpSender" and one is not None:
            self._accepted(one, before.data)
        elif method.face.startswith("aio.") and one is not None:
            self._awaited(method, one, given, before, error)
        if not before.holds:
            for memory in before.memory:
                memory.overwrite()
        self.holds += before.holds
        if error is None and (react := getattr(self.returns, method.name.strip("_("), None)):
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
            self.flushed(one, given.get("slot", 0), None)

    def flushed(self, one: Any, slot: Any, notifier: Any) -> None:
        """`slot` None: any. Without a notifier, memory is free when nothing is in flight."""
        self.holds = [hold for hold in self.holds if not hold.done]
        for hold in self.holds:
            if hold.owner() is one and hold.notifier is None and (slot is None or hold.slot == slot):
                hold.notifier, hold.slot = notifier, -1

    def _taken(self, one: Any, before: Before, error: BaseException | None) -> None:
        """What a call on a UdpSender has taken; it has returned, or raised."""
        sender = self._sender_of(one)
        if not isinstance(sender, uringzc.UdpSender):
            return
        active = self.active[threading.get_ident()]
        if active and active[-1][1] is before:
            active.pop()
        self._note(sender, before)
        if self.number(sender) in self.lost:
            self._count_lost(sender, self.number(sender))
        taken, sent = before.taken, before.sent or []
        if taken > len(sent):
            self.player.findings.append(
                f"count: a UdpSender has taken more: {taken} datagrams of {len(sent)}"
            )
        elif taken < len(sent) and error is None:
            self.player.findings.append(
                f"count: a call returned and has taken less: {taken} of {len(sent)} datagrams"
            )

    def _note(self, sender: Any, before: Before) -> None:
        """What was taken since it was looked at belongs to this call."""
        number, datagrams = self.number(sender), sender._native.datagrams
        if not sender._engine.is_owner():
            return  # what was taken meanwhile belongs to a call of another thread
        more = datagrams - self.noted.get(number, 0)
        self.noted[number] = datagrams
        self.player.ledger.of(number).taken += (before.sent or [])[before.taken : before.taken + more]
        before.taken += more

    def _accepted(self, one: Any, data: bytes) -> None:
        number, connection = self.number(one), self.connections.get(self.number(one))
        if connection is None:
            return
        sender = one if isinstance(one, uringzc.TcpSender) else one._sender
        nbytes = sender._native.nbytes
        if not sender._engine.is_owner():
            return  # as in _note()
        accepted = nbytes - self.noted.get(number, 0)
        self.noted[number] = nbytes
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
            loop = self.player.tasks.the_loop()
            if loop.is_running() or self.player.rnd.random() < 0.05:
                return
            step = Step(method.full)
            self.player.guarded(
                method.full, lambda: self.player.tasks.run(step, one.__aenter__(), method, None, Before())
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
            if given.get("device") == "lo":  # where what is sent to another machine vanishes
                self.unknown(one)
            to = given.get("remote")
            self.remote[number] = (
                self.player.things.place_of(sock) if to is None else self.player.network.place_of(to)
            )
        if method.face == "Scheduler":
            self.kept[number] = given.get("completions", "all")

    def dropped(self, one: Any) -> None:
        """By the program, without close(). A sender has reported what it has lost, or warns when it ends."""
        sender = one if isinstance(one, uringzc.UdpSender) else getattr(one, "_sender", None)
        if isinstance(sender, uringzc.UdpSender):
            self._count_lost(sender, self.number(one))

    def _count_lost(self, sender: uringzc.UdpSender, number: int) -> None:
        """Of a sender that was dropped: now, and after each call on a group of it, which keeps it alive."""
        warned = 0 if sender.closed else sum(error.index >= 0 for error in sender._slow_path.errors)
        lost = sender._slow_path.lost - warned
        self.player.ledger.of(number).lost += lost - self.lost.get(number, 0)
        self.lost[number] = lost

    def unknown(self, one: Any) -> None:
        """Nothing says any more what was lost."""
        with contextlib.suppress(TypeError):
            self.player.ledger.of(self.number(one)).unknown = True

    def uncertain(self) -> None:
        """An interrupt came while account was kept."""
        for account in self.player.ledger.accounts.values():
            account.unknown = True

    def socket_closed(self) -> None:
        """A socket is closed by the program: a transport on it says nothing of what was lost."""
        for one in self.player.objects["aio.DatagramTransport"]:
            self.unknown(one)

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
