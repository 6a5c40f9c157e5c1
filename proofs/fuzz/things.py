"""Makes the arguments of a step from how programs write them."""

import contextlib
import gc
import socket
from array import array
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import uringzc
from proofs.fuzz.memory import Memory
from proofs.fuzz.network import Connection
from proofs.fuzz.values import BUFFERS, Value

if TYPE_CHECKING:
    from proofs.fuzz.player import Player


class PlannedError(Exception):
    """What a program raises out of its own code, inside a call."""


class _Index:
    """An object that is an int where one is needed, and runs code then."""

    def __init__(self, value: int, run: Callable[[], object]) -> None:
        self.value, self.run = value, run

    def __index__(self) -> int:
        self.run()
        return self.value


class _Raises:
    """An object whose methods raise."""

    def _raise(self, *_: object) -> Any:
        raise PlannedError


ENDLESS = 2999  # items of an iterator that is much too long
_RAISING = {"index": "__index__", "iter": "__iter__", "len": "__len__", "buffer": "__buffer__"}


class _Int(int):
    """A subclass."""


class Things:
    """Of one program. What it makes besides buffers: sockets, addresses, callbacks, what misbehaves."""

    def __init__(self, player: "Player") -> None:
        self.player = player
        self.network = player.network
        self.sockets: dict[tuple[str, int], socket.socket] = {}
        self.connections: dict[socket.socket, Connection] = {}
        self._places: dict[socket.socket, int | None] = {}  # of connected sockets
        self.stolen: list[socket.socket] = []

    def make(self, value: Value, target: "list[Any] | None" = None) -> Any:
        """`target`: will hold the object that a callback is for."""
        if not isinstance(value, list):
            return value
        what, *rest = value
        if what in BUFFERS:
            return self.player.memories.make(what, rest[0])
        return getattr(self, f"_{what.replace(' ', '_')}")(target, *rest)

    # -- sockets and addresses

    def _socket(self, _: Any, kind: str, index: int) -> socket.socket:
        if (found := self.sockets.get((kind, index))) is None:
            found = self.sockets[kind, index] = self._open(kind, index)
        return found

    def _open(self, kind: str, index: int) -> socket.socket:
        network = self.network
        if kind == "tcp":
            connection = network.connect()
            self.connections[connection.sock] = connection
            return connection.sock
        if kind == "unix":
            return socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0]
        if kind == "raw":
            made = socket.socket(socket.AF_INET, socket.SOCK_RAW, 253)
            made.connect((network.near, 0))
            return made
        made = socket.socket(socket.AF_INET6 if kind == "six" else socket.AF_INET, socket.SOCK_DGRAM)
        if kind == "closed":
            made.close()
        elif kind != "unconnected":
            place = index if kind == "udp" else len(network.addresses) - 1
            made.connect(network.addresses[place])
        return made

    def place_of(self, sock: Any) -> int | None:
        """The receiver that a socket is connected to, or was: a closed one that is registered may send."""
        with contextlib.suppress(OSError, AttributeError):  # closed, not connected, or None
            self._places[sock] = self.network.place_of(sock.getpeername())
        return self._places.get(sock)

    def close_socket(self, index: int) -> None:
        """Closes one of the program's; its number stays, with a closed socket."""
        open_ones = [sock for sock in self.sockets.values() if sock.fileno() >= 0]
        if open_ones:
            sock = open_ones[index % len(open_ones)]
            if sock in self.connections:
                self.connections[sock].broken = True
            sock.close()

    def steal_descriptor(self) -> None:
        """A socket that the library was not given takes the lowest free descriptor."""
        self.stolen.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.stolen[-1].connect(self.network.trap.getsockname())

    def close(self) -> None:
        """All sockets."""
        for sock in [*self.sockets.values(), *self.stolen]:
            sock.close()
        self.sockets.clear()
        self.connections.clear()
        self.stolen.clear()

    def _place(self, _: Any, index: int) -> Any:
        return self.network.addresses[index]

    def _place6(self, _: Any, __: int) -> Any:
        return self.network.addresses[-1]

    def _nobody(self, _: Any) -> Any:
        return self.network.far, 1

    def _here(self, _: Any) -> Any:
        return self.network.near, 0

    def _broadcast(self, _: Any) -> Any:
        return "10.0.0.255", 9000

    # -- objects

    def _an(self, _: Any, kind: str, index: int) -> Any:
        return self.player.pick(kind, index)

    def _region(self, _: Any, index: int) -> Any:
        return self.player.pick("Region", index)

    def _descriptor(self, _: Any) -> int:
        return self._socket(None, "udp", 0).fileno()

    def _released(self, _: Any, size: int) -> memoryview:
        view = memoryview(bytearray(size))
        view.release()
        return view

    def _strided(self, _: Any, size: int) -> memoryview:
        return memoryview(bytes(2 * size))[::2]

    def _text(self, _: Any, size: int) -> str:
        return "ä" * size

    def _list(self, target: Any, items: list[Value]) -> list[Any]:
        return [self.make(item, target) for item in items]

    def _tuple(self, target: Any, items: list[Value]) -> tuple[Any, ...]:
        return tuple(self._list(target, items))

    def _dict(self, _: Any) -> dict[int, int]:
        return {1: 2}

    def _object(self, _: Any) -> object:
        return object()

    def _type(self, _: Any) -> type:
        return bytes

    def _function(self, _: Any) -> Any:
        return lambda *_: None

    def _range(self, _: Any, *limits: int | None) -> slice:
        return slice(*limits)

    def _float(self, _: Any, text: str) -> float:
        return float(text)

    def _subclass(self, _: Any, __: str, value: int) -> int:
        return _Int(value)

    def _integers(self, _: Any, kind: str, values: list[int]) -> Any:
        return values if kind == "list" else array(kind, values)

    # -- the program's own code, inside calls

    def _iterator(self, target: Any, items: list[Value]) -> Iterator[Any]:
        made = self._list(target, items)
        self.player.inside = made
        meanwhile = self._during(
            target, self.player.rnd.choice(["note", "note", "collect", "close", "send", "drop"])
        )

        def run() -> Iterator[Any]:
            for at, item in enumerate(made):
                if at == len(made) // 2:
                    meanwhile()
                yield item

        return run()

    def _endless(self, _: Any) -> Iterator[bytes]:
        self.player.inside = [b"endless"] * ENDLESS
        return iter(self.player.inside)

    def _index(self, target: Any, value: int) -> _Index:
        what = self.player.rnd.choice(["note", "collect", "close", "send", "drop"])
        return _Index(value, self._during(target, what))

    def _raises(self, _: Any, which: str) -> Any:
        return type("Raises", (_Raises,), {_RAISING[which]: _Raises._raise})()

    def _callback(self, target: Any, what: str) -> Callable[..., None]:
        during = self._during(target, what)

        def callback(*_: object) -> None:
            during()

        return callback

    def _during(self, target: Any, what: str) -> Callable[[], None]:
        """`what` a program does with the first of `target`, inside a call on it."""
        target = [] if target is None else target

        def run() -> None:
            if what == "raise":
                raise PlannedError
            if what == "collect":
                gc.collect()
            elif what == "drop":
                self.player.drop(self.player.rnd.choice(["UdpSender", "Scheduler", "Lease", "Region"]), 0)
            elif what != "note" and target:
                self.player.inner_call(target[0], what)

        return run

    def _protocol(self, _: Any, kind: str) -> Callable[[], Any]:
        return lambda: self._a_protocol(None, kind)

    def _a_protocol(self, _: Any, kind: str) -> Any:
        return ManyProtocol(self.player, kind) if kind == "many" else Protocol(self.player, kind)


class Protocol:
    """A protocol of asyncio, which counts the errors that it is given."""

    def __init__(self, player: "Player", kind: str) -> None:
        self.player = player
        self.kind = kind
        self.account = -1

    def _maybe(self) -> None:
        if self.kind == "raises" and self.player.rnd.random() < 0.3:
            raise PlannedError

    def connection_made(self, transport: Any) -> None:
        """See asyncio."""
        self._maybe()

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio."""
        self._maybe()

    def datagram_received(self, data: bytes, address: Any) -> None:
        """See asyncio."""
        self._maybe()

    def error_received(self, error: OSError) -> None:
        """See asyncio."""
        self.player.ledger.of(self.account).lost += 1
        self._maybe()

    def pause_writing(self) -> None:
        """See asyncio."""
        self._maybe()

    def resume_writing(self) -> None:
        """See asyncio."""
        self._maybe()


class ManyProtocol(Protocol):
    """One that takes several at once."""

    def datagrams_received(self, datagrams: list[Any], address: Any) -> None:
        """See uringzc.aio."""
        self._maybe()


def memory_of(player: "Player", given: Any) -> Memory | None:
    """The program's memory that an argument is, where it can be written to."""
    if isinstance(given, uringzc.Region):
        return player.regions.get(given)
    return player.memories.of.get(id(given))
