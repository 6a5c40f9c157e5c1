"""Callbacks and log handlers run at the end of a sender's call, without its lock."""

from collections.abc import Callable

import pytest
from conftest import Pair
from processes import run_program
from traffic import send_until_one_waits

import uringzc
from uringzc import BusyError, SendError, UdpSender, testing

#: without SO_BROADCAST: EACCES, whatever is sent there
FORBIDDEN = ("255.255.255.255", 9)


def test_what_a_callback_that_raised_left_is_reported_by_the_next_call() -> None:
    """It needs no new failure for that."""
    reported: list[int] = []

    def callback(error: SendError) -> None:
        reported.append(error.index)
        if len(reported) == 1:
            raise ZeroDivisionError

    with UdpSender(max_delay=None, on_error=callback) as tx:
        for _ in range(3):
            tx.send(b"x", FORBIDDEN)
        with pytest.raises(ZeroDivisionError):
            tx.flush()
        assert reported == [0]
        tx.flush()
        assert reported == [0, 1, 2]


def test_the_timer_sends_while_a_callback_runs() -> None:
    """A batch that is full fails; what is not in it waits no longer while a callback runs."""
    with testing.receiver() as rx:
        came: list[list[bytes]] = []

        def slow(_: SendError) -> None:
            came.append(rx.wait(sent))

        with UdpSender(rx.address, max_delay=0.1, on_error=slow) as tx:
            sent = send_until_one_waits(tx)
            for size in range(1, 60):  # a longer one begins a train of its own
                tx.send(bytes(size), FORBIDDEN)
            assert came


def test_what_a_callback_calls_is_refused(udp_pair: Pair) -> None:
    """On the sender, by any way; and its engine cannot be closed."""
    refused: list[type[Exception]] = []

    def inside(_: SendError) -> None:
        calls: list[Callable[[], object]] = [
            lambda: tx.send(b"again"),  # it would join what was taken last, on the fast path
            lambda: tx.send_many([b"x"]),
            lambda: tx.lease(10),
            tx.flush,
            tx.close,
            s.close,
        ]
        for call in calls:
            with pytest.raises(BusyError) as caught:
                call()
            refused.append(caught.type)

    with (
        uringzc.Scheduler() as s,
        UdpSender(udp_pair.rx.getsockname(), scheduler=s, max_delay=None, on_error=inside) as tx,
    ):
        tx.send(b"taken")
        for size in range(1, 60):  # a batch, and more
            tx.send(bytes(size), FORBIDDEN)
        assert refused
        assert refused == [BusyError] * len(refused)
        tx.send(b"after")
        tx.flush()
        assert len(refused) == 6 * 59
    assert udp_pair.receive(2) == [b"taken", b"after"]


#: a socket that cannot send trains: the slow path says so in the log, once
LOGGING = """
import faulthandler, logging, socket, sys
import uringzc
from traffic import wait_until
faulthandler.dump_traceback_later(20, exit=True)
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, 11, 1)  # SO_NO_CHECK
sock.connect(("127.0.0.1", int(sys.argv[1])))
tx = uringzc.UdpSender(sock=sock)
log = logging.getLogger("uringzc")
log.setLevel(logging.INFO)
"""


@pytest.mark.slow
def test_a_handler_that_sends_log_lines_through_the_sender() -> None:
    """It waits for the sender inside its own lock: nobody may wait for that with the sender locked."""
    program = """
class Ship(logging.Handler):
    def emit(self, record):
        if record.getMessage() == "begin":
            for _ in range(60):
                tx.send(bytes(100))
            wait_until(lambda: seen or not tx.stats.waiting)  # the timer came
        tx.send(record.getMessage().encode())

seen = []
log.addFilter(lambda record: seen.append(record) or True)
ship = Ship()
for name in "uringzc", "other":
    logging.getLogger(name).addHandler(ship)
logging.getLogger("other").warning("begin")
tx.close()
"""
    with testing.receiver() as rx:
        run_program(LOGGING + program, rx.address[1])
        came = rx.wait(62)
        assert came[:61] == [bytes(100)] * 60 + [b"begin"]
        assert b"no trains there" in came[61]


NAMES = """
import threading
names = []
class Note(logging.Handler):
    def emit(self, record):
        names.append(threading.current_thread().name)
log.addHandler(Note())
while not tx.stats.unsegmented:  # a slow machine may take a pause for the end of a train
    for _ in range(60):
        tx.send(bytes(100))
    wait_until(lambda: not tx.stats.waiting)
print("then", *names)
tx.send(b"x")
tx.flush()
print("now", *names)
tx.close()
"""


def test_no_handler_runs_in_the_timers_thread() -> None:
    """One that blocks would keep every sender of the process waiting."""
    with testing.receiver() as rx:
        out, _ = run_program(LOGGING + NAMES, rx.address[1])
        assert out.splitlines() == ["then", "now MainThread"]


@pytest.mark.slow
def test_control_a_line_that_is_written_at_once() -> None:
    program = """
class AtOnce(list):
    def append(self, line):
        log.log(*line)
tx._slow_path._log = AtOnce()
"""
    with testing.receiver() as rx:
        out, _ = run_program(LOGGING + program + NAMES, rx.address[1])
        assert out.splitlines() == ["then uringzc timer", "now uringzc timer"]
