"""Awaitable UdpSender: threads, loops, callbacks, interrupts, and senders that were not closed."""

import asyncio
import contextvars
import gc
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
from awaiting import each_loop, numbered, run, turns
from marks import only_io_uring
from processes import in_thread, run_program

import uringzc.aio
from uringzc import BusyError, SendError, WrongThreadError, testing
from uringzc.aio.waiting import Waiting

pytestmark = only_io_uring


@each_loop
def test_another_thread_is_refused(loop: str) -> None:
    async def main() -> None:
        async with uringzc.aio.UdpSender(rx.address) as tx:
            await turns()  # nothing is remembered of this turn

            def refused(call: Any) -> None:
                async def there() -> None:
                    with pytest.raises(WrongThreadError, match="UdpSender belongs to thread 'MainThread'"):
                        await call()

                # anyio knows by a context variable that a loop runs, which threads inherit without the GIL
                in_thread(lambda: contextvars.Context().run(run, loop, there))

            calls = [
                lambda: tx.send(b"x"),
                lambda: tx.send_many([b"x"]),
                tx.flush,
                tx.drain,
                lambda: tx.lease(1),
                tx.close,
            ]
            for call in calls:
                refused(call)
            await tx.send(b"mine")
            refused(calls[0])
            assert tx.stats.datagrams == 1

    with testing.receiver() as rx:
        run(loop, main)
        assert rx.wait(1) == [b"mine"]


@each_loop
@pytest.mark.parametrize("second", ["asyncio", "trio"])
def test_another_loop_is_refused(loop: str, second: str) -> None:
    """Also after the first one has ended: nothing is taken that nobody would flush."""
    kept: list[uringzc.aio.UdpSender] = []

    async def first() -> None:
        kept.append(await uringzc.aio.UdpSender(rx.address).__aenter__())
        await kept[0].send(b"first")
        await turns()

    async def other() -> None:
        for call in (
            lambda: kept[0].send(b"x"),
            kept[0].flush,
            lambda: kept[0].send_many([b"x"]),
            kept[0].close,
        ):
            with pytest.raises(RuntimeError, match="belongs to the event loop in which it was entered"):
                await call()

    with testing.receiver() as rx:
        run(loop, first)
        run(second, other)
        assert rx.wait(1) == [b"first"]
        kept[0]._sender.close()


@each_loop
def test_a_sender_that_was_not_closed(loop: str) -> None:
    """What it has taken leaves at the end of the turn; it is gone without the collector's help."""

    async def main(sock: socket.socket) -> None:
        tx = await uringzc.aio.UdpSender(rx.address, sock=sock).__aenter__()
        group = tx.group([rx.address])
        await tx.send(b"last")
        del tx, group
        await turns()

    with testing.receiver() as rx, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        gc.disable()
        try:
            with pytest.warns(ResourceWarning, match="UdpSender was not closed"):
                run(loop, main, sock)
        finally:
            gc.enable()
        assert rx.wait(1) == [b"last"]


@pytest.fixture
def refusing() -> tuple[str, int]:
    """Where nobody listens."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        address: tuple[str, int] = sock.getsockname()
        return address


@each_loop
@pytest.mark.parametrize("raises", [LookupError, BlockingIOError])
def test_a_callback_that_raises(loop: str, refusing: tuple[str, int], raises: type[Exception]) -> None:
    """The call raises it in which it runs; at the end of a turn, which is no call, the next one that reports.

    BlockingIOError is what a sender raises that would wait: its call is not repeated for the program's.
    """
    calls = refused = 0

    def on_error(_: SendError) -> None:
        raise raises

    async def main() -> None:
        nonlocal calls, refused
        async with uringzc.aio.UdpSender(refusing, on_error=on_error) as tx:
            for _ in range(20):
                try:
                    calls += 1
                    await tx.send(b"x")
                    await turns()
                    await tx.flush()
                except (LookupError, RuntimeError):
                    refused += 1
            assert tx.stats.datagrams == calls
            with suppress(LookupError, RuntimeError):
                await tx.close()

    run(loop, main)
    assert refused > 3


def test_calls_inside_a_callback_are_refused() -> None:
    found: list[Any] = []

    async def main() -> None:
        def notify(_: object) -> None:
            try:
                tx.send(b"x").send(None)
            except (BusyError, StopIteration) as error:
                found.append(type(error))

        async with uringzc.aio.UdpSender(rx.address, notify=notify, zero_copy="always") as tx:
            await tx.send(numbered(1))
            await tx.drain()

    with testing.receiver() as rx:
        run("asyncio", main)
    assert found
    assert set(found) == {BusyError}


def test_a_socket_that_is_closed_under_it() -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            tx = await uringzc.aio.UdpSender(rx.address, sock=sock).__aenter__()
            await tx.send(b"lost")
        await turns()
        with pytest.raises(OSError, match="closed"):
            await tx.flush()
        with pytest.raises(OSError, match="closed"):
            await tx.close()

    with testing.receiver() as rx:
        run("asyncio", main)


@pytest.mark.slow
@each_loop
def test_an_interrupt_loses_nothing(loop: str) -> None:
    """Ctrl-C in a program that sends, and waits, all the time: everything that send() has returned for."""
    with testing.receiver() as rx:
        out, _ = run_program(
            """
            import os, signal, sys, threading
            from awaiting import numbered, run
            import uringzc.aio
            loop, port = sys.argv[1], int(sys.argv[2])
            sent = 0
            async def main():
                global sent
                async with uringzc.aio.UdpSender(("127.0.0.1", port), pps=20000) as tx:
                    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
                    while True:
                        await tx.send(numbered(sent, 20))
                        sent += 1
            try:
                run(loop, main)
            except BaseException as error:
                while isinstance(error, BaseExceptionGroup if sys.version_info > (3, 11) else ()):
                    error = error.exceptions[0]
                print(type(error).__name__, sent)
            """,
            loop,
            rx.address[1],
        )
        name, count = out.split()
        assert name in ("KeyboardInterrupt", "CancelledError")  # of anyio, before CPython 3.11
        assert int(count) > 100
        assert rx.wait(int(count))[: int(count)] == [numbered(number, 20) for number in range(int(count))]


@pytest.mark.parametrize("kind", [asyncio.SelectorEventLoop, uringzc.aio.new_event_loop])
def test_a_flush_that_is_interrupted_is_made_again(
    kind: Callable[[], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = Waiting._attempt

    def interrupted(waiting: Waiting, call: Any) -> None:
        monkeypatch.setattr(Waiting, "_attempt", attempt)
        raise KeyboardInterrupt

    async def main() -> None:
        await tx.send(b"1")
        await tx.send(b"2")
        await turns()

    loop = kind()
    with testing.receiver() as rx:
        tx = loop.run_until_complete(uringzc.aio.UdpSender(rx.address).__aenter__())
        monkeypatch.setattr(Waiting, "_attempt", interrupted)
        main_task = loop.create_task(main())
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(main_task)
        loop.run_until_complete(main_task)
        assert rx.wait(2) == [b"1", b"2"]
        loop.run_until_complete(tx.close())
        loop.close()


def test_trio_as_a_guest_of_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both run: the sender is the one's whose task enters it."""
    monkeypatch.setattr("trio._core._thread_cache.IDLE_TIMEOUT", 0.001)
    kinds: list[str] = []

    async def guest() -> None:
        async with uringzc.aio.UdpSender(rx.address) as tx:
            kinds.append(type(tx._waiting.loop).__name__)
            await tx.send(b"guest")

    async def host() -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        trio.lowlevel.start_guest_run(
            guest,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=lambda _: ended.set(),
        )
        async with uringzc.aio.UdpSender(rx.address) as tx:
            kinds.append(type(tx._waiting.loop).__name__)
            await tx.send(b"host")
            await tx.flush()
            await ended.wait()

    with testing.receiver() as rx:
        asyncio.run(host())
        assert sorted(rx.wait(2)) == [b"guest", b"host"]
    assert sorted(kinds) == ["AsyncioLoop", "TrioLoop"]
    for thread in threading.enumerate():
        if thread.name.startswith("Trio"):
            thread.join()


def test_it_works_on_a_loop_of_the_program(engine: str) -> None:
    """A loop that runs again and again, as notebooks do."""
    loop = asyncio.new_event_loop()
    with testing.receiver() as rx:
        tx = loop.run_until_complete(uringzc.aio.UdpSender(rx.address).__aenter__())
        for number in range(3):
            loop.run_until_complete(tx.send(numbered(number)))
            loop.run_until_complete(tx.flush())
        loop.run_until_complete(tx.close())
        loop.close()
        assert rx.wait(3) == [*map(numbered, range(3))]
