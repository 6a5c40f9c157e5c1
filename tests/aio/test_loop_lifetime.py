"""Loops that end, stop, run again, run in threads and in debug mode; transports that nobody closed; fork."""

import asyncio
import gc
import os
import socket
import threading
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from event_loops import LOCAL, Endpoints, arrived, descriptors, read, settle, turns
from processes import fork, run_program
from recorder import Recorder

from uringzc import ClosedError

pytestmark = pytest.mark.engines()


@contextmanager
def unclosed() -> Iterator[list[str]]:
    """The transports that warn in the block, or when it is left, that they were not closed."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield found
        gc.collect()
        messages = [str(one.message) for one in caught if issubclass(one.category, ResourceWarning)]
        found += [text for text in messages if "unclosed" in text and "ransport" in text]
        caught.clear()  # they keep what they are about
        gc.collect()


@pytest.mark.parametrize("datagrams", [0, 3])
def test_a_transport_that_was_not_closed_warns_and_closes_its_socket(
    datagrams: int, endpoints: Endpoints, peer: socket.socket
) -> None:
    """What it sends with goes too, and is not kept by what its loop's transports share."""
    before = descriptors()
    loop = endpoints.new_loop()

    async def main() -> None:
        transport, _ = await endpoints.kind.create(Recorder, local_addr=LOCAL)
        for _ in range(datagrams):
            transport.sendto(b"sent", peer.getsockname())
        await turns(1)

    with unclosed() as found:
        loop.run_until_complete(main())
        loop.close()
        del loop
    assert len(found) == 1
    assert descriptors() == before


def test_a_loop_is_closed_with_open_transports(endpoints: Endpoints, peer: socket.socket) -> None:
    """What was sent before has left; what the program does with them then does not hang or crash."""
    if endpoints.kind.function:
        pytest.skip("such a loop does not say that it is closed: its transports have to be closed before")
    loop = endpoints.new_loop()

    async def main() -> Any:
        transport, protocol = await endpoints.kind.create(Recorder, remote_addr=peer.getsockname())
        transport.sendto(b"sent")
        return transport, protocol

    with unclosed() as found:
        transport, protocol = loop.run_until_complete(main())
        loop.close()
        assert arrived(peer) == [b"sent"]
        for name, *arguments in (("sendto", b"late"), ("abort",), ("close",), ("is_closing",)):
            try:
                getattr(transport, name)(*arguments)
            except RuntimeError as error:  # asyncio's, or uvloop's
                if "closed" not in str(error):
                    raise
        assert repr(transport)
        del transport, protocol, loop
    assert len(found) <= 1


def test_a_loop_runs_again_and_again(endpoints: Endpoints, peer: socket.socket) -> None:
    loop = endpoints.new_loop()
    try:
        transport, protocol = loop.run_until_complete(endpoints.open())
        for number in range(5):
            transport.sendto(b"%d" % number, peer.getsockname())
            assert loop.run_until_complete(read(peer)) == [b"%d" % number]
            peer.sendto(b"%d" % number, transport.get_extra_info("sockname"))
            loop.run_until_complete(protocol.called("datagram", number + 1))
        assert protocol.datagrams == [b"0", b"1", b"2", b"3", b"4"]
    finally:
        endpoints.close(loop)


def test_loops_follow_each_other(endpoints: Endpoints, peer: socket.socket) -> None:
    async def main() -> None:
        transport, protocol = await endpoints.open(remote_addr=peer.getsockname())
        transport.sendto(b"x")
        transport.close()
        await protocol.called("lost")

    for _ in range(5):
        endpoints.run(main())
    assert arrived(peer) == [b"x"] * 5


class Echo(Recorder):
    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)


def in_threads(*functions: Any) -> None:
    """Runs all of them at once; raises what they raise."""
    errors: list[BaseException] = []

    def call(function: Any) -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=call, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_loop_in_a_thread(endpoints: Endpoints, peer: socket.socket) -> None:
    async def main() -> None:
        transport, _ = await endpoints.open(remote_addr=peer.getsockname())
        for number in range(100):
            transport.sendto(b"%d" % number)
        assert await read(peer, 100) == [b"%d" % number for number in range(100)]

    in_threads(lambda: endpoints.run(main()))


def test_two_loops_in_two_threads(endpoints: Endpoints) -> None:
    """One asks, the other one answers."""
    address: list[Any] = []
    ready, done = threading.Event(), threading.Event()
    other = Endpoints(endpoints.kind)

    async def serve() -> None:
        transport, _ = await other.open(Echo)
        address.append(transport.get_extra_info("sockname"))
        ready.set()
        while not done.is_set():
            await asyncio.sleep(0.001)

    async def ask() -> None:
        try:
            transport, protocol = await endpoints.open(remote_addr=address[0])
            sent = [b"%d" % number for number in range(2000)]
            for at in range(0, 2000, 50):
                for data in sent[at : at + 50]:
                    transport.sendto(data)
                await protocol.called("datagram", at + 50)
            assert protocol.datagrams == sent
        finally:
            done.set()

    def second() -> None:
        assert ready.wait(10)
        endpoints.run(ask())

    in_threads(lambda: other.run(serve()), second)


def test_datagrams_are_sent_from_other_threads_by_the_loop(endpoints: Endpoints, peer: socket.socket) -> None:
    async def main() -> None:
        transport, _ = await endpoints.open(remote_addr=peer.getsockname())
        loop = asyncio.get_running_loop()
        thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(transport.sendto, b"from there"))
        thread.start()
        assert await read(peer) == [b"from there"]
        thread.join()

    endpoints.run(main())


async def test_in_debug_mode(
    endpoints: Endpoints, peer: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    asyncio.get_running_loop().set_debug(True)
    transport, protocol = await endpoints.open(Echo)
    for number in range(20):
        peer.sendto(b"%d" % number, transport.get_extra_info("sockname"))
    assert await read(peer, 20) == [b"%d" % number for number in range(20)]
    if hasattr(transport, "pause_reading"):
        transport.pause_reading()
        transport.resume_reading()
    transport.close()
    await protocol.called("lost")
    await settle()
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


PROGRAM = """
import asyncio, gc, os, sys, socket
import uringzc.aio
class Protocol(asyncio.DatagramProtocol):
    pass
def new_loop():
    if sys.argv[2] == "uringzc":
        return uringzc.aio.new_event_loop()
    if sys.argv[2] == "uringzc-uvloop":
        import uvloop
        return uringzc.aio.new_event_loop(uvloop.Loop)
    return asyncio.SelectorEventLoop()
def create():
    function = asyncio.get_running_loop().create_datagram_endpoint
    if sys.argv[2] == "function":
        function = uringzc.aio.create_datagram_endpoint
    return function(Protocol, remote_addr=("127.0.0.1", int(sys.argv[1])))
def run(main):
    loop = new_loop()
    loop.run_until_complete(main)
    loop.close()
"""

FORK = """
async def main(text):
    transport, _ = await create()
    transport.sendto(text)
    transport.close()
    await asyncio.sleep(0.01)
async def parent():
    transport, _ = await create()
    transport.sendto(b"gathered")
    pid = os.fork()  # in the turn of the sendto
    if not pid:
        if %r == "a loop of its own":
            asyncio._set_running_loop(None)
            run(main(b"child"))
        elif %r == "an exit":
            transport = None
            gc.collect()
            sys.exit(0)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    transport.sendto(b"parent")
    transport.close()
    await asyncio.sleep(0.01)
run(parent())
"""


def program_kind(endpoints: Endpoints) -> str:
    return endpoints.kind.name.replace("-msg_zerocopy", "")


@pytest.mark.parametrize("child", ["_exit", "a loop of its own"])
def test_a_child_of_a_running_loop(endpoints: Endpoints, peer: socket.socket, child: str) -> None:
    """What was gathered before leaves once, from the parent, which goes on."""
    if endpoints.kind.name == "uvloop":
        pytest.skip("the program has no such loop")
    run_program(PROGRAM + FORK % (child, child), peer.getsockname()[1], program_kind(endpoints))
    expected = [b"child"] if child == "a loop of its own" else []
    assert sorted(arrived(peer)) == sorted([*expected, b"gathered", b"parent"])


@pytest.mark.parametrize("gathered", [0, 1, 3])  # the first datagram of a transport leaves without a sender
async def test_a_transport_sends_nothing_in_the_child_of_a_fork(
    endpoints: Endpoints, peer: socket.socket, gathered: int
) -> None:
    if not endpoints.ours:
        pytest.skip("a stock transport sends there too")
    transport, _ = await endpoints.open(remote_addr=peer.getsockname())
    for _ in range(gathered):
        transport.sendto(b"gathered")
    if not (pid := fork()):
        code = 1
        with suppress(BaseException):
            for send in (transport.sendto, lambda data: transport.sendto_many([data, data])):
                with pytest.raises(ClosedError, match="belongs to the parent"):
                    send(b"child")
            transport.flush()
            transport.close()
            code = len(endpoints.problems)
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    transport.sendto(b"parent")
    assert await read(peer, gathered + 1) == [b"gathered"] * gathered + [b"parent"]


def test_a_program_in_development_mode_has_nothing_to_complain(
    endpoints: Endpoints, peer: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    if endpoints.kind.name == "uvloop":
        pytest.skip("the program has no such loop")
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    program = """
async def main():
    asyncio.get_running_loop().slow_callback_duration = 60  # the machine may be busy
    transport, _ = await create()
    for number in range(10):
        transport.sendto(b"%d" % number)
    transport.close()
    await asyncio.sleep(0.01)
run(main())
gc.collect()
"""
    out, err = run_program(PROGRAM + program, peer.getsockname()[1], program_kind(endpoints))
    assert (out, err) == ("", "")
    assert arrived(peer) == [b"%d" % number for number in range(10)]


async def test_a_transport_that_is_closed_and_dropped_is_freed(
    endpoints: Endpoints, peer: socket.socket
) -> None:
    """At the latest by a collection."""
    transport, protocol = await endpoints.kind.create(Recorder, remote_addr=peer.getsockname())
    transport.sendto(b"x")
    transport.close()
    await protocol.called("lost")
    await turns(3)
    freed = weakref.ref(protocol)
    del transport, protocol
    gc.collect()
    assert freed() is None
