"""The program that the seed decides: users of every engine in turn, and what happens to their process.

Half of the users last as long as the program, with what they have opened at its beginning; the others end and
begin anew, and have all ended when something is measured.
"""

import gc
import os
import random
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import uringzc
from uringzc import testing
from uringzc.engines import lifetime

from .engines import RingUser, SchedulerUser
from .faults import Faults
from .ledger import Ledger, Receivers
from .loops import LoopUser
from .senders import SinkUser, UdpUser
from .streams import TcpUser
from .users import User, World, frames

RECEIVERS = 5
#: engines, and what they need
ENGINES = {
    "io_uring": "send_zc",
    "msg_zerocopy": "msg_zerocopy",
    "copy": "net_admin",
    "packet": "net_raw",
    "af_xdp": "af_xdp",
}
RENEWED, FORKED, THREADED, WITHOUT_NETWORK = 0.15, 0.02, 0.02, 0.005  # how often, for each step


def engines_here() -> dict[str, str | None]:
    """The engines, each with why it cannot be used here."""
    return {name: testing.missing(what) for name, what in ENGINES.items()}


class Program:
    """Made by `program`. `step` goes on; `settle` comes to a state in which it can be measured."""

    def __init__(self, world: World, engines: list[str]) -> None:
        self.world, self.engines = world, engines
        #: those of which a device has room for several; it has one queue for AF_XDP sockets
        self.several = [engine for engine in engines if engine != "af_xdp"]
        self.lasting = self._users(self.several, lasting=True)
        self.passing = self._users(engines)
        self._turn: list[tuple[list[User], User]] = []

    def _users(self, engines: list[str], lasting: bool = False) -> list[User]:
        kinds: list[tuple[type[User], str]] = [(LoopUser, "auto")]
        for engine in engines:
            kinds.append((SinkUser, engine))
            if engine in self.several:
                kinds += [(SchedulerUser, engine), (UdpUser, engine)]
            else:
                kinds.append((self.world.chance.choice((SchedulerUser, UdpUser)), engine))
            if not frames(engine):
                kinds.append((TcpUser, engine))
        if "io_uring" in engines:
            kinds.append((RingUser, "io_uring"))
        return [kind(self.world, engine, lasting) for kind, engine in kinds]

    def step(self) -> None:
        """The next user's turn; each has one before the first has the second."""
        chance = self.world.chance
        if not self._turn:
            self._turn = [(users, user) for users in (self.lasting, self.passing) for user in users]
            chance.shuffle(self._turn)
        users, user = self._turn.pop()
        if users is self.passing and chance.random() < RENEWED:
            user.renew()
        user.step()
        for share, event in (
            (FORKED, self._fork),
            (THREADED, self._thread_that_ends),
            (WITHOUT_NETWORK, self._network_that_goes),
        ):
            if chance.random() < share:
                self.world.event(event.__name__.strip("_"))
                event()

    @contextmanager
    def settled(self) -> Iterator[None]:
        """No fault, nothing on its way, only the lasting users: what the process has can be measured."""
        with self.world.faults.paused():
            for user in self.passing:
                user.end()
            self._turn, self.passing, user = [], [], self.lasting[0]
            while self.world.receivers.take():
                time.sleep(0.01)
            self.world.ledger.forget_excused()
            lifetime.release_parked()
            gc.collect()
            yield
        self.passing = self._users(self.engines)

    def close(self) -> None:
        """All users."""
        for user in (*self.lasting, *self.passing):
            user.end()

    # -- what happens to the process

    def _fork(self) -> None:
        """The child cannot use what it inherits, and ends."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # there is another thread
            pid = os.fork()
        if not pid:
            code = 1
            try:
                code = sum(self._usable(user) for user in self.lasting)
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        if status:
            self.world.ledger.fail("fork", f"the child ended with {status:#x}")

    def _usable(self, user: User) -> bool:
        """Whether a forked child can send."""
        if not isinstance(user, SchedulerUser):
            return False
        try:
            user.s.send(user.sockets[0], b"from a child", to=("10.0.0.2", 9000))
        except uringzc.ClosedError:
            return False
        return True

    def _thread_that_ends(self) -> None:
        """It leaves a Scheduler and a sender open."""
        if not self.several:
            return
        engine = self.world.chance.choice(self.several)

        def target() -> None:
            for kind in (SchedulerUser, UdpUser):
                user = kind(self.world, engine)
                user.step()
                self.world.ledger.close(user.stream)

        thread = threading.Thread(target=target, name="ends")
        thread.start()
        thread.join()

    def _network_that_goes(self) -> None:
        """A sender outlives the network namespace that it was made in."""
        engine = self.world.chance.choice(self.engines)
        with testing.sink() as box:
            tx = box.run(lambda: uringzc.UdpSender(("10.0.0.2", 9), engine=engine))
            tx.send_many([bytes(1000)] * 500)
        for _ in range(100):
            tx.send(bytes(1000))
        tx.close()
        self.world.operations += 600


def forget_fragments() -> None:
    """In a second, not in 30: as long as the others are waited for, the kernel holds a datagram's memory."""
    Path("/proc/sys/net/ipv4/ipfrag_time").write_text("1")


@contextmanager
def program(seed: object, engines: list[str], faulty: bool = True) -> Iterator[Program]:
    """A Program in sandboxes of its own. `faulty`: whether anything happens to its network."""
    with ExitStack() as stack:
        sink = stack.enter_context(testing.sink())
        net = stack.enter_context(testing.hold())
        net.release()
        net.peer.run(forget_fragments)
        ledger = Ledger()
        sockets = [net.receiver_socket(port=9000 + i) for i in range(RECEIVERS)]
        receivers = Receivers(ledger, sockets)
        stack.callback(receivers.close)
        faults = Faults(net, receivers, seed)
        world = World(net, sink, ledger, receivers, faults, random.Random(f"{seed}"))
        before = signal.signal(signal.SIGUSR1, lambda *_: None)
        stack.callback(signal.signal, signal.SIGUSR1, before)
        made = Program(world, engines)
        stack.callback(made.close)
        if faulty:
            faults.start()
            stack.callback(faults.stop)
        yield made
