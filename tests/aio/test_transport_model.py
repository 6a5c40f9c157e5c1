"""Random calls of a transport, against a model: everything arrives once and in order, until it is aborted."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from aio_fixtures import loop_param
from congestion import Congestion
from event_loops import KINDS, Endpoints, LoopKind, arrived, turns
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from loop_differences import HAS_CONTROLS
from recorder import Recorder
from traffic import datagram

from uringzc import testing

pytestmark = pytest.mark.engines()

PEERS = 3
SIZES = st.sampled_from([8, 100, 1000, 1000, 1400, 3000])


class Transport(RuleBasedStateMachine):
    """One transport, three receivers, and a network that is stopped and released."""

    kind: LoopKind
    box: testing.Hold

    @initialize(high=st.sampled_from([0, 3000, 1 << 20]))
    def open(self, high: int) -> None:
        self.stack = ExitStack()
        self.box.release()
        self.endpoints = Endpoints(self.kind)
        self.loop = self.endpoints.new_loop()
        self.congestion = Congestion(self.box, self.stack)
        self.receivers = [self.congestion.receiver(9100 + number) for number in range(PEERS)]
        sock = self.congestion.sock(connected=False)
        self.transport: Any
        self.protocol: Recorder
        self.transport, self.protocol = self.run(self.endpoints.open(sock=sock))
        self.transport.set_write_buffer_limits(high=high)
        self.sent: list[list[bytes]] = [[] for _ in range(PEERS)]
        self.came: list[list[bytes]] = [[] for _ in range(PEERS)]
        self.count = 0
        self.ended = ""

    def run(self, main: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(main, 20))

    def in_loop(self, call: Callable[[], object]) -> None:
        async def main() -> None:
            call()

        self.run(main())

    def new(self, to: int, size: int) -> bytes:
        data = datagram(self.count, size)
        self.count += 1
        if not self.ended:
            self.sent[to].append(data)
        return data

    @rule(to=st.integers(0, PEERS - 1), size=SIZES, times=st.integers(1, 40), each=st.booleans())
    def sendto(self, to: int, size: int, times: int, each: bool) -> None:
        """In one turn, to one peer or to one after the other, from memory that is used again."""

        def send() -> None:
            for number in range(times):
                peer = (to + number * each) % PEERS
                buffer = bytearray(self.new(peer, size))
                self.transport.sendto(buffer, self.receivers[peer].getsockname())
                buffer[:] = bytes(size)

        self.in_loop(send)

    @precondition(lambda self: hasattr(self.transport, "sendto_many"))
    @rule(to=st.integers(0, PEERS - 1), sizes=st.lists(SIZES, max_size=30))
    def sendto_many(self, to: int, sizes: list[int]) -> None:
        datagrams = [self.new(to, size) for size in sizes]
        self.in_loop(lambda: self.transport.sendto_many(datagrams, self.receivers[to].getsockname()))

    @rule(count=st.integers(1, 5))
    def turns(self, count: int) -> None:
        self.run(turns(count))

    @rule()
    def stop(self) -> None:
        self.congestion.stop()

    @rule()
    def release(self) -> None:
        self.congestion.release()

    @rule(high=st.sampled_from([0, 1000, 50_000]))
    def limits(self, high: int) -> None:
        if self.ended != "abort":
            self.in_loop(lambda: self.transport.set_write_buffer_limits(high=high))

    @rule()
    def reading(self) -> None:
        def toggle() -> None:
            if self.transport.is_reading():
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

        self.in_loop(toggle)

    @precondition(lambda self: self.kind.ours and self.count > 30)  # asyncio's sends after close too
    @rule(call=st.sampled_from(["close", "close", "abort"]))
    def end(self, call: str) -> None:
        """The first call counts, but for an abort after a close."""
        self.in_loop(getattr(self.transport, call))
        self.ended = "abort" if "abort" in (call, self.ended) else call

    def teardown(self) -> None:
        if not hasattr(self, "transport"):
            return
        try:
            self.congestion.release()
            self.run(self.finish())
        finally:
            self.endpoints.close(self.loop)
            self.stack.close()
        assert self.endpoints.problems == []

    async def finish(self) -> None:
        aborted = self.ended == "abort"
        if not self.ended:
            self.transport.close()
        await self.protocol.called("lost")
        for expected, receiver in zip(self.sent, self.receivers, strict=True):
            found: list[bytes] = []
            while len(found) < len(expected) and not aborted:
                found += arrived(receiver)
                await asyncio.sleep(0.0005)
            await asyncio.sleep(0.002 if aborted else 0)
            found += arrived(receiver)
            assert found == (expected[: len(found)] if aborted else expected)
        calls = [name for name in self.protocol.names if name in ("pause", "resume")]
        assert calls == ["pause", "resume"] * (len(calls) // 2)
        assert self.protocol.of("lost") == [None]
        assert self.protocol.of("error") == []


LOOPS = [
    loop_param(kind) for kind in KINDS if kind.name != "uvloop" and (HAS_CONTROLS or kind.name != "asyncio")
]


@pytest.mark.parametrize("kind", LOOPS)
def test_random_calls(kind: LoopKind, box: testing.Hold, monkeypatch: pytest.MonkeyPatch) -> None:
    """uvloop's own transport sends memory that has changed, and has no pause_reading."""
    if kind.engine:
        monkeypatch.setenv("URINGZC_ENGINE", kind.engine)
    machine = type("OnThisLoop", (Transport,), {"kind": kind, "box": box})
    run_state_machine_as_test(machine, settings=settings(max_examples=40, stateful_step_count=30))
