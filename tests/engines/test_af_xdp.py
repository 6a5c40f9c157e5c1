"""The engine af_xdp: frames on the wire, its queue, its device. Frames of both kinds: tests/frames."""

import errno
import os
import platform
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from processes import fork, run_program
from traffic import datagram, is_readable, stopped, wait_readable, wait_until
from xdp_tools import (
    EXPERIMENT,
    IPV4,
    IPV6,
    Capture,
    Macvlan,
    add_macvlan,
    delete,
    frame,
    frames_from,
    is_right,
    macvlan,
    results,
    scheduler,
    send_all,
    set_state,
    xdp_socket,
)

import uringzc
from uringzc import testing
from uringzc.engines import af_xdp, lifetime
from uringzc.engines.af_xdp import AfXdpEngine
from uringzc.kernel.reasons import reason_of
from uringzc.testing.devices import FAR

pytestmark = [pytest.mark.engines(), testing.requires("net_admin")]

SOCKET_CALL = {"x86_64": 41, "aarch64": 198}.get(platform.machine(), -1)
HEADROOM, STRIDE = 128, 4096
SIZES = [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 255, 1399, 1400, 1432, 1452]


@pytest.fixture
def over(net: testing.Hold) -> Iterator[Macvlan]:
    with macvlan(net) as made:
        yield made


# -- on the wire


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_datagrams_arrive_with_right_checksums(box: testing.Hold, family: int) -> None:
    ipv4 = family == socket.AF_INET
    payloads = [datagram(n, size) for n, size in enumerate(SIZES)] + [b"\xff" * 999, bytes(1000)]
    with (
        scheduler(box) as s,
        box.socket(family) as tx,
        box.receiver_socket(family) as rx,
        Capture(box.peer, IPV4 if ipv4 else IPV6) as capture,
    ):
        rx.settimeout(10)
        tx.connect(box.address if ipv4 else box.address6)
        send_all(s, tx, payloads)
        assert [rx.recv(1 << 16) for _ in payloads] == payloads
        packets = [packet[14:] for packet in capture.take(len(payloads))]
        assert all(map(is_right, packets))
        broken = bytearray(packets[-1])
        broken[-1] ^= 1
        assert not is_right(bytes(broken))  # the control
        assert results(s) == [(n, len(payload)) for n, payload in enumerate(payloads)]
        notifications = s.reap_notifications(len(payloads))
        assert [n.nbytes for n in notifications] == list(map(len, payloads))
        assert {n.copied for n in notifications} == {1}


def test_a_sum_of_0_is_sent_as_ffff(box: testing.Hold) -> None:
    """0 would say that there is no checksum."""
    with scheduler(box) as s, box.socket() as tx, Capture(box.peer, IPV4) as capture:
        tx.connect(box.address)
        send_all(s, tx, [bytes(2)])
        checksum = capture.take(1)[0][14:][26:28]
        send_all(s, tx, [checksum])
        found = capture.take(1)[0][14:]
        assert found[26:28] == b"\xff\xff"
        assert is_right(found)


def test_what_is_larger_than_a_frame_or_the_mtu_is_refused() -> None:
    with testing.hold(mtu=9000) as box, scheduler(box) as s, box.receiver_socket() as rx:
        rx.settimeout(10)
        with box.socket() as tx:
            tx.connect(box.address)
            send_all(s, tx, [bytes(STRIDE - HEADROOM), bytes(STRIDE - HEADROOM + 1)])
            assert results(s) == [(0, STRIDE - HEADROOM), (1, -errno.EMSGSIZE)]
        box.set_mtu(1500)
        with box.socket() as tx:
            tx.connect(box.address)
            send_all(s, tx, [bytes(1472), bytes(1473)])
            assert results(s) == [(0, 1472), (1, -errno.EMSGSIZE)]
        assert [len(rx.recv(1 << 16)) for _ in range(2)] == [STRIDE - HEADROOM, 1472]


def test_many_destinations_from_two_sockets(net: testing.Hold) -> None:
    from pyroute2 import IPRoute

    hosts = [f"10.0.0.{number}" for number in range(3, 103)]

    def add_neighbours() -> None:
        with IPRoute() as ip:
            for host in hosts:
                index = socket.if_nametoindex(net.device)
                ip.neigh("add", ifindex=index, dst=host, lladdr=FAR.mac, state="permanent")

    net.run(add_neighbours)
    wanted = [(socket.inet_aton(host), number % 2) for number, host in enumerate(3 * hosts)]
    with (
        scheduler(net) as s,
        net.socket() as one,
        net.socket() as two,
        Capture(net.peer, IPV4) as capture,
    ):
        for number, host in enumerate(3 * hosts):
            s.send((one, two)[number % 2], datagram(number, 100), to=(host, 9), flush=True)
        s.submit()
        ports = one.getsockname()[1], two.getsockname()[1]
        packets = [packet[14:] for packet in capture.take(len(wanted))]
        assert all(map(is_right, packets))
        found = [(packet[16:20], ports.index(int.from_bytes(packet[20:22], "big"))) for packet in packets]
        assert found == wanted
        assert [packet[28:] for packet in packets] == [datagram(n, 100) for n in range(len(wanted))]
        assert sum(n.failed for n in s.reap_notifications(len(wanted))) == 0


def test_a_packet_socket_sends_frames_of_the_program(box: testing.Hold) -> None:
    with closing(frames_from(box, box.device)) as raw, Capture(box.peer, EXPERIMENT) as capture:
        frames = [frame(datagram(n, size)) for n, size in enumerate((46, 100, 1500))]
        with scheduler(box) as s:
            send_all(s, raw, [*frames, bytes(13), bytes(1519)])
            assert results(s) == [
                *((n, len(one)) for n, one in enumerate(frames)),
                (3, -errno.EINVAL),
                (4, -errno.EMSGSIZE),
            ]
        assert capture.take(3) == frames


# -- memory


def place(engine: AfXdpEngine, number: int, size: int) -> memoryview:
    """Where a datagram lies that is staged in a frame, which an arena would refer to."""
    engine._refs[number] = 1
    return engine._memory[number * STRIDE + HEADROOM :][:size]


def test_a_frame_that_was_staged_in_place_is_not_free_while_it_is_in_flight(over: Macvlan) -> None:
    with scheduler(over.box, tags=range(2)) as s:
        engine = s._engine
        assert isinstance(engine, AfXdpEngine)
        staged = place(engine, 0, 100)
        staged[:] = datagram(0, 100)
        with stopped(over.box):
            s.send(over.tx, staged, flush=True)
            s.send(over.tx, staged, flush=True)  # the frame is taken: this one is copied
            s.submit()
            assert len(s.reap_completions()) == 2
            assert len(s.reap_notifications()) == 0
            s.send(over.tx, staged, flush=True)
            s.submit()
            assert sum(engine._refs) == 3
        # by the kernel: it does not say; by the engine
        assert [n.copied for n in s.reap_notifications(3)] == [None, 1, 1]
        assert [over.rx.recv(200) for _ in range(3)] == [datagram(0, 100)] * 3
        assert list(engine._refs)[:3] == [1, 0, 0]  # the copy's is released, the arena's is the arena's
        for number in range(1, 2 * engine.frames):
            staged[:] = datagram(number, 100)
            s.send(over.tx, staged, flush=True)
            assert len(s.reap_notifications(1)) == 1
            staged[:] = bytes(100)
            assert over.rx.recv(200) == datagram(number, 100)
        # the control: written before the kernel copies the frame, which is in submit(), it leaves changed
        with Capture(over.box.peer, IPV4) as capture:
            s.send(over.tx, staged, flush=True)
            staged[:] = b"x" * 100
            s.submit()
            packet = capture.take(1)[0][14:]
        assert packet[28:] == b"x" * 100
        assert not is_right(packet)
        staged.release()


@pytest.mark.parametrize("counts", [False, True])
def test_which_frames_are_free_is_known_from_linux_6_18(
    over: Macvlan, monkeypatch: pytest.MonkeyPatch, counts: bool
) -> None:
    """Before, the count of completions is right, and their addresses may be those of others in flight."""
    if not counts and af_xdp._kernel_version() < af_xdp._NAMES_FRAMES:
        pytest.skip("needs Linux 6.18: before, a completion may name a frame that is in flight")
    monkeypatch.setattr(af_xdp, "_NAMES_FRAMES", (99, 0) if counts else (0, 0))
    with scheduler(over.box, tags=range(2)) as s:
        with stopped(over.box):
            s.send(over.raw, frame(b"held"), slot=0, flush=True)
            s.send(over.raw, frame(b"delivered", to=over.local), slot=1, flush=True)
            s.submit()
            assert [n.slot for n in s.reap_notifications()] == ([] if counts else [1])
            assert s.slots.stats().in_flight == (2 if counts else 1)
        s.drain(10)
        assert sorted(n.slot for n in s.reap_notifications()) == ([0, 1] if counts else [0])
        assert over.capture.take(1) == [frame(b"held")]


# -- room


def test_frames_that_are_all_in_flight_are_waited_for(over: Macvlan) -> None:
    with scheduler(over.box) as s:
        engine = s._engine
        assert isinstance(engine, AfXdpEngine)
        total = engine.frames + 10
        with stopped(over.box):
            send_all(s, over.raw, [frame(datagram(n, 60)) for n in range(engine.frames)])
            with pytest.raises(BlockingIOError, match="frames"):
                s.send(over.raw, frame(b"one more"))
            assert len(s.reap_completions()) == engine.frames
            assert len(s.reap_notifications()) == 0
        assert len(s.reap_notifications(engine.frames)) == engine.frames
        send_all(s, over.raw, [frame(datagram(n, 60)) for n in range(engine.frames, total)])
        assert len(s.reap_notifications(10)) == 10
        assert over.capture.take(total) == [frame(datagram(n, 60)) for n in range(total)]


@pytest.mark.parametrize("flags", [0, socket.MSG_DONTWAIT])
def test_what_the_socket_has_no_room_for_is_withdrawn_and_sent_once(over: Macvlan, flags: int) -> None:
    """The kernel takes as many as SO_SNDBUF has room for."""
    total = 30
    with scheduler(over.box) as s, closing(xdp_socket()) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
        with stopped(over.box):
            for n in range(total):
                s._engine.queue.send(
                    over.raw, frame(datagram(n, 60)), user_data=n, flush=True, msg_flags=flags
                )
            s.submit()
            taken = len(s.reap_notifications()) + s.slots.stats().in_flight
            found = results(s)
            at_once = sum(result > 0 for _, result in found)
            assert 0 < at_once < total
            if flags:
                assert found[at_once:] == [(n, -errno.EAGAIN) for n in range(at_once, total)]
            else:
                assert taken == total
                assert len(found) == at_once
        s.drain(20)
        arrived = at_once if flags else total
        assert over.capture.take(arrived) == [frame(datagram(n, 60)) for n in range(arrived)]
        send_all(s, over.raw, [frame(b"last")])
        s.drain(10)
        assert over.capture.take(1) == [frame(b"last")]


# -- the device


def test_other_devices_are_sent_by_through_the_socket(over: Macvlan) -> None:
    with scheduler(over.box) as s, over.box.receiver_socket() as rx, over.box.socket() as tx:
        rx.settimeout(10)
        tx.connect(over.box.address)
        send_all(s, over.tx, [b"a frame"])
        send_all(s, tx, [b"no frame"])
        assert (over.rx.recv(100), rx.recv(100)) == (b"a frame", b"no frame")
        engine = s._engine
        assert isinstance(engine, AfXdpEngine)
        assert engine.find_path(tx, None, 0.0).why == "af_xdp sends by mv0 only"
        assert engine.zero_copy is False


def test_a_second_engine_takes_the_next_queue_or_says_that_there_is_none(box: testing.Hold) -> None:
    from pyroute2 import IPRoute

    def add_device() -> None:
        with IPRoute() as ip:
            options = {"num_tx_queues": 2, "num_rx_queues": 2}
            ip.link("add", ifname="two", kind="veth", peer="two0", **options)
            for name in ("two", "two0"):
                ip.link("set", index=socket.if_nametoindex(name), state="up")

    box.run(add_device)
    try:
        with (
            scheduler(box) as one,
            scheduler(box) as two,
            scheduler(box) as three,
            closing(frames_from(box, "two")) as raw,
            Capture(box, EXPERIMENT, "two0") as capture,
        ):
            send_all(one, raw, [frame(b"one")])
            send_all(two, raw, [frame(b"two")])
            with pytest.raises(OSError, match="other AF_XDP sockets have all of its queues") as refused:
                send_all(three, raw, [frame(b"three")])
            assert refused.value.errno == errno.EBUSY
            assert reason_of(refused.value).name == "af_xdp_queues"
            one.close()
            send_all(three, raw, [frame(b"three")])  # the kernel frees the queue a moment later
            assert capture.take(3) == [frame(b"one"), frame(b"two"), frame(b"three")]
    finally:
        delete(box, "two")


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_the_queue_of_a_dropped_sender_is_free_for_the_next(box: testing.Hold) -> None:
    def new() -> uringzc.UdpSender:
        return box.run(lambda: uringzc.UdpSender(box.address, engine="af_xdp"))

    with testing.receiver(sock=box.receiver_socket()) as rx:
        dropped = new()
        dropped.send(b"of the first")
        dropped.drain()
        with pytest.warns(ResourceWarning, match="not closed"):
            del dropped  # its engine is parked, and ends in this thread's next call
        with new() as tx:
            tx.send(b"of the second")
            tx.drain()
            assert rx.wait(2) == [b"of the first", b"of the second"]


def test_a_queue_that_the_kernel_frees_late_is_waited_for(
    box: testing.Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock of the test's own: closing network namespaces, elsewhere, has kept it for 0.3 s."""
    clock = [0.0]

    class Late:
        def uzc_xdp_bind(self, *arguments: Any) -> int:
            return -errno.EBUSY if clock[0] < 0.5 else af_xdp_lib.uzc_xdp_bind(*arguments)

        def __getattr__(self, name: str) -> Any:
            return getattr(af_xdp_lib, name)

    class Time:
        def monotonic(self) -> float:
            return clock[0]

        def sleep(self, seconds: float) -> None:
            clock[0] += seconds
            time.sleep(seconds)  # the queue may be busy in truth too

    af_xdp_lib: Any = vars(af_xdp)["lib"]
    monkeypatch.setattr(af_xdp, "lib", Late())
    monkeypatch.setattr(af_xdp, "time", Time())
    with (
        testing.receiver(sock=box.receiver_socket()) as rx,
        box.run(lambda: uringzc.UdpSender(box.address, engine="af_xdp")) as tx,
    ):
        tx.send(b"sent")
        tx.drain()
        assert rx.wait(1) == [b"sent"]
    assert clock[0] >= 0.5


def test_a_sender_without_a_queue_says_so_when_it_is_closed(box: testing.Hold) -> None:
    with (
        box.receiver_socket(),
        box.run(lambda: uringzc.UdpSender(box.address, engine="af_xdp")) as other,
    ):
        other.send(b"has the only queue")
        other.drain()
        tx = box.run(lambda: uringzc.UdpSender(box.address, engine="af_xdp", max_delay=None))
        tx.send_many([b"one", b"two"])
        with pytest.raises(uringzc.SendError, match=r"2 datagrams .* all of its queues") as lost:
            tx.close()
        assert lost.value.errno == errno.EBUSY


def test_nothing_leaves_while_the_device_is_down_nor_later(over: Macvlan) -> None:
    with scheduler(over.box) as s:
        send_all(s, over.raw, [frame(b"before")])
        set_state(over.box, over.device, "down")
        s.reap_completions()
        send_all(s, over.raw, [frame(datagram(n, 60)) for n in range(40)])
        assert results(s) == [(n, -errno.ENETDOWN) for n in range(40)]
        assert len(s.reap_notifications()) == 41
        set_state(over.box, over.device, "up")
        send_all(s, over.raw, [frame(b"after")])
        s.drain(10)
        assert over.capture.take(2) == [frame(b"before"), frame(b"after")]
        assert over.capture.nothing()


def test_frames_without_a_carrier_are_lost_and_settled(net: testing.Hold) -> None:
    with scheduler(net) as s, closing(frames_from(net, net.device)) as raw:
        send_all(s, raw, [frame(b"bound")])
        set_state(net.peer, net.peer.device, "down")
        s.reap_completions()
        send_all(s, raw, [frame(b"lost")] * 100)
        s.drain(10)
        assert [result for _, result in results(s)] == [60] * 100
        set_state(net.peer, net.peer.device, "up")
        with Capture(net.peer, EXPERIMENT) as capture:

            def arrives() -> bool:
                send_all(s, raw, [frame(b"found")])
                return not capture.nothing()

            assert wait_until(arrives)
            assert capture.take(1) == [frame(b"found")]


@pytest.mark.parametrize("state", ["down", "gone"])
def test_frames_that_return_when_the_device_is_no_more_wake_those_who_wait(over: Macvlan, state: str) -> None:
    """The kernel reports nothing then."""
    with scheduler(over.box) as s:
        descriptor = s.fileno()
        with stopped(over.box):
            send_all(s, over.raw, [frame(b"held")] * 3)
            s.reap_completions()
            assert not is_readable(descriptor)
            set_state(over.box, over.device, "down") if state == "down" else delete(over.box, over.device)
        found = 0
        while found < 3:
            wait_readable(descriptor)
            found += len(s.reap_notifications())
        assert over.capture.take(3) == [frame(b"held")] * 3


def test_without_its_device_the_engine_sends_through_sockets(over: Macvlan) -> None:
    index = over.box.run(lambda: socket.if_nametoindex(over.device))
    with scheduler(over.box) as s, over.box.receiver_socket() as rx, over.box.socket() as tx:
        rx.settimeout(10)
        tx.connect(over.box.address)
        engine = s._engine
        assert isinstance(engine, AfXdpEngine)
        with stopped(over.box):
            send_all(s, over.raw, [frame(b"held")] * 3)
            for number in range(2):
                s.send(over.raw, frame(b"queued"), user_data=number, flush=True)
            delete(over.box, over.device)
            s.submit()
            assert [result for _, result in results(s)] == [60] * 3 + [-errno.ENXIO] * 2
        s.drain(10)
        assert len(s.reap_notifications()) == 5
        assert over.capture.take(3) == [frame(b"held")] * 3
        send_all(s, tx, [b"by another device"])
        assert rx.recv(100) == b"by another device"
        add_macvlan(over.box, "again", index)
        with closing(frames_from(over.box, "again")) as raw:
            assert engine.find_path(raw, None, 0.0).why == "mv0, by which af_xdp sent, is gone"
            send_all(s, raw, [frame(b"through the socket")])
            assert over.capture.take(1) == [frame(b"through the socket")]


# -- the end


@pytest.mark.parks
def test_closing_with_frames_in_flight_parks_the_engine(over: Macvlan) -> None:
    with scheduler(over.box) as s:
        with stopped(over.box):
            send_all(s, over.raw, [frame(b"held")] * 3)
            with pytest.warns(ResourceWarning, match="3 requests are in flight"):
                s.close(timeout=0)
            assert len(lifetime.parked()) == 1
        assert over.capture.take(3) == [frame(b"held")] * 3

        def released() -> bool:
            lifetime.release_parked()
            return not lifetime.parked()

        assert wait_until(released)


def test_a_child_of_a_fork_changes_no_frame(over: Macvlan) -> None:
    with scheduler(over.box) as s:
        engine = s._engine
        assert isinstance(engine, AfXdpEngine)
        staged = place(engine, 5, 100)
        staged[:] = datagram(1, 100)
        s.send(over.tx, staged, flush=True)
        child = fork()
        if not child:
            try:
                assert bytes(staged) == bytes(100)
                staged[:] = b"x" * 100
                with pytest.raises(uringzc.ClosedError):
                    s.submit()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        s.submit()
        assert over.rx.recv(200) == datagram(1, 100)
        s.drain(10)
        staged.release()


# -- what it needs

#: prints why there is no engine, or that there is one; what has to be imported, nobody may read
TRY = """
    import uringzc
    from uringzc.kernel.reasons import reason_of
    uringzc.Scheduler(engine="af_xdp").close()
    {before}
    try:
        uringzc.Scheduler(engine="af_xdp").close()
        print("opened")
    except OSError as error:
        print(error.errno, reason_of(error).name, error, sep="; ")
"""
#: the root of a user namespace: the limit for locked memory applies to it
BECOME_ROOT = """
    from refusals import become_nobody; become_nobody({} << 10)
    import ctypes; unshared = ctypes.CDLL(None).unshare(0x10000000 | 0x40000000) == 0  # user and network
    if not unshared: print("no user namespaces") or exit()
"""


@testing.requires("unprivileged")
def test_it_needs_cap_net_raw() -> None:
    become = "from refusals import become_nobody; become_nobody()"
    said, _ = run_program(TRY.format(before=become))
    assert said.startswith(f"{errno.EPERM}; net_raw; ")
    assert "needs CAP_NET_RAW; run as root, " in said


@testing.requires("unprivileged")
@pytest.mark.parametrize(("kib", "opens"), [(64, False), (8192, True)])
def test_its_memory_is_locked_unless_the_limit_is_too_low(kib: int, opens: bool) -> None:
    said, _ = run_program(TRY.format(before=BECOME_ROOT.format(kib)))
    if said == "no user namespaces\n":
        pytest.skip("needs user namespaces")
    if opens:
        assert said == "opened\n"
    else:
        assert said.startswith(f"{errno.ENOBUFS}; memlock; ")
        assert f"RLIMIT_MEMLOCK) is {kib} KiB per user, 1364 KiB are needed; raise it with" in said


def test_a_kernel_without_af_xdp_is_named() -> None:
    before = f"from refusals import forbid; forbid({SOCKET_CALL}, {errno.EAFNOSUPPORT}, 0, 44)"
    said, _ = run_program(TRY.format(before=before))
    assert said.startswith(f"{errno.EAFNOSUPPORT}; no_af_xdp; ")
    assert "run Linux 5.4 or later, with CONFIG_XDP_SOCKETS" in said
