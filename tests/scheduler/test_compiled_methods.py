"""Compiled methods are methods of their class: documented, overridable, and bound ones keep their object."""

import gc
import inspect
import pydoc
from typing import Any

import pytest
from conftest import Pair

import uringzc
from uringzc import Ring, Scheduler, TcpSender, UdpSender
from uringzc.engines import lifetime

# ruff: noqa: PT031 - what is to be warned of comes at the end of what leads to it


def test_a_bound_method_keeps_its_sender(udp_pair: Pair) -> None:
    send = UdpSender(sock=udp_pair.tx, max_delay=None).send
    gc.collect()
    assert send(b"x") == 1
    with pytest.warns(ResourceWarning, match="not closed"):
        del send
        gc.collect()
    assert udp_pair.receive(1) == [b"x"]
    lifetime.release_parked()


def test_a_bound_method_keeps_its_scheduler(udp_pair: Pair) -> None:
    send = Scheduler().send
    gc.collect()
    send(udp_pair.tx, b"x", flush=True)
    with pytest.warns(ResourceWarning, match="not closed"):
        del send
        gc.collect()
    lifetime.release_parked()
    assert udp_pair.receive(1) == [b"x"]


def test_a_bound_method_keeps_its_tcp_sender(tcp_pair: Pair) -> None:
    send = TcpSender(tcp_pair.tx).send
    gc.collect()
    assert send(b"x") == 1
    with pytest.warns(ResourceWarning, match="not closed"):
        del send
        gc.collect()
    lifetime.release_parked()
    assert tcp_pair.rx.recv(10) == b"x"


@pytest.mark.engines
@pytest.mark.parametrize(
    ("method", "signature", "words"),
    [
        (UdpSender.send, "(self, /, data, to=None)", "0 bytes are a datagram"),
        (UdpSender.sendto, "(self, /, data, *address)", "flags"),
        (UdpSender.lease, "(self, size, /)", "registered memory"),
        (TcpSender.send, "(self, data, /)", "accepted all of it"),
        (TcpSender.send_buffers, "(self, buffers, /)", "one after the other"),
        (
            Scheduler.send,
            "(self, /, sock, data, *, offset=0, length=None, to=None, segment=0, ",
            "Queues one send",
        ),
        (Scheduler.send_run, "(self, /, sock, region, size, count, stride=None, ", "in one: request i has"),
        (Scheduler.flush, "(self, /, slot)", "Detaches the slot's notifier"),
        (Scheduler.submit, "(self, /)", "takes every result there is"),
        (Scheduler.reap_completions, "(self, /, wait=0, timeout=None)", "blocks until that many"),
        (Scheduler.reap_notifications, "(self, /, wait=0, timeout=None)", "memory that is free again"),
        (Ring.send, "(self, /, sock, data, *, offset=0, length=None, to=None, ", "copying send"),
        (Ring.send_zc, "(self, /, sock, data, *, offset=0, length=None, to=None, ", "zero-copy send"),
        (Ring.submit, "(self, /, wait=0, timeout=None)", "io_uring_submit_and_wait_timeout"),
        (Ring.reap, "(self, /)", "All CQEs there are"),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_help_shows_signature_and_docstring(method: Any, signature: str, words: str) -> None:
    assert str(inspect.signature(method)).startswith(signature)
    assert words in pydoc.render_doc(method)
    assert words in method.__doc__


def test_a_subclass_can_override_a_compiled_method(udp_pair: Pair) -> None:
    class Numbered(UdpSender):
        count = 0

        def send(self, data: Any, to: Any = None) -> int:
            self.count += 1
            return super().send(b"%d " % self.count + data, to)

    with Numbered(udp_pair.rx.getsockname()) as tx:
        assert tx.send(b"x") == 3
        tx.send(b"y")
    assert udp_pair.receive(2) == [b"1 x", b"2 y"]


@pytest.mark.engines
def test_an_object_without_init_is_refused() -> None:
    for kind in (UdpSender, TcpSender, Scheduler, Ring):
        with pytest.raises(RuntimeError, match="was not made"):
            kind.__new__(kind).send(b"x")  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        uringzc.UdpSender.send(object(), b"x")  # type: ignore[arg-type]
