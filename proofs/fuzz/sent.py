"""What calls are about to send: datagrams and where to, by their arguments. A method for each."""

import operator
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import uringzc
import uringzc.aio
from proofs.fuzz import faces
from proofs.fuzz.requests import Sent

if TYPE_CHECKING:
    from proofs.fuzz.effects import Effects

_MUCH = 1 << 22  # bytes of one call that are kept


# ruff: noqa: D102 - the names are those of the library's methods
class Sends:
    """Of the calls of one program."""

    def __init__(self, effects: "Effects") -> None:
        self.effects = effects
        self.player = effects.player

    def items(self, some: Any, otherwise: Any = None) -> Iterable[Any]:
        """Of a sequence or an iterator, which is not used up; `otherwise`: of what is neither."""
        if isinstance(some, Iterator):
            return self.player.inside
        return list(some) if otherwise is None or isinstance(some, (list, tuple)) else otherwise

    def _place(self, one: Any, to: Any) -> int | None:
        if isinstance(one, uringzc.aio.DatagramTransport) and one.get_extra_info("peername"):
            to = None  # as asyncio's, which is connected
        if to is not None:
            return self.player.network.place_of(to)
        return self.effects.remote.get(self.effects.number(one))

    def send(self, method: faces.Method, one: Any, given: dict[str, Any]) -> Sent:
        if method.face in ("Lease", "aio.Lease"):
            sender, data = self.effects.leases[id(one)]
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

    send_zc = send

    def sendmsg_zc(self, method: faces.Method, one: Any, given: dict[str, Any]) -> Sent:
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

    def send_run(self, method: faces.Method, one: Any, given: dict[str, Any]) -> Sent:
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

    def sendto(self, method: faces.Method, one: Any, given: dict[str, Any]) -> Sent:
        to = given.get("address", given.get("addr"))
        return [(self._place(one, to), _bytes(given["data"]))]

    def sendto_many(self, method: faces.Method, one: Any, given: dict[str, Any]) -> Sent:
        place = self._place(one, given.get("addr"))
        return [(place, _bytes(data)) for data in self.items(given["datagrams"])]

    def send_many(self, method: faces.Method, one: Any, given: dict[str, Any]) -> Sent:
        some = [_bytes(data) if data is not None else b"" for data in self.items(given["datagrams"])]
        if method.face.endswith("Group"):
            places = [self.player.network.place_of(to) for to in one]
            return [(place, data) for data in some for place in places]
        to = given.get("to")
        if isinstance(to, list) and to and not isinstance(to[0], str):
            return [(self._place(one, each), data) for each, data in zip(to, some, strict=False)]
        return [(self._place(one, to), data) for data in some]

    def send_buffers(self, method: faces.Method, one: Any, given: dict[str, Any]) -> Sent:
        return [(None, _bytes(data)) for data in self.items(given["buffers"])]

    def fan_out(self, method: faces.Method, one: Any, given: dict[str, Any]) -> Sent:
        data = _bytes(given["data"])
        return [(self._place(one, to), data) for to in self.items(given["addresses"])]

    def send_region(self, method: faces.Method, one: Any, given: dict[str, Any]) -> Sent:
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

    def send_slices(self, method: faces.Method, one: Any, given: dict[str, Any]) -> Sent:
        data, place = _bytes(given["region"]), self._place(one, given.get("to"))
        pairs = zip(given["offsets"], given["lengths"], strict=False)
        return [(place, data[at : at + size]) for at, size in pairs]


def _bytes(data: Any) -> bytes:
    if isinstance(data, uringzc.Region):
        data = data.view
    return bytes(memoryview(data).cast("B")) if memoryview(data).nbytes else b""


def _pieces(data: bytes, segment: int) -> list[bytes]:
    if segment <= 0 or len(data) <= segment:
        return [data]
    return [data[at : at + segment] for at in range(0, len(data), segment)]
