"""While the network takes no more: the protocol is paused, resumed on every way out, and nothing is lost."""

import asyncio
import errno
import socket
from typing import Any

import pytest
from congestion import Congestion, numbered, open_congested
from event_loops import Endpoints, arrived, read, settle, turns
from recorder import Recorder

pytestmark = pytest.mark.engines()


async def test_the_protocol_is_paused_and_resumed_and_everything_arrives(
    endpoints: Endpoints, congestion: Congestion
) -> None:
    transport, protocol = await open_congested(endpoints, congestion)
    sent = await congestion.fill(transport, protocol)
    assert protocol.names == ["made", "pause"]
    assert transport.get_write_buffer_size() > 4000
    congestion.release()
    await protocol.called("resume")
    assert transport.get_write_buffer_size() <= 1000
    assert await read(congestion.rx, len(sent)) == sent
    await settle()
    assert transport.get_write_buffer_size() == 0
    assert protocol.names == ["made", "pause", "resume"]


async def test_again_and_again(endpoints: Endpoints, congestion: Congestion) -> None:
    transport, protocol = await open_congested(endpoints, congestion, connected=False)
    count = 0
    for time in range(1, 4):
        sent = await congestion.fill(transport, protocol, congestion.address, first=count)
        count += len(sent)
        congestion.release()
        assert await read(congestion.rx, len(sent)) == sent
        await protocol.called("resume", time)
    assert protocol.names == ["made", *["pause", "resume"] * 3]


async def test_a_limit_of_0_pauses_with_the_first_that_waits(
    endpoints: Endpoints, congestion: Congestion
) -> None:
    transport, protocol = await open_congested(endpoints, congestion, high=0)
    sent = await congestion.fill(transport, protocol)
    assert transport.get_write_buffer_size() > 0
    congestion.release()
    await protocol.called("resume")
    assert transport.get_write_buffer_size() == 0
    assert await read(congestion.rx, len(sent)) == sent


async def test_a_program_that_waits_whenever_it_is_paused(
    endpoints: Endpoints, congestion: Congestion
) -> None:
    """Everything arrives in order, and no more waits than one turn has sent beyond the limit."""
    transport, protocol = await open_congested(endpoints, congestion, high=0)
    most = 0
    congestion.stop()
    sent = [numbered(number) for number in range(2000)]
    for number, data in enumerate(sent):
        transport.sendto(data)
        if number % 10 == 0:
            await turns()
        if protocol.paused:
            most = max(most, transport.get_write_buffer_size())
            congestion.release()
            await protocol.called("resume", len(protocol.of("pause")))
    assert await read(congestion.rx, len(sent)) == sent
    assert protocol.of("pause")
    assert most < 200_000


@pytest.mark.parametrize("kind", [bytearray, memoryview])
async def test_a_buffer_can_be_changed_while_the_datagram_waits(
    endpoints: Endpoints, congestion: Congestion, kind: Any
) -> None:
    transport, protocol = await open_congested(endpoints, congestion, high=100_000)
    buffer = bytearray(1000)
    sent: list[bytes] = []
    congestion.stop()
    while not protocol.paused:
        sent.append(numbered(len(sent)))
        buffer[:] = sent[-1]
        transport.sendto(buffer if kind is bytearray else memoryview(buffer))
        if len(sent) % 50 == 0:
            await turns()
    buffer[:] = b"\xff" * 1000
    congestion.release()
    assert await read(congestion.rx, len(sent)) == sent


async def test_close_sends_what_waits_first(endpoints: Endpoints, congestion: Congestion) -> None:
    transport, protocol = await open_congested(endpoints, congestion)
    sent = await congestion.fill(transport, protocol)
    transport.close()
    transport.sendto(b"too late")
    await settle()
    assert protocol.of("lost") == []
    congestion.release()
    assert await protocol.called("lost") == [None]
    assert await read(congestion.rx, len(sent)) == sent
    assert arrived(congestion.rx) == []
    assert protocol.names == ["made", "pause", "resume", "lost"]


async def test_abort_drops_what_waits(endpoints: Endpoints, congestion: Congestion) -> None:
    transport, protocol = await open_congested(endpoints, congestion)
    sent = await congestion.fill(transport, protocol)
    transport.abort()
    assert await protocol.called("lost") == [None]
    congestion.release()
    await settle()
    came = arrived(congestion.rx)
    assert came == sent[: len(came)]
    assert len(came) < len(sent)
    assert transport.get_write_buffer_size() == 0


async def test_abort_resumes_too(endpoints: Endpoints, congestion: Congestion) -> None:
    """A program that waits for resume_writing, and not for connection_lost, would never go on."""
    transport, protocol = await open_congested(endpoints, congestion)
    await congestion.fill(transport, protocol)
    transport.abort()
    await protocol.called("lost")
    assert protocol.names == ["made", "pause", "resume", "lost"]


async def test_abort_of_a_transport_that_is_closing(endpoints: Endpoints, congestion: Congestion) -> None:
    transport, protocol = await open_congested(endpoints, congestion)
    await congestion.fill(transport, protocol)
    transport.close()
    await turns(2)
    transport.abort()
    assert await protocol.called("lost") == [None]
    await settle()
    assert len(protocol.of("lost")) == 1


async def test_an_error_in_what_waits_does_not_keep_it_paused(
    endpoints: Endpoints, congestion: Congestion
) -> None:
    """The last that waits is too large: the way out of the write path is an error."""
    transport, protocol = await open_congested(endpoints, congestion)
    sent = await congestion.fill(transport, protocol)
    transport.sendto(bytes(70_000))
    congestion.release()
    await protocol.called("resume")
    assert await read(congestion.rx, len(sent)) == sent
    (error,) = await protocol.called("error")
    assert error.errno == errno.EMSGSIZE
    transport.sendto(b"goes on")
    assert await read(congestion.rx) == [b"goes on"]


async def test_an_error_between_others_stops_none(endpoints: Endpoints, congestion: Congestion) -> None:
    transport, protocol = await open_congested(endpoints, congestion, connected=False)
    sent = await congestion.fill(transport, protocol, congestion.address)
    transport.sendto(b"no way there", ("192.0.2.1", 9))
    transport.sendto(bytes(70_000), congestion.address)
    sent.append(numbered(len(sent)))
    transport.sendto(sent[-1], congestion.address)
    congestion.release()
    assert await read(congestion.rx, len(sent)) == sent
    errors = await protocol.called("error", 2)
    assert {error.errno for error in errors} == {errno.ENETUNREACH, errno.EMSGSIZE}
    await protocol.called("resume")


async def test_lower_limits_hold_for_what_waits_already(endpoints: Endpoints, congestion: Congestion) -> None:
    transport, protocol = await open_congested(endpoints, congestion, high=1 << 20)
    congestion.stop()
    for number in range(200):
        transport.sendto(numbered(number))
        if number % 20 == 19:
            await turns()
    await turns(2)
    assert not protocol.paused
    transport.set_write_buffer_limits(high=1000)
    assert protocol.paused
    congestion.release()
    await protocol.called("resume")
    assert len(await read(congestion.rx, 200)) == 200


async def test_limits_of_0_are_above_an_empty_buffer(endpoints: Endpoints, peer: socket.socket) -> None:
    transport, protocol = await endpoints.open()
    transport.set_write_buffer_limits(high=0)
    for _ in range(100):
        transport.sendto(b"x", peer.getsockname())
    await settle()
    assert protocol.names == ["made"]


@pytest.mark.parametrize("method", ["pause_writing", "resume_writing"])
async def test_a_method_of_the_protocol_that_raises_is_reported(
    endpoints: Endpoints, congestion: Congestion, method: str
) -> None:
    class Failing(Recorder):
        pass

    def fail(self: Recorder) -> None:
        self.note(method.removesuffix("_writing"))
        raise LookupError("in " + method)

    setattr(Failing, method, fail)
    transport, protocol = await open_congested(endpoints, congestion, Failing)
    sent = await congestion.fill(transport, protocol)
    congestion.release()
    await protocol.called("resume")
    assert str(endpoints.take_problem()) == "in " + method
    assert await read(congestion.rx, len(sent)) == sent
    transport.sendto(b"goes on")
    assert await read(congestion.rx) == [b"goes on"]


async def test_datagrams_can_be_sent_in_resume_writing(endpoints: Endpoints, congestion: Congestion) -> None:
    class Eager(Recorder):
        def resume_writing(self) -> None:
            self.transport.sendto(b"in resume_writing")
            super().resume_writing()

    transport, protocol = await open_congested(endpoints, congestion, Eager)
    sent = await congestion.fill(transport, protocol)
    congestion.release()
    await protocol.called("resume")
    assert await read(congestion.rx, len(sent) + 1) == [*sent, b"in resume_writing"]


async def test_datagrams_can_be_sent_in_pause_writing(endpoints: Endpoints, congestion: Congestion) -> None:
    class Eager(Recorder):
        def pause_writing(self) -> None:
            super().pause_writing()
            self.transport.sendto(b"in pause_writing")

    transport, protocol = await open_congested(endpoints, congestion, Eager)
    sent = await congestion.fill(transport, protocol)
    congestion.release()
    assert await read(congestion.rx, len(sent) + 1) == [*sent, b"in pause_writing"]


@pytest.mark.parametrize("call", ["close", "abort"])
@pytest.mark.parametrize("method", ["pause_writing", "resume_writing"])
async def test_a_transport_can_be_ended_in_these_methods(
    endpoints: Endpoints, congestion: Congestion, method: str, call: str
) -> None:
    class Ending(Recorder):
        pass

    def end(self: Recorder) -> None:
        self.note(method.removesuffix("_writing"))
        getattr(self.transport, call)()

    setattr(Ending, method, end)
    transport, protocol = await open_congested(endpoints, congestion, Ending)
    sent = await congestion.fill(transport, protocol)
    congestion.release()
    assert await protocol.called("lost") == [None]
    await settle()
    assert len(protocol.of("lost")) == 1
    came = arrived(congestion.rx)
    if call == "close":
        assert came == sent
    else:
        assert came == sent[: len(came)]


async def test_receiving_goes_on_while_it_can_not_send(endpoints: Endpoints, congestion: Congestion) -> None:
    transport, protocol = await open_congested(endpoints, congestion)
    await congestion.fill(transport, protocol)
    for number in range(20):
        congestion.rx.sendto(b"%d" % number, transport.get_extra_info("sockname"))
    await protocol.called("datagram", 20)
    assert protocol.datagrams == [b"%d" % number for number in range(20)]
    assert protocol.paused


def test_a_loop_can_be_closed_while_the_kernel_holds_memory(
    endpoints: Endpoints, congestion: Congestion
) -> None:
    """Without a warning: there is nothing that the program could have done."""

    async def main() -> None:
        transport, protocol = await open_congested(endpoints, congestion)
        await congestion.fill(transport, protocol)
        transport.abort()
        await protocol.called("lost")
        await turns(2)

    loop = endpoints.new_loop()
    loop.run_until_complete(main())
    loop.close()
    assert loop.is_closed()
    congestion.release()


async def test_nothing_spins_while_it_can_not_send(endpoints: Endpoints, congestion: Congestion) -> None:
    """The loop waits for an event; the gate's timer makes one in a ms at most."""
    transport, protocol = await open_congested(endpoints, congestion)
    await congestion.fill(transport, protocol)
    selector = getattr(asyncio.get_running_loop(), "_selector", None)
    if selector is None:
        pytest.skip("turns of uvloop can not be counted")
    calls = 0
    select = selector.select

    def counting(timeout: float | None = None) -> Any:
        nonlocal calls
        calls += 1
        return select(timeout)

    selector.select = counting
    await asyncio.sleep(0.05)
    del selector.select
    assert calls < 200
