"""on_waiting: an event loop learns that a sender has something to flush."""

import sys

import pytest

from uringzc import UdpSender, testing


class Told:
    """Counts the calls."""

    def __init__(self) -> None:
        self.calls: list[None] = []

    def __call__(self) -> None:
        self.calls.append(None)

    def count(self) -> int:
        return len(self.calls)


def test_it_is_called_once_until_the_next_flush() -> None:
    told = Told()
    with testing.receiver() as rx, UdpSender(rx.address, max_delay=None, on_waiting=told) as tx:
        for _ in range(2):
            tx.send(b"first")
            assert told.count() == 1
            tx.send(b"x")  # joins the train, on the fast path
            tx.send(b"longer")  # begins another
            tx.send_many([b"x", b"longer"])
            assert told.count() == 1
            tx.flush()
            told.calls.clear()
        assert rx.wait(10) == 2 * [b"first", b"x", b"longer", b"x", b"longer"]


@pytest.mark.parametrize("how", ["send", "send_many", "lease", "group", "fan_out", "send_region"])
def test_each_call_that_leaves_something_waiting_tells(how: str) -> None:
    told = Told()
    with testing.receiver() as rx, UdpSender(rx.address, max_delay=None, on_waiting=told) as tx:
        assert not told.count()
        if how == "lease":
            lease = tx.lease(4)
            assert not told.count()  # nothing waits yet
            lease.send()
        elif how == "group":
            tx.group([rx.address]).send(b"data")
        elif how == "send_region":
            tx.send_region(b"data")
        elif how == "fan_out":
            tx.fan_out(b"data", [rx.address])
        else:
            getattr(tx, how)(b"data" if how == "send" else [b"data"])
        assert told.count() == 1
        tx.flush()
        assert len(rx.wait(1)) == 1


def test_it_may_flush() -> None:
    with testing.receiver() as rx:
        tx: UdpSender = UdpSender(rx.address, max_delay=None, on_waiting=lambda: tx.flush())
        with tx:
            for number in range(5):
                tx.send(b"%d" % number)
                assert not tx.stats.waiting
            assert rx.wait(5) == [b"0", b"1", b"2", b"3", b"4"]


def test_what_it_raises_comes_out_of_the_call_and_the_datagram_is_taken() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with testing.receiver() as rx, UdpSender(rx.address, max_delay=None, on_waiting=fail) as tx:
        with pytest.raises(ZeroDivisionError):
            tx.send(b"taken")
        tx.flush()
        assert rx.wait(1) == [b"taken"]


def test_an_error_of_the_datagram_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a call that took one, and refuses the next. The other is not lost."""
    unraisable: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: unraisable.append(args.exc_type))

    def fail() -> None:
        raise ZeroDivisionError

    with testing.receiver() as rx, UdpSender(rx.address, max_delay=None, on_waiting=fail) as tx:
        with pytest.raises(TypeError):
            tx.send_many([b"taken", 1])  # type: ignore[list-item]
        assert unraisable == [ZeroDivisionError]
        tx.flush()
        assert rx.wait(1) == [b"taken"]


def test_full_trains_leave_before_the_flush() -> None:
    """64 KiB at once; without the callback they would wait for a larger batch."""
    for told in (Told(), None):
        with testing.receiver() as rx, UdpSender(rx.address, max_delay=None, on_waiting=told) as tx:
            tx.send(bytes(1000))
            tx.flush()
            sent = 0
            while tx.stats.waiting == sent and sent < 200:
                tx.send(bytes(1000))
                sent += 1
            assert (sent < 100) == (told is not None)
            tx.flush()
            assert len(rx.wait(1 + sent)) == 1 + sent


def test_it_has_to_be_callable() -> None:
    with pytest.raises(TypeError, match="on_waiting is a function or None"):
        UdpSender(("127.0.0.1", 9), on_waiting=1)  # type: ignore[arg-type]
