"""What help() shows of the records that programs read: every field, explained; and old names of fields."""

import dataclasses
import pydoc
import socket
import typing
import warnings
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import pytest

import uringzc
from uringzc import testing
from uringzc.records import explained

pytestmark = pytest.mark.engines()


def records() -> dict[str, type]:
    """The named tuples and dataclasses that are public, and those that a field of one of them can be."""
    found: dict[str, type] = {}

    def add(kind: Any) -> None:
        for inner in typing.get_args(kind):
            add(inner)
        if isinstance(kind, type) and fields(kind) and kind.__name__ not in found:
            found[kind.__name__] = kind
            for field in typing.get_type_hints(kind).values():
                add(field)

    for name in uringzc.__all__:
        add(getattr(uringzc, name))
    return found


def fields(kind: type) -> tuple[str, ...]:
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    return getattr(kind, "_fields", ())


def help_of(kind: type) -> str:
    """What help() shows."""
    return pydoc.plain(pydoc.render_doc(kind))


def unexplained(kind: type) -> Iterator[str]:
    """The fields of which help() says no more than their names."""
    shown = [line.lstrip(" |") for line in help_of(kind).splitlines()]
    for number, name in enumerate(fields(kind)):
        said = any(line.startswith(f"{name}: ") and len(line) > len(name) + 10 for line in shown)
        if not said or f"Alias for field number {number}" in shown:
            yield name


def test_all_public_records_are_checked() -> None:
    assert {*records()} == {
        *("Capabilities", "Completion", "ErrorMessage", "Features", "FramePath", "Limits", "Notification"),
        *("RawCompletion", "Reason", "Route", "Stats", "TcpStats", "TransmitTimestamp"),
        "UdpStats",
    }


@pytest.mark.parametrize("name", records())
def test_help_explains_every_field(name: str) -> None:
    assert [*unexplained(records()[name])] == []


@pytest.mark.parametrize("name", records())
def test_help_shows_types_without_annotated(name: str) -> None:
    assert "Annotated" not in help_of(records()[name])


def test_control_other_records_explain_nothing() -> None:
    class Plain(NamedTuple):
        """A record."""

        size: int  #: of a datagram, in bytes

    @dataclasses.dataclass
    class Data:
        """Another."""

        size: Annotated[int, "of a datagram, in bytes"]

    assert [*unexplained(Plain)] == [*unexplained(Data)] == ["size"]


def test_a_field_that_is_not_explained_is_refused() -> None:
    class Partly(NamedTuple):
        """A record."""

        size: Annotated[int, "of a datagram, in bytes"]
        sort: int

    with pytest.raises(TypeError, match=r"^Partly.sort has no explanation"):
        explained(Partly)


# -- names of before


def used() -> tuple[uringzc.Stats, uringzc.UdpStats, uringzc.TcpStats]:
    """Statistics of what has sent something."""
    with (
        testing.receiver() as rx,
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as stream,
        uringzc.Scheduler() as scheduler,
        uringzc.UdpSender(rx.address, scheduler=scheduler, zero_copy="never") as udp,
        uringzc.TcpSender(stream, scheduler=scheduler) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        scheduler.send(sock, bytes(300), to=rx.address, flush=True)
        udp.send(bytes(20))
        udp.drain()
        tcp.send(bytes(7))
        scheduler.drain()
        scheduler.reap_completions()
        scheduler.reap_notifications()
        return scheduler.stats, udp.stats, tcp.stats


@pytest.mark.engines("io_uring", "msg_zerocopy", "copy")
def test_statistics_count_nbytes() -> None:
    scheduler, udp, tcp = used()
    assert (scheduler.nbytes, udp.nbytes, tcp.nbytes) == (300, 20, 7)
    assert scheduler.nbytes_copied == 300  # loopback copies


def test_old_field_names_warn_and_return_the_same() -> None:
    for stats in used():
        name = type(stats).__name__
        with pytest.warns(DeprecationWarning, match=rf"^{name}.bytes is now {name}.nbytes$") as caught:
            assert stats.bytes == stats.nbytes
        assert caught[0].filename == __file__  # the line that is to be changed
        assert "bytes" not in dataclasses.asdict(stats)
    scheduler, udp, tcp = used()
    with pytest.warns(DeprecationWarning, match=r"^Stats.copied is now Stats.nbytes_copied$"):
        assert scheduler.copied == scheduler.nbytes_copied
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert udp.copied == tcp.copied == 0  # requests, as in a Notification
