"""An interrupt in what makes or closes an engine leaves nothing open: no ring, no descriptor, no memory."""

import gc
import os
from typing import Any

import pytest
from conftest import Pair

import uringzc
from uringzc.engines import lifetime
from uringzc.engines.base import Engine
from uringzc.engines.choose import choose as choose_engine


def descriptors() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except OSError:  # the one that reads the folder
            continue
    return found


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("where", "name"), [(lifetime, "track"), (Engine, "_path_finder")])
def test_an_interrupted_constructor_leaves_no_descriptor(
    where: object, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uringzc.Scheduler().close()
    before = descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(where, name, interrupt)
        with pytest.raises(KeyboardInterrupt):
            uringzc.Scheduler()
    gc.collect()
    assert descriptors() == before


def test_an_engine_that_nobody_received_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interrupt comes when the constructor of the engine has returned."""
    uringzc.Scheduler().close()
    before = descriptors()

    def choose(*args: Any, **options: Any) -> None:
        interrupt(choose_engine(*args, **options))

    with monkeypatch.context() as patch:
        patch.setattr("uringzc.scheduler.choose", choose)
        with pytest.raises(KeyboardInterrupt):
            uringzc.Scheduler()
    gc.collect()
    assert descriptors() == before


def test_an_interrupt_that_cuts_close_short_loses_no_engine(
    monkeypatch: pytest.MonkeyPatch, udp_pair: Pair
) -> None:
    """The sender counts as closed, and its engine was not: the owner's next call ends it."""
    uringzc.UdpSender(sock=udp_pair.tx).close()
    before = descriptors()
    tx = uringzc.UdpSender(sock=udp_pair.tx)
    tx.send(b"data")
    tx.drain()
    with monkeypatch.context() as patch:
        patch.setattr(uringzc.UdpSender, "_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            tx.close()
    del tx
    gc.collect()
    lifetime.release_parked()
    assert lifetime.parked() == []
    assert descriptors() == before


def test_what_an_interrupt_has_kept_open_is_not_discarded(udp_pair: Pair) -> None:
    """That would raise an error of its own in place of the interrupt."""
    with uringzc.UdpSender(sock=udp_pair.tx) as tx:
        tx._discard()
