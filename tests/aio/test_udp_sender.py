"""The awaitable UdpSender: its calls are the plain sender's, and what they took leaves by itself."""

import socket
import threading
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from awaiting import each_loop, numbered, run, turns
from marks import only_io_uring

import uringzc.aio
from uringzc import SendError, UdpSender, testing


@each_loop
def test_what_is_sent_arrives_in_order(loop: str) -> None:
    async def main() -> None:
        async with uringzc.aio.UdpSender(rx.address) as tx:
            for number in range(300):
                assert await tx.send(numbered(number)) == 1400
            assert await tx.send(b"", rx.address) == 0
            assert await tx.send(data=bytearray(b"named"), to=rx.address) == 5
            large = b"l" * 20000
            assert await tx.send(large) == 20000
        assert tx.closed
        assert tx.stats.datagrams == 303

    with testing.receiver() as rx:
        run(loop, main)
        assert rx.wait(303) == [*map(numbered, range(300)), b"", b"named", b"l" * 20000]


@each_loop
def test_datagrams_leave_at_the_end_of_the_turn(loop: str) -> None:
    """Not before, as one train; and without anybody who flushes or closes."""

    async def main() -> None:
        async with uringzc.aio.UdpSender(rx.address) as tx:
            for one in range(3):
                for _ in range(10):
                    await tx.send(b"data")
                assert tx.stats.waiting == 10
                assert rx.count == one * 10
                await turns()
                assert tx.stats.waiting == 0
                rx.wait(one * 10 + 10)
            assert tx.stats.trains[8] == 3

    with testing.receiver() as rx:
        run(loop, main)


@only_io_uring
@each_loop
def test_send_many_reads_an_iterable_once(loop: str) -> None:
    read: list[int] = []

    def generated(count: int) -> Iterator[bytes]:
        for number in range(count):
            read.append(number)
            yield numbered(number, 20)

    async def main() -> None:
        async with uringzc.aio.UdpSender(rx.address) as tx:
            assert await tx.send_many(generated(5000)) == 5000
            assert await tx.send_many([b"a", b"b"], rx.address) == 2
            assert await tx.send_many((b"c", b"d"), iter([rx.address, rx.address])) == 2
            assert await tx.send_many([]) == 0

    with testing.receiver() as rx:
        run(loop, main)
        assert read == [*range(5000)]
        assert rx.wait(5004)[5000:] == [b"a", b"b", b"c", b"d"]


@only_io_uring
def test_an_error_ends_send_many_and_what_came_before_is_sent() -> None:
    def generated() -> Iterator[bytes]:
        yield b"0"
        yield b"1"
        raise LookupError

    async def main() -> None:
        async with uringzc.aio.UdpSender(rx.address) as tx:
            with pytest.raises(LookupError):
                await tx.send_many(generated())
            with pytest.raises(ValueError, match="more datagrams than the 1 addresses"):
                await tx.send_many([b"2", b"never"], [rx.address])
            with pytest.raises(TypeError):
                await tx.send_many([b"3", "no bytes"])  # type: ignore[list-item]
            with pytest.raises(ValueError, match="is a name"):
                await tx.send_many([b"never"], ("localhost", 9))

    with testing.receiver() as rx:
        run("asyncio", main)
        assert rx.wait(4) == [b"0", b"1", b"2", b"3"]


@each_loop
def test_group_fan_out_lease_and_memory(loop: str) -> None:
    """What else a plain sender has."""

    async def main() -> None:
        async with uringzc.aio.UdpSender(family=socket.AF_INET) as tx:
            group = tx.group([first.address])
            group.add(second.address)
            assert (len(group), list(group)) == (2, [first.address, second.address])
            assert await group.send(b"both") == 4
            assert await group.send_many(iter([b"too", b"also"])) == 2
            group.remove(second.address)
            assert second.address not in group
            await group.send(b"first")
            notifier = await tx.fan_out(b"fan", [first.address, second.address])
            lease = await tx.lease(5)
            lease.view[:] = b"lease"
            assert await lease.send(to=second.address) == 5
            with await tx.lease(10) as unsent:
                assert len(unsent) == 10
            region = tx.register(bytearray(b"region"))
            progress: list[int] = []
            to = first.address
            assert await tx.send_region(region, 0, 6, 3, to, progress=progress.append) == 2
            assert await tx.send_region(b"", to=to) == 1
            assert await tx.send_slices(b"slices", [0, 3], [3, 3], to, progress=progress.append) == 2
            assert progress[-1] == 2
            await tx.drain()
            assert notifier.done
            region.close()

    with testing.receiver() as first, testing.receiver() as second:
        run(loop, main)
        both = [b"both", b"too", b"also"]
        assert first.wait(10) == [*both, b"first", b"fan", b"reg", b"ion", b"", b"sli", b"ces"]
        assert second.wait(5) == [*both, b"fan", b"lease"]


@each_loop
def test_names_are_looked_up_beside_the_loop(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of `remote` and `bind`, when it is entered; elsewhere they are refused."""
    if loop == "trio":  # its threads stay for so many seconds
        monkeypatch.setattr("trio._core._thread_cache.IDLE_TIMEOUT", 0.001)
    where: list[threading.Thread] = []
    getaddrinfo = socket.getaddrinfo

    def watched(host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Any:
        if not flags & socket.AI_NUMERICHOST:
            where.append(threading.current_thread())
        return getaddrinfo(host, port, family, type, proto, flags)

    monkeypatch.setattr(socket, "getaddrinfo", watched)

    async def main() -> None:
        name = "localhost", rx.address[1]
        async with uringzc.aio.UdpSender(name, bind=("localhost", 0), family=socket.AF_INET) as tx:
            assert tx.sock.getsockname()[0] == "127.0.0.1"
            await tx.send(b"by name")
            assert await tx.resolve(name) == rx.address
            assert await tx.resolve(("127.0.0.1", 9)) == ("127.0.0.1", 9)
            group = tx.group()
            for refused in (lambda: tx.send(b"x", name), lambda: tx.fan_out(b"x", [name])):
                with pytest.raises(ValueError, match="resolve"):
                    await refused()
            with pytest.raises(ValueError, match="resolve"):
                group.add(name)
            with pytest.raises(socket.gaierror, match=r"no\.such\.host\.invalid"):
                await tx.resolve(("no.such.host.invalid", 9))
            with pytest.raises(ValueError, match="a host has no NUL character"):
                await tx.resolve(("localhost\0.example", 9))
            assert tx.stats.datagrams == 1

    with testing.receiver() as rx:
        run(loop, main)
        assert rx.wait(1) == [b"by name"]
    for thread in {*threading.enumerate()} & {*where}:
        assert thread is not threading.main_thread()
        thread.join()
    assert where or loop == "uvloop"  # which does not call this


@only_io_uring
def test_options_that_are_the_loops_are_refused() -> None:
    for option in ("blocking", "max_delay", "on_waiting"):
        with pytest.raises(TypeError, match=f"{option} is no option here"):
            uringzc.aio.UdpSender(("127.0.0.1", 9), **{option: None})

    async def main() -> None:
        for options in ({"zero_copy": "maybe"}, {"nonsense": 1}):
            with pytest.raises((TypeError, ValueError)):
                async with uringzc.aio.UdpSender(("127.0.0.1", 9), **options):
                    pass

    run("asyncio", main)


@only_io_uring
@each_loop
def test_errors_without_on_error_are_raised_by_the_next_flush(loop: str) -> None:
    """Also one that came while nobody awaited anything."""

    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
            gone.bind(("127.0.0.1", 0))
            address = gone.getsockname()
        async with uringzc.aio.UdpSender(address) as tx:
            for _ in range(3):
                await tx.send(b"x")
                await turns()
            with pytest.raises(SendError):
                await tx.flush()
            await tx.send(b"x")
            await turns()
            await tx.send(b"x")
            with pytest.raises(SendError):
                await tx.drain()

    run(loop, main)


@only_io_uring
def test_errors_are_given_to_on_error() -> None:
    found: list[SendError] = []

    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
            gone.bind(("127.0.0.1", 0))
            address = gone.getsockname()
        async with uringzc.aio.UdpSender(address, on_error=found.append) as tx:
            for _ in range(3):
                await tx.send(b"x")
                await turns()
            assert found
            assert isinstance(tx.errors(), list)

    run("asyncio", main)


@only_io_uring
@each_loop
def test_a_rate_is_kept(loop: str) -> None:
    """The bucket says when: a task that finds enough waiting waits for it, and others run meanwhile."""
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await anyio.sleep(0.001)

    async def main() -> None:
        async with (
            uringzc.aio.UdpSender(rx.address, pps=1000, burst=10) as tx,
            anyio.create_task_group() as tg,
        ):
            tg.start_soon(tick)
            for number in range(60):
                await tx.send(numbered(number, 10))
            tx.set_rate()
            await tx.drain()
            tg.cancel_scope.cancel()
            assert tx.stats.waiting == 0

    with testing.receiver() as rx:
        run(loop, main)
        assert rx.wait(60) == [numbered(number, 10) for number in range(60)]
    assert ticks > 3


@only_io_uring
def test_it_shows_what_the_plain_sender_shows() -> None:
    async def main() -> None:
        tx = uringzc.aio.UdpSender(rx.address)
        assert repr(tx) == "<uringzc.aio.UdpSender>"
        assert not tx.closed
        with pytest.raises(RuntimeError, match="was not entered"):
            await tx.send(b"x")
        await tx.close()
        async with tx:
            assert "0 datagrams" in repr(tx)
            assert "io_uring" in tx.explain()
            assert tx.sock.getpeername() == rx.address
            with pytest.raises(RuntimeError, match="entered before"):
                await tx.__aenter__()
        assert "closed" in repr(tx)

    with testing.receiver() as rx:
        run("asyncio", main)
    with pytest.raises(RuntimeError, match="no event loop runs"):
        uringzc.aio.UdpSender(("127.0.0.1", 9)).__aenter__().send(None)


def test_control_the_plain_sender_does_look_names_up() -> None:
    with testing.receiver() as rx, UdpSender(family=socket.AF_INET) as tx:
        tx.send(b"x", ("localhost", rx.address[1]))
        tx.flush()
        assert rx.wait(1) == [b"x"]
