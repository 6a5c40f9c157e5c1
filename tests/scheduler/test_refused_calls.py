"""A call that is refused says what refused it: the object that was called, the threads, and what to do."""

import _thread
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from conftest import MakePair, Pair
from marks import zero_copy_engines
from processes import fork, in_thread
from traffic import stopped

import uringzc
from uringzc import errors, testing

#: what a program holds, how it is made, and a call of it
Holder = uringzc.Scheduler | uringzc.Ring | uringzc.UdpSender | uringzc.TcpSender
HOLDERS = ["Scheduler", "Ring", "UdpSender", "TcpSender"]
VERB = {"Scheduler": "submitted", "Ring": "submitted", "UdpSender": "sent", "TcpSender": "sent"}


class Made:
    """One of them, connected, and the scheduler that it shares, if it shares one."""

    def __init__(self, name: str, pair: Pair, shared: uringzc.Scheduler | None = None) -> None:
        self.sock = pair.tx
        self.it: Any
        if name == "UdpSender":
            self.it = uringzc.UdpSender(sock=pair.tx, scheduler=shared)
        elif name == "TcpSender":
            self.it = uringzc.TcpSender(pair.tx, scheduler=shared)
        else:
            self.it = getattr(uringzc, name)()

    def send(self) -> None:
        """Has the kernel take 4 bytes; the first such call makes the thread the owner."""
        if isinstance(self.it, (uringzc.Scheduler, uringzc.Ring)):
            self.it.send(self.sock, b"data")
            self.it.submit()
            self.it.drain()
        else:
            self.it.send(b"data")
            self.it.drain()


Make = Callable[..., Made]


@pytest.fixture
def make(make_udp: MakePair, make_tcp: MakePair) -> Iterator[Make]:
    with ExitStack() as stack:

        def one(name: str, shared: uringzc.Scheduler | None = None) -> Made:
            if name == "Ring" and (reason := testing.missing("send_zc")):
                pytest.skip(reason)
            made = Made(name, make_tcp() if name == "TcpSender" else make_udp(), shared)
            stack.callback(made.it.close)
            return made

        yield one


def here() -> str:
    thread = threading.current_thread()
    return f"thread {thread.name!r} (id {thread.ident})"


def elsewhere(call: Callable[[], object]) -> tuple[str, Exception]:
    """What a call raises in a thread "other", and that thread as a message would have it."""
    found: list[Any] = []

    def work() -> None:
        found.append(here())
        try:
            call()
        except Exception as error:
            found.append(error)

    in_thread(work, name="other")
    thread_there, error = found
    return thread_there, error


@pytest.mark.parametrize("name", HOLDERS)
def test_the_refusal_of_another_thread_names_both(make: Make, name: str) -> None:
    made = make(name)
    made.send()
    for call in (made.send, made.it.drain, made.it.close):
        there, error = elsewhere(call)
        assert isinstance(error, uringzc.WrongThreadError)
        assert str(error) == (
            f"this {name} belongs to {here()}, the one that {VERB[name]} first; {there} has to use one of "
            "its own. Nothing was changed"
        )


@pytest.mark.parametrize("name", HOLDERS)
def test_threads_are_enumerated_only_when_a_call_is_refused(
    make: Make, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes threading's own lock, which an interrupt can leave locked (CPython 3.14)."""

    def look() -> None:
        raise AssertionError("threads are looked for")

    made = make(name)
    with monkeypatch.context() as patch:
        patch.setattr(threading, "enumerate", look)
        made.send()
        _, error = elsewhere(made.send)
    assert "threads are looked for" in str(error)


@pytest.mark.parametrize("name", ["UdpSender", "TcpSender"])
def test_the_refusal_of_a_shared_scheduler_names_both_threads(make: Make, name: str) -> None:
    with uringzc.Scheduler() as shared:
        made = make(name, shared)
        made.send()
        there, error = elsewhere(made.send)
        assert isinstance(error, uringzc.WrongThreadError)
        assert str(error) == (
            f"this {name} shares a Scheduler that belongs to {here()}, the one that submitted first; {there} "
            "has to use one of its own. Nothing was changed"
        )
        made.it.close()


def test_the_refusal_names_a_thread_unknown_to_threading(make: Make) -> None:
    made = make("UdpSender")
    made.send()
    found: list[tuple[int, BaseException]] = []
    done = threading.Event()

    def work() -> None:
        try:
            made.send()
        except BaseException as error:
            found.append((_thread.get_ident(), error))
        done.set()

    _thread.start_new_thread(work, ())
    assert done.wait(20)
    ((ident, error),) = found
    assert isinstance(error, uringzc.WrongThreadError)
    assert f"; a thread (id {ident}) has to use one of its own" in str(error)


@pytest.mark.parametrize("name", HOLDERS)
def test_a_closed_object_names_itself(make: Make, name: str) -> None:
    made = make(name)
    made.send()
    made.it.close()
    with pytest.raises(uringzc.ClosedError) as caught:
        made.send()
    assert str(caught.value) == f"this {name} is closed: make a new one"


@pytest.mark.parametrize("name", ["UdpSender", "TcpSender"])
def test_a_closed_sender_of_an_open_scheduler_names_itself(make: Make, name: str) -> None:
    with uringzc.Scheduler() as shared:
        made = make(name, shared)
        made.send()
        made.it.close()
        with pytest.raises(uringzc.ClosedError, match=f"^this {name} is closed: make a new one$"):
            made.send()
        shared.submit()  # which is not closed


def test_a_sender_of_a_closed_scheduler_is_closed(make: Make) -> None:
    shared = uringzc.Scheduler()
    made = make("UdpSender", shared)
    shared.close()
    with pytest.raises(uringzc.ClosedError, match=r"^this UdpSender is closed"):
        made.send()
    with pytest.raises(uringzc.ClosedError, match=r"^this Scheduler is closed"):
        uringzc.UdpSender(sock=made.sock, scheduler=shared)


@contextmanager
def in_child(work: Callable[[], str]) -> Iterator[str]:
    """What `work` returns in the child of a fork."""
    reading, writing = os.pipe()
    child = fork()
    if not child:
        try:
            os.write(writing, work().encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    yield said


def refusal_of(call: Callable[[], object]) -> str:
    try:
        call()
    except uringzc.ClosedError as error:
        return str(error)
    return "it was not refused"


@pytest.mark.parametrize("name", HOLDERS)
def test_the_child_of_a_fork_is_refused(make: Make, name: str) -> None:
    made = make(name)
    made.send()
    with in_child(lambda: refusal_of(made.send)) as said:
        assert said == f"this {name} belongs to the parent of this process, which forked: make a new one here"
    made.send()  # the control: in the parent nothing has changed


def test_a_closed_scheduler_stays_closed_after_a_fork(make: Make) -> None:
    made = make("Scheduler")
    made.it.close()
    with in_child(lambda: refusal_of(made.send)) as said:
        assert said == "this Scheduler is closed: make a new one"


INSIDE = (
    "this {} is inside another call: what a signal handler or a finalizer{} calls meanwhile is refused. "
    "Nothing was changed; make the call when the other has returned"
)
CALLBACK = ", or a callback (on_error, notify),"


def test_a_callback_is_refused_inside_a_call(udp_pair: Pair) -> None:
    said: list[str] = []

    def notify(_: uringzc.Notification) -> None:
        with pytest.raises(uringzc.BusyError) as caught:
            tx.send(b"from the callback")
        said.append(str(caught.value))

    with uringzc.UdpSender(sock=udp_pair.tx, zero_copy="always", notify=notify) as tx:
        tx.send_many([b"x" * 1200] * 2)
        tx.drain()
    assert {*said} == {INSIDE.format("UdpSender", CALLBACK)}


def test_a_signal_handler_is_refused_inside_a_call_of_the_scheduler(make: Make) -> None:
    said: list[str] = []

    def inside() -> None:  # as a signal handler meets it
        for call in (made.send, shared.submit):
            with pytest.raises(uringzc.BusyError) as caught:
                call()
            said.append(str(caught.value))

    with uringzc.Scheduler() as shared:
        made = make("UdpSender", shared)
        shared._engine.queue.exclusive(inside)
        made.it.close()
    assert said == [
        INSIDE.format("UdpSender or the Scheduler that it shares", CALLBACK),
        INSIDE.format("Scheduler", ""),
    ]


@zero_copy_engines
@pytest.mark.parametrize("name", ["Scheduler", "UdpSender"])
@pytest.mark.parks
def test_the_warning_about_parking_names_the_object(name: str, box: testing.Hold) -> None:
    with box.socket() as sock, box.receiver_socket(), stopped(box):
        sock.connect(box.address)
        held: Any
        if name == "Scheduler":
            held = uringzc.Scheduler()
            held.send(sock, b"held", flush=True)
            held.submit()
        else:
            held = uringzc.UdpSender(sock=sock, zero_copy="always", max_delay=None)
            held.send_many([bytes(1200)] * 2)
            held.flush()
        with pytest.warns(
            ResourceWarning, match=rf"^a {name} was closed and is parked: \d+ request"
        ) as caught:
            held.close(0.01)
        assert "engine" not in str(caught[0].message)


CODES = {name: code for name, code in vars(errors).items() if name.startswith("E_")}


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
@pytest.mark.parametrize("name", HOLDERS)
def test_no_refusal_mentions_an_engine(make: Make, name: str, code: int) -> None:
    refuse = make(name).it._engine.refuse
    with pytest.raises((uringzc.UringzcError, BlockingIOError)) as caught:
        refuse(code)
    assert "engine" not in str(caught.value)
    assert name in str(caught.value) or isinstance(caught.value, BlockingIOError)
