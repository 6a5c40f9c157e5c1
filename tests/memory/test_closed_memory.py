"""Memory of a closed engine never goes out: not what is written to it later, nor what lies there then."""

import gc
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from held_memory import BareEngine, wait_for_parked
from marks import only_io_uring, zero_copy_engines
from traffic import datagram, received, stopped

import uringzc
from uringzc import testing

COUNT, SIZE = 40, 1400
SENT = [datagram(number, SIZE) for number in range(COUNT)]
Engine = uringzc.Scheduler | uringzc.UdpSender


def send_by_a_scheduler(sock: socket.socket) -> tuple[Engine, list[Any]]:
    """Half is in flight, and half only queued; half from a region, and half from memory of the program's."""
    s = uringzc.Scheduler(debug=False)
    region = s.register(SIZE * COUNT)
    views: list[Any] = []
    for number, data in enumerate(SENT):
        if number % 2:
            views.append(region.view[number * SIZE : (number + 1) * SIZE])
            views[-1][:] = data
            s.send(sock, region, offset=number * SIZE, length=SIZE)
        else:
            views.append(bytearray(data))
            s.send(sock, views[-1])
        if number == COUNT // 2:
            s.submit()
    return s, views


def send_by_a_sender(sock: socket.socket) -> tuple[Engine, list[Any]]:
    """All of it in trains that are sent from where they are."""
    s = uringzc.UdpSender(sock=sock, zero_copy="always", max_delay=None, debug=False)
    region = s.register(SIZE * COUNT)
    region.view[:] = b"".join(SENT)
    s.send_region(region, segment=SIZE)
    return s, [region.view]


def overwrite(views: list[Any]) -> None:
    for view in views:
        view[:] = b"\xff" * len(view)


@zero_copy_engines
@pytest.mark.parametrize("waits", [True, False], ids=["", "control"])
@pytest.mark.parametrize("send", [send_by_a_scheduler, send_by_a_sender])
def test_what_is_written_after_close_never_arrives(
    box: testing.Hold,
    tx: socket.socket,
    rx: socket.socket,
    send: Callable[[socket.socket], tuple[Engine, list[Any]]],
    waits: bool,
) -> None:
    """close() waits for the kernel. In the control it does not, and says so with a warning."""
    with stopped(box), uringzc.Scheduler(max_inflight=8) as other:
        s, views = send(tx)
        fileno = s.fileno()
        releasing = threading.Thread(target=box.release)
        if waits:
            releasing.start()
            s.close(timeout=60)
        else:
            with pytest.warns(ResourceWarning, match="parked"):
                s.close(timeout=0)
        overwrite(views)
        if not waits:
            releasing.start()
            wait_for_parked(fileno, other)
        releasing.join()
    assert (received(rx, COUNT) == SENT) == waits


@zero_copy_engines
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("send", [send_by_a_scheduler, send_by_a_sender])
def test_memory_that_only_a_closed_engine_has_is_not_used_for_anything_else(
    box: testing.Hold,
    tx: socket.socket,
    rx: socket.socket,
    send: Callable[[socket.socket], tuple[Engine, list[Any]]],
) -> None:
    """The program has dropped it, and what it allocates then would lie there."""
    with uringzc.Scheduler(max_inflight=8) as other:
        with stopped(box):
            s, views = send(tx)
            fileno = s.fileno()
            s.close(timeout=0)
            views.clear()
            del s
            gc.collect()
            garbage = [bytearray(b"\xff" * SIZE) for _ in range(1000)]
        wait_for_parked(fileno, other)
    assert received(rx, COUNT) == SENT
    del garbage


@only_io_uring
def test_control_memory_that_nobody_holds_is_used_again(
    box: testing.Hold, tx: socket.socket, rx: socket.socket
) -> None:
    engine = BareEngine()
    with stopped(box):
        held = [bytearray(data) for data in SENT]
        for data in held:
            engine.send(tx, data)
        engine.submit()
        held.clear()
        garbage = [bytearray(b"\xff" * SIZE) for _ in range(1000)]
    assert received(rx, COUNT) != SENT
    del garbage
    engine.exit()
