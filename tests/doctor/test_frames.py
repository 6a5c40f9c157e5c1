"""probe() says whether packet and af_xdp work, and how they would send to a host, as they then do."""

import builtins
import errno
import fcntl
import json
import os
import socket
import struct
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from processes import run_program

import uringzc
from uringzc import testing
from uringzc.engines import af_xdp
from uringzc.engines.choose import FRAME_ENGINES

pytestmark = [pytest.mark.engines(), testing.requires("send_zc"), testing.requires("net_admin")]

#: of <linux/socket.h>
AF_PACKET, AF_XDP = 17, 44
QUEUES = 4  # more than an ifb has
MAC, GATEWAY_MAC = "02:00:00:00:00:02", "02:00:00:00:00:09"


@pytest.fixture(params=FRAME_ENGINES)
def framing(request: pytest.FixtureRequest) -> str:
    """The engines that send frames, if they work here."""
    name = str(request.param)
    if reason := uringzc.probe().engines[name]:
        pytest.skip(str(reason))
    return name


def path(box: testing.Sandbox, host: str, framing: str) -> Any:
    return box.run(lambda: uringzc.probe(host)).frames[framing]


def leaves_as_frame(box: testing.Sandbox, host: str, framing: str) -> bool:
    """The truth: the kernel counts what goes through a UDP socket."""
    six = ":" in host

    def counted() -> int:
        if six:
            lines = Path("/proc/thread-self/net/snmp6").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("Udp6OutDatagrams"))
        lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
        names, values = (line.split() for line in lines if line.startswith("Udp: "))
        return int(values[names.index("OutDatagrams")])

    def send() -> bool:
        before = counted()
        with (
            socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM) as sock,
            uringzc.Scheduler(engine=framing) as scheduler,
        ):
            sock.connect((host, 9))
            scheduler.send(sock, bytes(100), flush=True)
            scheduler.drain(5)
        return counted() == before

    return box.run(send)


# -- the route


@pytest.mark.parametrize("six", [False, True])
def test_a_host_on_the_link_gets_frames(sink: testing.Sandbox, framing: str, six: bool) -> None:
    host = (sink.address6 if six else sink.address)[0]
    found = sink.run(lambda: uringzc.probe(host))
    assert found.route is not None
    assert found.route.next_hop == host
    by = found.frames[framing]
    assert (by.framed, by.device, by.mac, by.mtu) == (True, sink.device, MAC, 1500)
    assert by.zero_copy is (None if framing == "packet" else False)  # an ifb has none


@pytest.mark.parametrize("six", [False, True])
def test_frames_go_to_the_gateway(framing: str, six: bool) -> None:
    hop, network = ("fd00::9", "2001:db8::/32") if six else ("10.0.0.9", "192.0.2.0/24")
    host = "2001:db8::7" if six else "192.0.2.7"
    with testing.sink() as box:

        def add_route() -> None:
            from pyroute2 import IPRoute

            with IPRoute() as ip:
                index = socket.if_nametoindex(box.device)
                ip.neigh("add", ifindex=index, dst=hop, lladdr=GATEWAY_MAC, state="permanent")
                ip.route("add", dst=network, gateway=hop)

        box.run(add_route)
        found = box.run(lambda: uringzc.probe(host))
        assert found.route is not None
        assert found.route.next_hop == hop
        assert found.frames[framing].mac == GATEWAY_MAC


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "10.0.0.1", "fd00::1"])
def test_this_machine_gets_no_frames(sink: testing.Sandbox, framing: str, host: str) -> None:
    found = path(sink, host, framing)
    assert (found.framed, found.device, found.mac, found.mtu) == (False, "", "", 0)
    assert found.why == "the address is this machine's"
    assert not leaves_as_frame(sink, host, framing)


@pytest.mark.parametrize("six", [False, True])
def test_the_truth_has_both_answers(sink: testing.Sandbox, framing: str, six: bool) -> None:
    assert leaves_as_frame(sink, (sink.address6 if six else sink.address)[0], framing)


def test_a_device_that_is_not_ethernet_gets_no_frames(framing: str) -> None:
    if not Path("/dev/net/tun").exists():
        pytest.skip("needs /dev/net/tun: modprobe tun")
    with testing.sink() as box:
        tun = box.run(open_tun)
        try:
            found = path(box, "10.7.0.2", framing)
        finally:
            os.close(tun)
    assert (found.framed, found.why) == (False, "tun0 is no Ethernet device")


def open_tun() -> int:
    """A device of IP packets without Ethernet headers, and a route by it."""
    from pyroute2 import IPRoute

    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"tun0", 0x1001))  # TUNSETIFF, IFF_TUN and IFF_NO_PI
    with IPRoute() as ip:
        index = socket.if_nametoindex("tun0")
        ip.link("set", index=index, state="up")
        ip.addr("add", index=index, address="10.7.0.1", prefixlen=24)
    return fd


def test_an_unresolved_neighbour_is_named_and_not_asked_for(box: testing.Hold, framing: str) -> None:
    host = box.address[0]

    def entries() -> int:
        """Of the neighbour table: the kernel makes one when it asks."""
        from pyroute2 import IPRoute

        with IPRoute() as ip:
            return len(ip.get_neighbours(dst=host))

    box.forget_neighbour()
    found = path(box, host, framing)
    assert not found.framed
    assert found.why == f"the neighbour {host} on {box.device} is not resolved"
    assert box.run(entries) == 0
    with box.socket() as sock:  # the control
        sock.sendto(b"asks", (host, 9))
    assert box.run(entries) == 1


# -- what it is not


def test_they_are_no_better_engines_that_were_passed_over() -> None:
    """Neither is ever "auto": what is in their way is no detail."""
    program = """
        from refusals import *
        uringzc.probe()  # imports what nobody may not read
        become_nobody()
        print(json.dumps([uringzc.probe().as_dict(), {name: refused(name) for name in ("packet", "af_xdp")}]))
    """
    found, errors = json.loads(run_program(program)[0])
    assert not {each["name"] for each in found["details"]} - {"wmem_max", "memlock", "memlock_ring"}
    assert (found["limits"]["frame_segments"], found["frames"]) == (0, {})
    for name in FRAME_ENGINES:
        reason = found["engines"][name]
        assert reason["name"] == "net_raw"
        assert reason["text"] == f"the engine {name} sends frames of its own, which needs CAP_NET_RAW"
        assert "setcap cap_net_raw+ep" in reason["fix"]
        assert "unshare --user --map-root-user --net" in reason["fix"]
        assert errors[name] == [errno.EPERM, f"{reason['text']}; {reason['fix']}"]


@pytest.mark.parametrize(
    ("family", "name", "fix"),
    [
        (AF_PACKET, "packet", "run a kernel with CONFIG_PACKET"),
        (AF_XDP, "af_xdp", "run Linux 5.4 or later, with CONFIG_XDP_SOCKETS"),
    ],
)
def test_a_kernel_without_these_sockets_is_named(family: int, name: str, fix: str) -> None:
    program = f"""
        from refusals import *
        SOCKET = {{"x86_64": 41, "aarch64": 198}}[platform.machine()]
        forbid(SOCKET, errno.EAFNOSUPPORT, 0, {family})
        print(json.dumps([uringzc.probe().as_dict(), refused({name!r})]))
    """
    found, error = json.loads(run_program(program)[0])
    reason = found["engines"].pop(name)
    assert reason["name"] == f"no_{name}"
    assert reason["fix"] == fix
    assert error == [errno.EAFNOSUPPORT, f"{reason['text']}; {reason['fix']}"]
    assert "no_" not in str([each and each["name"] for each in found["engines"].values()])


def test_pyroute2_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = builtins.__import__

    def missing(name: str, *args: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "pyroute2":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return honest(name, *args, **options)

    before = uringzc.probe()
    monkeypatch.setattr(builtins, "__import__", missing)
    found = uringzc.probe()
    for name in FRAME_ENGINES:
        if before.engines[name] is None:
            reason = found.engines[name]
            assert reason is not None
            assert (reason.name, reason.fix) == ("pyroute2", "pip install 'uringzc[packet]'")
    assert found.details == before.details


def test_trains_are_found(framing: str) -> None:
    with uringzc.Scheduler(engine=framing) as scheduler:
        longest = scheduler._engine.max_segments()
    if framing == "packet":
        assert uringzc.probe().limits.frame_segments == longest
    else:
        assert longest == 1


def test_a_queue_that_is_taken_is_named(sink: testing.Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := uringzc.probe().engines["af_xdp"]:
        pytest.skip(str(reason))

    def take_all() -> uringzc.Capabilities:
        """What probe() says when it cannot have a queue, in the thread that has them."""
        with ExitStack() as stack:
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.connect(sink.address)
            for _ in range(QUEUES):
                scheduler = stack.enter_context(uringzc.Scheduler(engine="af_xdp"))
                with suppress(OSError):
                    scheduler.send(sock, b"takes a queue", flush=True)
                    scheduler.drain(5)
            return uringzc.probe(sink.address[0])

    with monkeypatch.context() as patch:
        patch.setattr(af_xdp, "_BUSY", 0.1)
        found = sink.run(take_all)
    assert found.engines["af_xdp"] is None
    assert "other AF_XDP sockets have all of its queues" in found.frames["af_xdp"].why
    assert found.frames["packet"].framed
    assert path(sink, sink.address[0], "af_xdp").framed  # the control
