"""Paths are forgotten when what they rest on changes, and only then; unresolved neighbours are waited for."""

import asyncio
import errno
import math
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from frame_paths import ERROR, FRAME, PORT, SOCKET, Finder, add_route, index, link, quiet_hold, set_neighbour

from uringzc import testing
from uringzc.address import pack
from uringzc.engines import paths as paths_module
from uringzc.engines.paths import Paths
from uringzc.testing.devices import FAR
from uringzc.testing.sandboxes import Hold

pytestmark = [pytest.mark.engines(), testing.requires("net_admin")]

V4, V6 = socket.AF_INET, socket.AF_INET6
FAR4, FAR6 = (FAR.ip, PORT), (FAR.ip6, PORT)
GATEWAY, OTHER_MAC = "10.0.0.7", "02:00:00:00:00:07"
BEHIND = ("10.5.0.1", PORT)
#: seconds that nothing here takes
LONG = 20.0


@pytest.fixture
def box() -> Iterator[Hold]:
    with quiet_hold() as box:
        yield box


def both_versions(finder: Finder) -> Iterator[tuple[socket.socket, Any, tuple[int, bytes]]]:
    """A socket, an address, and the path's key in what is forgotten."""
    for family, to in ((V4, FAR4), (V6, FAR6)):
        sock = finder.new_socket(family)
        yield sock, to, (sock.fileno(), pack(family, to))


def mac_of(header: bytes) -> str:
    return header[:6].hex(":")


# -- neighbours


def test_only_paths_over_a_neighbour_that_changed_are_forgotten(box: Hold, finder: Finder) -> None:
    set_neighbour(box, GATEWAY, OTHER_MAC)
    add_route(box, dst="10.5.0.0/24", gateway=GATEWAY)
    other = finder.new_socket()
    for sock, to, key in both_versions(finder):
        set_neighbour(box, GATEWAY, OTHER_MAC)
        finder.find(sock, to)
        finder.find(other, BEHIND)
        finder.take_forgotten()
        set_neighbour(box, to[0], "02:00:00:00:00:99")
        assert finder.take_forgotten() == [key]
        assert mac_of(finder.find(sock, to).header) == "02:00:00:00:00:99"
        set_neighbour(box, GATEWAY, "02:00:00:00:00:98")
        assert finder.take_forgotten() == [(other.fileno(), pack(V4, BEHIND))]
        assert mac_of(finder.find(other, BEHIND).header) == "02:00:00:00:00:98"


def test_a_connected_path_is_forgotten_by_its_peer(box: Hold, finder: Finder) -> None:
    sock = finder.new_socket()
    sock.connect(FAR4)
    finder.find(sock)
    set_neighbour(box, FAR.ip, OTHER_MAC)
    assert finder.take_forgotten() == [(sock.fileno(), None)]


def test_a_neighbour_that_is_set_again_forgets_nothing(box: Hold, finder: Finder) -> None:
    for sock, to, _ in both_versions(finder):
        finder.find(sock, to)
        set_neighbour(box, to[0], FAR.mac, "noarp")
        set_neighbour(box, to[0], FAR.mac, "reachable")
        set_neighbour(box, "10.0.0.99", OTHER_MAC)
        assert select.select([finder.paths], [], [], LONG)[0]
        assert finder.take_forgotten() == []


def test_a_neighbour_that_vanishes(box: Hold, finder: Finder) -> None:
    for sock, to, key in both_versions(finder):
        assert finder.find(sock, to).kind == FRAME
        link(box, lambda ip: ip.neigh("del", ifindex=index(box), dst=to[0]))  # noqa: B023, called here
        assert finder.take_forgotten() == [key]
        path = finder.find(sock, to)
        assert (path.kind, path.ask) == (SOCKET, True)
        assert "is not resolved" in path.why


@pytest.mark.parametrize("state", ["permanent", "noarp", "reachable", "stale", "delay", "probe", "failed"])
def test_a_neighbours_state_counts(box: Hold, finder: Finder, state: str) -> None:
    for sock, to, _ in both_versions(finder):
        set_neighbour(box, to[0], FAR.mac, state)
        path = finder.find(sock, to)
        assert path.kind == (SOCKET if state == "failed" else FRAME)
        assert path.ask == (state in ("stale", "failed"))


def test_a_neighbour_that_gets_stale_is_asked_for(box: Hold, finder: Finder) -> None:
    for sock, to, key in both_versions(finder):
        set_neighbour(box, to[0], FAR.mac, "reachable")
        assert not finder.find(sock, to).ask
        set_neighbour(box, to[0], FAR.mac, "stale")
        assert finder.take_forgotten() == [key]
        path = finder.find(sock, to)
        assert (path.kind, path.ask) == (FRAME, True)
        set_neighbour(box, to[0], FAR.mac, "reachable")
        assert finder.take_forgotten() == []
        assert not finder.find(sock, to).ask


def test_the_kernel_resolves_what_the_socket_sends(box: Hold, finder: Finder) -> None:
    for sock, to, key in both_versions(finder):
        box.forget_neighbour()
        assert finder.find(sock, to)[:1] == (SOCKET,)
        sock.sendto(b"first", to)
        assert select.select([finder.paths], [], [], LONG)[0]
        path = finder.find(sock, to, LONG)
        assert key in finder.forgotten
        assert (path.kind, mac_of(path.header)) == (FRAME, FAR.mac)


# -- waiting


def test_a_neighbour_is_waited_for(box: Hold, finder: Finder) -> None:
    """While the gate is closed, it has no answer."""
    box.forget_neighbour()
    sock = finder.new_socket()
    box.stop()
    assert finder.find(sock, FAR4, LONG).ask  # nothing was sent: nothing to wait for
    sock.sendto(b"first", FAR4)
    timer = threading.Timer(0.2, box.release)
    timer.start()
    try:
        path = finder.find(sock, FAR4, LONG)
    finally:
        timer.join()
    assert (path.kind, mac_of(path.header)) == (FRAME, FAR.mac)


def test_waiting_in_vain_is_not_done_twice(box: Hold, finder: Finder) -> None:
    sock = finder.new_socket()
    nobody = ("10.0.0.9", PORT)
    assert finder.find(sock, nobody, LONG).ask
    sock.sendto(b"first", nobody)
    path = finder.find(sock, nobody, 0.05)
    assert (path.kind, path.ask) == (SOCKET, False)
    path = finder.find(sock, nobody, math.inf)  # at once
    assert (path.kind, path.ask) == (SOCKET, False)
    finder.take_forgotten()
    set_neighbour(box, nobody[0], OTHER_MAC)
    assert finder.take_forgotten() == [(sock.fileno(), pack(V4, nobody))]
    assert finder.find(sock, nobody).kind == FRAME


def test_waiting_ends_when_the_kernel_gives_up(box: Hold, finder: Finder) -> None:
    sock = finder.new_socket()
    nobody = ("10.0.0.9", PORT)
    sock.sendto(b"first", nobody)
    while (path := finder.find(sock, nobody, 1000)).ask:  # 3 s, and again if all was forgotten meanwhile
        assert path.kind == SOCKET
    assert path.kind == SOCKET


def test_without_waiting_it_is_asked_once(box: Hold, finder: Finder) -> None:
    sock = finder.new_socket()
    nobody = ("10.0.0.9", PORT)
    assert [finder.find(sock, nobody).ask for _ in range(3)] == [True, False, False]


def test_a_signal_handler_ends_waiting(box: Hold, finder: Finder) -> None:
    def interrupt(*_: object) -> None:
        raise InterruptedError("by the test")

    sock = finder.new_socket()
    nobody = ("10.0.0.9", PORT)
    sock.sendto(b"first", nobody)
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(InterruptedError, match="by the test"):
            finder.find(sock, nobody, 2.0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert finder.find(sock, nobody).ask  # it was not in vain


# -- everything else


CHANGES: dict[str, Callable[[Hold], object]] = {
    "route": lambda box: add_route(box, dst="10.5.0.0/24"),
    "route of IPv6": lambda box: add_route(box, dst="fd05::/64", family=V6),
    "rule": lambda box: link(box, lambda ip: ip.rule("add", fwmark=7, table=77)),
    "rule of IPv6": lambda box: link(box, lambda ip: ip.rule("add", fwmark=7, table=77, family=V6)),
    "address": lambda box: link(
        box, lambda ip: ip.addr("add", index=index(box), address="10.9.0.1", prefixlen=24)
    ),
    "MTU": lambda box: box.set_mtu(1300),
    "MAC": lambda box: link(box, lambda ip: ip.link("set", index=index(box), address="02:00:00:00:00:55")),
    "down": lambda box: link(box, lambda ip: ip.link("set", index=index(box), state="down")),
}


@pytest.mark.parametrize("what", CHANGES)
def test_other_changes_forget_all(box: Hold, finder: Finder, what: str) -> None:
    finder.find(finder.new_socket(), FAR4)
    assert finder.take_forgotten() == []
    CHANGES[what](box)
    assert None in finder.take_forgotten()


def test_a_route_that_changes_has_another_path(box: Hold, finder: Finder) -> None:
    sock = finder.new_socket()
    assert mac_of(finder.find(sock, FAR4).header) == FAR.mac
    set_neighbour(box, GATEWAY, OTHER_MAC)
    add_route(box, dst="10.0.0.2/32", gateway=GATEWAY)
    assert mac_of(finder.find(sock, FAR4).header) == OTHER_MAC


def test_a_mac_of_the_device_that_changes_is_in_the_header(box: Hold, finder: Finder) -> None:
    for sock, to, _ in both_versions(finder):
        assert finder.find(sock, to).header[6:12].hex(":") != "02:00:00:00:00:55"
    CHANGES["MAC"](box)
    for sock, to, _ in both_versions(finder):
        set_neighbour(box, to[0])
        assert finder.find(sock, to).header[6:12].hex(":") == "02:00:00:00:00:55"


def test_a_device_that_is_gone(box: Hold, finder: Finder) -> None:
    sockets = [(sock, to) for sock, to, _ in both_versions(finder)]
    for sock, to in sockets:
        assert finder.find(sock, to).kind == FRAME
    link(box, lambda ip: ip.link("del", index=index(box)))
    assert None in finder.take_forgotten()
    for sock, to in sockets:
        path = finder.find(sock, to)
        assert (path.kind, path.error) == (ERROR, errno.ENETUNREACH)


def test_changes_that_were_lost_forget_all(box: Hold, finder: Finder) -> None:
    sock = finder.new_socket()
    finder.find(sock, FAR4)
    with socket.socket(fileno=socket.dup(finder.paths.fileno())) as events:
        events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for number in range(20, 60):  # none of them is a path's
        set_neighbour(box, f"10.0.0.{number}")
    assert set(finder.take_forgotten()) == {None}
    set_neighbour(box, "10.0.0.60")
    assert finder.take_forgotten() == []


def test_a_descriptor_of_another_socket_is_not_forgotten_again(box: Hold, finder: Finder) -> None:
    one, other = finder.new_socket(), finder.new_socket()
    finder.find(one, FAR4)
    finder.find(other, FAR4)
    finder.paths.forget_socket(one.fileno())
    set_neighbour(box, FAR.ip, OTHER_MAC)
    assert finder.take_forgotten() == [(other.fileno(), pack(V4, FAR4))]


# -- costs, and where it works


def test_destinations_over_one_gateway_cost_a_request_each(box: Hold, finder: Finder) -> None:
    set_neighbour(box, GATEWAY, OTHER_MAC)
    add_route(box, dst="10.5.0.0/16", gateway=GATEWAY)
    sock = finder.new_socket()
    finder.take_forgotten()
    before = finder.requests
    destinations = [(f"10.5.{number >> 8}.{number & 255}", PORT) for number in range(1, 1001)]
    assert {finder.find(sock, to).kind for to in destinations} == {FRAME}
    everything = finder.forgotten.count(None)  # what makes a sandbox may still go on behind it
    assert finder.requests - before == 1000 + 2 * (1 + everything)  # the device, the gateway
    while finder.take_forgotten():
        for to in destinations:
            finder.find(sock, to)
    set_neighbour(box, GATEWAY, FAR.mac)
    assert set(finder.take_forgotten()) == {(sock.fileno(), pack(V4, to)) for to in destinations}


def test_very_many_paths_over_a_gateway_are_forgotten_at_once(
    box: Hold, finder: Finder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths_module, "_MANY", 3)
    set_neighbour(box, GATEWAY, OTHER_MAC)
    add_route(box, dst="10.5.0.0/16", gateway=GATEWAY)
    sock = finder.new_socket()
    finder.take_forgotten()
    for count, forgotten in ((3, 3), (5, 1)):
        for number in range(1, count + 1):
            finder.find(sock, (f"10.5.0.{number}", PORT))
        finder.take_forgotten()
        set_neighbour(box, GATEWAY, FAR.mac if count == 3 else OTHER_MAC)
        assert len(found := finder.take_forgotten()) == forgotten
        assert (None in found) == (count == 5)


def test_it_works_in_a_running_loop_and_in_any_thread(box: Hold, finder: Finder) -> None:
    async def inside() -> int:
        with_loop = Finder(box)
        try:
            return (
                with_loop.find(with_loop.new_socket(), FAR4).kind
                + finder.find(finder.new_socket(), FAR4).kind
            )
        finally:
            with_loop.close()

    assert asyncio.run(inside()) == 2 * FRAME
    kinds: list[int] = []
    thread = threading.Thread(target=lambda: kinds.append(finder.find(finder.new_socket(), FAR4).kind))
    thread.start()
    thread.join()
    assert kinds == [FRAME]


def test_it_needs_pyroute2(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyroute2"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyroute2", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'uringzc\[packet\]'"):
        Paths(lambda fd, to: None, lambda: None)
