"""What probe() reports of a route agrees with what the kernel then does, whatever the device can do."""

import builtins
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from traffic import wait_until

import uringzc
from uringzc import testing
from uringzc.doctor import route

pytestmark = [pytest.mark.engines(), testing.requires("send_zc"), testing.requires("net_admin")]


def names(found: uringzc.Capabilities) -> list[str]:
    return [reason.name for reason in found.details]


def looked(box: testing.Sandbox, host: str) -> route.Route:
    found = box.run(lambda: uringzc.probe(host)).route
    assert found is not None
    return found


def copied(box: testing.Sandbox, size: int, six: bool = False) -> bool:
    """The truth: whether the kernel copies zero-copy requests of that size."""
    with box.socket(socket.AF_INET6 if six else socket.AF_INET) as sock:
        sock.connect(box.address6 if six else box.address)
        with uringzc.UdpSender(sock=sock, zero_copy="always", max_delay=None) as tx:
            tx.send_many([bytes(size)] * 8)
            tx.drain()
            assert tx.stats.zero_copy > 0
            assert tx.stats.copied in (0, tx.stats.zero_copy)
            return tx.stats.copied > 0


# -- what the device does


@pytest.fixture
def device(sink: testing.Sandbox) -> Iterator[testing.Sandbox]:
    """The sink; all is on again after the test."""
    yield sink
    sink.set_mtu(1500)
    sink.offload(scatter_gather=True, checksum=True, segmentation=True)


@pytest.mark.parametrize("six", [False, True])
@pytest.mark.parametrize(
    ("off", "reasons"),
    [
        ({}, []),
        ({"segmentation": False}, ["no_segmentation"]),
        ({"checksum": False}, ["no_checksum", "no_segmentation"]),
        ({"scatter_gather": False}, ["no_scatter_gather"]),
    ],
)
def test_offloads_decide_whether_the_kernel_copies(
    device: testing.Sandbox, off: dict[str, bool], reasons: list[str], six: bool
) -> None:
    device.offload(**off)
    host = (device.address6 if six else device.address)[0]
    found = device.run(lambda: uringzc.probe(host))
    assert names(found)[-len(reasons) - 1 :] == [*reasons, "mtu"]
    assert found.route is not None
    assert (found.route.device, found.route.kind, found.route.address) == ("ifb0", "ifb", host)
    assert found.route.checksum == ("checksum" not in off)
    assert found.route.scatter_gather == ("scatter_gather" not in off)
    assert found.route.segmentation == ("no_segmentation" not in reasons)
    assert (
        bool(found.route.copies) == copied(device, 1400, six) == bool({"checksum", "scatter_gather"} & {*off})
    )


@pytest.mark.parametrize("six", [False, True])
@pytest.mark.parametrize("mtu", [1500, 9000])
def test_datagrams_above_the_mtu_are_copied(device: testing.Sandbox, mtu: int, six: bool) -> None:
    device.set_mtu(mtu)
    found = looked(device, (device.address6 if six else device.address)[0])
    assert (found.mtu, found.payload) == (mtu, mtu - (48 if six else 28))
    (reason,) = (each for each in found.reasons() if each.name == "mtu")
    assert f"of more than {found.payload} bytes are fragmented, and copied (MTU {mtu})" in reason.text
    assert not copied(device, found.payload, six)
    assert copied(device, found.payload + 1, six)


def test_the_largest_mtu_fragments_nothing(device: testing.Sandbox) -> None:
    device.set_mtu(65535)
    found = looked(device, device.address[0])
    assert found.payload == 65507  # the most that UDP carries
    assert found.reasons() == ()


def test_fixes_name_the_ethtool_commands(device: testing.Sandbox) -> None:
    device.offload(checksum=False, scatter_gather=False, segmentation=False)
    fixes = [reason.fix.partition(",")[0] for reason in looked(device, device.address[0]).reasons()]
    assert fixes[:2] == ["ethtool -K ifb0 tx on", "ethtool -K ifb0 sg on"]
    assert fixes[2:] == ["ethtool -K ifb0 tx-udp-segmentation on", ""]


# -- where it leads


@pytest.mark.parametrize("six", [False, True])
def test_a_veth_pair_delivers_copies(box: testing.Hold, six: bool) -> None:
    found = looked(box, (box.address6 if six else box.address)[0])
    assert (found.device, found.kind) == ("veth0", "veth")
    assert found.copies is not None
    assert found.copies.name == "veth"
    with testing.receiver(sock=box.receiver_socket(socket.AF_INET6 if six else socket.AF_INET)):
        assert copied(box, 1400, six)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "10.0.0.1", "fd00::1"])
def test_loopback_is_reported_to_copy(sink: testing.Sandbox, host: str) -> None:
    found = sink.run(lambda: uringzc.probe(host))
    assert found.route is not None
    assert (found.route.device, found.route.kind) == ("lo", "loopback")
    assert found.details[-1].name == "loopback"
    assert found.route.copies == found.details[-1]


def test_loopback_does_copy() -> None:
    with testing.receiver() as rx, uringzc.UdpSender(rx.address, zero_copy="always", max_delay=None) as tx:
        tx.send_many([bytes(1400)] * 8)
        tx.drain()
        assert tx.stats.copied == tx.stats.zero_copy > 0


def test_a_tap_delivers_copies(sink: testing.Sandbox) -> None:
    if not Path("/dev/net/tun").exists():
        pytest.skip("needs /dev/net/tun: modprobe tun")
    tap = sink.run(_open_tap)
    try:
        found = looked(sink, "10.7.0.2")
        assert (found.device, found.kind, found.checksum, found.scatter_gather) == ("tap0", "tun", True, True)
        with sink.socket() as sock, uringzc.Scheduler() as scheduler:
            sock.connect(("10.7.0.2", 9))
            scheduler.send(sock, bytes(1400), flush=True)
            scheduler.submit()
            assert wait_until(lambda: len(os.read(tap, 2000)) > 1400)
            (notification,) = scheduler.reap_notifications(wait=1, timeout=10)
        assert bool(notification.copied) == bool(found.copies)
        assert found.copies
    finally:
        os.close(tap)


def _open_tap() -> int:
    import fcntl
    import struct

    from pyroute2 import IPRoute

    fd = os.open("/dev/net/tun", os.O_RDWR)
    flags = 0x0002 | 0x1000 | 0x4000  # IFF_TAP, IFF_NO_PI, IFF_VNET_HDR
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"tap0", flags))  # TUNSETIFF
    fcntl.ioctl(fd, 0x400454D0, 1)  # TUNSETOFFLOAD, TUN_F_CSUM: so that this is not why it copies
    with IPRoute() as ip:
        index = socket.if_nametoindex("tap0")
        ip.link("set", index=index, state="up")
        ip.addr("add", index=index, address="10.7.0.1", prefixlen=24)
        ip.neigh("add", ifindex=index, dst="10.7.0.2", lladdr="02:00:00:00:00:07", state="permanent")
    return fd


# -- nowhere


@pytest.mark.parametrize(
    ("host", "code", "says"),
    [
        ("10.9.9.9", errno.ENETUNREACH, "there is no way to 10.9.9.9: Network is unreachable"),
        ("2001:db8::1", errno.ENETUNREACH, "there is no way to 2001:db8::1: Network is unreachable"),
        ("no.such.host.invalid", None, "'no.such.host.invalid' is no host"),
        ("a" * 70, None, f"'{'a' * 70}' is no host"),
        ("", None, "'' is no host"),
        ("127.0.0.1\0.example", None, "a host has no NUL character"),
        ("10.0.0.2:9000", None, "'10.0.0.2:9000' is no host"),
    ],
)
def test_an_unreachable_or_unknown_host_raises(
    sink: testing.Sandbox, host: str, code: int | None, says: str
) -> None:
    with pytest.raises(OSError, match="is no") as caught:
        sink.run(lambda: uringzc.probe(host))
    assert says in str(caught.value)
    if code:
        assert caught.value.errno == code
    else:
        assert isinstance(caught.value, socket.gaierror)


def test_a_host_needs_pyroute2(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = builtins.__import__

    def missing(name: str, *args: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "pyroute2":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return honest(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'uringzc\[cli\]'"):
        uringzc.probe("127.0.0.1")
    assert uringzc.probe().engine == "io_uring"  # needs none


def test_offloads_that_can_not_be_read_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyroute2.Ethtool.get_features", lambda *_: 1 / 0)
    found = route.find_route("127.0.0.1")
    assert (found.checksum, found.scatter_gather, found.segmentation) == (None, None, None)
    assert route.Route("h", "h", "d", "", 65535, 65507, None, None, None).reasons() == ()
