"""Snapshots of what a sender has done, and explain(): what it does, and why, in sentences."""

import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from uringzc.calibration import saved
from uringzc.calibration.saved import Calibration
from uringzc.errors import counted
from uringzc.records import explained, renamed, snapshot
from uringzc.senders.pacing import Pacing
from uringzc.senders.udp_slow_path import UdpSlowPath

if TYPE_CHECKING:
    from uringzc._send import Arena, TcpStream, UdpBatcher
    from uringzc.engines.base import Engine


@dataclass(frozen=True)
@explained
class UdpStats:
    """What a UdpSender has done up to a moment."""

    datagrams: Annotated[int, "datagrams that it took"]
    nbytes: Annotated[int, "bytes of those"]
    waiting: Annotated[int, "datagrams taken, and not yet submitted"]
    waiting_for: Annotated[
        str,
        'what those wait for: "max_delay", or "flush" if there is none; "room" in the socket\'s buffer; '
        '"arrival" of the first datagram to their destination; "memory" that the kernel still holds; the '
        '"rate" that was asked for; or "", if none waits',
    ]
    trains: Annotated[
        dict[int, int],
        "trains (GSO batches) and single datagrams that the kernel has taken, by length: under 1, 2, 4, ... "
        "128 those that had so many datagrams, or more, but fewer than the next of these numbers",
    ] = field(hash=False)
    mean_train: Annotated[float, "datagrams of those, on average; 0.0 before the first"]
    requests: Annotated[
        int, "requests submitted through the engine: trains (GSO batches), and single datagrams"
    ]
    syscalls: Annotated[int, "system calls: for single datagrams, what the timer sent, what was sent again"]
    zero_copy: Annotated[int, "requests sent zero-copy whose memory is free again"]
    copied: Annotated[int, "of those requests, copied by the kernel after all"]
    in_flight: Annotated[int, "requests whose memory the kernel may still read"]
    destinations: Annotated[int, "destinations that were sent to"]
    copying: Annotated[int, 'of those, where zero_copy="auto" has found that a copy is better']
    resent: Annotated[int, "datagrams sent again after a failure"]
    reordered: Annotated[int, "datagrams that had overtaken one that was sent again"]
    lost: Annotated[int, "datagrams given up, each with a SendError"]
    unsegmented: Annotated[int, "times that a destination could not take a train"]
    waits: Annotated[int, "times that a call waited for the network, or for memory"]
    waited_for: Annotated[dict[str, int], 'for what: "room", "arrival", "memory" or "rate"'] = field(
        hash=False
    )
    sndbuf: Annotated[int, "bytes of SO_SNDBUF that were granted, as the kernel counts them"]

    bytes = renamed("bytes", "nbytes")
    plain = renamed("plain", "syscalls")


def udp_stats(batcher: "UdpBatcher", slow_path: UdpSlowPath) -> UdpStats:
    """The sender's numbers at this moment."""
    trains, waited_for = batcher.trains, batcher.waited_for
    return snapshot(
        UdpStats,
        batcher,
        waiting_for=_waiting_for(batcher),
        trains=trains,
        mean_train=_mean_train(batcher, trains),
        waits=sum(times for name, times in waited_for.items() if name != "rate"),
        waited_for=waited_for,
        zero_copy=batcher.settled,
        copying=slow_path.copying if slow_path.mode == "auto" else 0,
        resent=slow_path.resent,
        lost=slow_path.lost,
        unsegmented=slow_path.split,
        sndbuf=_sndbuf(slow_path.sock),
    )


def _mean_train(batcher: "UdpBatcher", trains: dict[int, int]) -> float:
    count = sum(trains.values())
    return batcher.left / count if count else 0.0


def _waiting_for(batcher: "UdpBatcher") -> str:
    if not batcher.waiting:
        return ""
    return batcher.waiting_for or ("max_delay" if batcher.max_delay > 0 else "flush")


def explain(
    engine: "Engine",
    batcher: "UdpBatcher",
    slow_path: UdpSlowPath,
    arena: "Arena",
    pacing: Pacing | None,
) -> str:
    """What the sender does, and why."""
    count = engine.max_segments()
    no_trains = "its frames are single datagrams" if engine.sends_frames else "this kernel has no UDP_SEGMENT"
    trains = f"trains of up to {count} datagrams" if count > 1 else f"no trains: {no_trains}"
    sentences = [
        f"{engine.name}, {trains}",
        *(f"Not better, because {reason.text}" for reason in engine.passed_over.values()),
        *(_frames(engine, slow_path.sock) if engine.sends_frames else _copies(engine, batcher, slow_path)),
        f"Datagrams are collected in {_memory(engine, arena)}",
    ]
    if why := engine.why_copied(slow_path.sock):
        sentences.insert(-1, f"Now all of them are copied, because {why}")
    if pacing:
        sentences.append(f"Paced to {pacing}")
    if engine.limitation:
        sentences.append(engine.limitation)
    if batcher.no_timer:
        sentences.append(
            "There is no timer, since no thread can be started (RLIMIT_NPROC, or a limit of the cgroup's "
            "pids): what has waited for max_delay is sent by the next call"
        )
    if slow_path.split:
        sentences.append(f"{counted(slow_path.split, 'time')} a destination could not take a train")
    sentences += _trains(batcher) + _waits(batcher)
    if batcher.syscalls > batcher.requests:
        sentences.append("Most were sent by system calls: single datagrams, or what had waited for max_delay")
    if sndbuf := _sndbuf(slow_path.sock):
        sentences.append(f"SO_SNDBUF is {sndbuf >> 10} KiB")
    return ". ".join(sentences) + "."


def _frames(engine: "Engine", sock: socket.socket) -> list[str]:
    """What the frames go around, and what leaves through the socket instead."""
    through = engine.through_socket(sock) if sock.fileno() >= 0 else {}
    return [
        "Datagrams leave as Ethernet frames, which go around what the kernel does for a socket: netfilter "
        "(nftables, iptables), IPsec policies, SO_MARK, BPF programs of the cgroup, the accounting of its "
        "send buffer",
        *(f"{counted(count, 'destination')} through the socket: {why}" for why, count in through.items()),
    ]


def _trains(batcher: "UdpBatcher") -> list[str]:
    trains = batcher.trains
    total = sum(trains.values())
    if not total:
        return []
    lengths = ", ".join(
        f"{trains[least]} of {least if least == 1 else f'{least} to {2 * least - 1}'}"
        for least in trains
        if trains[least]
    )
    return [
        f"Sent to {counted(batcher.destinations, 'destination')}: {counted(total, 'train')}, of "
        f"{_mean_train(batcher, trains):.1f} datagrams on average ({lengths})"
    ]


#: what is waited for, as `UdpStats.waiting_for` and `waited_for` name it
_WAITS = {
    "max_delay": "max_delay, in which more may gather",
    "flush": "a flush, since there is no max_delay",
    "room": "room in the socket's buffer (SO_SNDBUF)",
    "arrival": "the first datagram to their destination to arrive",
    "memory": "memory, or requests, that the kernel still holds",
    "rate": "the rate that was asked for",
}


def _waits(batcher: "UdpBatcher") -> list[str]:
    sentences = []
    waited = {name: times for name, times in batcher.waited_for.items() if times}
    if waited:
        causes = ", ".join(f"{counted(times, 'time')} for {_WAITS[name]}" for name, times in waited.items())
        sentences.append(f"Calls have waited: {causes}")
    if why := _waiting_for(batcher):
        sentences.append(f"Waiting for {_WAITS[why]}: {counted(batcher.waiting, 'datagram')}")
    return sentences


def _copies(engine: "Engine", batcher: "UdpBatcher", slow_path: UdpSlowPath) -> list[str]:
    if engine.name == "copy":
        return ["Each request is copied: this engine does nothing else"]
    if slow_path.mode == "always":
        return ["Each request is zero-copy, as asked"]
    if slow_path.mode == "never":
        return ["Each request is copied, as asked"]
    destinations = slow_path.calibrated
    sentences = [_measured(one) for one in destinations if one]
    never = sum(count for one, count in destinations.items() if one and not one.min_zero_copy)
    if copying := slow_path.copying - never:
        sentences.append(_kernel_copies(copying, batcher))
    elif not sentences or None in destinations:
        sentences.append(_not_measured(engine, batcher))
    ignored = saved.load()
    if ignored.problem:
        sentences.append(f"The calibration in {ignored.path} is ignored: {ignored.problem}")
    return sentences


def _measured(one: Calibration) -> str:
    measured = f"Measured {one.date} on {one.interface} (uringzc calibrate): zero-copy"
    if not one.min_zero_copy:
        return f"{measured} never pays, so all requests by it are copied"
    return f"{measured} from {one.min_zero_copy:,} bytes of a request; smaller ones are copied"


def _kernel_copies(copying: int, batcher: "UdpBatcher") -> str:
    return (
        f"The kernel would copy what goes to {copying} of "
        f"{counted(batcher.destinations, 'destination')} (loopback, a device without checksum offload, a "
        "packet capture): copies are sent there, and zero-copy is tried again from time to time"
    )


def _not_measured(engine: "Engine", batcher: "UdpBatcher") -> str:
    are = "are zero-copy"
    if not batcher.settled:  # no notification has said yet whether the kernel copies
        are = "are tried zero-copy first, and sent as copies where the kernel copies anyway"
    return (
        f"Requests of {engine.min_zero_copy} bytes and more {are}; smaller ones, and datagrams above the "
        "MTU, are copied, which is faster"
    )


def _memory(engine: "Engine", arena: "Arena") -> str:
    memory = arena.memory
    refused = engine.name == "io_uring" and memory.buffer < 0
    registered = ", not registered (see RLIMIT_MEMLOCK), which costs some speed" if refused else ""
    if engine.sends_frames:
        registered = ", which are frames of the ring: they leave from there"
    return f"an arena of {memory.length >> 10} KiB{registered}"


def _sndbuf(sock: socket.socket) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) if sock.fileno() >= 0 else 0


@dataclass(frozen=True)
@explained
class TcpStats:
    """What a TcpSender has done up to a moment."""

    sends: Annotated[int, "calls of send and send_buffers"]
    nbytes: Annotated[int, "bytes that the kernel has accepted"]
    syscalls: Annotated[int, "system calls that copied"]
    requests: Annotated[int, "zero-copy requests, queued in the engine"]
    zero_copy: Annotated[int, "of those, whose memory is free again"]
    copied: Annotated[int, "of those that are free, copied by the kernel after all, as far as it says"]
    in_flight: Annotated[int, "requests whose memory the kernel may still read"]
    waits: Annotated[int, "times that a call waited until the socket took more"]
    copying: Annotated[bool, "everything is copied: found to be better, asked for, or the only way"]
    sndbuf: Annotated[int, "bytes of SO_SNDBUF, as the kernel counts them"]

    bytes = renamed("bytes", "nbytes")
    plain = renamed("plain", "syscalls")


def tcp_stats(stream: "TcpStream", sock: socket.socket, copying: bool) -> TcpStats:
    """The stream's numbers at this moment."""
    copying = copying or stream.copy_only
    return snapshot(TcpStats, stream, zero_copy=stream.settled, copying=copying, sndbuf=_sndbuf(sock))


def stream_explain(engine: str, stream: "TcpStream", why: str, mode: str, copying: bool, size: int) -> str:
    """What a TcpSender does, and why. `why`: the socket cannot send zero-copy."""
    if stream.copy_only:
        why = why or "the kernel refused to (EOPNOTSUPP)"
        return f"{engine}: everything is copied by system calls, since zero-copy is not possible: {why}."
    if mode == "never":
        return f"{engine}: everything is copied by system calls, as asked."
    if mode == "always":
        return f"{engine}: what cannot change is sent zero-copy, as asked; the rest is copied."
    if copying:
        return (
            f"{engine}: everything is copied by system calls, since the kernel copied zero-copy sends too "
            "(loopback, a device without checksum offload, a packet capture); zero-copy is tried again from "
            "time to time."
        )
    return (
        f"{engine}: bytes objects of {size >> 10} KiB and more are sent zero-copy, from where they are; "
        "smaller ones, and what can change, are copied by system calls."
    )
