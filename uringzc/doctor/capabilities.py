"""probe(): what "auto" picks here, why nothing better, and what would change that."""

import socket
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Annotated

from uringzc.doctor import route
from uringzc.doctor.frames import FramePath, find_frame_path
from uringzc.doctor.route import Route
from uringzc.engines.base import Engine
from uringzc.engines.choose import ENGINES, FRAME_ENGINES, auto, choose
from uringzc.errors import counted
from uringzc.kernel.features import Features, features, max_segments, notification_size
from uringzc.kernel.proc import sysctl
from uringzc.kernel.reasons import MEMLOCK_FIX, Reason, memlock, reason_of
from uringzc.notif import COMPLETIONS
from uringzc.records import explained
from uringzc.senders.sockets import make_room, room_for
from uringzc.senders.udp_setup import ARENA, MAX_INFLIGHT

#: the default of Scheduler's max_inflight
_SCHEDULER = 8192
#: net.core.optmem_max, the default of Linux 6.7
_OPTMEM = 131072
_PAGE = 4096


@dataclass(frozen=True)
@explained
class Limits:
    """What bounds the data in flight, in bytes if nothing else is said. None: there is no limit; of a sysctl,
    it cannot be read.
    """

    segments: Annotated[int, "the most datagrams of a train, one send with UDP_SEGMENT"]
    frame_segments: Annotated[
        int, "of a train of the engine packet; 1 before Linux 6.2, 0 without the engine"
    ]
    memlock: Annotated[int | None, "RLIMIT_MEMLOCK, of a user's processes together"]
    memlock_sends: Annotated[int | None, "sends that MSG_ZEROCOPY can have in flight under that"]
    arena: Annotated[int, "registered of the 4 MiB that a UdpSender asks for; 0 where none is"]
    sndbuf: Annotated[int, "SO_SNDBUF that a UdpSender gets, as the kernel counts it"]
    wmem_max: Annotated[int | None, "net.core.wmem_max"]
    optmem_max: Annotated[int | None, "net.core.optmem_max"]
    optmem_sends: Annotated[int | None, "sends of one socket that MSG_ZEROCOPY can have in flight under that"]


@dataclass(frozen=True)
@explained
class Capabilities:
    """What works here, found by trying. ``str()`` of it is for people."""

    engine: Annotated[
        str, 'what "auto" is for a UdpSender: "io_uring", "msg_zerocopy", "copy"; "none": it raises'
    ]
    engines: Annotated[dict[str, Reason | None], "each engine, and why it does not work here; None: it does"]
    details: Annotated[tuple[Reason, ...], "why not a better engine, what limits, what copies"]
    features: Annotated[Features | None, "what io_uring offers, where there is one"]
    limits: Annotated[Limits, "what bounds the data in flight"]
    route: Annotated[Route | None, "the route to the host, if one was given"]
    frames: Annotated[
        dict[str, FramePath],
        "how packet and af_xdp would send to that host, for each of them that works here",
    ]

    @property
    def reasons(self) -> tuple[str, ...]:
        """The texts of ``details``."""
        return tuple(reason.text for reason in self.details)

    @property
    def fixes(self) -> tuple[str, ...]:
        """For each of the reasons the command or setting that would change it, "" where none would."""
        return tuple(reason.fix for reason in self.details)

    def as_dict(self) -> dict[str, object]:
        """All of it, for JSON."""
        return {**asdict(self), "reasons": list(self.reasons), "fixes": list(self.fixes)}

    def __str__(self) -> str:
        return "\n  ".join([f"engine: {self.engine}", *map(str, self.details)])


def probe(host: str | None = None) -> Capabilities:
    """What this kernel and process can do, and with `host`, the route there.

    It opens each engine for a moment, and sends nothing out of this machine. A `host` without an address or a
    route is an OSError, and needs pyroute2 (the extra "cli"). ValueError: URINGZC_ENGINE names no engine.
    """
    to = None if host is None else route.find_route(host)
    engine, engines, details, arena = _try_engines()
    not_framed, frame_segments, frames = _try_frames(to)
    engines |= not_framed
    limits = _limits(arena, frame_segments)
    if engine == "io_uring":
        details += _missing_features(features())
    details += _limit_reasons(engine, limits)
    details += to.reasons() if to else ()
    offered = None if engines["io_uring"] else features()
    return Capabilities(engine, engines, details, offered, limits, to, frames)


def _try_engines() -> tuple[str, dict[str, Reason | None], tuple[Reason, ...], int]:
    """What "auto" is, why each engine does not work, the details, and bytes of an arena that were registered.

    All with one ring: the kernel uncharges a ring's locked memory only some time after its end.
    """
    known: dict[str, Reason | None] = {}
    details: tuple[Reason, ...] = ()
    engine, arena = "none", 0
    if auto() != "auto":
        text = f"URINGZC_ENGINE in the environment says {auto()}"
        details = (Reason("environment", text, "unset URINGZC_ENGINE"),)
    try:
        chosen, smaller = _choose()
    except OSError as error:
        known[auto()] = reason_of(error)
        details += (reason_of(error),)
    else:
        with closing(chosen):
            memory = chosen.make_arena(ARENA).memory
        engine, arena = chosen.name, memory.length if memory.buffer >= 0 else 0
        known.update({**chosen.passed_over, engine: None})
        details += (*chosen.passed_over.values(), *smaller)
    engines = {name: known[name] if name in known else _why_not(name) for name in ENGINES}
    return engine, engines, details, arena


def _choose() -> tuple[Engine, tuple[Reason, ...]]:
    """What "auto" is for a UdpSender; and why not for a Scheduler, whose ring is larger."""
    try:
        for_scheduler = _open("auto", _SCHEDULER)
        refused = for_scheduler.passed_over.get("io_uring")
        if refused is None or refused.name != "memlock":
            return for_scheduler, ()
        for_scheduler.close()
    except OSError as error:
        refused = reason_of(error)
    chosen = _open("auto", MAX_INFLIGHT)
    if chosen.name != "io_uring":
        return chosen, ()
    text, fix = f"a Scheduler gets no ring: {refused.text}", f"Scheduler(max_inflight={MAX_INFLIGHT})"
    return chosen, (Reason("memlock_ring", text, fix),)


def _open(name: str, max_inflight: int) -> Engine:
    return choose(name, max_inflight, COMPLETIONS["none"], False)


def _why_not(name: str) -> Reason | None:
    try:
        _open(name, MAX_INFLIGHT).close()
    except OSError as error:
        return reason_of(error)
    return None


def _try_frames(
    to: Route | None,
) -> tuple[dict[str, Reason | None], int, dict[str, FramePath]]:
    """Of the engines that send frames: why each does not work, the longest train, the paths to the host.

    "auto" never picks one, so none of this is a detail.
    """
    refused: dict[str, Reason | None] = {}
    found: dict[str, FramePath] = {}
    segments = 0
    for name in FRAME_ENGINES:
        try:
            with closing(_open(name, MAX_INFLIGHT)) as engine:
                segments = max(segments, engine.max_segments())
                if to:
                    found[name] = find_frame_path(engine, to)
            refused[name] = None
        except OSError as error:
            refused[name] = reason_of(error)
        except ModuleNotFoundError:
            text = f"the engine {name} finds routes by pyroute2, which is not installed"
            refused[name] = Reason("pyroute2", text, "pip install 'uringzc[packet]'")
    return refused, segments, found


def _limits(arena: int, frame_segments: int) -> Limits:
    optmem, locked = sysctl("net.core.optmem_max"), memlock()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sndbuf = make_room(sock, room_for(ARENA, MAX_INFLIGHT))
    return Limits(
        segments=max_segments(),
        frame_segments=frame_segments,
        memlock=locked,
        memlock_sends=None if locked is None else locked // (2 * _PAGE),
        arena=arena,
        sndbuf=sndbuf,
        wmem_max=sysctl("net.core.wmem_max"),
        optmem_max=optmem,
        optmem_sends=None if optmem is None else optmem // notification_size(),
    )


def _missing_features(offered: Features) -> tuple[Reason, ...]:
    """What io_uring has on later kernels, and not here."""
    missing = []
    if not offered.report_usage:
        text = "the kernel does not say whether it copied: `copied` is None"
        missing.append(Reason("report_usage", text, "run Linux 6.2 or later"))
    if not offered.sendmsg_zc:
        text = "this kernel has no IORING_OP_SENDMSG_ZC: what needs a control message is copied"
        missing.append(Reason("sendmsg_zc", text, "run Linux 6.1 or later"))
    elif not offered.fixed_message:
        text = "SENDMSG_ZC takes no registered memory: trains on a shared socket are pinned at each send"
        missing.append(Reason("fixed_message", text, "run Linux 6.15 or later"))
    return tuple(missing)


def _limit_reasons(engine: str, limits: Limits) -> tuple[Reason, ...]:
    """The limits that are lower than what a UdpSender asks for."""
    found = []
    memory, arena = limits.memlock, f"the {ARENA >> 10} KiB of an arena"
    limit = "" if memory is None else f": RLIMIT_MEMLOCK is {memory >> 10} KiB per user"
    if engine == "io_uring" and limits.arena < ARENA:
        given = f"only {limits.arena >> 10} KiB" if limits.arena else "nothing"
        found.append(Reason("memlock", f"of {arena} {given} can be registered{limit}", MEMLOCK_FIX))
    if engine == "msg_zerocopy" and memory is not None and memory < ARENA:
        sends = counted(limits.memlock_sends or 0, "send")
        text = f"at most {memory >> 10} KiB, in at most {sends}, can be in flight without a copy{limit}"
        if not limits.memlock_sends:
            text = f"too little memory may be locked for one send, so every send is copied{limit}"
        found.append(Reason("memlock", text, MEMLOCK_FIX))
    optmem = limits.optmem_max
    if engine == "msg_zerocopy" and optmem is not None and optmem < _OPTMEM:
        text = f"net.core.optmem_max is {optmem}: {limits.optmem_sends} sends of a socket can be in flight"
        found.append(Reason("optmem_max", text, f"sysctl net.core.optmem_max={_OPTMEM}"))
    wanted = room_for(ARENA, MAX_INFLIGHT)
    if limits.sndbuf < wanted:
        text = (
            f"SO_SNDBUF gets {limits.sndbuf >> 10} of {wanted >> 10} KiB, "
            f"net.core.wmem_max is {limits.wmem_max}: less can be in flight"
        )
        found.append(Reason("wmem_max", text, f"sysctl net.core.wmem_max={wanted // 2}"))
    return tuple(found)
