"""A reap in a signal handler, or an interrupt, between any two steps of a call harms neither."""

import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
from conftest import Pair

import uringzc
from uringzc import scheduler
from uringzc.engines import base, facade

COUNT = 100


@contextmanager
def traced(code: set[str], come: Callable[[FrameType, str], None], opcodes: bool) -> Iterator[None]:
    """`come` is called before every line, or opcode, of the functions in these files."""

    def local(frame: FrameType, event: str, _: Any) -> Any:
        if event == ("opcode" if opcodes else "line"):
            come(frame, event)
        return local

    def enter(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in code:
            return None
        frame.f_trace_opcodes = opcodes
        return local

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        yield
    finally:
        sys.settrace(before)


@contextmanager
def profiled(come: Callable[[str, Any], None]) -> Iterator[None]:
    """`come` is called with "c_call" and "c_return", and the function, around calls of compiled ones."""
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, function: come(event, function))
    try:
        yield
    finally:
        sys.setprofile(before)


@pytest.mark.parametrize("when", ["c_call", "c_return"])
@pytest.mark.parametrize("what", ["completions", "notifications"])
def test_a_reap_around_a_reap_reads_each_record_once(udp_pair: Pair, what: str, when: str) -> None:
    """Each record is read once, and none is invented: nothing comes between counting and reading them."""
    with uringzc.Scheduler([7]) as s:
        for n in range(COUNT):
            s.send(udp_pair.tx, b"x", user_data=n, flush=True)
        s.submit()
        s.drain()
        reap = getattr(s, f"reap_{what}")
        inner: list[Any] = []

        def come(event: str, function: Any) -> None:
            if event == when and function == reap:
                inner.append(list(reap()))  # as a signal handler would

        with profiled(come):
            outer = list(reap())
        assert len(inner) == 1
        assert (len(inner[0]), len(outer)) == ((COUNT, 0) if when == "c_call" else (0, COUNT))
        number = operator.attrgetter("user_data" if what == "completions" else "sequence")
        assert sorted(map(number, [*inner[0], *outer])) == list(range(COUNT))
        kept = "notifications" if what == "completions" else "completions"
        assert len(getattr(s, f"reap_{kept}")()) == COUNT
    udp_pair.receive(COUNT)


def test_an_interrupt_between_any_two_opcodes_leaves_the_engine_free(udp_pair: Pair) -> None:
    """No call after it is refused."""
    files = {base.__file__, facade.__file__, scheduler.__file__}

    class Interrupt(BaseException):
        pass

    def calls(s: uringzc.Scheduler) -> None:
        s.flush(0)
        s.submit()
        s.reap_completions(wait=1, timeout=0)
        s.reap_notifications(wait=1)
        s.drain(1)

    with uringzc.Scheduler() as s:
        sent = left = 0
        while not left:
            steps = sent

            def come(frame: FrameType, event: str) -> None:
                nonlocal steps
                if not steps:
                    steps -= 1
                    raise Interrupt
                steps -= 1

            s.send(udp_pair.tx, b"x")
            sent += 1
            try:
                with traced(files, come, opcodes=True):
                    calls(s)
                left = steps + 1  # the interrupt was still to come: every step had its turn
            except Interrupt:
                assert not s._engine.queue.busy
            calls(s)
    udp_pair.receive(sent)
