"""The soak test, for a second; its accounts, and the controls: what it would find."""

import dataclasses
import os
import random

import pytest

pytest.importorskip("rich")

from proofs.soak import measures
from proofs.soak.__main__ import Leak
from proofs.soak.ledger import MIN_SIZE, Ledger, datagram, recognise
from proofs.soak.loops import LoopUser
from proofs.soak.measures import Sample
from proofs.soak.program import engines_here, program
from uringzc import testing

pytestmark = [pytest.mark.engines(), pytest.mark.filterwarnings("ignore::ResourceWarning")]
STEPS = 12


@testing.requires("net_admin")
def test_a_short_soak_holds() -> None:
    """Each kind of user and of fault is in the two minutes that CI runs."""
    engines = [name for name, why in engines_here().items() if not why]
    with program("a test", engines, faulty=False) as running:
        for _ in range(STEPS):
            running.step()
        ledger = running.world.ledger
        assert (dict(ledger.wrong), ledger.excused, ledger.lost) == ({}, 0, 0), ledger.examples
        assert ledger.arrived == ledger.datagrams
        assert running.world.operations > 0


@testing.requires("net_admin")
def test_a_user_that_lasts_has_its_descriptors_before_it_waits() -> None:
    """Else the minute in which it does so for the first time looks like one with a leak."""
    with program("waits", ["copy"], faulty=False) as running:
        user = next(user for user in running.lasting if isinstance(user, LoopUser))
        before = len(os.listdir("/proc/self/fd"))
        user.tx._waiting._watch()
        user.transport._block()
        assert len(os.listdir("/proc/self/fd")) == before
        user.tx._waiting._unwatch()
        user.transport._unblock()


@testing.requires("net_admin")
def test_the_seed_decides_what_is_done() -> None:
    def play() -> list[object]:
        with program(7, ["copy"], faulty=False) as running:
            for _ in range(4):
                running.step()
            return [running.world.operations, running.world.ledger.datagrams, running.world.ledger.nbytes]

    assert play() == play()


# -- what became of each datagram


@pytest.fixture
def ledger() -> Ledger:
    made = Ledger()
    assert made.open() == 1
    return made


def test_what_arrives_is_settled(ledger: Ledger) -> None:
    for data in [ledger.make(1, size, 0) for size in (MIN_SIZE, 1000)]:
        ledger.arrive(data, 0)
    ledger.settle(1, False, "a test")
    assert (ledger.arrived, dict(ledger.wrong)) == (2, {})


@pytest.mark.parametrize("kind", ["lost", "duplicate", "changed", "not sent", "elsewhere"])
def test_control_what_must_not_happen_is_seen(ledger: Ledger, kind: str) -> None:
    data = ledger.make(1, 1000, 0)
    if kind == "changed":
        data = data[:500] + bytes([data[500] ^ 1]) + data[501:]
    if kind == "not sent":
        ledger.arrive(datagram(1, 1, 100), 0)
    if kind != "lost":
        ledger.arrive(data, int(kind == "elsewhere"))
    if kind == "duplicate":
        ledger.arrive(data, 0)
    ledger.settle(1, False, "a test")
    assert ledger.wrong[kind if kind != "elsewhere" else "duplicate"] == 1


def test_what_was_reported_or_dropped_by_a_fault_is_not_lost(ledger: Ledger) -> None:
    late = [ledger.make(1, 100, receiver) for receiver in (0, 1)][1]
    ledger.report(1, 0)
    ledger.settle(1, True, "a test")
    ledger.arrive(late, 1)
    assert (ledger.lost, ledger.excused, ledger.late, dict(ledger.wrong)) == (1, 1, 1, {})


def test_every_byte_is_compared() -> None:
    data = datagram(3, 2**40, 300)
    assert recognise(data) == (3, 2**40)
    for at in range(300):
        assert recognise(data[:at] + bytes([data[at] ^ 64]) + data[at + 1 :]) != (3, 2**40)


# -- what has grown

FLAT = Sample(**{field.name: 0 for field in dataclasses.fields(Sample)})


def run_of(**slopes: float) -> list[Sample]:
    """Two minutes with noise; `slopes`: for each operation."""
    chance = random.Random(1)
    samples = []
    for i in range(13):
        operations = i * 600_000
        grown = {name: 100_000 + int(slope * operations) for name, slope in slopes.items()}
        grown.setdefault("blocks", 100_000)
        grown["blocks"] += chance.randrange(300)
        samples.append(dataclasses.replace(FLAT, seconds=10.0 * i, operations=operations, **grown))
    return samples


def test_nothing_has_grown() -> None:
    assert measures.grown(run_of()) == {}
    assert measures.grown(run_of(rss=0.001)) == {}  # some MiB are allowed


@pytest.mark.parametrize(
    "slopes",
    [{"blocks": 1 / 1000}, {"malloc": 64 / 1000}, {"rss": 0.004}, {"descriptors": 1e-6}, {"pinned": 1e-5}],
)
def test_control_a_leak_is_seen(slopes: dict[str, float]) -> None:
    assert list(measures.grown(run_of(**slopes))) == list(slopes)


def test_control_a_single_descriptor_that_is_lost_is_seen() -> None:
    """Not one that was open in a single moment."""
    for lost, seen in ((range(3, 4), []), (range(3, 13), ["descriptors"]), (range(8, 13), ["descriptors"])):
        samples = run_of()
        for at in lost:
            samples[at].descriptors += 1
        assert list(measures.grown(samples)) == seen


@pytest.mark.uninstrumented("CPython counts no blocks that malloc makes")
@testing.requires("net_admin")
def test_control_a_leak_of_a_real_run_is_seen() -> None:
    """An object for every three operations, so that a second is enough; proofs.soak --leak 1000 for hours."""
    leak, samples = Leak(3), []
    with program("leaks", ["copy"], faulty=False) as running:
        for i in range(8):
            for _ in range(3):
                running.step()
            leak.go_on(running.world.operations)
            with running.settled():
                samples.append(measures.sample(running, 0.0))
            samples[-1].seconds = float(i)
    assert "blocks" in measures.grown(samples)
