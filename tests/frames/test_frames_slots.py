"""The slot rules over frames: random programs agree with the model, and a wrong rule is found."""

import gc
import socket
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from marks import frame_engines, only_packet
from model import Model
from model_programs import MANY, FailureKeepsItOpen, SkippedSlotsCount, TagOfTheFlush, differs
from test_scheduler_model import SchedulerMachine

from uringzc import testing

T = TypeVar("T")


@pytest.fixture
def wide(box: testing.Hold) -> Iterator[testing.Hold]:
    """With an MTU for all the sizes of the programs."""
    box.set_mtu(9000)
    yield box
    box.set_mtu(1500)


def machine(box: testing.Hold) -> type[SchedulerMachine]:
    """A Scheduler inside the sandbox."""

    class Inside(SchedulerMachine):
        def inside(self, call: Callable[[], T]) -> T:
            return box.run(call)

        def receiver_socket(self) -> socket.socket:
            return box.receiver_socket(port=0)

    return Inside


@frame_engines
@pytest.mark.slow
def test_a_scheduler_of_frames_agrees_with_the_model(wide: testing.Hold) -> None:
    run_state_machine_as_test(machine(wide), settings=settings(MANY, max_examples=30, stateful_step_count=50))


@only_packet
@pytest.mark.slow
@pytest.mark.parametrize("wrong", [SkippedSlotsCount, FailureKeepsItOpen, TagOfTheFlush])
def test_control_a_wrong_rule_is_found_over_frames(wide: testing.Hold, wrong: type[Model]) -> None:
    assert differs(type("Wrong", (machine(wide),), {"model_type": wrong}))
    gc.collect()  # what the example that failed has left
