"""What calls have returned: completions, notifiers, regions, leases, transports. A method for each."""

from typing import TYPE_CHECKING, Any

import uringzc
import uringzc.aio
from proofs.fuzz import faces
from proofs.fuzz.memory import Memory
from proofs.fuzz.things import Protocol, memory_of

if TYPE_CHECKING:
    from proofs.fuzz.effects import Effects


# ruff: noqa: D102 - the names are those of the library's methods
class Returns:
    """Of the calls of one program."""

    def __init__(self, effects: "Effects") -> None:
        self.effects = effects
        self.player = effects.player

    def reap_completions(self, method: faces.Method, one: Any, given: dict[str, Any], result: Any) -> None:
        for completion in result:
            self._completed(one, completion.user_data, completion.result)

    def reap(self, method: faces.Method, one: Any, given: dict[str, Any], result: Any) -> None:
        for cqe in result:
            if not cqe.notif:
                self._completed(one, cqe.user_data, cqe.res)
            request = self.effects.requests.get((self.effects.number(one), cqe.user_data))
            if request is not None and (cqe.notif or not cqe.more):
                for hold in request.holds:
                    hold.done = True

    def _completed(self, one: Any, user_data: int, result: int) -> None:
        request = self.effects.requests.get((self.effects.number(one), user_data))
        if request is not None:
            if request.result is not None:
                self.player.findings.append(f"count: request {user_data} has a second completion")
            request.result = result

    def flush(self, method: faces.Method, one: Any, given: dict[str, Any], result: Any) -> None:
        if method.face == "Scheduler":
            self.effects.flushed(one, given.get("slot"), result)
        elif method.face == "UdpSender" and result is not None:
            for hold in self.effects.holds:
                if hold.owner() is one and hold.notifier is None:
                    hold.notifier = result

    def update(self, method: faces.Method, one: Any, given: dict[str, Any], result: Any) -> None:
        for hold in self.effects.holds:
            hold.slot = -1

    unregister = update

    def register(self, method: faces.Method, one: Any, given: dict[str, Any], result: Any) -> None:
        if isinstance(result, uringzc.Region):
            given_memory = memory_of(self.player, given.get("size_or_buffer", given.get("buffer")))
            memory = self.player.regions[result] = given_memory or Memory(result.view)
            if given_memory is None:
                self.player.memories.all.append(memory)
            memory.fill(self.player.memories.next())

    def lease(self, method: faces.Method, one: Any, given: dict[str, Any], result: Any) -> None:
        if result is not None:
            data = self.player.memories.make("bytes", len(result))
            result.view[:] = data
            self.effects.leases[id(result)] = (one, data)

    def iter(self, method: faces.Method, one: Any, given: dict[str, Any], result: Any) -> None:
        list(result)

    def abort(self, method: faces.Method, one: Any, given: dict[str, Any], result: Any) -> None:
        self.effects.unknown(one)

    def create_datagram_endpoint(
        self, method: faces.Method, one: Any, given: dict[str, Any], result: Any
    ) -> None:
        if result is None:
            return
        transport, protocol = result
        if not isinstance(transport, uringzc.aio.DatagramTransport):
            transport.close()
            return
        self.player.add("aio.DatagramTransport", transport)
        number = self.effects.number(transport)
        to, sock = given.get("remote_addr"), given.get("sock")
        self.effects.remote[number] = (
            self.player.things.place_of(sock) if to is None else self.player.network.place_of(to)
        )
        if isinstance(protocol, Protocol):
            protocol.account = number

    def set_protocol(self, method: faces.Method, one: Any, given: dict[str, Any], result: Any) -> None:
        if isinstance(given["protocol"], Protocol):
            given["protocol"].account = self.effects.number(one)
