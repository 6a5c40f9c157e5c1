"""Tests that are coroutines run on an event loop; datagram endpoints for them, on each kind of loop."""

import asyncio
import inspect
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from congestion import Congestion
from event_loops import KINDS, LOCAL, PATIENCE, SHORT, Endpoints, LoopKind, descriptors
from loop_differences import HAS_CONTROLS, known_difference
from traffic import wait_until

from uringzc import testing
from uringzc.engines import lifetime
from uringzc.testing.receiving import make_room

NEEDS = {"io_uring": "send_zc", "msg_zerocopy": "msg_zerocopy"}


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """A test that is a coroutine function runs on the loop of its `endpoints`, or else on asyncio's."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj) or pyfuncitem.get_closest_marker("anyio"):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    test = pyfuncitem.obj(**arguments)
    endpoints: Any = pyfuncitem.funcargs.get("endpoints")
    if endpoints is None:
        asyncio.run(asyncio.wait_for(test, PATIENCE))
    else:
        endpoints.run(test)
    return True


def _none_is_parked() -> bool:
    lifetime.release_parked()
    return lifetime.parked() == []


def loop_param(kind: LoopKind) -> Any:
    """The parameter of a test, which is skipped where the kernel lacks what the engine needs."""
    return pytest.param(
        kind, id=kind.name, marks=testing.requires(NEEDS[kind.engine]) if kind.engine in NEEDS else ()
    )


@pytest.fixture(params=[loop_param(kind) for kind in KINDS])
def endpoints(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoints]:
    """On each kind of loop. What is known to be different on a stock one has to be."""
    kind: LoopKind = request.param
    if kind.name in ("asyncio", "uvloop") and not HAS_CONTROLS:
        pytest.skip("stock loops are the control on CPython 3.11")
    if kind.engine:
        monkeypatch.setenv("URINGZC_ENGINE", kind.engine)
    case = request.node.callspec.id.replace(kind.name, "").strip("-")
    marks = [*known_difference(kind.name, request.node.originalname, case)]
    for mark in marks:
        request.applymarker(mark)
    before = descriptors()
    yield Endpoints(kind, SHORT if marks else PATIENCE)
    assert wait_until(_none_is_parked)
    if not marks:
        assert descriptors() == before


@pytest.fixture
def make_peer() -> Iterator[Callable[..., socket.socket]]:
    """Makes receivers: make_peer(address=LOCAL, family=AF_INET), with room for all that a test sends."""
    with ExitStack() as stack:

        def make(address: tuple[Any, ...] = LOCAL, family: int = socket.AF_INET) -> socket.socket:
            sock = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            make_room(sock)
            sock.setblocking(False)
            sock.bind(address)
            return sock

        yield make


@pytest.fixture
def peer(make_peer: Callable[..., socket.socket]) -> socket.socket:
    """A bound socket on loopback."""
    return make_peer()


@pytest.fixture
def congestion(box: testing.Hold, endpoints: Endpoints) -> Iterator[Congestion]:
    """A network that can be stopped, and delivers when the test has ended."""
    endpoints.before_close.append(box.release)
    with ExitStack() as stack:
        yield Congestion(box, stack)
