"""A short soak test, and its controls: a lost datagram, memory and leases that are kept."""

import pytest
import soak

import uringzc
from uringzc import testing

pytestmark = [
    testing.requires("net_admin"),
    pytest.mark.uninstrumented("measures how much memory the process has"),
]


@pytest.mark.slow
def test_memory_is_flat() -> None:
    soak.soak(2_000_000).check()


@pytest.mark.slow
def test_control_memory_that_grows_is_seen() -> None:
    kept = []

    def keeps(tx: uringzc.UdpSender, region: uringzc.Region, number: int) -> tuple[int, int]:
        kept.append(bytearray(b"x" * 1_000_000))
        return soak.lap(tx, region, number)

    with pytest.raises(AssertionError, match="grew by"):
        soak.soak(300_000, lap=keeps).check()


@pytest.mark.slow
def test_control_a_datagram_too_few_is_seen() -> None:
    def loses(tx: uringzc.UdpSender, region: uringzc.Region, number: int) -> tuple[int, int]:
        sent, nbytes = soak.lap(tx, region, number)
        return sent + 1, nbytes

    with pytest.raises(AssertionError, match="UdpStats"):
        soak.soak(100_000, lap=loses).check()


@pytest.mark.slow
def test_control_a_lease_that_is_kept_is_seen() -> None:
    kept = []

    def keeps(tx: uringzc.UdpSender, region: uringzc.Region, number: int) -> tuple[int, int]:
        if number < 3:
            kept.append(tx.lease(60_000))
        return soak.lap(tx, region, number)

    with pytest.raises(AssertionError, match="the arena is held"):
        soak.soak(100_000, lap=keeps).check()
