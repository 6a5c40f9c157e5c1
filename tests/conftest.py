"""Sockets and sandboxes to test with, and what is asserted after every test: that nothing is left behind."""

import gc
import os
import select
import socket
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import hypothesis
import pytest
from processes import child_pids, default_signals, kill_children
from sharing import machine
from traffic import one_processor

from uringzc import testing
from uringzc._uring import ffi, lib
from uringzc.calibration import saved
from uringzc.engines import lifetime
from uringzc.engines.base import Engine
from uringzc.notif import Slots
from uringzc.senders import timer
from uringzc.testing.devices import FAR

if TYPE_CHECKING:
    from cells import Cell

pytest_plugins = ["aio_fixtures", "frame_paths", "seam"]

hypothesis.settings.register_profile("default", derandomize=True, deadline=None, database=None)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=2000)
hypothesis.settings.load_profile("default")  # --hypothesis-profile=explore looks further


def pytest_configure(config: pytest.Config) -> None:
    default_signals()
    for name in ("FORCE_COLOR", "NO_COLOR", "PYTHON_COLORS", "COLUMNS", "LINES"):
        os.environ.pop(name, None)  # tests read what programs print
    os.environ[saved.VARIABLE] = ""  # not what this machine has measured
    for name in ("CI", "BUILD_NUMBER"):
        os.environ.pop(name, None)  # or pytest compares all of what fails as expected: minutes


#: what an engine's tests need; the others work everywhere
ENGINES = {"io_uring": "send_zc", "msg_zerocopy": "msg_zerocopy", "copy": ""}
#: of engines that only a mark names: they need a network of their own
FRAME_ENGINES = {"packet": "net_raw", "af_xdp": "af_xdp"}


def pytest_collection_finish() -> None:
    """What was collected lives to the end: no gc.collect() of a test has to look at it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def frozen_again() -> None:
    """Nor at what was imported, cached and reported since then."""
    pytest_collection_finish()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test runs on every engine: on each of those that its mark names, if it has one."""
    marker = metafunc.definition.get_closest_marker("engines")
    names = marker.args if marker else tuple(ENGINES)
    if not names:
        return
    capabilities = {name: {**ENGINES, **FRAME_ENGINES}[name] for name in names}
    needs = {name: testing.requires(what) if what else () for name, what in capabilities.items()}
    metafunc.parametrize("engine", [pytest.param(name, marks=needs[name]) for name in names], indirect=True)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test marked `alone` waits for those of other processes, and they for it; no timeout counts that."""
    if not hasattr(item.config, "workerinput"):  # there are none
        return (yield)
    with machine(alone=item.get_closest_marker("alone") is not None):
        return (yield)


@pytest.fixture(autouse=True)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """The engine that "auto" stands for in this test, and in the processes that it starts."""
    name: str | None = getattr(request, "param", None)
    if name:
        monkeypatch.setenv("URINGZC_ENGINE", name)
    return name


@pytest.fixture(autouse=True)
def no_child_left() -> Iterator[None]:
    """No program that the test started outlives it, however it ended."""
    before = child_pids()
    yield
    assert kill_children(but=before) == []


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing in flight, no engine parked or open, no reference held, no completion that matched nothing."""
    made: list[Slots] = []  # slots outlive their engine, and do not keep it
    track = lifetime.track

    def track_here(engine: Engine) -> None:
        made.append(engine.slots)
        track(engine)

    monkeypatch.setattr(lifetime, "track", track_here)
    threads: set[threading.Thread | None] = set(threading.enumerate())
    yield
    threads.add(timer._thread)  # the one of the process stays
    assert [thread for thread in threading.enumerate() if thread not in threads] == []
    if request.node.get_closest_marker("parks"):
        return
    lifetime.release_parked()
    assert lifetime.parked() == []
    assert [engine for engine in lifetime._living if not engine.closed] == []
    for slots in made:
        stats = slots.stats()
        assert (stats.in_flight, stats.held, stats.open) == (0, 0, 0)
        assert stats.stray == 0 or request.node.get_closest_marker("strays")
        assert not lib.uzc_slots_release(slots.pointer, ffi.new("void **"), ffi.new("void **"))


@pytest.fixture
def calibration_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where senders of this process look for calibrations, during the test: there is none yet."""
    path = tmp_path / "calibration.json"
    monkeypatch.setenv(saved.VARIABLE, str(path))
    saved.load.cache_clear()
    yield path
    saved.load.cache_clear()


@pytest.fixture
def cell(request: pytest.FixtureRequest) -> "Iterator[Cell]":
    """What has to hold in each cell of the fault matrix: see tests/faults/cells.py."""
    from cells import watched

    failed = request.session.testsfailed
    with watched() as cell:
        yield cell
        if request.session.testsfailed == failed:  # else its variables are still there
            cell.check()


class Pair(NamedTuple):
    """Two sockets of this machine, the second with room for what the first sends."""

    tx: socket.socket
    rx: socket.socket

    def receive(self, count: int) -> list[bytes]:
        """The next datagrams; TimeoutError if they do not come."""
        return [self.rx.recv(1 << 16) for _ in range(count)]

    def empty(self) -> bool:
        """Whether nothing waits to be received."""
        return not select.select([self.rx], [], [], 0)[0]


MakePair = Callable[..., Pair]
HOSTS = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
SO_RCVBUFFORCE, SO_SNDBUFFORCE = 33, 32


def force(sock: socket.socket, option: int, size: int) -> None:
    """SO_RCVBUFFORCE or SO_SNDBUFFORCE, or what a user without privileges gets."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, option, size)
    except PermissionError:
        plain = socket.SO_RCVBUF if option == SO_RCVBUFFORCE else socket.SO_SNDBUF
        sock.setsockopt(socket.SOL_SOCKET, plain, size)


@contextmanager
def _udp(family: int = socket.AF_INET, connected: bool = True) -> Iterator[Pair]:
    with socket.socket(family, socket.SOCK_DGRAM) as rx, socket.socket(family, socket.SOCK_DGRAM) as tx:
        rx.bind((HOSTS[socket.AddressFamily(family)], 0))
        rx.settimeout(10)
        force(rx, SO_RCVBUFFORCE, 8 << 20)
        force(tx, SO_SNDBUFFORCE, 8 << 20)
        if connected:
            tx.connect(rx.getsockname())
        yield Pair(tx, rx)


@contextmanager
def _tcp(family: int = socket.AF_INET) -> Iterator[Pair]:
    with ExitStack() as stack:
        listener = stack.enter_context(
            socket.create_server((HOSTS[socket.AddressFamily(family)], 0), family=family)
        )
        listener.settimeout(10)
        tx = stack.enter_context(socket.create_connection(listener.getsockname()[:2]))
        rx = stack.enter_context(listener.accept()[0])
        rx.settimeout(10)
        yield Pair(tx, rx)


@pytest.fixture
def make_udp() -> Iterator[MakePair]:
    """Makes pairs: make_udp(family, connected)."""
    with ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(_udp(*args, **options))


@pytest.fixture
def make_tcp() -> Iterator[MakePair]:
    """Makes connections: make_tcp(family)."""
    with ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(_tcp(*args, **options))


@pytest.fixture
def udp_pair(make_udp: MakePair) -> Pair:
    """A connected UDP sender on loopback, and its receiver."""
    return make_udp()


@pytest.fixture
def tcp_pair(make_tcp: MakePair) -> Pair:
    """The two ends of a TCP connection over loopback."""
    return make_tcp()


@pytest.fixture(scope="session")
def _network() -> Iterator[testing.Hold]:
    try:
        with ExitStack() as stack:
            with one_processor():  # as the tests do: it receives on that one
                box = stack.enter_context(testing.hold())
            yield box
    except PermissionError as error:
        pytest.skip(error.strerror or "needs privileges")


def remember_neighbours(box: testing.Hold) -> None:
    """As they were made, whatever tests have forgotten: to a stale one a datagram leaves that is no frame."""
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        device = socket.if_nametoindex(box.device)
        for address in (FAR.ip, FAR.ip6):
            ip.neigh("replace", ifindex=device, dst=address, lladdr=FAR.mac, state="permanent")


@pytest.fixture
def box(_network: testing.Hold, request: pytest.FixtureRequest) -> Iterator[testing.Hold]:
    """A sandbox that delivers, until its stop(); open again after the test."""
    _network.release()
    if request.path.parent.name == "frames":
        _network.run(lambda: remember_neighbours(_network))
    with one_processor():
        yield _network
    _network.release()


@pytest.fixture
def sock(box: testing.Hold) -> Iterator[socket.socket]:
    """A socket whose datagrams `box.stop()` holds."""
    with box.receiver_socket(), box.socket() as sock:
        sock.connect(box.address)
        yield sock


@pytest.fixture
def rx(box: testing.Hold) -> Iterator[socket.socket]:
    """The receiver of what is sent to the sandbox."""
    with box.receiver_socket() as rx:
        rx.settimeout(20)
        yield rx


@pytest.fixture
def tx(box: testing.Hold) -> Iterator[socket.socket]:
    """A socket that sends to `rx`, with room for what a test stops."""
    with box.socket() as sock:
        force(sock, SO_SNDBUFFORCE, 8 << 20)
        sock.connect(box.address)
        yield sock


@pytest.fixture
def net() -> Iterator[testing.Hold]:
    """A sandbox of the test's own, whose MTU and offloads it may change."""
    with one_processor(), testing.hold() as box:
        yield box


@pytest.fixture(scope="session")
def sink() -> Iterator[testing.Sandbox]:
    """A sandbox that swallows everything, with an MTU of 1500."""
    try:
        with testing.sink() as box:
            yield box
    except PermissionError as error:
        pytest.skip(error.strerror or "needs privileges")
