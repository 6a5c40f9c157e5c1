"""Copy or zero-copy: the policy's decisions, alone and on devices that copy and that do not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import uringzc
from uringzc import testing
from uringzc.senders.policy import MAX_PAUSE, NEVER, PAUSE, TRIAL, Decision, Policy

pytestmark = pytest.mark.engines()


@pytest.mark.parametrize(("mode", "zero_copy"), [("always", True), ("never", False)])
def test_always_and_never_are_obeyed(mode: str, zero_copy: bool) -> None:
    policy = Policy(mode)
    assert policy.start() == Decision(zero_copy, NEVER)
    assert policy.observe(10, 10) == policy.observe(10, 0) == Decision(zero_copy, NEVER)


def test_where_the_kernel_copies_trials_get_rarer() -> None:
    policy = Policy("auto")
    assert policy.start() == Decision(True, TRIAL)
    pauses = []
    for _ in range(12):
        decision = policy.observe(TRIAL, TRIAL)
        assert not decision.zero_copy
        assert policy.copying
        pauses.append(decision.requests)
        assert policy.observe(0, 0).zero_copy  # the pause is over: a few zero-copy requests
    assert pauses[:3] == [PAUSE, 2 * PAUSE, 4 * PAUSE]
    assert pauses[-1] == MAX_PAUSE


def test_one_copy_among_many_changes_nothing() -> None:
    policy = Policy("auto")
    for _ in range(10):
        assert policy.observe(10, 4) == Decision(True, PAUSE)
    assert not policy.copying


def test_a_network_that_no_longer_copies_is_found() -> None:
    policy = Policy("auto")
    assert not policy.observe(TRIAL, TRIAL).zero_copy
    assert not policy.observe(TRIAL, TRIAL).zero_copy
    assert policy.observe(TRIAL, 0) == Decision(True, PAUSE)
    assert not policy.copying
    assert policy.observe(TRIAL, TRIAL) == Decision(False, PAUSE)  # and the pauses begin short again


@given(st.lists(st.integers(0, 100).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))))
def test_zero_copy_is_always_tried_again(seen: list[tuple[int, int]]) -> None:
    policy = Policy("auto")
    for settled, copied in seen:
        decision = policy.observe(settled, copied)
        assert 0 < decision.requests <= MAX_PAUSE
        assert decision.zero_copy or 2 * copied >= settled > 0


def datagrams(tx: uringzc.UdpSender, count: int) -> uringzc.UdpStats:
    tx.send_many([bytes(1400)] * count)
    tx.drain(10)
    return tx.stats


@testing.requires("send_zc")
def test_on_loopback_the_sender_copies() -> None:
    with testing.receiver(limit=0) as rx, uringzc.UdpSender(rx.address) as tx:
        stats = datagrams(tx, 46 * 1000)
        assert 0 < stats.zero_copy < stats.requests / 2
        assert stats.copied == stats.zero_copy
        assert (stats.copying, stats.destinations) == (1, 1)
        assert "copies are sent there" in tx.explain()


@testing.requires("send_zc")
def test_to_a_device_that_does_not_copy_the_sender_sends_zero_copy(sink: testing.Sandbox) -> None:
    with sink.run(lambda: uringzc.UdpSender(sink.address)) as tx:
        stats = datagrams(tx, 46 * 1000)
        assert stats.zero_copy == stats.requests > 900
        assert (stats.copied, stats.copying) == (0, 0)
        assert f"{tx._engine.min_zero_copy} bytes and more are zero-copy" in tx.explain()


@testing.requires("net_admin")
@testing.requires("send_zc")
def test_a_device_that_loses_its_offload_is_noticed_and_so_is_its_return() -> None:
    with testing.sink() as box, box.run(lambda: uringzc.UdpSender(box.address)) as tx:
        assert datagrams(tx, 46 * 100).copying == 0
        box.offload(checksum=False)
        assert datagrams(tx, 46 * 1000).copying == 1
        box.offload(checksum=True)
        before = tx.stats.copied
        after = datagrams(tx, 46 * 2000)
        assert after.copying == 0
        assert after.copied == before
