"""Seccomp filters and limits that a child process sets for itself, and what the library then reports there.

A child calls these before anything else, and ends with ``report()``, whose JSON the tests read.
"""

import ctypes
import errno
import json
import os
import platform
import resource
import socket
import struct
from collections.abc import Callable
from typing import Any

import uringzc
from uringzc.engines.choose import ENGINES

IO_URING_SETUP, IO_URING_ENTER, IO_URING_REGISTER = 425, 426, 427
SETSOCKOPT = {"x86_64": 54, "aarch64": 208}.get(platform.machine(), -1)
GETSOCKOPT = {"x86_64": 55, "aarch64": 209}.get(platform.machine(), -1)
EPOLL_CTL = {"x86_64": 233, "aarch64": 21}.get(platform.machine(), -1)
IORING_REGISTER_PROBE, SO_ZEROCOPY = 8, 60
NOBODY = 65534
_libc = ctypes.CDLL(None, use_errno=True)


def forbid(call: int, error: int, argument: int | None = None, value: int = 0) -> None:
    """A seccomp filter that answers a system call with `error`; only where the argument has that value."""
    load, equal, answer = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K of <linux/bpf_common.h>
    tests = [(call, 0)] + ([(value, 16 + 8 * argument)] if argument is not None else [])
    program = b""
    for left, (wanted, offset) in zip(reversed(range(len(tests))), tests, strict=True):
        program += struct.pack("=HBBI", load, 0, 0, offset)
        program += struct.pack("=HBBI", equal, 0, 2 * left + 1, wanted)
    program += struct.pack("=HBBI", answer, 0, 0, 0x00050000 | error)  # SECCOMP_RET_ERRNO
    program += struct.pack("=HBBI", answer, 0, 0, 0x7FFF0000)  # SECCOMP_RET_ALLOW
    held = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(held))  # struct sock_fprog
    assert _libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert _libc.prctl(22, 2, described, 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def forbid_rings(error: int = errno.EPERM) -> None:
    """As the profiles of containers do."""
    forbid(IO_URING_SETUP, error)


def forbid_zerocopy() -> None:
    """As a kernel before 4.14 has it."""
    forbid(SETSOCKOPT, errno.ENOPROTOOPT, 2, SO_ZEROCOPY)


def become_nobody(memlock: int = 8 << 20) -> None:
    """Without privileges, and with that limit for locked memory.

    As a user that nobody else is: the kernel counts what a user has locked in all processes, and goes on
    for some time after a ring has ended.
    """
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (memlock, memlock))
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(20000 + os.getpid() % 40000)


def refused(engine: str) -> list[Any] | None:
    """The errno and the text of opening it; None if it opens."""
    try:
        uringzc.Scheduler(engine=engine).close()
    except OSError as error:
        return [error.errno, error.strerror]
    return None


def _receiver() -> socket.socket:
    rx = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    rx.bind(("127.0.0.1", 0))
    rx.settimeout(10)
    return rx


def probe() -> Any:
    """What probe() says, for programs and for people."""
    found = uringzc.probe()
    return found.as_dict() | {"str": str(found)}


def errors() -> Any:
    """What forced engines say."""
    return {name: refused(name) for name in ENGINES}


def scheduler() -> str:
    """The engine of one that sends a datagram."""
    with _receiver() as rx, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tx:
        tx.connect(rx.getsockname())
        with uringzc.Scheduler() as opened:
            opened.send(tx, b"by a scheduler", flush=True)
            opened.drain()
            assert len(opened.reap_notifications()) == 1
            assert rx.recv(100) == b"by a scheduler"
            return opened.engine


def sender() -> list[str]:
    """The engine of one that sends two datagrams, and what it says of itself."""
    with _receiver() as rx, uringzc.UdpSender(rx.getsockname()) as opened:
        said = [opened._engine.name, opened.explain()]
        opened.send_many([b"by a sender"] * 2)
        opened.drain()
        assert [rx.recv(100), rx.recv(100)] == [b"by a sender"] * 2
        return said


def report(*parts: Callable[[], Any]) -> None:
    """Prints what these say, or all four."""
    found = {part.__name__: part() for part in parts or (probe, errors, scheduler, sender)}
    print(json.dumps(found), flush=True)
