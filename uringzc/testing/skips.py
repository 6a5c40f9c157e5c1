"""Skips that say why: what a test needs, whether it is to be had here, and what would change that."""

from __future__ import annotations

import functools
import socket
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

from uringzc.kernel.features import SO_ZEROCOPY, features
from uringzc.testing.devices import FAR, NEAR, bring_up
from uringzc.testing.sandboxes import Sandbox

if TYPE_CHECKING:
    import pytest

_AF_XDP = 44


def requires(capability: str) -> pytest.MarkDecorator:
    """A pytest mark, for a test, a class or `pytestmark`: skip it, and say what is `missing`."""
    import pytest

    reason = missing(capability)
    return pytest.mark.skipif(reason is not None, reason=reason or "")


@functools.cache
def missing(capability: str) -> str | None:
    """Why a test that needs `capability` cannot run here, and what would change that; None if it can.

    net_admin: sandboxes; io_uring; send_zc: its zero-copy send; msg_zerocopy; net_raw: packet sockets, in
    sandboxes; af_xdp: AF_XDP sockets there; unprivileged: becoming the user nobody.
    """
    tried = {
        "net_admin": _no_network,
        "io_uring": _no_ring,
        "send_zc": _no_send_zc,
        "msg_zerocopy": _no_msg_zerocopy,
        "net_raw": lambda: _no_socket(socket.AF_PACKET, "packet sockets"),
        "af_xdp": lambda: _no_socket(_AF_XDP, "AF_XDP sockets"),
        "unprivileged": _no_nobody,
    }
    if capability not in tried:
        raise ValueError(f"unknown capability {capability!r}: there are {', '.join(tried)}")
    return tried[capability]()


def _no_network() -> str | None:
    try:
        with closing(Sandbox()) as box:
            box.run(lambda: bring_up(box.device, NEAR, FAR, kind="veth", peer="veth1"))
    except PermissionError as error:
        return error.strerror
    except ImportError:
        return "needs pyroute2: pip install 'uringzc[testing]'"
    return None


def _no_socket(family: int, what: str) -> str | None:
    if (reason := _no_network()) is not None:
        return reason
    with closing(Sandbox()) as box:
        try:
            box.socket(family, socket.SOCK_RAW).close()
        except PermissionError:
            return f"needs CAP_NET_RAW for {what}: run as root, or under `unshare --map-root-user`"
        except OSError as error:
            return f"needs {what}, which this kernel does not have: {error.strerror}"
    return None


def _no_msg_zerocopy() -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
        except OSError as error:
            return f"SO_ZEROCOPY of a UDP socket (Linux 5.0): {error.strerror}"
    return None


def _no_ring() -> str | None:
    try:
        features()
    except OSError as error:
        return error.strerror
    return None


def _no_send_zc() -> str | None:
    return _no_ring() or (None if features().send_zc else "needs io_uring's SEND_ZC: run Linux 6.0 or later")


def _no_nobody() -> str | None:
    become = "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534)"
    try:
        tried = subprocess.run([sys.executable, "-c", become], stderr=subprocess.DEVNULL, check=False)
    except OSError as error:
        return f"needs to start {sys.executable}: {error.strerror}"
    return "needs to become the user nobody: run as root" if tried.returncode else None
