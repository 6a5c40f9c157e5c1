"""The public methods that programs call, and their parameters, read from the classes: none is forgotten."""

import inspect
from functools import cache
from typing import Any, NamedTuple

import uringzc
import uringzc.aio

#: the classes, by the names that programs have for them
CLASSES: dict[str, type[Any]] = {
    "Ring": uringzc.Ring,
    "Scheduler": uringzc.Scheduler,
    "Slots": uringzc.Slots,
    "Notifier": uringzc.Notifier,
    "Region": uringzc.Region,
    "Batch": uringzc.Batch,
    "UdpSender": uringzc.UdpSender,
    "Lease": uringzc.Lease,
    "Group": uringzc.Group,
    "TcpSender": uringzc.TcpSender,
    "aio.UdpSender": uringzc.aio.UdpSender,
    "aio.TcpSender": uringzc.aio.TcpSender,
    "aio.Group": uringzc.aio.Group,
    "aio.Lease": uringzc.aio.Lease,
    "aio.DatagramTransport": uringzc.aio.DatagramTransport,
    "aio.EventLoop": uringzc.aio.EventLoop,
}
#: what a program may make itself; the other objects are what calls return
MADE = ("Ring", "Scheduler", "UdpSender", "TcpSender", "aio.UdpSender", "aio.TcpSender")
#: what --only takes: a face, and the objects that calls on it return
GROUPS = {
    "Ring": ("Ring", "Region", "Batch"),
    "Scheduler": ("Scheduler", "Slots", "Notifier", "Region", "Batch"),
    "UdpSender": ("UdpSender", "Lease", "Region", "Notifier", "Group"),
    "Group": ("Group", "UdpSender"),
    "TcpSender": ("TcpSender", "Notifier"),
    "asyncio": tuple(name for name in CLASSES if name.startswith("aio.")),
}
_LOOP = ("create_datagram_endpoint",)  # of a loop, which has far more; the rest is asyncio's
#: not documented for programs: the engine's side of the object
_INSIDE = {"Slots": {"counts", "unsettled", "flush", "stats"}, "aio.DatagramTransport": {"end"}}
#: asyncio.DatagramTransport has no streams: these raise NotImplementedError, as there
_STREAM = {"can_write_eof", "write", "write_eof", "writelines"}
_SPECIAL = ("__len__", "__iter__", "__contains__", "__getitem__", "__enter__", "__exit__", "__repr__")

_DESCRIBED: dict[str, dict[str, bool]] = {  # what inspect cannot read: of the compiled type
    "Lease.send": {"length": False, "to": False},
    "Lease.release": {},
    "aio.EventLoop.create_datagram_endpoint": {
        name: name == "protocol_factory"
        for name in inspect.signature(uringzc.aio.create_datagram_endpoint).parameters
    },
}
#: options that aio's senders pass on
_OPTIONS = {
    "aio.UdpSender": (uringzc.UdpSender, {"blocking", "max_delay", "on_waiting", "remote"}),
    "aio.TcpSender": (uringzc.TcpSender, {"blocking", "sock"}),
}


class Method(NamedTuple):
    """A method, property or constructor: its parameters, and whether each is required."""

    face: str
    name: str  # "(" is the constructor
    parameters: dict[str, bool]
    positional: frozenset[str]
    is_property: bool = False

    @property
    def full(self) -> str:
        """As programs and tables name it."""
        return f"{self.face}{self.name})" if self.name == "(" else f"{self.face}.{self.name}"


@cache
def methods() -> dict[str, Method]:
    """Every public one, by its full name."""
    found = [_constructor(face) for face in MADE]
    for face, kind in CLASSES.items():
        names = _LOOP if face == "aio.EventLoop" else [name for name in dir(kind) if not name.startswith("_")]
        hidden = _INSIDE.get(face, set()) | (_STREAM if face == "aio.DatagramTransport" else set())
        found += [_method(face, kind, name) for name in names if name not in hidden]
        if face != "aio.EventLoop":
            found += [_method(face, kind, name) for name in _SPECIAL if _own(kind, name)]
    return {method.full: method for method in found}


def _own(kind: type[Any], name: str) -> bool:
    return getattr(kind, name, None) is not getattr(object, name, None)


def _constructor(face: str) -> Method:
    parameters = _parameters(inspect.signature(CLASSES[face]))
    if face in _OPTIONS:
        plain, without = _OPTIONS[face]
        parameters |= {n: p for n, p in _parameters(inspect.signature(plain)).items() if n not in without}
    return Method(
        face, "(", {n: required for n, (required, _) in parameters.items()}, _positional(parameters)
    )


def _method(face: str, kind: type[Any], name: str) -> Method:
    described = _DESCRIBED.get(f"{face}.{name}")
    if described is not None:
        return Method(face, name, described, frozenset())
    static = inspect.getattr_static(kind, name)
    if name in ("__contains__", "__getitem__"):
        return Method(
            face, name, {"to" if name == "__contains__" else "index": True}, frozenset(["to", "index"])
        )
    if name.startswith("__"):
        return Method(face, name, {}, frozenset())
    if isinstance(static, property) or not callable(static):
        return Method(face, name, {}, frozenset(), is_property=True)
    parameters = _parameters(inspect.signature(getattr(kind, name)))
    parameters.pop("self", None)
    return Method(
        face, name, {n: required for n, (required, _) in parameters.items()}, _positional(parameters)
    )


def _parameters(signature: inspect.Signature) -> dict[str, tuple[bool, bool]]:
    """Name: whether it is required, and whether it has no name for callers."""
    return {
        name: (one.default is one.empty, one.kind in (one.POSITIONAL_ONLY, one.VAR_POSITIONAL))
        for name, one in signature.parameters.items()
        if one.kind != one.VAR_KEYWORD
    }


def _positional(parameters: dict[str, tuple[bool, bool]]) -> frozenset[str]:
    return frozenset(name for name, (_, unnamed) in parameters.items() if unnamed)
