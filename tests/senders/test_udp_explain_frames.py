"""explain() of a sender whose datagrams leave as frames: what they go around, and who gets none, and why."""

import errno

import pytest

import uringzc
from uringzc import testing
from uringzc.engines.choose import FRAME_ENGINES

pytestmark = [pytest.mark.engines(), testing.requires("net_admin")]
AROUND = (
    "Datagrams leave as Ethernet frames, which go around what the kernel does for a socket: netfilter "
    "(nftables, iptables), IPsec policies, SO_MARK, BPF programs of the cgroup, the accounting of its send "
    "buffer."
)
LOCAL = "through the socket: the address is this machine's."


@pytest.fixture(params=FRAME_ENGINES)
def framing(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if reason := uringzc.probe().engines[name]:
        pytest.skip(str(reason))
    return name


def said(tx: uringzc.UdpSender, *addresses: tuple[str, int]) -> str:
    """What it says when each of them has got a datagram."""
    for address in addresses:
        tx.send(b"a datagram", address)
    tx.drain(5)
    return tx.explain()


def test_it_says_what_frames_go_around(sink: testing.Sandbox, framing: str) -> None:
    def send() -> str:
        with uringzc.UdpSender(engine=framing) as tx:
            return said(tx, sink.address)

    text = sink.run(send)
    assert AROUND in text
    assert "which are frames of the ring" in text
    assert "zero-copy" not in text
    assert "through the socket" not in text


def test_another_engine_sends_no_frames(sink: testing.Sandbox) -> None:
    def send() -> str:
        with uringzc.UdpSender(engine="copy") as tx:
            return said(tx, sink.address)

    assert "frames" not in sink.run(send)


def test_it_counts_the_destinations_without_frames_of_its_socket(sink: testing.Sandbox, framing: str) -> None:
    refused: list[uringzc.SendError] = []

    def send() -> list[str]:
        with uringzc.Scheduler(engine=framing) as scheduler:
            with uringzc.UdpSender(scheduler=scheduler, on_error=refused.append) as tx:
                texts = [said(tx, sink.address, ("127.0.0.1", 9)), said(tx, ("10.0.0.1", 9))]
                with uringzc.UdpSender(scheduler=scheduler) as other:
                    texts.append(said(other, sink.address))
                descriptor = tx.sock.fileno()
            with uringzc.UdpSender(scheduler=scheduler) as reused:
                assert reused.sock.fileno() == descriptor
                return [*texts, said(reused, sink.address)]

    one, two, *others = sink.run(send)
    assert f"1 destination {LOCAL}" in one
    assert f"2 destinations {LOCAL}" in two
    assert all("through the socket" not in text for text in others)
    assert {error.errno for error in refused} <= {errno.ECONNREFUSED}


def test_a_neighbour_that_is_resolved_is_not_counted_any_more(box: testing.Hold, framing: str) -> None:
    with testing.receiver(sock=box.receiver_socket()) as rx:

        def send() -> list[str]:
            with uringzc.UdpSender(engine=framing) as tx:
                box.forget_neighbour()
                texts = [said(tx, rx.address)]
                rx.wait(1)  # it has answered
                texts.append(said(tx, rx.address))
                return texts

        first, then = box.run(send)
    unresolved = f"1 destination through the socket: the neighbour {rx.address[0]} on {box.device} is not"
    assert unresolved in first
    assert "through the socket" not in then
